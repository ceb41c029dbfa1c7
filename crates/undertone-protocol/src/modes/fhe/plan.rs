//! What both sides of mode fhe compute beforehand from parameters, model, calibration and shape: the circuit, every
//! key in its order, and every length in bytes.

use super::memory;
use crate::Error;
use crate::exchange::StepLengths;
use crate::message::WireShape;
use undertone_he::{
    Ciphertext, CostEvaluator, KeyMemory, Parameters, PlannedKey, SeededCiphertext, bootstrap_model, planned_keys,
};
use undertone_infer::{Calibration, Plan, Program};
use undertone_model::LlamaConfig;

/// Everything that travels in a session, beforehand.
#[derive(Debug, Clone)]
pub struct FhePlan {
    /// The keys, in the order of the upload.
    pub keys: Vec<PlannedKey>,
    /// The blobs of each step: logits, then the guard, in results.
    pub lengths: StepLengths,
    /// Bytes of memory that the server needs for this session at most, its keys held as seeds and computed halves.
    pub memory_bytes: u64,
}

/// The circuit of a session, its costs, and what travels.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Packs inputs, runs, and reads results.
    pub program: Program,
    /// Counts per step and levels.
    pub costs: Plan,
    /// Keys and lengths.
    pub plan: FhePlan,
}

impl FhePlan {
    /// Bytes of all keys on the wire.
    pub fn key_bytes(&self) -> u64 {
        self.keys.iter().map(|key| key.len as u64).sum()
    }

    /// Bytes of memory and of disk that the keys take at the server when they wait as `memory` says.
    pub fn waiting_bytes(&self, memory: &KeyMemory) -> [u64; 2] {
        memory.planned_bytes(&self.keys)
    }

    /// Bytes of memory that the server needs for this session at most when its keys wait as `memory` says.
    pub fn memory_bytes_with(&self, memory: &KeyMemory) -> u64 {
        memory::waiting_otherwise(self.memory_bytes, &self.keys, memory)[0]
    }
}

/// Plans a session; both sides get the same from the same inputs.
///
/// # Errors
/// Shapes, calibrations and circuits that do not fit, as [`Plan::new`] and [`Program::new`] say.
pub fn prepare(
    parameters: &Parameters,
    config: &LlamaConfig,
    calibration: &Calibration,
    shape: WireShape,
) -> Result<Prepared, Error> {
    shape.check()?;
    let evaluator = CostEvaluator::new(parameters.chain()).with_bootstrap_model(bootstrap_model(parameters));
    let costs = Plan::new(config, Some(calibration), shape.into(), &evaluator)?;
    let program = Program::new(config, calibration, shape.into(), parameters.chain())?;
    let keys = planned_keys(parameters, &costs.keys)?;
    let input = SeededCiphertext::byte_len(parameters, costs.input_level);
    let lengths = StepLengths {
        prefill: vec![input; costs.prompt_ciphertexts],
        decode: vec![input; program.token_axis().count],
        result: vec![Ciphertext::byte_len(parameters, costs.output_level); costs.logit_ciphertexts + 1],
    };
    let memory_bytes = memory::session_bytes(parameters, config, &costs, &keys, &KeyMemory::Seeded);
    Ok(Prepared { program, costs, plan: FhePlan { keys, lengths, memory_bytes } })
}
