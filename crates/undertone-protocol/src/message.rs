//! Messages: what a frame means.
//!
//! One frame is one message. Control messages are postcard, in their one canonical form (a decoder re-encodes and
//! compares), with a cap on every field; bulk data is announced by a control message and follows in `Chunk` frames.
//! In-memory types never travel: the types here are the wire types, and conversions check.

use crate::Error;
use crate::frame::{self, CHUNK_LEN, MAX_PAYLOAD};
use crate::modes::fhe::message::{KeyBegin, KeyEnd};
use crate::modes::permuted::deal::{DealReply, DealRequest};
use crate::modes::permuted::message::{FlightBegin, StepBegin};
use crate::modes::permuted::setup::Setup;
pub use crate::operations::Operations;
pub use crate::report::{ErrorClass, ErrorReport, ProgressReport};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroize;

/// Most public tokens of a session.
pub const MAX_PUBLIC_TOKENS: u32 = 131_072;
/// Most private tokens of a session.
pub const MAX_PRIVATE_TOKENS: u32 = 128;
/// Most generated tokens of a session.
pub const MAX_NEW_TOKENS: u32 = 4_096;
/// Most blobs of one step (ciphertexts of a prompt, a token or a result).
pub const MAX_BLOBS: usize = 4_096;
/// Largest blob in bytes.
pub const MAX_BLOB: u32 = 1 << 30;
/// Most operations of one kind that a server may report for one step.
pub const MAX_OPERATIONS: u64 = 1 << 40;
/// Longest error sentence in bytes.
pub const MAX_SENTENCE: usize = 512;
/// Longest stage name in bytes.
pub const MAX_STAGE: usize = 32;

macro_rules! message_types {
    ($($(#[$doc:meta])* $name:ident = $byte:literal, $text:literal, $cap:expr;)*) => {
        /// The type byte of a frame.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum MessageType { $($(#[$doc])* $name = $byte,)* }

        impl MessageType {
            /// Every type, in the order of the type byte.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The type of a type byte.
            pub fn from_byte(byte: u8) -> Option<Self> {
                match byte { $($byte => Some(Self::$name),)* _ => None }
            }

            /// The name used in errors and in the ledger.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Longest payload in bytes, checked before anything is allocated.
            pub fn max_payload(self) -> usize {
                match self { $(Self::$name => $cap,)* }
            }
        }
    };
}

message_types! {
    /// The client opens a session.
    Hello = 1, "hello", 256;
    /// The server accepts it.
    Welcome = 2, "welcome", 64;
    /// The server is still working.
    Progress = 3, "progress", 64;
    /// The client ends the session.
    Bye = 4, "bye", 0;
    /// Either side gives up, with a reason.
    Error = 5, "error", MAX_SENTENCE + 8;
    /// A piece of a blob.
    Chunk = 6, "chunk", CHUNK_LEN;
    /// The prompt follows.
    Prefill = 16, "prefill", MAX_PAYLOAD;
    /// The next token follows.
    Decode = 17, "decode", 8 * MAX_BLOBS;
    /// The result of a step follows.
    Result = 18, "result", 8 * MAX_BLOBS;
    /// One evaluation key follows (mode fhe).
    KeyBegin = 32, "key_begin", 64;
    /// The key is complete (mode fhe).
    KeyEnd = 33, "key_end", 32;
    /// All keys are complete (mode fhe).
    KeysDone = 34, "keys_done", 0;
    /// A step begins (mode permuted).
    StepBegin = 48, "step_begin", 64;
    /// A flight follows (mode permuted).
    FlightBegin = 49, "flight_begin", 32;
    /// What a user needs of a model before its first session (mode permuted).
    Setup = 50, "setup", 64;
    /// A party asks its dealer (mode permuted).
    DealRequest = 51, "deal_request", 128;
    /// The dealer answers (mode permuted).
    DealReply = 52, "deal_reply", 8 * MAX_BLOBS;
}

/// The protocol variant of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// CKKS, non-interactive per token.
    Fhe,
    /// No secrecy at all: the same program on clear slots, for tests.
    Clear,
    /// Secret shares with a dealer, nonlinear steps on permuted values.
    Permuted,
    /// The public model and the masked weights on their way to a user of mode permuted.
    Setup,
    /// A dealer and one of the parties of mode permuted.
    Deal,
    /// Mode permuted with nonlinear steps on shares: nothing permuted is opened.
    Strict,
}

impl Mode {
    /// The name people type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fhe => "fhe",
            Self::Clear => "clear",
            Self::Permuted => "permuted",
            Self::Setup => "setup",
            Self::Deal => "deal",
            Self::Strict => "strict",
        }
    }
}

