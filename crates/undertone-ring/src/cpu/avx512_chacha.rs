//! The ChaCha keystream with 8 rounds, sixteen blocks at a time: lane i of every vector belongs to block i.

use std::arch::x86_64::*;

/// Words of 64 bits in sixteen blocks.
pub(super) const STRIDE: usize = 128;
/// "expand 32-byte k".
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

macro_rules! quarter {
    ($v:ident, $a:literal $b:literal $c:literal $d:literal) => {
        $v[$a] = _mm512_add_epi32($v[$a], $v[$b]);
        $v[$d] = _mm512_rol_epi32::<16>(_mm512_xor_si512($v[$d], $v[$a]));
        $v[$c] = _mm512_add_epi32($v[$c], $v[$d]);
        $v[$b] = _mm512_rol_epi32::<12>(_mm512_xor_si512($v[$b], $v[$c]));
        $v[$a] = _mm512_add_epi32($v[$a], $v[$b]);
        $v[$d] = _mm512_rol_epi32::<8>(_mm512_xor_si512($v[$d], $v[$a]));
        $v[$c] = _mm512_add_epi32($v[$c], $v[$d]);
        $v[$b] = _mm512_rol_epi32::<7>(_mm512_xor_si512($v[$b], $v[$c]));
    };
}

/// Fills `out`, a multiple of [`STRIDE`] words, from block `first` on; the block counter wraps at 2^32.
#[target_feature(enable = "avx512f")]
pub(super) fn chacha8(key: &[u32; 8], nonce: &[u32; 3], first: u32, out: &mut [u64]) {
    assert!(out.len().is_multiple_of(STRIDE));
    let splat = |word: u32| _mm512_set1_epi32(word as i32);
    let mut start = [_mm512_setzero_si512(); 16];
    for (slot, word) in start.iter_mut().zip(CONSTANTS.iter().chain(key)) {
        *slot = splat(*word);
    }
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    start[12] = _mm512_add_epi32(splat(first), lanes);
    for (slot, word) in start[13..].iter_mut().zip(nonce) {
        *slot = splat(*word);
    }
    for blocks in out.chunks_exact_mut(STRIDE) {
        let mut v = start;
        for _ in 0..4 {
            quarter!(v, 0 4 8 12);
            quarter!(v, 1 5 9 13);
            quarter!(v, 2 6 10 14);
            quarter!(v, 3 7 11 15);
            quarter!(v, 0 5 10 15);
            quarter!(v, 1 6 11 12);
            quarter!(v, 2 7 8 13);
            quarter!(v, 3 4 9 14);
        }
        for (word, start) in v.iter_mut().zip(&start) {
            *word = _mm512_add_epi32(*word, *start);
        }
        let v = transpose(v);
        for (block, v) in blocks.chunks_exact_mut(8).zip(v) {
            // SAFETY: the chunk has eight words.
            unsafe { _mm512_storeu_si512(block.as_mut_ptr().cast(), v) };
        }
        start[12] = _mm512_add_epi32(start[12], splat(16));
    }
}

/// Lane i of word w to word w of block i.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(v: [__m512i; 16]) -> [__m512i; 16] {
    let mut pairs = v;
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    }
    // Row 4q + r now holds, in each quarter vector k, words 4q..4q + 4 of block 4k + r.
    let mut quads = pairs;
    for q in 0..4 {
        let [a, b, c, d] = [pairs[4 * q], pairs[4 * q + 1], pairs[4 * q + 2], pairs[4 * q + 3]];
        quads[4 * q] = _mm512_unpacklo_epi64(a, c);
        quads[4 * q + 1] = _mm512_unpackhi_epi64(a, c);
        quads[4 * q + 2] = _mm512_unpacklo_epi64(b, d);
        quads[4 * q + 3] = _mm512_unpackhi_epi64(b, d);
    }
    let mut out = quads;
    for r in 0..4 {
        let [a, b, c, d] = [quads[r], quads[4 + r], quads[8 + r], quads[12 + r]];
        let (ab_low, ab_high) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b));
        let (cd_low, cd_high) = (_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xee>(c, d));
        out[r] = _mm512_shuffle_i32x4::<0x88>(ab_low, cd_low);
        out[4 + r] = _mm512_shuffle_i32x4::<0xdd>(ab_low, cd_low);
        out[8 + r] = _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high);
        out[12 + r] = _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high);
    }
    out
}
