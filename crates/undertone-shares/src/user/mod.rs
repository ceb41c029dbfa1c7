//! The user: holds the prompt and a masked model, evaluates nonlinear functions on permuted values.
//!
//! Its shares are functions of its seed and of the masked model, known before the prompt is: [`User::begin`] computes
//! them and sends them ahead under fresh masks. Online it multiplies nothing but queries with cached masks.
//! It opens permuted values only; the permutations, which it does not know, obfuscate the model and hide nothing
//! cryptographically. No type of the module `provider` is used here.

mod answer;
mod prepare;
mod strict;

use std::sync::Arc;

use undertone_ring::WordKernels;
use zeroize::Zeroizing;

use crate::attention::HeadRows;
use crate::bundle::{SessionId, UserBundle, check_place};
use crate::dealer::lookup_places;
use crate::error::{Error, Result};
use crate::flight::{Flight, FlightDue, FlightKind};
use crate::masked::MaskedModel;
use crate::random::Draw;
use crate::rotary::RotaryTable;
use crate::rows::{Placement, Rows};
use crate::shape::{Shape, Step};
use crate::strict::Exchange;
use crate::weights::PublicModel;

use strict::Exchanged;

/// What the user stores of a model, shared by sessions.
pub struct UserModel {
    public: PublicModel,
    shape: Shape,
    masked: MaskedModel,
    rotary: RotaryTable,
    kernels: Arc<dyn WordKernels>,
}

impl UserModel {
    /// A model for sessions of at most `positions` positions.
    ///
    /// # Errors
    /// A public model that contradicts itself, a masked model of other sizes.
    pub fn new(
        public: PublicModel,
        masked: MaskedModel,
        positions: usize,
        kernels: Arc<dyn WordKernels>,
    ) -> Result<Self> {
        public.check()?;
        let shape = public.shape();
        masked.check(&shape)?;
        let rotary = RotaryTable::new(&public.config, positions.min(public.config.max_position_embeddings));
        Ok(Self { public, shape, masked, rotary, kernels })
    }

    /// The rotary table. It must equal the provider's.
    pub fn rotary(&self) -> &RotaryTable {
        &self.rotary
    }

    /// What is public of the model.
    pub fn public(&self) -> &PublicModel {
        &self.public
    }

    /// Computes what a step sends ahead, which needs neither the prompt nor the end of the step before: only the
    /// position `first` of its first token.
    ///
    /// # Errors
    /// A step that the model refuses, positions that it does not have.
    pub fn prepare(&self, bundle: UserBundle, first: usize, placement: Placement) -> Result<Prepared> {
        let step = bundle.step;
        step.check(&self.shape, self.rotary.positions())?;
        let positions: Vec<usize> =
            (0..step.tokens).map(|row| first.saturating_add(row.saturating_sub(placement.skipped))).collect();
        if let Some(&last) = positions.last().filter(|&&last| last >= self.rotary.positions()) {
            let need = format!("below {}", self.rotary.positions());
            return Err(Error::OutOfRange { what: "the last position of a step", have: last as u64, need });
        }
        let flight = prepare::flight(self, &bundle, &positions);
        Ok(Prepared { bundle, first, placement, flight })
    }
}

/// A step whose flight `prepare` is computed.
pub struct Prepared {
    bundle: UserBundle,
    /// Position of its first token.
    first: usize,
    placement: Placement,
    flight: Flight,
}

impl Prepared {
    /// The name of the session of its bundle.
    pub fn session(&self) -> SessionId {
        self.bundle.session
    }

    /// The step.
    pub fn step(&self) -> Step {
        self.bundle.step
    }

    /// Which rows count from this step on.
    pub fn placement(&self) -> Placement {
        self.placement
    }
}

/// What a flight led to.
pub enum Reply {
    /// An answer to send.
    Send(Flight),
    /// The last answer of a step without outputs, which is complete with it.
    Last(Flight),
    /// Logits under a permutation: choose by [`User::select`].
    Choose,
    /// The chosen token of every output. The step is complete.
    Tokens(Zeroizing<Vec<u32>>),
}

/// Masks of cached keys and values, and the opened rows themselves.
struct LayerCache {
    keys: HeadRows,
    key_masks: HeadRows,
    values: HeadRows,
    value_masks: HeadRows,
}

/// The step in progress.
struct Active {
    step: Step,
    bundle: UserBundle,
    due: Due,
    /// Opened logits, under the step's permutation.
    logits: Zeroizing<Vec<u64>>,
    /// Under strict evaluation which rows count, the exchange in progress, and the turn that is due.
    alive: Vec<bool>,
    exchange: Option<(Exchange, usize)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    Tokens,
    Peer(FlightKind, usize),
    Choice,
}

/// The user's side of one session.
pub struct User {
    model: Arc<UserModel>,
    session: Option<SessionId>,
    next: u64,
    position: usize,
    rows: Rows,
    caches: Vec<LayerCache>,
    active: Option<Active>,
    failed: bool,
    strict: bool,
}

