//! Uniform polynomials from public seeds: a wire format.
//!
//! Limb by limb: the keystream is that of ChaCha with 8 rounds in the layout of RFC 8439 (96-bit nonce, 32-bit block
//! counter from 0), keyed by the seed. The nonce is, little-endian, u32 `0x5452_0000 | kind << 15 | prime index`
//! (kind 0 for q, 1 for p), then u64 `counter`. The keystream is read as little-endian u64 words; with x the low
//! 52 bits of a word, the residue is floor(x*q / 2^52), and the word is skipped when x*q mod 2^52 < 2^52 mod q,
//! which makes the residues exactly uniform. The residues are the NTT values in bit-reversed order.
//!
//! A limb depends only on seed, counter and its own prime's index and value: a smaller basis gives the same limbs.

use crate::{Basis, Ntt, Poly, Ring};

/// A public 32-byte seed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Seed(pub [u8; 32]);

const DOMAIN: u32 = 0x5452_0000;
/// Keystream words per step: half of a first-level cache.
const STEP: usize = 2 << 10;

/// The uniform polynomial of (seed, counter) in a basis; see the module's format.
///
/// # Panics
/// When the basis exceeds the ring.
pub fn expand_uniform(ring: &Ring, seed: &Seed, counter: u64, basis: Basis) -> Poly<Ntt> {
    let mut poly = ring.stale(basis);
    ring.each_limb(&mut poly, |limb, _, out| expand_limb(ring, seed, counter, (basis, limb), out));
    poly
}

/// One limb of [`expand_uniform`].
pub(crate) fn expand_limb(ring: &Ring, seed: &Seed, counter: u64, (basis, limb): (Basis, usize), out: &mut [u64]) {
    let special = limb >= basis.q;
    let index = if special { limb - basis.q } else { limb };
    let tag = DOMAIN | (special as u32) << 15 | index as u32;
    let mut nonce = [0u8; 12];
    nonce[..4].copy_from_slice(&tag.to_le_bytes());
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    let modulus = ring.modulus(basis, limb);
    let mut words = [0u64; STEP];
    let (mut filled, mut block) = (0, 0);
    while filled < out.len() {
        // What is missing, with a little more for words that are skipped.
        let take = (out.len() - filled + 64).next_multiple_of(8).min(STEP);
        ring.backend().chacha8(&seed.0, &nonce, block, &mut words[..take]);
        block += (take / 8) as u32;
        filled += ring.backend().sample_uniform(modulus, &mut out[filled..], &words[..take]).1;
    }
}
