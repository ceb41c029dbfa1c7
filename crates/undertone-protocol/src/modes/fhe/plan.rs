//! What both sides of mode fhe compute beforehand from parameters, model, calibration and shape: every key in its
//! order, and every length in bytes.

use crate::exchange::StepLengths;
use undertone_he::KeyRequest;

/// One key of the upload.
#[derive(Debug, Clone, Copy)]
pub struct PlannedKey {
    /// Which key, and up to which level.
    pub request: KeyRequest,
    /// Its length in bytes on the wire.
    pub len: usize,
}

/// Everything that travels in a session, beforehand.
#[derive(Debug, Clone)]
pub struct FhePlan {
    /// The keys, in the order of the upload.
    pub keys: Vec<PlannedKey>,
    /// The blobs of each step.
    pub lengths: StepLengths,
    /// Bytes of memory that the server needs for this session.
    pub memory_bytes: u64,
}

impl FhePlan {
    /// Bytes of all keys on the wire.
    pub fn key_bytes(&self) -> u64 {
        self.keys.iter().map(|key| key.len as u64).sum()
    }
}
