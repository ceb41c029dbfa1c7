//! What a dealer has: a model's masks, sessions in stock, sessions of users, and a thread that deals ahead.

use crate::Settings;
use crate::dealt::Dealt;
use crate::folder::StateFolder;
use crate::registered::Registered;
use crate::window::Limits;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use undertone_protocol::Error;
use undertone_protocol::modes::permuted::deal::{SessionCounts, Stock};
use undertone_protocol::modes::permuted::masked_digest;
use undertone_ring::WordKernels;
use undertone_server::{Budget, Reservation, SystemMemory};
use undertone_shares::{Dealer, MaskedModel, PublicModel, Seed, SessionId};
use zeroize::Zeroizing;

/// How often the dealing thread looks for work that nobody told it of.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Default)]
struct State {
    registered: Option<Arc<Registered>>,
    waiting: Vec<Arc<Dealt>>,
    sessions: HashMap<SessionId, Arc<Dealt>>,
    /// Steps dealt and taken in sessions that are gone.
    past: (u64, u64),
    /// Number of the last turn: each step of a user's session that is dealt is one.
    turn: u64,
}

impl State {
    /// Counts a session that is closed.
    fn count(&mut self, dealt: &Dealt) {
        let (made, taken) = dealt.counts();
        self.past = (self.past.0 + made, self.past.1 + taken);
    }
}

/// Sessions that made room, to be wiped without the lock.
struct Evicted {
    stocked: Vec<Arc<Dealt>>,
    /// What they held beyond what was needed: nobody's until they are wiped.
    _rest: Option<Reservation>,
}

