//! The provider's session: answers flights, and asks the application for the bundle of every step.
//!
//! When the turn is the application's, [`Server::wanted`] says which bundle is due and [`Server::supply`] takes it from
//! the provider's store.

use super::message::{FlightReceiver, StepBegin, push_flight};
use super::plan::FlightLedger;
use crate::Error;
use crate::blob::Outbox;
use crate::exchange::peer_error;
use crate::message::{Message, Mode, Welcome};
use crate::session::{Session, Turn};
use undertone_infer::Progress;
use undertone_shares::{Bundle, Flight, Provider, ProviderBundle, Shape};

enum State {
    AwaitStep,
    AwaitBundle(StepBegin),
    AwaitFlight,
    Receiving(Box<FlightReceiver>),
    Ready(Box<Flight>),
    Closed,
}

/// The provider's side of one session.
pub struct Server {
    provider: Provider,
    shape: Shape,
    state: State,
    outbox: Outbox,
    ledger: FlightLedger,
}

impl Server {
    /// A session over a model of this shape, which begins with `welcome`.
    pub fn new(welcome: Welcome, shape: Shape, provider: Provider) -> Self {
        let mut outbox = Outbox::default();
        outbox.push(Message::Welcome(welcome));
        Self { provider, shape, state: State::AwaitStep, outbox, ledger: FlightLedger::default() }
    }

    /// The step whose bundle is due.
    pub fn wanted(&self) -> Option<StepBegin> {
        match self.state {
            State::AwaitBundle(begin) => Some(begin),
            _ => None,
        }
    }

    /// Takes the bundle that is due; its store has marked it as taken.
    ///
    /// # Errors
    /// `OutOfTurn`, or a bundle of another step than the user's.
    pub fn supply(&mut self, bundle: ProviderBundle) -> Result<(), Error> {
        let State::AwaitBundle(begin) = self.state else {
            return Err(Error::OutOfTurn { message: "a bundle", state: self.state.name() });
        };
        self.state = State::Closed;
        let placement = begin.placement();
        if begin != StepBegin::new(bundle.session(), &bundle.step(), &placement) {
            return Err(Error::Mismatch { what: "bundle" });
        }
        self.provider.begin(bundle, placement)?;
        self.state = State::AwaitFlight;
        Ok(())
    }

    /// What travelled so far.
    pub fn ledger(&self) -> &FlightLedger {
        &self.ledger
    }

    fn accept(&mut self, message: Message) -> Result<State, Error> {
        match (std::mem::replace(&mut self.state, State::Closed), message) {
            (_, Message::Bye) => Ok(State::Closed),
            (_, Message::Error(report)) => Err(peer_error(report)),
            (State::AwaitStep, Message::StepBegin(begin)) => Ok(State::AwaitBundle(begin)),
            (State::AwaitFlight, Message::FlightBegin(begin)) => {
                let Some(step) = self.provider.step() else {
                    return Err(Error::OutOfTurn { message: "flight_begin", state: "no step is in progress" });
                };
                let receiver = FlightReceiver::new(&begin, self.provider.due(), &self.shape, &step)?;
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
        let Some(step) = self.provider.step() else {
            return Err(Error::OutOfTurn { message: "a flight", state: "no step is in progress" });
        };
        let kind = flight.kind;
        self.ledger.record(kind, kind.extent(&self.shape, &step).size_bytes());
        if let Some(answer) = self.provider.receive(flight)? {
            let bytes = push_flight(&mut self.outbox, &answer, &self.shape, &step)?;
            self.ledger.record(answer.kind, bytes);
        }
        Ok(if self.provider.step().is_none() { State::AwaitStep } else { State::AwaitFlight })
    }
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            Self::AwaitStep => "waiting for a step",
            Self::AwaitBundle(_) => "waiting for a bundle",
            Self::AwaitFlight => "waiting for a flight",
            Self::Receiving(_) => "receiving a flight",
            Self::Ready(_) => "computing",
            Self::Closed => "closed",
        }
    }
}

impl Session for Server {
    fn mode(&self) -> Mode {
        Mode::Permuted
    }

    fn turn(&self) -> Turn {
        match self.state {
            State::AwaitStep | State::AwaitFlight | State::Receiving(_) => Turn::Peer,
            State::AwaitBundle(_) => Turn::Application,
            State::Ready(_) => Turn::Work,
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
