//! The provider's session: answers flights, and asks the application for the bundle of every step.
//!
//! A step is collected before anything is computed: its beginning, what the user prepared, the masked tokens. Then the
//! turn is the application's, [`Server::wanted`] says which bundle is due and [`Server::supply`] takes it from the
//! provider's store. So the user has nothing to say while the provider works.

use super::message::{FlightReceiver, StepBegin, push_flight};
use super::plan::FlightLedger;
use crate::Error;
use crate::blob::Outbox;
use crate::exchange::peer_error;
use crate::message::{Message, Mode, Welcome};
use crate::session::{Session, Turn};
use undertone_infer::Progress;
use undertone_shares::{Bundle, Flight, FlightDue, FlightKind, Provider, ProviderBundle, Shape, Step};

enum State {
    AwaitStep,
    /// The flights of a step that has begun, as far as they are here.
    Collecting(StepBegin, Vec<Flight>),
    ReceivingFirst(StepBegin, Vec<Flight>, Box<FlightReceiver>),
    AwaitBundle(StepBegin, Vec<Flight>),
    AwaitFlight,
    Receiving(Box<FlightReceiver>),
    Ready(Vec<Flight>),
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
            State::AwaitBundle(begin, _) => Some(begin),
            _ => None,
        }
    }

    /// Takes the bundle that is due; its store has marked it as taken.
    ///
    /// # Errors
    /// `OutOfTurn`, or a bundle of another step than the user's.
    pub fn supply(&mut self, bundle: ProviderBundle) -> Result<(), Error> {
        let (begin, flights) = match std::mem::replace(&mut self.state, State::Closed) {
            State::AwaitBundle(begin, flights) => (begin, flights),
            state => return Err(Error::OutOfTurn { message: "a bundle", state: state.name() }),
        };
        let placement = begin.placement();
        if begin != StepBegin::new(bundle.session(), &bundle.step(), &placement) {
            return Err(Error::Mismatch { what: "bundle" });
        }
        self.provider.begin(bundle, placement)?;
        self.state = State::Ready(flights);
        Ok(())
    }

    /// The step that a user announces, evaluated as the session has it.
    fn step_of(&self, begin: &StepBegin) -> Step {
        Step { strict: self.provider.is_strict(), ..begin.step() }
    }

    /// What travelled so far.
    pub fn ledger(&self) -> &FlightLedger {
        &self.ledger
    }

    fn accept(&mut self, message: Message) -> Result<State, Error> {
        match (std::mem::replace(&mut self.state, State::Closed), message) {
            (_, Message::Bye) => Ok(State::Closed),
            (_, Message::Error(report)) => Err(peer_error(report)),
            (State::AwaitStep, Message::StepBegin(begin)) => {
                self.provider.check(&self.step_of(&begin))?;
                Ok(State::Collecting(begin, Vec::new()))
            }
            (State::Collecting(begin, flights), Message::FlightBegin(flight)) => {
                let kind = if flights.is_empty() { FlightKind::Prepare } else { FlightKind::Embed };
                let due = FlightDue { kind, layer: 0, turn: 0 };
                let receiver = FlightReceiver::new(&flight, Some(due), &self.shape, &self.step_of(&begin))?;
                Ok(State::ReceivingFirst(begin, flights, Box::new(receiver)))
            }
            (State::ReceivingFirst(begin, mut flights, mut receiver), Message::Chunk(bytes)) => {
                let Some(flight) = receiver.push(&bytes)? else {
                    return Ok(State::ReceivingFirst(begin, flights, receiver));
                };
                flights.push(flight);
                Ok(if flights.len() == 2 {
                    State::AwaitBundle(begin, flights)
                } else {
                    State::Collecting(begin, flights)
                })
            }
            (State::AwaitFlight, Message::FlightBegin(begin)) => {
                let Some(step) = self.provider.step() else {
                    return Err(Error::OutOfTurn { message: "flight_begin", state: "no step is in progress" });
                };
                let receiver = FlightReceiver::new(&begin, self.provider.due(), &self.shape, &step)?;
                Ok(State::Receiving(Box::new(receiver)))
            }
            (State::Receiving(mut receiver), Message::Chunk(bytes)) => match receiver.push(&bytes)? {
                // The last flight of a step without outputs takes no work, and the user may go on at once.
                Some(flight) if self.provider.is_last(&flight) => self.answer(flight),
                Some(flight) => Ok(State::Ready(vec![flight])),
                None => Ok(State::Receiving(receiver)),
            },
            (state, message) => Err(Error::OutOfTurn { message: message.message_type().name(), state: state.name() }),
        }
    }

    fn answer(&mut self, flight: Flight) -> Result<State, Error> {
        let Some(step) = self.provider.step() else {
            return Err(Error::OutOfTurn { message: "a flight", state: "no step is in progress" });
        };
        let extent = flight.kind.extent_in(&self.shape, &step, flight.turn as usize);
        self.ledger.record(flight.kind, extent.size_bytes());
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
            Self::Collecting(..) => "waiting for the first flights of a step",
            Self::AwaitBundle(..) => "waiting for a bundle",
            Self::AwaitFlight => "waiting for a flight",
            Self::Receiving(_) | Self::ReceivingFirst(..) => "receiving a flight",
            Self::Ready(_) => "computing",
            Self::Closed => "closed",
        }
    }
}

impl Session for Server {
    fn mode(&self) -> Mode {
        if self.provider.is_strict() { Mode::Strict } else { Mode::Permuted }
    }

    fn turn(&self) -> Turn {
        match self.state {
            State::AwaitBundle(..) => Turn::Application,
            State::Ready(_) => Turn::Work,
            State::Closed => Turn::Closed,
            _ => Turn::Peer,
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
            State::Ready(flights) => {
                let mut state = State::AwaitFlight;
                for flight in flights {
                    state = self.answer(flight)?;
                }
                state
            }
            other => other,
        };
        Ok(())
    }
}
