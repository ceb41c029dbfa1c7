//! The ChaCha keystream with 8 rounds, eight blocks at a time: lane i of every vector belongs to block i.

use std::arch::x86_64::*;

/// Words of 64 bits in eight blocks.
pub(super) const STRIDE: usize = 64;
/// "expand 32-byte k".
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// x rotated left; whole bytes move with one shuffle.
macro_rules! rotate {
    ($x:expr, $left:literal, $right:literal) => {{
        let x = $x;
        _mm256_or_si256(_mm256_slli_epi32::<$left>(x), _mm256_srli_epi32::<$right>(x))
    }};
}

macro_rules! quarter {
    ($v:ident, $by_16:ident, $by_8:ident, $a:literal $b:literal $c:literal $d:literal) => {
        $v[$a] = _mm256_add_epi32($v[$a], $v[$b]);
        $v[$d] = _mm256_shuffle_epi8(_mm256_xor_si256($v[$d], $v[$a]), $by_16);
        $v[$c] = _mm256_add_epi32($v[$c], $v[$d]);
        $v[$b] = rotate!(_mm256_xor_si256($v[$b], $v[$c]), 12, 20);
        $v[$a] = _mm256_add_epi32($v[$a], $v[$b]);
        $v[$d] = _mm256_shuffle_epi8(_mm256_xor_si256($v[$d], $v[$a]), $by_8);
        $v[$c] = _mm256_add_epi32($v[$c], $v[$d]);
        $v[$b] = rotate!(_mm256_xor_si256($v[$b], $v[$c]), 7, 25);
    };
}

/// Fills `out`, a multiple of [`STRIDE`] words, from block `first` on; the block counter wraps at 2^32.
#[target_feature(enable = "avx2,fma")]
pub(super) fn chacha8(key: &[u32; 8], nonce: &[u32; 3], first: u32, out: &mut [u64]) {
    assert!(out.len().is_multiple_of(STRIDE));
    let splat = |word: u32| _mm256_set1_epi32(word as i32);
    let by_16 = _mm256_broadcastsi128_si256(_mm_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    let by_8 = _mm256_broadcastsi128_si256(_mm_setr_epi8(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14));
    let mut start = [_mm256_setzero_si256(); 16];
    for (slot, word) in start.iter_mut().zip(CONSTANTS.iter().chain(key)) {
        *slot = splat(*word);
    }
    start[12] = _mm256_add_epi32(splat(first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    for (slot, word) in start[13..].iter_mut().zip(nonce) {
        *slot = splat(*word);
    }
    for blocks in out.chunks_exact_mut(STRIDE) {
        let mut v = start;
        for _ in 0..4 {
            quarter!(v, by_16, by_8, 0 4 8 12);
            quarter!(v, by_16, by_8, 1 5 9 13);
            quarter!(v, by_16, by_8, 2 6 10 14);
            quarter!(v, by_16, by_8, 3 7 11 15);
            quarter!(v, by_16, by_8, 0 5 10 15);
            quarter!(v, by_16, by_8, 1 6 11 12);
            quarter!(v, by_16, by_8, 2 7 8 13);
            quarter!(v, by_16, by_8, 3 4 9 14);
        }
        for (word, start) in v.iter_mut().zip(&start) {
            *word = _mm256_add_epi32(*word, *start);
        }
        for (half, v) in v.as_chunks::<8>().0.iter().enumerate() {
            for (block, v) in blocks.chunks_exact_mut(8).zip(transpose(*v)) {
                // SAFETY: half a block has four words.
                unsafe { _mm256_storeu_si256(block[4 * half..][..4].as_mut_ptr().cast(), v) };
            }
        }
        start[12] = _mm256_add_epi32(start[12], splat(8));
    }
}

/// Lane i of word w to word w of block i, for eight of the sixteen words.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn transpose(v: [__m256i; 8]) -> [__m256i; 8] {
    let mut pairs = v;
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    }
    // Row 4q + r now holds, in its half k, words 4q..4q + 4 of block 4k + r.
    let mut quads = pairs;
    for q in 0..2 {
        let [a, b, c, d] = [pairs[4 * q], pairs[4 * q + 1], pairs[4 * q + 2], pairs[4 * q + 3]];
        quads[4 * q] = _mm256_unpacklo_epi64(a, c);
        quads[4 * q + 1] = _mm256_unpackhi_epi64(a, c);
        quads[4 * q + 2] = _mm256_unpacklo_epi64(b, d);
        quads[4 * q + 3] = _mm256_unpackhi_epi64(b, d);
    }
    let mut out = quads;
    for r in 0..4 {
        out[r] = _mm256_permute2x128_si256::<0x20>(quads[r], quads[4 + r]);
        out[4 + r] = _mm256_permute2x128_si256::<0x31>(quads[r], quads[4 + r]);
    }
    out
}
