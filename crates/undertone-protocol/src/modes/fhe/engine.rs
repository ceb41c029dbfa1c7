//! The computation of mode fhe: keys in, then encrypted steps.

use super::plan::Prepared;
use super::server::KeySink;
use crate::Error;
use crate::exchange::Engine;
use crate::message::Operations;
use crate::modes::engine::{BlobCodec, ProgramEngine};
use std::sync::Arc;
use undertone_he::{
    Ciphertext, CkksEvaluator, EvaluationKeys, Evaluator, KeyMemory, KeyRequest, Parameters, SeededCiphertext,
    SeededKey,
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
}

impl CkksSetup {
    /// An empty key set for a prepared session over `model`, whose keys wait as `memory` says.
    ///
    /// # Errors
    /// `KeySpool` when they are to wait on disk and no file can be made there.
    pub fn new(
        parameters: &Parameters,
        model: Arc<Llama>,
        prepared: &Prepared,
        memory: &KeyMemory,
    ) -> Result<Self, Error> {
        Ok(Self {
            parameters: parameters.clone(),
            model,
            program: prepared.program.clone(),
            output_level: prepared.costs.output_level,
            keys: EvaluationKeys::new(parameters, memory)?,
        })
    }
}

impl KeySink for CkksSetup {
    fn insert(&mut self, request: KeyRequest, bytes: &[u8]) -> Result<(), Error> {
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

    fn finish(self: Box<Self>) -> Result<Box<dyn Engine>, Error> {
        let evaluator = CkksEvaluator::new(&self.parameters, Arc::new(self.keys));
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
