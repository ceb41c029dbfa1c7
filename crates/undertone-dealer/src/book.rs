//! What a dealer has: a model's masks, sessions in stock, sessions of users, and a thread that deals ahead.

use crate::dealt::Dealt;
use crate::folder::StateFolder;
use crate::window::Limits;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use undertone_protocol::Error;
use undertone_protocol::modes::permuted::deal::{MAX_LENGTHS, MAX_PIECES, SessionCounts, Stock};
use undertone_protocol::modes::permuted::masked_digest;
use undertone_ring::WordKernels;
use undertone_server::{Budget, Reservation, SystemMemory};
use undertone_shares::{Dealer, MAX_BUNDLE_BYTES, MaskedModel, PublicModel, Seed, SessionId, pieces};
use zeroize::Zeroizing;

/// How often the dealing thread looks for work that nobody told it of.
const LOOK: Duration = Duration::from_millis(500);

/// What a dealer keeps in stock and allows.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Tokens of the prompts for which sessions wait in stock, at most [`MAX_LENGTHS`].
    pub stock_prompts: Vec<usize>,
    /// Sessions in stock for each of them.
    pub stock_sessions: usize,
    /// Most tokens of the answer that a session in stock has room for, fewer where the context ends before.
    pub stock_new_tokens: usize,
    /// Steps dealt ahead of a user.
    pub ahead: u64,
    /// Most tokens of one piece of a prompt.
    pub piece: usize,
    /// Most steps of one session.
    pub most_steps: u64,
    /// Whether the masks of all weights are held in memory, eight bytes for each.
    pub hold_masks: bool,
    /// Memory for the bundles of all sessions in bytes; `None` takes half of what is free beside the masks.
    pub memory_bytes: Option<u64>,
    /// Memory for the bundles of one session in bytes; `None` takes a quarter of that for all.
    pub session_bytes: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stock_prompts: Vec::new(),
            stock_sessions: 1,
            stock_new_tokens: 512,
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
    limits: Limits,
    budget: Arc<Budget>,
    /// Pieces of the prompts of which there is a stock, and tokens of the answer.
    stock: Vec<(Vec<usize>, usize)>,
}

impl Registered {
    /// The pieces of a prompt of `tokens` tokens, of at most `most` each.
    fn pieces(&self, tokens: usize, most: usize) -> Result<Vec<usize>, Error> {
        // Half of a session's memory for one bundle, so that the next can be dealt while it waits.
        let largest = usize::try_from(self.limits.session_bytes / 2).unwrap_or(usize::MAX).min(MAX_BUNDLE_BYTES);
        let dealer = &self.dealer;
        Ok(pieces(&dealer.shape(), dealer.positions(), tokens, most, largest, MAX_PIECES)?)
    }

