//! A path that cuts, damages or repeats bytes at random places, and a client that repeats or reorders frames: every time
//! an error at the client, no session left at the server, and the next one served.

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::{Running, hello, options, pump};
use undertone_infer::Progress;
use undertone_net::{ClientTls, Connection, Endpoint};
use undertone_protocol::frame::CHUNK_LEN;
use undertone_protocol::message::{ErrorClass, Hello, Welcome};
use undertone_protocol::modes::clear;
use undertone_protocol::{Engine, Error, Message, MessageStream, Mode, Session, StepLengths, StepSession, Wire};
use undertone_server::{Host, Opening, Options};

const BLOB: usize = CHUNK_LEN + 7;
const RESULT: usize = 5000;
/// How long a party that waits for something may wait here.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes that are carried twice.
const REPEATED: usize = 64;
/// Bytes at the end of a run in which a fault may pass unnoticed by the client: the goodbye, under TLS with its farewell.
const TAIL: usize = 120;

fn lengths() -> StepLengths {
    StepLengths { prefill: vec![BLOB], decode: vec![11], result: vec![RESULT] }
}

/// Answers with bytes that depend on the first one of the input and on their place, so that no part passes for another.
struct Answer;

fn answer(first: u8) -> Vec<u8> {
    (0..RESULT).map(|i| ((i * 31 + usize::from(first)) % 251) as u8).collect()
}

impl Engine for Answer {
    fn prefill(&mut self, _: &[u32], input: Vec<Vec<u8>>, _: &dyn Progress) -> Result<Vec<Vec<u8>>, Error> {
        Ok(vec![answer(input[0][0])])
    }

    fn decode(&mut self, input: Vec<Vec<u8>>, progress: &dyn Progress) -> Result<Vec<Vec<u8>>, Error> {
        self.prefill(&[], input, progress)
    }
}

struct AnswerHost;

impl Host for AnswerHost {
    fn open(&self, hello: &Hello, welcome: Welcome) -> Result<Opening, Error> {
        let session = clear::Server::new(Mode::Clear, hello.shape, 100, lengths(), welcome);
        let session = Box::new(session.with_engine(Box::new(Answer)));
        Ok(Opening { session, memory_bytes: 1000, setup_bytes: 0 })
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    None,
    Cut,
    Flip,
    Repeat,
}

/// What happens to the byte at `offset` of one direction.
#[derive(Debug, Clone, Copy)]
struct Fault {
    kind: Kind,
    towards_server: bool,
    offset: usize,
}

/// Carries one connection to `target` with a fault; counts the bytes of both directions.
struct Path {
    address: SocketAddr,
    towards_server: Arc<AtomicUsize>,
    towards_client: Arc<AtomicUsize>,
}

impl Path {
    fn to(target: SocketAddr, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (up, down) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (up_count, down_count) = (up.clone(), down.clone());
        std::thread::spawn(move || {
            let client = listener.accept().unwrap().0;
            let server = TcpStream::connect(target).unwrap();
            let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let here = |towards_server| (fault.towards_server == towards_server).then_some(fault);
            let (up_fault, down_fault) = (here(true), here(false));
            std::thread::spawn(move || carry(from, to, up_fault, &up_count));
            carry(server, client, down_fault, &down_count);
        });
        Self { address, towards_server: up, towards_client: down }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, fault: Option<Fault>, count: &AtomicUsize) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let len = from.read(&mut buffer).unwrap_or(0);
        let seen = count.fetch_add(len, Ordering::SeqCst);
        let struck = fault.filter(|fault| (seen..seen + len).contains(&fault.offset));
        let mut bytes = buffer[..len].to_vec();
        if let Some(Fault { kind, offset, .. }) = struck {
            let at = offset - seen;
            match kind {
                Kind::None => {}
                Kind::Flip => bytes[at] ^= 1 << (offset % 8),
                Kind::Repeat => {
                    let end = len.min(at + REPEATED);
                    bytes.splice(end..end, buffer[at..end].iter().copied());
                }
                Kind::Cut => {
                    let _ = to.write_all(&bytes[..at]);
                    // Both at once, as when a machine on the way goes down.
                    let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
                    return;
                }
            }
        }
        if len == 0 || to.write_all(&bytes).is_err() {
            // Whoever is left hears the end, after what is on the way.
            let _ = (to.shutdown(Shutdown::Write), from.shutdown(Shutdown::Read));
            return;
        }
    }
}

/// A run from hello to goodbye, or the sentence with which it failed.
fn run(address: SocketAddr, tls: Option<&ClientTls>) -> Result<(), String> {
    let endpoint = Endpoint { tls: tls.cloned(), ..address.into() };
    let mut connection = endpoint.connect(PATIENCE).map_err(|error| error.to_string())?;
    connection.set_read_timeout(2 * PATIENCE);
    let mut stream = MessageStream::new(connection);
    let ended = converse(&mut stream).map_err(|error| error.to_string());
    stream.inner_mut().finish();
    ended
}

