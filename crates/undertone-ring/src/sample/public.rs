//! Uniform polynomials from public seeds: a wire format.
//!
//! Limb by limb: the keystream is that of ChaCha with 8 rounds in the layout of RFC 8439 (96-bit nonce, 32-bit block
//! counter from 0), keyed by the seed. The nonce is, little-endian, u32 `0x5452_0000 | kind << 15 | prime index`
//! (kind 0 for q, 1 for p), then u64 `counter`. The keystream is read as little-endian u64 words; with x the low
//! 52 bits of a word, the residue is floor(x*q / 2^52), and the word is skipped when x*q mod 2^52 < 2^52 mod q,
//! which makes the residues exactly uniform. The residues are the NTT values in bit-reversed order.
//!
//! A limb depends only on seed, counter and its own prime's index and value: a smaller basis gives the same limbs.

use crate::{Basis, Modulus, Ntt, Poly, Ring};

/// A public 32-byte seed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Seed(pub [u8; 32]);

const DOMAIN: u32 = 0x5452_0000;

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
pub(crate) fn expand_limb(ring: &Ring, seed: &Seed, counter: u64, at: (Basis, usize), out: &mut [u64]) {
    let mut stream = UniformStream::new(ring, seed, counter, at);
    let mut filled = 0;
    while filled < out.len() {
        filled += stream.read(ring, &mut out[filled..]);
    }
}

/// The residues of one limb of [`expand_uniform`], in order, a step at a time.
pub(crate) struct UniformStream {
    key: [u8; 32],
    nonce: [u8; 12],
    modulus: Modulus,
    block: u32,
}

impl UniformStream {
    /// Most residues of one step.
    pub(crate) const STEP: usize = 2 << 10;
    /// Keystream words beyond the residues that are missing, for words that are skipped.
    const SPARE: usize = 64;

    /// The limb's start.
    pub(crate) fn new(ring: &Ring, seed: &Seed, counter: u64, (basis, limb): (Basis, usize)) -> Self {
        let special = limb >= basis.q;
        let index = if special { limb - basis.q } else { limb };
        let tag = DOMAIN | (special as u32) << 15 | index as u32;
        let mut nonce = [0u8; 12];
        nonce[..4].copy_from_slice(&tag.to_le_bytes());
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        Self { key: seed.0, nonce, modulus: ring.modulus(basis, limb), block: 0 }
    }

    /// Writes the next residues, at most [`Self::STEP`], and says how many. Whoever wants more after these leaves room
    /// for a whole step: words beyond the room are lost.
    pub(crate) fn read(&mut self, ring: &Ring, out: &mut [u64]) -> usize {
        let mut words = [0u64; Self::STEP];
        let take = (out.len() + Self::SPARE).next_multiple_of(8).min(Self::STEP);
        ring.backend().chacha8(&self.key, &self.nonce, self.block, &mut words[..take]);
        self.block += (take / 8) as u32;
        ring.backend().sample_uniform(self.modulus, out, &words[..take]).1
    }
}
