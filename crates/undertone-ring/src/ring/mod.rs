//! The ring: primes, tables, backend, and every operation on polynomials.
//!
//! Operations run limbs in parallel on the current rayon pool and call the backend one limb at a time.
//! Mixing polynomials of different bases or degrees is a programmer error and panics.

mod arithmetic;
mod automorphism;
mod compact;
mod divide;
mod gadget_key;
mod hoisted;
mod key_switch;
mod lift;
mod module_pack;
mod module_product;
mod transform;

pub use arithmetic::Halves;
pub use compact::CompactCoefficients;
pub use gadget_key::{ComputedHalf, GadgetKey, StoredHalf, UniformHalf};
pub use hoisted::{Giant, Step};
pub use key_switch::Digits;
pub use module_pack::PackKey;
pub use module_product::{ModuleOperand, ModuleRows};

use std::sync::Arc;

use rayon::prelude::*;

use crate::cpu::{Buffer, BufferPool};
use crate::{Backend, Basis, Error, Form, Modulus, NttTable, Poly};

/// At most this many primes in all, far above what any secure parameter set holds.
const MAX_PRIMES: usize = 256;
/// Released polynomials kept for reuse, in bytes.
const POOL_BYTES: usize = 1536 << 20;
/// Below this many words an operation stays on the calling thread.
const PARALLEL_WORDS: usize = 1 << 15;

/// `Z[X]/(X^N + 1)` modulo the primes q_0.. and p_0.. ; cloning shares everything.
#[derive(Clone)]
pub struct Ring {
    inner: Arc<Inner>,
}

struct Inner {
    log_n: u32,
    q: Vec<Modulus>,
    p: Vec<Modulus>,
    /// Tables of q, then of p.
    tables: Vec<NttTable>,
    backend: Arc<dyn Backend>,
    pool: Arc<BufferPool>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("log_n", &self.inner.log_n)
            .field("q", &self.inner.q.len())
            .field("p", &self.inner.p.len())
            .field("backend", &self.backend_name())
            .finish()
    }
}

impl Ring {
    /// Builds the ring of degree 2^log_n over the modulus chain `q` and the special primes `p`.
    ///
    /// # Errors
    /// When a number is not a suitable prime, repeats, or the degree or the chain's length is unsupported.
    pub fn new(log_n: u32, q: &[u64], p: &[u64], backend: Arc<dyn Backend>) -> Result<Ring, Error> {
        if q.is_empty() || q.len() + p.len() > MAX_PRIMES {
            return Err(Error::ChainLength { have: q.len() + p.len(), need: MAX_PRIMES });
        }
        let all: Vec<u64> = q.iter().chain(p).copied().collect();
        if let Some(at) = (1..all.len()).find(|&i| all[..i].contains(&all[i])) {
            return Err(Error::DuplicatePrime { value: all[at] });
        }
        let tables =
            all.par_iter().map(|&value| NttTable::new(Modulus::new(value)?, log_n)).collect::<Result<Vec<_>, _>>()?;
        let moduli: Vec<Modulus> = tables.iter().map(NttTable::modulus).collect();
        let (q, p) = (moduli[..q.len()].to_vec(), moduli[q.len()..].to_vec());
        let pool = BufferPool::new(POOL_BYTES);
        Ok(Ring { inner: Arc::new(Inner { log_n, q, p, tables, backend, pool }) })
    }

    /// log2 of the ring degree.
    pub fn log_n(&self) -> u32 {
        self.inner.log_n
    }

    /// The ring degree N.
    pub fn degree(&self) -> usize {
        1 << self.inner.log_n
    }

    /// The modulus chain.
    pub fn q_moduli(&self) -> &[Modulus] {
        &self.inner.q
    }

    /// The special primes.
    pub fn p_moduli(&self) -> &[Modulus] {
        &self.inner.p
    }

    /// The prime of one limb of a basis.
    ///
    /// # Panics
    /// When the basis has no such limb or exceeds the ring.
    pub fn modulus(&self, basis: Basis, limb: usize) -> Modulus {
        self.table(basis, limb).modulus
    }

    /// The backend's name.
    pub fn backend_name(&self) -> &'static str {
        self.inner.backend.name()
    }

    /// The zero polynomial.
    ///
    /// # Panics
    /// When the basis exceeds the ring.
    pub fn zero<F: Form>(&self, basis: Basis) -> Poly<F> {
        let mut poly = self.stale(basis);
        poly.data_mut().fill(0);
        poly
    }

    /// The words of all released polynomials that wait to be used again, in no order: whoever erases secrets can look
    /// here, in a test, whether any is left.
    pub fn released_words(&self) -> Vec<u64> {
        self.inner.pool.released_words()
    }

    /// Memory that released polynomials may take, waiting to be used again, at most.
    pub fn pool_bytes(&self) -> usize {
        POOL_BYTES
    }

    /// A polynomial with unspecified residues, for callers that overwrite all of them.
    pub(crate) fn stale<F: Form>(&self, basis: Basis) -> Poly<F> {
        assert!(
            basis.q <= self.inner.q.len() && basis.p <= self.inner.p.len(),
            "basis {basis:?} exceeds the ring's {} + {} primes",
            self.inner.q.len(),
            self.inner.p.len()
        );
        Poly::new(self.degree(), basis, self.inner.pool.take(self.degree() * basis.limb_count()))
    }

    /// Words with unspecified contents.
    pub(crate) fn scratch(&self, words: usize) -> Buffer {
        self.inner.pool.take(words)
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.inner.backend
    }

    /// Another ring on the same backend: its degree and primes may differ, its pool of buffers is its own.
    ///
    /// # Errors
    /// As [`Ring::new`].
    pub fn sibling(&self, log_n: u32, q: &[u64], p: &[u64]) -> Result<Ring, Error> {
        Self::new(log_n, q, p, self.inner.backend.clone())
    }

    fn table(&self, basis: Basis, limb: usize) -> &NttTable {
        assert!(limb < basis.limb_count(), "limb {limb} is not in basis {basis:?}");
        &self.inner.tables[if limb < basis.q { limb } else { self.inner.q.len() + limb - basis.q }]
    }

    /// Runs `work(limb, table, residues)` for every limb, in parallel when it pays.
    pub(crate) fn each_limb<F: Form>(&self, poly: &mut Poly<F>, work: impl Fn(usize, &NttTable, &mut [u64]) + Sync) {
        self.check_degree(poly);
        let (basis, degree) = (poly.basis(), self.degree());
        let run = |(limb, values): (usize, &mut [u64])| work(limb, self.table(basis, limb), values);
        if poly.data().len() < PARALLEL_WORDS || basis.limb_count() == 1 {
            poly.data_mut().chunks_exact_mut(degree).enumerate().for_each(run);
        } else {
            poly.data_mut().par_chunks_exact_mut(degree).enumerate().for_each(run);
        }
    }

    pub(crate) fn check_degree<F: Form>(&self, poly: &Poly<F>) {
        assert!(poly.degree() == self.degree(), "degree {} is not the ring's {}", poly.degree(), self.degree());
    }

    fn check_same<F: Form, G: Form>(&self, a: &Poly<F>, b: &Poly<G>) {
        self.check_degree(a);
        self.check_degree(b);
        assert!(a.basis() == b.basis(), "bases {:?} and {:?} differ", a.basis(), b.basis());
    }
}
