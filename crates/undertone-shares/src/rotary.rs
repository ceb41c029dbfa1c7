//! The rotary embedding on words: a public linear map, so each party applies it to its own share.
//!
//! Both parties must use the same integers: one unit of difference in a cosine would multiply a share, which is as
//! large as the ring. [`RotaryTable::fingerprint`] is there to be compared before a session; no message carries it yet.

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

    /// A checksum (FNV-1a over the integers) that shows whether two tables are the same; it protects nothing.
    pub fn fingerprint(&self) -> u64 {
        let step = |hash: u64, word: &u64| (hash ^ word).wrapping_mul(0x0100_0000_01b3);
        self.angles.as_flattened().iter().fold(0xcbf2_9ce4_8422_2325, step)
    }

    /// Rotates every head of every row, coordinate `i` with `i + d/2`; the result has [`ROTARY_BITS`] more.
    ///
    /// # Shapes
    /// `values` is `[rows, width]`, `width` a multiple of `d`; row `i` is at `position + i`.
    ///
    /// # Panics
    /// When the table has fewer positions.
    pub(crate) fn rotate(&self, values: &mut [u64], width: usize, position: usize) {
        let rows = values.chunks_exact_mut(width).zip(self.angles.chunks_exact(self.half).skip(position));
        for (row, angles) in rows {
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
