use super::*;
use crate::{Chain, ClearEvaluator, Slots};

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn evaluator() -> ClearEvaluator {
    ClearEvaluator::new(Chain { log_n: 9, top_level: 21, boot_level: 3, max_level: 32, product_prime: None })
}

/// Evaluates at 256 points of [−1, 1] and checks value, guard, depth and the promised product count.
fn check(poly: &Chebyshev, depth: usize) {
    let ev = evaluator();
    let points: Vec<f64> = (0..256).map(|i| i as f64 / 127.5 - 1.0).collect();
    let u = ev.encrypt(&Slots::new(points.clone(), 256).unwrap(), 9);
    let (value, top) = evaluate_chebyshev(&ev, &u, poly).unwrap();
    let scale: f64 = poly.coefficients.iter().map(|c| c.abs()).sum::<f64>().max(1.0);
    for (&u, &v) in points.iter().zip(value.slots()) {
        assert!((v - poly.eval_unit(u)).abs() < 1e-12 * scale, "degree {} at {u}", poly.degree());
    }
    assert!(top.slots().iter().all(|t| t.abs() <= 1.0 + 1e-12));
    assert!(ev.level(&value) >= 9 - depth && ev.level(&top) >= ev.level(&value));
    let counts = ev.counts();
    let cost = poly.cost();
    assert_eq!(cost.depth, depth);
    assert_eq!((counts.products, counts.key_switches), (cost.products as u64, cost.key_switches as u64));
}

#[test]
fn every_degree_has_the_optimal_depth() {
    for degree in 0..=130 {
        let poly = Chebyshev {
            coefficients: (0..=degree).map(|j| ((j * 37 + 11) % 17) as f64 / 8.0 - 0.9).collect(),
            interval: (-1.0, 1.0),
        };
        check(&poly, (degree as f64 + 1.0).log2().ceil() as usize);
    }
}

#[test]
fn even_and_odd_polynomials_cost_less() {
    for degree in [7, 15, 31, 63, 127] {
        let dense = Chebyshev::interpolate(|x| (-3.0 * x).exp(), (-1.0, 1.0), degree);
        let dense = Chebyshev { coefficients: dense.coefficients.iter().map(|c| c + 1e-3).collect(), ..dense };
        let part = |parity: usize| Chebyshev {
            coefficients: (0..=degree).map(|j| if j % 2 == parity { dense.coefficients[j] } else { 0.0 }).collect(),
            ..dense
        };
        for poly in [&part(0), &part(1)] {
            check(poly, depth(poly.degree()));
            assert!(poly.cost().products <= dense.cost().products, "degree {degree}");
        }
        println!("degree {degree}: {:?}, even {:?}, odd {:?}", dense.cost(), part(0).cost(), part(1).cost());
    }
}

#[test]
fn sparse_and_constant_polynomials_work() {
    let at = |terms: &[(usize, f64)]| {
        let mut coefficients = vec![0.0; 65];
        terms.iter().for_each(|&(j, c)| coefficients[j] = c);
        Chebyshev { coefficients, interval: (-1.0, 1.0) }
    };
    check(&at(&[]), 0);
    check(&at(&[(0, 0.25)]), 0);
    check(&at(&[(1, 0.25)]), 1);
    check(&at(&[(64, 1.0)]), 7);
    check(&at(&[(63, 1.0)]), 6);
    check(&at(&[(5, 1.0), (48, -0.5), (0, 0.1)]), 6);
}

#[test]
fn top_element_detects_escapes() {
    let ev = evaluator();
    let poly = Chebyshev::interpolate(silu, (-8.0, 8.0), 31);
    let u = ev.encrypt(&Slots::new(vec![1.1, 1.0], 256).unwrap(), 9);
    let (_, top) = evaluate_chebyshev(&ev, &u, &poly).unwrap();
    assert!(top.slots()[0] > 100.0 && (top.slots()[1] - 1.0).abs() < 1e-12);
}

#[test]
fn too_few_levels_are_refused_before_any_work() {
    let ev = evaluator();
    let u = ev.encrypt(&Slots::new(vec![0.5], 256).unwrap(), 4);
    let poly = Chebyshev::interpolate(f64::exp, (-1.0, 1.0), 31);
    assert_eq!(
        evaluate_chebyshev(&ev, &u, &poly).map(|_| ()),
        Err(Error::LevelTooLow { op: "evaluate_chebyshev", have: 4, need: 5 })
    );
    assert_eq!(ev.counts().products, 0);
}

#[test]
fn interpolation_and_least_squares_agree_with_the_function() {
    let interval = (0.5, 4.0);
    let interpolated = Chebyshev::interpolate(f64::sqrt, interval, 20);
    assert!(interpolated.max_error(f64::sqrt) < 1e-7);
    let samples: Vec<_> = (0..400).map(|i| 0.5 + 3.5 * i as f64 / 399.0).map(|x| (x, x.sqrt(), 1.0 / x)).collect();
    let fitted = Chebyshev::fit(&samples, interval, 20);
    assert!(fitted.max_relative_error(f64::sqrt) < 1e-7, "{}", fitted.max_relative_error(f64::sqrt));
    // A polynomial is recovered exactly.
    let cubic = |x: f64| 1.0 - 2.0 * x + 0.5 * x * x * x;
    let samples: Vec<_> = samples.iter().map(|&(x, _, w)| (x, cubic(x), w)).collect();
    assert!(Chebyshev::fit(&samples, interval, 30).max_error(cubic) < 1e-12);
    // Fewer samples than coefficients still give a polynomial through them.
    let few = Chebyshev::fit(&samples[..3], interval, 30);
    assert!(few.coefficients.iter().all(|c| c.is_finite()));
    assert!((few.eval(samples[1].0) - samples[1].1).abs() < 1e-9);
}

#[test]
fn truncation_removes_rounding_errors_of_a_symmetric_function() {
    let even = Chebyshev::interpolate(|x| silu(x) - x / 2.0, (-8.0, 8.0), 31).truncate(1e-14);
    assert_eq!(even.degree(), 30);
    assert!(even.coefficients.iter().skip(1).step_by(2).all(|&c| c == 0.0));
}