/// The token counts of a session, known to both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireShape {
    /// Public tokens, including the beginning-of-sequence token.
    pub public_tokens: u32,
    /// Private tokens, including filler.
    pub private_tokens: u32,
    /// Tokens that may be generated.
    pub max_new_tokens: u32,
}

impl WireShape {
    /// Checks the caps of the modes that run one program for the whole prompt.
    ///
    /// # Errors
    /// `Cap` names the field.
    pub fn check(&self) -> Result<(), Error> {
        self.check_for(Mode::Fhe)
    }

    /// Checks the caps of a mode: in mode permuted every token may be private.
    ///
    /// # Errors
    /// `Cap` names the field.
    pub fn check_for(&self, mode: Mode) -> Result<(), Error> {
        let most_private = if matches!(mode, Mode::Fhe | Mode::Clear) { MAX_PRIVATE_TOKENS } else { MAX_PUBLIC_TOKENS };
        cap("public_tokens", self.public_tokens, MAX_PUBLIC_TOKENS)?;
        cap("private_tokens", self.private_tokens, most_private)?;
        cap("max_new_tokens", self.max_new_tokens, MAX_NEW_TOKENS)?;
        if self.private_tokens == 0 || self.max_new_tokens == 0 {
            return Err(Error::Malformed { message: "hello", cause: "a token count is zero" });
        }
        Ok(())
    }
}

impl From<WireShape> for undertone_infer::Shape {
    fn from(shape: WireShape) -> Self {
        Self {
            public_tokens: shape.public_tokens as usize,
            private_tokens: shape.private_tokens as usize,
            max_new_tokens: shape.max_new_tokens as usize,
        }
    }
}

/// The digest of a calibration, as [`Hello`] carries it.
pub fn calibration_digest(calibration: &undertone_infer::Calibration) -> [u8; 32] {
    *blake3::hash(&calibration.to_json()).as_bytes()
}

/// What the client wants; every digest is compared with what the server holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Message version, equal to the frame version.
    pub version: u16,
    /// The mode.
    pub mode: Mode,
    /// Digest of the cryptographic parameters, or of the chain in mode clear.
    pub parameters: [u8; 32],
    /// Fingerprint of the model.
    pub model: [u8; 32],
    /// Digest of the calibration.
    pub calibration: [u8; 32],
    /// Token counts.
    pub shape: WireShape,
}

impl Hello {
    /// A hello of this version.
    pub fn new(mode: Mode, parameters: [u8; 32], model: [u8; 32], calibration: [u8; 32], shape: WireShape) -> Self {
        Self { version: frame::PROTOCOL_VERSION.into(), mode, parameters, model, calibration, shape }
    }

    /// Compares the hello of a client with what this server holds.
    ///
    /// # Errors
    /// `Version`, or `Mismatch` naming the first object that differs.
    pub fn expect(&self, parameters: [u8; 32], model: [u8; 32], calibration: [u8; 32]) -> Result<(), Error> {
        let need = u16::from(frame::PROTOCOL_VERSION);
        if self.version != need {
            return Err(Error::Version { have: self.version, need });
        }
        let same = |what, have: [u8; 32], need: [u8; 32]| {
            if have == need { Ok(()) } else { Err(Error::Mismatch { what }) }
        };
        same("parameters", self.parameters, parameters)?;
        same("model", self.model, model)?;
        same("calibration", self.calibration, calibration)
    }
}

/// What the server accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Session number, part of every later frame header.
    pub session: u64,
    /// Seconds of silence after which the server drops the session.
    pub idle_timeout_seconds: u32,
    /// Sessions that the server serves at a time.
    pub max_sessions: u32,
}

/// The prompt: public tokens in the clear, and the lengths of the blobs that carry the private part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefill {
    /// Public token ids.
    pub public_tokens: Vec<u32>,
    /// Private tokens, including filler.
    pub private_tokens: u32,
    /// Length in bytes of each blob that follows.
    pub blobs: Vec<u32>,
}

