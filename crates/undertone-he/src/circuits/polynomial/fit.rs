//! Discrete weighted least squares in the Chebyshev basis, by Householder reflections.
//!
//! The normal equations would square the condition number; with reflections the fits stay accurate to about 2^-45.

/// Coefficients minimising Σ (w · (Σ_j c_j T_j(u) − y))² over samples (u, y, w).
pub(super) fn least_squares(samples: &[(f64, f64, f64)], count: usize) -> Vec<f64> {
    let rows = samples.len();
    let mut target: Vec<f64> = samples.iter().map(|&(_, y, w)| w * y).collect();
    let mut columns = weighted_basis(samples, count);
    let mut diagonal = vec![0.0; count];
    for j in 0..count.min(rows) {
        let norm = columns[j][j..].iter().map(|v| v * v).sum::<f64>().sqrt();
        if norm == 0.0 {
            continue;
        }
        let alpha = if columns[j][j] > 0.0 { -norm } else { norm };
        diagonal[j] = alpha;
        columns[j][j] -= alpha;
        let reflector = columns[j][j..].to_vec();
        let square: f64 = reflector.iter().map(|v| v * v).sum();
        for column in columns[j + 1..].iter_mut().chain([&mut target]) {
            reflect(&reflector, square, &mut column[j..]);
        }
    }
    solve_upper(&columns, &diagonal, &target)
}

/// The columns w·T_j(u).
fn weighted_basis(samples: &[(f64, f64, f64)], count: usize) -> Vec<Vec<f64>> {
    let mut columns: Vec<Vec<f64>> = Vec::with_capacity(count);
    for j in 0..count {
        let column = samples
            .iter()
            .enumerate()
            .map(|(i, &(u, _, w))| match j {
                0 => w,
                1 => w * u,
                _ => 2.0 * u * columns[j - 1][i] - columns[j - 2][i],
            })
            .collect();
        columns.push(column);
    }
    columns
}

/// x − v·(2 v·x / v·v).
fn reflect(reflector: &[f64], square: f64, x: &mut [f64]) {
    let dot: f64 = reflector.iter().zip(&*x).map(|(v, x)| v * x).sum();
    let factor = 2.0 * dot / square;
    for (x, v) in x.iter_mut().zip(reflector) {
        *x -= factor * v;
    }
}

/// Back substitution; directions that the samples do not determine get zero.
fn solve_upper(columns: &[Vec<f64>], diagonal: &[f64], target: &[f64]) -> Vec<f64> {
    let largest = diagonal.iter().fold(0.0, |m: f64, d| m.max(d.abs()));
    let mut solution = vec![0.0; diagonal.len()];
    for j in (0..diagonal.len()).rev() {
        if diagonal[j].abs() <= largest * 1e-14 {
            continue;
        }
        let known: f64 =
            (j + 1..diagonal.len()).map(|k| if j < target.len() { columns[k][j] * solution[k] } else { 0.0 }).sum();
        solution[j] = (target[j] - known) / diagonal[j];
    }
    solution
}
