//! What a set of signed slot errors says: largest, quantiles, means, bias.

use serde_json::{Map, Value, json};

/// The share of slots whose mean magnitude of error compares inputs.
const TAIL: f64 = 0.001;

/// Signed errors of all slots of one or more runs.
#[derive(Default)]
pub struct Sample {
    errors: Vec<f64>,
    worst_by_run: Vec<f64>,
}

impl Sample {
    /// Adds the errors of one run; there is at least one.
    pub fn add_run(&mut self, errors: &[f64]) {
        self.worst_by_run.push(errors.iter().fold(0.0, |largest, error| error.abs().max(largest)));
        self.errors.extend_from_slice(errors);
    }

    /// Figures over all slots of all runs; at least one run was added.
    pub fn summary(self) -> Summary {
        let count = self.errors.len() as f64;
        let bias = self.errors.iter().sum::<f64>() / count;
        let rms = (self.errors.iter().map(|error| error * error).sum::<f64>() / count).sqrt();
        let sorted = descending(&self.errors);
        Summary {
            values: sorted.len(),
            worst: sorted[0],
            thousandth: exceeded_by(&sorted, 0.001),
            hundredth: exceeded_by(&sorted, 0.01),
            median: exceeded_by(&sorted, 0.5),
            tail: mean_of_largest(&sorted, TAIL),
            mean: sorted.iter().sum::<f64>() / count,
            bias,
            rms,
            worst_by_run: self.worst_by_run,
        }
    }
}

/// Figures of one [`Sample`]; all but `values` are errors in units of a slot.
pub struct Summary {
    /// Number of errors.
    pub values: usize,
    /// The largest magnitude.
    pub worst: f64,
    /// The magnitude that 0.1 % of the slots exceed.
    pub thousandth: f64,
    /// The magnitude that 1 % of the slots exceed.
    pub hundredth: f64,
    /// The magnitude that half of the slots exceed.
    pub median: f64,
    /// Mean of the largest 0.1 % of the magnitudes.
    pub tail: f64,
    /// Mean magnitude.
    pub mean: f64,
    /// Mean of the signed errors.
    pub bias: f64,
    /// Root mean square.
    pub rms: f64,
    /// The largest magnitude of each run.
    pub worst_by_run: Vec<f64>,
}

impl Summary {
    /// As JSON fields: bits are −log2 of a magnitude, `bias` and `rms_error` are in units of a slot.
    pub fn object(&self) -> Map<String, Value> {
        let by_run: Vec<f64> = self.worst_by_run.iter().copied().map(bits).collect();
        let object = json!({
            "values": self.values,
            "worst_slot_bits": bits(self.worst),
            "worst_slot_bits_by_run": by_run,
            "quantile_0_1_percent_bits": bits(self.thousandth),
            "quantile_1_percent_bits": bits(self.hundredth),
            "quantile_50_percent_bits": bits(self.median),
            "tail_mean_bits": bits(self.tail),
            "mean_slot_bits": bits(self.mean),
            "bias": self.bias,
            "rms_error": self.rms,
        });
        match object {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }

    /// As a row of the table for people; columns as in [`heading`].
    pub fn row(&self, name: &str) -> String {
        let all = [self.worst, self.thousandth, self.hundredth, self.median, self.mean, self.rms];
        let columns: String = all.iter().map(|&error| format!("{:>8.2}", bits(error))).collect();
        format!("{name:<10}{columns}{:>11.1e}", self.bias)
    }
}

/// The heading of the table for people.
pub fn heading() -> String {
    let columns = ["worst", "0.1 %", "1 %", "50 %", "mean", "rms"].map(|column| format!("{column:>8}"));
    format!("{:<10}{}{:>11}", "bits of", columns.concat(), "bias")
}

/// Bits of precision that an error of this magnitude leaves.
pub fn bits(error: f64) -> f64 {
    -error.log2()
}

/// Mean magnitude of the 0.1 % largest errors, or of the largest one where they are fewer than a thousand.
///
/// The worst slot alone is mostly the luck of the noise; this mean over 66 of 65,536 slots varies far less between
/// encryptions of the same input.
pub fn tail_mean(errors: &[f64]) -> f64 {
    mean_of_largest(&descending(errors), TAIL)
}

fn descending(errors: &[f64]) -> Vec<f64> {
    let mut magnitudes: Vec<f64> = errors.iter().map(|error| error.abs()).collect();
    magnitudes.sort_unstable_by(|a, b| b.total_cmp(a));
    magnitudes
}

fn exceeded_by(sorted: &[f64], share: f64) -> f64 {
    let above = (sorted.len() as f64 * share) as usize;
    sorted[above.min(sorted.len() - 1)]
}

fn mean_of_largest(sorted: &[f64], share: f64) -> f64 {
    let count = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len());
    sorted[..count].iter().sum::<f64>() / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 to 2000 in a mixed order, every other one negative.
    fn ramp() -> Vec<f64> {
        (0..2000).map(|i| f64::from(i * 777 % 2000 + 1) * if i % 2 == 0 { 1.0 } else { -1.0 }).collect()
    }

    #[test]
    fn quantiles_are_exceeded_by_their_share() {
        let mut sample = Sample::default();
        sample.add_run(&ramp());
        let summary = sample.summary();
        assert_eq!((summary.values, summary.worst, summary.worst_by_run.as_slice()), (2000, 2000.0, &[2000.0][..]));
        // Two, twenty and a thousand values are larger.
        assert_eq!((summary.thousandth, summary.hundredth, summary.median), (1998.0, 1980.0, 1000.0));
        assert_eq!((summary.tail, tail_mean(&ramp())), (1999.5, 1999.5));
        assert_eq!(summary.mean, 1000.5);
    }

    #[test]
    fn bias_keeps_the_sign_and_rms_does_not() {
        let mut sample = Sample::default();
        sample.add_run(&[1.0, -3.0]);
        sample.add_run(&[-5.0, 1.0]);
        let summary = sample.summary();
        assert_eq!((summary.bias, summary.rms, summary.mean), (-1.5, 3.0, 2.5));
        assert_eq!((summary.worst, summary.worst_by_run), (5.0, vec![3.0, 5.0]));
        assert_eq!(summary.tail, 5.0);
    }

    #[test]
    fn bits_are_negative_logarithms() {
        assert_eq!((bits(0.25), bits(1.0), bits(8.0)), (2.0, 0.0, -3.0));
    }
}
