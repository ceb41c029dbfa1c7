//! Words cut into signed digits, the form in which 16-bit multiply-adds take them.
//!
//! A word y is the sum of `d_k 2^(11 k)` modulo 2^64 with six digits `d_k` from -1024 to 1023. The product of a digit
//! and a weight is below 2^25 in magnitude, a pair of them at most 2^26, so that 31 pairs fit a signed 32-bit lane.
//! Digits lie in groups of 32 columns, the six digits of a group side by side; missing columns are zero.

/// Digits of a word.
pub(crate) const DIGITS: usize = 6;
/// Bits of a digit.
pub(crate) const DIGIT_BITS: u32 = 11;
/// Columns of a group.
pub(crate) const GROUP: usize = 32;

/// The words of a product, and their digits where the kernels use them.
pub struct Operand<'a> {
    pub(crate) words: &'a [u64],
    pub(crate) cols: usize,
    /// `[tokens, groups, DIGITS, GROUP]`, or empty.
    pub(crate) digits: Vec<i16>,
}

impl<'a> Operand<'a> {
    /// Words alone.
    pub(crate) fn whole(words: &'a [u64], cols: usize) -> Self {
        Self { words, cols, digits: Vec::new() }
    }

    /// Words with their digits.
    ///
    /// # Panics
    /// When `cols` is zero.
    pub(crate) fn cut(words: &'a [u64], cols: usize) -> Self {
        assert!(cols > 0, "a product needs at least one column");
        let per_token = cols.div_ceil(GROUP) * DIGITS * GROUP;
        let mut digits = vec![0i16; words.len() / cols * per_token];
        for (row, out) in words.chunks_exact(cols).zip(digits.chunks_exact_mut(per_token)) {
            for (group, out) in row.chunks(GROUP).zip(out.chunks_exact_mut(DIGITS * GROUP)) {
                cut_group(group, out);
            }
        }
        Self { words, cols, digits }
    }

    /// Digits of one token, `[groups, DIGITS, GROUP]`.
    pub(crate) fn token(&self, token: usize) -> &[i16] {
        let len = self.cols.div_ceil(GROUP) * DIGITS * GROUP;
        &self.digits[token * len..(token + 1) * len]
    }
}

fn cut_group(words: &[u64], out: &mut [i16]) {
    let mut rest = [0u64; GROUP];
    rest[..words.len()].copy_from_slice(words);
    for digits in out.chunks_exact_mut(GROUP) {
        for (digit, rest) in digits.iter_mut().zip(&mut rest) {
            // The low eleven bits as a signed number; what is left is a multiple of 2^11 modulo 2^64.
            let low = ((*rest & 2047) ^ 1024).wrapping_sub(1024);
            *digit = low as i16;
            *rest = rest.wrapping_sub(low) >> DIGIT_BITS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_add_up_to_the_word() {
        let words: Vec<u64> = (0..70u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (i << 58)).collect();
        let words = [words, vec![0, 1, 1023, 1024, u64::MAX, 1 << 63, (1 << 63) - 1]].concat();
        for (i, &word) in words.iter().enumerate() {
            let operand = Operand::cut(&words, words.len());
            let (group, lane) = (i / GROUP, i % GROUP);
            let digit = |k: usize| operand.token(0)[(group * DIGITS + k) * GROUP + lane];
            let sum = (0..DIGITS).fold(0u64, |sum, k| {
                assert!((-1024..1024).contains(&digit(k)));
                sum.wrapping_add((i64::from(digit(k)) as u64).wrapping_shl(DIGIT_BITS * k as u32))
            });
            assert_eq!(sum, word);
        }
    }
}
