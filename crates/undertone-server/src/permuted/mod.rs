//! The provider of mode `permuted`: weights, sessions on shares, and bundles from a dealer.
//!
//! The host offers two kinds of sessions: `setup`, which gives a user the public model and the masked weights, and
//! `permuted`. Bundles are pulled from the dealer ahead of use, by one thread for each session, into a store that gives
//! each out once. Absent on purpose: anything of the user's, and the dealer's seeds of sessions.

mod bundles;
mod keeper;
mod limits;
mod session;
mod ticket;

use crate::Error;
use crate::host::{Host, Opening};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use undertone_model::Llama;
use undertone_protocol::message::{Hello, Welcome};
use undertone_protocol::modes::permuted::setup::MaskedSource;
use undertone_protocol::modes::permuted::{DealLink, Digests, SetupServer};
use undertone_protocol::{Dial, Duplex, Error as ProtocolError, Mode};
use undertone_ring::WordKernels;
use undertone_shares::{MaskedModel, ProviderModel, QuantizedModel, Seed, Shape, StoreFolder};
use zeroize::Zeroizing;

use bundles::Bundles;
use limits::Limits;
use session::ProviderSession;
pub use ticket::read_ticket;

/// Most tokens of a step unless another number is set: of the pieces that a dealer makes by default.
const LONGEST_STEP: usize = 64;
/// Memory of a set-up session, which makes one chunk at a time.
const SETUP_MEMORY: u64 = 16 << 20;

/// A connection to the dealer on which the provider is known, and the seed of the weight masks.
type Registered = (DealLink<Box<dyn Duplex>>, Zeroizing<[u8; 32]>);

/// The dealer as a provider reaches it.
#[derive(Clone)]
pub struct DealerAccess {
    /// Opens a connection.
    pub dial: Dial,
    /// What the dealer knows its provider by.
    pub ticket: Arc<Zeroizing<[u8; 32]>>,
    /// Hears why the dealer does not know the provider any more, in a sentence.
    pub notice: Arc<dyn Fn(&str) + Send + Sync>,
}

impl DealerAccess {
    /// Connects and introduces the provider; also gives the seed of the weight masks.
    fn register(&self, fingerprint: [u8; 32], public: &[u8]) -> Result<Registered, ProtocolError> {
        let stream = (self.dial)().map_err(|error| ProtocolError::of_io(&error))?;
        let mut link = DealLink::open(stream)?;
        let seed = link.register(&self.ticket, fingerprint, public)?;
        Ok((link, seed))
    }
}

/// What every session of the provider shares.
struct Shared {
    model: Arc<ProviderModel>,
    shape: Shape,
    positions: usize,
    fingerprint: [u8; 32],
    public: Vec<u8>,
    seed: Seed,
    /// The public name of the seed.
    name: [u8; 32],
    access: DealerAccess,
    folder: Option<StoreFolder>,
}

/// A model that is served in mode `permuted`.
pub struct PermutedHost {
    shared: Arc<Shared>,
    digests: Digests,
    longest_step: usize,
    setups: Arc<AtomicUsize>,
    max_setups: usize,
}

impl PermutedHost {
    /// Rounds a model and introduces it to the dealer. Bundles are kept inside `folder`, or in memory without one;
    /// `tokenizer` is the file, for the comparison with the user's.
    ///
    /// # Errors
    /// Weights that the mode cannot hold, a dealer that cannot be reached or does not know the ticket, a folder that another
    /// process holds or that is not ours.
    pub fn new(
        model: &Llama,
        tokenizer: Option<&[u8]>,
        access: DealerAccess,
        folder: Option<PathBuf>,
        kernels: Arc<dyn WordKernels>,
    ) -> Result<Self, Error> {
        // Before anything takes long: another process may hold it.
        let folder = folder.map(|folder| StoreFolder::open(&folder, "provider")).transpose()?;
        let fingerprint = model.fingerprint();
        let quantized = QuantizedModel::new(model)?;
        let public_model = quantized.public().clone();
        let positions = public_model.config.max_position_embeddings;
        let provider = Arc::new(ProviderModel::new(Arc::new(quantized), positions, kernels));
        let public = public_model.encode();
        let (link, seed) = access.register(fingerprint, &public)?;
        link.close();
        let seed = Seed::from_bytes(*seed);
        let name = seed.public_name();
        let digests = Digests::new(&public_model, &name, provider.rotary(), tokenizer);
        let shape = public_model.shape();
        let shared = Shared { model: provider, shape, positions, fingerprint, public, seed, name, access, folder };
        let (shared, setups) = (Arc::new(shared), Arc::default());
        let kept = Arc::downgrade(&shared);
        std::thread::spawn(move || keeper::keep_known(&kept));
        Ok(Self { shared, digests, longest_step: LONGEST_STEP, setups, max_setups: usize::MAX })
    }

