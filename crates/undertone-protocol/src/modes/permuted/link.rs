//! The other end of a dealer's session and of a set-up, over any stream: one request, one reply.
//!
//! Both parties use these; opening and timing the stream is theirs.

use super::deal::{DealReply, DealRequest, DealtBundle, Next, Opened, SessionCounts, Stock};
use super::setup::Setup;
use crate::blob::BlobReceiver;
use crate::exchange::peer_error;
use crate::frame::CHUNK_LEN;
use crate::message::{Hello, Message, Mode, WireShape};
use crate::{Error, MessageStream};
use std::io::{Read, Write};
use undertone_shares::SessionId;
use zeroize::Zeroizing;

/// A hello of a session in which no tokens travel.
fn hello(mode: Mode) -> Hello {
    let shape = WireShape { public_tokens: 0, private_tokens: 1, max_new_tokens: 1 };
    Hello::new(mode, [0; 32], [0; 32], [0; 32], shape)
}

fn open<S: Read + Write>(stream: S, mode: Mode) -> Result<MessageStream<S>, Error> {
    let mut stream = MessageStream::new(stream);
    if mode == Mode::Deal {
        stream.keep_nothing();
    }
    stream.send(&Message::Hello(hello(mode)))?;
    match receive(&mut stream)? {
        Message::Welcome(_) => Ok(stream),
        message => Err(unexpected(&message)),
    }
}

/// The next message that is not news.
fn receive<S: Read + Write>(stream: &mut MessageStream<S>) -> Result<Message, Error> {
    loop {
        match stream.receive()? {
            Message::Progress(_) => {}
            Message::Error(report) => return Err(peer_error(report)),
            message => return Ok(message),
        }
    }
}

fn unexpected(message: &Message) -> Error {
    Error::OutOfTurn { message: message.message_type().name(), state: "waiting for a reply" }
}

fn blob<S: Read + Write>(stream: &mut MessageStream<S>, what: &'static str, len: usize) -> Result<Vec<u8>, Error> {
    let mut receiver = BlobReceiver::secret(what, len);
    while !receiver.complete() {
        match receive(stream)? {
            Message::Chunk(bytes) => receiver.push(&Zeroizing::new(bytes))?,
            message => return Err(unexpected(&message)),
        }
    }
    Ok(receiver.into_blobs().pop().unwrap_or_default())
}

/// A party's connection to its dealer.
pub struct DealLink<S> {
    stream: MessageStream<S>,
}

impl<S: Read + Write> DealLink<S> {
    /// Introduces itself to the dealer at the other end of a fresh stream.
    ///
    /// # Errors
    /// What the stream or the dealer reports.
    pub fn open(stream: S) -> Result<Self, Error> {
        Ok(Self { stream: open(stream, Mode::Deal)? })
    }

    fn ask(&mut self, request: DealRequest) -> Result<DealReply, Error> {
        self.stream.send(&Message::DealRequest(request))?;
        self.reply()
    }

    fn reply(&mut self) -> Result<DealReply, Error> {
        match receive(&mut self.stream)? {
            Message::DealReply(reply) => Ok(reply),
            message => Err(unexpected(&message)),
        }
    }

    /// Takes an announced bundle of at most `most_bytes`; a longer one is refused before any of it is read.
    fn bundle(&mut self, step: u64, len: u32, most_bytes: u64) -> Result<DealtBundle, Error> {
        if u64::from(len) > most_bytes {
            return Err(Error::Cap { field: "bundle length", have: len.into(), need: most_bytes });
        }
        Ok((step, Zeroizing::new(blob(&mut self.stream, "a bundle", len as usize)?)))
    }

