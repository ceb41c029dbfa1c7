//! Moves the messages of a session until it waits for the application.

use crate::Error;
use std::time::{Duration, Instant};
use undertone_protocol::modes::permuted::Client;
use undertone_protocol::{Duplex, Ledger, MessageStream, Session, Turn};

/// The session and its stream.
pub(super) struct Pump {
    pub(super) client: Client,
    stream: MessageStream<Box<dyn Duplex>>,
    /// Time spent on the user's own computation.
    pub(super) computing: Duration,
}

impl Pump {
    pub(super) fn new(client: Client, stream: Box<dyn Duplex>) -> Self {
        Self { client, stream: MessageStream::new(stream), computing: Duration::ZERO }
    }

    /// Sends what the session has to say.
    ///
    /// When the provider has closed, its last message says why; it is worth more than the failed write.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        while let Some(message) = self.client.next_message() {
            if let Err(error) = self.stream.send(&message) {
                while let Ok(message) = self.stream.receive() {
                    self.client.receive(message)?;
                }
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Moves messages and computes until the session waits for the application or is closed.
    pub(super) fn run(&mut self) -> Result<(), Error> {
        loop {
            self.flush()?;
            match self.client.turn() {
                Turn::Peer => self.client.receive(self.stream.receive()?)?,
                Turn::Work => {
                    let started = Instant::now();
                    self.client.work(&())?;
                    self.computing += started.elapsed();
                }
                Turn::Application | Turn::Closed => return Ok(()),
            }
        }
    }

    /// Says goodbye; a provider that is gone needs none.
    pub(super) fn part(&mut self) {
        if self.client.turn() != Turn::Closed {
            self.client.close();
            let _ = self.flush();
        }
    }

    pub(super) fn ledger(&self) -> &Ledger {
        self.stream.ledger()
    }
}