/// Lengths in bytes of the blobs that follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blobs {
    /// One length per blob.
    pub blobs: Vec<u32>,
}

/// The result of a step: lengths in bytes of the blobs that follow, and what it took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepResult {
    /// One length per blob.
    pub blobs: Vec<u32>,
    /// What the server counted in this step; nothing proves it.
    pub operations: Operations,
}

/// Any message.
#[derive(Clone, PartialEq)]
#[expect(missing_docs, reason = "each variant is documented at its message type")]
pub enum Message {
    Hello(Hello),
    Welcome(Welcome),
    Progress(ProgressReport),
    Bye,
    Error(ErrorReport),
    Chunk(Vec<u8>),
    Prefill(Prefill),
    Decode(Blobs),
    Result(StepResult),
    KeyBegin(KeyBegin),
    KeyEnd(KeyEnd),
    KeysDone,
    StepBegin(StepBegin),
    FlightBegin(FlightBegin),
    Setup(Setup),
    DealRequest(DealRequest),
    DealReply(DealReply),
}

impl std::fmt::Debug for Message {
    /// The type alone: payloads are the user's.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Message({})", self.message_type().name())
    }
}

impl Message {
    /// The type byte under which this message travels.
    pub fn message_type(&self) -> MessageType {
        match self {
            Self::Hello(_) => MessageType::Hello,
            Self::Welcome(_) => MessageType::Welcome,
            Self::Progress(_) => MessageType::Progress,
            Self::Bye => MessageType::Bye,
            Self::Error(_) => MessageType::Error,
            Self::Chunk(_) => MessageType::Chunk,
            Self::Prefill(_) => MessageType::Prefill,
            Self::Decode(_) => MessageType::Decode,
            Self::Result(_) => MessageType::Result,
            Self::KeyBegin(_) => MessageType::KeyBegin,
            Self::KeyEnd(_) => MessageType::KeyEnd,
            Self::KeysDone => MessageType::KeysDone,
            Self::StepBegin(_) => MessageType::StepBegin,
            Self::FlightBegin(_) => MessageType::FlightBegin,
            Self::Setup(_) => MessageType::Setup,
            Self::DealRequest(_) => MessageType::DealRequest,
            Self::DealReply(_) => MessageType::DealReply,
        }
    }

    /// Wipes what this message carries of seeds and bundles, once it has been sent.
    pub fn wipe(&mut self) {
        match self {
            Self::Chunk(bytes) => bytes.zeroize(),
            Self::DealRequest(DealRequest::Register { ticket, .. }) => ticket.zeroize(),
            _ => {}
        }
    }

