//! Products over Z_2^64 in plain Rust: the reference that the others must equal.

use crate::words::{Operand, WordKernels, extents};

pub(super) struct ScalarWords;

impl WordKernels for ScalarWords {
    fn name(&self) -> &'static str {
        "scalar"
    }

    fn operand<'a>(&self, words: &'a [u64], cols: usize) -> Operand<'a> {
        Operand::whole(words, cols)
    }

    fn product_i16(&self, out: &mut [u64], weights: &[i16], words: &Operand<'_>) {
        let (words, cols) = (words.words, words.cols);
        let (_, tokens) = extents(out.len(), weights.len(), words.len(), cols);
        for (out, weights) in out.chunks_exact_mut(tokens.max(1)).zip(weights.chunks_exact(cols)) {
            for (out, words) in out.iter_mut().zip(words.chunks_exact(cols)) {
                let terms = weights.iter().zip(words).map(|(&w, &y)| (i64::from(w) as u64).wrapping_mul(y));
                *out = terms.fold(0, u64::wrapping_add);
            }
        }
    }

    fn product_u64(&self, out: &mut [u64], weights: &[u64], words: &[u64], cols: usize) {
        let (_, tokens) = extents(out.len(), weights.len(), words.len(), cols);
        for (out, weights) in out.chunks_exact_mut(tokens.max(1)).zip(weights.chunks_exact(cols)) {
            for (out, words) in out.iter_mut().zip(words.chunks_exact(cols)) {
                *out = weights.iter().zip(words).fold(0, |sum, (&w, &y)| sum.wrapping_add(w.wrapping_mul(y)));
            }
        }
    }

    fn combine_u64(&self, out: &mut [u64], coefficients: &[u64], rows: &[u64]) {
        assert!(rows.len() == coefficients.len() * out.len(), "one row of {} per coefficient", out.len());
        if out.is_empty() {
            return;
        }
        for (row, &coefficient) in rows.chunks_exact(out.len()).zip(coefficients) {
            out.iter_mut().zip(row).for_each(|(out, &word)| *out = out.wrapping_add(coefficient.wrapping_mul(word)));
        }
    }
}
