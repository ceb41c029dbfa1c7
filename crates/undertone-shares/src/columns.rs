//! Columns of row-major words.

use std::ops::Range;

/// Columns `range` of `[n, width]`, as `[n, range.len()]`.
pub(crate) fn columns(values: &[u64], width: usize, range: Range<usize>) -> Vec<u64> {
    values.chunks_exact(width).flat_map(|row| row[range.clone()].iter().copied()).collect()
}

/// `[n, 2 F]` as all left halves, then all right halves: `[2, n, F]`.
pub(crate) fn halves(values: &[u64], width: usize) -> Vec<u64> {
    [columns(values, width, 0..width / 2), columns(values, width, width / 2..width)].concat()
}
