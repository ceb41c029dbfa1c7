//! The open sessions: a bounded number, each with a handle to end its connection.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use undertone_protocol::Error;

#[derive(Debug, Default)]
struct Live {
    /// Number of the next session; 0 is never given, it means "no session yet" on the wire.
    last: u64,
    streams: HashMap<u64, TcpStream>,
}

/// The open sessions.
#[derive(Debug)]
pub(crate) struct Sessions {
    max: usize,
    live: Mutex<Live>,
}

/// One open session; freed when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    sessions: Arc<Sessions>,
    pub(crate) number: u64,
}

impl Sessions {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, live: Mutex::default() }
    }

    /// A place for a connection.
    ///
    /// # Errors
    /// `Busy` when all places are taken, `Connection` when the stream cannot be duplicated.
    pub(crate) fn enter(self: &Arc<Self>, stream: &TcpStream) -> Result<Place, Error> {
        let mut live = self.lock();
        if live.streams.len() >= self.max {
            return Err(Error::Busy { have: live.streams.len() });
        }
        let handle = stream.try_clone().map_err(|error| Error::Connection { kind: error.kind() })?;
        live.last += 1;
        let number = live.last;
        live.streams.insert(number, handle);
        Ok(Place { sessions: self.clone(), number })
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().streams.len()
    }

    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Shuts every connection. Without its reading half a session ends, and can still write its last message.
    pub(crate) fn disconnect(&self, half: Shutdown) {
        for stream in self.lock().streams.values() {
            // A connection that is already gone needs no ending.
            let _ = stream.shutdown(half);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sessions.lock().streams.remove(&self.number);
    }
}
