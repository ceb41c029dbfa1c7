//! Residues in as many bits as their prime has: how evaluation keys wait in memory and how everything travels.
//!
//! Little-endian: residue i of a limb takes bits i*w to (i+1)*w - 1, where w is the bit length of the prime and bit b of
//! the limb is bit b mod 8 of byte b/8. N is a multiple of eight, so every limb is a whole number of bytes, N/8 * w.
//! Nothing here erases what it held: packing is for keys and ciphertexts, not for secrets.

use rayon::prelude::*;

use crate::cpu::Buffer;
use crate::{Basis, Modulus, Ntt, Poly, Ring};

/// A view of packed residues.
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    bytes: &'a [u8],
    bits: u32,
}

impl<'a> Packed<'a> {
    /// Residues of `bits` bits.
    ///
    /// # Panics
    /// When `bits` is not 1 to 50, the size of a residue, or 64, that of a word.
    pub fn new(bytes: &'a [u8], bits: u32) -> Self {
        assert!((1..=50).contains(&bits) || bits == 64, "residues of {bits} bits");
        Self { bytes, bits }
    }

    /// Plain words, which are residues of 64 bits.
    pub fn plain(words: &'a [u64]) -> Self {
        Self::new(bytemuck::cast_slice(words), 64)
    }

    /// The packed bytes.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// Bits of one residue.
    pub fn bits(self) -> u32 {
        self.bits
    }

    /// How many whole residues there are.
    pub fn len(self) -> usize {
        8 * self.bytes.len() / self.bits as usize
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The `len` residues from number `start` on.
    ///
    /// # Panics
    /// When they are not all there, or `start` or `len` is no multiple of eight.
    pub fn part(self, start: usize, len: usize) -> Self {
        assert!(start.is_multiple_of(8) && len.is_multiple_of(8), "{len} residues from {start} are no whole bytes");
        let bytes = |residues: usize| residues / 8 * self.bits as usize;
        Self::new(&self.bytes[bytes(start)..][..bytes(len)], self.bits)
    }

    /// Residue `i`.
    ///
    /// # Panics
    /// When there is no such residue.
    pub fn get(self, i: usize) -> u64 {
        assert!(i < self.len(), "residue {i} of {}", self.len());
        let bit = i * self.bits as usize;
        let from = &self.bytes[bit / 8..];
        let mut word = [0; 8];
        let take = from.len().min(8);
        word[..take].copy_from_slice(&from[..take]);
        u64::from_le_bytes(word) >> (bit % 8) & u64::MAX >> (64 - self.bits)
    }
}

#[cfg(target_endian = "big")]
compile_error!("packed residues are read as little-endian words");

/// A polynomial of NTT values, packed.
#[derive(Clone)]
pub struct PackedPoly {
    degree: usize,
    basis: Basis,
    /// Bits of the residues of each limb.
    bits: Vec<u32>,
    /// Limb after limb; whole words.
    words: Buffer,
    len: usize,
}

impl PackedPoly {
    /// Which limbs are present.
    pub fn basis(&self) -> Basis {
        self.basis
    }

    /// The ring degree N.
    pub fn degree(&self) -> usize {
        self.degree
    }

    /// All limbs, one after the other.
    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }

    /// The same in memory of its own and of no more than its size: a polynomial that was packed briefly and stays after all
    /// would keep a buffer of up to twice its size from the ring.
    pub fn settled(self) -> Self {
        if !self.words.pooled() {
            return self;
        }
        let mut words = Buffer::zeroed(self.words.len());
        words.copy_from_slice(&self.words);
        Self { words, ..self }
    }

    /// The residues of limb `i`.
    ///
    /// # Panics
    /// When there is no such limb.
    pub fn limb(&self, i: usize) -> Packed<'_> {
        let bytes = |bits: &u32| self.degree / 8 * *bits as usize;
        let start = self.bits[..i].iter().map(bytes).sum::<usize>();
        Packed::new(&self.bytes()[start..start + bytes(&self.bits[i])], self.bits[i])
    }
}

pub(crate) fn residue_bits(modulus: Modulus) -> u32 {
    u64::BITS - modulus.value().leading_zeros()
}

impl Ring {
    /// Bytes of a packed polynomial in `basis`.
    ///
    /// # Panics
    /// When the basis exceeds the ring.
    pub fn packed_bytes(&self, basis: Basis) -> usize {
        self.packed_bits(basis).iter().map(|&bits| self.degree() / 8 * bits as usize).sum()
    }

    fn packed_bits(&self, basis: Basis) -> Vec<u32> {
        (0..basis.limb_count()).map(|limb| residue_bits(self.modulus(basis, limb))).collect()
    }

    /// Packs a polynomial that stays, into memory of its own.
    ///
    /// # Panics
    /// When it is of another degree than the ring.
    pub fn pack(&self, poly: &Poly<Ntt>) -> PackedPoly {
        self.packed_into(poly, Buffer::zeroed(self.packed_bytes(poly.basis()).div_ceil(8)))
    }

    /// Packs a polynomial that is soon forgotten, into memory that the ring hands out again.
    ///
    /// # Panics
    /// When it is of another degree than the ring.
    pub fn pack_briefly(&self, poly: &Poly<Ntt>) -> PackedPoly {
        self.packed_into(poly, self.scratch(self.packed_bytes(poly.basis()).div_ceil(8)))
    }

