//! Set-up of a user: the public model in the clear, and the masked weights, once for every model.
//!
//! hello → welcome, description, the public model in chunks → (fetch → masked, chunks…) → bye. The name of the masked
//! model changes with the dealer's masks and with the weights, so that a user knows whether the copy it keeps is the
//! one to use. The server makes chunks one at a time, whatever the size of the model.

use crate::Error;
use crate::blob::Outbox;
use crate::exchange::peer_error;
use crate::frame::CHUNK_LEN;
use crate::message::{Message, Mode, Welcome};
use crate::session::{Session, Turn};
use serde::{Deserialize, Serialize};
use undertone_infer::Progress;
use undertone_shares::MAX_PUBLIC_BYTES;

/// Most bytes of masked weights: eight for each of 2^40 weights, the most that a model may have.
const MAX_MASKED: u64 = 8 << 40;

/// One message of a set-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setup {
    /// What there is; the public model follows in chunks.
    Description {
        /// Bytes of the public model.
        public_len: u32,
        /// Bytes of the masked weights.
        masked_len: u64,
        /// Name of the masked weights.
        name: [u8; 32],
    },
    /// The user wants the masked weights.
    Fetch,
    /// They follow in chunks.
    Masked {
        /// Bytes that follow.
        len: u64,
    },
}

impl Setup {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let cap = |field, have: u64, need: u64| {
            if have == 0 || have > need { Err(Error::Cap { field, have, need }) } else { Ok(()) }
        };
        match *self {
            Self::Description { public_len, masked_len, .. } => {
                cap("public model length", public_len.into(), MAX_PUBLIC_BYTES as u64)?;
                cap("masked weights length", masked_len, MAX_MASKED)
            }
            Self::Masked { len } => cap("masked weights length", len, MAX_MASKED),
            Self::Fetch => Ok(()),
        }
    }
}

/// Where a server takes the masked weights from.
pub trait MaskedSource: Send {
    /// `len` bytes from `first` on; both are multiples of eight except at the end.
    fn bytes(&self, first: u64, len: usize) -> Vec<u8>;
}

enum State {
    AwaitFetch,
    Streaming { sent: u64 },
    AwaitBye,
    Closed,
}

/// The provider's side of a set-up.
pub struct SetupServer {
    source: Box<dyn MaskedSource>,
    masked_len: u64,
    outbox: Outbox,
    state: State,
}

impl SetupServer {
    /// A set-up that begins with `welcome` and the public model.
    pub fn new(
        welcome: Welcome,
        public: Vec<u8>,
        (name, masked_len): ([u8; 32], u64),
        source: Box<dyn MaskedSource>,
    ) -> Self {
        let mut outbox = Outbox::default();
        outbox.push(Message::Welcome(welcome));
        // An encoding is at most a mebibyte.
        let public_len = public.len() as u32;
        outbox.push(Message::Setup(Setup::Description { public_len, masked_len, name }));
        outbox.push_blob(public);
        Self { source, masked_len, outbox, state: State::AwaitFetch }
    }
}

impl Session for SetupServer {
    fn mode(&self) -> Mode {
        Mode::Setup
    }

    fn turn(&self) -> Turn {
        if matches!(self.state, State::Closed) { Turn::Closed } else { Turn::Peer }
    }

    fn receive(&mut self, message: Message) -> Result<(), Error> {
        match (std::mem::replace(&mut self.state, State::Closed), message) {
            (_, Message::Bye) => Ok(()),
            (_, Message::Error(report)) => Err(peer_error(report)),
            (State::AwaitFetch, Message::Setup(Setup::Fetch)) => {
                self.outbox.push(Message::Setup(Setup::Masked { len: self.masked_len }));
                self.state = State::Streaming { sent: 0 };
                Ok(())
            }
            (_, message) => Err(Error::OutOfTurn { message: message.message_type().name(), state: "setting up" }),
        }
    }

    fn next_message(&mut self) -> Option<Message> {
        if let Some(message) = self.outbox.pop() {
            return Some(message);
        }
        let State::Streaming { sent } = self.state else { return None };
        let len = (self.masked_len - sent).min(CHUNK_LEN as u64);
        if len == 0 {
            self.state = State::AwaitBye;
            return None;
        }
        self.state = State::Streaming { sent: sent + len };
        Some(Message::Chunk(self.source.bytes(sent, len as usize)))
    }

    fn work(&mut self, _: &dyn Progress) -> Result<(), Error> {
        Ok(())
    }
}
