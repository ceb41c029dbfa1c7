//! Random rows of tensors: a function of seed, tensor, row and place alone, so that they can be made in any order.

/// The stream that all tensors of one model come from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Noise {
    pub(super) seed: u64,
}

impl Noise {
    /// Normal numbers of mean zero, by the transform of Box and Muller.
    pub(super) fn fill(&self, name: &str, row: usize, deviation: f64, out: &mut [f32]) {
        let mut hasher = blake3::Hasher::new_derive_key("undertone synthetic weights, version 1");
        hasher.update(&self.seed.to_le_bytes()).update(&(row as u64).to_le_bytes()).update(name.as_bytes());
        let mut stream = hasher.finalize_xof();
        for pair in out.chunks_mut(2) {
            let mut bytes = [[0u8; 4]; 2];
            stream.fill(bytes.as_flattened_mut());
            // The first number lies in (0, 1], so that its logarithm is finite.
            let [first, second] = bytes.map(|four| (f64::from(u32::from_le_bytes(four)) + 1.0) * (-32f64).exp2());
            let radius = deviation * (-2.0 * first.ln()).sqrt();
            let angle = std::f64::consts::TAU * second;
            for (value, part) in pair.iter_mut().zip([angle.cos(), angle.sin()]) {
                *value = (radius * part) as f32;
            }
        }
    }

    /// Gains around 1, at most 0.3 away from it.
    pub(super) fn gains(&self, name: &str, out: &mut [f32]) {
        self.fill(name, 0, 0.1, out);
        out.iter_mut().for_each(|gain| *gain = 1.0 + gain.clamp(-0.3, 0.3));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_stated_deviation() {
        let mut data = vec![0.0; 10_000];
        data.chunks_mut(100).enumerate().for_each(|(row, out)| Noise { seed: 5 }.fill("any", row, 0.25, out));
        let mean = data.iter().map(|&x| f64::from(x)).sum::<f64>() / 1e4;
        let square = data.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / 1e4;
        // Five standard deviations of the two estimates: 0.25 · 5 / 100 and 0.0625 · √2 · 5 / 100.
        assert!(mean.abs() < 0.0125 && (square - 0.0625).abs() < 0.0045, "{mean} {square}");
    }
}
