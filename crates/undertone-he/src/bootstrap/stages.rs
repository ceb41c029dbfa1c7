//! Twiddles of the special FFT between n complex coefficients and n slots, stage by stage.
//!
//! The transform is S_n ··· S_4 · S_2 · bit reversal, with butterflies (u, v) → (u + w·v, u − w·v),
//! w = e^(2πi·(5^j mod 4len)/4len) for offset j in a block of length len. The homomorphic DFT of bootstrapping uses the
//! stages without the reversal; [`crate::Encoder`] computes the whole in another way.

use num_complex::Complex64;

/// One table serves all periods, since the stage of length `len` does not depend on n.
pub(super) struct Stages {
    /// `stages[k]` holds the len/2 twiddles of length len = 2^(k+1).
    stages: Vec<Vec<Complex64>>,
}

impl Stages {
    /// Tables up to 2^`log_slots` slots.
    pub(super) fn new(log_slots: u32) -> Self {
        let stages = (1..=log_slots)
            .map(|log_len| {
                let modulus = 4usize << log_len;
                let mut power = 1usize;
                (0..1usize << (log_len - 1))
                    .map(|_| {
                        let angle = 2.0 * std::f64::consts::PI * power as f64 / modulus as f64;
                        power = power * 5 % modulus;
                        Complex64::from_polar(1.0, angle)
                    })
                    .collect()
            })
            .collect();
        Self { stages }
    }

    /// The twiddles of the stage of length 2^`log_len`.
    pub(super) fn twiddles(&self, log_len: u32) -> &[Complex64] {
        &self.stages[log_len as usize - 1]
    }
}