fn converse(stream: &mut MessageStream<Connection>) -> Result<(), Error> {
    let mut client = clear::Client::new(hello(), lengths());
    pump(stream, &mut client)?;
    client.prefill(vec![4, 5], 3, vec![vec![3; BLOB]])?;
    pump(stream, &mut client)?;
    assert_eq!(client.take_result().unwrap(), [answer(3)]);
    client.decode(vec![vec![2; 11]])?;
    pump(stream, &mut client)?;
    assert_eq!(client.take_result().unwrap(), [answer(2)]);
    client.close();
    pump(stream, &mut client).map(drop)
}

/// A generator of offsets; xorshift, its seed is its state.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

fn strike(tls: bool, seed: u64) {
    let (settings, clients) = tls::settings(1);
    let quick = Options {
        tls: tls.then_some(settings),
        idle_timeout: PATIENCE,
        message_timeout: PATIENCE,
        hello_timeout: PATIENCE,
        ..options()
    };
    let server = Running::start(AnswerHost, quick);
    let client = tls.then(|| &clients[0]);
    let whole = Path::to(server.address, Fault { kind: Kind::None, towards_server: true, offset: 0 });
    run(whole.address, client).unwrap();
    server.expect_sessions(0);
    let up = whole.towards_server.load(Ordering::SeqCst);
    let down = whole.towards_client.load(Ordering::SeqCst);
    assert!(up > BLOB && down > 2 * RESULT && down < 3 * RESULT, "{up} up, {down} down");

    let mut random = Random(seed);
    let mut passed = 0;
    for kind in [Kind::Cut, Kind::Flip, Kind::Repeat] {
        for index in 0..24 {
            // Of every direction, half of the places are near the beginning, where messages are short.
            let towards_server = index % 2 == 0;
            let total = if towards_server { up } else { down };
            let offset = random.below(if index % 4 < 2 { total.min(2500) } else { total });
            let fault = Fault { kind, towards_server, offset };
            let start = Instant::now();
            match run(Path::to(server.address, fault).address, client) {
                Err(sentence) => assert!(sentence.contains("; "), "{fault:?}: no remedy in {sentence:?}"),
                Ok(()) => {
                    passed += 1;
                    assert!(offset + TAIL >= total, "{fault:?} of {total} was not noticed");
                }
            }
            assert!(start.elapsed() < 4 * PATIENCE, "{fault:?} took {:?}", start.elapsed());
            server.expect_sessions(0);
            run(server.address, client).unwrap_or_else(|error| panic!("after {fault:?}: {error}"));
        }
    }
    println!("72 faults, {passed} of them in the last bytes, where only the goodbye was lost");
    server.expect_sessions(0);
}

#[test]
fn faults_anywhere_on_a_plain_path() {
    strike(false, 0x5EED);
}

#[test]
fn faults_anywhere_on_a_tls_path() {
    strike(true, 0x5EED5);
}

/// What a client sends after its welcome, frame by frame, and the connection to send it over.
fn frames(server: &Running) -> (MessageStream<TcpStream>, Vec<Vec<u8>>) {
    let (mut stream, mut wire) = (server.connect(), Wire::new());
    let connection = stream.inner_mut();
    let mut client = clear::Client::new(hello(), lengths());
    let first = client.next_message().unwrap();
    connection.write_all(&wire.encode(&first).unwrap()).unwrap();
    let mut buffer = [0; 4096];
    let welcome = loop {
        let len = connection.read(&mut buffer).unwrap();
        if let Some(message) = wire.feed(&mut &buffer[..len]).unwrap() {
            break message;
        }
    };
    client.receive(welcome).unwrap();
    client.prefill(vec![4, 5], 3, vec![vec![3; BLOB]]).unwrap();
    let mut frames = Vec::new();
    while let Some(message) = client.next_message() {
        frames.push(wire.encode(&message).unwrap());
    }
    (stream, frames)
}

#[test]
fn repeated_and_reordered_frames_end_the_session_with_a_reason() {
    let server = Running::start(AnswerHost, options());
    let disorders: [(&str, &str, &[usize]); 7] = [
        ("the first twice", "replayed", &[0, 0, 1, 2]),
        ("a chunk twice", "replayed", &[0, 1, 1, 2]),
        ("an old one again", "replayed", &[0, 1, 0, 2]),
        ("two swapped", "reordered", &[1, 0, 2]),
        ("two chunks swapped", "reordered", &[0, 2, 1]),
        ("the first lost", "reordered", &[1, 2]),
        ("a chunk lost", "reordered", &[0, 2]),
    ];
    for (what, word, order) in disorders {
        let (mut stream, frames) = frames(&server);
        let connection = stream.inner_mut();
        assert_eq!(frames.len(), 3, "prefill and two chunks");
        for &index in order {
            // The server may have ended the session already.
            if connection.write_all(&frames[index]).is_err() {
                break;
            }
        }
        // The answer is the server's second frame; a stream of its own would wait for the first.
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = connection.read(&mut buffer) {
            answer.extend_from_slice(&buffer[..len]);
        }
        let report = undertone_protocol::decode_message(&answer).unwrap();
        let Message::Error(report) = report else { panic!("{what}: no report") };
        assert_eq!(report.class, ErrorClass::Malformed, "{what}: {}", report.sentence);
        assert!(report.sentence.contains(word), "{what}: {}", report.sentence);
        server.expect_sessions(0);
        run(server.address, None).unwrap();
    }
}