    /// The provider's introduction; returns the seed of the weight masks.
    ///
    /// # Errors
    /// A dealer that does not know the ticket.
    pub fn register(
        &mut self,
        ticket: &[u8; 32],
        fingerprint: [u8; 32],
        public: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, Error> {
        let public_len = public.len() as u32;
        let mut request = Message::DealRequest(DealRequest::Register { ticket: *ticket, fingerprint, public_len });
        let sent = self.stream.send(&request);
        request.wipe();
        sent?;
        for chunk in public.chunks(CHUNK_LEN) {
            self.stream.send(&Message::Chunk(chunk.to_vec()))?;
        }
        let DealReply::Registered = self.reply()? else { return Err(wrong_reply()) };
        let seed = Zeroizing::new(blob(&mut self.stream, "a seed", 32)?);
        let seed: [u8; 32] = seed[..].try_into().map_err(|_| wrong_reply())?;
        Ok(Zeroizing::new(seed))
    }

    /// The provider's bundle of a step, which can be of at most `most_bytes`.
    ///
    /// # Errors
    /// `Cap` for a longer one, a session that the dealer does not know, a bundle that it gave away before.
    pub fn pull(&mut self, session: SessionId, step: u64, most_bytes: u64) -> Result<Next, Error> {
        match self.ask(DealRequest::Pull { session, step })? {
            DealReply::NotYet => Ok(Next::NotYet),
            DealReply::Exhausted { steps } => Ok(Next::Exhausted { steps }),
            DealReply::Bundle { step: number, len } if number == step => {
                self.bundle(step, len, most_bytes).map(Next::Bundle)
            }
            _ => Err(wrong_reply()),
        }
    }

    /// A session for a prompt and its answer, evaluated strictly or not.
    ///
    /// # Errors
    /// A dealer that deals for another model, or that has no room for such a session.
    pub fn session(&mut self, model: [u8; 32], counts: SessionCounts, strict: bool) -> Result<Opened, Error> {
        match self.ask(DealRequest::Open { model, counts, strict })? {
            DealReply::Opened(opened) => Ok(opened),
            _ => Err(wrong_reply()),
        }
    }

    /// The user's next bundle, which can be of at most `most_bytes`.
    ///
    /// # Errors
    /// `Cap` for a longer one, a session that cannot go on.
    pub fn next_bundle(&mut self, most_bytes: u64) -> Result<Next, Error> {
        match self.ask(DealRequest::Next)? {
            DealReply::Bundle { step, len } => self.bundle(step, len, most_bytes).map(Next::Bundle),
            DealReply::NotYet => Ok(Next::NotYet),
            DealReply::Exhausted { steps } => Ok(Next::Exhausted { steps }),
            _ => Err(wrong_reply()),
        }
    }

    /// The dealer's stock.
    ///
    /// # Errors
    /// What the stream or the dealer reports.
    pub fn stock(&mut self) -> Result<Stock, Error> {
        match self.ask(DealRequest::Stock)? {
            DealReply::Stock(stock) => Ok(stock),
            _ => Err(wrong_reply()),
        }
    }

    /// Says goodbye.
    pub fn close(mut self) {
        // A dealer that is gone needs no goodbye.
        let _ = self.stream.send(&Message::Bye);
    }
}

fn wrong_reply() -> Error {
    Error::OutOfTurn { message: "deal_reply", state: "waiting for another reply" }
}

/// A user's connection for its set-up.
pub struct SetupLink<S> {
    stream: MessageStream<S>,
    /// The public model, encoded.
    pub public: Vec<u8>,
    /// Bytes of the masked weights.
    pub masked_len: u64,
    /// Their name.
    pub name: [u8; 32],
}

impl<S: Read + Write> SetupLink<S> {
    /// Asks the provider at the other end of a fresh stream for its public model.
    ///
    /// # Errors
    /// What the stream or the provider reports.
    pub fn open(stream: S) -> Result<Self, Error> {
        let mut stream = open(stream, Mode::Setup)?;
        match receive(&mut stream)? {
            Message::Setup(Setup::Description { public_len, masked_len, name }) => {
                let public = blob(&mut stream, "a public model", public_len as usize)?;
                Ok(Self { stream, public, masked_len, name })
            }
            message => Err(unexpected(&message)),
        }
    }

    /// Fetches the masked weights; `take` gets them piece by piece, and how many bytes came before.
    ///
    /// # Errors
    /// What the stream, the provider or `take` reports.
    pub fn fetch(&mut self, mut take: impl FnMut(&[u8], u64) -> Result<(), Error>) -> Result<(), Error> {
        self.stream.send(&Message::Setup(Setup::Fetch))?;
        match receive(&mut self.stream)? {
            Message::Setup(Setup::Masked { len }) if len == self.masked_len => {}
            message => return Err(unexpected(&message)),
        }
        let mut done = 0;
        while done < self.masked_len {
            let Message::Chunk(bytes) = receive(&mut self.stream)? else {
                return Err(Error::OutOfTurn { message: "another", state: "receiving masked weights" });
            };
            let due = (self.masked_len - done).min(CHUNK_LEN as u64);
            if bytes.len() as u64 != due {
                return Err(Error::Unexpected { field: "chunk length", have: bytes.len() as u64, need: due });
            }
            take(&bytes, done)?;
            done += due;
        }
        Ok(())
    }

    /// Says goodbye.
    pub fn close(mut self) {
        // A provider that is gone needs no goodbye.
        let _ = self.stream.send(&Message::Bye);
    }
}
