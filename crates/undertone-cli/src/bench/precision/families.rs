//! Inputs of the half-bootstrap by family, the same ones for the same seed.
//!
//! Only inputs come from the seed. Keys and the randomness of encryption come from the operating system.

use std::f64::consts::PI;

/// Magnitude of the family of small values.
const SMALL: f64 = 1.0 / 1024.0;

/// Two vectors of real slots that are bootstrapped together as low + i·high; every slot is in [−1, 1].
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// The slots of the first ciphertext.
    pub low: Vec<f64>,
    /// The slots of the second ciphertext.
    pub high: Vec<f64>,
}

impl Input {
    /// Both vectors filled slot by slot from the slot's number.
    fn from_slots(slots: usize, mut pair: impl FnMut(usize) -> (f64, f64)) -> Self {
        let (low, high) = (0..slots).map(&mut pair).unzip();
        Self { low, high }
    }

    /// The largest magnitude of any slot.
    pub fn largest(&self) -> f64 {
        self.low.iter().chain(&self.high).fold(0.0, |largest, value| value.abs().max(largest))
    }
}

/// A law of inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Uniform in [−1, 1).
    Uniform,
    /// −1 or 1 in every slot.
    Signs,
    /// 1 in every slot.
    Constant,
    /// −1 or 1 in one slot of each vector, 0 elsewhere.
    Single,
    /// low + i·high is the monomial X^k: low holds cosines and high the sines of the same angles.
    Monomial,
    /// Uniform in [−2^-10, 2^-10).
    Small,
}

impl Family {
    /// Every family, in the order of the report.
    pub const ALL: [Self; 6] = [Self::Uniform, Self::Signs, Self::Constant, Self::Single, Self::Monomial, Self::Small];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Signs => "signs",
            Self::Constant => "constant",
            Self::Single => "single",
            Self::Monomial => "monomial",
            Self::Small => "small",
        }
    }

    /// Draws an input of `slots` slots per vector, a power of two.
    pub fn draw(self, slots: usize, random: &mut Random) -> Input {
        match self {
            Self::Uniform => Input::from_slots(slots, |_| (random.signed_unit(), random.signed_unit())),
            Self::Signs => Input::from_slots(slots, |_| (random.sign(), random.sign())),
            Self::Constant => Input::from_slots(slots, |_| (1.0, 1.0)),
            Self::Single => single(slots, random),
            Self::Monomial => monomial(slots, 1 + random.below(2 * slots - 1)),
            Self::Small => Input::from_slots(slots, |_| (SMALL * random.signed_unit(), SMALL * random.signed_unit())),
        }
    }
}

fn single(slots: usize, random: &mut Random) -> Input {
    let mut input = Input { low: vec![0.0; slots], high: vec![0.0; slots] };
    input.low[random.below(slots)] = random.sign();
    input.high[random.below(slots)] = random.sign();
    input
}

/// The slots of X^exponent: slot j is ζ^(5^j·exponent), where ζ = e^(iπ/N) and N is twice the number of slots.
fn monomial(slots: usize, exponent: usize) -> Input {
    let order = 4 * slots;
    let mut power = exponent;
    Input::from_slots(slots, |_| {
        let (sine, cosine) = (2.0 * PI * power as f64 / order as f64).sin_cos();
        power = power * 5 % order;
        (cosine, sine)
    })
}

/// Repeatable numbers for inputs and mutations: SplitMix64, which is no source of secrets.
pub struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 * 2f64.powi(-53)
    }

    /// Uniform in [−1, 1).
    pub fn signed_unit(&mut self) -> f64 {
        2.0 * self.unit() - 1.0
    }

    /// −1 or 1.
    pub fn sign(&mut self) -> f64 {
        if self.word() >> 63 == 0 { 1.0 } else { -1.0 }
    }

    /// Below `bound`, which is positive and at most 2^32.
    pub fn below(&mut self, bound: usize) -> usize {
        (((self.word() >> 32) * bound as u64) >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides_the_inputs() {
        let draw = |family: Family, seed| family.draw(64, &mut Random::new(seed));
        for family in Family::ALL {
            assert_eq!(draw(family, 1), draw(family, 1), "{family:?}");
            assert_eq!(draw(family, 1) == draw(family, 2), family == Family::Constant, "{family:?}");
        }
    }

    #[test]
    fn every_family_keeps_its_range() {
        let mut random = Random::new(5);
        for family in Family::ALL {
            let input = family.draw(1024, &mut random);
            assert_eq!((input.low.len(), input.high.len()), (1024, 1024));
            let largest = input.largest();
            match family {
                Family::Small => assert!(largest <= SMALL && largest > 0.99 * SMALL, "{largest}"),
                _ => assert!(largest <= 1.0 && largest > 0.99, "{family:?} {largest}"),
            }
        }
        let ones = |family: Family, random: &mut Random| {
            let input = family.draw(1024, random);
            input.low.iter().chain(&input.high).filter(|value| value.abs() == 1.0).count()
        };
        assert_eq!(ones(Family::Signs, &mut random), 2048);
        assert_eq!(ones(Family::Single, &mut random), 2);
    }

    #[test]
    fn a_monomial_has_one_coefficient() {
        let (log_n, exponent) = (8, 77);
        let slots = 1 << (log_n - 1);
        let input = monomial(slots, exponent);
        let mut coefficients = vec![0.0; 1 << log_n];
        coefficients[exponent] = 1.0;
        let expected = undertone_he::Encoder::new(log_n, undertone_ring::detect_backend()).decode(&coefficients);
        for (slot, value) in expected.iter().enumerate() {
            assert!((value.re - input.low[slot]).abs() < 1e-12, "cosine of slot {slot}");
            assert!((value.im - input.high[slot]).abs() < 1e-12, "sine of slot {slot}");
        }
    }
}