    /// Loads a model directory and introduces it to the dealer, as [`PermutedHost::new`].
    ///
    /// # Errors
    /// A model that is missing or damaged, and as [`PermutedHost::new`].
    pub fn load(dir: &Path, access: DealerAccess, folder: Option<PathBuf>) -> Result<Self, Error> {
        let model = Llama::load(dir)?;
        // A directory without a tokenizer is served to users without one.
        let tokenizer = std::fs::read(dir.join("tokenizer.json")).ok();
        Self::new(&model, tokenizer.as_deref(), access, folder, undertone_ring::detect_word_kernels())
    }

    /// Sets the most tokens of a step, which decide what memory is reserved for a session: those of the dealer's pieces.
    #[must_use]
    pub fn with_longest_step(self, tokens: usize) -> Self {
        Self { longest_step: tokens.max(1), ..self }
    }

    /// Sets how many users may fetch masked weights at a time, so that they do not hold all places for hours.
    #[must_use]
    pub fn with_setups(self, most: usize) -> Self {
        Self { max_setups: most.max(1), ..self }
    }

    /// A place for a set-up.
    fn setup_place(&self) -> Result<SetupPlace, ProtocolError> {
        let free = |have: usize| (have < self.max_setups).then_some(have + 1);
        let taken = self.setups.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free);
        taken.map(|_| SetupPlace(Arc::clone(&self.setups))).map_err(|have| ProtocolError::Busy { have })
    }

    fn open_permuted(&self, hello: &Hello, welcome: Welcome) -> Result<Opening, ProtocolError> {
        self.digests.expect(hello)?;
        let strict = hello.mode == Mode::Strict;
        let limits = Limits::new(&hello.shape, self.shared.positions, self.longest_step)?.with_strict(strict);
        let memory_bytes = limits.memory_bytes(&self.shared.shape);
        let session = ProviderSession::new(welcome, limits, Arc::clone(&self.shared));
        Ok(Opening { session: Box::new(session), memory_bytes, setup_bytes: 0 })
    }
}

impl Host for PermutedHost {
    fn open(&self, hello: &Hello, welcome: Welcome) -> Result<Opening, ProtocolError> {
        match hello.mode {
            Mode::Permuted | Mode::Strict => self.open_permuted(hello, welcome),
            Mode::Setup => {
                let place = self.setup_place()?;
                let masked = (self.shared.name, MaskedModel::size_bytes(&self.shared.shape));
                let source = Box::new(Masked(Arc::clone(&self.shared), place));
                let session = SetupServer::new(welcome, self.shared.public.clone(), masked, source);
                Ok(Opening { session: Box::new(session), memory_bytes: SETUP_MEMORY, setup_bytes: 0 })
            }
            other => Err(ProtocolError::ModeRefused { mode: other.name() }),
        }
    }
}

/// The masked weights, made as they are asked for.
struct Masked(Arc<Shared>, #[expect(dead_code, reason = "it is freed when the set-up ends")] SetupPlace);

/// One of the places for set-ups.
struct SetupPlace(Arc<AtomicUsize>);

impl Drop for SetupPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl MaskedSource for Masked {
    fn bytes(&self, first: u64, len: usize) -> Vec<u8> {
        let words = self.0.model.masked_words(&self.0.seed, first / 8, len.div_ceil(8));
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}
