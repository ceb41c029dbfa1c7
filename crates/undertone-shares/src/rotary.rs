//! The rotary embedding on words: a public linear map, so each party applies it to its own share.
//!
//! Both parties must use the same integers: one unit of difference in a cosine would multiply a share, which is as
//! large as the ring. A digest of [`RotaryTable::words`] is compared before a session.

use undertone_model::{LlamaConfig, rope_cos_sin};

use crate::fixed::{ROTARY_BITS, power, rounded};

/// Cosines and sines as integers at [`ROTARY_BITS`].
pub struct RotaryTable {
    half: usize,
    /// `[positions, d / 2]`, a cosine and a sine each.
    angles: Vec<[u64; 2]>,
}

impl RotaryTable {
    /// The table of the first `positions` positions.
    pub fn new(config: &LlamaConfig, positions: usize) -> Self {
        let scaled = |x: f32| rounded(f64::from(x) * power(ROTARY_BITS as i32));
        let row = |position| {
            let (cosines, sines) = rope_cos_sin(config, position);
            cosines.into_iter().zip(sines).map(move |(cosine, sine)| [scaled(cosine), scaled(sine)])
        };
        Self { half: config.head_dim / 2, angles: (0..positions).flat_map(row).collect() }
    }

    /// Number of positions.
    pub fn positions(&self) -> usize {
        self.angles.len() / self.half
    }

    /// The integers, for a digest: `[positions, d / 2, 2]`.
    pub fn words(&self) -> &[u64] {
        self.angles.as_flattened()
    }

    /// Rotates every head of every row, coordinate `i` with `i + d/2`; the result has [`ROTARY_BITS`] more.
    ///
    /// # Shapes
    /// `values` is `[rows, width]`, `width` a multiple of `d`; row `i` is at `positions[i]`.
    ///
    /// # Panics
    /// When the table has fewer positions.
    pub(crate) fn rotate(&self, values: &mut [u64], width: usize, positions: &[usize]) {
        for (row, position) in values.chunks_exact_mut(width).zip(positions) {
            let angles = &self.angles[position * self.half..][..self.half];
            for head in row.chunks_exact_mut(2 * self.half) {
                let (low, high) = head.split_at_mut(self.half);
                for ((low, high), [cosine, sine]) in low.iter_mut().zip(high).zip(angles) {
                    let (a, b) = (*low, *high);
                    *low = a.wrapping_mul(*cosine).wrapping_sub(b.wrapping_mul(*sine));
                    *high = b.wrapping_mul(*cosine).wrapping_add(a.wrapping_mul(*sine));
                }
            }
        }
    }
}
