//! The one error type of this crate, and the classes under which a peer hears of it.
//!
//! Messages carry numbers and names of public things only; never a token of the private part, a key or a slot.

use crate::message::ErrorClass;

/// Why a frame, a message or a session was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not frames of this protocol.
    #[error("the peer does not speak the Undertone protocol; check the address and port")]
    Magic,
    /// One side is a build with insecure test parameters and the other is not.
    #[error(
        "one side is built with insecure-test-parameters and the other is not; use two builds with the same features"
    )]
    InsecurePeer,
    /// The protocol versions differ.
    #[error(
        "the peer speaks protocol version {have} and this program speaks {need}; use the same release on both sides"
    )]
    Version {
        /// Version of the peer.
        have: u16,
        /// Version of this program.
        need: u16,
    },
    /// A frame header was altered on the way.
    #[error("a frame header fails its checksum; the connection is damaged, so connect again")]
    HeaderChecksum,
    /// A frame payload was altered on the way.
    #[error("a {message} frame of {have} bytes fails its checksum; the connection is damaged, so connect again")]
    PayloadChecksum {
        /// The message type.
        message: &'static str,
        /// Payload length in bytes.
        have: usize,
    },
    /// A frame has a type that this version does not know.
    #[error("frame type {have} is unknown; use the same release on both sides")]
    MessageType {
        /// The type byte.
        have: u8,
    },
    /// A frame sets flags that this version does not know.
    #[error("frame flags {have:#06x} are unknown; use the same release on both sides")]
    Flags {
        /// The flags found.
        have: u16,
    },
    /// A frame claims a payload longer than its type allows.
    #[error(
        "a {message} frame claims {have} bytes where at most {need} are accepted; use the same release on both sides"
    )]
    TooLong {
        /// The message type.
        message: &'static str,
        /// The length claimed.
        have: usize,
        /// The cap.
        need: usize,
    },
    /// Fewer bytes than the object needs.
    #[error("{what} ends after {have} of {need} bytes; it was truncated")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes present.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// More bytes than the object has.
    #[error("{what} is followed by {have} bytes that do not belong to it; it was altered")]
    Trailing {
        /// What was being read.
        what: &'static str,
        /// Surplus bytes.
        have: usize,
    },
    /// A frame belongs to another session.
    #[error("a frame belongs to another session; frames of two connections were mixed, so connect again")]
    WrongSession,
    /// A frame arrived a second time.
    #[error("frame {have} arrived again where frame {need} was due; it was replayed, so connect again")]
    Replayed {
        /// Sequence number found.
        have: u64,
        /// Sequence number due.
        need: u64,
    },
    /// A frame is missing or came too early.
    #[error("frame {have} arrived where frame {need} was due; frames were reordered or lost, so connect again")]
    Reordered {
        /// Sequence number found.
        have: u64,
        /// Sequence number due.
        need: u64,
    },
    /// A payload is not a message of its type.
    #[error("a {message} message does not decode: {cause}; use the same release on both sides")]
    Malformed {
        /// The message type.
        message: &'static str,
        /// The first thing found wrong.
        cause: &'static str,
    },
    /// A field of a message is out of its range.
    #[error("{field} is {have} where at most {need} is accepted; ask for less")]
    Cap {
        /// The field.
        field: &'static str,
        /// The value.
        have: u64,
        /// The cap.
        need: u64,
    },
    /// A field of a message has not the value that both sides compute.
    #[error("{field} is {have} where {need} is expected; both sides must use the same model, calibration and release")]
    Unexpected {
        /// The field.
        field: &'static str,
        /// The value.
        have: u64,
        /// The expected value.
        need: u64,
    },
    /// A message that is not allowed in this state.
    #[error("a {message} message arrived while {state}; the peer breaks the protocol")]
    OutOfTurn {
        /// The message type.
        message: &'static str,
        /// What the session was doing.
        state: &'static str,
    },
    /// The content of a blob does not match its digest.
    #[error("{what} does not match its digest; it was altered on the way, so send it again over a new connection")]
    Digest {
        /// What was being read.
        what: &'static str,
    },
    /// A key that this circuit does not use, or not at this place, or a second time.
    #[error("key {have} was sent where key {need} is due; upload the keys in the order of the plan")]
    UnexpectedKey {
        /// The key that came.
        have: String,
        /// The key that is due, or `none`.
        need: String,
    },
    /// The two sides do not hold the same public object.
    #[error("the {what} of client and server differ; use the same {what} on both sides")]
    Mismatch {
        /// `parameters`, `model` or `calibration`.
        what: &'static str,
    },
    /// No parameter set runs layers this way.
    #[error("no parameter set offers route {route}; leave the route to the planner")]
    Route {
        /// The route asked for.
        route: &'static str,
    },
    /// The mode is not offered here.
    #[error("mode {mode} is not offered by this server; use mode fhe")]
    ModeRefused {
        /// The mode asked for.
        mode: &'static str,
    },
    /// The server has not the memory for the session.
    #[error("this session needs {need} bytes of memory and {have} are free; use a shorter prompt or a larger machine")]
    Memory {
        /// Bytes free for sessions.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
    /// The server runs as many sessions as it accepts.
    #[error("the server already serves {have} sessions; try again in a minute")]
    Busy {
        /// Sessions open.
        have: usize,
    },
    /// The server runs as many sessions as it accepts from one client.
    #[error("the server already serves {have} sessions of this client; end one of them, or try again in a minute")]
    ClientBusy {
        /// Sessions that the client has open.
        have: usize,
    },
    /// The server is stopping.
    #[error("the server is shutting down; try again later")]
    ShuttingDown,
    /// The peer reported an error and ended the session.
    #[error("the peer ended the session ({class}): {sentence}")]
    Peer {
        /// The class of the error.
        class: ErrorClass,
        /// Its sentence, cleaned of control characters.
        sentence: String,
    },
    /// The peer closed the connection between two frames.
    #[error("the peer closed the connection; connect again")]
    Closed,
    /// The peer said nothing, or not enough, for too long.
    #[error("the peer was silent or slow for longer than the timeout; check the network and connect again")]
    Silent,
    /// The connection failed.
    #[error("the connection failed ({kind}); check the address and the network and connect again")]
    Connection {
        /// What the operating system reports.
        kind: std::io::ErrorKind,
    },
    /// A dealer does not do what a party asked.
    #[error("the dealer refused: {cause}")]
    DealRefused {
        /// Why, and what to do.
        cause: &'static str,
    },
    /// A dealer has not the memory for a session, or for its next step.
    #[error(
        "the dealer has {have} bytes left for bundles where this session needs {need}; use a shorter prompt, try again \
         when other sessions have ended, or let the dealer hold more"
    )]
    DealMemory {
        /// Bytes that the session may have.
        have: u64,
        /// Bytes that it needs.
        need: u64,
    },
    /// Strict evaluation takes more keys than one bundle may have.
    #[error("strict evaluation needs {need} bytes of keys per token at this length and may have {have}; {remedy}")]
    StrictKeys {
        /// Bytes that a bundle may have for each of its tokens.
        have: u64,
        /// Bytes due for each.
        need: u64,
        /// What to do.
        remedy: &'static str,
    },
    /// A dealer has not the memory for the masks of a model.
    #[error(
        "the dealer has {have} bytes of memory where the masks of this model take {need}; start it with --draw-masks"
    )]
    DealMasks {
        /// Bytes that are free.
        have: u64,
        /// Bytes of the masks.
        need: u64,
    },
    /// A dealer gives no more bundles.
    #[error("the dealer's stock is exhausted after {steps} steps; begin a new session, or let the dealer allow more")]
    Exhausted {
        /// Steps that it dealt.
        steps: u64,
    },
    /// The layer below the frames ended the connection and says why in a sentence of its own.
    #[error("{sentence}")]
    Transport {
        /// The sentence; it names public things only.
        sentence: String,
    },
    /// The peer speaks TLS where plain frames are due.
    #[error("the peer speaks TLS and this side does not; give both a certificate and the pin of the other, or neither")]
    TlsPeer,
    /// The computation was given up because nobody waits for it.
    #[error("the computation was cancelled; start it again")]
    Cancelled,
    /// A ciphertext or key was refused.
    #[error(transparent)]
    He(#[from] undertone_he::Error),
    /// The encrypted computation failed.
    #[error("the computation failed: {cause}")]
    Compute {
        /// The sentence of the cause.
        cause: String,
    },
}