/// What all connections to a dealer share.
pub struct Book {
    settings: Settings,
    folder: StateFolder,
    ticket: blake3::Hash,
    kernels: Arc<dyn WordKernels>,
    /// What the system has free, where it says so.
    free_bytes: fn() -> Option<u64>,
    /// Held while masks are made, so that they are made once.
    registering: Mutex<()>,
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
        let book = Arc::new(Self::new(settings, folder, kernels)?);
        let weak = Arc::downgrade(&book);
        std::thread::spawn(move || deal_ahead(&weak));
        Ok(book)
    }

    /// A book that nobody fills.
    fn new(settings: Settings, folder: StateFolder, kernels: Arc<dyn WordKernels>) -> Result<Self, crate::Error> {
        let ticket = blake3::hash(&*folder.ticket()?);
        let (registering, state, changed) = (Mutex::default(), Mutex::default(), Condvar::new());
        let free_bytes = || SystemMemory::read().map(|memory| memory.available_bytes);
        Ok(Self { settings, folder, ticket, kernels, free_bytes, registering, state, changed })
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
        // Masks of a large model take minutes, in which nobody who asks for something else waits.
        let _one = self.registering.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.lock().registered.clone();
        if let Some(registered) = known {
            if registered.fingerprint == *fingerprint {
                return Ok(Zeroizing::new(*registered.dealer.weight_seed().bytes()));
            }
            return Err(Error::DealRefused { cause: "it deals for another model; start a dealer for each model" });
        }
        let public = PublicModel::decode(public)?;
        let masks = if self.settings.hold_masks { MaskedModel::size_bytes(&public.shape()) } else { 0 };
        let limits = Limits::new(&self.settings, (self.free_bytes)(), masks)?;
        let unusable = |_| Error::DealRefused { cause: "its folder for seeds cannot be used; see its own messages" };
        let seed = self.folder.weight_seed(fingerprint).map_err(unusable)?;
        let name = Seed::from_bytes(*seed).public_name();
        let digest = masked_digest(&public, &name);
        let make = if self.settings.hold_masks { Dealer::with_seed } else { Dealer::drawing };
        let dealer = Arc::new(make(public, Arc::clone(&self.kernels), Seed::from_bytes(*seed))?);
        let budget = Arc::new(Budget::new(Some(limits.all_bytes)));
        let mut registered =
            Registered { digest, fingerprint: *fingerprint, dealer, limits, budget, stock: Vec::new() };
        registered.stock = registered.stocked(&self.settings);
        self.lock().registered = Some(Arc::new(registered));
        self.changed.notify_all();
        Ok(seed)
    }

    /// A session for a prompt: the smallest in stock that has room for it, or a new one, always if it is strict.
    pub(crate) fn open_session(
        &self,
        model: &[u8; 32],
        counts: &SessionCounts,
        strict: bool,
    ) -> Result<Arc<Dealt>, Error> {
        let [prompt, answer, draft] = [counts.prompt, counts.max_new_tokens, counts.draft].map(|count| count as usize);
        let mut state = self.lock();
        let refused = Error::DealRefused { cause: "no provider has come yet; start it, then try again" };
        let registered = state.registered.clone().ok_or(refused)?;
        if registered.digest != *model {
            return Err(Error::Mismatch { what: "public model and masked weights" });
        }
        self.expect_place(&state)?;
        let stocked = draft == 0 && !strict;
        let fits = |dealt: &Arc<Dealt>| stocked && dealt.serves(prompt, answer) && dealt.is_ahead(0);
        let found = state.waiting.iter().enumerate().filter(|(_, dealt)| fits(dealt)).min_by_key(|(_, d)| d.room());
        if let Some(index) = found.map(|(index, _)| index) {
            let dealt = state.waiting.swap_remove(index);
            let dealt = self.enter(state, dealt)?;
            // It keeps the memory that was set aside for a longer answer.
            dealt.hold_to(answer);
            return Ok(dealt);
        }
        drop(state);
        // Outside the lock, because a long prompt takes a while to divide.
        let pieces = registered.pieces(prompt, self.settings.piece, strict)?;
        let dealt = Arc::new(Dealt::new(&registered.dealer, pieces, (answer, draft, strict), &registered.limits)?);
        let evicted = self.reserve(&registered.budget, &dealt)?;
        // What is wiped here is gone before the session that gets its memory is dealt for.
        evicted.stocked.iter().for_each(|stocked| stocked.close());
        let mut state = self.lock();
        evicted.stocked.iter().for_each(|stocked| state.count(stocked));
        self.enter(state, dealt)
    }

    /// Refuses a session of a user where there are too many.
    fn expect_place(&self, state: &State) -> Result<(), Error> {
        let have = state.sessions.len();
        if have >= self.settings.most_sessions { Err(Error::Busy { have }) } else { Ok(()) }
    }

    /// Counts a session among those of users.
    ///
    /// # Errors
    /// `Busy`, where others came meanwhile.
    fn enter(&self, mut state: MutexGuard<'_, State>, dealt: Arc<Dealt>) -> Result<Arc<Dealt>, Error> {
        self.expect_place(&state)?;
        // Behind those who are here.
        dealt.take_turn(state.turn);
        state.sessions.insert(dealt.id, Arc::clone(&dealt));
        drop(state);
        self.changed.notify_all();
        Ok(dealt)
    }

    /// Sets aside what a user's session may hold. Whoever is here comes before those for whom the stock is: sessions in
    /// stock make room, but only as many as are needed, and none where all of them would not do.
    ///
    /// # Errors
    /// `DealMemory`.
    fn reserve(&self, budget: &Arc<Budget>, dealt: &Dealt) -> Result<Evicted, Error> {
        let mut state = self.lock();
        // Only releases happen without the lock, so that what is free here can only grow.
        let (need, free) = (dealt.window(), budget.free_bytes());
        let have = state.waiting.iter().map(|stocked| stocked.window()).fold(free, u64::saturating_add);
        if have < need {
            return Err(Error::DealMemory { have, need });
        }
        let (mut stocked, mut freed) = (Vec::new(), 0);
        while budget.free_bytes() < need {
            let short = need - budget.free_bytes();
            // The smallest that suffices, or else the largest.
            let fit = |bytes: u64| if bytes >= short { (false, bytes) } else { (true, u64::MAX - bytes) };
            let best = state.waiting.iter().enumerate().min_by_key(|(_, stocked)| fit(stocked.window()));
            let Some(index) = best.map(|(index, _)| index) else { break };
            let evicted = state.waiting.swap_remove(index);
            evicted.release();
            freed += evicted.window();
            stocked.push(evicted);
        }
        dealt.reserve(budget)?;
        let rest = budget.reserve(freed.min(budget.free_bytes())).ok();
        Ok(Evicted { stocked, _rest: rest })
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
        state.count(dealt);
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
        // Whoever waits with nothing comes first, and among equals whose last turn is longest ago: the steps of one long
        // prompt take turns with those of others.
        let users = state.sessions.values().filter(behind).min_by_key(|dealt| (!dealt.is_awaited(), dealt.turn()));
        if let Some(dealt) = users {
            state.turn += 1;
            dealt.take_turn(state.turn);
            return Some(Arc::clone(dealt));
        }
        if let Some(dealt) = state.waiting.iter().find(behind) {
            return Some(Arc::clone(dealt));
        }
        let registered = state.registered.clone()?;
        for (pieces, answer) in &registered.stock {
            let have = state.waiting.iter().filter(|dealt| dealt.pieces == *pieces).count();
            if have < self.settings.stock_sessions {
                let made = Dealt::new(&registered.dealer, pieces.clone(), (*answer, 0, false), &registered.limits)
                    .and_then(|dealt| dealt.reserve(&registered.budget).map(|()| dealt));
                // Memory may be free later, and whoever asks for a session that is beyond the limits hears the reason.
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

#[cfg(test)]
mod tests;
