//! The growing product: queries times cached keys, and probabilities times cached values, over words.
//!
//! Scores are ragged: token i of a step has one row of `position + i + 1` entries for every head, token after token,
//! head after head. The same loops serve shares, masks and clear values; what they mean is said by the caller:
//! with E = Q - A and F = K - B opened, Q K = E F + E B + A F + A B, where the provider takes the first term.

use rayon::prelude::*;
use undertone_ring::WordKernels;

use crate::shape::{Shape, Step};

/// Cached rows of keys or values: per key head `[S, d]`.
#[derive(Default)]
pub(crate) struct HeadRows {
    heads: Vec<Vec<u64>>,
}

impl HeadRows {
    pub(crate) fn new(shape: &Shape) -> Self {
        Self { heads: vec![Vec::new(); shape.key_heads] }
    }

    /// Appends rows `[n, K d]`.
    pub(crate) fn push(&mut self, shape: &Shape, rows: &[u64]) {
        for row in rows.chunks_exact(shape.key()) {
            for (cache, head) in self.heads.iter_mut().zip(row.chunks_exact(shape.head_dim)) {
                cache.extend_from_slice(head);
            }
        }
    }

    /// The first `visible` rows of the key head that query head `head` uses, `[visible, d]`.
    fn rows(&self, shape: &Shape, head: usize, visible: usize) -> &[u64] {
        &self.heads[head / (shape.heads / shape.key_heads)][..visible * shape.head_dim]
    }
}

/// The buffers that hold the rows are cleared; those that growing left behind are not.
impl Drop for HeadRows {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.heads);
    }
}

/// The rows of ragged scores, each with its token and head.
fn ragged<'a>(shape: &'a Shape, step: &'a Step, mut scores: &'a mut [u64]) -> Vec<(usize, usize, &'a mut [u64])> {
    let mut rows = Vec::with_capacity(step.tokens * shape.heads);
    for token in 0..step.tokens {
        for head in 0..shape.heads {
            let (row, rest) = scores.split_at_mut(step.visible(token));
            rows.push((token, head, row));
            scores = rest;
        }
    }
    rows
}

/// scores += queries times the rows of `keys` that each token sees.
///
/// # Shapes
/// `scores` is ragged, `queries` is `[n, H d]`.
pub(crate) fn add_scores(
    kernels: &dyn WordKernels,
    (shape, step): (&Shape, &Step),
    scores: &mut [u64],
    queries: &[u64],
    keys: &HeadRows,
) {
    let d = shape.head_dim;
    ragged(shape, step, scores).into_par_iter().for_each(|(token, head, row)| {
        let query = &queries[token * shape.query() + head * d..][..d];
        let mut out = vec![0; row.len()];
        kernels.product_u64(&mut out, keys.rows(shape, head, row.len()), query, d);
        crate::fixed::add_assign(row, &out);
    });
}

/// mixed += ragged probabilities times the rows of `values` that each token sees.
///
/// # Shapes
/// `probabilities` is ragged, `mixed` is `[n, H d]`.
pub(crate) fn add_mixed(
    kernels: &dyn WordKernels,
    (shape, step): (&Shape, &Step),
    mixed: &mut [u64],
    probabilities: &[u64],
    values: &HeadRows,
) {
    mixed.par_chunks_exact_mut(shape.head_dim).enumerate().for_each(|(i, out)| {
        let (token, head) = (i / shape.heads, i % shape.heads);
        let visible = step.visible(token);
        let before = Step { tokens: token, ..*step }.scores(shape) + head * visible;
        kernels.combine_u64(out, &probabilities[before..before + visible], values.rows(shape, head, visible));
    });
}
