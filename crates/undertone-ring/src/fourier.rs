//! Tables of the complex Fourier transforms with which slots are encoded; the transforms are kernels of a backend.

use std::f64::consts::TAU;

/// Lanes that a transform works on side by side; transforms of fewer values than its square use one of them.
pub(crate) const FOURIER_LANES: usize = 8;

/// Twiddles of out[j] = sum over k of in[k] * w^(jk), w = e^(-2*pi*i/n), for one power of two n.
///
/// The transform takes n = A·B as A columns of B values and B rows of A values (Bailey's four steps).
pub struct FourierTable {
    pub(crate) log_columns: u32,
    pub(crate) log_rows: u32,
    /// w^(b·c) at c·B + b, real and imaginary parts: the step between columns and rows.
    pub(crate) between: [Vec<f64>; 2],
    /// Powers of e^(-2*pi*i/A): A of them serve both steps, because B divides A.
    pub(crate) roots: [Vec<f64>; 2],
}

impl FourierTable {
    /// Twiddles for n = 2^`log_n`.
    pub fn new(log_n: u32) -> Self {
        // One step alone where rows would not fill the lanes.
        let split = log_n >= 2 * FOURIER_LANES.trailing_zeros();
        let log_columns = if split { log_n.div_ceil(2) } else { log_n };
        let log_rows = log_n - log_columns;
        let (columns, rows) = (1usize << log_columns, 1usize << log_rows);
        let root = |k: usize, n: usize| (TAU * k as f64 / n as f64).sin_cos();
        let between = (0..columns * rows).map(|i| root((i >> log_rows) * (i % rows), columns * rows));
        let powers = (0..columns).map(|k| root(k, columns));
        Self { log_columns, log_rows, between: parts(between), roots: parts(powers) }
    }

    /// Values of scratch memory that a transform takes.
    pub fn scratch_len(&self) -> usize {
        let columns = 1usize << self.log_columns;
        2 * (columns << self.log_rows) + 2 * FOURIER_LANES * columns
    }
}

/// cos and -sin of angles given as (sin, cos).
fn parts(angles: impl Iterator<Item = (f64, f64)>) -> [Vec<f64>; 2] {
    let (re, im) = angles.map(|(sin, cos)| (cos, -sin)).unzip();
    [re, im]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar_backend;

    #[test]
    fn transforms_equal_the_sum_that_defines_them() {
        for log_n in 0..=10 {
            let (n, table) = (1usize << log_n, FourierTable::new(log_n));
            let (mut re, mut im): (Vec<f64>, Vec<f64>) =
                (0..n).map(|k| ((k as f64 * 0.7).sin(), (k as f64 * 1.3).cos())).unzip();
            let expected: Vec<[f64; 2]> = (0..n)
                .map(|j| {
                    (0..n).fold([0.0; 2], |sum, k| {
                        let (sin, cos) = (TAU * (j * k % n) as f64 / n as f64).sin_cos();
                        [sum[0] + re[k] * cos + im[k] * sin, sum[1] + im[k] * cos - re[k] * sin]
                    })
                })
                .collect();
            scalar_backend().fourier(&table, &mut re, &mut im, &mut vec![0.0; table.scratch_len()]);
            for (j, [x, y]) in expected.into_iter().enumerate() {
                assert!((x - re[j]).hypot(y - im[j]) < 1e-11 * n as f64, "2^{log_n} values, frequency {j}");
            }
        }
    }
}
