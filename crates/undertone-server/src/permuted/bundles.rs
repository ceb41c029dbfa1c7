//! The provider's bundles of one session: pulled ahead by a thread, kept in a store that gives each out once.

use super::Shared;
use super::limits::Limits;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use undertone_infer::Progress;
use undertone_protocol::Error;
use undertone_protocol::modes::permuted::deal::Next;
use undertone_protocol::modes::permuted::message::StepBegin;
use undertone_shares::{
    Bundle, BundleStore, Error as SharesError, MemoryStore, ProviderBundle, Seed, SessionId, StoreFolder,
};

/// Between two questions for a bundle that is not dealt yet.
const PAUSE: Duration = Duration::from_millis(5);
/// How often a wait for a bundle looks whether its user is still there.
const ATTENTION: Duration = Duration::from_millis(50);
/// Longest wait for a bundle: a long piece of a prompt comes over a slow line.
const PATIENCE: Duration = Duration::from_secs(120);

/// The store of a session, and the folder to remove when it is over.
fn store(folder: Option<&StoreFolder>, session: &SessionId) -> Result<(Box<dyn BundleStore>, Option<PathBuf>), Error> {
    let Some(folder) = folder else { return Ok((Box::new(MemoryStore::default()), None)) };
    let (store, path) = folder.session(session)?;
    Ok((Box::new(store), Some(path)))
}

struct State {
    store: Box<dyn BundleStore>,
    /// Bytes that wait in it.
    waiting: u64,
    /// What ended the pulling.
    failed: Option<Error>,
}

struct Supply {
    state: Mutex<State>,
    changed: Condvar,
    stopped: AtomicBool,
}

impl Supply {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bundles of one session.
pub(super) struct Bundles {
    supply: Arc<Supply>,
    shared: Arc<Shared>,
    folder: Option<PathBuf>,
}

impl Bundles {
    /// Begins to pull the bundles of a session, as many and as large as its limits allow.
    pub(super) fn start(session: SessionId, limits: Limits, shared: Arc<Shared>) -> Result<Self, Error> {
        let (store, folder) = store(shared.folder.as_ref(), &session)?;
        let state = Mutex::new(State { store, waiting: 0, failed: None });
        let supply = Arc::new(Supply { state, changed: Condvar::new(), stopped: AtomicBool::new(false) });
        let (puller, model) = (Arc::clone(&supply), Arc::clone(&shared));
        // The thread ends within one pull of the session's end.
        std::thread::spawn(move || {
            if let Err(error) = pull(&puller, (session, limits), &model) {
                puller.lock().failed = Some(error);
                puller.changed.notify_all();
            }
        });
        Ok(Self { supply, shared, folder })
    }

