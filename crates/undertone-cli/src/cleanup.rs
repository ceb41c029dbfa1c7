//! What must not outlive the program: half-written files, temporary folders, child processes.
//!
//! Owners register here and take themselves off when they are dropped; an interrupt (Ctrl-C, SIGTERM) removes
//! whatever is still registered and exits with code 130.

use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
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
            // Held until the process is gone, so that nothing is registered after the register was emptied.
            let mut register = handler.register();
            register.empty();
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

    /// Makes a file or folder at `path` that an interrupt removes; where `make` fails, `path` is left alone.
    ///
    /// An interrupt comes before the file is made or removes it: the register is held in between.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn make<T>(&self, path: &Path, make: impl FnOnce(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
        let mut register = self.register();
        let made = make(path)?;
        register.paths.insert(path.to_path_buf());
        Ok(made)
    }

    /// Leaves the file or folder alone from now on.
    pub fn release(&self, path: &Path) {
        self.register().paths.remove(path);
    }

    /// Starts a process that ends when the program ends, and returns its number.
    ///
    /// Its pipes go to `take` before anything else can happen to it. An interrupt either comes before the start or ends
    /// the process: the register is held in between.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn spawn<T>(&self, command: &mut Command, take: impl FnOnce(&mut Child) -> T) -> std::io::Result<(u32, T)> {
        let mut register = self.register();
        let mut child = command.spawn()?;
        let (process, taken) = (child.id(), take(&mut child));
        register.children.push(child);
        Ok((process, taken))
    }

    /// Ends one process that was started here, and waits for it.
    pub fn end(&self, process: u32) {
        let mut register = self.register();
        if let Some(index) = register.children.iter().position(|child| child.id() == process) {
            end(&mut register.children.swap_remove(index));
        }
    }

    /// Removes and ends everything registered.
    pub fn run(&self) {
        self.register().empty();
    }
}

impl Register {
    fn empty(&mut self) {
        self.children.drain(..).for_each(|mut child| end(&mut child));
        for path in std::mem::take(&mut self.paths) {
            let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
    }
}

/// Errors mean that it has already gone.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
