//! Messages of mode permuted: the beginning of a step, and flights as bytes.
//!
//! A flight travels as [`FlightBegin`] and the chunks of one blob: words, then packed bits, then 32-bit numbers, all
//! little endian. Its length follows from model and step, so a length in a message is compared, never believed.

use crate::Error;
use crate::blob::{BlobReceiver, Outbox};
use crate::message::{MAX_BLOB, MAX_PUBLIC_TOKENS, Message};
use serde::{Deserialize, Serialize};
use undertone_shares::{Flight, FlightDue, FlightKind, Placement, SessionId, Shape, Step};

/// What a step may make as long as it is, a frame must carry.
const _: () = assert!(undertone_shares::MAX_FLIGHT_BYTES <= MAX_BLOB as usize);

/// A step of a dealer's session begins; the provider takes the bundle of this step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepBegin {
    /// The dealer's name of the session.
    pub session: SessionId,
    /// Number of the step.
    pub number: u64,
    /// Position of its first token.
    pub position: u32,
    /// Tokens of the step.
    pub tokens: u32,
    /// Of how many of them, the last ones, a token is chosen.
    pub outputs: u32,
    /// Rows of the step before that stay alive.
    pub kept: u32,
    /// Rows at the beginning of this step that are filler.
    pub skipped: u32,
}

impl StepBegin {
    /// The beginning of a step.
    pub(crate) fn new(session: SessionId, step: &Step, placement: &Placement) -> Self {
        // A step was checked against its model, whose positions fit 24 bits.
        Self {
            session,
            number: step.number,
            position: step.position as u32,
            tokens: step.tokens as u32,
            outputs: step.outputs as u32,
            kept: placement.kept as u32,
            skipped: placement.skipped as u32,
        }
    }

    /// The step.
    pub fn step(&self) -> Step {
        let [position, tokens, outputs] = [self.position, self.tokens, self.outputs].map(|count| count as usize);
        Step { number: self.number, position, tokens, outputs, strict: false }
    }

    /// Which rows count from this step on.
    pub fn placement(&self) -> Placement {
        Placement { kept: self.kept as usize, skipped: self.skipped as usize }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let counts = [("step position", self.position), ("step tokens", self.tokens), ("rows kept", self.kept)];
        let inner = [("step outputs", self.outputs), ("filler rows", self.skipped)];
        let capped = counts.map(|(field, have)| (field, have, MAX_PUBLIC_TOKENS)).into_iter();
        for (field, have, need) in capped.chain(inner.map(|(field, have)| (field, have, self.tokens))) {
            if have > need {
                return Err(Error::Cap { field, have: have.into(), need: need.into() });
            }
        }
        if self.tokens == 0 {
            return Err(Error::Malformed { message: "step_begin", cause: "it has no tokens" });
        }
        Ok(())
    }
}

/// A flight follows in chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlightBegin {
    /// The byte of its [`FlightKind`].
    pub kind: u8,
    /// The layer, 0 for kinds outside layers; under strict evaluation 2^16 times the turn is added.
    pub layer: u32,
    /// Number of the step.
    pub step: u64,
    /// Bytes that follow.
    pub len: u32,
}

impl FlightBegin {
    fn new(due: &FlightDue, shape: &Shape, step: &Step) -> Result<Self, Error> {
        let len = due.kind.extent_in(shape, step, due.turn).size_bytes();
        let too_long = Error::Cap { field: "flight length", have: len as u64, need: MAX_BLOB.into() };
        let len = u32::try_from(len).ok().filter(|&len| len <= MAX_BLOB).ok_or(too_long)?;
        // A model has at most 2^10 layers, and an exchange at most some 60 turns.
        Ok(Self { kind: due.kind as u8, layer: (due.layer | due.turn << 16) as u32, step: step.number, len })
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if FlightKind::from_byte(self.kind).is_none() {
            return Err(Error::Malformed { message: "flight_begin", cause: "its kind is unknown" });
        }
        if self.len == 0 || self.len > MAX_BLOB {
            return Err(Error::Cap { field: "flight length", have: self.len.into(), need: MAX_BLOB.into() });
        }
        Ok(())
    }
}

/// Queues a flight; returns its kind and the bytes of its contents.
pub(super) fn push_flight(outbox: &mut Outbox, flight: &Flight, shape: &Shape, step: &Step) -> Result<usize, Error> {
    let due = FlightDue { kind: flight.kind, layer: flight.layer as usize, turn: flight.turn as usize };
    let begin = FlightBegin::new(&due, shape, step)?;
    let bytes = contents(flight);
    if bytes.len() != begin.len as usize {
        let (have, need) = (bytes.len() as u64, begin.len.into());
        return Err(Error::Unexpected { field: "flight length", have, need });
    }
    outbox.push(Message::FlightBegin(begin));
    outbox.push_blob(bytes);
    Ok(begin.len as usize)
}

/// The bytes of a flight.
fn contents(flight: &Flight) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 * flight.words.len() + flight.bits.len() + 4 * flight.entries.len());
    out.extend(flight.words.iter().flat_map(|word| word.to_le_bytes()));
    out.extend(&flight.bits);
    out.extend(flight.entries.iter().flat_map(|entry| entry.to_le_bytes()));
    out
}

/// Puts one flight together from chunks.
pub(super) struct FlightReceiver {
    due: FlightDue,
    step: u64,
    extent: undertone_shares::Extent,
    blob: BlobReceiver,
}

impl FlightReceiver {
    /// Expects the contents that `begin` announces, if it is the flight that is due.
    pub(super) fn new(begin: &FlightBegin, due: Option<FlightDue>, shape: &Shape, step: &Step) -> Result<Self, Error> {
        let Some(due) = due else {
            return Err(Error::OutOfTurn { message: "flight_begin", state: "no flight is due" });
        };
        let need = FlightBegin::new(&due, shape, step)?;
        if begin.len != need.len {
            return Err(Error::Unexpected { field: "flight length", have: begin.len.into(), need: need.len.into() });
        }
        if *begin != need {
            return Err(Error::OutOfTurn { message: "flight_begin", state: "another flight is due" });
        }
        let extent = due.kind.extent_in(shape, step, due.turn);
        let blob = BlobReceiver::new("a flight", [need.len as usize]);
        Ok(Self { due, step: need.step, extent, blob })
    }

    /// Takes a chunk and returns the flight when it is complete.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<Option<Flight>, Error> {
        self.blob.push(chunk)?;
        if !self.blob.complete() {
            return Ok(None);
        }
        let blob = std::mem::replace(&mut self.blob, BlobReceiver::new("a flight", []));
        let bytes = blob.into_blobs().pop().unwrap_or_default();
        let (words, rest) = bytes.split_at(8 * self.extent.words);
        let (bits, entries) = rest.split_at(self.extent.bits.div_ceil(8));
        Ok(Some(Flight {
            kind: self.due.kind,
            layer: self.due.layer as u32,
            turn: self.due.turn as u32,
            step: self.step,
            words: words.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect(),
            bits: bits.to_vec(),
            entries: entries.as_chunks::<4>().0.iter().map(|entry| u32::from_le_bytes(*entry)).collect(),
        }))
    }
}
