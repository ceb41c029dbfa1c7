//! Server side of mode fhe: takes exactly the planned keys, then serves steps.
//!
//! Keys are client data and untrusted: id, level, length and order must be those of the plan before a byte is kept,
//! the digest must match before the key is decoded, and decoding checks every residue. One key at a time is in its
//! wire form.

use super::message::{KeyBegin, KeyEnd, WireKeyId};
use super::plan::FhePlan;
use crate::Error;
use crate::blob::BlobReceiver;
use crate::exchange::{Engine, ServerExchange};
use crate::message::{Message, Mode, Welcome, WireShape};
use crate::session::{Session, Turn};
use undertone_he::{PlannedKey, UploadKey};
use undertone_infer::Progress;

/// Collects the keys of one session and becomes its engine.
pub trait KeySink: Send {
    /// Takes `key` in its wire form.
    ///
    /// # Errors
    /// When the bytes are not that key.
    fn insert(&mut self, key: UploadKey, bytes: &[u8]) -> Result<(), Error>;

    /// The engine, once every key is in.
    ///
    /// # Errors
    /// When the keys do not serve the circuit.
    fn finish(self: Box<Self>) -> Result<Box<dyn Engine>, Error>;
}

enum Setup {
    /// `next` counts the complete keys.
    Keys {
        sink: Box<dyn KeySink>,
        next: usize,
    },
    Receiving {
        sink: Box<dyn KeySink>,
        next: usize,
        begin: KeyBegin,
        blob: BlobReceiver,
    },
    Done,
    Closed,
}

/// The server session.
pub struct Server {
    keys: Vec<PlannedKey>,
    setup: Setup,
    /// What the last key arrived in, for the next one.
    key_memory: Vec<u8>,
    exchange: ServerExchange,
}

impl Server {
    /// A session of `shape` over a model with `vocab_size` tokens that expects what `plan` lists.
    pub fn new(shape: WireShape, vocab_size: u32, plan: FhePlan, welcome: Welcome, sink: Box<dyn KeySink>) -> Self {
        Self {
            keys: plan.keys,
            setup: Setup::Keys { sink, next: 0 },
            key_memory: Vec::new(),
            exchange: ServerExchange::new(Mode::Fhe, shape, vocab_size, plan.lengths, welcome),
        }
    }

    fn setup_message(&mut self, message: Message) -> Result<Setup, Error> {
        let setup = std::mem::replace(&mut self.setup, Setup::Closed);
        match (setup, message) {
            (Setup::Keys { sink, next }, Message::KeyBegin(begin)) => {
                let len = self.check_key(next, &begin)?;
                let blob = BlobReceiver::reusing("a key", len, std::mem::take(&mut self.key_memory));
                Ok(Setup::Receiving { sink, next, begin, blob })
            }
            (Setup::Receiving { sink, next, begin, mut blob }, Message::Chunk(bytes)) => {
                blob.push(&bytes)?;
                Ok(Setup::Receiving { sink, next, begin, blob })
            }
            (Setup::Receiving { mut sink, next, begin, blob }, Message::KeyEnd(end)) => {
                let bytes = complete_key(&begin, blob, &end)?;
                sink.insert(self.keys[next].key, &bytes)?;
                self.key_memory = bytes;
                Ok(Setup::Keys { sink, next: next + 1 })
            }
            (Setup::Keys { sink, next }, Message::KeysDone) if next == self.keys.len() => {
                self.key_memory = Vec::new();
                self.exchange.set_engine(sink.finish()?);
                Ok(Setup::Done)
            }
            (Setup::Keys { next, .. }, Message::KeysDone) => {
                Err(Error::Unexpected { field: "number of keys", have: next as u64, need: self.keys.len() as u64 })
            }
            (_, Message::Bye) => Ok(Setup::Closed),
            (_, Message::Error(report)) => Err(crate::exchange::peer_error(report)),
            (setup, message) => {
                let state = match setup {
                    Setup::Keys { .. } => "waiting for a key",
                    Setup::Receiving { .. } => "receiving a key",
                    Setup::Done | Setup::Closed => "closed",
                };
                Err(Error::OutOfTurn { message: message.message_type().name(), state })
            }
        }
    }

    /// The length of the key that `begin` announces, if it is the one that is due.
    fn check_key(&self, next: usize, begin: &KeyBegin) -> Result<usize, Error> {
        let Some(due) = self.keys.get(next) else {
            return Err(Error::UnexpectedKey { have: begin.describe(), need: "none".to_owned() });
        };
        let need = KeyBegin::new(&due.key, due.len)?;
        if *begin != need {
            return Err(Error::UnexpectedKey { have: begin.describe(), need: need.describe() });
        }
        Ok(due.len)
    }
}

fn complete_key(begin: &KeyBegin, blob: BlobReceiver, end: &KeyEnd) -> Result<Vec<u8>, Error> {
    if !blob.complete() {
        return Err(Error::OutOfTurn { message: "key_end", state: "receiving a key" });
    }
    let bytes = blob.into_blobs().pop().unwrap_or_default();
    if *blake3::hash(&bytes).as_bytes() != end.digest {
        return Err(Error::Digest { what: key_kind(begin.id) });
    }
    Ok(bytes)
}

fn key_kind(id: WireKeyId) -> &'static str {
    match id {
        WireKeyId::Relinearization => "the relinearization key",
        WireKeyId::Galois(_) => "a Galois key",
        WireKeyId::ToSparse | WireKeyId::FromSparse => "a sparse-switching key",
        WireKeyId::Product(_) => "a key of matrix products",
    }
}

impl Session for Server {
    fn mode(&self) -> Mode {
        Mode::Fhe
    }

    fn turn(&self) -> Turn {
        match self.setup {
            Setup::Done => self.exchange.turn(),
            Setup::Closed => Turn::Closed,
            _ => Turn::Peer,
        }
    }

    fn receive(&mut self, message: Message) -> Result<(), Error> {
        if let Setup::Done = self.setup {
            return self.exchange.receive(message);
        }
        // An error leaves the setup closed and the keys freed.
        self.setup = self.setup_message(message)?;
        Ok(())
    }

    fn next_message(&mut self) -> Option<Message> {
        self.exchange.next_message()
    }

    fn work(&mut self, progress: &dyn Progress) -> Result<(), Error> {
        self.exchange.work(progress)
    }
}
