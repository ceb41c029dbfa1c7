//! The driver over real loopback sockets, with sessions that compute nothing secret.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::{Running, hello, options, pump};
use undertone_infer::Progress;
use undertone_protocol::message::{ErrorClass, Hello, ProgressReport, Welcome};
use undertone_protocol::modes::clear;
use undertone_protocol::{Engine, Error, Message, MessageType, Mode, Session, StepLengths, StepSession, encode_frame};
use undertone_server::{Host, Opening, Options, Server};

fn lengths() -> StepLengths {
    StepLengths { prefill: vec![(1 << 20) + 7], decode: vec![11], result: vec![13] }
}

/// Sums bytes in `stages` stages of a few milliseconds; counts how many jobs run at once and how many were cancelled.
struct Slow {
    stages: usize,
    cancelled: Arc<AtomicUsize>,
    inside: Arc<AtomicUsize>,
}

impl Slow {
    fn answer(&self, input: &[Vec<u8>], progress: &dyn Progress) -> Result<Vec<Vec<u8>>, Error> {
        assert_eq!(self.inside.fetch_add(1, Ordering::SeqCst), 0, "two jobs at once");
        let result = (0..self.stages).try_for_each(|stage| {
            std::thread::sleep(Duration::from_millis(5));
            progress.step("mlp", stage, self.stages, stage as f64 / self.stages as f64);
            if progress.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
        });
        self.inside.fetch_sub(1, Ordering::SeqCst);
        if result.is_err() {
            self.cancelled.fetch_add(1, Ordering::SeqCst);
        }
        let sum = input.iter().flatten().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
        result.map(|()| vec![vec![sum; 13]])
    }
}

impl Engine for Slow {
    fn prefill(&mut self, _: &[u32], input: Vec<Vec<u8>>, progress: &dyn Progress) -> Result<Vec<Vec<u8>>, Error> {
        self.answer(&input, progress)
    }

    fn decode(&mut self, input: Vec<Vec<u8>>, progress: &dyn Progress) -> Result<Vec<Vec<u8>>, Error> {
        self.answer(&input, progress)
    }
}

struct SlowHost {
    stages: usize,
    memory_bytes: u64,
    cancelled: Arc<AtomicUsize>,
    inside: Arc<AtomicUsize>,
}

impl Host for SlowHost {
    fn open(&self, hello: &Hello, welcome: Welcome) -> Result<Opening, Error> {
        if hello.mode != Mode::Clear {
            return Err(Error::ModeRefused { mode: hello.mode.name() });
        }
        let engine = Slow { stages: self.stages, cancelled: self.cancelled.clone(), inside: self.inside.clone() };
        let session =
            clear::Server::new(Mode::Clear, hello.shape, 100, lengths(), welcome).with_engine(Box::new(engine));
        Ok(Opening { session: Box::new(session), memory_bytes: self.memory_bytes, setup_bytes: 0 })
    }
}

/// A server whose jobs take `stages` stages, and the count of its cancelled jobs.
fn counting(stages: usize, options: Options) -> (Running, Arc<AtomicUsize>) {
    let cancelled = Arc::new(AtomicUsize::new(0));
    let host = SlowHost { stages, memory_bytes: 1000, cancelled: cancelled.clone(), inside: Arc::default() };
    (Running::start(host, options), cancelled)
}

fn start(stages: usize, options: Options) -> Running {
    counting(stages, options).0
}

fn whole_run(server: &Running) -> Vec<ProgressReport> {
    let mut stream = server.connect();
    let mut client = clear::Client::new(hello(), lengths());
    pump(&mut stream, &mut client).unwrap();
    client.prefill(vec![4, 5], 3, vec![vec![1; (1 << 20) + 7]]).unwrap();
    let news = pump(&mut stream, &mut client).unwrap();
    assert_eq!(client.take_result().unwrap(), [vec![7; 13]]);
    client.decode(vec![vec![2; 11]]).unwrap();
    pump(&mut stream, &mut client).unwrap();
    assert_eq!(client.take_result().unwrap(), [vec![22; 13]]);
    client.close();
    pump(&mut stream, &mut client).unwrap();
    let ledger = stream.ledger();
    assert!(ledger.bytes_sent() > 1 << 20);
    assert_eq!(ledger.received()[&MessageType::Result].messages, 2);
    news
}

#[test]
fn a_whole_run_with_progress() {
    let server = start(120, options());
    let news = whole_run(&server);
    assert!(!news.is_empty());
    assert!(news.windows(2).all(|pair| pair[0].fraction <= pair[1].fraction));
    server.expect_sessions(0);
}

#[test]
fn two_clients_take_turns() {
    let server = start(60, options());
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..2).map(|_| scope.spawn(|| whole_run(&server))).collect();
        let news: Vec<_> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        assert!(news.iter().any(|report| report.stage == "queued"), "{news:?}");
    });
    server.expect_sessions(0);
}

#[test]
fn a_client_gone_mid_run_frees_its_session() {
    // Ten minutes of stages: only cancelling can end them within the test.
    for says_bye in [false, true] {
        let (server, cancelled) = counting(120_000, options());
        let mut stream = server.connect();
        let mut client = clear::Client::new(hello(), lengths());
        pump(&mut stream, &mut client).unwrap();
        client.prefill(vec![4, 5], 3, vec![vec![1; (1 << 20) + 7]]).unwrap();
        while let Some(message) = client.next_message() {
            stream.send(&message).unwrap();
        }
        assert!(matches!(stream.receive().unwrap(), Message::Progress(_)));
        assert_eq!(server.handle.session_count(), 1);
        if says_bye {
            stream.send(&Message::Bye).unwrap();
        } else {
            drop(stream);
        }
        let start = Instant::now();
        while cancelled.load(Ordering::SeqCst) == 0 {
            assert!(start.elapsed() < Duration::from_secs(5));
            std::thread::sleep(Duration::from_millis(1));
        }
        server.expect_sessions(0);
    }
}

