//! Matrix products of residues with AVX-512 IFMA: tiles of sums stay in registers.
//!
//! Low and high halves of products are summed apart and reduced once per pass over at most 2^11 terms: then the sum of
//! low halves is below 2^63, that of high halves below 2^59. Primes below 2^26 have products below 2^52, which are
//! their own low halves.

use std::arch::x86_64::*;

use super::MatrixShape;
use super::avx512ifma_lane::{Lanes, V, load, splat, store};
use crate::{MATRIX_LANES, Modulus};

/// Rows and columns of a tile: two sums each, and the operands, fill the registers.
const TILE: (usize, usize) = (4, 3);
/// Terms of one pass.
const PASS: usize = 1 << 11;
/// Primes below this bound have single-word products.
const SMALL: u64 = 1 << 26;

/// What a tile reads besides its addresses.
#[derive(Clone, Copy)]
struct Reduction {
    lanes: Lanes,
    /// 2^102 mod q and its Shoup quotient.
    top: V,
    top_shoup: V,
}

impl Reduction {
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn new(q: Modulus) -> Self {
        let top = q.reduce_u128(1 << 102);
        Self { lanes: Lanes::new(q), top: splat(top), top_shoup: splat(q.shoup(top)) }
    }

    /// high * 2^52 + low, fully reduced, for high below 2^60 and low below 2^64.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
    fn reduce(self, high: V, low: V) -> V {
        let m = self.lanes;
        let high = _mm512_add_epi64(high, _mm512_srli_epi64::<52>(low));
        let top = m.mul_lazy(_mm512_srli_epi64::<50>(high), self.top, self.top_shoup);
        let middle = _mm512_and_si512(high, splat((1 << 50) - 1));
        let rest = m.reduce_wide(middle, _mm512_and_si512(low, m.mask));
        m.reduce_4q(_mm512_add_epi64(top, rest))
    }
}

/// Where a tile's operands are, in words.
#[derive(Clone, Copy)]
struct Operands {
    left: *const u64,
    right: *const u64,
    inner: usize,
}

#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
pub(super) fn matrix_product(q: Modulus, out: &mut [u64], left: &[u64], right: &[u64], inner: usize, shared: bool) {
    let shape = MatrixShape::of(out, left, right, inner, shared);
    let (reduction, at) = (Reduction::new(q), Operands { left: left.as_ptr(), right: right.as_ptr(), inner });
    match (shared, q.value() < SMALL) {
        (false, false) => tiles::<false, false>(reduction, at, shape, out),
        (false, true) => tiles::<false, true>(reduction, at, shape, out),
        (true, false) => tiles::<true, false>(reduction, at, shape, out),
        (true, true) => tiles::<true, true>(reduction, at, shape, out),
    }
}

/// All tiles; those of one set of columns follow each other, so that the columns stay in the nearest cache.
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
fn tiles<const SHARED: bool, const SMALL_Q: bool>(
    reduction: Reduction,
    at: Operands,
    shape: MatrixShape,
    out: &mut [u64],
) {
    let entry = if SHARED { 1 } else { MATRIX_LANES };
    for column in (0..shape.columns).step_by(TILE.1) {
        for row in (0..shape.rows).step_by(TILE.0) {
            let (rows, columns) = ((shape.rows - row).min(TILE.0), (shape.columns - column).min(TILE.1));
            // SAFETY: `MatrixShape::of` has checked that the operands hold every row and column, and `out` every entry.
            unsafe {
                let at = Operands {
                    left: at.left.add(row * at.inner * entry),
                    right: at.right.add(column * at.inner * MATRIX_LANES),
                    inner: at.inner,
                };
                let out = out.as_mut_ptr().add((row * shape.columns + column) * MATRIX_LANES);
                let step = shape.columns * MATRIX_LANES;
                macro_rules! sizes {
                    ($($r:literal $c:literal),*) => {
                        match (rows, columns) {
                            $(($r, $c) => tile::<$r, $c, SHARED, SMALL_Q>(reduction, at, out, step),)*
                            _ => unreachable!("a tile is at most {} x {}", TILE.0, TILE.1),
                        }
                    };
                }
                sizes!(4 3, 4 2, 4 1, 3 3, 3 2, 3 1, 2 3, 2 2, 2 1, 1 3, 1 2, 1 1);
            }
        }
    }
}

/// One tile of R rows and C columns; the rows of `out` are `step` words apart.
///
/// # Safety
/// The operands hold R rows and C columns, and `out` that many entries.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512dq,avx512vl,avx512bw")]
unsafe fn tile<const R: usize, const C: usize, const SHARED: bool, const SMALL_Q: bool>(
    reduction: Reduction,
    at: Operands,
    out: *mut u64,
    step: usize,
) {
    let zero = _mm512_setzero_si512();
    for first in (0..at.inner).step_by(PASS) {
        let (mut low, mut high) = ([[zero; C]; R], [[zero; C]; R]);
        for k in first..at.inner.min(first + PASS) {
            // SAFETY: by the contract of this function; row i and column j are `inner` entries each.
            unsafe {
                let mut right = [zero; C];
                for (j, right) in right.iter_mut().enumerate() {
                    *right = load(at.right.add((j * at.inner + k) * MATRIX_LANES));
                }
                for i in 0..R {
                    let index = i * at.inner + k;
                    let left =
                        if SHARED { splat(*at.left.add(index)) } else { load(at.left.add(index * MATRIX_LANES)) };
                    for j in 0..C {
                        low[i][j] = _mm512_madd52lo_epu64(low[i][j], left, right[j]);
                        if !SMALL_Q {
                            high[i][j] = _mm512_madd52hi_epu64(high[i][j], left, right[j]);
                        }
                    }
                }
            }
        }
        for i in 0..R {
            for j in 0..C {
                let sum = reduction.reduce(high[i][j], low[i][j]);
                // SAFETY: by the contract of this function.
                unsafe {
                    let to = out.add(i * step + j * MATRIX_LANES);
                    store(to, if first == 0 { sum } else { reduction.lanes.add(load(to), sum) });
                }
            }
        }
    }
}
