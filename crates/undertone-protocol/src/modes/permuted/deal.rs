//! A dealer and its parties: requests and replies, and the dealer's session.
//!
//! The provider registers its model once and gets the seed of the weight masks, then pulls its bundle of every step. A
//! user opens a dealt session for the length of its prompt and asks for its bundles one by one. Bundles and the seed
//! follow a reply as chunks. What a dealer keeps and when it deals is behind [`Dealings`].

use crate::Error;
use crate::blob::{BlobReceiver, Outbox};
use crate::exchange::peer_error;
use crate::message::{MAX_BLOB, MAX_NEW_TOKENS, MAX_PUBLIC_TOKENS, Message, Mode, Welcome};
use crate::session::{Session, Turn};
use serde::{Deserialize, Serialize};
use undertone_infer::Progress;
use undertone_shares::{MAX_PUBLIC_BYTES, SessionId};
use zeroize::{Zeroize, Zeroizing};

/// What a step may make as long as it is, a blob must carry.
const _: () = assert!(undertone_shares::MAX_BUNDLE_BYTES <= MAX_BLOB as usize);

/// Most pieces of a prompt: the longest one in pieces of 64 tokens.
pub const MAX_PIECES: usize = MAX_PUBLIC_TOKENS as usize / 64;
/// Most tokens that one step may draft.
pub const MAX_DRAFT: u32 = 32;
/// Most lengths of which a dealer keeps sessions in stock.
pub const MAX_LENGTHS: usize = 16;

/// What a party asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DealRequest {
    /// The provider names its model, whose public part follows in chunks.
    Register {
        /// What the dealer gave its provider to be known by.
        ticket: [u8; 32],
        /// Fingerprint of the weights: other weights need other masks.
        fingerprint: [u8; 32],
        /// Bytes of the public model.
        public_len: u32,
    },
    /// The provider wants its bundle of a step.
    Pull {
        /// The session.
        session: SessionId,
        /// Number of the step.
        step: u64,
    },
    /// A user wants a session.
    Open {
        /// Digest of the public model and of the name of the masked weights that it has.
        model: [u8; 32],
        /// What it is to be for.
        counts: SessionCounts,
        /// Whether its nonlinear steps are evaluated on shares.
        strict: bool,
    },
    /// The user wants its next bundle.
    Next,
    /// Anybody asks what is in stock.
    Stock,
}

/// What a user announces of its session: the dealer sets memory aside for it, and deals no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionCounts {
    /// Tokens of the prompt.
    pub prompt: u32,
    /// Most tokens of the answer.
    pub max_new_tokens: u32,
    /// Tokens drafted in every step after the prompt.
    pub draft: u32,
}

impl SessionCounts {
    fn check(&self) -> Result<(), Error> {
        capped("prompt tokens", self.prompt.into(), MAX_PUBLIC_TOKENS.into())?;
        capped("max_new_tokens", self.max_new_tokens.into(), MAX_NEW_TOKENS.into())?;
        capped("drafted tokens", self.draft.into(), MAX_DRAFT.into())?;
        let cause = match (self.prompt, self.max_new_tokens) {
            (0, _) => "its prompt is empty",
            (_, 0) => "it asks for no new token",
            _ => return Ok(()),
        };
        Err(Error::Malformed { message: "deal_request", cause })
    }
}

/// What a dealer has made and not given away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stock {
    /// Sessions that wait for a user, by tokens of the prompt that they have room for.
    pub waiting: Vec<(u32, u32)>,
    /// Sessions that users have.
    pub sessions: u32,
    /// Steps dealt ahead in all of those.
    pub ahead: u64,
    /// Steps dealt so far.
    pub dealt: u64,
    /// Steps that users have taken.
    pub taken: u64,
}

/// A session as its user hears of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Its name.
    pub session: SessionId,
    /// Tokens of the steps of the prompt; the last has one output, the others none. Together they may be more than the
    /// prompt has.
    pub pieces: Vec<u32>,
}

