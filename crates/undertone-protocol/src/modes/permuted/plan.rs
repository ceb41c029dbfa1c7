//! What both sides know beforehand, and the ledger that a session is held against.
//!
//! Lengths of flights come from `undertone-shares`; its `formula` states them once more, independently, and the tests
//! of this crate compare what really travelled with it. Depth counts flights of which each waits for the one before.

use std::collections::BTreeMap;
use undertone_shares::FlightKind;

/// Flights of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlightTraffic {
    /// Number of flights.
    pub flights: u64,
    /// Bytes of contents, without frame headers.
    pub bytes: u64,
}

/// Counts of the flights of a session, both directions.
#[derive(Debug, Clone, Default)]
pub struct FlightLedger {
    kinds: BTreeMap<FlightKind, FlightTraffic>,
    depth: u64,
    last_from_user: Option<bool>,
}

impl FlightLedger {
    /// Records a flight of `bytes` bytes of contents.
    pub(super) fn record(&mut self, kind: FlightKind, bytes: usize) {
        let traffic = self.kinds.entry(kind).or_default();
        traffic.flights += 1;
        traffic.bytes += bytes as u64;
        // What is sent ahead needs no token, and nothing but the first answer waits for it. Its bytes take their time
        // all the same: a step begins only when the one before is complete.
        // A step without outputs ends with a flight of the user, and the next begins with one: that is a new one.
        let turned = self.last_from_user != Some(kind.from_user()) || kind == FlightKind::Embed;
        if kind != FlightKind::Prepare && turned {
            self.depth += 1;
            self.last_from_user = Some(kind.from_user());
        }
        // The next step waits for the token that this one ends with.
        if kind == FlightKind::Selected {
            self.last_from_user = None;
        }
    }

    /// Counts by kind.
    pub fn kinds(&self) -> &BTreeMap<FlightKind, FlightTraffic> {
        &self.kinds
    }

    /// Bytes of contents that travelled once the prompt was known.
    pub fn online_bytes(&self) -> u64 {
        let online = self.kinds.iter().filter(|(kind, _)| **kind != FlightKind::Prepare);
        online.map(|(_, traffic)| traffic.bytes).sum()
    }

    /// Bytes of contents that the user sent ahead of tokens. Between two tokens these travel as well as the others.
    pub fn ahead_bytes(&self) -> u64 {
        self.kinds.get(&FlightKind::Prepare).map_or(0, |traffic| traffic.bytes)
    }

    /// Bytes of contents of all flights: what lies between tokens, to set beside published counts.
    pub fn total_bytes(&self) -> u64 {
        self.online_bytes() + self.ahead_bytes()
    }

    /// Rounds: what the provider sent, each in answer to the user.
    pub fn rounds(&self) -> u64 {
        let sent = self.kinds.iter().filter(|(kind, _)| !kind.from_user());
        sent.map(|(_, traffic)| traffic.flights).sum()
    }

    /// Flights of which each waited for the one before; two make a round.
    pub fn depth(&self) -> u64 {
        self.depth
    }
}
