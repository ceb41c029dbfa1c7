//! Client side of mode clear.

use crate::Error;
use crate::exchange::{ClientExchange, StepLengths};
use crate::message::{Hello, Message, Mode, Operations, ProgressReport};
use crate::session::{Session, StepSession, Turn};
use undertone_infer::Progress;

/// The client session.
pub struct Client {
    exchange: ClientExchange,
}

impl Client {
    /// A session that asks for `hello`.
    pub fn new(hello: Hello, lengths: StepLengths) -> Self {
        Self { exchange: ClientExchange::new(hello, lengths) }
    }
}

impl Session for Client {
    fn mode(&self) -> Mode {
        Mode::Clear
    }

    fn turn(&self) -> Turn {
        self.exchange.turn()
    }

    fn receive(&mut self, message: Message) -> Result<(), Error> {
        self.exchange.receive(message)
    }

    fn next_message(&mut self) -> Option<Message> {
        self.exchange.next_message()
    }

    fn work(&mut self, _progress: &dyn Progress) -> Result<(), Error> {
        Ok(())
    }
}

impl StepSession for Client {
    fn prefill(&mut self, public_tokens: Vec<u32>, private_tokens: u32, blobs: Vec<Vec<u8>>) -> Result<(), Error> {
        self.exchange.prefill(public_tokens, private_tokens, blobs)
    }

    fn decode(&mut self, blobs: Vec<Vec<u8>>) -> Result<(), Error> {
        self.exchange.decode(blobs)
    }

    fn take_result(&mut self) -> Option<Vec<Vec<u8>>> {
        self.exchange.take_result()
    }

    fn operations(&self) -> Operations {
        self.exchange.operations()
    }

    fn take_progress(&mut self) -> Option<ProgressReport> {
        self.exchange.take_progress()
    }

    fn close(&mut self) {
        self.exchange.close();
    }
}