/// What the dealer answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DealReply {
    /// The seed of the weight masks follows in a chunk.
    Registered,
    /// A bundle follows in chunks.
    Bundle {
        /// Number of its step.
        step: u64,
        /// Its bytes.
        len: u32,
    },
    /// The step is not dealt yet.
    NotYet,
    /// A session.
    Opened(Opened),
    /// The dealer deals no more steps of this session.
    Exhausted {
        /// Steps that it dealt.
        steps: u64,
    },
    /// The stock.
    Stock(Stock),
}

fn capped(field: &'static str, have: u64, need: u64) -> Result<(), Error> {
    if have > need { Err(Error::Cap { field, have, need }) } else { Ok(()) }
}

impl DealRequest {
    pub(crate) fn check(&self) -> Result<(), Error> {
        match *self {
            Self::Register { public_len, .. } => {
                capped("public model length", public_len.into(), MAX_PUBLIC_BYTES as u64)?;
                let cause = "it announces no public model";
                if public_len == 0 { Err(Error::Malformed { message: "deal_request", cause }) } else { Ok(()) }
            }
            Self::Open { counts, .. } => counts.check(),
            Self::Pull { .. } | Self::Next | Self::Stock => Ok(()),
        }
    }
}

impl DealReply {
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self {
            Self::Bundle { len, .. } => capped("bundle length", (*len).into(), MAX_BLOB.into()),
            Self::Opened(opened) => {
                capped("pieces of a prompt", opened.pieces.len() as u64, MAX_PIECES as u64)?;
                let total = opened.pieces.iter().map(|&piece| u64::from(piece)).sum();
                capped("tokens of the pieces", total, MAX_PUBLIC_TOKENS.into())?;
                if opened.pieces.is_empty() || opened.pieces.contains(&0) {
                    let cause = "there is no piece or an empty one";
                    return Err(Error::Malformed { message: "deal_reply", cause });
                }
                Ok(())
            }
            Self::Stock(stock) => capped("lengths in stock", stock.waiting.len() as u64, MAX_LENGTHS as u64),
            Self::Registered | Self::NotYet | Self::Exhausted { .. } => Ok(()),
        }
    }
}

/// An encoded bundle and the number of its step.
pub type DealtBundle = (u64, Zeroizing<Vec<u8>>);

/// What a party hears that asks for a bundle.
pub enum Next {
    /// Here it is.
    Bundle(DealtBundle),
    /// It is not dealt yet; ask again.
    NotYet,
    /// There are to be no more.
    Exhausted {
        /// Steps dealt.
        steps: u64,
    },
}

/// What one connection to a dealer can ask of it. Whoever pulls must have registered, whoever asks for bundles must
/// have opened a session: implementations check that.
pub trait Dealings: Send {
    /// Takes the provider's model and gives the seed of its weight masks.
    ///
    /// # Errors
    /// A wrong ticket, a model that does not decode.
    fn register(
        &mut self,
        ticket: &[u8; 32],
        fingerprint: &[u8; 32],
        public: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, Error>;

    /// The provider's bundle of a step, once. It does not wait for one.
    ///
    /// # Errors
    /// Who is not registered, a session that is over, a bundle that was given away.
    fn pull(&mut self, session: &SessionId, step: u64) -> Result<Next, Error>;

    /// A session for a prompt and its answer.
    ///
    /// # Errors
    /// Another model or other masks of its weights, a prompt or an answer that does not fit.
    fn open(&mut self, model: &[u8; 32], counts: &SessionCounts, strict: bool) -> Result<Opened, Error>;

    /// The user's next bundle. It does not wait for one.
    ///
    /// # Errors
    /// Who has no session, a session that cannot go on.
    fn next(&mut self) -> Result<Next, Error>;

    /// The stock.
    fn stock(&self) -> Stock;
}

enum State {
    Idle,
    /// The public model of a registration is on its way.
    Registering(DealRequest, BlobReceiver),
    Ready(DealRequest, Vec<u8>),
    Closed,
}

/// The dealer's side of one connection.
pub struct DealServer {
    dealings: Box<dyn Dealings>,
    outbox: Outbox,
    state: State,
}

impl DealServer {
    /// A session that begins with `welcome`.
    pub fn new(welcome: Welcome, dealings: Box<dyn Dealings>) -> Self {
        let mut outbox = Outbox::default();
        outbox.push(Message::Welcome(welcome));
        Self { dealings, outbox, state: State::Idle }
    }

