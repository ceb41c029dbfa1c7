//! The evaluator that computes under encryption.
//!
//! Values stay at the canonical scale of their level: constants and diagonals are encoded at exactly the scale that the
//! following rescale removes, so a product returns to the canonical scale of the next level without spending anything.

mod arithmetic;
pub(crate) mod key_switch;
mod linear;
pub(crate) mod product;

use crate::bootstrap::{BootstrapCircuit, MIN_PERIOD};
use crate::circuits::LinearTransform;
use crate::circuits::pc_matmul::PcMatmul;
use crate::cost::MAX_INTEGER;
use crate::{
    Chain, Ciphertext, Counts, Error, EvaluationKeys, Evaluator, LevelCounts, MatrixRow, MatrixShape, Parameters, Slots,
};
pub use product::CkksMatrix;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Computes on ciphertexts with the evaluation keys of one client.
pub struct CkksEvaluator {
    pub(crate) parameters: Parameters,
    pub(crate) keys: Arc<EvaluationKeys>,
    counts: Mutex<Counts>,
    bootstraps: Mutex<BTreeMap<usize, Arc<BootstrapCircuit>>>,
    /// By tokens per channel.
    products: BTreeMap<usize, PcMatmul>,
}

impl CkksEvaluator {
    /// An evaluator over a client's keys; a missing key shows when an operation needs it.
    pub fn new(parameters: &Parameters, keys: Arc<EvaluationKeys>) -> Self {
        Self {
            parameters: parameters.clone(),
            keys,
            counts: Mutex::new(Counts::default()),
            bootstraps: Mutex::new(BTreeMap::new()),
            products: BTreeMap::new(),
        }
    }

    /// The same with the keys of products of some number of tokens per channel, beside those of other numbers.
    pub fn with_products(mut self, product: PcMatmul) -> Self {
        self.products.insert(product.parameters().tokens(), product);
        self
    }

    /// The parameter set.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    pub(crate) fn count(&self, record: impl FnOnce(&mut Counts)) {
        record(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The bootstrap circuit of one period; its matrices are encoded once and kept.
    ///
    /// # Errors
    /// As [`BootstrapCircuit::new`].
    pub(crate) fn bootstrap_circuit(&self, period: usize) -> Result<Arc<BootstrapCircuit>, Error> {
        let circuits = || self.bootstraps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = circuits().get(&period) {
            return Ok(made.clone());
        }
        // Encoding runs in parallel, so it must not hold a lock for which other tasks of its thread may ask.
        let made = Arc::new(BootstrapCircuit::new(&self.parameters, period)?);
        Ok(circuits().entry(period).or_insert(made).clone())
    }
}

impl Evaluator for CkksEvaluator {
    type Value = Ciphertext;
    type Matrix = CkksMatrix;

    fn chain(&self) -> Chain {
        self.parameters.chain()
    }

    fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn level(&self, a: &Ciphertext) -> usize {
        a.level()
    }

    fn add(&self, a: &Ciphertext, b: &Ciphertext) -> Result<Ciphertext, Error> {
        self.add_signed(a, b, false)
    }

    fn sub(&self, a: &Ciphertext, b: &Ciphertext) -> Result<Ciphertext, Error> {
        self.add_signed(a, b, true)
    }

    fn negate(&self, a: &Ciphertext) -> Ciphertext {
        self.negated(a)
    }

    fn add_slots(&self, a: &Ciphertext, b: &Slots) -> Result<Ciphertext, Error> {
        self.add_encoded(a, b)
    }

    fn add_constant(&self, a: &Ciphertext, constant: f64) -> Result<Ciphertext, Error> {
        Ok(self.add_scalar(a, constant))
    }

    fn mul_integer(&self, a: &Ciphertext, b: i64) -> Result<Ciphertext, Error> {
        if b.unsigned_abs() > MAX_INTEGER {
            return Err(Error::Range { op: "mul_integer", have: b as f64, need: MAX_INTEGER as f64 });
        }
        Ok(self.scaled(a, a.level(), i128::from(b), a.scale))
    }

    fn mul(&self, a: &Ciphertext, b: &Ciphertext) -> Result<Ciphertext, Error> {
        self.sum_of_products("mul", &[(a, b)], &[], 0.0)
    }

    fn multiply_combine(
        &self,
        pairs: &[(&Ciphertext, &Ciphertext)],
        terms: &[(f64, &Ciphertext)],
        constant: f64,
    ) -> Result<Ciphertext, Error> {
        self.sum_of_products("multiply_combine", pairs, terms, constant)
    }

    fn mul_slots(&self, a: &Ciphertext, b: &Slots) -> Result<Ciphertext, Error> {
        self.mul_encoded(a, b)
    }

    fn combine(&self, terms: &[(f64, &Ciphertext)], constant: f64) -> Result<Ciphertext, Error> {
        self.weighted_sum(terms, constant)
    }

    fn drop_level(&self, a: &Ciphertext, level: usize, factor: f64) -> Result<Ciphertext, Error> {
        let lower = self.dropped(a, level, factor)?;
        if level != a.level() || factor != 1.0 {
            self.count(|c| c.at_level(level + 1, &LevelCounts::rescale()));
        }
        Ok(lower)
    }

    fn rotate(&self, a: &Ciphertext, by: i32) -> Result<Ciphertext, Error> {
        self.rotated(a, by)
    }

    fn rotate_many(&self, a: &Ciphertext, by: &[i32]) -> Result<Vec<Ciphertext>, Error> {
        self.rotated_many(a, by)
    }

    fn linear_transform_each<F: From<Error>>(
        &self,
        inputs: &[Ciphertext],
        transform: &LinearTransform<'_>,
        visit: &mut dyn FnMut(Ciphertext) -> Result<(), F>,
    ) -> Result<(), F> {
        self.transformed(inputs, transform, visit)
    }

    fn half_bootstrap(
        &self,
        lo: &Ciphertext,
        hi: Option<&Ciphertext>,
        period: usize,
    ) -> Result<(Ciphertext, Option<Ciphertext>), Error> {
        self.bootstrap_circuit(period.max(MIN_PERIOD))?.half_bootstrap(self, lo, hi)
    }

    fn encode_matrix(&self, shape: &MatrixShape, row: &MatrixRow<'_>) -> Result<CkksMatrix, Error> {
        CkksMatrix::new(&self.parameters, shape, row)
    }

    fn product_bootstrap(
        &self,
        inputs: &[[Ciphertext; 2]],
        matrix: &CkksMatrix,
    ) -> Result<Vec<[Ciphertext; 2]>, Error> {
        self.product(inputs, matrix)
    }
}
