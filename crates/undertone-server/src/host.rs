//! What a server offers: a model, and a session for every client that asks for it.

use undertone_net::Pin;
use undertone_protocol::message::{Hello, Welcome};
use undertone_protocol::{Error, Session};

/// A session that may begin, and what it will hold.
pub struct Opening {
    /// The session, with its welcome queued.
    pub session: Box<dyn Session>,
    /// Memory in bytes that the session needs at most; reserved before the first key is accepted.
    pub memory_bytes: u64,
    /// Bytes that the client sends before the prompt: the keys, in mode fhe. The time that it may take follows from it.
    pub setup_bytes: u64,
}

/// The source of sessions.
pub trait Host: Send + Sync {
    /// A session for `hello`, which begins with `welcome`.
    ///
    /// # Errors
    /// `Mismatch`, `ModeRefused`, `Cap`, or what planning the session reports.
    fn open(&self, hello: &Hello, welcome: Welcome) -> Result<Opening, Error>;

    /// The same for a client that is known by its certificate, where that makes a difference.
    ///
    /// # Errors
    /// As for [`Host::open`], and what this client may not do.
    fn open_to(&self, client: Option<Pin>, hello: &Hello, welcome: Welcome) -> Result<Opening, Error> {
        let _ = client;
        self.open(hello, welcome)
    }

    /// Places that this client leaves free for others.
    fn kept(&self, client: Option<Pin>) -> usize {
        let _ = client;
        0
    }

    /// Sessions that this client may have at a time, where it is not the number that all clients have.
    fn share(&self, client: Option<Pin>) -> Option<usize> {
        let _ = client;
        None
    }
}
