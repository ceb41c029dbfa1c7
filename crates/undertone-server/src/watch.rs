//! While a job computes: tells the client how far it is, and tells the job when the client is gone.
//!
//! A second thread owns the connection during the job, so that a slow client never slows the computation and a
//! vanished one is noticed between two operations, not at the end. The client has nothing to say meanwhile: any byte
//! from it, like the end of the connection, cancels the job.

use crate::Options;
use crate::connection::{TimedConnection, send};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use undertone_infer::Progress;
use undertone_protocol::message::ProgressReport;
use undertone_protocol::{Message, MessageStream};

/// How often the connection is looked at.
const POLL: Duration = Duration::from_millis(50);
/// Shortest time between two progress messages.
const PACE: Duration = Duration::from_millis(100);

#[derive(Default)]
struct State {
    latest: Option<ProgressReport>,
    fresh: bool,
    done: bool,
}

/// The news of one job.
pub(crate) struct Watch<'a> {
    state: Mutex<State>,
    changed: Condvar,
    cancelled: AtomicBool,
    stopping: &'a AtomicBool,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(stopping: &'a AtomicBool) -> Self {
        let watch =
            Self { state: Mutex::default(), changed: Condvar::new(), cancelled: AtomicBool::new(false), stopping };
        // A heartbeat needs something to say before the first stage is done.
        watch.step("starting", 0, 1, 0.0);
        watch
    }

    /// Runs `work` while a second thread watches `stream`.
    pub(crate) fn run<R>(
        &self,
        stream: &mut MessageStream<TimedConnection>,
        options: &Options,
        work: impl FnOnce(&Self) -> R,
    ) -> R {
        std::thread::scope(|scope| {
            // Set on unwind too: the scope would otherwise wait for the watcher for ever.
            let _done = Done(self);
            scope.spawn(|| self.follow(stream, options));
            work(self)
        })
    }

    fn follow(&self, stream: &mut MessageStream<TimedConnection>, options: &Options) {
        let mut sent = Instant::now();
        let mut state = self.lock();
        while !state.done {
            state = self.changed.wait_timeout(state, POLL).unwrap_or_else(PoisonError::into_inner).0;
            if state.done || self.cancelled.load(Ordering::Relaxed) {
                continue;
            }
            let due = if state.fresh { PACE } else { options.heartbeat };
            let report = (sent.elapsed() >= due).then(|| {
                state.fresh = false;
                state.latest.clone()
            });
            drop(state);
            // The lock is free here: neither a look at the connection nor a slow write holds up the job.
            let mut gone = stream.has_pending() || stream.inner_mut().stirred();
            if let (false, Some(Some(report))) = (gone, report) {
                sent = Instant::now();
                gone = send(stream, &Message::Progress(report), options).is_err();
            }
            if gone {
                self.cancelled.store(true, Ordering::Relaxed);
            }
            state = self.lock();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Watch<'_> {
    fn step(&self, stage: &'static str, layer: usize, layers: usize, done_fraction: f64) {
        let mut state = self.lock();
        state.latest = Some(ProgressReport {
            stage: stage.to_owned(),
            layer: u32::try_from(layer).unwrap_or(u32::MAX),
            layers: u32::try_from(layers).unwrap_or(u32::MAX),
            fraction: done_fraction.clamp(0.0, 1.0) as f32,
        });
        state.fresh = true;
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) || self.stopping.load(Ordering::Relaxed)
    }
}

struct Done<'a, 'b>(&'a Watch<'b>);

impl Drop for Done<'_, '_> {
    fn drop(&mut self) {
        self.0.lock().done = true;
        self.0.changed.notify_all();
    }
}
