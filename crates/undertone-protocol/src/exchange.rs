//! The part that the inference modes share: prompt in, result out, token in, result out.
//!
//! Both halves are whole sessions. A mode may put something before them (mode fhe: the keys) and says what the blobs are. Both halves know every count and
//! length beforehand from [`StepLengths`], so that neither can make the other allocate or compute anything unplanned.

use crate::Error;
use crate::blob::{BlobReceiver, Outbox};
use crate::message::{
    Blobs, Hello, Message, Mode, Operations, Prefill, ProgressReport, StepResult, Welcome, WireShape,
};
use crate::session::{Session, StepSession, Turn};
use undertone_infer::Progress;

/// Lengths in bytes of the blobs of each kind of step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepLengths {
    /// The private part of the prompt.
    pub prefill: Vec<usize>,
    /// One generated token.
    pub decode: Vec<usize>,
    /// The result of a step.
    pub result: Vec<usize>,
}

/// The computation behind a server session: blobs in, blobs out.
pub trait Engine: Send {
    /// Runs the prompt.
    ///
    /// # Errors
    /// `Cancelled`, or whatever the blobs or the computation give reason for.
    fn prefill(
        &mut self,
        public_tokens: &[u32],
        input: Vec<Vec<u8>>,
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<u8>>, Error>;

    /// Runs one generated token.
    ///
    /// # Errors
    /// As for [`Engine::prefill`].
    fn decode(&mut self, input: Vec<Vec<u8>>, progress: &dyn Progress) -> Result<Vec<Vec<u8>>, Error>;

    /// Operations since the engine was made; none where nothing is encrypted.
    fn operations(&self) -> Operations {
        Operations::default()
    }
}

enum Request {
    Prefill { public_tokens: Vec<u32> },
    Decode,
}

enum ServerState {
    AwaitPrefill,
    Receiving(Request, BlobReceiver),
    Ready(Request, Vec<Vec<u8>>),
    AwaitDecode,
    Closed,
}

/// The server half.
pub struct ServerExchange {
    mode: Mode,
    /// Absent until what a mode puts before the prompt is complete.
    engine: Option<Box<dyn Engine>>,
    shape: WireShape,
    vocab_size: u32,
    lengths: StepLengths,
    /// Decode steps that may still come: the last generated token is never sent back.
    steps_left: u32,
    state: ServerState,
    outbox: Outbox,
}

impl ServerExchange {
    /// A session of this shape over a model with `vocab_size` tokens, which begins with `welcome`; it takes the prompt
    /// when it has an engine.
    pub fn new(mode: Mode, shape: WireShape, vocab_size: u32, lengths: StepLengths, welcome: Welcome) -> Self {
        let mut outbox = Outbox::default();
        outbox.push(Message::Welcome(welcome));
        let steps_left = shape.max_new_tokens.saturating_sub(1);
        Self { mode, engine: None, shape, vocab_size, lengths, steps_left, state: ServerState::AwaitPrefill, outbox }
    }

    /// The same session with the engine that computes.
    #[must_use]
    pub fn with_engine(mut self, engine: Box<dyn Engine>) -> Self {
        self.set_engine(engine);
        self
    }

    /// Everything before the prompt is complete: this engine computes.
    pub fn set_engine(&mut self, engine: Box<dyn Engine>) {
        self.engine = Some(engine);
    }

    fn accept(&mut self, message: Message) -> Result<(), Error> {
        let state = std::mem::replace(&mut self.state, ServerState::Closed);
        self.state = match (state, message) {
            (_, Message::Bye) => ServerState::Closed,
            (_, Message::Error(report)) => return Err(peer_error(report)),
            (ServerState::AwaitPrefill, Message::Prefill(prefill)) if self.engine.is_some() => {
                self.check_prefill(&prefill)?;
                let receiver = announced(&prefill.blobs, &self.lengths.prefill)?;
                ServerState::Receiving(Request::Prefill { public_tokens: prefill.public_tokens }, receiver)
            }
            (ServerState::AwaitDecode, Message::Decode(step)) => {
                if self.steps_left == 0 {
                    let need = u64::from(self.shape.max_new_tokens);
                    return Err(Error::Cap { field: "max_new_tokens", have: need + 1, need });
                }
                self.steps_left -= 1;
                ServerState::Receiving(Request::Decode, announced(&step.blobs, &self.lengths.decode)?)
            }
            (ServerState::Receiving(request, mut receiver), Message::Chunk(bytes)) => {
                receiver.push(&bytes)?;
                if receiver.complete() {
                    ServerState::Ready(request, receiver.into_blobs())
                } else {
                    ServerState::Receiving(request, receiver)
                }
            }
            (state, message) => {
                let state = match state {
                    ServerState::AwaitPrefill => "waiting for the prompt",
                    ServerState::Receiving(..) => "receiving blobs",
                    ServerState::Ready(..) => "computing",
                    ServerState::AwaitDecode => "waiting for a token",
                    ServerState::Closed => "closed",
                };
                return Err(Error::OutOfTurn { message: message.message_type().name(), state });
            }
        };
        Ok(())
    }

