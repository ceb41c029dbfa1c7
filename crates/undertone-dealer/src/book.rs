//! What a dealer has: a model's masks, sessions in stock, sessions of users, and a thread that deals ahead.

use crate::dealt::Dealt;
use crate::folder::StateFolder;
use crate::window::Limits;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use undertone_protocol::Error;
use undertone_protocol::modes::permuted::deal::{MAX_LENGTHS, MAX_PIECES, Stock};
use undertone_protocol::modes::permuted::masked_digest;
use undertone_ring::WordKernels;
use undertone_server::{Budget, SystemMemory};
use undertone_shares::{Dealer, MAX_BUNDLE_BYTES, PublicModel, Seed, SessionId, pieces};
use zeroize::Zeroizing;

/// Memory for bundles where nothing is said and the system does not say what is free.
const MEMORY: u64 = 4 << 30;
/// Sessions that share this memory at least.
const SHARES: u64 = 4;
/// How often the dealing thread looks for work that nobody told it of.
const LOOK: Duration = Duration::from_millis(500);

/// What a dealer keeps in stock and allows.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Tokens of the prompts for which sessions wait in stock, at most [`MAX_LENGTHS`].
    pub stock_prompts: Vec<usize>,
    /// Sessions in stock for each of them.
    pub stock_sessions: usize,
    /// Steps dealt ahead of a user.
    pub ahead: u64,
    /// Most tokens of one piece of a prompt.
    pub piece: usize,
    /// Most steps of one session.
    pub most_steps: u64,
    /// Whether the masks of all weights are held in memory, eight bytes for each.
    pub hold_masks: bool,
    /// Memory for the bundles of all sessions in bytes; `None` takes half of what is free at the start.
    pub memory_bytes: Option<u64>,
    /// Memory for the bundles of one session in bytes; `None` takes a quarter of that for all.
    pub session_bytes: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stock_prompts: Vec::new(),
            stock_sessions: 1,
            ahead: 8,
            piece: 64,
            most_steps: 4096,
            hold_masks: true,
            memory_bytes: None,
            session_bytes: None,
        }
    }
}

/// The model of the provider.
struct Registered {
    digest: [u8; 32],
    fingerprint: [u8; 32],
    dealer: Arc<Dealer>,
}

#[derive(Default)]
struct State {
    registered: Option<Registered>,
    waiting: Vec<Arc<Dealt>>,
    sessions: HashMap<SessionId, Arc<Dealt>>,
    /// Steps dealt and taken in sessions that are gone.
    past: (u64, u64),
}

impl State {
    /// Counts a session that is gone, and frees what it held.
    fn bury(&mut self, dealt: &Dealt) {
        dealt.close();
        let (made, taken) = dealt.counts();
        self.past = (self.past.0 + made, self.past.1 + taken);
    }
}

