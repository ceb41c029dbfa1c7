//! One end of a connection without the connection: messages in and out of bytes, with the ledger.

use crate::Error;
use crate::frame::{FrameDecoder, HEADER_LEN, encode_frame};
use crate::ledger::Ledger;
use crate::message::Message;
use zeroize::Zeroizing;

/// Turns messages into frames and bytes into messages, and counts both.
#[derive(Debug, Default)]
pub struct Wire {
    decoder: FrameDecoder,
    session: u64,
    sequence: u64,
    ledger: Ledger,
}

impl Wire {
    /// A wire at the start of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// The frame of a message, to be written to the peer in full.
    ///
    /// # Errors
    /// Those of [`Message::encode`].
    pub fn encode(&mut self, message: &Message) -> Result<Vec<u8>, Error> {
        let message_type = message.message_type();
        let frame = match message {
            // A chunk is its own payload; copying it twice would be waste.
            Message::Chunk(bytes) if !bytes.is_empty() => {
                encode_frame(message_type, self.session, self.sequence, bytes)?
            }
            // Short, and perhaps a ticket.
            _ => encode_frame(message_type, self.session, self.sequence, &Zeroizing::new(message.encode()?))?,
        };
        self.sequence += 1;
        self.ledger.record_sent(message_type, frame.len());
        // The number of the session is part of every frame after the welcome, in both directions.
        if let Message::Welcome(welcome) = message {
            self.enter(welcome.session);
        }
        Ok(frame)
    }

    /// Consumes bytes from the front of `input` until a message is complete or the input is used up.
    ///
    /// # Errors
    /// Those of [`FrameDecoder::feed`] and [`Message::decode`].
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Message>, Error> {
        let Some(frame) = self.decoder.feed(input)? else { return Ok(None) };
        let message_type = frame.header.message_type;
        let len = frame.payload.len();
        let message = if message_type == crate::MessageType::Chunk && len > 0 {
            Message::Chunk(frame.payload)
        } else {
            Message::decode(message_type, &Zeroizing::new(frame.payload))?
        };
        self.ledger.record_received(message_type, HEADER_LEN + len);
        if let Message::Welcome(welcome) = &message {
            self.enter(welcome.session);
        }
        Ok(Some(message))
    }

    /// Whether the peer may close the connection now.
    ///
    /// # Errors
    /// Those of [`FrameDecoder::finish`].
    pub fn finish(&self) -> Result<(), Error> {
        self.decoder.finish()
    }

    /// What travelled so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn enter(&mut self, session: u64) {
        self.session = session;
        self.decoder.set_session(session);
    }
}
