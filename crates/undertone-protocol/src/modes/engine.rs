//! The computation of a mode that runs a [`Program`]: the same steps on any evaluator. A mode says what its blobs are.

use crate::Error;
use crate::exchange::Engine;
use crate::message::Operations;
use std::sync::Arc;
use undertone_he::Evaluator;
use undertone_infer::{Program, Progress, PublicCache, ServerState, StepOutput};
use undertone_model::Llama;

/// Between the blobs of a mode and the values of its evaluator.
pub(super) trait BlobCodec<E: Evaluator>: Send {
    /// The value that a client's blob carries.
    fn read(&self, evaluator: &E, blob: &[u8]) -> Result<E::Value, Error>;

    /// The blob that carries a result to the client.
    fn write(&self, evaluator: &E, value: &E::Value) -> Result<Vec<u8>, Error>;

    /// What the client is told of the work so far.
    fn operations(&self, evaluator: &E) -> Operations;
}

/// Runs one session of a program over a model.
pub(super) struct ProgramEngine<E: Evaluator, C> {
    model: Arc<Llama>,
    program: Program,
    evaluator: E,
    codec: C,
    running: Option<(PublicCache, ServerState<E>)>,
}

impl<E: Evaluator, C: BlobCodec<E>> ProgramEngine<E, C> {
    pub(super) fn new(model: Arc<Llama>, program: Program, evaluator: E, codec: C) -> Self {
        Self { model, program, evaluator, codec, running: None }
    }

    fn read(&self, input: &[Vec<u8>]) -> Result<Vec<E::Value>, Error> {
        input.iter().map(|blob| self.codec.read(&self.evaluator, blob)).collect()
    }

    /// Logits, then the guard.
    fn write(&self, output: &StepOutput<E>) -> Result<Vec<Vec<u8>>, Error> {
        output.logits.iter().chain([&output.guard]).map(|value| self.codec.write(&self.evaluator, value)).collect()
    }
}

impl<E: Evaluator + Send, C: BlobCodec<E>> Engine for ProgramEngine<E, C> {
    fn prefill(
        &mut self,
        public_tokens: &[u32],
        input: Vec<Vec<u8>>,
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let input = self.read(&input)?;
        let public = self.program.public_cache(&self.model, public_tokens)?;
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
        self.codec.operations(&self.evaluator)
    }
}
