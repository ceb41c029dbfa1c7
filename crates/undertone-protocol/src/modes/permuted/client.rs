//! The user's session: a bundle, tokens and a choice from the application, flights from and to the provider.
//!
//! Turn of the application, in order: [`Client::begin`] with what was prepared, [`Client::tokens`], [`Client::select`]
//! once [`Client::logits`] are there (under strict evaluation they never are), then [`Client::take_tokens`], and the next step or [`Client::close`]. A step
//! without outputs ends with no tokens.

use super::message::{FlightReceiver, StepBegin, push_flight};
use super::plan::FlightLedger;
use crate::Error;
use crate::blob::Outbox;
use crate::exchange::peer_error;
use crate::message::{Hello, Message, Mode};
use crate::session::{Session, Turn};
use undertone_infer::Progress;
use undertone_shares::{Flight, Prepared, Reply, Shape, Step, User};
use zeroize::Zeroizing;

enum State {
    AwaitWelcome,
    /// Waits for a step.
    Idle,
    AwaitTokens,
    AwaitFlight,
    Receiving(Box<FlightReceiver>),
    Ready(Box<Flight>),
    AwaitChoice,
    Closed,
}

/// The user's side of one session.
pub struct Client {
    user: User,
    shape: Shape,
    state: State,
    outbox: Outbox,
    ledger: FlightLedger,
    tokens: Option<Zeroizing<Vec<u32>>>,
}

impl Client {
    /// A session that begins with `hello`, over a model of this shape.
    pub fn new(hello: Hello, shape: Shape, user: User) -> Self {
        let mut outbox = Outbox::default();
        outbox.push(Message::Hello(hello));
        Self { user, shape, state: State::AwaitWelcome, outbox, ledger: FlightLedger::default(), tokens: None }
    }

    /// Begins a step; its bundle came from a store, which has marked it as taken.
    ///
    /// # Errors
    /// `OutOfTurn`, or what was prepared for another step.
    pub fn begin(&mut self, prepared: Prepared) -> Result<(), Error> {
        self.require(matches!(self.state, State::Idle), "a step")?;
        let (step, placement) = (prepared.step(), prepared.placement());
        self.outbox.push(Message::StepBegin(StepBegin::new(prepared.session(), &step, &placement)));
        // An error leaves the session closed.
        self.state = State::Closed;
        let flight = self.user.begin_prepared(prepared)?;
        self.send(&flight, &step)?;
        self.state = State::AwaitTokens;
        Ok(())
    }

    /// Queues the tokens of the step, masked.
    ///
    /// # Errors
    /// `OutOfTurn`, or tokens that the step or the model does not have.
    pub fn tokens(&mut self, tokens: &[u32]) -> Result<(), Error> {
        self.require(matches!(self.state, State::AwaitTokens), "tokens")?;
        let (step, flight) = (self.step()?, self.user.embed(tokens)?);
        self.send(&flight, &step)?;
        self.state = State::AwaitFlight;
        Ok(())
    }

    /// The logits of every output, `[outputs, V]`, in an order that the user does not know, and their fractional bits,
    /// when a choice is due.
    pub fn logits(&self) -> Option<(&[u64], u32)> {
        self.user.logits()
    }

    /// Asks for the tokens at places of the logits, one for every output.
    ///
    /// # Errors
    /// `OutOfTurn`, or a place outside the vocabulary.
    pub fn select(&mut self, places: &[usize]) -> Result<(), Error> {
        self.require(matches!(self.state, State::AwaitChoice), "a choice")?;
        let (step, flight) = (self.step()?, self.user.select(places)?);
        self.send(&flight, &step)?;
        self.state = State::AwaitFlight;
        Ok(())
    }

    /// The tokens of the step that is complete, once: one for every output.
    pub fn take_tokens(&mut self) -> Option<Zeroizing<Vec<u32>>> {
        self.tokens.take()
    }

    /// The step that is due next, if it has `tokens` tokens and `outputs` outputs.
    pub fn next_step(&self, tokens: usize, outputs: usize) -> Step {
        self.user.next_step(tokens, outputs)
    }