    /// What to have in stock. A prompt that the model cannot take is left out; whoever asks for it hears the reason.
    fn stocked(&self, settings: &Settings) -> Vec<(Vec<usize>, usize)> {
        let stocked = |&prompt: &usize| {
            let pieces = self.pieces(prompt, settings.piece).ok()?;
            let steps = usize::try_from(settings.most_steps).unwrap_or(usize::MAX);
            let left = (self.dealer.positions() + 1 - prompt).min(steps.saturating_add(1).checked_sub(pieces.len())?);
            Some((pieces, settings.stock_new_tokens.min(left)))
        };
        settings.stock_prompts.iter().take(MAX_LENGTHS).filter_map(stocked).filter(|(_, answer)| *answer > 0).collect()
    }
}

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

    /// A session for a prompt: the smallest in stock that has room for it, or a new one.
    pub(crate) fn open_session(&self, model: &[u8; 32], counts: &SessionCounts) -> Result<Arc<Dealt>, Error> {
        let [prompt, answer, draft] = [counts.prompt, counts.max_new_tokens, counts.draft].map(|count| count as usize);
        let mut state = self.lock();
        let refused = Error::DealRefused { cause: "no provider has come yet; start it, then try again" };
        let registered = state.registered.clone().ok_or(refused)?;
        if registered.digest != *model {
            return Err(Error::Mismatch { what: "public model and masked weights" });
        }
        let fits = |dealt: &Arc<Dealt>| draft == 0 && dealt.serves(prompt, answer) && dealt.is_ahead(0);
        let found = state.waiting.iter().enumerate().filter(|(_, dealt)| fits(dealt)).min_by_key(|(_, d)| d.room());
        if let Some(index) = found.map(|(index, _)| index) {
            let dealt = state.waiting.swap_remove(index);
            let dealt = self.enter(state, dealt);
            // It keeps the memory that was set aside for a longer answer.
            dealt.hold_to(answer);
            return Ok(dealt);
        }
        drop(state);
        // Outside the lock, because a long prompt takes a while to divide.
        let pieces = registered.pieces(prompt, self.settings.piece)?;
        let dealt = Arc::new(Dealt::new(&registered.dealer, pieces, (answer, draft), &registered.limits)?);
        let evicted = self.reserve(&registered.budget, &dealt)?;
        // What is wiped here is gone before the session that gets its memory is dealt for.
        evicted.stocked.iter().for_each(|stocked| stocked.close());
        let mut state = self.lock();
        evicted.stocked.iter().for_each(|stocked| state.count(stocked));
        Ok(self.enter(state, dealt))
    }

    /// Counts a session among those of users.
    fn enter(&self, mut state: MutexGuard<'_, State>, dealt: Arc<Dealt>) -> Arc<Dealt> {
        // Behind those who are here.
        dealt.take_turn(state.turn);
        state.sessions.insert(dealt.id, Arc::clone(&dealt));
        drop(state);
        self.changed.notify_all();
        dealt
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
                let made = Dealt::new(&registered.dealer, pieces.clone(), (*answer, 0), &registered.limits)
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
mod tests {
    use super::*;
    use undertone_model::LlamaConfig;
    use undertone_model::synthetic::{small_config, synthetic};
    use undertone_protocol::modes::permuted::deal::Next;
    use undertone_ring::scalar_word_kernels;
    use undertone_shares::QuantizedModel;

    /// A book that nobody fills, whose provider has come, and the digest that users show.
    fn book(settings: Settings) -> (Book, [u8; 32]) {
        let book = Book::new(settings, StateFolder::open(None).unwrap(), scalar_word_kernels()).unwrap();
        // Without a folder, every look at a ticket makes another.
        let book = Book { ticket: blake3::hash(&[1; 32]), ..book };
        let config = LlamaConfig { num_hidden_layers: 1, ..small_config() };
        let public = QuantizedModel::new(&synthetic(config, 1)).unwrap().public().clone();
        book.register(&[1; 32], &[2; 32], &public.encode()).unwrap();
        let digest = book.lock().registered.as_ref().unwrap().digest;
        (book, digest)
    }

    fn counts(prompt: u32, max_new_tokens: u32, draft: u32) -> SessionCounts {
        SessionCounts { prompt, max_new_tokens, draft }
    }

    /// Deals once, and says for whom.
    fn deal(book: &Book) -> Option<SessionId> {
        let dealt = book.due(&mut book.lock())?;
        dealt.deal().unwrap();
        Some(dealt.id)
    }

    #[test]
    fn a_long_prompt_takes_turns_with_others_and_whoever_waits_comes_first() {
        let (book, digest) = book(Settings { piece: 1, ahead: 2, ..Settings::default() });
        let long = book.open_session(&digest, &counts(40, 60, 0)).unwrap();
        let asks = |dealt: &Dealt| matches!(dealt.next().unwrap(), Next::Bundle(_));
        assert!(!asks(&long));
        (0..5).for_each(|_| assert_eq!(deal(&book), Some(long.id)));
        // Another comes while forty pieces are being dealt, and waits for its first step.
        let short = book.open_session(&digest, &counts(1, 60, 0)).unwrap();
        assert!(!asks(&short) && asks(&long));
        assert_eq!(deal(&book), Some(short.id));
        // Neither waits: they take turns until the short one has what it may have ahead.
        assert_eq!([deal(&book), deal(&book), deal(&book)].map(Option::unwrap), [long.id, short.id, long.id]);
        assert!(asks(&short) && asks(&short) && !asks(&short));
        assert_eq!(deal(&book), Some(short.id));
        // Both wait: whose last turn is longest ago.
        while asks(&long) {}
        assert!(asks(&short) && !asks(&short));
        assert_eq!([deal(&book), deal(&book)].map(Option::unwrap), [long.id, short.id]);
        // Whoever comes anew does not get ahead of those who wait already.
        while asks(&long) {}
        let newcomers: Vec<_> = (0..3).map(|_| book.open_session(&digest, &counts(1, 60, 0)).unwrap()).collect();
        newcomers.iter().for_each(|dealt| assert!(!asks(dealt)));
        assert_eq!(deal(&book), Some(long.id));
    }

    /// What is set aside for a session of this prompt with one drafted token, so that none in stock serves.
    fn need(settings: &Settings, prompt: u32) -> u64 {
        let (book, digest) = book(Settings { stock_sessions: 0, ..settings.clone() });
        book.open_session(&digest, &counts(prompt, 20, 1)).unwrap().window()
    }

    #[test]
    fn stock_makes_room_for_a_user_only_where_that_is_enough_and_no_more_than_needed() {
        let roomy = Settings { memory_bytes: Some(1 << 40), session_bytes: Some(1 << 30), ..Settings::default() };
        let (stocked, user) = (need(&roomy, 4), need(&roomy, 8));
        let of_stock = {
            let (book, digest) = book(roomy.clone());
            book.open_session(&digest, &counts(4, 60, 0)).unwrap().window()
        };
        assert!(of_stock < user && user < 2 * of_stock && of_stock < stocked, "{of_stock} {stocked} {user}");
        let memory = 2 * of_stock + (user - of_stock);
        let (book, digest) = book(Settings {
            stock_prompts: vec![4],
            stock_sessions: 2,
            stock_new_tokens: 60,
            memory_bytes: Some(memory),
            ..roomy
        });
        while deal(&book).is_some() {}
        assert_eq!(book.stock().waiting, [(4, 2)]);
        let budget = Arc::clone(&book.lock().registered.as_ref().unwrap().budget);
        let first = book.open_session(&digest, &counts(8, 20, 1)).unwrap();
        assert_eq!((book.stock().waiting, budget.free_bytes()), (vec![(4, 1)], 0));
        assert_eq!(book.stock().dealt, 2 * (1 + 8), "steps of a session that made room are counted");
        // One more does not fit, even if all of the stock made room: it stays.
        let refused = book.open_session(&digest, &counts(8, 20, 1)).err().unwrap();
        assert!(matches!(refused, Error::DealMemory { have, need } if (have, need) == (of_stock, user)), "{refused}");
        assert_eq!(book.stock().waiting, [(4, 1)]);
        book.close(&first);
        assert!(book.open_session(&digest, &counts(8, 20, 1)).is_ok());
    }

    #[test]
    fn a_model_whose_masks_do_not_fit_is_refused_before_they_are_made() {
        let public = QuantizedModel::new(&synthetic(small_config(), 1)).unwrap().public().clone();
        let masks = MaskedModel::size_bytes(&public.shape());
        let register = |book: &Book| book.register(&[1; 32], &[2; 32], &public.encode()).map(drop);
        let with = |hold_masks, free_bytes: fn() -> Option<u64>| {
            let settings = Settings { hold_masks, ..Settings::default() };
            let book = Book::new(settings, StateFolder::open(None).unwrap(), scalar_word_kernels()).unwrap();
            Book { ticket: blake3::hash(&[1; 32]), free_bytes, ..book }
        };
        let tight = with(true, || Some(1000));
        let error = register(&tight).unwrap_err();
        assert!(matches!(error, Error::DealMasks { have: 1000, need } if need == masks), "{error}");
        assert!(tight.lock().registered.is_none());
        // Masks that are drawn take none, and what is left is shared out.
        let drawing = with(false, || Some(1000));
        register(&drawing).unwrap();
        let total = |book: &Book| book.lock().registered.as_ref().unwrap().budget.free_bytes();
        assert_eq!(total(&drawing), 500);
        let roomy = with(true, || Some(1 << 30));
        std::thread::scope(|scope| {
            (0..3).for_each(|_| drop(scope.spawn(|| register(&roomy).unwrap())));
        });
        assert_eq!(total(&roomy), ((1 << 30) - masks) / 2);
    }

    #[test]
    fn sessions_in_stock_serve_the_answers_that_they_have_room_for() {
        let settings = Settings { stock_prompts: vec![4, 1000, 128], stock_new_tokens: 6, ..Settings::default() };
        let (book, digest) = book(settings);
        while deal(&book).is_some() {}
        // A prompt of the whole context has room for one token of the answer; a longer one is not there.
        assert_eq!(book.stock().waiting, [(4, 1), (128, 1)]);
        let open = |prompt, answer| book.open_session(&digest, &counts(prompt, answer, 0)).unwrap();
        assert_eq!(open(4, 7).room(), 4);
        assert_eq!(book.stock().waiting, [(4, 1), (128, 1)], "a longer answer is dealt for on the spot");
        let short = open(3, 2);
        assert_eq!((short.room(), book.stock().waiting), (4, vec![(128, 1)]));
        assert!(
            matches!(short.next().unwrap(), Next::Bundle((0, _))) && matches!(short.next().unwrap(), Next::Bundle(_))
        );
        assert!(matches!(short.next().unwrap(), Next::Exhausted { steps: 2 }), "it is held to what was announced");
        assert_eq!(open(100, 1).room(), 128);
        // Prompts in too many pieces are refused.
        let tiny = Settings { piece: 1, ..Settings::default() };
        let registered = book.lock().registered.clone().unwrap();
        assert_eq!(registered.pieces(128, tiny.piece).unwrap().len(), 128);
    }
}
