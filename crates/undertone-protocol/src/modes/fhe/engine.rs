//! The computation of mode fhe: keys in, then encrypted steps.

use super::plan::Prepared;
use super::server::KeySink;
use crate::Error;
use crate::exchange::Engine;
use crate::message::Operations;
use std::sync::Arc;
use undertone_he::{
    Ciphertext, CkksEvaluator, EvaluationKeys, Evaluator, KeyRequest, Parameters, SeededCiphertext, SeededKey,
};
use undertone_infer::{Program, Progress, PublicCache, ServerState, StepOutput};
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
    /// An empty key set for a prepared session over `model`.
    pub fn new(parameters: &Parameters, model: Arc<Llama>, prepared: &Prepared) -> Self {
        Self {
            parameters: parameters.clone(),
            model,
            program: prepared.program.clone(),
            output_level: prepared.costs.output_level,
            keys: EvaluationKeys::new(parameters),
        }
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
        Ok(Box::new(CkksEngine {
            parameters: self.parameters,
            model: self.model,
            program: self.program,
            output_level: self.output_level,
            evaluator,
            running: None,
        }))
    }
}

struct CkksEngine {
    parameters: Parameters,
    model: Arc<Llama>,
    program: Program,
    output_level: usize,
    evaluator: CkksEvaluator,
    running: Option<(PublicCache, ServerState<CkksEvaluator>)>,
}

impl CkksEngine {
    fn read(&self, input: &[Vec<u8>]) -> Result<Vec<Ciphertext>, Error> {
        let read =
            |bytes: &Vec<u8>| Ok(SeededCiphertext::from_bytes(&self.parameters, bytes)?.expand(&self.parameters));
        input.iter().map(read).collect()
    }

    /// Logits, then the guard, with no more limbs than the plan says.
    fn write(&self, output: &StepOutput<CkksEvaluator>) -> Result<Vec<Vec<u8>>, Error> {
        let write = |value: &Ciphertext| {
            let dropped = self.evaluator.drop_level(value, self.output_level, 1.0)?;
            Ok(dropped.to_bytes(&self.parameters)?)
        };
        output.logits.iter().chain([&output.guard]).map(write).collect()
    }
}

impl Engine for CkksEngine {
    fn prefill(
        &mut self,
        public_tokens: &[u32],
        input: Vec<Vec<u8>>,
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let input = self.read(&input)?;
        let public = PublicCache::new(&self.model, public_tokens)?;
        let (output, state) = self.program.prefill(&self.evaluator, &self.model, &public, input, progress)?;
        self.running = Some((public, state));
        self.write(&output)
    }

    fn decode(&mut self, input: Vec<Vec<u8>>, progress: &dyn Progress) -> Result<Vec<Vec<u8>>, Error> {
        let input = self.read(&input)?;
        let Some((public, state)) = &mut self.running else {
            return Err(Error::OutOfTurn { message: "decode", state: "waiting for the prompt" });
        };
        let output = self.program.decode(&self.evaluator, &self.model, public, state, input, progress)?;
        self.write(&output)
    }

    fn operations(&self) -> Operations {
        let counts = self.evaluator.counts();
        Operations { bootstraps: counts.bootstraps, key_switches: counts.key_switches }
    }
}
