//! Work of what was counted, in forward transforms of a limb: the same on every machine, so that circuits, also of different
//! chains of one degree, can be compared before one of them runs.
//!
//! Times of kernels are those of the profile of a bootstrap in docs/performance.md, over that of a transform.

use crate::{Counts, LevelCounts, Parameters};

/// Inverse transform with the scaling of a conversion.
const INVERSE: f64 = 1.7;
/// Conversion of one digit to one limb.
const LIFT: f64 = 1.4;
/// One digit times both halves of a key, one of them made from its seed.
const KEY_DIGIT: f64 = 0.84;
/// Moving one limb by an automorphism.
const PERMUTE: f64 = 0.35;
/// One pass of multiplying a limb by a constant, with or without a sum.
const PASS: f64 = 0.5;
/// One limb of a tensor product.
const TENSOR: f64 = 2.1;
/// A product with a diagonal of a bootstrap, which is encoded beforehand, in all limbs.
const ENCODED_PRODUCT: f64 = 8.4;
/// One weight times one token of a product between bootstraps, ring switches and packing included: 2.8 s of one core for
/// 4096 × 4096 weights and 128 tokens.
const MATRIX_PRODUCT: f64 = 1.5e-3 / 128.0;
/// One slot of a diagonal: making it, and its share of the Fourier transform that encodes two diagonals.
const ENCODE_SLOT: f64 = 2e-4;
/// One slot of a diagonal in one prime: its share of reductions and of a transform for two.
const ENCODE_RESIDUE: f64 = 0.6;

/// The work of these operations under these parameters, keys held as seeds, in forward transforms of a limb.
pub fn work(parameters: &Parameters, counts: &Counts) -> f64 {
    let encodings: u64 = counts.by_level.iter().map(|level| level.encodings).sum();
    let beforehand = counts.plaintext_products.saturating_sub(encodings);
    let levels = counts.by_level.iter().enumerate();
    levels.map(|(level, counts)| at_level(parameters, level, counts)).sum::<f64>()
        + beforehand as f64 * ENCODED_PRODUCT
        + counts.matrix_products as f64 * MATRIX_PRODUCT
}

/// The work of what happened at one level.
fn at_level(parameters: &Parameters, level: usize, counts: &LevelCounts) -> f64 {
    let (basis, digits) = (parameters.key_basis(level), parameters.digits(level).len() as f64);
    let (q, p) = (basis.q as f64, basis.p as f64);
    let (extended, slots) = (q + p, (1u64 << parameters.chain().log_n) as f64 / 2.0);
    // Every digit is converted to all limbs but its own and transformed there.
    let decomposition = q * INVERSE + (digits * extended - q) * (1.0 + LIFT);
    let key_switch = extended * (digits * KEY_DIGIT + 2.0 * PERMUTE) + q * PASS;
    // The special limbs are one digit more, somewhat larger than the others.
    let division = p * INVERSE + q * (1.0 + 1.2 * LIFT + PASS);
    let rescale = 2.0 * (INVERSE + q * (1.0 + PASS));
    let times = |count: u64, each: f64| count as f64 * each;
    times(counts.decompositions, decomposition)
        + times(counts.key_switches, key_switch)
        + times(counts.divisions, division)
        + times(counts.products, q * TENSOR)
        + times(counts.rescales, rescale)
        + times(counts.encodings, 2.0 * q * PASS)
        + times(counts.encoded_slots, ENCODE_SLOT + ENCODE_RESIDUE * q / slots)
}

#[cfg(test)]
mod tests {
    use super::super::product_counts;
    use super::*;
    use crate::MatrixShape;

    #[test]
    fn more_key_switches_are_more_work_and_higher_ones_more_so() {
        let parameters = Parameters::default_preset();
        let of = |level, count| {
            let mut counts = Counts::default();
            counts.key_switch(level, count);
            work(&parameters, &counts)
        };
        assert!(of(20, 10) > 9.9 * of(20, 1));
        assert!(of(20, 1) > of(4, 1));
    }

    #[test]
    fn a_matrix_is_less_work_for_fewer_tokens() {
        let parameters = Parameters::product_preset();
        let of = |tokens| {
            let shape = MatrixShape { outputs: 4096, inputs: 4096, tokens };
            let counts = product_counts(parameters.chain(), &shape);
            // The weights alone: fewer tokens are also fewer pairs to switch and pack.
            let weights = Counts { matrix_products: counts.matrix_products, ..Counts::default() };
            [work(&parameters, &weights), work(&parameters, &counts)]
        };
        let ([short, short_all], [long, long_all]) = (of(16), of(128));
        assert!((long / short - 8.0).abs() < 1e-9, "{short} and {long}");
        assert!(short_all < long_all / 7.0, "{short_all} and {long_all}");
        // As calibrated: 1.5 transforms for a thousand weights at 128 tokens.
        assert!((long / 4096f64.powi(2) - 1.5e-3).abs() < 1e-12);
    }
}