    fn check_prefill(&self, prefill: &Prefill) -> Result<(), Error> {
        expect("public_tokens", prefill.public_tokens.len() as u64, self.shape.public_tokens.into())?;
        expect("private_tokens", prefill.private_tokens.into(), self.shape.private_tokens.into())?;
        match prefill.public_tokens.iter().find(|&&id| id >= self.vocab_size) {
            Some(&id) => Err(Error::Cap {
                field: "a public token id",
                have: id.into(),
                need: u64::from(self.vocab_size).saturating_sub(1),
            }),
            None => Ok(()),
        }
    }
}

impl Session for ServerExchange {
    fn mode(&self) -> Mode {
        self.mode
    }

    fn turn(&self) -> Turn {
        match self.state {
            ServerState::Ready(..) => Turn::Work,
            ServerState::Closed => Turn::Closed,
            _ => Turn::Peer,
        }
    }

    fn next_message(&mut self) -> Option<Message> {
        self.outbox.pop()
    }

    fn receive(&mut self, message: Message) -> Result<(), Error> {
        let result = self.accept(message);
        if result.is_err() {
            self.state = ServerState::Closed;
        }
        result
    }

    /// As the trait says, and `Compute` when the result has not the planned lengths.
    fn work(&mut self, progress: &dyn Progress) -> Result<(), Error> {
        let (request, input, engine) = match (std::mem::replace(&mut self.state, ServerState::Closed), &mut self.engine)
        {
            (ServerState::Ready(request, input), Some(engine)) => (request, input, engine),
            (other, _) => {
                self.state = other;
                return Ok(());
            }
        };
        let before = engine.operations();
        let result = match request {
            Request::Prefill { public_tokens } => engine.prefill(&public_tokens, input, progress)?,
            Request::Decode => engine.decode(input, progress)?,
        };
        if !result.iter().map(Vec::len).eq(self.lengths.result.iter().copied()) {
            return Err(Error::Compute { cause: "the result has not the planned size".to_owned() });
        }
        let operations = engine.operations().since(before);
        self.outbox.push(Message::Result(StepResult { blobs: wire_lengths(&self.lengths.result)?, operations }));
        result.into_iter().for_each(|blob| self.outbox.push_blob(blob));
        self.state = ServerState::AwaitDecode;
        Ok(())
    }
}

enum ClientState {
    AwaitWelcome,
    Idle,
    AwaitResult,
    Receiving(BlobReceiver),
    Closed,
}

/// The client half.
pub struct ClientExchange {
    mode: Mode,
    shape: WireShape,
    lengths: StepLengths,
    prefilled: bool,
    steps_left: u32,
    state: ClientState,
    outbox: Outbox,
    welcome: Option<Welcome>,
    progress: Option<ProgressReport>,
    result: Option<Vec<Vec<u8>>>,
    operations: Operations,
}

impl ClientExchange {
    /// A session that begins with `hello`.
    pub fn new(hello: Hello, lengths: StepLengths) -> Self {
        let mut outbox = Outbox::default();
        outbox.push(Message::Hello(hello));
        Self {
            mode: hello.mode,
            shape: hello.shape,
            lengths,
            prefilled: false,
            steps_left: hello.shape.max_new_tokens.saturating_sub(1),
            state: ClientState::AwaitWelcome,
            outbox,
            welcome: None,
            progress: None,
            result: None,
            operations: Operations::default(),
        }
    }

    /// What the server accepted, once it has.
    pub fn welcome(&self) -> Option<&Welcome> {
        self.welcome.as_ref()
    }

    /// Messages that a mode adds between the welcome and the prompt.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    fn accept(&mut self, message: Message) -> Result<(), Error> {
        let state = std::mem::replace(&mut self.state, ClientState::Closed);
        self.state = match (state, message) {
            (_, Message::Error(report)) => return Err(peer_error(report)),
            (_, Message::Bye) => return Err(Error::ShuttingDown),
            (ClientState::AwaitWelcome, Message::Welcome(welcome)) => {
                self.welcome = Some(welcome);
                ClientState::Idle
            }
            (ClientState::AwaitResult, Message::Progress(report)) => {
                self.progress = Some(report);
                ClientState::AwaitResult
            }
            (ClientState::AwaitResult, Message::Result(step)) => {
                let receiver = announced(&step.blobs, &self.lengths.result)?;
                self.operations = self.operations.plus(step.operations);
                ClientState::Receiving(receiver)
            }
            (ClientState::Receiving(mut receiver), Message::Chunk(bytes)) => {
                receiver.push(&bytes)?;
                if receiver.complete() {
                    self.result = Some(receiver.into_blobs());
                    ClientState::Idle
                } else {
                    ClientState::Receiving(receiver)
                }
            }
            (state, message) => {
                let state = match state {
                    ClientState::AwaitWelcome => "waiting for the welcome",
                    ClientState::Idle => "preparing a step",
                    ClientState::AwaitResult => "waiting for the result",
                    ClientState::Receiving(_) => "receiving the result",
                    ClientState::Closed => "closed",
                };
                return Err(Error::OutOfTurn { message: message.message_type().name(), state });
            }
        };
        Ok(())
    }