impl User {
    /// A session at position 0.
    pub fn new(model: Arc<UserModel>) -> Self {
        let rows = || HeadRows::new(&model.shape);
        let cache = |_| LayerCache { keys: rows(), key_masks: rows(), values: rows(), value_masks: rows() };
        let caches = (0..model.shape.layers).map(cache).collect();
        Self {
            model,
            session: None,
            next: 0,
            position: 0,
            rows: Rows::default(),
            caches,
            active: None,
            failed: false,
            strict: false,
        }
    }

    /// The same session before its first step, for strict evaluation or not.
    #[must_use]
    pub fn with_strict(self, strict: bool) -> Self {
        Self { strict, ..self }
    }

    /// Whether nonlinear functions are evaluated strictly.
    pub fn is_strict(&self) -> bool {
        self.strict
    }

    /// Begins a step with its bundle, which the store has marked as taken, and computes the flight to send ahead.
    /// The prompt is not needed yet.
    ///
    /// # Errors
    /// A step in progress, a session that failed, a bundle for another step or session, a placement that does not fit.
    pub fn begin(&mut self, bundle: UserBundle, placement: Placement) -> Result<Flight> {
        let step = bundle.step;
        step.check(&self.model.shape, self.model.rotary.positions())?;
        let first = self.rows.positions(&step, &placement)?[0];
        self.begin_prepared(self.model.prepare(bundle, first, placement)?)
    }

    /// As [`User::begin`] with what [`UserModel::prepare`] made, perhaps while the step before was in progress.
    ///
    /// # Errors
    /// As [`User::begin`], and what was prepared for another position.
    pub fn begin_prepared(&mut self, prepared: Prepared) -> Result<Flight> {
        if self.failed || self.active.is_some() {
            return Err(Error::OutOfTurn { have: "a new step", need: "the end of the step in progress" });
        }
        let Prepared { bundle, first, placement, flight } = prepared;
        let step = bundle.step;
        let next = self.next_step(step.tokens, step.outputs);
        check_place(&mut self.session, bundle.session, &step, &next)?;
        let due = self.rows.positions(&step, &placement)?[0];
        if due != first {
            return Err(Error::WrongBundle { what: "position", have: first as u64, need: due as u64 });
        }
        self.rows.push(&step, &placement);
        let alive = if step.strict { self.rows.alive().to_vec() } else { Vec::new() };
        let (due, logits) = (Due::Tokens, Zeroizing::default());
        self.active = Some(Active { step, bundle, due, logits, alive, exchange: None });
        Ok(flight)
    }

    /// The step that is due next, of `tokens` tokens and `outputs` outputs, in numbers.
    pub fn next_step(&self, tokens: usize, outputs: usize) -> Step {
        Step { number: self.next, position: self.position, tokens, outputs, strict: self.strict }
    }

    /// The step in progress.
    pub fn step(&self) -> Option<Step> {
        self.active.as_ref().map(|active| active.step)
    }

    /// The flight that is due from the provider.
    pub fn due(&self) -> Option<FlightDue> {
        self.active.as_ref()?.flight_due()
    }

    /// Sends the tokens of the step, as masked one-hot words.
    ///
    /// # Errors
    /// Another number of tokens than the step has, tokens outside the vocabulary, another state.
    pub fn embed(&mut self, tokens: &[u32]) -> Result<Flight> {
        let vocab = self.model.shape.vocab;
        let Some(active) = self.active.as_mut().filter(|active| active.due == Due::Tokens && !self.failed) else {
            return Err(Error::OutOfTurn { have: "tokens", need: "the beginning of a step" });
        };
        crate::error::expect_len("the list of tokens", tokens.len(), active.step.tokens)?;
        if tokens.iter().any(|&token| token as usize >= vocab) {
            return Err(Error::OutsideVocabulary { vocab });
        }
        let mut words = active.bundle.seed.words(Draw::EMBED_INPUT, 0, tokens.len() * vocab);
        words.iter_mut().for_each(|word| *word = word.wrapping_neg());
        for (row, &token) in words.chunks_exact_mut(vocab).zip(tokens) {
            // Every entry is touched, so that the addresses do not depend on the token.
            let hot = |id: usize| u64::from(id as u32 == token);
            row.iter_mut().enumerate().for_each(|(id, word)| *word = word.wrapping_add(hot(id)));
        }
        active.due = Due::Peer(FlightKind::AttentionNorm, 0);
        Ok(Flight::words(FlightKind::Embed, 0, &active.step, std::mem::take(&mut *words)))
    }

