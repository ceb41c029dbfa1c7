//! The computation of mode clear: the program of mode fhe on the evaluator that computes on clear slots.

use super::message::{decode_slots, encode_slots};
use crate::Error;
use crate::exchange::Engine;
use std::sync::Arc;
use undertone_he::{Chain, ClearEvaluator, ClearValue, Evaluator, Slots};
use undertone_infer::{Program, Progress, PublicCache, ServerState, StepOutput};
use undertone_model::Llama;

/// Runs one session in the clear.
pub struct ClearEngine {
    model: Arc<Llama>,
    program: Program,
    evaluator: ClearEvaluator,
    running: Option<(PublicCache, ServerState<ClearEvaluator>)>,
}

impl ClearEngine {
    /// An engine for one session of `program` over `model`.
    pub fn new(chain: Chain, model: Arc<Llama>, program: Program) -> Self {
        Self { model, program, evaluator: ClearEvaluator::new(chain), running: None }
    }

    fn read(&self, input: &[Vec<u8>]) -> Result<Vec<ClearValue>, Error> {
        let slot_count = self.evaluator.chain().slot_count();
        let read = |bytes: &Vec<u8>| {
            let slots = Slots::new(decode_slots(bytes)?, slot_count)?;
            Ok(self.evaluator.encrypt(&slots, self.program.input_level()))
        };
        input.iter().map(read).collect()
    }
}

fn write(output: &StepOutput<ClearEvaluator>) -> Vec<Vec<u8>> {
    output.logits.iter().chain([&output.guard]).map(|value| encode_slots(value.slots())).collect()
}

impl Engine for ClearEngine {
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
        Ok(write(&output))
    }

    fn decode(&mut self, input: Vec<Vec<u8>>, progress: &dyn Progress) -> Result<Vec<Vec<u8>>, Error> {
        let input = self.read(&input)?;
        let Some((public, state)) = &mut self.running else {
            return Err(Error::OutOfTurn { message: "decode", state: "waiting for the prompt" });
        };
        Ok(write(&self.program.decode(&self.evaluator, &self.model, public, state, input, progress)?))
    }
}
