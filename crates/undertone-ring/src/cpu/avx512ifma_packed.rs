//! Reading packed residues with AVX-512: eight of them are as many bytes as one has bits.

use std::arch::x86_64::*;

use super::avx512ifma_lane::{V, load, store};
use crate::Packed;

/// How the eight residues of one step are taken out of their bytes.
#[derive(Clone, Copy)]
pub(super) struct Unpacker {
    /// For each byte of each lane, the byte that it is taken from.
    order: V,
    /// Bits of each lane's first byte that belong to the lane before.
    shift: V,
    mask: V,
    /// Which bytes belong to this step.
    bytes: __mmask64,
    bits: usize,
}

impl Unpacker {
    /// # Panics
    /// When a residue and the bits before it need more than eight bytes.
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw,avx512vbmi")]
    pub(super) fn new(bits: u32) -> Self {
        assert!(bits <= 57 || bits == 64);
        let bits = bits as usize;
        let (mut order, mut shift) = ([0u64; 8], [0u64; 8]);
        for lane in 0..8 {
            // Bytes beyond the step's own are never looked at: the mask removes what they hold.
            order[lane] = u64::from_le_bytes(std::array::from_fn(|byte| (lane * bits / 8 + byte).min(63) as u8));
            shift[lane] = (lane * bits % 8) as u64;
        }
        // SAFETY: both arrays hold eight words.
        let (order, shift) = unsafe { (load(order.as_ptr()), load(shift.as_ptr())) };
        let mask = _mm512_set1_epi64((u64::MAX >> (64 - bits)) as i64);
        Self { order, shift, mask, bytes: u64::MAX >> (64 - bits), bits }
    }

    /// Eight residues from the one with number `k`, a multiple of eight.
    ///
    /// # Safety
    /// The view holds them and has the unpacker's number of bits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw,avx512vbmi")]
    pub(super) unsafe fn load(self, from: *const u8, k: usize) -> V {
        // SAFETY: by the contract of this function; a masked load touches only the step's own bytes.
        let raw = unsafe { _mm512_maskz_loadu_epi8(self.bytes, from.add(k / 8 * self.bits).cast()) };
        _mm512_and_si512(_mm512_srlv_epi64(_mm512_permutexvar_epi8(self.order, raw), self.shift), self.mask)
    }

    /// Where a later step's bytes lie, for prefetching; may be past the end.
    #[inline]
    pub(super) fn ahead(self, from: *const u8, k: usize) -> *const i8 {
        from.wrapping_add(k / 8 * self.bits).cast()
    }
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw,avx512vbmi")]
pub(super) fn unpack(out: &mut [u64], packed: Packed<'_>) {
    assert!(out.len().is_multiple_of(8) && packed.len() == out.len());
    let unpacker = Unpacker::new(packed.bits());
    for k in (0..out.len()).step_by(8) {
        // SAFETY: k + 8 is at most the common length.
        unsafe { store(out.as_mut_ptr().add(k), unpacker.load(packed.bytes().as_ptr(), k)) };
    }
}