    /// Queues the end of the session.
    pub fn close(&mut self) {
        self.outbox.push(Message::Bye);
        self.state = State::Closed;
    }

    /// What travelled so far.
    pub fn ledger(&self) -> &FlightLedger {
        &self.ledger
    }

    fn require(&self, allowed: bool, message: &'static str) -> Result<(), Error> {
        if allowed { Ok(()) } else { Err(Error::OutOfTurn { message, state: self.state.name() }) }
    }

    fn step(&self) -> Result<Step, Error> {
        self.user.step().ok_or(Error::OutOfTurn { message: "a flight", state: "no step is in progress" })
    }

    fn send(&mut self, flight: &Flight, step: &Step) -> Result<(), Error> {
        let bytes = push_flight(&mut self.outbox, flight, &self.shape, step)?;
        self.ledger.record(flight.kind, bytes);
        Ok(())
    }

    fn accept(&mut self, message: Message) -> Result<State, Error> {
        match (std::mem::replace(&mut self.state, State::Closed), message) {
            (_, Message::Error(report)) => Err(peer_error(report)),
            (State::AwaitWelcome, Message::Welcome(_)) => Ok(State::Idle),
            // A sign of life of a provider that computes.
            (State::AwaitFlight, Message::Progress(_)) => Ok(State::AwaitFlight),
            (State::AwaitFlight, Message::FlightBegin(begin)) => {
                let step = self.step()?;
                let receiver = FlightReceiver::new(&begin, self.user.due(), &self.shape, &step)?;
                Ok(State::Receiving(Box::new(receiver)))
            }
            (State::Receiving(mut receiver), Message::Chunk(bytes)) => match receiver.push(&bytes)? {
                Some(flight) => Ok(State::Ready(Box::new(flight))),
                None => Ok(State::Receiving(receiver)),
            },
            (state, message) => Err(Error::OutOfTurn { message: message.message_type().name(), state: state.name() }),
        }
    }

    fn answer(&mut self, flight: Flight) -> Result<State, Error> {
        let step = self.step()?;
        let extent = flight.kind.extent_in(&self.shape, &step, flight.turn as usize);
        self.ledger.record(flight.kind, extent.size_bytes());
        match self.user.receive(flight)? {
            Reply::Send(flight) => {
                self.send(&flight, &step)?;
                Ok(State::AwaitFlight)
            }
            Reply::Choose => Ok(State::AwaitChoice),
            Reply::Last(flight) => {
                self.send(&flight, &step)?;
                self.tokens = Some(Zeroizing::default());
                Ok(State::Idle)
            }
            Reply::Tokens(tokens) => {
                self.tokens = Some(tokens);
                Ok(State::Idle)
            }
        }
    }
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            Self::AwaitWelcome => "waiting for the welcome",
            Self::Idle => "waiting for a step",
            Self::Ready(_) => "computing",
            Self::AwaitTokens => "waiting for tokens",
            Self::AwaitFlight => "waiting for a flight",
            Self::Receiving(_) => "receiving a flight",
            Self::AwaitChoice => "waiting for a choice",
            Self::Closed => "closed",
        }
    }
}

impl Session for Client {
    fn mode(&self) -> Mode {
        if self.user.is_strict() { Mode::Strict } else { Mode::Permuted }
    }

    fn turn(&self) -> Turn {
        match self.state {
            State::AwaitWelcome | State::AwaitFlight | State::Receiving(_) => Turn::Peer,
            State::Ready(_) => Turn::Work,
            State::Idle | State::AwaitTokens | State::AwaitChoice => Turn::Application,
            State::Closed => Turn::Closed,
        }
    }

    fn receive(&mut self, message: Message) -> Result<(), Error> {
        // An error leaves the session closed.
        self.state = self.accept(message)?;
        Ok(())
    }

    fn next_message(&mut self) -> Option<Message> {
        self.outbox.pop()
    }

    fn work(&mut self, _: &dyn Progress) -> Result<(), Error> {
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Ready(flight) => self.answer(*flight)?,
            other => other,
        };
        Ok(())
    }
}
