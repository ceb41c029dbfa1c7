//! The one error type of this crate.

/// What can go wrong while building moduli, rings and generators.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The modulus is outside the supported range.
    #[error("modulus {value} is out of range: choose a prime in 2^10..2^50")]
    ModulusRange {
        /// The refused value.
        value: u64,
    },
    /// The modulus is not a prime.
    #[error("modulus {value} is not a prime: choose one with ntt_primes_near")]
    NotPrime {
        /// The refused value.
        value: u64,
    },
    /// The prime has no primitive 2N-th root of unity.
    #[error("prime {value} is not 1 modulo 2^{need}: choose one with ntt_primes_near for this ring degree")]
    NoRoot {
        /// The refused prime.
        value: u64,
        /// log2 of 2N.
        need: u32,
    },
    /// The ring degree is not supported.
    #[error("ring degree 2^{have} is not supported: choose log_n in 3..=17")]
    DegreeRange {
        /// The refused log2 of the ring degree.
        have: u32,
    },
    /// The same prime is listed twice.
    #[error("prime {value} is listed twice: all primes of q and p must differ")]
    DuplicatePrime {
        /// The repeated prime.
        value: u64,
    },
    /// The modulus chain is empty or too long.
    #[error("a chain of {have} primes is not supported: give between 1 and {need}")]
    ChainLength {
        /// The number of primes given.
        have: usize,
        /// The largest supported number.
        need: usize,
    },
    /// Fewer primes exist near the target than were asked for.
    #[error(
        "only {have} of {need} primes exist near {target} for this ring degree: lower the count or move the target"
    )]
    NotEnoughPrimes {
        /// Primes found.
        have: usize,
        /// Primes wanted.
        need: usize,
        /// The wanted size.
        target: u64,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system's random generator failed: retry, or check its availability")]
    NoEntropy,
}
