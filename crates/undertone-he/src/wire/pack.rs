//! Bit-packed residues.

use crate::Error;
use rayon::prelude::*;
use undertone_ring::{Basis, Modulus, Ntt, Poly, Ring};

/// Bits that one residue of this modulus takes.
fn residue_bits(modulus: Modulus) -> usize {
    (64 - modulus.value().leading_zeros()) as usize
}

/// Bytes of one limb; exact because N is a multiple of eight.
fn limb_bytes(ring: &Ring, modulus: Modulus) -> usize {
    ring.degree() / 8 * residue_bits(modulus)
}

/// Bytes of a polynomial in `basis`.
pub(super) fn poly_bytes(ring: &Ring, basis: Basis) -> usize {
    (0..basis.q + basis.p).map(|limb| limb_bytes(ring, ring.modulus(basis, limb))).sum()
}

/// Appends a polynomial.
pub(super) fn write_poly(ring: &Ring, poly: &Poly<Ntt>, out: &mut Vec<u8>) {
    let basis = poly.basis();
    let limbs: Vec<Vec<u8>> = (0..basis.q + basis.p)
        .into_par_iter()
        .map(|limb| pack_limb(poly.limb(limb), residue_bits(ring.modulus(basis, limb))))
        .collect();
    limbs.iter().for_each(|limb| out.extend_from_slice(limb));
}

fn pack_limb(residues: &[u64], bits: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(residues.len() / 8 * bits);
    let (mut pending, mut filled) = (0u128, 0);
    for &residue in residues {
        pending |= u128::from(residue) << filled;
        filled += bits;
        if filled >= 64 {
            out.extend_from_slice(&(pending as u64).to_le_bytes());
            pending >>= 64;
            filled -= 64;
        }
    }
    out.extend_from_slice(&pending.to_le_bytes()[..filled / 8]);
    out
}

/// Reads a polynomial whose byte count the caller has checked against [`poly_bytes`].
pub(super) fn read_poly(ring: &Ring, basis: Basis, bytes: &[u8], what: &'static str) -> Result<Poly<Ntt>, Error> {
    if bytes.len() != poly_bytes(ring, basis) {
        return Err(Error::Decode { what, cause: "its length does not fit its level" });
    }
    let mut poly = ring.zero::<Ntt>(basis);
    let mut jobs = Vec::with_capacity(basis.q + basis.p);
    let mut rest = bytes;
    for (limb, out) in poly.data_mut().chunks_exact_mut(ring.degree()).enumerate() {
        let modulus = ring.modulus(basis, limb);
        let (head, tail) = rest.split_at(limb_bytes(ring, modulus));
        rest = tail;
        jobs.push((head, modulus, out));
    }
    let in_range = jobs.into_par_iter().map(|(bytes, modulus, out)| unpack_limb(bytes, modulus, out));
    if in_range.reduce(|| true, |a, b| a & b) {
        Ok(poly)
    } else {
        Err(Error::Decode { what, cause: "a residue is not below its modulus" })
    }
}

/// Fills `out`; false when a residue is out of range.
fn unpack_limb(bytes: &[u8], modulus: Modulus, out: &mut [u64]) -> bool {
    let bits = residue_bits(modulus);
    let mask = (1u64 << bits) - 1;
    let (mut pending, mut filled, mut position) = (0u128, 0usize, 0usize);
    let mut valid = true;
    for residue in out {
        if filled < bits {
            let take = (bytes.len() - position).min(8);
            let mut word = [0u8; 8];
            word[..take].copy_from_slice(&bytes[position..position + take]);
            pending |= u128::from(u64::from_le_bytes(word)) << filled;
            filled += 8 * take;
            position += take;
        }
        *residue = pending as u64 & mask;
        valid &= *residue < modulus.value();
        pending >>= bits;
        filled -= bits;
    }
    valid
}
