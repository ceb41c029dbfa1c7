//! The provider's bundles of one session: pulled ahead by a thread, kept in a store that gives each out once.

use super::Shared;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use undertone_infer::Progress;
use undertone_protocol::Error;
use undertone_protocol::modes::permuted::message::StepBegin;
use undertone_shares::{
    Bundle, BundleStore, Error as SharesError, MemoryStore, ProviderBundle, Seed, SessionId, StoreFolder,
};

/// Bundles pulled ahead of their use, at most.
pub(super) const AHEAD: usize = 4;
/// Bytes of waiting bundles from which on no more are pulled.
pub(super) const AHEAD_BYTES: u64 = 64 << 20;
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
    /// Begins to pull the bundles of a session.
    pub(super) fn start(session: SessionId, shared: Arc<Shared>) -> Result<Self, Error> {
        let (store, folder) = store(shared.folder.as_ref(), &session)?;
        let state = Mutex::new(State { store, waiting: 0, failed: None });
        let supply = Arc::new(Supply { state, changed: Condvar::new(), stopped: AtomicBool::new(false) });
        let (puller, model) = (Arc::clone(&supply), Arc::clone(&shared));
        // The thread ends within one pull of the session's end.
        std::thread::spawn(move || {
            if let Err(error) = pull(&puller, session, &model) {
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

/// Whether enough waits.
fn is_full(state: &State) -> bool {
    let stock = state.store.stock();
    stock >= AHEAD || (stock > 0 && state.waiting >= AHEAD_BYTES)
}

/// Pulls step after step until the session is over.
fn pull(supply: &Supply, session: SessionId, shared: &Shared) -> Result<(), Error> {
    let (mut link, seed) = shared.access.register(shared.fingerprint, &shared.public)?;
    // Weights masked under one seed and bundles made under another give nonsense, which nobody would notice.
    if Seed::from_bytes(*seed).public_name() != shared.name {
        return Err(Error::DealRefused {
            cause: "its masks of the weights are not those that this provider has; start the provider again",
        });
    }
    let mut step = 0;
    loop {
        let state = supply.lock();
        let full = |state: &mut State| !supply.stopped.load(Ordering::SeqCst) && is_full(state);
        drop(supply.changed.wait_while(state, full).unwrap_or_else(PoisonError::into_inner));
        if supply.stopped.load(Ordering::SeqCst) {
            link.close();
            return Ok(());
        }
        match link.pull(session, step)? {
            Some(bundle) => {
                let (bytes, mut state) = (bundle.len() as u64, supply.lock());
                // The folder of a session that is over may be gone, and nothing must appear in it while it goes.
                if supply.stopped.load(Ordering::SeqCst) {
                    continue;
                }
                state.store.put(step, bundle)?;
                state.waiting += bytes;
                drop(state);
                supply.changed.notify_all();
                step += 1;
            }
            None => std::thread::sleep(PAUSE),
        }
    }
}
