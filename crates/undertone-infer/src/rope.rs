//! Rows of the attention projections as matrix entries, with gain, rotary embedding and bound folded in.
//!
//! Positions are public, so the rotation of a head is a plaintext 2×2 map between rows `j` and `j ± d/2` of the
//! projection: it costs no level and no rotation. The pairing is "rotate half", as in the reference.

use undertone_model::{LlamaConfig, Matrix, rope_cos_sin};

/// Cosines and sines of one position.
#[derive(Debug, Clone)]
pub(crate) struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Angles {
    pub(crate) fn new(config: &LlamaConfig, position: usize) -> Self {
        let (cos, sin) = rope_cos_sin(config, position);
        Self { cos, sin }
    }

    /// The factors of coordinate `j` itself and of its partner half a head away in what the rotation puts at `j`.
    pub(crate) fn factors(&self, j: usize, head_dim: usize) -> [f64; 2] {
        let half = head_dim / 2;
        let (pair, sign) = if j < half { (j, -1.0) } else { (j - half, 1.0) };
        [f64::from(self.cos[pair]), sign * f64::from(self.sin[pair])]
    }
}

/// The projection to queries, keys or values.
pub(crate) struct HeadRows<'a> {
    /// The weights, `[heads · d, D]`; absent when only costs are counted.
    pub matrix: Option<&'a Matrix>,
    /// The gain of the norm before, `[D]`.
    pub gain: &'a [f32],
    /// Query heads per head of the matrix.
    pub per_head: usize,
    /// Head width d.
    pub head_dim: usize,
    /// Factor on every entry.
    pub scale: f64,
}

impl HeadRows<'_> {
    /// Entry of coordinate `j` of query head `head`, input channel `c`; zero outside the matrix.
    pub(crate) fn plain(&self, head: usize, j: usize, c: usize) -> f64 {
        let Some(matrix) = self.matrix.filter(|m| c < m.cols) else { return 0.0 };
        let row = head / self.per_head * self.head_dim + j;
        self.scale * f64::from(self.gain[c]) * f64::from(matrix.data[row * matrix.cols + c])
    }

    /// The same entry after the rotary embedding.
    pub(crate) fn rotated(&self, head: usize, j: usize, c: usize, angles: &Angles) -> f64 {
        let half = self.head_dim / 2;
        let partner = if j < half { j + half } else { j - half };
        let [own, other] = angles.factors(j, self.head_dim);
        own * self.plain(head, j, c) + other * self.plain(head, partner, c)
    }
}
