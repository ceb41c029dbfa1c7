//! Polynomials of ciphertexts as packed bytes.

use crate::Error;
use undertone_ring::{Basis, Ntt, Poly, Ring};

/// Appends a polynomial.
pub(super) fn write_poly(ring: &Ring, poly: &Poly<Ntt>, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + ring.packed_bytes(poly.basis()), 0);
    ring.pack_to(poly, &mut out[start..]);
}

/// Reads a polynomial.
pub(super) fn read_poly(ring: &Ring, basis: Basis, bytes: &[u8], what: &'static str) -> Result<Poly<Ntt>, Error> {
    if bytes.len() != ring.packed_bytes(basis) {
        return Err(Error::Decode { what, cause: "its length does not fit its level" });
    }
    ring.poly_from_bytes(basis, bytes).ok_or(Error::Decode { what, cause: "a residue is not below its modulus" })
}