    /// Takes a flight of the provider.
    ///
    /// # Errors
    /// A flight that is not due or has other counts, a token outside the vocabulary. The session has failed then.
    pub fn receive(&mut self, flight: Flight) -> Result<Reply> {
        let Some(mut active) = self.active.take().filter(|_| !self.failed) else {
            return Err(Error::OutOfTurn { have: flight.kind.name(), need: "a bundle" });
        };
        // Until the answer is complete the session counts as failed, and then its masks are spent.
        self.failed = true;
        let Due::Peer(kind, layer) = active.due else {
            return Err(Error::OutOfTurn { have: flight.kind.name(), need: "tokens or a choice" });
        };
        let turn = active.turn();
        flight.expect(&FlightDue { kind, layer, turn }, &self.model.shape, &active.step)?;
        let reply = match kind {
            _ if active.step.strict && kind.site().is_some() => self.strict_reply(&mut active, layer, &flight)?,
            FlightKind::Logits => {
                active.logits = active.opened(crate::Site::Logits, 0, &flight.words);
                active.due = Due::Choice;
                Reply::Choose
            }
            FlightKind::Selected => Reply::Tokens(self.tokens(&active, &flight.entries)?),
            _ => {
                let answer = active.answer(&self.model, &mut self.caches, layer, &flight)?;
                let last = kind == FlightKind::Gate && layer + 1 == self.model.shape.layers;
                if last && active.step.outputs == 0 { Reply::Last(answer) } else { Reply::Send(answer) }
            }
        };
        self.failed = false;
        if matches!(reply, Reply::Tokens(_) | Reply::Last(_)) {
            self.next += 1;
            self.position += active.step.tokens;
        } else {
            self.active = Some(active);
        }
        Ok(reply)
    }

    /// The logits of every output, `[outputs, V]`, each row under a permutation that the user does not know, as
    /// fixed-point integers, and their fractional bits.
    pub fn logits(&self) -> Option<(&[u64], u32)> {
        let active = self.active.as_ref().filter(|active| active.due == Due::Choice)?;
        Some((&active.logits, crate::fixed::ACTIVATION_BITS + self.model.public.head))
    }

    /// Asks which tokens stand at `places` of the permuted logits, one for each output.
    ///
    /// # Errors
    /// A place outside the vocabulary, another number of places, another state.
    pub fn select(&mut self, places: &[usize]) -> Result<Flight> {
        let vocab = self.model.shape.vocab;
        let Some(active) = self.active.as_mut().filter(|active| active.due == Due::Choice && !self.failed) else {
            return Err(Error::OutOfTurn { have: "a choice", need: "logits" });
        };
        crate::error::expect_len("the list of chosen places", places.len(), active.step.outputs)?;
        if let Some(&place) = places.iter().find(|&&place| place >= vocab) {
            let need = format!("below {vocab}");
            return Err(Error::OutOfRange { what: "the chosen place", have: place as u64, need });
        }
        let known = lookup_places(&active.bundle.seed, &self.model.shape, places.len());
        active.due = Due::Peer(FlightKind::Selected, 0);
        let shift = |(&place, known): (&usize, u32)| ((place + vocab - known as usize) % vocab) as u32;
        let entries = places.iter().zip(known).map(shift).collect();
        Ok(Flight { entries, ..Flight::words(FlightKind::Select, 0, &active.step, Vec::new()) })
    }

    /// The reply to a flight of a strictly evaluated site.
    fn strict_reply(&mut self, active: &mut Active, layer: usize, flight: &Flight) -> Result<Reply> {
        let shape = self.model.shape;
        match active.exchanged(&self.model, &self.caches, layer, flight)? {
            Exchanged::Send(answer) => Ok(Reply::Send(answer)),
            Exchanged::Last(answer) => {
                let last = flight.kind == FlightKind::Gate && layer + 1 == shape.layers;
                Ok(if last && active.step.outputs == 0 { Reply::Last(answer) } else { Reply::Send(answer) })
            }
            Exchanged::Revealed(places) if places.iter().any(|&place| place >= shape.vocab as u64) => {
                Err(Error::Malformed { what: "the place of a token", cause: "it is outside the vocabulary" })
            }
            Exchanged::Revealed(places) => {
                Ok(Reply::Tokens(Zeroizing::new(places.iter().map(|&place| place as u32).collect())))
            }
        }
    }

    fn tokens(&self, active: &Active, entries: &[u32]) -> Result<Zeroizing<Vec<u32>>> {
        let vocab = self.model.shape.vocab;
        let known = lookup_places(&active.bundle.seed, &self.model.shape, active.step.outputs);
        let tables = entries.chunks_exact(vocab).zip(known).zip(&*active.bundle.table_masks);
        let tokens: Zeroizing<Vec<u32>> =
            Zeroizing::new(tables.map(|((table, known), mask)| table[known as usize].wrapping_sub(*mask)).collect());
        if tokens.iter().any(|&token| token as usize >= vocab) {
            return Err(Error::Malformed { what: "the look-up table", cause: "it holds no token" });
        }
        Ok(tokens)
    }
}

/// The place of the largest logit, the lowest place among equals.
pub fn greedy_place(logits: &[u64]) -> usize {
    let largest = logits.iter().map(|&word| word as i64).max();
    logits.iter().position(|&word| Some(word as i64) == largest).unwrap_or(0)
}
