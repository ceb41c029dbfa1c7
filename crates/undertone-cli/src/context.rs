//! What every verb is given: where results and progress go, and what must not be left behind.

use crate::cleanup::Cleanup;
use crate::progress::Progress;
use std::io::Write;

/// The surroundings of one run of the program.
pub struct Context {
    /// Whether results are JSON objects, one per line.
    pub json: bool,
    /// Progress on standard error.
    pub progress: Progress,
    /// What an interrupt removes.
    pub cleanup: Cleanup,
}

impl Context {
    /// Prints one result on standard output: the object with `--json`, the text without.
    pub fn result(&self, object: &serde_json::Value, text: impl FnOnce() -> String) {
        let line = if self.json { object.to_string() } else { text() };
        let mut out = std::io::stdout().lock();
        // A reader that closed the pipe has seen what it wanted.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}
