//! The computation of mode fhe: keys in, then encrypted steps.

use super::plan::Prepared;
use super::server::KeySink;
use crate::Error;
use crate::exchange::Engine;
use crate::message::Operations;
use crate::modes::engine::{BlobCodec, ProgramEngine};
use std::sync::Arc;
use undertone_he::circuits::pc_matmul::{PcMatmul, ProductKeyId, ProductKeys, ProductParameters, SeededProductKey};
use undertone_he::{
    Ciphertext, CkksEvaluator, EvaluationKeys, Evaluator, KeyMemory, KeyRequest, Parameters, SeededCiphertext,
    SeededKey, UploadKey,
};
use undertone_infer::Program;
use undertone_model::Llama;

/// Collects the evaluation keys of one client.
pub struct CkksSetup {
    parameters: Parameters,
    model: Arc<Llama>,
    program: Program,
    output_level: usize,
    keys: EvaluationKeys,
    products: Vec<ProductSetup>,
}

/// The keys of products of one number of tokens: those that came so far, and what they became when all had come.
struct ProductSetup {
    parameters: ProductParameters,
    waiting: Vec<SeededProductKey>,
    complete: Option<ProductKeys>,
}

impl CkksSetup {
    /// An empty key set for a prepared session over `model`, whose keys wait as `memory` says; those of products are small
    /// and always in memory.
    ///
    /// # Errors
    /// `KeySpool` when they are to wait on disk and no file can be made there.
    pub fn new(
        parameters: &Parameters,
        model: Arc<Llama>,
        prepared: &Prepared,
        memory: &KeyMemory,
    ) -> Result<Self, Error> {
        let product = |&tokens: &usize| ProductSetup::new(parameters, tokens);
        Ok(Self {
            parameters: parameters.clone(),
            model,
            program: prepared.program.clone(),
            output_level: prepared.costs.output_level,
            keys: EvaluationKeys::new(parameters, memory)?,
            products: prepared.costs.keys.product_tokens.iter().map(product).collect::<Result<_, _>>()?,
        })
    }

    fn insert_evaluation(&mut self, request: KeyRequest, bytes: &[u8]) -> Result<(), Error> {
        let key = SeededKey::from_bytes(&self.parameters, bytes)?;
        // The announcement was checked against the plan; the key itself must say the same.
        if key.id() != request.id || key.level() != request.level {
            return Err(Error::UnexpectedKey {
                have: format!("{:?} at level {}", key.id(), key.level()),
                need: format!("{:?} at level {}", request.id, request.level),
            });
        }
        Ok(self.keys.insert(key)?)
    }
}

impl ProductSetup {
    fn new(parameters: &Parameters, tokens: usize) -> Result<Self, Error> {
        let parameters = ProductParameters::of_turn(parameters, tokens)?;
        Ok(Self { parameters, waiting: Vec::new(), complete: None })
    }

    /// Takes the next key; with the last one the set is expanded.
    fn insert(&mut self, id: ProductKeyId, bytes: &[u8]) -> Result<(), Error> {
        let key = SeededProductKey::from_bytes(&self.parameters, bytes)?;
        if key.id() != id {
            let name = |id| format!("{id:?} for products of {} tokens", self.parameters.tokens());
            return Err(Error::UnexpectedKey { have: name(key.id()), need: name(id) });
        }
        self.waiting.push(key);
        if self.waiting.len() == ProductKeyId::ALL.len() {
            self.complete = Some(ProductKeys::new(&self.parameters, self.waiting.drain(..))?);
        }
        Ok(())
    }
}

impl KeySink for CkksSetup {
    fn insert(&mut self, key: UploadKey, bytes: &[u8]) -> Result<(), Error> {
        match key {
            UploadKey::Evaluation(request) => self.insert_evaluation(request, bytes),
            UploadKey::Product { id, tokens } => {
                let product = self.products.iter_mut().find(|product| product.parameters.tokens() == tokens);
                let unplanned = || format!("{id:?} for products of {tokens} tokens");
                let product = product.ok_or_else(|| Error::UnexpectedKey { have: unplanned(), need: "none".into() })?;
                product.insert(id, bytes)
            }
        }
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn Engine>, Error> {
        let mut evaluator = CkksEvaluator::new(&self.parameters, Arc::new(self.keys));
        for product in self.products {
            // All keys of the plan came, or the session would not be here; a missing one shows when it is needed.
            if let Some(keys) = product.complete {
                evaluator = evaluator.with_products(PcMatmul::new(&product.parameters, Arc::new(keys)));
            }
        }
        let codec = CkksCodec { parameters: self.parameters, output_level: self.output_level };
        Ok(Box::new(ProgramEngine::new(self.model, self.program, evaluator, codec)))
    }
}

/// Blobs are seeded ciphertexts on the way in and whole ones, at the level of the plan, on the way out.
struct CkksCodec {
    parameters: Parameters,
    output_level: usize,
}

impl BlobCodec<CkksEvaluator> for CkksCodec {
    fn read(&self, _: &CkksEvaluator, blob: &[u8]) -> Result<Ciphertext, Error> {
        Ok(SeededCiphertext::from_bytes(&self.parameters, blob)?.expand(&self.parameters))
    }

    fn write(&self, evaluator: &CkksEvaluator, value: &Ciphertext) -> Result<Vec<u8>, Error> {
        Ok(evaluator.drop_level(value, self.output_level, 1.0)?.to_bytes(&self.parameters)?)
    }

    fn operations(&self, evaluator: &CkksEvaluator) -> Operations {
        let counts = evaluator.counts();
        Operations { bootstraps: counts.bootstraps, key_switches: counts.key_switches }
    }
}
