//! What must not outlive the program: half-written files, temporary folders, child processes.
//!
//! Owners register here and take themselves off when they are dropped; an interrupt (Ctrl-C, SIGTERM) removes
//! whatever is still registered and exits with code 130.

use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A shared register of things to remove.
#[derive(Clone, Default)]
pub struct Cleanup(Arc<Mutex<Register>>);

#[derive(Default)]
struct Register {
    paths: BTreeSet<PathBuf>,
    children: Vec<Child>,
}

impl Cleanup {
    /// A register that an interrupt empties.
    ///
    /// # Errors
    /// `System` when the handler cannot be installed.
    pub fn on_interrupt() -> Result<Self> {
        let cleanup = Self::default();
        let handler = cleanup.clone();
        ctrlc::set_handler(move || {
            handler.run();
            eprintln!("undertone: interrupted");
            std::process::exit(130);
        })
        .map_err(|error| Error::System {
            what: "installing the interrupt handler",
            source: std::io::Error::other(error),
        })?;
        Ok(cleanup)
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        // A panic elsewhere must not keep files from being removed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes this file or folder on interrupt.
    pub fn watch(&self, path: &Path) {
        self.register().paths.insert(path.to_path_buf());
    }

    /// Leaves the file or folder alone from now on.
    pub fn release(&self, path: &Path) {
        self.register().paths.remove(path);
    }

    /// Ends this process when the program ends.
    pub fn adopt(&self, child: Child) {
        self.register().children.push(child);
    }

    /// Removes and ends everything registered.
    pub fn run(&self) {
        let mut register = self.register();
        for mut child in register.children.drain(..) {
            // Errors mean that it has already gone.
            let _ = child.kill();
            let _ = child.wait();
        }
        for path in std::mem::take(&mut register.paths) {
            let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
    }
}
