//! Fixed point in Z_2^64: how many fractional bits each kind of value has, and exact rounding.
//!
//! Activations that enter a fixed-weight product have [`ACTIVATION_BITS`], so have queries and keys after the rotary
//! embedding and the mixed values; probabilities have [`PROBABILITY_BITS`], because a small one loses most. Weights
//! have as many bits as their matrix allows (see `weights`), so products have the sum of both. Nothing is rounded on
//! shares except by the dealer's pairs (see `truncation`); all else is rounded where the user opens a value.
//!
//! Range: a value of `b` fractional bits must stay below 2^(62-b). The largest sum is 46 bits, for mixed values.

/// Fractional bits of activations.
pub const ACTIVATION_BITS: u32 = 12;
/// Fractional bits of attention probabilities.
pub const PROBABILITY_BITS: u32 = 16;
/// Fractional bits of the rotary table.
pub const ROTARY_BITS: u32 = 14;
/// Most fractional bits of a weight.
pub const MAX_WEIGHT_BITS: u32 = 18;
/// Fractional bits of attention scores.
pub const SCORE_BITS: u32 = 2 * ACTIVATION_BITS;

/// 2^bits as a float, for bits from -1022 to 1023: exact on every machine, which a library's power need not be.
pub(crate) fn power(bits: i32) -> f64 {
    debug_assert!((-1022..=1023).contains(&bits));
    f64::from_bits(((1023 + bits) as u64) << 52)
}

/// The integer nearest to `value`, ties to even; out of range it saturates, and NaN gives zero.
pub(crate) fn rounded(value: f64) -> u64 {
    value.round_ties_even() as i64 as u64
}

/// acc += a.
pub(crate) fn add_assign(acc: &mut [u64], a: &[u64]) {
    debug_assert_eq!(acc.len(), a.len());
    acc.iter_mut().zip(a).for_each(|(x, a)| *x = x.wrapping_add(*a));
}

/// acc -= a.
pub(crate) fn sub_assign(acc: &mut [u64], a: &[u64]) {
    debug_assert_eq!(acc.len(), a.len());
    acc.iter_mut().zip(a).for_each(|(x, a)| *x = x.wrapping_sub(*a));
}

/// a + b.
pub(crate) fn sum(a: &[u64], b: &[u64]) -> Vec<u64> {
    debug_assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.wrapping_add(*b)).collect()
}

/// a - b.
pub(crate) fn difference(a: &[u64], b: &[u64]) -> Vec<u64> {
    debug_assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.wrapping_sub(*b)).collect()
}

/// acc += a 2^shift.
pub(crate) fn add_shifted(acc: &mut [u64], a: &[u64], shift: u32) {
    debug_assert_eq!(acc.len(), a.len());
    acc.iter_mut().zip(a).for_each(|(x, a)| *x = x.wrapping_add(a << shift));
}
