//! The secret generator and the samplers of secrets and errors.
//!
//! ChaCha20 keyed by 32 bytes of the operating system. Every sampler reads a fixed number of words for given
//! arguments (the sparse one starts over in the improbable case of equal sort keys) and takes no branch or address
//! from a sampled value.

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use zeroize::Zeroizing;

use super::public::Seed;
use crate::Error;

/// A cryptographic generator; the cipher erases its state on drop.
///
/// Public seeds come from a second stream with its own key, so that nothing published shares a key with a secret.
pub struct SecretRng {
    cipher: ChaCha20,
    public: ChaCha20,
}

impl std::fmt::Debug for SecretRng {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretRng")
    }
}

impl SecretRng {
    /// A generator seeded by the operating system.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn from_os() -> Result<Self, Error> {
        let mut keys = Zeroizing::new([[0u8; 32]; 2]);
        for key in keys.iter_mut() {
            getrandom::fill(&mut key[..]).map_err(|_| Error::NoEntropy)?;
        }
        Ok(Self::keyed(&keys[0], &keys[1]))
    }

    /// A generator with given keys; private, so that no other way than [`SecretRng::from_os`] leads to one.
    fn keyed(secret: &[u8; 32], public: &[u8; 32]) -> Self {
        let cipher = |key: &[u8; 32]| ChaCha20::new(key.into(), &[0u8; 12].into());
        Self { cipher: cipher(secret), public: cipher(public) }
    }

    /// Overwrites `out` with random bytes.
    ///
    /// # Panics
    /// After 256 GiB of output.
    pub fn fill_bytes(&mut self, out: &mut [u8]) {
        out.fill(0);
        self.cipher.apply_keystream(out);
    }

    /// A uniform word.
    pub fn next_u64(&mut self) -> u64 {
        let mut bytes = Zeroizing::new([0u8; 8]);
        self.fill_bytes(&mut bytes[..]);
        u64::from_le_bytes(*bytes)
    }

    /// Calls `sink` with `n` uniform words.
    fn words(&mut self, n: usize, mut sink: impl FnMut(u64)) {
        let mut bytes = Zeroizing::new([0u8; 4096]);
        let mut left = n;
        while left > 0 {
            let take = left.min(bytes.len() / 8);
            self.fill_bytes(&mut bytes[..8 * take]);
            bytes[..8 * take].as_chunks::<8>().0.iter().for_each(|chunk| sink(u64::from_le_bytes(*chunk)));
            left -= take;
        }
    }

    /// `n` independent uniform values of {-1, 0, 1}; the bias is below 2^-62.
    pub fn ternary(&mut self, n: usize) -> Vec<i64> {
        let mut out = Vec::with_capacity(n);
        self.words(n, |word| out.push(((word as u128 * 3) >> 64) as i64 - 1));
        out
    }

    /// `n` values of which exactly `h` are nonzero, each 1 or -1 with equal chance, at uniform positions.
    ///
    /// # Panics
    /// When `h` exceeds `n`.
    pub fn sparse_ternary(&mut self, n: usize, h: usize) -> Vec<i64> {
        assert!(h <= n, "a weight of {h} does not fit in {n} coefficients");
        loop {
            // A random 62-bit key above a 2-bit value (0: zero, 1: one, 2: minus one); sorting by a network whose
            // shape depends on n only shuffles the values without secret addresses.
            let mut entries = Zeroizing::new(Vec::with_capacity(n.next_power_of_two()));
            let mut index = 0;
            self.words(n, |word| {
                let value = (1 + (word & 1)) * u64::from(index < h);
                entries.push((word & !3) | value);
                index += 1;
            });
            entries.resize(n.next_power_of_two(), u64::MAX);
            // The low two bits of a word give the sign, the upper 62 the key: they are independent.
            sort_oblivious(&mut entries);
            let equal = entries[..n].windows(2).fold(false, |any, pair| any | (pair[0] >> 2 == pair[1] >> 2));
            if !equal {
                return entries[..n].iter().map(|e| (e & 1) as i64 - (e >> 1 & 1) as i64).collect();
            }
        }
    }

    /// `n` values of the centred binomial distribution with 21 + 21 coins: standard deviation sqrt(10.5) = 3.24.
    pub fn cbd21(&mut self, n: usize) -> Vec<i64> {
        const COINS: u64 = (1 << 21) - 1;
        let mut out = Vec::with_capacity(n);
        self.words(n, |word| {
            let (heads, tails) = (word & COINS, word >> 21 & COINS);
            out.push(heads.count_ones() as i64 - tails.count_ones() as i64);
        });
        out
    }

    /// A fresh public seed.
    pub fn public_seed(&mut self) -> Seed {
        let mut seed = [0u8; 32];
        self.public.apply_keystream(&mut seed);
        Seed(seed)
    }
}

/// Bitonic sort of a power-of-two number of words: every exchange is a minimum and a maximum at fixed addresses.
fn sort_oblivious(words: &mut [u64]) {
    let n = words.len();
    let mut run = 2;
    while run <= n {
        let mut gap = run / 2;
        while gap > 0 {
            for (block, values) in words.chunks_exact_mut(2 * gap).enumerate() {
                let ascending = (block * 2 * gap) & run == 0;
                let (low, high) = values.split_at_mut(gap);
                for (a, b) in low.iter_mut().zip(high) {
                    let (least, most) = ((*a).min(*b), (*a).max(*b));
                    (*a, *b) = if ascending { (least, most) } else { (most, least) };
                }
            }
            gap /= 2;
        }
        run *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_public_seeds_are_streams_of_their_own_keys() {
        let generator = |secret, public| SecretRng::keyed(&[secret; 32], &[public; 32]);
        let (mut a, mut b) = (generator(1, 2), generator(1, 3));
        let (word, seed) = (a.next_u64(), a.public_seed());
        assert_eq!(b.next_u64(), word);
        assert_ne!(b.public_seed(), seed);
        let mut swapped = generator(3, 2);
        assert_eq!(swapped.public_seed(), seed);
        assert_ne!(swapped.next_u64(), word);
    }
}