    fn packed_into(&self, poly: &Poly<Ntt>, words: Buffer) -> PackedPoly {
        let mut packed = self.packed(poly.basis(), words);
        self.pack_to(poly, &mut bytemuck::cast_slice_mut(&mut packed.words)[..packed.len]);
        packed
    }

    /// Packs a polynomial into [`Ring::packed_bytes`] bytes.
    ///
    /// # Panics
    /// When it is of another degree than the ring, or `out` of another length.
    pub fn pack_to(&self, poly: &Poly<Ntt>, mut out: &mut [u8]) {
        self.check_degree(poly);
        assert!(out.len() == self.packed_bytes(poly.basis()), "{} bytes to pack into", out.len());
        let mut jobs = Vec::with_capacity(poly.basis().limb_count());
        for (limb, bits) in self.packed_bits(poly.basis()).into_iter().enumerate() {
            let (head, tail) = out.split_at_mut(self.degree() / 8 * bits as usize);
            jobs.push((poly.limb(limb), bits, head));
            out = tail;
        }
        jobs.into_par_iter().for_each(|(residues, bits, out)| pack_limb(residues, bits, out));
    }

    /// Takes over packed bytes; `None` when they are not [`Ring::packed_bytes`] many or a residue is not below its
    /// prime.
    ///
    /// # Panics
    /// When the basis exceeds the ring.
    pub fn packed_from_bytes(&self, basis: Basis, bytes: &[u8]) -> Option<PackedPoly> {
        if bytes.len() != self.packed_bytes(basis) {
            return None;
        }
        let mut packed = self.packed(basis, Buffer::zeroed(bytes.len().div_ceil(8)));
        bytemuck::cast_slice_mut(&mut packed.words)[..bytes.len()].copy_from_slice(bytes);
        let in_range = |limb: usize| {
            let mut room = self.scratch(self.degree());
            self.backend().unpack(&mut room, packed.limb(limb));
            below(&room, self.modulus(basis, limb))
        };
        (0..basis.limb_count()).into_par_iter().all(in_range).then_some(packed)
    }

    /// The polynomial of packed bytes; `None` as for [`Ring::packed_from_bytes`].
    ///
    /// # Panics
    /// When the basis exceeds the ring.
    pub fn poly_from_bytes(&self, basis: Basis, mut bytes: &[u8]) -> Option<Poly<Ntt>> {
        if bytes.len() != self.packed_bytes(basis) {
            return None;
        }
        let mut views = Vec::with_capacity(basis.limb_count());
        for bits in self.packed_bits(basis) {
            let (head, tail) = bytes.split_at(self.degree() / 8 * bits as usize);
            views.push(Packed::new(head, bits));
            bytes = tail;
        }
        let mut poly = self.stale::<Ntt>(basis);
        let limbs = poly.data_mut().par_chunks_exact_mut(self.degree()).zip(views).enumerate();
        let in_range = limbs.map(|(limb, (out, view))| {
            self.backend().unpack(out, view);
            below(out, self.modulus(basis, limb))
        });
        in_range.reduce(|| true, |a, b| a & b).then_some(poly)
    }

    /// The polynomial itself.
    ///
    /// # Panics
    /// When it is of another degree than the ring.
    pub fn unpack(&self, packed: &PackedPoly) -> Poly<Ntt> {
        let mut poly = self.stale(packed.basis);
        self.each_limb(&mut poly, |limb, _, out| self.backend().unpack(out, packed.limb(limb)));
        poly
    }

    fn packed(&self, basis: Basis, words: Buffer) -> PackedPoly {
        let len = self.packed_bytes(basis);
        PackedPoly { degree: self.degree(), basis, bits: self.packed_bits(basis), words, len }
    }
}

/// Whether all residues are below the prime.
fn below(residues: &[u64], modulus: Modulus) -> bool {
    residues.iter().fold(true, |all, &x| all & (x < modulus.value()))
}

/// Writes residues of `bits` bits to as many bytes as they fill.
pub(crate) fn pack_limb(residues: &[u64], bits: u32, out: &mut [u8]) {
    let (mut pending, mut filled, mut at) = (0u128, 0, 0);
    for &residue in residues {
        pending |= u128::from(residue) << filled;
        filled += bits;
        if filled >= 64 {
            out[at..at + 8].copy_from_slice(&(pending as u64).to_le_bytes());
            (pending, filled, at) = (pending >> 64, filled - 64, at + 8);
        }
    }
    let rest = out.len() - at;
    out[at..].copy_from_slice(&pending.to_le_bytes()[..rest]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Seed, expand_uniform, ntt_primes_near, scalar_backend};

    #[test]
    fn a_settled_polynomial_is_the_same_and_gives_its_buffer_back() {
        let primes = ntt_primes_near(6, 1 << 45, 3, &[]).unwrap();
        let ring = Ring::new(6, &primes, &[], scalar_backend()).unwrap();
        let poly = expand_uniform(&ring, &Seed([3; 32]), 0, Basis { q: 3, p: 0 });
        let brief = ring.pack_briefly(&poly);
        let (bytes, free) = (brief.bytes().to_vec(), ring.released_words().len());
        let settled = brief.settled();
        assert!(settled.bytes() == bytes && !settled.words.pooled());
        assert_eq!(settled.words.len(), bytes.len().div_ceil(8));
        assert!(ring.released_words().len() > free);
        let (stays, free) = (ring.pack(&poly), ring.released_words().len());
        assert!(stays.settled().bytes() == bytes && ring.released_words().len() == free);
    }
}
