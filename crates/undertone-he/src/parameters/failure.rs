//! Probability that EvalMod meets an overflow outside its interval.

/// log2 of the probability that one of `ring_degree` coefficients has |I| ≥ `range` after ModRaise.
///
/// A coefficient is a sum of h + 1 independent uniforms on [−1/2, 1/2] (the constant part and h signed parts of a
/// secret of weight h), so the tail is that of the Irwin–Hall law; the union bound covers all coefficients and both
/// signs.
pub fn failure_log2(ring_degree: usize, weight: usize, range: usize) -> f64 {
    let terms = weight + 1;
    let distance = terms as f64 / 2.0 - range as f64;
    if distance <= 0.0 {
        return f64::NEG_INFINITY;
    }
    let mut probability_log2 = f64::NEG_INFINITY;
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
    if sum > 0.0 {
        probability_log2 = sum.log2() + terms as f64 * distance.log2() - log2_factorial;
    }
    probability_log2 + 1.0 + (ring_degree as f64).log2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_published_values() {
        let at = |h, k| failure_log2(1 << 16, h, k);
        assert!((at(32, 16) - -138.7).abs() < 0.2, "{}", at(32, 16));
        assert!((at(32, 14) - -62.0).abs() < 1.5, "{}", at(32, 14));
        assert!((at(32, 12) - -34.0).abs() < 1.5, "{}", at(32, 12));
    }
}
