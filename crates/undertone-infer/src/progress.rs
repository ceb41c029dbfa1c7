//! How a caller follows a long computation, and stops it.

use crate::Error;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Receives the end of every stage; implementations must be quick.
pub trait Progress: Sync {
    /// `stage` of `layer` (the number of `layers` for the head) is done, and with it a fraction of all stages.
    fn step(&self, stage: &'static str, layer: usize, layers: usize, done_fraction: f64);

    /// Whether to stop soon; asked at the end of every stage and between the long operations inside one.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Follows nothing.
impl Progress for () {
    fn step(&self, _: &'static str, _: usize, _: usize, _: f64) {}
}

/// The stages of one layer, in order; the head is one more stage after the last layer.
const STAGES: [&str; 8] =
    ["attention norm", "qkv", "scores", "softmax", "values", "output projection", "mlp norm", "mlp"];

/// Counts stages for a [`Progress`].
pub(crate) struct Steps<'a> {
    progress: &'a dyn Progress,
    layers: usize,
    /// Index of the last stage that is done.
    last: AtomicUsize,
}

impl<'a> Steps<'a> {
    pub(crate) fn new(progress: &'a dyn Progress, layers: usize) -> Self {
        Self { progress, layers, last: AtomicUsize::new(STAGES.len() + 1) }
    }

    /// Reports the end of `stage` and stops if the caller wants it.
    pub(crate) fn done(&self, stage: &'static str, layer: usize) -> Result<(), Error> {
        let position = STAGES.iter().position(|&name| name == stage);
        let index = position.unwrap_or(0);
        self.last.store(position.unwrap_or(STAGES.len()), Ordering::Relaxed);
        let done = (layer * STAGES.len() + index + 1) as f64 / (self.layers * STAGES.len() + 1) as f64;
        self.progress.step(stage, layer, self.layers, done);
        self.poll()
    }

    /// Stops if the caller wants it.
    pub(crate) fn poll(&self) -> Result<(), Error> {
        if !self.progress.cancelled() {
            return Ok(());
        }
        let last = self.last.load(Ordering::Relaxed);
        let stage = STAGES.get(last).copied().unwrap_or(if last == STAGES.len() { "head" } else { "input" });
        Err(Error::Cancelled { stage })
    }
}
