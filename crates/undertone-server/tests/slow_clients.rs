//! Clients that send or take a little now and then: each must lose its session soon, however often it stirs.

mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant};
use support::{Running, hello, options, pump};
use undertone_he::{KeyId, KeyRequest, PlannedKey, UploadKey};
use undertone_infer::Progress;
use undertone_protocol::message::{ErrorClass, Hello, Prefill, Welcome};
use undertone_protocol::modes::fhe::{self, FhePlan, KeySink};
use undertone_protocol::{Engine, Error, Message, Mode, Session, StepLengths, StepSession, Wire};
use undertone_server::{Host, Opening, Options};

/// Bytes of a result: more than the buffers between two sockets hold.
const RESULT: usize = 64 << 20;
/// Far less than the idle time below, and far more than a machine under load takes for anything here.
const SOON: Duration = Duration::from_secs(20);

fn plan(keys: usize) -> FhePlan {
    let key = |index| {
        let request = KeyRequest { id: KeyId::Galois(2 * index as u64 + 1), level: 1 };
        PlannedKey { key: request.into(), len: 100, held_bytes: 100 }
    };
    let lengths = StepLengths { prefill: vec![9], decode: vec![9], result: vec![RESULT] };
    FhePlan { keys: (0..keys).map(key).collect(), lengths, memory_bytes: 1000 }
}

/// Takes any keys and answers with zeros.
struct Zeros;

impl KeySink for Zeros {
    fn insert(&mut self, _: UploadKey, _: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn Engine>, Error> {
        Ok(self)
    }
}

impl Engine for Zeros {
    fn prefill(&mut self, _: &[u32], _: Vec<Vec<u8>>, _: &dyn Progress) -> Result<Vec<Vec<u8>>, Error> {
        Ok(vec![vec![0; RESULT]])
    }

    fn decode(&mut self, _: Vec<Vec<u8>>, _: &dyn Progress) -> Result<Vec<Vec<u8>>, Error> {
        Ok(vec![vec![0; RESULT]])
    }
}

/// Sessions with this many keys.
struct KeyHost(usize);

impl Host for KeyHost {
    fn open(&self, hello: &Hello, welcome: Welcome) -> Result<Opening, Error> {
        let setup_bytes = plan(self.0).key_bytes();
        let session = fhe::Server::new(hello.shape, 100, plan(self.0), welcome, Box::new(Zeros));
        Ok(Opening { session: Box::new(session), memory_bytes: 1000, setup_bytes })
    }
}

fn client(keys: usize) -> fhe::Client {
    fhe::Client::new(Hello { mode: Mode::Fhe, ..hello() }, plan(keys))
}

fn quick() -> Options {
    Options { message_timeout: Duration::from_millis(300), slowest_bytes_per_second: 1 << 30, ..options() }
}

#[test]
fn a_message_that_trickles_in_ends_the_session() {
    let server = Running::start(KeyHost(1), quick());
    let mut stream = server.connect();
    let mut wire = Wire::new();
    let mut send = |bytes: &[u8]| stream.inner_mut().write_all(bytes);
    send(&wire.encode(&Message::Hello(Hello { mode: Mode::Fhe, ..hello() })).unwrap()).unwrap();
    server.expect_sessions(1);
    // Any message will do: it is never complete.
    let prefill = Prefill { public_tokens: vec![1; 100_000], private_tokens: 3, blobs: vec![9] };
    let frame = wire.encode(&Message::Prefill(prefill)).unwrap();
    let start = Instant::now();
    for byte in &frame {
        if server.handle.session_count() == 0 || send(std::slice::from_ref(byte)).is_err() {
            break;
        }
        assert!(start.elapsed() < SOON);
        std::thread::sleep(Duration::from_millis(10));
    }
    server.expect_sessions(0);
}

#[test]
fn keys_that_come_one_by_one_in_time_but_not_together_end_the_session() {
    const KEYS: usize = 10_000;
    let server = Running::start(KeyHost(KEYS), Options { idle_timeout: Duration::from_secs(1), ..quick() });
    let mut stream = server.connect();
    let mut client = client(KEYS);
    pump(&mut stream, &mut client).unwrap();
    let start = Instant::now();
    let sent = (0..KEYS).find(|_| {
        assert!(start.elapsed() < SOON);
        std::thread::sleep(Duration::from_millis(20));
        client.send_key(vec![0; 100]).unwrap();
        pump(&mut stream, &mut client).is_err()
    });
    // Each key came well within every single limit.
    assert!(sent.is_some_and(|sent| sent > 2), "{sent:?}");
    server.expect_sessions(0);
}

#[test]
fn an_idle_session_ends_with_a_reason() {
    let server = Running::start(KeyHost(1), Options { idle_timeout: Duration::from_millis(100), ..quick() });
    let mut stream = server.connect();
    let mut client = client(1);
    pump(&mut stream, &mut client).unwrap();
    let Ok(Message::Error(report)) = stream.receive() else { panic!("no report") };
    assert!(report.class == ErrorClass::Cancelled && report.sentence.contains("slow"), "{}", report.sentence);
    server.expect_sessions(0);
}

#[test]
fn a_result_that_is_taken_byte_by_byte_ends_the_session() {
    let server = Running::start(KeyHost(1), quick());
    let mut stream = server.connect();
    let mut client = client(1);
    pump(&mut stream, &mut client).unwrap();
    client.send_key(vec![0; 100]).unwrap();
    client.prefill(vec![1, 2], 3, vec![vec![0; 9]]).unwrap();
    while let Some(message) = client.next_message() {
        stream.send(&message).unwrap();
    }
    let start = Instant::now();
    while server.handle.session_count() > 0 {
        assert!(start.elapsed() < SOON);
        // The end of the connection shows in the count.
        let _ = stream.inner_mut().read(&mut [0]);
        std::thread::sleep(Duration::from_millis(10));
    }
}
