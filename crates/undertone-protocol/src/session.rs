//! The seam between protocols and drivers: one trait, implemented by both sides of every mode.
//!
//! A session has no socket, no clock and no thread. Its driver moves messages until [`Session::turn`] says that the
//! session waits for something else:
//!
//! ```text
//! loop { write every next_message(); match turn() { Peer => receive(read), Work => work(), _ => break } }
//! ```

use crate::Error;
use crate::message::{Message, Mode, Operations, ProgressReport};
use undertone_infer::Progress;

/// What a session waits for once its outgoing messages are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// A message from the peer.
    Peer,
    /// A call of [`Session::work`], which may take minutes.
    Work,
    /// The program above: a key, a prompt, a token, or the end.
    Application,
    /// Nothing any more.
    Closed,
}

/// One side of one mode.
pub trait Session: Send {
    /// The mode.
    fn mode(&self) -> Mode;

    /// What the session waits for.
    fn turn(&self) -> Turn;

    /// Whether the work that is due is to wait for somebody else, so that it needs no computer.
    fn waits(&self) -> bool {
        false
    }

    /// Takes a message from the peer. Cheap enough to run between two reads.
    ///
    /// # Errors
    /// Every message that is not due is refused; after an error the session is closed.
    fn receive(&mut self, message: Message) -> Result<(), Error>;

    /// The next message for the peer, if one waits.
    fn next_message(&mut self) -> Option<Message>;

    /// Does the computation that is due, and queues its result. Nothing to do unless [`Turn::Work`].
    ///
    /// # Errors
    /// `Cancelled` when `progress` says so, or what the computation reports.
    fn work(&mut self, progress: &dyn Progress) -> Result<(), Error>;
}

/// The client side of a mode, as the generation loop sees it: blobs out, blobs in.
pub trait StepSession: Session {
    /// Queues the prompt; allowed when the turn is the application's and no key is due.
    ///
    /// # Errors
    /// `Unexpected` when counts or lengths are not those of the plan, `OutOfTurn`.
    fn prefill(&mut self, public_tokens: Vec<u32>, private_tokens: u32, blobs: Vec<Vec<u8>>) -> Result<(), Error>;

    /// Queues one generated token.
    ///
    /// # Errors
    /// As for [`StepSession::prefill`].
    fn decode(&mut self, blobs: Vec<Vec<u8>>) -> Result<(), Error>;

    /// The result of the step, once.
    fn take_result(&mut self) -> Option<Vec<Vec<u8>>>;

    /// What the server says it has done in all results so far.
    fn operations(&self) -> Operations;

    /// The latest news of the server, once.
    fn take_progress(&mut self) -> Option<ProgressReport>;

    /// Queues the end of the session.
    fn close(&mut self);
}

/// One fact that a mode discloses or does not protect, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leak {
    /// A stable key for programs.
    pub key: &'static str,
    /// The sentence for people.
    pub sentence: String,
}
