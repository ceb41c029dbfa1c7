//! How a caller follows a long computation, and stops it.

use crate::Error;

/// Receives the end of every stage; implementations must be quick.
pub trait Progress: Sync {
    /// `stage` of `layer` (the number of `layers` for the head) is done, and with it a fraction of all stages.
    fn step(&self, stage: &'static str, layer: usize, layers: usize, done_fraction: f64);

    /// Whether to stop at the end of the current stage.
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
}

impl<'a> Steps<'a> {
    pub(crate) fn new(progress: &'a dyn Progress, layers: usize) -> Self {
        Self { progress, layers }
    }

    /// Reports the end of `stage` and stops if the caller wants it.
    pub(crate) fn done(&self, stage: &'static str, layer: usize) -> Result<(), Error> {
        let index = STAGES.iter().position(|&name| name == stage).unwrap_or(0);
        let done = (layer * STAGES.len() + index + 1) as f64 / (self.layers * STAGES.len() + 1) as f64;
        self.progress.step(stage, layer, self.layers, done);
        if self.progress.cancelled() { Err(Error::Cancelled { stage }) } else { Ok(()) }
    }
}
