//! What travelled: bytes, messages and rounds per message type, both directions.
//!
//! Byte counts include frame headers; they are what the connection carried, without the transport's own overhead.

use crate::message::MessageType;
use std::collections::BTreeMap;

/// Messages of one type in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Number of messages.
    pub messages: u64,
    /// Bytes, headers included.
    pub bytes: u64,
}

/// The direction of a message, seen from the side that keeps the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Sent,
    Received,
}

/// Counts of one session.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    sent: BTreeMap<MessageType, Traffic>,
    received: BTreeMap<MessageType, Traffic>,
    last: Option<Direction>,
    rounds: u64,
}

impl Ledger {
    /// Records an outgoing message of `bytes` bytes.
    pub fn record_sent(&mut self, message_type: MessageType, bytes: usize) {
        add(&mut self.sent, message_type, bytes);
        // Progress is one-sided news, not part of an exchange.
        if message_type != MessageType::Progress {
            self.last = Some(Direction::Sent);
        }
    }

    /// Records an incoming message of `bytes` bytes.
    pub fn record_received(&mut self, message_type: MessageType, bytes: usize) {
        add(&mut self.received, message_type, bytes);
        if message_type != MessageType::Progress {
            self.rounds += u64::from(self.last == Some(Direction::Sent));
            self.last = Some(Direction::Received);
        }
    }

    /// What was sent, by type.
    pub fn sent(&self) -> &BTreeMap<MessageType, Traffic> {
        &self.sent
    }

    /// What was received, by type.
    pub fn received(&self) -> &BTreeMap<MessageType, Traffic> {
        &self.received
    }

    /// Bytes sent, all types.
    pub fn bytes_sent(&self) -> u64 {
        self.sent.values().map(|traffic| traffic.bytes).sum()
    }

    /// Bytes received, all types.
    pub fn bytes_received(&self) -> u64 {
        self.received.values().map(|traffic| traffic.bytes).sum()
    }

    /// Rounds: how often this side sent something and then heard an answer.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }
}

fn add(side: &mut BTreeMap<MessageType, Traffic>, message_type: MessageType, bytes: usize) {
    let traffic = side.entry(message_type).or_default();
    traffic.messages += 1;
    traffic.bytes += bytes as u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_count_answers_and_ignore_progress() {
        let mut ledger = Ledger::default();
        ledger.record_sent(MessageType::Hello, 100);
        ledger.record_received(MessageType::Welcome, 60);
        ledger.record_sent(MessageType::Prefill, 50);
        ledger.record_sent(MessageType::Chunk, 1000);
        ledger.record_received(MessageType::Progress, 50);
        assert_eq!(ledger.rounds(), 1);
        ledger.record_received(MessageType::Result, 50);
        ledger.record_received(MessageType::Chunk, 500);
        assert_eq!(ledger.rounds(), 2);
        assert_eq!((ledger.bytes_sent(), ledger.bytes_received()), (1150, 660));
        assert_eq!(ledger.received()[&MessageType::Chunk], Traffic { messages: 1, bytes: 500 });
    }
}
