//! Reading packed residues with AVX2: eight of them are as many bytes as one has bits; each pair lies within 16 bytes.

use std::arch::x86_64::*;

use super::avx2_lane::{V, load, store};
use crate::Packed;

/// Bytes that a step's loads may touch: those of eight words, of which the last pair fills the last sixteen.
const ROOM: usize = 64;

/// How the eight residues of one step are taken out of their bytes: as two vectors of two pairs each.
#[derive(Clone, Copy)]
pub(super) struct Unpacker {
    /// The first byte of each pair.
    pairs: [usize; 4],
    /// For each byte of each lane, the byte of its pair that it is taken from.
    order: [V; 2],
    /// Bits of each lane's first byte that belong to the residue before.
    shift: [V; 2],
    mask: V,
    bits: usize,
}

impl Unpacker {
    /// For residues of `bits` bits, at most 50, or words.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn new(bits: u32) -> Self {
        let bits = bits as usize;
        let pairs: [usize; 4] = std::array::from_fn(|pair| 2 * pair * bits / 8);
        let (mut order, mut shift) = ([[0u64; 4]; 2], [[0u64; 4]; 2]);
        for lane in 0..8 {
            let from = lane * bits / 8 - pairs[lane / 2];
            order[lane / 4][lane % 4] = u64::from_le_bytes(std::array::from_fn(|byte| (from + byte) as u8));
            shift[lane / 4][lane % 4] = (lane * bits % 8) as u64;
        }
        // SAFETY: all arrays hold four words.
        let vectors = |words: [[u64; 4]; 2]| words.map(|words| unsafe { load(words.as_ptr()) });
        let mask = _mm256_set1_epi64x((u64::MAX >> (64 - bits)) as i64);
        Self { pairs, order: vectors(order), shift: vectors(shift), mask, bits }
    }

    /// Eight residues from the one with number `k`, a multiple of eight.
    ///
    /// # Safety
    /// The view has the unpacker's number of bits, and holds the residues.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn load(self, from: Packed<'_>, k: usize) -> [V; 2] {
        let start = k / 8 * self.bits;
        let bytes = from.bytes();
        // SAFETY: the last pair's load ends before ROOM bytes from the start of its step.
        unsafe {
            if start + ROOM <= bytes.len() {
                return self.take(bytes.as_ptr().add(start));
            }
            let mut room = [0u8; ROOM];
            std::ptr::copy_nonoverlapping(bytes.as_ptr().add(start), room.as_mut_ptr(), self.bits);
            self.take(room.as_ptr())
        }
    }

    /// # Safety
    /// `step` is valid for reading ROOM bytes.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn take(self, step: *const u8) -> [V; 2] {
        [0, 1].map(|half| {
            // SAFETY: by the contract of this function; a pair starts at most 48 bytes after its step.
            let pair = |i: usize| unsafe { _mm_loadu_si128(step.add(self.pairs[2 * half + i]).cast()) };
            let raw = _mm256_set_m128i(pair(1), pair(0));
            let lanes = _mm256_srlv_epi64(_mm256_shuffle_epi8(raw, self.order[half]), self.shift[half]);
            _mm256_and_si256(lanes, self.mask)
        })
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn unpack(out: &mut [u64], packed: Packed<'_>) {
    assert!(out.len().is_multiple_of(8) && packed.len() == out.len());
    let unpacker = Unpacker::new(packed.bits());
    for (step, out) in out.chunks_exact_mut(8).enumerate() {
        // SAFETY: the view holds as many residues as `out`.
        unsafe {
            let [low, high] = unpacker.load(packed, 8 * step);
            store(out.as_mut_ptr(), low);
            store(out.as_mut_ptr().add(4), high);
        }
    }
}
