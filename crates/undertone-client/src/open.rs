//! Everything before the prompt: plan, connect, agree, and in mode fhe upload the keys.

use crate::codec::{ClearCodec, Codec, FheCodec, Key};
use crate::upload::{KeyMaker, upload};
use crate::{Connection, Error, LocalModel, Observer};
use undertone_he::{Chain, Parameters};
use undertone_infer::Program;
use undertone_net::Endpoint;
use undertone_protocol::message::{Hello, WireShape, calibration_digest};
use undertone_protocol::modes::{clear, fhe};
use undertone_protocol::{Leak, Mode, StepSession};
use undertone_secret::{SecretKey, SecretRng};

/// How the private part travels.
#[derive(Clone, Copy)]
pub enum Way<'a> {
    /// Encrypted; under a fresh key that is forgotten after the run unless one is given.
    Fhe {
        /// The parameter set, which the server must share.
        parameters: &'a Parameters,
        /// A stored key.
        key: Option<&'a SecretKey>,
    },
    /// In the clear, for tests.
    Clear {
        /// The chain of the server's parameter set.
        chain: Chain,
    },
}

/// A session that is ready for the prompt.
pub(crate) struct Opened<'a> {
    pub(crate) connection: Connection,
    pub(crate) session: Box<dyn StepSession>,
    pub(crate) codec: Box<dyn Codec + 'a>,
    pub(crate) program: Program,
    pub(crate) private_tokens: u32,
    pub(crate) key_bytes: u64,
    pub(crate) leakage: Vec<Leak>,
}

/// Opens a session of `shape` with `server`.
pub(crate) fn open<'a>(
    way: Way<'a>,
    server: &Endpoint,
    model: &LocalModel,
    shape: WireShape,
    padded_from: Option<usize>,
    observer: &mut dyn Observer,
) -> Result<Opened<'a>, Error> {
    let hello = |mode, parameters| {
        Hello::new(mode, parameters, model.fingerprint, calibration_digest(&model.calibration), shape)
    };
    match way {
        Way::Clear { chain } => {
            let prepared = clear::prepare(chain, &model.config, &model.calibration, shape)?;
            let mut session = clear::Client::new(hello(Mode::Clear, clear::chain_digest(chain)), prepared.lengths);
            let mut connection = Connection::open(server)?;
            connection.pump(&mut session, 0, observer)?;
            Ok(Opened {
                connection,
                session: Box::new(session),
                codec: Box::new(ClearCodec),
                program: prepared.program,
                private_tokens: shape.private_tokens,
                key_bytes: 0,
                leakage: clear::leakage(),
            })
        }
        Way::Fhe { parameters, key } => {
            let prepared = fhe::prepare(parameters, &model.config, &model.calibration, shape)?;
            let key_bytes = prepared.plan.key_bytes();
            let mut session = fhe::Client::new(hello(Mode::Fhe, parameters.digest()), prepared.plan);
            let mut connection = Connection::open(server)?;
            connection.pump(&mut session, 0, observer)?;
            let mut rng = SecretRng::from_os().map_err(undertone_secret::Error::from)?;
            let key = match key {
                Some(key) => Key::Stored(key),
                None => Key::Ephemeral(Box::new(SecretKey::generate(parameters, &mut rng))),
            };
            let products = &prepared.costs.keys.product_tokens;
            let mut keys = KeyMaker::new(parameters, key.secret(), products, &mut rng)?;
            upload(&mut keys, key_bytes, &mut session, &mut connection, observer)?;
            drop(keys);
            let input_level = prepared.costs.input_level;
            Ok(Opened {
                connection,
                session: Box::new(session),
                codec: Box::new(FheCodec { parameters, key, rng, input_level }),
                program: prepared.program,
                private_tokens: shape.private_tokens,
                key_bytes,
                leakage: fhe::leakage(Some(&shape), padded_from.map(|n| u32::try_from(n).unwrap_or(u32::MAX))),
            })
        }
    }
}