    /// The bundle of a step, which the store has marked as taken.
    ///
    /// # Errors
    /// A bundle that was taken before, one that does not come in time, one of another step, a user that is gone.
    pub(super) fn take(&mut self, begin: &StepBegin, progress: &dyn Progress) -> Result<ProviderBundle, Error> {
        let until = Instant::now() + PATIENCE;
        let mut state = self.supply.lock();
        let bytes = loop {
            match state.store.take(begin.number) {
                Ok(bytes) => break bytes,
                Err(error @ SharesError::NoBundle { .. }) => {
                    if let Some(error) = &state.failed {
                        return Err(error.clone());
                    }
                    if Instant::now() >= until {
                        return Err(error.into());
                    }
                    let waited = self.supply.changed.wait_timeout(state, ATTENTION);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                    if progress.cancelled() {
                        return Err(Error::Cancelled);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        };
        state.waiting = state.waiting.saturating_sub(bytes.len() as u64);
        drop(state);
        self.supply.changed.notify_all();
        Ok(ProviderBundle::decode(&bytes, &self.shared.shape, self.shared.positions)?)
    }
}

impl Drop for Bundles {
    fn drop(&mut self) {
        // Under the lock, so that the thread does not miss it between a look and its wait.
        let state = self.supply.lock();
        self.supply.stopped.store(true, Ordering::SeqCst);
        drop(state);
        self.supply.changed.notify_all();
        if let Some(folder) = &self.folder {
            // What is left belongs to a session that is over; if it cannot be removed, the next start removes it.
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

/// Pulls step after step until the session is over.
fn pull(supply: &Supply, (session, limits): (SessionId, Limits), shared: &Shared) -> Result<(), Error> {
    let (mut link, seed) = shared.access.register(shared.fingerprint, &shared.public)?;
    // Weights masked under one seed and bundles made under another give nonsense, which nobody would notice.
    if Seed::from_bytes(*seed).public_name() != shared.name {
        return Err(Error::DealRefused {
            cause: "its masks of the weights are not those that this provider has; start the provider again",
        });
    }
    let (mut step, mut position) = (0, 0);
    loop {
        let most = limits.bundle_bytes(&shared.shape, position);
        let state = supply.lock();
        // Where no row is left, no step can come, and this waits for the end.
        let is_full = |state: &State| {
            most.is_none_or(|most| limits.is_full(&shared.shape, (state.store.stock(), state.waiting), most))
        };
        let full = |state: &mut State| !supply.stopped.load(Ordering::SeqCst) && is_full(state);
        drop(supply.changed.wait_while(state, full).unwrap_or_else(PoisonError::into_inner));
        if supply.stopped.load(Ordering::SeqCst) {
            link.close();
            return Ok(());
        }
        match link.pull(session, step, most.unwrap_or(0))? {
            Next::Bundle((_, bundle)) => {
                let (of, dealt) = ProviderBundle::place(&bundle, &shared.shape, shared.positions)?;
                if of != session {
                    return Err(Error::DealRefused { cause: "it gave a bundle of another session; begin a new one" });
                }
                limits.check_pulled(&dealt, step, position)?;
                let (bytes, mut state) = (bundle.len() as u64, supply.lock());
                // The folder of a session that is over may be gone, and nothing must appear in it while it goes.
                if supply.stopped.load(Ordering::SeqCst) {
                    continue;
                }
                state.store.put(step, bundle)?;
                state.waiting += bytes;
                drop(state);
                supply.changed.notify_all();
                (step, position) = (step + 1, position + dealt.tokens);
            }
            Next::NotYet => std::thread::sleep(PAUSE),
            // What was pulled before is still there to be taken; a step beyond it hears the reason at once.
            Next::Exhausted { steps } => {
                link.close();
                return Err(Error::Exhausted { steps });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DealerAccess, PermutedHost};
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use undertone_model::synthetic::{small_config, synthetic};
    use undertone_model::{Llama, LlamaConfig};
    use undertone_protocol::message::{Welcome, WireShape};
    use undertone_protocol::modes::permuted::DealServer;
    use undertone_protocol::modes::permuted::deal::{Dealings, Opened, SessionCounts, Stock};
    use undertone_protocol::{Duplex, MessageStream, Session, Turn};
    use undertone_ring::scalar_word_kernels;
    use undertone_shares::{Dealer, DealerSession, PublicModel};
    use zeroize::Zeroizing;

    /// What a dealer gives for a step.
    type Give = Arc<dyn Fn(u64) -> Zeroizing<Vec<u8>> + Send + Sync>;

    /// A dealer that gives whatever it likes, and notes the steps that it was asked for.
    #[derive(Clone)]
    struct Fake {
        give: Give,
        asked: Arc<Mutex<Vec<u64>>>,
    }

    impl Dealings for Fake {
        fn register(&mut self, _: &[u8; 32], _: &[u8; 32], _: &[u8]) -> Result<Zeroizing<[u8; 32]>, Error> {
            Ok([3; 32].into())
        }

        fn pull(&mut self, _: &SessionId, step: u64) -> Result<Next, Error> {
            self.asked.lock().unwrap().push(step);
            let bundle = (self.give)(step);
            // A dealer that has no more gives nothing.
            Ok(if bundle.is_empty() { Next::Exhausted { steps: step } } else { Next::Bundle((step, bundle)) })
        }

        fn open(&mut self, _: &[u8; 32], _: &SessionCounts, _: bool) -> Result<Opened, Error> {
            Err(Error::Closed)
        }

        fn next(&mut self) -> Result<Next, Error> {
            Ok(Next::NotYet)
        }

        fn stock(&self) -> Stock {
            Stock::default()
        }
    }

    fn serve(fake: Fake, stream: TcpStream) -> Result<(), Error> {
        let mut stream = MessageStream::new(stream);
        stream.receive()?;
        let welcome = Welcome { session: 1, idle_timeout_seconds: 9, max_sessions: 1 };
        let mut session = DealServer::new(welcome, Box::new(fake));
        while session.turn() != Turn::Closed {
            while let Some(message) = session.next_message() {
                stream.send(&message)?;
            }
            match session.turn() {
                Turn::Work => session.work(&())?,
                _ => session.receive(stream.receive()?)?,
            }
        }
        Ok(())
    }

    fn model() -> Llama {
        synthetic(LlamaConfig { max_position_embeddings: 40, ..small_config() }, 1)
    }

    /// The session of an honest dealer.
    fn honest() -> (DealerSession, PublicModel) {
        let public = undertone_shares::QuantizedModel::new(&model()).unwrap().public().clone();
        let dealer = Dealer::with_seed(public.clone(), scalar_word_kernels(), Seed::from_bytes([3; 32])).unwrap();
        (Arc::new(dealer).session().unwrap(), public)
    }

    /// What a provider shares whose dealer gives these bundles, and the steps that it asked for.
    fn provider(give: Give) -> (Arc<Shared>, Arc<Mutex<Vec<u64>>>) {
        let (listener, asked) = (TcpListener::bind(("127.0.0.1", 0)).unwrap(), Arc::default());
        let (address, fake) = (listener.local_addr().unwrap(), Fake { give, asked: Arc::clone(&asked) });
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let fake = fake.clone();
                // A provider that refuses a bundle is gone, and the fake with it.
                std::thread::spawn(move || drop(serve(fake, stream.unwrap())));
            }
        });
        let dial = Arc::new(move || Ok(Box::new(TcpStream::connect(address)?) as Box<dyn Duplex>));
        let access = DealerAccess { dial, ticket: Arc::new([0; 32].into()), notice: Arc::new(|_| {}) };
        let host = PermutedHost::new(&model(), None, access, None, scalar_word_kernels()).unwrap();
        (Arc::clone(&host.shared), asked)
    }

    /// Limits of a session of these rows with steps of at most four tokens.
    fn limits(rows: u32) -> Limits {
        Limits::new(&WireShape { public_tokens: 0, private_tokens: rows, max_new_tokens: 1 }, 40, 4).unwrap()
    }

    fn begin(session: SessionId, number: u64) -> StepBegin {
        StepBegin { session, number, position: 0, tokens: 1, outputs: 1, kept: 0, skipped: 0 }
    }

    #[test]
    fn a_bundle_longer_than_any_step_of_the_session_is_refused_unread() {
        let (session, public) = honest();
        let (id, shape) = (session.id(), public.shape());
        let [plain, strict] = [false, true].map(|strict| limits(9).with_strict(strict));
        let [most, keys] = [plain, strict].map(|limits| limits.bundle_bytes(&shape, 0).unwrap());
        assert!(keys > 10 * most);
        let cases = [(plain, keys, true), (strict, keys + 1, true), (strict, keys, false)];
        let cases = [(plain, most + 1, true), (plain, 1 << 30, true), (plain, most, false)].into_iter().chain(cases);
        for (limits, len, refused) in cases {
            let most = limits.bundle_bytes(&shape, 0).unwrap();
            let (shared, asked) = provider(Arc::new(move |_| vec![0; len as usize].into()));
            let mut bundles = Bundles::start(id, limits, shared).unwrap();
            let error = bundles.take(&begin(id, 0), &()).err().unwrap();
            // One that is short enough is read, and is no bundle.
            let cap = matches!(error, Error::Cap { field: "bundle length", have, need } if (have, need) == (len, most));
            assert!(cap == refused && (cap || error.to_string().contains("not a bundle")), "{len}: {error}");
            assert_eq!(*asked.lock().unwrap(), [0]);
        }
    }

    #[test]
    fn bundles_of_other_steps_and_sessions_are_refused() {
        let encoded = |tokens: usize, ahead: usize| {
            let (mut session, public) = honest();
            (0..ahead).for_each(|_| drop(session.deal(1, 1).unwrap()));
            (session.id(), session.deal(tokens, 1).unwrap().1.encode(&public.shape()).to_vec())
        };
        let heard = |id: SessionId, bytes: Vec<u8>| {
            let (shared, _) = provider(Arc::new(move |_| bytes.clone().into()));
            Bundles::start(id, limits(9), shared).unwrap().take(&begin(id, 0), &()).map(drop)
        };
        let (id, first) = encoded(1, 0);
        heard(id, first.clone()).unwrap();
        assert!(heard([7; 16], first).unwrap_err().to_string().contains("another session"));
        let (id, second) = encoded(1, 1);
        assert!(heard(id, second).unwrap_err().to_string().contains("the step of a bundle is 1 where 0"));
    }

    #[test]
    fn a_step_beyond_what_is_dealt_is_not_waited_for() {
        let (session, public) = honest();
        let (id, shape, session) = (session.id(), public.shape(), Mutex::new(session));
        let (shared, _) = provider(Arc::new(move |step| {
            let deal = || session.lock().unwrap().deal(1, 1).unwrap().1.encode(&shape);
            if step < 2 { deal() } else { Vec::new().into() }
        }));
        let (mut bundles, begun) = (Bundles::start(id, limits(9), shared).unwrap(), Instant::now());
        assert!((0..2).all(|number| bundles.take(&begin(id, number), &()).is_ok()));
        assert!(matches!(bundles.take(&begin(id, 2), &()), Err(Error::Exhausted { steps: 2 })));
        assert!(begun.elapsed() < PATIENCE / 4);
    }

    #[test]
    fn what_is_pulled_ahead_fits_what_is_reserved_and_ends_with_the_rows() {
        let (session, public) = honest();
        let (id, shape, session) = (session.id(), public.shape(), Mutex::new(session));
        let (shared, asked) = provider(Arc::new(move |step| {
            let tokens = if step == 0 { 4 } else { 1 };
            session.lock().unwrap().deal(tokens, 1).unwrap().1.encode(&shape)
        }));
        // Four rows of prompt and five more: six steps, though the dealer would give more.
        let mut bundles = Bundles::start(id, limits(9), shared).unwrap();
        let supply = Arc::clone(&bundles.supply);
        // The last bundle that was asked for may still be on its way.
        let settled = |steps: usize, stock: usize| {
            let until = Instant::now() + Duration::from_secs(10);
            while asked.lock().unwrap().len() < steps || supply.lock().store.stock() < stock {
                assert!(Instant::now() < until);
                std::thread::sleep(PAUSE);
            }
            std::thread::sleep(10 * PAUSE);
            assert_eq!(asked.lock().unwrap().len(), steps);
        };
        settled(4, 4);
        let reserved = limits(9).waiting_bytes(&public.shape());
        assert!(supply.lock().waiting <= reserved && supply.lock().store.stock() == 4);
        for number in 0..6 {
            bundles.take(&begin(id, number), &()).unwrap();
        }
        settled(6, 0);
    }
}
