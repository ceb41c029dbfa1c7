//! The user's bundles: fetched ahead by a thread, kept in a store that gives each out once, and, where positions are
//! known beforehand, prepared by a second thread while the step before is in progress.

use crate::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use undertone_protocol::modes::permuted::DealLink;
use undertone_protocol::modes::permuted::deal::Next;
use undertone_protocol::{Duplex, Error as ProtocolError};
use undertone_shares::{Bundle, BundleStore, Error as SharesError, Placement, Prepared, Step, UserBundle, UserModel};

/// Bundles fetched ahead of their use.
const AHEAD: usize = 4;
/// Between two questions for a bundle that is not dealt yet.
const PAUSE: Duration = Duration::from_millis(5);
/// Longest wait for a bundle: a dealer deals a long piece of a prompt of a large model in less.
const PATIENCE: Duration = Duration::from_secs(120);

struct State {
    store: Box<dyn BundleStore>,
    /// What ended the fetching.
    failed: Option<ProtocolError>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    stopped: AtomicBool,
    model: Arc<UserModel>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bundle of a step, which the store has marked as taken.
    fn take(&self, step: u64) -> Result<UserBundle, Error> {
        let until = Instant::now() + PATIENCE;
        let mut state = self.lock();
        let bytes = loop {
            match state.store.take(step) {
                Err(error @ SharesError::NoBundle { .. }) => {
                    if let Some(error) = &state.failed {
                        return Err(error.clone().into());
                    }
                    if self.stopped.load(Ordering::SeqCst) || Instant::now() >= until {
                        return Err(error.into());
                    }
                    let waited = self.changed.wait_timeout(state, Duration::from_millis(200));
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                taken => break taken?,
            }
        };
        drop(state);
        self.changed.notify_all();
        let public = self.model.public();
        Ok(UserBundle::decode(&bytes, &public.shape(), public.config.max_position_embeddings)?)
    }
}

/// The bundles of one session.
pub(super) struct Supply {
    shared: Arc<Shared>,
    /// Steps that a thread prepares, where it does.
    prepared: Option<Receiver<Result<Prepared, Error>>>,
}

impl Supply {
    /// Begins to fetch over a link that has opened a session.
    /// No step has more than `outputs` outputs, from which the longest bundle follows.
    pub(super) fn start(
        link: DealLink<Box<dyn Duplex>>,
        store: Box<dyn BundleStore>,
        model: Arc<UserModel>,
        outputs: usize,
    ) -> Self {
        let longest = Step { number: 0, position: 0, tokens: outputs, outputs };
        let most_bytes = UserBundle::size_bytes(&model.public().shape(), &longest) as u64;
        let state = Mutex::new(State { store, failed: None });
        let shared = Arc::new(Shared { state, changed: Condvar::new(), stopped: AtomicBool::new(false), model });
        let fetcher = Arc::clone(&shared);
        std::thread::spawn(move || fetch(&fetcher, link, most_bytes));
        Self { shared, prepared: None }
    }

    /// Lets a thread prepare one step after the other: `places` gives the first position and the placement of each.
    pub(super) fn prepare_ahead(&mut self, places: impl Iterator<Item = (usize, Placement)> + Send + 'static) {
        // One step waits while another is prepared: their flights are as large as a step's.
        let (sender, receiver) = sync_channel(1);
        let shared = Arc::clone(&self.shared);
        std::thread::spawn(move || prepare(&shared, places, &sender));
        self.prepared = Some(receiver);
    }

    /// The next step of [`Supply::prepare_ahead`].
    pub(super) fn next(&self) -> Result<Prepared, Error> {
        let ended = || ProtocolError::Cancelled;
        let receiver = self.prepared.as_ref().ok_or_else(ended)?;
        receiver.recv().map_err(|_| ended())?
    }

    /// The step of this number, prepared now.
    pub(super) fn take(&self, step: u64, first: usize, placement: Placement) -> Result<Prepared, Error> {
        Ok(self.shared.model.prepare(self.shared.take(step)?, first, placement)?)
    }

    /// Bundles that wait.
    pub(super) fn stock(&self) -> usize {
        self.shared.lock().store.stock()
    }
}

impl Drop for Supply {
    fn drop(&mut self) {
        // Under the lock, so that no thread misses it between a look and its wait.
        let state = self.shared.lock();
        self.shared.stopped.store(true, Ordering::SeqCst);
        drop(state);
        self.shared.changed.notify_all();
    }
}

fn prepare(
    shared: &Shared,
    places: impl Iterator<Item = (usize, Placement)>,
    sender: &SyncSender<Result<Prepared, Error>>,
) {
    for (step, (first, placement)) in (0..).zip(places) {
        let prepared = shared.take(step).and_then(|bundle| Ok(shared.model.prepare(bundle, first, placement)?));
        let failed = prepared.is_err();
        // Nobody listens any more when the session is over.
        if sender.send(prepared).is_err() || failed {
            return;
        }
    }
}

/// Fetches one bundle after the other until the session is over. The link stays open until then: a dealer forgets a
/// session whose user has left, and with it what the provider has still to pull.
fn fetch(shared: &Shared, mut link: DealLink<Box<dyn Duplex>>, most_bytes: u64) {
    loop {
        let state = shared.lock();
        let full = |state: &mut State| {
            !shared.stopped.load(Ordering::SeqCst) && (state.store.stock() >= AHEAD || state.failed.is_some())
        };
        let state = shared.changed.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
        if shared.stopped.load(Ordering::SeqCst) {
            drop(state);
            return link.close();
        }
        drop(state);
        let fetched = link.next_bundle(most_bytes);
        let mut state = shared.lock();
        // Nothing is stored once the session is over, because its folder goes then.
        if shared.stopped.load(Ordering::SeqCst) {
            continue;
        }
        let stored = fetched.and_then(|next| match next {
            Next::Bundle((step, bundle)) => Ok(state.store.put(step, bundle).map(|()| true)?),
            Next::NotYet => Ok(false),
            Next::Exhausted { steps } => Err(ProtocolError::Exhausted { steps }),
        });
        match stored {
            Ok(true) => {}
            Ok(false) => drop(shared.changed.wait_timeout(state, PAUSE).unwrap_or_else(PoisonError::into_inner)),
            Err(error) => state.failed = Some(error),
        }
        shared.changed.notify_all();
    }
}
