//! Client side of mode fhe: offers the keys that the plan lists, one at a time, then the steps.

use super::message::{KeyBegin, KeyEnd};
use super::plan::FhePlan;
use crate::Error;
use crate::exchange::ClientExchange;
use crate::message::{Hello, Message, Mode, Operations, ProgressReport, Welcome};
use crate::session::{Session, StepSession, Turn};
use undertone_he::UploadKey;
use undertone_infer::Progress;

/// The client session.
pub struct Client {
    plan: FhePlan,
    keys_sent: usize,
    exchange: ClientExchange,
}

impl Client {
    /// A session that asks for `hello` and will send what `plan` lists.
    pub fn new(hello: Hello, plan: FhePlan) -> Self {
        let exchange = ClientExchange::new(hello, plan.lengths.clone());
        Self { plan, keys_sent: 0, exchange }
    }

    /// What the server accepted, once it has.
    pub fn welcome(&self) -> Option<&Welcome> {
        self.exchange.welcome()
    }

    /// The key that the server waits for; none before the welcome and none after the last.
    pub fn wanted_key(&self) -> Option<UploadKey> {
        self.exchange.welcome()?;
        self.plan.keys.get(self.keys_sent).map(|planned| planned.key)
    }

    /// Keys sent and keys in all.
    pub fn key_progress(&self) -> (usize, usize) {
        (self.keys_sent, self.plan.keys.len())
    }

    /// Memory for the bytes of the wanted key: that of the key before it, with stale contents.
    pub fn key_memory(&mut self) -> Vec<u8> {
        self.exchange.outbox().take_spent()
    }

    /// Queues the wanted key. Send it before the next one is made, so that one key at a time is in memory.
    ///
    /// # Errors
    /// `OutOfTurn` when no key is wanted, `Unexpected` when the length is not the planned one.
    pub fn send_key(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        let Some(planned) = self.plan.keys.get(self.keys_sent).filter(|_| self.exchange.welcome().is_some()) else {
            return Err(Error::OutOfTurn { message: "key_begin", state: "no key is due" });
        };
        if bytes.len() != planned.len {
            return Err(Error::Unexpected { field: "key length", have: bytes.len() as u64, need: planned.len as u64 });
        }
        let begin = KeyBegin::new(&planned.key, planned.len)?;
        let digest = *blake3::hash(&bytes).as_bytes();
        let outbox = self.exchange.outbox();
        outbox.push(Message::KeyBegin(begin));
        outbox.push_blob(bytes);
        outbox.push(Message::KeyEnd(KeyEnd { digest }));
        self.keys_sent += 1;
        if self.keys_sent == self.plan.keys.len() {
            outbox.push(Message::KeysDone);
        }
        Ok(())
    }
}

impl Session for Client {
    fn mode(&self) -> Mode {
        Mode::Fhe
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
        if self.keys_sent < self.plan.keys.len() {
            return Err(Error::OutOfTurn { message: "prefill", state: "keys are due" });
        }
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