#[test]
fn stopping_cancels_the_running_job_and_tells_the_client() {
    let server = start(120_000, options());
    let mut stream = server.connect();
    let mut client = clear::Client::new(hello(), lengths());
    pump(&mut stream, &mut client).unwrap();
    client.prefill(vec![4, 5], 3, vec![vec![1; (1 << 20) + 7]]).unwrap();
    let waiting = std::thread::spawn(move || pump(&mut stream, &mut client).unwrap_err());
    std::thread::sleep(Duration::from_millis(100));
    drop(server);
    let error = waiting.join().unwrap();
    assert!(matches!(error, Error::Peer { class: ErrorClass::ShuttingDown, .. }), "{error}");
}

/// The error that the server reports for these bytes.
fn reported(server: &Running, bytes: &[u8]) -> (ErrorClass, String) {
    let mut stream = server.connect();
    stream.inner_mut().write_all(bytes).unwrap();
    stream.inner_mut().shutdown(std::net::Shutdown::Write).unwrap();
    loop {
        match stream.receive().unwrap() {
            Message::Error(report) => return (report.class, report.sentence),
            _ => continue,
        }
    }
}

#[test]
fn damaged_streams_get_a_typed_answer_and_leave_nothing_behind() {
    let server = start(1, options());
    let hello_frame = encode_frame(MessageType::Hello, 0, 0, &Message::Hello(hello()).encode().unwrap()).unwrap();
    let mut flipped = hello_frame.clone();
    flipped[60] ^= 4;
    let mut header = hello_frame.clone();
    header[20] ^= 1;
    let bye = encode_frame(MessageType::Bye, 0, 0, &[]).unwrap();
    let reordered = encode_frame(MessageType::Hello, 0, 5, &Message::Hello(hello()).encode().unwrap()).unwrap();
    let replayed = [&hello_frame[..], &hello_frame[..]].concat();
    for (bytes, class, word) in [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n".to_vec(), ErrorClass::Malformed, "protocol"),
        (hello_frame[..50].to_vec(), ErrorClass::Malformed, "truncated"),
        (flipped, ErrorClass::Malformed, "checksum"),
        (header, ErrorClass::Malformed, "checksum"),
        (bye, ErrorClass::OutOfTurn, "hello"),
        (reordered, ErrorClass::Malformed, "reordered"),
        (replayed, ErrorClass::Malformed, "another session"),
    ] {
        let (found, sentence) = reported(&server, &bytes);
        assert_eq!(found, class, "{sentence}");
        assert!(sentence.contains(word), "{sentence}");
    }
    server.expect_sessions(0);
    whole_run(&server);
}

#[test]
fn too_many_sessions_modes_and_memory_are_refused_with_a_reason() {
    let server = start(1, Options { max_sessions: 2, memory_bytes: Some(1500), ..options() });
    let mut first = server.connect();
    let mut client = clear::Client::new(hello(), lengths());
    pump(&mut first, &mut client).unwrap();

    let mut second = server.connect();
    let mut other = clear::Client::new(hello(), lengths());
    let error = pump(&mut second, &mut other).unwrap_err();
    assert!(
        matches!(&error, Error::Peer { class: ErrorClass::TooLarge, sentence } if sentence.contains("500")),
        "{error}"
    );
    drop(second);
    server.expect_sessions(1);

    let mut fhe = server.connect();
    fhe.send(&Message::Hello(Hello { mode: Mode::Fhe, ..hello() })).unwrap();
    assert!(matches!(fhe.receive().unwrap(), Message::Error(report) if report.class == ErrorClass::Mismatch));
    drop(fhe);
    server.expect_sessions(1);

    let waiting = server.connect();
    server.expect_sessions(2);
    let mut third = server.connect();
    assert!(matches!(third.receive().unwrap(), Message::Error(report) if report.class == ErrorClass::Busy));
    drop((waiting, first));
    server.expect_sessions(0);
    whole_run(&server);
}

#[test]
fn more_new_tokens_than_allowed_are_refused_before_planning() {
    // The shape asks for two.
    let server = start(1, Options { max_new_tokens: 1, ..options() });
    let mut stream = server.connect();
    let error = pump(&mut stream, &mut clear::Client::new(hello(), lengths())).unwrap_err();
    let Error::Peer { class: ErrorClass::TooLarge, sentence } = &error else { panic!("{error}") };
    assert!(sentence.contains("max_new_tokens is 2 where at most 1"), "{sentence}");
    server.expect_sessions(0);
}

#[test]
fn a_silent_connection_is_dropped() {
    let server = start(1, Options { hello_timeout: Duration::from_millis(100), ..options() });
    let mut silent = TcpStream::connect(server.address).unwrap();
    // One byte does not buy time: the deadline is that of the whole message.
    silent.write_all(b"U").unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut answer = Vec::new();
    silent.read_to_end(&mut answer).unwrap();
    assert!(!answer.is_empty());
    server.expect_sessions(0);
}

#[test]
fn only_loopback_addresses_are_bound() {
    let host = SlowHost { stages: 1, memory_bytes: 0, cancelled: Arc::default(), inside: Arc::default() };
    let options = Options { listen: "0.0.0.0:0".parse().unwrap(), ..options() };
    let error = Server::bind(options, Box::new(host)).err().unwrap();
    assert!(error.to_string().contains("TLS"), "{error}");
}
