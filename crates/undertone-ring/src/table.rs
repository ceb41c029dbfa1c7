//! Twiddle factors of one prime.

use crate::cpu::Buffer;
use crate::{Error, Modulus};

/// Powers of the smallest primitive 2N-th root of unity psi, in bit-reversed order, with their 52-bit Shoup quotients.
///
/// Forward entry k is psi^bitrev(k) over log_n bits; inverse entry k is its inverse. A prefix of 2^m entries is the table
/// of the ring of degree 2^m with root psi^(N/2^m), so one table serves all smaller transforms too.
pub struct NttTable {
    pub(crate) modulus: Modulus,
    pub(crate) log_n: u32,
    pub(crate) psi: u64,
    /// 1/2 and 1/(2i), with i = psi^(N/2) the first half's value of X^(N/2) in the ring and in all smaller ones.
    pub(crate) halves: [u64; 2],
    /// forward, its quotients, inverse, its quotients: N words each, side by side for the sake of huge pages.
    words: Buffer,
}

impl NttTable {
    /// Builds the table of a prime for degree 2^log_n.
    ///
    /// # Errors
    /// When the prime is not 1 mod 2N or the degree is not supported.
    pub fn new(modulus: Modulus, log_n: u32) -> Result<Self, Error> {
        if !(3..=17).contains(&log_n) {
            return Err(Error::DegreeRange { have: log_n });
        }
        if !(modulus.value() - 1).is_multiple_of(1 << (log_n + 1)) {
            return Err(Error::NoRoot { value: modulus.value(), need: log_n + 1 });
        }
        let n = 1usize << log_n;
        let psi = smallest_root(modulus, log_n);
        let mut words = Buffer::zeroed(4 * n);
        let (mut power, mut inverse_power, psi_inverse) = (1, 1, modulus.inverse(psi));
        for k in 0..n {
            let at = bit_reverse(k, log_n);
            (words[at], words[2 * n + at]) = (power, inverse_power);
            (words[n + at], words[3 * n + at]) = (modulus.shoup(power), modulus.shoup(inverse_power));
            power = modulus.mul(power, psi);
            inverse_power = modulus.mul(inverse_power, psi_inverse);
        }
        let halves = [1, words[1]].map(|c| modulus.inverse(modulus.add(c, c)));
        Ok(Self { modulus, log_n, psi, halves, words })
    }

    /// psi^bitrev(k) and their quotients, N words each.
    #[inline]
    pub(crate) fn forward(&self) -> (&[u64], &[u64]) {
        self.words[..2 << self.log_n].split_at(1 << self.log_n)
    }

    /// psi^-bitrev(k) and their quotients, N words each.
    #[inline]
    pub(crate) fn inverse(&self) -> (&[u64], &[u64]) {
        self.words[2 << self.log_n..].split_at(1 << self.log_n)
    }

    /// The prime.
    pub fn modulus(&self) -> Modulus {
        self.modulus
    }

    /// log2 of the ring degree.
    pub fn log_n(&self) -> u32 {
        self.log_n
    }

    /// The smallest primitive 2N-th root of unity.
    pub fn psi(&self) -> u64 {
        self.psi
    }
}

/// `value` with its lowest `bits` bits in reverse order.
#[inline]
pub(crate) fn bit_reverse(value: usize, bits: u32) -> usize {
    if bits == 0 { 0 } else { value.reverse_bits() >> (usize::BITS - bits) }
}

fn smallest_root(modulus: Modulus, log_n: u32) -> u64 {
    let cofactor = (modulus.value() - 1) >> (log_n + 1);
    // x^cofactor has order exactly 2N when its N-th power is -1; half of all x qualify.
    let root = (2..)
        .map(|x| modulus.pow(x, cofactor))
        .find(|&root| modulus.pow(root, 1 << log_n) == modulus.value() - 1)
        .expect("every NTT prime has a primitive root");
    let square = modulus.mul(root, root);
    let (mut power, mut smallest) = (root, root);
    for _ in 1..1u64 << log_n {
        power = modulus.mul(power, square);
        smallest = smallest.min(power);
    }
    smallest
}