/// What all connections to a dealer share.
pub struct Book {
    settings: Settings,
    limits: Limits,
    budget: Arc<Budget>,
    folder: StateFolder,
    ticket: blake3::Hash,
    kernels: Arc<dyn WordKernels>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Book {
    /// An empty book, and the thread that fills it for as long as it is there.
    ///
    /// # Errors
    /// A folder that cannot be used, no randomness.
    pub fn open(
        settings: Settings,
        folder: StateFolder,
        kernels: Arc<dyn WordKernels>,
    ) -> Result<Arc<Self>, crate::Error> {
        let ticket = blake3::hash(&*folder.ticket()?);
        let half = || SystemMemory::read().map_or(MEMORY, |memory| memory.available_bytes / 2);
        let total = settings.memory_bytes.unwrap_or_else(half);
        let limits = Limits {
            session_bytes: settings.session_bytes.unwrap_or(total / SHARES).min(total),
            most_steps: settings.most_steps,
            ahead: settings.ahead,
        };
        let budget = Arc::new(Budget::new(Some(total)));
        let (state, changed) = (Mutex::default(), Condvar::new());
        let book = Arc::new(Self { settings, limits, budget, folder, ticket, kernels, state, changed });
        let weak = Arc::downgrade(&book);
        std::thread::spawn(move || deal_ahead(&weak));
        Ok(book)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the provider's model and gives the seed of its weight masks.
    pub(crate) fn register(
        &self,
        ticket: &[u8; 32],
        fingerprint: &[u8; 32],
        public: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, Error> {
        // Hashes are compared in constant time, and say nothing of the ticket.
        if blake3::hash(ticket) != self.ticket {
            return Err(Error::DealRefused { cause: "the ticket is not that of its provider; use its ticket file" });
        }
        let unusable = |_| Error::DealRefused { cause: "its folder for seeds cannot be used; see its own messages" };
        let seed = self.folder.weight_seed(fingerprint).map_err(unusable)?;
        let mut state = self.lock();
        if let Some(registered) = &state.registered {
            if registered.fingerprint == *fingerprint {
                return Ok(Zeroizing::new(*registered.dealer.weight_seed().bytes()));
            }
            return Err(Error::DealRefused { cause: "it deals for another model; start a dealer for each model" });
        }
        let public = PublicModel::decode(public)?;
        let name = Seed::from_bytes(*seed).public_name();
        let digest = masked_digest(&public, &name);
        let make = if self.settings.hold_masks { Dealer::with_seed } else { Dealer::drawing };
        let dealer = make(public, Arc::clone(&self.kernels), Seed::from_bytes(*seed))?;
        state.registered = Some(Registered { digest, fingerprint: *fingerprint, dealer: Arc::new(dealer) });
        drop(state);
        self.changed.notify_all();
        Ok(seed)
    }

    /// The pieces of a prompt of `tokens` tokens.
    fn pieces(&self, dealer: &Dealer, tokens: usize, strict: bool) -> Result<Vec<usize>, Error> {
        // A prompt of the longest context has no more pieces than a session may have, unless its bundles are too large.
        let most = self.settings.piece.max(tokens.div_ceil(MAX_PIECES));
        // Half of a session's memory for one bundle, so that the next can be dealt while it waits.
        let largest = usize::try_from(self.limits.session_bytes / 2).unwrap_or(usize::MAX).min(MAX_BUNDLE_BYTES);
        let pieces = pieces(&dealer.shape(), dealer.positions(), tokens, (most, strict), largest)?;
        match pieces.len() as u64 {
            have if have > MAX_PIECES as u64 => {
                Err(Error::Cap { field: "pieces of a prompt", have, need: MAX_PIECES as u64 })
            }
            _ => Ok(pieces),
        }
    }

    /// A session for a prompt: the smallest in stock that has room for it, or a new one, always if it is strict.
    pub(crate) fn open_session(
        &self,
        model: &[u8; 32],
        prompt: usize,
        (draft, strict): (usize, bool),
    ) -> Result<Arc<Dealt>, Error> {
        let mut state = self.lock();
        let Some(registered) = &state.registered else {
            return Err(Error::DealRefused { cause: "no provider has come yet; start it, then try again" });
        };
        if registered.digest != *model {
            return Err(Error::Mismatch { what: "public model and masked weights" });
        }
        let fits = |dealt: &Arc<Dealt>| draft == 0 && !strict && dealt.room() >= prompt && dealt.is_ahead(0);
        let found = state.waiting.iter().enumerate().filter(|(_, dealt)| fits(dealt)).min_by_key(|(_, d)| d.room());
        let dealt = match found.map(|(index, _)| index) {
            Some(index) => state.waiting.swap_remove(index),
            None => {
                let pieces = self.pieces(&registered.dealer, prompt, strict)?;
                let dealt = Arc::new(Dealt::new(&registered.dealer, pieces, (draft, strict), &self.limits)?);
                // Whoever is here comes before those for whom the stock is.
                while let Err(error) = dealt.reserve(&self.budget) {
                    let Some(stocked) = state.waiting.pop() else { return Err(error) };
                    state.bury(&stocked);
                }
                dealt
            }
        };
        state.sessions.insert(dealt.id, Arc::clone(&dealt));
        drop(state);
        self.changed.notify_all();
        Ok(dealt)
    }

    /// The session of this name.
    pub(crate) fn session(&self, id: &SessionId) -> Option<Arc<Dealt>> {
        self.lock().sessions.get(id).cloned()
    }

    /// Tells the dealing thread that a party has taken something, or waits for it.
    pub(crate) fn taken(&self) {
        // The thread holds the lock from its last look until it waits, so that it cannot miss this.
        drop(self.lock());
        self.changed.notify_all();
    }

    /// The user of a session has left, and the session is over.
    pub(crate) fn close(&self, dealt: &Dealt) {
        // Not under the lock: a step that is being dealt is waited for.
        dealt.close();
        let mut state = self.lock();
        state.sessions.remove(&dealt.id);
        state.bury(dealt);
        drop(state);
        // There is memory for others now.
        self.changed.notify_all();
    }

    /// The stock.
    pub fn stock(&self) -> Stock {
        let state = self.lock();
        let mut waiting = std::collections::BTreeMap::new();
        for dealt in state.waiting.iter().filter(|dealt| dealt.is_ahead(0)) {
            *waiting.entry(dealt.room() as u32).or_insert(0) += 1;
        }
        let mut stock = Stock {
            waiting: waiting.into_iter().collect(),
            sessions: state.sessions.len() as u32,
            ahead: 0,
            dealt: state.past.0,
            taken: state.past.1,
        };
        for dealt in state.waiting.iter().chain(state.sessions.values()) {
            let (made, taken) = dealt.counts();
            stock.dealt += made;
            stock.taken += taken;
            stock.ahead += dealt.ahead();
        }
        stock
    }

    /// What to deal next: a step of a user, before one of the stock; a new session of the stock last.
    fn due(&self, state: &mut State) -> Option<Arc<Dealt>> {
        let ahead = self.settings.ahead;
        let behind = |dealt: &&Arc<Dealt>| !dealt.is_ahead(ahead);
        // Whoever has least is served first.
        let users = state.sessions.values().filter(behind).min_by_key(|dealt| dealt.ahead());
        if let Some(dealt) = users.or_else(|| state.waiting.iter().find(behind)) {
            return Some(Arc::clone(dealt));
        }
        let registered = state.registered.as_ref()?;
        for &prompt in self.settings.stock_prompts.iter().take(MAX_LENGTHS) {
            let have = state.waiting.iter().filter(|dealt| dealt.room() == prompt).count();
            if have < self.settings.stock_sessions {
                let made = self
                    .pieces(&registered.dealer, prompt, false)
                    .and_then(|pieces| Dealt::new(&registered.dealer, pieces, (0, false), &self.limits))
                    .and_then(|dealt| dealt.reserve(&self.budget).map(|()| dealt));
                // Memory may be free later, and whoever asks for a prompt that the model cannot take hears the reason.
                let Ok(dealt) = made.map(Arc::new) else { continue };
                state.waiting.push(Arc::clone(&dealt));
                return Some(dealt);
            }
        }
        None
    }
}

/// Deals whatever is behind, until the book is gone.
fn deal_ahead(book: &Weak<Book>) {
    while let Some(book) = book.upgrade() {
        let mut state = book.lock();
        match book.due(&mut state) {
            Some(dealt) => {
                drop(state);
                if dealt.deal().is_err() {
                    // Its user hears the reason; one in stock is given to nobody, and not made again at once.
                    let mut state = book.lock();
                    let stocked = state.waiting.len();
                    state.waiting.retain(|other| other.id != dealt.id);
                    if state.waiting.len() < stocked {
                        drop(book.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner));
                    }
                }
            }
            None => drop(book.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner)),
        }
    }
}
