//! Server side of mode clear.

use crate::Error;
use crate::exchange::{Engine, ServerExchange, StepLengths};
use crate::message::{Message, Mode, Welcome, WireShape};
use crate::session::{Session, Turn};
use undertone_infer::Progress;

/// The server session.
pub struct Server {
    engine: Box<dyn Engine>,
    exchange: ServerExchange,
}

impl Server {
    /// A session of `shape` over a model with `vocab_size` tokens that computes with `engine`.
    pub fn new(
        shape: WireShape,
        vocab_size: u32,
        lengths: StepLengths,
        welcome: Welcome,
        engine: Box<dyn Engine>,
    ) -> Self {
        Self { engine, exchange: ServerExchange::new(shape, vocab_size, lengths, welcome) }
    }
}

impl Session for Server {
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

    fn work(&mut self, progress: &dyn Progress) -> Result<(), Error> {
        self.exchange.work(self.engine.as_mut(), progress)
    }
}
