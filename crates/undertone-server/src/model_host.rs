//! The host of a real server: one model, its calibration, and the parameter sets that it offers.

use crate::Error;
use crate::host::{Host, Opening};
use std::path::Path;
use std::sync::Arc;
use undertone_he::{KeyMemory, Parameters};
use undertone_infer::Calibration;
use undertone_model::Llama;
use undertone_protocol::message::{Hello, Welcome, calibration_digest};
use undertone_protocol::modes::{clear, fhe};
use undertone_protocol::{Error as ProtocolError, Mode};

/// Bytes of memory that a session in the clear is counted with.
const CLEAR_MEMORY: u64 = 256 << 20;

/// A model that is served.
pub struct ModelHost {
    /// At least one.
    sets: Vec<Parameters>,
    model: Arc<Llama>,
    calibration: Calibration,
    fingerprint: [u8; 32],
    calibration_digest: [u8; 32],
    offer_clear: bool,
    key_memory: KeyMemory,
}

impl ModelHost {
    /// Loads a model directory with the calibration beside it.
    ///
    /// # Errors
    /// A model or calibration that is missing, damaged, or of another model.
    pub fn load(dir: &Path, parameters: Parameters) -> Result<Self, Error> {
        let calibration = Calibration::load(dir)?;
        Self::new(Arc::new(Llama::load(dir)?), calibration, parameters)
    }

    /// Serves a model that is in memory already.
    ///
    /// # Errors
    /// A calibration of another model.
    pub fn new(model: Arc<Llama>, calibration: Calibration, parameters: Parameters) -> Result<Self, Error> {
        let fingerprint = model.fingerprint();
        calibration.check_fingerprint(&fingerprint)?;
        calibration.check_shape(&model.config)?;
        let calibration_digest = calibration_digest(&calibration);
        // The name stays that of the stored weights, from which both sides derive the prepared ones.
        let model = calibration.preparation.weights(model);
        // Half the memory of both halves for about an eighth of a bootstrap's time (docs/performance.md).
        let key_memory = KeyMemory::Seeded;
        let sets = vec![parameters];
        Ok(Self { sets, model, calibration, fingerprint, calibration_digest, offer_clear: false, key_memory })
    }

    /// Also offers sessions under another parameter set: the client says which it takes.
    pub fn offer(mut self, parameters: Parameters) -> Self {
        self.sets.push(parameters);
        self
    }

    /// Keeps the keys of sessions as `memory` says instead of in memory as seeds and computed halves.
    pub fn keep_keys(mut self, memory: KeyMemory) -> Self {
        self.key_memory = memory;
        self
    }

    /// Also offers mode clear, which protects nothing; for tests of drivers and programs.
    pub fn offer_clear(mut self) -> Self {
        self.offer_clear = true;
        self
    }

    fn vocab_size(&self) -> u32 {
        u32::try_from(self.model.config.vocab_size).unwrap_or(u32::MAX)
    }

    /// The offered set with this digest; without one the first, whose digest then is what the hello does not match.
    fn set(&self, digest: [u8; 32], digest_of: impl Fn(&Parameters) -> [u8; 32]) -> &Parameters {
        self.sets.iter().find(|set| digest_of(set) == digest).unwrap_or(&self.sets[0])
    }

    fn open_fhe(&self, hello: &Hello, welcome: Welcome) -> Result<Opening, ProtocolError> {
        let parameters = self.set(hello.parameters, Parameters::digest);
        hello.expect(parameters.digest(), self.fingerprint, self.calibration_digest)?;
        let prepared = fhe::prepare(parameters, &self.model.config, &self.calibration, hello.shape)?;
        let setup = fhe::CkksSetup::new(parameters, self.model.clone(), &prepared, &self.key_memory)?;
        let memory_bytes = prepared.plan.memory_bytes_with(&self.key_memory);
        let setup_bytes = prepared.plan.key_bytes();
        let session = fhe::Server::new(hello.shape, self.vocab_size(), prepared.plan, welcome, Box::new(setup));
        Ok(Opening { session: Box::new(session), memory_bytes, setup_bytes })
    }

    fn open_clear(&self, hello: &Hello, welcome: Welcome) -> Result<Opening, ProtocolError> {
        let chain = self.set(hello.parameters, |set| clear::chain_digest(set.chain())).chain();
        hello.expect(clear::chain_digest(chain), self.fingerprint, self.calibration_digest)?;
        let prepared = clear::prepare(chain, &self.model.config, &self.calibration, hello.shape)?;
        let engine = clear::engine(chain, self.model.clone(), prepared.program);
        let session = clear::Server::new(Mode::Clear, hello.shape, self.vocab_size(), prepared.lengths, welcome);
        let session = Box::new(session.with_engine(Box::new(engine)));
        Ok(Opening { session, memory_bytes: CLEAR_MEMORY, setup_bytes: 0 })
    }
}

impl Host for ModelHost {
    fn open(&self, hello: &Hello, welcome: Welcome) -> Result<Opening, ProtocolError> {
        let positions = u64::from(hello.shape.public_tokens)
            + u64::from(hello.shape.private_tokens)
            + u64::from(hello.shape.max_new_tokens).saturating_sub(1);
        let need = self.model.config.max_position_embeddings as u64;
        if positions > need {
            return Err(ProtocolError::Cap { field: "prompt with its continuation", have: positions, need });
        }
        match hello.mode {
            Mode::Fhe => self.open_fhe(hello, welcome),
            Mode::Clear if self.offer_clear => self.open_clear(hello, welcome),
            _ => Err(ProtocolError::ModeRefused { mode: hello.mode.name() }),
        }
    }
}
