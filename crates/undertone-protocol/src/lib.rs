//! What travels between client and server, without any connection: frames, messages, sessions.
//!
//! Stands at steps 5 and 8 of the pipe and holds the order of all others together. Bytes become [`Frame`]s
//! ([`frame`]), frames become [`Message`]s ([`message`]), messages drive a [`Session`] ([`session`], [`modes`]).
//!
//! Everything a peer sends is checked against caps and against lengths that both sides compute from the plan, before
//! anything is allocated or computed. Absent on purpose: sockets, clocks, threads, randomness, secret keys.
#![forbid(unsafe_code)]

pub mod blob;
mod error;
pub mod exchange;
pub mod frame;
pub mod ledger;
pub mod message;
pub mod modes;
mod operations;
pub mod process;
mod report;
pub mod session;
mod stream;
mod wire;

pub use error::Error;
pub use exchange::{Engine, StepLengths};
pub use frame::{Frame, FrameDecoder, FrameHeader, decode_frame, encode_frame};
pub use ledger::Ledger;
pub use message::{Message, MessageType, Mode, decode_message};
pub use session::{Leak, Session, StepSession, Turn};
pub use stream::{Dial, Duplex, MessageStream};
pub use wire::Wire;
