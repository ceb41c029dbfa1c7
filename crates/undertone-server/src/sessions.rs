//! The open sessions: a bounded number, in all and of each client, each with a handle to end its connection.
//!
//! A connection first arrives, which costs a thread and a handle, and enters when it is known whose it is: a peer that
//! never finishes its handshake takes no place from anybody.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use undertone_net::{Hangup, Pin};
use undertone_protocol::Error;

#[derive(Debug, Default)]
struct Live {
    /// Number of the last connection; 0 is never given, it means "no session yet" on the wire.
    last: u64,
    hangups: HashMap<u64, Hangup>,
    /// Those of them that hold a place, with the client where it is known.
    entered: HashMap<u64, Option<Pin>>,
}

/// The open sessions.
#[derive(Debug)]
pub(crate) struct Sessions {
    max: usize,
    max_per_client: usize,
    live: Mutex<Live>,
}

/// One connection, and its place once it has one; both freed when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    sessions: Arc<Sessions>,
    pub(crate) number: u64,
}

impl Sessions {
    pub(crate) fn new(max: usize, max_per_client: usize) -> Self {
        Self { max, max_per_client, live: Mutex::default() }
    }

    /// Takes note of a connection, so that it can be ended.
    ///
    /// # Errors
    /// `Connection` when the stream cannot be duplicated.
    pub(crate) fn arrive(self: &Arc<Self>, stream: &TcpStream) -> Result<Place, Error> {
        let hangup = Hangup::of(stream).map_err(|error| Error::Connection { kind: error.kind() })?;
        let mut live = self.lock();
        live.last += 1;
        let number = live.last;
        live.hangups.insert(number, hangup);
        Ok(Place { sessions: self.clone(), number })
    }

    /// Sessions that hold a place.
    pub(crate) fn count(&self) -> usize {
        self.lock().entered.len()
    }

    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Shuts every connection. Without its reading half a session ends, and can still write its last message.
    pub(crate) fn disconnect(&self, half: Shutdown) {
        for hangup in self.lock().hangups.values() {
            // A connection that is already gone needs no ending.
            let _ = hangup.shutdown(half);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Takes a place for this connection of `client`.
    ///
    /// # Errors
    /// `Busy` when all places are taken, `ClientBusy` when this client has its share.
    pub(crate) fn enter(&self, client: Option<Pin>) -> Result<(), Error> {
        let mut live = self.sessions.lock();
        let have = live.entered.len();
        if have >= self.sessions.max {
            return Err(Error::Busy { have });
        }
        let same = live.entered.values().filter(|other| client.is_some() && **other == client).count();
        if same >= self.sessions.max_per_client {
            return Err(Error::ClientBusy { have: same });
        }
        live.entered.insert(self.number, client);
        Ok(())
    }

    /// Gives the place up; the connection can still be ended until this is dropped.
    pub(crate) fn leave(&self) {
        self.sessions.lock().entered.remove(&self.number);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut live = self.sessions.lock();
        live.entered.remove(&self.number);
        live.hangups.remove(&self.number);
    }
}
