//! Dropping fractional bits of a shared value without a failure probability, by pairs of the dealer.
//!
//! x, of magnitude below 2^62, is shared; r is uniform and shared. c = x + 2^62 + r is opened. With c' and r' the low
//! 63 bits and c_top, r_top the top bits, the low parts overflowed exactly when c_top and r_top differ, since
//! x + 2^62 has no top bit. Hence, with T = 2^(63-f) r_top and pair = r' >> f,
//!
//! `y = (c' >> f) + 2^(63-f) c_top - 2^(62-f) + (1 - 2 c_top) T - pair`
//!
//! is x >> f, plus one when the low f bits of x and r overflow: rounding up with the probability of the fraction.
//! Both T and pair are shared by the dealer, and only c_top need be known to both parties.
//! Source: Escudero et al., eprint 2020/338, and Dalskov et al., eprint 2019/131, adapted to a dealer.

/// Added before the opening, so that the value is not negative.
pub(crate) const OFFSET: u64 = 1 << 62;

/// The dealer's pair for a mask: (T, r' >> f).
pub(crate) fn pair(mask: u64, bits: u32) -> (u64, u64) {
    (mask >> 63 << (63 - bits), (mask & (u64::MAX >> 1)) >> bits)
}

/// The public part of y, and c_top, from the opened c.
pub(crate) fn opened(open: u64, bits: u32) -> (u64, bool) {
    let top = open >> 63;
    let low = (open & (u64::MAX >> 1)) >> bits;
    (low.wrapping_add(top << (63 - bits)).wrapping_sub(OFFSET >> bits), top == 1)
}

/// A party's share of (1 - 2 c_top) T.
pub(crate) fn signed(top: bool, share: u64) -> u64 {
    if top { share.wrapping_neg() } else { share }
}

/// What the protocol computes, in the clear, from the low `bits` bits of the mask: the twin's side.
pub(crate) fn clear(value: u64, mask: u64, bits: u32) -> u64 {
    let low = (1u64 << bits) - 1;
    let shifted = value.wrapping_add(OFFSET);
    let carry = u64::from((shifted & low) + (mask & low) > low);
    ((shifted & (u64::MAX >> 1)) >> bits).wrapping_add(carry).wrapping_sub(OFFSET >> bits)
}

/// Packs booleans, eight to a byte, the first in the lowest bit.
pub(crate) fn pack(bits: &[bool]) -> Vec<u8> {
    bits.chunks(8).map(|bits| bits.iter().enumerate().fold(0, |byte, (i, &bit)| byte | u8::from(bit) << i)).collect()
}

/// Entry `i` of packed booleans.
pub(crate) fn unpacked(bytes: &[u8], i: usize) -> bool {
    bytes[i / 8] >> (i % 8) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Draw, Seed};

    /// The two parties' computation.
    fn shared(value: u64, [mask, top_share, pair_share]: [u64; 3], bits: u32) -> u64 {
        let (top, pair) = pair(mask, bits);
        let (public, c_top) = opened(value.wrapping_add(OFFSET).wrapping_add(mask), bits);
        let first = signed(c_top, top_share).wrapping_sub(pair_share);
        let second = signed(c_top, top.wrapping_sub(top_share)).wrapping_sub(pair.wrapping_sub(pair_share));
        public.wrapping_add(first).wrapping_add(second)
    }

    #[test]
    fn shares_add_up_to_the_clear_truncation_and_never_fail() {
        let words = Seed::from_bytes([5; 32]).words(Draw::O, 0, 400_000);
        let extremes = [0, 1, u64::MAX, (1 << 62) - 1, (1u64 << 62).wrapping_neg() + 1, 1 << 61];
        for (i, random) in words.chunks_exact(4).enumerate() {
            let bits = [1, 12, 30, 44, 61][i % 5];
            // Any value below 2^62 in magnitude: the extremes, and uniform ones.
            let value = if i % 4 == 0 { extremes[i / 4 % 6] } else { ((random[3] as i64) >> 2) as u64 };
            let mask = match i % 3 {
                0 => [0, u64::MAX, 1 << 63, (1 << 63) - 1][i / 3 % 4],
                _ => random[0],
            };
            let out = shared(value, [mask, random[1], random[2]], bits);
            assert_eq!(out, clear(value, mask, bits));
            let exact = (value as i64) >> bits;
            assert!(matches!((out as i64) - exact, 0 | 1), "{value} {mask} {bits}");
        }
    }

    #[test]
    fn rounding_has_no_bias() {
        let words = Seed::from_bytes([6; 32]).words(Draw::O, 0, 40_000);
        // 5.25 at two bits rounds up a quarter of the time: 10000 of 40000, standard deviation 87.
        let up = words.iter().filter(|&&mask| clear(21, mask, 2) == 6).count();
        assert!(up.abs_diff(10_000) < 5 * 87, "{up}");
    }

    #[test]
    fn booleans_survive_packing() {
        let bits: Vec<bool> = (0..19).map(|i| i % 3 == 0).collect();
        let bytes = pack(&bits);
        assert_eq!(bytes.len(), 3);
        assert!(bits.iter().enumerate().all(|(i, &bit)| unpacked(&bytes, i) == bit));
    }
}