    /// The payload of the frame that carries this message.
    ///
    /// # Errors
    /// `Cap` or `Malformed` when a field is out of range, `TooLong` when the payload exceeds its cap.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        let payload = self.payload()?;
        let need = self.message_type().max_payload();
        if payload.len() > need {
            return Err(Error::TooLong { message: self.message_type().name(), have: payload.len(), need });
        }
        Ok(payload)
    }

    /// Reads a payload of the given type.
    ///
    /// # Errors
    /// `TooLong`, `Malformed`, `Trailing` or `Cap`.
    pub fn decode(message_type: MessageType, payload: &[u8]) -> Result<Self, Error> {
        let message = message_type.name();
        if payload.len() > message_type.max_payload() {
            return Err(Error::TooLong { message, have: payload.len(), need: message_type.max_payload() });
        }
        let decoded = match message_type {
            MessageType::Hello => Self::Hello(parse(message, payload)?),
            MessageType::Welcome => Self::Welcome(parse(message, payload)?),
            MessageType::Progress => Self::Progress(parse(message, payload)?),
            MessageType::Bye => Self::Bye,
            MessageType::Error => Self::Error(parse(message, payload)?),
            MessageType::Chunk => Self::Chunk(payload.to_vec()),
            MessageType::Prefill => Self::Prefill(parse(message, payload)?),
            MessageType::Decode => Self::Decode(parse(message, payload)?),
            MessageType::Result => Self::Result(parse(message, payload)?),
            MessageType::KeyBegin => Self::KeyBegin(parse(message, payload)?),
            MessageType::KeyEnd => Self::KeyEnd(parse(message, payload)?),
            MessageType::KeysDone => Self::KeysDone,
            MessageType::StepBegin => Self::StepBegin(parse(message, payload)?),
            MessageType::FlightBegin => Self::FlightBegin(parse(message, payload)?),
            MessageType::Setup => Self::Setup(parse(message, payload)?),
            MessageType::DealRequest => Self::DealRequest(parse(message, payload)?),
            MessageType::DealReply => Self::DealReply(parse(message, payload)?),
        };
        decoded.check()?;
        if !matches!(decoded, Self::Chunk(_)) && decoded.payload()? != payload {
            return Err(Error::Malformed { message, cause: "the encoding is not canonical" });
        }
        Ok(decoded)
    }

    fn payload(&self) -> Result<Vec<u8>, Error> {
        match self {
            Self::Hello(m) => write(m),
            Self::Welcome(m) => write(m),
            Self::Progress(m) => write(m),
            Self::Error(m) => write(m),
            Self::Prefill(m) => write(m),
            Self::Decode(m) => write(m),
            Self::Result(m) => write(m),
            Self::KeyBegin(m) => write(m),
            Self::KeyEnd(m) => write(m),
            Self::StepBegin(m) => write(m),
            Self::FlightBegin(m) => write(m),
            Self::Setup(m) => write(m),
            Self::DealRequest(m) => write(m),
            Self::DealReply(m) => write(m),
            Self::Chunk(bytes) => Ok(bytes.clone()),
            Self::Bye | Self::KeysDone => Ok(Vec::new()),
        }
    }

    fn check(&self) -> Result<(), Error> {
        match self {
            Self::Hello(hello) => hello.shape.check_for(hello.mode),
            Self::Progress(report) => report.check(),
            Self::Error(report) => cap("sentence length", report.sentence.len() as u32, MAX_SENTENCE as u32),
            Self::Prefill(prefill) => {
                cap("public_tokens", prefill.public_tokens.len() as u32, MAX_PUBLIC_TOKENS)?;
                cap("private_tokens", prefill.private_tokens, MAX_PRIVATE_TOKENS)?;
                check_blobs("prefill", &prefill.blobs)
            }
            Self::Decode(step) => check_blobs("decode", &step.blobs),
            Self::Result(step) => {
                step.operations.check()?;
                check_blobs("result", &step.blobs)
            }
            Self::Chunk(bytes) if bytes.is_empty() => Err(Error::Malformed { message: "chunk", cause: "it is empty" }),
            Self::KeyBegin(begin) => begin.check(),
            Self::StepBegin(begin) => begin.check(),
            Self::FlightBegin(begin) => begin.check(),
            Self::Setup(setup) => setup.check(),
            Self::DealRequest(request) => request.check(),
            Self::DealReply(reply) => reply.check(),
            Self::Welcome(_) | Self::Bye | Self::Chunk(_) | Self::KeyEnd(_) | Self::KeysDone => Ok(()),
        }
    }
}

/// Reads a whole frame and the message in it; a pure function without session state.
///
/// # Errors
/// Those of [`frame::decode_frame`] and [`Message::decode`].
pub fn decode_message(bytes: &[u8]) -> Result<Message, Error> {
    let (header, payload) = frame::decode_frame(bytes)?;
    Message::decode(header.message_type, payload)
}

fn write<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    postcard::to_allocvec(value).map_err(|_| Error::Malformed { message: "outgoing", cause: "it does not encode" })
}

fn parse<T: DeserializeOwned>(message: &'static str, payload: &[u8]) -> Result<T, Error> {
    let (value, rest) = postcard::take_from_bytes(payload)
        .map_err(|_| Error::Malformed { message, cause: "a field is missing or out of range" })?;
    if rest.is_empty() { Ok(value) } else { Err(Error::Trailing { what: message, have: rest.len() }) }
}

fn check_blobs(message: &'static str, blobs: &[u32]) -> Result<(), Error> {
    cap("number of blobs", blobs.len() as u32, MAX_BLOBS as u32)?;
    if blobs.is_empty() || blobs.contains(&0) {
        return Err(Error::Malformed { message, cause: "there is no blob or an empty one" });
    }
    blobs.iter().try_for_each(|&len| cap("blob length", len, MAX_BLOB))
}

fn cap(field: &'static str, have: u32, need: u32) -> Result<(), Error> {
    if have > need { Err(Error::Cap { field, have: have.into(), need: need.into() }) } else { Ok(()) }
}