impl From<undertone_infer::Error> for Error {
    fn from(error: undertone_infer::Error) -> Self {
        match error {
            undertone_infer::Error::Cancelled { .. } => Self::Cancelled,
            undertone_infer::Error::Evaluator(error) => Self::He(error),
            // These sentences name shapes, layers and files, nothing of a client.
            error => Self::Compute { cause: error.to_string() },
        }
    }
}

impl From<undertone_shares::Error> for Error {
    fn from(error: undertone_shares::Error) -> Self {
        use undertone_shares::Error as Shares;
        match error {
            Shares::Length { what, have, need } => {
                Self::Unexpected { field: what, have: have as u64, need: need as u64 }
            }
            Shares::OutOfTurn { have, need } => Self::OutOfTurn { message: have, state: need },
            Shares::Malformed { what, cause } => Self::Malformed { message: what, cause },
            Shares::StrictKeys { have, need } => {
                Self::StrictKeys { have, need, remedy: "leave out --strict, or use a shorter prompt" }
            }
            // These sentences name counts, steps and causes, nothing of a client or a weight.
            error => Self::Compute { cause: error.to_string() },
        }
    }
}

impl Error {
    /// The class under which a peer hears of this error.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Mismatch { .. } | Self::Route { .. } | Self::ModeRefused { .. } | Self::DealRefused { .. } => {
                ErrorClass::Mismatch
            }
            Self::Cap { .. }
            | Self::Memory { .. }
            | Self::DealMemory { .. }
            | Self::DealMasks { .. }
            | Self::StrictKeys { .. } => ErrorClass::TooLarge,
            Self::Busy { .. } | Self::ClientBusy { .. } => ErrorClass::Busy,
            Self::ShuttingDown => ErrorClass::ShuttingDown,
            Self::Peer { class, .. } => *class,
            Self::OutOfTurn { .. } => ErrorClass::OutOfTurn,
            Self::UnexpectedKey { .. } => ErrorClass::Key,
            Self::He(undertone_he::Error::Decode { .. }) => ErrorClass::Malformed,
            Self::Compute { .. } | Self::He(_) => ErrorClass::Internal,
            Self::Cancelled | Self::Closed | Self::Silent | Self::Connection { .. } | Self::Transport { .. } => {
                ErrorClass::Cancelled
            }
            _ => ErrorClass::Malformed,
        }
    }
}
