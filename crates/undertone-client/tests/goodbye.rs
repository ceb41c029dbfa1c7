//! What a server sees at the end: the same frames whether the client could read the result or not.

mod support;

use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use undertone_client::{Error, LocalModel, Prompt, Request, RunReport, Way, generate};
use undertone_he::{Chain, Parameters};
use undertone_infer::{Error as InferError, Preparation, Progress};
use undertone_model::sampling::Sampler;
use undertone_protocol::message::{Hello, Welcome};
use undertone_protocol::modes::clear::{self, message::encode_slots};
use undertone_protocol::{Engine, Error as ProtocolError, Message, MessageStream, Mode, Session, Turn};

const LOG_N: u32 = 10;
/// The token that ends an answer.
const END: u32 = 7;

fn model() -> LocalModel {
    let (weights, calibration, _) =
        support::calibrated(support::config(1, vec![END]), &Preparation::default(), LOG_N, 4, 5, 3);
    LocalModel::new(weights, None, calibration).unwrap()
}

/// Answers `steps` times with the token 3, then with the end token and `guard` in every slot of the guard.
struct Scripted {
    steps: usize,
    guard: f64,
    slot_count: usize,
}

impl Scripted {
    fn answer(&mut self) -> Result<Vec<Vec<u8>>, ProtocolError> {
        let last = self.steps == 0;
        self.steps = self.steps.saturating_sub(1);
        let chosen = if last { END as usize } else { 3 };
        // Logits repeat after the vocabulary rounded up, 64 slots.
        let logits: Vec<f64> = (0..self.slot_count).map(|slot| if slot % 64 == chosen { 0.9 } else { 0.0 }).collect();
        let guard = vec![if last { self.guard } else { 0.5 }; self.slot_count];
        Ok(vec![encode_slots(&logits), encode_slots(&guard)])
    }
}

impl Engine for Scripted {
    fn prefill(&mut self, _: &[u32], _: Vec<Vec<u8>>, _: &dyn Progress) -> Result<Vec<Vec<u8>>, ProtocolError> {
        self.answer()
    }

    fn decode(&mut self, _: Vec<Vec<u8>>, _: &dyn Progress) -> Result<Vec<Vec<u8>>, ProtocolError> {
        self.answer()
    }
}

/// Serves one session and returns everything that came from the client, and how it ended.
fn serve(engine: Scripted, model: &LocalModel, chain: Chain) -> (SocketAddr, JoinHandle<(Vec<Message>, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (config, calibration) = (model.config.clone(), model.calibration.clone());
    let open = move |hello: &Hello| {
        let lengths = clear::prepare(chain, &config, &calibration, hello.shape).unwrap().lengths;
        let welcome = Welcome { session: 1, idle_timeout_seconds: 60, max_sessions: 1 };
        clear::Server::new(Mode::Clear, hello.shape, 40, lengths, welcome).with_engine(Box::new(engine))
    };
    let thread = std::thread::spawn(move || {
        let mut stream = MessageStream::new(listener.accept().unwrap().0);
        let hello = stream.receive().unwrap();
        let Message::Hello(content) = &hello else { panic!("no hello") };
        let mut session = open(content);
        let mut seen = vec![hello];
        loop {
            while let Some(message) = session.next_message() {
                stream.send(&message).unwrap();
            }
            if session.turn() == Turn::Work {
                session.work(&()).unwrap();
                continue;
            }
            match stream.receive() {
                Ok(message) => {
                    seen.push(message.clone());
                    session.receive(message).unwrap();
                }
                Err(end) => return (seen, end.to_string()),
            }
        }
    });
    (address, thread)
}

#[test]
fn an_escape_ends_like_an_answer() {
    let model = model();
    let chain = Parameters::insecure_test(LOG_N).chain();
    for steps in [0, 2] {
        let run = |guard: f64| -> (Result<RunReport, Error>, (Vec<Message>, String)) {
            let (server, thread) = serve(Scripted { steps, guard, slot_count: chain.slot_count() }, &model, chain);
            let prompt = &Prompt::from_ids(vec![1, 4, 6, 8], vec![2, 5, 9, 11, 30]);
            let (sampler, way, model, server) = (&mut Sampler::greedy(), Way::Clear { chain }, &model, &server.into());
            let result = generate(Request { model, prompt, max_new_tokens: 9, sampler, server, way }, &mut ());
            (result, thread.join().unwrap())
        };
        let (answer, seen) = run(0.5);
        assert_eq!(answer.unwrap().tokens.len(), steps + 1);
        assert!(seen.0.last() == Some(&Message::Bye));
        for guard in [2.0, -1e9] {
            let (escaped, seen_then) = run(guard);
            let error = escaped.err().unwrap();
            assert!(matches!(error, Error::Infer(InferError::OutOfCalibratedRange { .. })), "{error}");
            assert!(error.to_string().contains("dishonest"), "{error}");
            assert!(seen_then == seen);
        }
    }
}
