//! Polynomials of ciphertexts as packed bytes.

use crate::Error;
use undertone_ring::{Basis, Ntt, Poly, Ring};

/// Appends a polynomial.
pub(super) fn write_poly(ring: &Ring, poly: &Poly<Ntt>, out: &mut Vec<u8>) {
    out.extend_from_slice(ring.pack(poly).bytes());
}

/// Reads a polynomial.
pub(super) fn read_poly(ring: &Ring, basis: Basis, bytes: &[u8], what: &'static str) -> Result<Poly<Ntt>, Error> {
    if bytes.len() != ring.packed_bytes(basis) {
        return Err(Error::Decode { what, cause: "its length does not fit its level" });
    }
    let packed = ring.packed_from_bytes(basis, bytes);
    let packed = packed.ok_or(Error::Decode { what, cause: "a residue is not below its modulus" })?;
    Ok(ring.unpack(&packed))
}