    fn send(&mut self, blobs: Vec<Vec<u8>>) {
        blobs.into_iter().for_each(|blob| self.outbox.push_blob(blob));
        self.state = ClientState::AwaitResult;
    }
}

impl Session for ClientExchange {
    fn mode(&self) -> Mode {
        self.mode
    }

    fn turn(&self) -> Turn {
        match self.state {
            ClientState::Idle => Turn::Application,
            ClientState::Closed => Turn::Closed,
            _ => Turn::Peer,
        }
    }

    fn next_message(&mut self) -> Option<Message> {
        self.outbox.pop()
    }

    fn receive(&mut self, message: Message) -> Result<(), Error> {
        let result = self.accept(message);
        if result.is_err() {
            self.state = ClientState::Closed;
        }
        result
    }

    fn work(&mut self, _: &dyn Progress) -> Result<(), Error> {
        Ok(())
    }
}

impl StepSession for ClientExchange {
    fn prefill(&mut self, public_tokens: Vec<u32>, private_tokens: u32, blobs: Vec<Vec<u8>>) -> Result<(), Error> {
        if self.prefilled || !matches!(self.state, ClientState::Idle) {
            return Err(Error::OutOfTurn { message: "prefill", state: "not ready for a prompt" });
        }
        expect("public_tokens", public_tokens.len() as u64, self.shape.public_tokens.into())?;
        expect("private_tokens", private_tokens.into(), self.shape.private_tokens.into())?;
        let lengths = planned(&blobs, &self.lengths.prefill)?;
        self.prefilled = true;
        self.outbox.push(Message::Prefill(Prefill { public_tokens, private_tokens, blobs: lengths }));
        self.send(blobs);
        Ok(())
    }

    fn decode(&mut self, blobs: Vec<Vec<u8>>) -> Result<(), Error> {
        if !self.prefilled || !matches!(self.state, ClientState::Idle) {
            return Err(Error::OutOfTurn { message: "decode", state: "not ready for a token" });
        }
        let need = u64::from(self.shape.max_new_tokens);
        self.steps_left =
            self.steps_left.checked_sub(1).ok_or(Error::Cap { field: "max_new_tokens", have: need + 1, need })?;
        let lengths = planned(&blobs, &self.lengths.decode)?;
        self.outbox.push(Message::Decode(Blobs { blobs: lengths }));
        self.send(blobs);
        Ok(())
    }

    fn take_result(&mut self) -> Option<Vec<Vec<u8>>> {
        self.result.take()
    }

    fn operations(&self) -> Operations {
        self.operations
    }

    fn take_progress(&mut self) -> Option<ProgressReport> {
        self.progress.take()
    }

    fn close(&mut self) {
        if !matches!(self.state, ClientState::Closed) {
            self.outbox.push(Message::Bye);
            self.state = ClientState::Closed;
        }
    }
}

/// Turns the last message of a peer into an error that is safe to show.
pub fn peer_error(report: crate::message::ErrorReport) -> Error {
    // The sentence is untrusted and may reach a terminal.
    let sentence = report.sentence.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Error::Peer { class: report.class, sentence }
}

fn announced(have: &[u32], need: &[usize]) -> Result<BlobReceiver, Error> {
    expect("number of blobs", have.len() as u64, need.len() as u64)?;
    for (&have, &need) in have.iter().zip(need) {
        expect("blob length", have.into(), need as u64)?;
    }
    Ok(BlobReceiver::new("a blob", need.iter().copied()))
}

fn planned(blobs: &[Vec<u8>], need: &[usize]) -> Result<Vec<u32>, Error> {
    let have: Vec<usize> = blobs.iter().map(Vec::len).collect();
    expect("number of blobs", have.len() as u64, need.len() as u64)?;
    for (&have, &need) in have.iter().zip(need) {
        expect("blob length", have as u64, need as u64)?;
    }
    wire_lengths(&have)
}

fn wire_lengths(lengths: &[usize]) -> Result<Vec<u32>, Error> {
    lengths
        .iter()
        .map(|&len| {
            u32::try_from(len).map_err(|_| Error::Cap {
                field: "blob length",
                have: len as u64,
                need: crate::message::MAX_BLOB.into(),
            })
        })
        .collect()
}

fn expect(field: &'static str, have: u64, need: u64) -> Result<(), Error> {
    if have == need { Ok(()) } else { Err(Error::Unexpected { field, have, need }) }
}
