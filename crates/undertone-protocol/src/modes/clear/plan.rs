//! What both sides of mode clear compute beforehand: the circuit and every length in bytes.

use crate::Error;
use crate::exchange::StepLengths;
use crate::message::WireShape;
use undertone_he::Chain;
use undertone_infer::{Calibration, Program};
use undertone_model::LlamaConfig;

/// Bytes of a slot.
const SLOT_BYTES: usize = 8;

/// The circuit of a session, and what travels.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Packs inputs, runs, and reads results.
    pub program: Program,
    /// The blobs of each step: logits, then the guard, in results.
    pub lengths: StepLengths,
}

/// Plans a session; both sides get the same from the same inputs.
///
/// # Errors
/// Shapes, calibrations and circuits that do not fit, as [`Program::new`] says.
pub fn prepare(
    chain: Chain,
    config: &LlamaConfig,
    calibration: &Calibration,
    shape: WireShape,
) -> Result<Prepared, Error> {
    shape.check()?;
    let program = Program::new(config, calibration, shape.into(), chain)?;
    let (prompt, token) = (program.prompt_axis(), program.token_axis());
    let lengths = StepLengths {
        prefill: vec![SLOT_BYTES * prompt.period(); prompt.count],
        decode: vec![SLOT_BYTES * token.period(); token.count],
        result: vec![SLOT_BYTES * chain.slot_count(); program.logit_count() + 1],
    };
    Ok(Prepared { program, lengths })
}

/// What stands for the parameter digest in this mode.
pub fn chain_digest(chain: Chain) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("undertone clear chain, version 2");
    for number in [chain.log_n as usize, chain.top_level, chain.boot_level, chain.max_level] {
        hasher.update(&(number as u64).to_le_bytes());
    }
    // No prime is 0.
    hasher.update(&chain.product_prime.unwrap_or(0).to_le_bytes());
    *hasher.finalize().as_bytes()
}
