//! Deterministic primality and the search for NTT primes.

use crate::Error;

fn mul_mod(a: u64, b: u64, n: u64) -> u64 {
    (a as u128 * b as u128 % n as u128) as u64
}

/// Miller-Rabin with the first twelve prime bases, which decides every n below 2^64.
pub(crate) fn is_prime(n: u64) -> bool {
    const BASES: [u64; 12] = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37];
    if n < 2 {
        return false;
    }
    if let Some(&divisor) = BASES.iter().find(|&&b| n.is_multiple_of(b)) {
        return n == divisor;
    }
    let shift = (n - 1).trailing_zeros();
    let odd = (n - 1) >> shift;
    BASES.iter().all(|&base| {
        let (mut x, mut square, mut exponent) = (1, base % n, odd);
        while exponent > 0 {
            if exponent & 1 == 1 {
                x = mul_mod(x, square, n);
            }
            square = mul_mod(square, square, n);
            exponent >>= 1;
        }
        if x == 1 || x == n - 1 {
            return true;
        }
        (1..shift).any(|_| {
            x = mul_mod(x, x, n);
            x == n - 1
        })
    })
}

/// The `count` primes that are 1 mod 2N, below 2^50 and nearest to `target`, taken in turn from above and below
/// `target` so that their product stays close to `target^count`; primes in `taken` are skipped.
///
/// # Errors
/// When `log_n` is unsupported or too few such primes exist.
pub fn ntt_primes_near(log_n: u32, target: u64, count: usize, taken: &[u64]) -> Result<Vec<u64>, Error> {
    const LIMIT: u64 = 1 << 50;
    if !(3..=17).contains(&log_n) {
        return Err(Error::DegreeRange { have: log_n });
    }
    let step = 1u64 << (log_n + 1);
    let start = (target.min(LIMIT) / step) * step + 1;
    let usable = |&c: &u64| c >= 1 << 10 && !taken.contains(&c) && is_prime(c);
    let mut above = (1..).map(|k| start + k * step).take_while(|&c| c < LIMIT).filter(usable);
    let mut below = (0..start.div_ceil(step)).map(|k| start - k * step).filter(|&c| c < LIMIT).filter(usable);
    let mut found = Vec::new();
    while found.len() < count {
        let next = if found.len() % 2 == 0 {
            above.next().or_else(|| below.next())
        } else {
            below.next().or_else(|| above.next())
        };
        match next {
            Some(prime) => found.push(prime),
            None => {
                return Err(Error::NotEnoughPrimes { have: found.len(), need: count, target });
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_are_distinct_and_close() {
        let taken = ntt_primes_near(16, 1 << 40, 4, &[]).unwrap();
        let more = ntt_primes_near(16, 1 << 40, 20, &taken).unwrap();
        for p in taken.iter().chain(&more) {
            assert!(is_prime(*p) && p % (1 << 17) == 1);
            assert!(p.abs_diff(1 << 40) < 1 << 29);
        }
        assert!(more.iter().all(|p| !taken.contains(p)));
        assert!(ntt_primes_near(16, 1 << 50, 8, &[]).unwrap().iter().all(|&p| p < 1 << 50));
        assert!(ntt_primes_near(17, 1 << 18, 3, &[]).unwrap().iter().all(|&p| is_prime(p)));
    }

    #[test]
    fn primality_of_known_numbers() {
        assert!(is_prime(2) && is_prime(65537) && is_prime(1125899906842597));
        assert!(!is_prime(3215031751) && !is_prime(1) && !is_prime(341550071728321));
    }
}
