//! A prime modulus below 2^50 with its Barrett constant, and exact scalar arithmetic on fully reduced residues.
//!
//! Secrets pass through here, so nothing but [`Modulus::pow`] branches on a value: the last reduction of each operation
//! takes the smaller of two candidates, of which the wrong one has wrapped around to a number near 2^64, or masks.

use crate::Error;
use crate::primes::is_prime;

/// A prime q with 2^10 <= q < 2^50.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Modulus {
    q: u64,
    /// floor(2^128 / q).
    ratio: u128,
}

impl Modulus {
    /// Checks and prepares a prime.
    ///
    /// # Errors
    /// When `q` is outside 2^10..2^50 or not a prime.
    pub fn new(q: u64) -> Result<Self, Error> {
        if !(1 << 10..1 << 50).contains(&q) {
            return Err(Error::ModulusRange { value: q });
        }
        if !is_prime(q) {
            return Err(Error::NotPrime { value: q });
        }
        // q is odd, so floor((2^128 - 1) / q) equals floor(2^128 / q).
        Ok(Self { q, ratio: u128::MAX / q as u128 })
    }

    /// The prime itself.
    #[inline]
    pub fn value(self) -> u64 {
        self.q
    }

    /// a + b mod q, for reduced inputs.
    #[inline]
    pub fn add(self, a: u64, b: u64) -> u64 {
        self.fold(a + b)
    }

    /// a - b mod q, for reduced inputs.
    #[inline]
    pub fn sub(self, a: u64, b: u64) -> u64 {
        let difference = a.wrapping_sub(b);
        difference.min(difference.wrapping_add(self.q))
    }

    /// -a mod q, for a reduced input.
    #[inline]
    pub fn neg(self, a: u64) -> u64 {
        self.fold(self.q - a)
    }

    /// a mod q, for a below 2q.
    #[inline]
    fn fold(self, a: u64) -> u64 {
        a.min(a.wrapping_sub(self.q))
    }

    /// a * b mod q, for any inputs.
    #[inline]
    pub fn mul(self, a: u64, b: u64) -> u64 {
        self.reduce_u128(a as u128 * b as u128)
    }

    /// a mod q.
    #[inline]
    pub fn reduce(self, a: u64) -> u64 {
        // For a < 2^64 only the high word of the ratio matters: the quotient estimate is short by at most 1.
        let estimate = ((a as u128 * (self.ratio >> 64)) >> 64) as u64;
        let r = a.wrapping_sub(estimate.wrapping_mul(self.q));
        self.fold(r)
    }

    /// a mod q for a 128-bit value.
    #[inline]
    pub fn reduce_u128(self, a: u128) -> u64 {
        // estimate = floor(a * ratio / 2^128) is floor(a / q) or one less, because ratio > 2^128/q - 1.
        let (a0, a1) = (a as u64 as u128, a >> 64);
        let (r0, r1) = (self.ratio as u64 as u128, self.ratio >> 64);
        let (t1, t2) = (a0 * r1, a1 * r0);
        let middle = ((a0 * r0) >> 64) + (t1 as u64 as u128) + (t2 as u64 as u128);
        let estimate = (a1 * r1).wrapping_add(t1 >> 64).wrapping_add(t2 >> 64).wrapping_add(middle >> 64);
        let r = (a as u64).wrapping_sub((estimate as u64).wrapping_mul(self.q));
        self.fold(r)
    }

    /// a mod q for a signed value.
    #[inline]
    pub fn reduce_i64(self, a: i64) -> u64 {
        let r = self.reduce(a.unsigned_abs());
        self.neg_if((a >> 63) as u64, r)
    }

    /// a mod q for a signed 128-bit value.
    #[inline]
    pub fn reduce_i128(self, a: i128) -> u64 {
        let r = self.reduce_u128(a.unsigned_abs());
        self.neg_if((a >> 127) as u64, r)
    }

    /// -a mod q where `mask` is all ones, a where it is zero; for a reduced input.
    #[inline]
    fn neg_if(self, mask: u64, a: u64) -> u64 {
        (a & !mask) | (self.neg(a) & mask)
    }

