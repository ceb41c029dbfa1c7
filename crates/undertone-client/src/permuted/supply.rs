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
/// Bytes of waiting bundles beyond which no more are fetched, unless none waits: those of strict evaluation are long.
const AHEAD_BYTES: u64 = 64 << 20;
/// Between two questions for a bundle that is not dealt yet.
const PAUSE: Duration = Duration::from_millis(5);
/// Longest wait for a bundle: a dealer deals a long piece of a prompt of a large model in less.
const PATIENCE: Duration = Duration::from_secs(120);

/// The steps of a session as it was opened, from which the lengths of bundles follow.
pub(super) struct Steps {
    /// Tokens of the pieces of the prompt.
    pub(super) pieces: Vec<usize>,
    /// Tokens drafted in every step after it.
    pub(super) draft: usize,
    /// Whether nonlinear steps are evaluated on shares.
    pub(super) strict: bool,
}

impl Steps {
    fn step(&self, number: u64) -> Step {
        let (pieces, rows) = (self.pieces.len(), self.draft + 1);
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let (before, after) = (&self.pieces[..index.min(pieces)], index.saturating_sub(pieces));
        let position = before.iter().sum::<usize>().saturating_add(after.saturating_mul(rows));
        let (tokens, outputs) = match self.pieces.get(index) {
            Some(&tokens) => (tokens, usize::from(index + 1 == pieces)),
            None => (rows, rows),
        };
        Step { number, position, tokens, outputs, strict: self.strict }
    }

    /// Bytes of the bundle of a step; none of a step that the model cannot take.
    fn bundle_bytes(&self, model: &UserModel, number: u64) -> u64 {
        let (step, public) = (self.step(number), model.public());
        let shape = public.shape();
        let checked = step.check(&shape, public.config.max_position_embeddings);
        checked.map_or(0, |()| UserBundle::size_bytes(&shape, &step) as u64)
    }
}

struct State {
    store: Box<dyn BundleStore>,
    /// Bytes that wait in it.
    waiting: u64,
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
        state.waiting = state.waiting.saturating_sub(bytes.len() as u64);
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
    /// Begins to fetch the bundles of these steps over a link that has opened their session.
    pub(super) fn start(
        link: DealLink<Box<dyn Duplex>>,
        store: Box<dyn BundleStore>,
        model: Arc<UserModel>,
        steps: Steps,
    ) -> Self {
        let state = Mutex::new(State { store, waiting: 0, failed: None });
        let shared = Arc::new(Shared { state, changed: Condvar::new(), stopped: AtomicBool::new(false), model });
        let fetcher = Arc::clone(&shared);
        std::thread::spawn(move || fetch(&fetcher, link, &steps));
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
fn fetch(shared: &Shared, mut link: DealLink<Box<dyn Duplex>>, steps: &Steps) {
    let mut number = 0;
    loop {
        let (state, bytes) = (shared.lock(), steps.bundle_bytes(&shared.model, number));
        let full = |state: &mut State| {
            let stock = state.store.stock();
            let enough = stock >= AHEAD || (stock > 0 && state.waiting.saturating_add(bytes) > AHEAD_BYTES);
            !shared.stopped.load(Ordering::SeqCst) && (enough || state.failed.is_some())
        };
        let state = shared.changed.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
        if shared.stopped.load(Ordering::SeqCst) {
            drop(state);
            return link.close();
        }
        drop(state);
        let fetched = link.next_bundle(bytes);
        let mut state = shared.lock();
        // Nothing is stored once the session is over, because its folder goes then.
        if shared.stopped.load(Ordering::SeqCst) {
            continue;
        }
        let stored = fetched.and_then(|next| match next {
            Next::Bundle((step, _)) if step != number => {
                Err(ProtocolError::Unexpected { field: "the step of a bundle", have: step, need: number })
            }
            Next::Bundle((step, bundle)) => {
                let len = bundle.len() as u64;
                state.store.put(step, bundle)?;
                (state.waiting, number) = (state.waiting.saturating_add(len), number + 1);
                Ok(true)
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use undertone_model::synthetic::{small_config, synthetic};
    use undertone_ring::scalar_word_kernels;
    use undertone_shares::{Dealer, QuantizedModel, Seed};

    /// A user's model, and the dealer of its bundles.
    fn model() -> (Arc<UserModel>, Arc<Dealer>) {
        let quantized = QuantizedModel::new(&synthetic(small_config(), 1)).unwrap();
        let (public, kernels) = (quantized.public().clone(), scalar_word_kernels());
        let positions = public.config.max_position_embeddings;
        let dealer = Dealer::with_seed(public.clone(), kernels.clone(), Seed::from_bytes([3; 32])).unwrap();
        let masked = undertone_shares::ProviderModel::new(Arc::new(quantized), positions, kernels.clone())
            .masked(&dealer.weight_seed());
        (Arc::new(UserModel::new(public, masked, positions, kernels).unwrap()), Arc::new(dealer))
    }

    #[test]
    fn bundles_have_the_lengths_that_are_expected_and_none_is_beyond_the_context() {
        let (model, dealer) = model();
        let (shape, positions) = (dealer.shape(), dealer.positions());
        for (strict, draft) in [(false, 0), (false, 2), (true, 0), (true, 2)] {
            let steps = Steps { pieces: vec![3, 2], draft, strict };
            let mut session = Arc::clone(&dealer).session().unwrap().with_strict(strict);
            for (number, (tokens, outputs)) in
                [(3, 0), (2, 1), (draft + 1, draft + 1), (draft + 1, draft + 1)].into_iter().enumerate()
            {
                let (user, _) = session.deal(tokens, outputs).unwrap();
                assert_eq!(steps.step(number as u64), user.step());
                assert_eq!(steps.bundle_bytes(&model, number as u64), user.encode(&shape).len() as u64);
            }
            let last = 1 + ((positions - 5) / (draft + 1)) as u64;
            assert!(steps.bundle_bytes(&model, last) > 0);
            assert!([last + 1, u64::MAX].iter().all(|&beyond| steps.bundle_bytes(&model, beyond) == 0));
        }
    }
}
