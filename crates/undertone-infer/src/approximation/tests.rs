use super::*;

/// log2 of the error.
fn log2(fit: &Fit) -> f64 {
    -fit.bits()
}

#[test]
fn silu_errors_match_the_published_table() {
    let degrees = [15, 23, 31, 47, 63, 83, 127];
    let table: [(f64, &[f64]); 8] = [
        (4.0, &[-14.6, -23.0, -31.3]),
        (6.0, &[-9.6, -15.4, -21.2]),
        (8.0, &[-6.8, -11.3, -15.7, -24.5]),
        (10.82, &[-4.6, -7.9, -11.2, -17.8, -24.4]),
        (16.0, &[-2.5, -4.8, -7.0, -11.5, -16.0, -21.6, -34.0]),
        (23.0, &[-1.1, -2.7, -4.3, -7.4, -10.6, -14.5, -23.1]),
        (29.5, &[-0.4, -1.7, -2.9, -5.4, -7.8, -10.9, -17.6]),
        (41.0, &[0.3, -0.6, -1.5, -3.3, -5.1, -7.3, -12.1]),
    ];
    compare("SiLU", &table, &degrees, silu_even);
}

#[test]
fn exponential_errors_match_the_published_table() {
    let table: [(f64, &[f64]); 4] = [
        (4.125, &[-6.6, -10.7, -15.3, -20.4, -26.0, -31.9]),
        (5.0, &[-5.6, -9.2, -13.4, -18.0, -23.0, -28.4]),
        (4.9, &[-5.7, -9.4, -13.5, -18.2, -23.3, -28.7]),
        (10.0, &[-3.0, -5.2, -7.8, -10.8, -14.1, -17.7]),
    ];
    compare("exp", &table, &[5, 7, 9, 11, 13, 15], exponential);
}

#[test]
fn inverse_square_root_errors_match_the_published_table() {
    let table: [(f64, &[f64]); 7] = [
        (4.0, &[-13.6, -16.9, -26.7]),
        (8.0, &[-9.2, -11.5, -18.2, -35.7]),
        (16.0, &[-6.4, -8.0, -12.7, -25.0]),
        (32.0, &[-4.4, -5.6, -9.0, -17.6, -34.6]),
        (64.0, &[-3.0, -3.9, -6.3, -12.5, -24.6]),
        (128.0, &[-2.1, -2.7, -4.4, -8.9, -17.5, -34.3]),
        (512.0, &[-0.9, -1.1, -2.1, -4.4, -8.9, -17.5]),
    ];
    let fit = |ratio: f64, degree| inverse_square_root(Interval { low: 0.3, high: 0.3 * ratio }, degree);
    compare("1/sqrt", &table, &[7, 9, 15, 31, 63, 127], fit);
}

fn compare(name: &str, table: &[(f64, &[f64])], degrees: &[usize], fit: impl Fn(f64, usize) -> Fit) {
    for (parameter, published) in table {
        for (&degree, published) in degrees.iter().zip(*published) {
            let have = log2(&fit(*parameter, degree));
            println!("{name} {parameter} degree {degree}: {have:.2}, published {published}");
            // Half a unit of interpolation against best approximation, and one for rounding of the parameters.
            assert!(have < published + 0.6, "{name} {parameter} degree {degree}: {have}, published {published}");
        }
    }
}

#[test]
fn the_inverse_is_the_best_polynomial() {
    for (ratio, degree) in [(4.0, 7), (16.0, 15), (64.0, 31), (256.0, 63), (256.0, 62)] {
        let interval = Interval { low: 0.01, high: 0.01 * ratio };
        let fit = inverse(interval, degree);
        // The bound of Chebyshev: 1/T_(degree+1) of the image of 0.
        let at_zero: f64 = (ratio + 1.0) / (ratio - 1.0);
        let bound = 1.0 / ((degree as f64 + 1.0) * at_zero.acosh()).cosh();
        assert!((fit.error / bound - 1.0).abs() < 1e-3, "ratio {ratio}: {} {bound}", fit.error);
        assert!((0..100).all(|i| fit.polynomial.eval(0.01 + 0.01 * (ratio - 1.0) * f64::from(i) / 99.0) > 0.0));
    }
}

#[test]
fn the_smallest_sufficient_degree_is_chosen() {
    let (degree, fit) = degree_for(12.5, |degree| exponential(8.0, degree)).unwrap();
    assert!(degree == 15 && fit.bits() >= 12.5, "{degree} {}", fit.bits());
    assert_eq!(degree_for(13.0, |degree| silu_even(20.0, degree)).unwrap().0, 127);
    assert!(degree_for(40.0, |degree| silu_even(40.0, degree)).is_none());
}

#[test]
fn the_silu_polynomial_is_even() {
    let fit = silu_even(9.0, 31);
    assert_eq!(fit.polynomial.degree(), 30);
    assert!(fit.polynomial.coefficients.iter().skip(1).step_by(2).all(|&c| c == 0.0));
    let silu = |x: f64| x / (1.0 + (-x).exp());
    for x in [-9.0, -3.5, 0.0, 0.2, 8.9] {
        assert!((fit.polynomial.eval(x) + x / 2.0 - silu(x)).abs() <= fit.error);
    }
}