    /// base^exponent mod q.
    pub fn pow(self, base: u64, exponent: u64) -> u64 {
        let (mut base, mut exponent, mut result) = (self.reduce(base), exponent, 1);
        while exponent > 0 {
            if exponent & 1 == 1 {
                result = self.mul(result, base);
            }
            base = self.mul(base, base);
            exponent >>= 1;
        }
        result
    }

    /// The inverse of `a` mod q; zero for a multiple of q.
    pub fn inverse(self, a: u64) -> u64 {
        self.pow(a, self.q - 2)
    }

    /// The representative of a reduced `a` in (-q/2, q/2].
    #[inline]
    pub fn center(self, a: u64) -> i64 {
        // Both sides are below 2^50, so the sign of the difference says which is larger.
        let above = (self.q / 2).wrapping_sub(a) as i64 >> 63;
        a as i64 - (self.q as i64 & above)
    }

    /// floor(w * 2^52 / q): the Shoup quotient of a reduced multiplier for 52-bit lanes.
    #[inline]
    pub(crate) fn shoup(self, w: u64) -> u64 {
        (((w as u128) << 52) / self.q as u128) as u64
    }

    /// w * y mod q in [0, 2q), for y < 2^52 and the Shoup quotient of w.
    #[inline]
    pub(crate) fn mul_shoup_lazy(self, y: u64, w: u64, quotient: u64) -> u64 {
        let high = ((y as u128 * quotient as u128) >> 52) as u64;
        y.wrapping_mul(w).wrapping_sub(high.wrapping_mul(self.q))
    }

    /// w * y mod q, for y < 2^52 and the Shoup quotient of w.
    #[inline]
    pub(crate) fn mul_shoup(self, y: u64, w: u64, quotient: u64) -> u64 {
        self.fold(self.mul_shoup_lazy(y, w, quotient))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_division() {
        for q in [1153u64, 65537, (1 << 36) - 5, 1125899906842597] {
            let m = Modulus::new(q).unwrap();
            let mut x = 0x9e37_79b9_7f4a_7c15_u64;
            for _ in 0..2000 {
                x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let y = x.rotate_left(23) ^ 0x1234_5678_9abc;
                let wide = (x as u128) << 64 | y as u128;
                assert_eq!(m.reduce(x), x % q);
                assert_eq!(m.reduce_u128(wide), (wide % q as u128) as u64);
                assert_eq!(m.reduce_i64(x as i64) as i128, (x as i64 as i128).rem_euclid(q as i128));
                assert_eq!(m.reduce_i128(wide as i128) as i128, (wide as i128).rem_euclid(q as i128));
                let (a, b) = (x % q, y % q);
                assert_eq!(m.mul_shoup(b, a, m.shoup(a)), m.mul(a, b));
                assert_eq!(m.center(a).rem_euclid(q as i64) as u64, a);
                if a != 0 {
                    assert_eq!(m.mul(a, m.inverse(a)), 1);
                }
            }
            assert_eq!(m.reduce_u128(u128::MAX), (u128::MAX % q as u128) as u64);
            assert_eq!(m.reduce(u64::MAX), u64::MAX % q);
            assert_eq!(m.reduce_i64(i64::MIN) as i128, (i64::MIN as i128).rem_euclid(q as i128));
        }
    }

    #[test]
    fn sums_and_signs_agree_with_division_up_to_both_ends() {
        for q in [1153u64, 65537, 1125899906842597] {
            let m = Modulus::new(q).unwrap();
            let values = [0, 1, 2, q / 2 - 1, q / 2, q / 2 + 1, q - 2, q - 1];
            for a in values {
                assert_eq!(m.neg(a), (q - a) % q);
                let centred = if a > q / 2 { a as i64 - q as i64 } else { a as i64 };
                assert_eq!(m.center(a), centred);
                assert_eq!((m.reduce_i64(centred), m.reduce_i128(i128::from(centred))), (a, a));
                for b in values {
                    assert_eq!((m.add(a, b), m.sub(a, b)), ((a + b) % q, (a + q - b) % q));
                }
            }
        }
    }

    #[test]
    fn refuses_composites_and_sizes() {
        assert!(Modulus::new(1 << 20).is_err());
        assert!(Modulus::new(997).is_err());
        assert!(Modulus::new((1 << 50) + 55).is_err());
    }
}
