//! Which primes a polynomial carries, and in which form.

/// Numbers of limbs: the residues mod q_0..q_{q-1} come first, then those mod the special primes p_0..p_{p-1}.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Basis {
    /// Limbs of the modulus chain.
    pub q: usize,
    /// Limbs of the special primes.
    pub p: usize,
}

impl Basis {
    /// All limbs.
    #[inline]
    pub fn limb_count(self) -> usize {
        self.q + self.p
    }
}

mod sealed {
    pub trait Sealed {}
}

/// The form of a polynomial; implemented by [`Coeff`] and [`Ntt`] only.
pub trait Form: sealed::Sealed + Send + Sync + 'static {}

/// Coefficients of 1, X, ..., X^(N-1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Coeff;

/// Evaluations at the odd powers of psi, in bit-reversed order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ntt;

impl sealed::Sealed for Coeff {}
impl sealed::Sealed for Ntt {}
impl Form for Coeff {}
impl Form for Ntt {}
