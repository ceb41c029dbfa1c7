//! Probability that EvalMod meets an overflow outside its interval.

/// log2 of the probability that one of `ring_degree` coefficients has |I| ≥ `range` after ModRaise.
///
/// Before reduction a coefficient of c1·s is q0 times a sum T of h independent uniforms on [−1/2, 1/2], s having weight
/// h, and c0 is what brings it back to the small message modulo q0; so I is T rounded to the nearest integer and fails
/// when |T| ≥ range − 1/2: the tail of the Irwin–Hall law. The union bound covers all coefficients and both signs.
/// Returns 0 (certain failure) where the sum loses all its digits.
pub fn failure_log2(ring_degree: usize, weight: usize, range: usize) -> f64 {
    let terms = weight;
    let distance = terms as f64 / 2.0 - (range as f64 - 0.5);
    if distance <= 0.0 {
        return f64::NEG_INFINITY;
    }
    let mut sum = 0.0f64;
    let log2_factorial: f64 = (1..=terms).map(|k| (k as f64).log2()).sum();
    let mut binomial = 1.0f64;
    let mut k = 0usize;
    while (k as f64) < distance {
        let sign = if k.is_multiple_of(2) { 1.0 } else { -1.0 };
        // Scaled by distance^terms so that no power underflows.
        sum += sign * binomial * ((distance - k as f64) / distance).powi(terms as i32);
        binomial *= (terms - k) as f64 / (k + 1) as f64;
        k += 1;
    }
    if sum <= 0.0 {
        return 0.0;
    }
    let probability_log2 = sum.log2() + terms as f64 * distance.log2() - log2_factorial;
    (probability_log2 + 1.0 + (ring_degree as f64).log2()).min(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_exact_tail() {
        let at = |h, k| failure_log2(1 << 16, h, k);
        // 2·N·(1/2)^32 / 32! for K = 16; the other values are sums of a few terms of the same law.
        let factorial: f64 = (1..=32).map(|k| f64::from(k).log2()).sum();
        assert!((at(32, 16) - (17.0 - 32.0 - factorial)).abs() < 1e-9, "{}", at(32, 16));
        assert!(at(32, 16) < -132.0 && at(32, 14) < -58.0 && at(32, 12) < -31.0);
        assert!(at(32, 16) < at(32, 15) && at(32, 15) < at(32, 14));
    }

    #[test]
    fn small_ranges_never_look_safe() {
        assert!(failure_log2(1 << 16, 192, 4) > -1.0 && failure_log2(1 << 16, 32, 1) > -1.0);
    }
}
