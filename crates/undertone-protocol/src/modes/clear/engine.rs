//! The computation of mode clear: the program of mode fhe on the evaluator that computes on clear slots.

use super::message::{decode_slots, encode_slots};
use crate::Error;
use crate::exchange::Engine;
use crate::message::Operations;
use crate::modes::engine::{BlobCodec, ProgramEngine};
use std::sync::Arc;
use undertone_he::{Chain, ClearEvaluator, ClearValue, Evaluator, Slots};
use undertone_infer::Program;
use undertone_model::Llama;

/// Blobs are slots, which enter the program at its input level.
struct ClearCodec {
    input_level: usize,
}

impl BlobCodec<ClearEvaluator> for ClearCodec {
    fn read(&self, evaluator: &ClearEvaluator, blob: &[u8]) -> Result<ClearValue, Error> {
        let slots = Slots::new(decode_slots(blob)?, evaluator.chain().slot_count())?;
        Ok(evaluator.encrypt(&slots, self.input_level))
    }

    fn write(&self, _: &ClearEvaluator, value: &ClearValue) -> Result<Vec<u8>, Error> {
        Ok(encode_slots(value.slots()))
    }

    /// Nothing is encrypted, so nothing counts.
    fn operations(&self, _: &ClearEvaluator) -> Operations {
        Operations::default()
    }
}

/// An engine for one session of `program` over `model`.
pub fn engine(chain: Chain, model: Arc<Llama>, program: Program) -> impl Engine {
    let codec = ClearCodec { input_level: program.input_level() };
    ProgramEngine::new(model, program, ClearEvaluator::new(chain), codec)
}
