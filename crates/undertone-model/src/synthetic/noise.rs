//! Random rows of tensors: a function of seed, tensor, row and place alone, so that they can be made in any order.

const CONTEXT: &str = "undertone synthetic weights, version 2";
/// Integers in a sum.
const TERMS: usize = 12;
/// Mean of the sum.
const MEAN: i32 = TERMS as i32 / 2 * u16::MAX as i32;
/// Numbers that are drawn at a time: whole blocks of the hash's output.
const BATCH: usize = 64;

/// The stream that all tensors of one model come from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Noise {
    pub(super) seed: u64,
}

impl Noise {
    /// Numbers of mean zero and nearly normal, at most six deviations from it, by the law of Irwin and Hall.
    ///
    /// Each is the sum of twelve uniform 16-bit integers: no logarithm or cosine, whose last bit differs between
    /// platforms, so that all of them make the same weights.
    pub(super) fn fill(&self, name: &str, row: usize, deviation: f64, out: &mut [f32]) {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&self.seed.to_le_bytes()).update(&(row as u64).to_le_bytes()).update(name.as_bytes());
        let mut stream = hasher.finalize_xof();
        // The variance of a uniform integer below 2^16 is (2^32 − 1) / 12; the sum has twelve times that.
        let unit = deviation / f64::from(u32::MAX).sqrt();
        let mut bytes = [[[0u8; 2]; TERMS]; BATCH];
        for batch in out.chunks_mut(BATCH) {
            let bytes = &mut bytes[..batch.len()];
            stream.fill(bytes.as_flattened_mut().as_flattened_mut());
            for (value, terms) in batch.iter_mut().zip(bytes) {
                let sum: i32 = terms.iter().map(|&term| i32::from(u16::from_le_bytes(term))).sum();
                *value = (unit * f64::from(sum - MEAN)) as f32;
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
        // A normal law has 4.55 % beyond two deviations, that of twelve terms 4.58 %; five deviations are 1.05 %.
        let beyond = data.iter().filter(|x| x.abs() > 0.5).count();
        assert!((beyond as f64 / 1e4 - 0.0458).abs() < 0.0105, "{beyond}");
    }

    #[test]
    fn bits_are_the_same_everywhere() {
        let mut data = vec![0.0f32; 200];
        Noise { seed: 5 }.fill("any", 3, 0.25, &mut data);
        let places = [0, 1, 63, 64, 199];
        // Computed by another program from the published definition of the hash.
        let bits = [0xbeba_5900, 0x3d82_fa00, 0xbece_0800, 0xbe37_c500, 0xbcad_c000];
        assert_eq!(places.map(|i| data[i].to_bits()), bits);
        // A row does not depend on its length.
        let mut short = vec![0.0f32; 70];
        Noise { seed: 5 }.fill("any", 3, 0.25, &mut short);
        assert_eq!(short, data[..70]);
    }
}