    fn accept(&mut self, message: Message) -> Result<State, Error> {
        match (std::mem::replace(&mut self.state, State::Closed), message) {
            (_, Message::Bye) => Ok(State::Closed),
            (_, Message::Error(report)) => Err(peer_error(report)),
            (State::Idle, Message::DealRequest(request)) => Ok(match request {
                DealRequest::Register { public_len, .. } => {
                    State::Registering(request, BlobReceiver::new("a public model", [public_len as usize]))
                }
                _ => State::Ready(request, Vec::new()),
            }),
            (State::Registering(request, mut blob), Message::Chunk(bytes)) => {
                blob.push(&bytes)?;
                if !blob.complete() {
                    return Ok(State::Registering(request, blob));
                }
                Ok(State::Ready(request, blob.into_blobs().pop().unwrap_or_default()))
            }
            (_, message) => Err(Error::OutOfTurn { message: message.message_type().name(), state: "dealing" }),
        }
    }

    fn reply(&mut self, reply: DealReply) {
        self.outbox.push(Message::DealReply(reply));
    }

    fn bundle(&mut self, step: u64, bundle: Zeroizing<Vec<u8>>) -> Result<(), Error> {
        // A step with a longer bundle is refused before it is dealt.
        let len = u32::try_from(bundle.len()).map_err(|_| Error::Cap {
            field: "bundle length",
            have: bundle.len() as u64,
            need: MAX_BLOB.into(),
        })?;
        self.reply(DealReply::Bundle { step, len });
        self.outbox.push_secret(bundle);
        Ok(())
    }

    fn give(&mut self, next: Next) -> Result<(), Error> {
        match next {
            Next::Bundle((step, bundle)) => self.bundle(step, bundle)?,
            Next::NotYet => self.reply(DealReply::NotYet),
            Next::Exhausted { steps } => self.reply(DealReply::Exhausted { steps }),
        }
        Ok(())
    }

    fn answer(&mut self, mut request: DealRequest, public: &[u8]) -> Result<(), Error> {
        match &mut request {
            DealRequest::Register { ticket, fingerprint, .. } => {
                let seed = self.dealings.register(ticket, fingerprint, public);
                ticket.zeroize();
                let seed = seed?;
                self.reply(DealReply::Registered);
                self.outbox.push_secret(Zeroizing::new(seed.to_vec()));
            }
            DealRequest::Pull { session, step } => {
                let next = self.dealings.pull(session, *step)?;
                self.give(next)?;
            }
            DealRequest::Open { model, counts, strict } => {
                let opened = self.dealings.open(model, counts, *strict)?;
                self.reply(DealReply::Opened(opened));
            }
            DealRequest::Next => {
                let next = self.dealings.next()?;
                self.give(next)?;
            }
            DealRequest::Stock => {
                let stock = self.dealings.stock();
                self.reply(DealReply::Stock(stock));
            }
        }
        Ok(())
    }
}

impl Session for DealServer {
    fn mode(&self) -> Mode {
        Mode::Deal
    }

    fn turn(&self) -> Turn {
        match self.state {
            State::Idle | State::Registering(..) => Turn::Peer,
            State::Ready(..) => Turn::Work,
            State::Closed => Turn::Closed,
        }
    }

    fn receive(&mut self, message: Message) -> Result<(), Error> {
        // An error leaves the session closed.
        self.state = self.accept(message)?;
        Ok(())
    }

    fn next_message(&mut self) -> Option<Message> {
        self.outbox.pop()
    }

    fn work(&mut self, _: &dyn Progress) -> Result<(), Error> {
        if let State::Ready(request, public) = std::mem::replace(&mut self.state, State::Closed) {
            self.answer(request, &public)?;
            self.state = State::Idle;
        }
        Ok(())
    }
}
