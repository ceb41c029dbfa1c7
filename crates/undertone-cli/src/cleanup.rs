//! What must not outlive the program: half-written files, temporary folders, child processes.
//!
//! Owners register here and take themselves off when they are dropped; an interrupt (Ctrl-C, SIGTERM) removes
//! whatever is still registered and exits with code 130. A conversation with a server is given a moment to say
//! goodbye first.

use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long an interrupted conversation may take to end.
const GOODBYE: Duration = Duration::from_millis(1500);

/// A shared register of things to remove.
#[derive(Clone, Default)]
pub struct Cleanup(Arc<Shared>);

#[derive(Default)]
struct Shared {
    register: Mutex<Register>,
    changed: Condvar,
}

#[derive(Default)]
struct Register {
    interrupted: bool,
    conversations: usize,
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
            let mut register = handler.register();
            register.interrupted = true;
            let talking = |register: &mut Register| register.conversations > 0;
            let waited = handler.0.changed.wait_timeout_while(register, GOODBYE, talking);
            // Held until the process is gone, so that nothing is registered after the register was emptied.
            let (mut register, _) = waited.unwrap_or_else(PoisonError::into_inner);
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
        self.0.register.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Whether the user wants the program to end.
    pub fn interrupted(&self) -> bool {
        self.register().interrupted
    }

    /// Until it is dropped, an interrupt waits a moment for the conversation to notice [`Cleanup::interrupted`] and end.
    pub fn conversing(&self) -> Conversation {
        self.register().conversations += 1;
        Conversation(self.clone())
    }

    /// Removes and ends everything registered. Does not return when interrupted: the interrupt ends the process.
    pub fn run(&self) {
        let mut register = self.register();
        while register.interrupted {
            register = self.0.changed.wait(register).unwrap_or_else(PoisonError::into_inner);
        }
        register.empty();
    }
}

/// A conversation that an interrupt waits for.
pub struct Conversation(Cleanup);

impl Drop for Conversation {
    fn drop(&mut self) {
        self.0.register().conversations -= 1;
        self.0.0.changed.notify_all();
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
