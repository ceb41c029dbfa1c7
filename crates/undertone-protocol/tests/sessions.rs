//! Both sides of the modes against each other, in memory, with engines that compute nothing secret.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use undertone_he::circuits::pc_matmul::ProductKeyId;
use undertone_he::{KeyId, KeyRequest, PlannedKey, UploadKey};
use undertone_infer::Progress;
use undertone_protocol::frame::CHUNK_LEN;
use undertone_protocol::message::{
    Blobs, ErrorClass, ErrorReport, Hello, Operations, Prefill, StepResult, Welcome, WireShape,
};
use undertone_protocol::modes::clear;
use undertone_protocol::modes::fhe::message::{KeyBegin, KeyEnd, WireKeyId, WireProductKey};
use undertone_protocol::modes::fhe::{self, FhePlan, KeySink};
use undertone_protocol::{Engine, Error, Message, Mode, Session, StepLengths, StepSession, Turn, Wire};

const SHAPE: WireShape = WireShape { public_tokens: 3, private_tokens: 2, max_new_tokens: 3 };
const VOCAB: u32 = 100;

fn lengths() -> StepLengths {
    StepLengths { prefill: vec![3 << 20, 5], decode: vec![7], result: vec![9, 1 << 20] }
}

fn hello(mode: Mode) -> Hello {
    Hello { version: 1, mode, parameters: [1; 32], model: [2; 32], calibration: [3; 32], shape: SHAPE }
}

fn welcome() -> Welcome {
    Welcome { session: 77, idle_timeout_seconds: 60, max_sessions: 2 }
}

/// Answers with the sum of all input bytes in every byte of the result.
struct Sums;

impl Sums {
    fn answer(input: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let sum = input.iter().flatten().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
        lengths().result.iter().map(|&len| vec![sum; len]).collect()
    }
}

impl Engine for Sums {
    fn prefill(&mut self, public: &[u32], input: Vec<Vec<u8>>, progress: &dyn Progress) -> Result<Vec<Vec<u8>>, Error> {
        assert_eq!(public, [1, 2, 3]);
        progress.step("mlp", 0, 1, 0.5);
        if progress.cancelled() { Err(Error::Cancelled) } else { Ok(Self::answer(&input)) }
    }

    fn decode(&mut self, input: Vec<Vec<u8>>, _: &dyn Progress) -> Result<Vec<Vec<u8>>, Error> {
        Ok(Self::answer(&input))
    }
}

/// Names and lengths of the keys that arrived.
type SeenKeys = Arc<Mutex<Vec<(UploadKey, usize)>>>;

#[derive(Default)]
struct Keys(SeenKeys);

impl KeySink for Keys {
    fn insert(&mut self, key: UploadKey, bytes: &[u8]) -> Result<(), Error> {
        self.0.lock().unwrap().push((key, bytes.len()));
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn Engine>, Error> {
        Ok(Box::new(Sums))
    }
}

fn plan() -> FhePlan {
    let planned = |key, len| PlannedKey { key, len, held_bytes: len as u64 };
    let key = |id, level, len| planned(KeyRequest { id, level }.into(), len);
    let product = |id, len| planned(UploadKey::Product { id, tokens: 64 }, len);
    FhePlan {
        keys: vec![
            key(KeyId::Relinearization, 21, (2 << 20) + 1),
            key(KeyId::Galois(5), 20, 1000),
            key(KeyId::Galois(25), 4, 1 << 20),
            key(KeyId::ToSparse, 0, 10),
            product(ProductKeyId::Down, 1 << 17),
            product(ProductKeyId::Pack, (1 << 20) + 7),
            product(ProductKeyId::Up, 3),
        ],
        lengths: lengths(),
        memory_bytes: 1 << 24,
    }
}

struct Follow {
    steps: AtomicUsize,
    cancelled: bool,
}

impl Follow {
    fn new(cancelled: bool) -> Self {
        Self { steps: AtomicUsize::new(0), cancelled }
    }
}

impl Progress for Follow {
    fn step(&self, _: &'static str, _: usize, _: usize, _: f64) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    fn cancelled(&self) -> bool {
        self.cancelled
    }
}

/// Two sessions and the bytes between them.
struct Pair<C, S> {
    client: C,
    server: S,
    client_wire: Wire,
    server_wire: Wire,
    hello_seen: bool,
}

impl<C: StepSession, S: Session> Pair<C, S> {
    fn new(client: C, server: S) -> Self {
        Self { client, server, client_wire: Wire::new(), server_wire: Wire::new(), hello_seen: false }
    }

    /// Moves messages and works until both wait for the application or are closed.
    fn settle(&mut self) -> Result<(), Error> {
        loop {
            let mut moved = false;
            while let Some(message) = self.client.next_message() {
                moved = true;
                let bytes = self.client_wire.encode(&message)?;
                let received = self.server_wire.feed(&mut bytes.as_slice())?.unwrap();
                if self.hello_seen {
                    self.server.receive(received)?;
                } else {
                    // The driver of the server looks at the hello before there is a session.
                    assert!(matches!(received, Message::Hello(_)));
                    self.hello_seen = true;
                }
            }
            while let Some(message) = self.server.next_message() {
                moved = true;
                let bytes = self.server_wire.encode(&message)?;
                let received = self.client_wire.feed(&mut bytes.as_slice())?.unwrap();
                self.client.receive(received)?;
            }
            if self.server.turn() == Turn::Work {
                moved = true;
                self.server.work(&())?;
            }
            if !moved {
                return Ok(());
            }
        }
    }
}

fn fhe_pair() -> (Pair<fhe::Client, fhe::Server>, SeenKeys) {
    let keys = Keys::default();
    let seen = keys.0.clone();
    let server = fhe::Server::new(SHAPE, VOCAB, plan(), welcome(), Box::new(keys));
    (Pair::new(fhe::Client::new(hello(Mode::Fhe), plan()), server), seen)
}

fn run_steps<C: StepSession, S: Session>(pair: &mut Pair<C, S>) {
    pair.client.prefill(vec![1, 2, 3], 2, vec![vec![1; 3 << 20], vec![2; 5]]).unwrap();
    pair.settle().unwrap();
    // 3·2^20 + 10 modulo 256.
    assert_eq!(pair.client.take_result().unwrap()[0], vec![10; 9]);
    assert!(pair.client.take_result().is_none());
    for token in 1..SHAPE.max_new_tokens as u8 {
        pair.client.decode(vec![vec![token; 7]]).unwrap();
        pair.settle().unwrap();
        assert_eq!(pair.client.take_result().unwrap()[1], vec![7 * token; 1 << 20]);
    }
    assert!(matches!(pair.client.decode(vec![vec![0; 7]]), Err(Error::Cap { field: "max_new_tokens", .. })));
    pair.client.close();
    pair.settle().unwrap();
    assert_eq!((pair.client.turn(), pair.server.turn()), (Turn::Closed, Turn::Closed));
}

#[test]
fn a_whole_fhe_session_runs() {
    let (mut pair, seen) = fhe_pair();
    pair.settle().unwrap();
    assert_eq!(pair.client.welcome(), Some(&welcome()));
    while let Some(wanted) = pair.client.wanted_key() {
        let len = plan().keys.iter().find(|planned| planned.key == wanted).unwrap().len;
        assert!(matches!(pair.client.prefill(vec![1, 2, 3], 2, vec![]), Err(Error::OutOfTurn { .. })));
        assert!(matches!(pair.client.send_key(vec![0; len + 1]), Err(Error::Unexpected { .. })));
        pair.client.send_key(vec![5; len]).unwrap();
        pair.settle().unwrap();
    }
    let planned: Vec<_> = plan().keys.iter().map(|planned| (planned.key, planned.len)).collect();
    assert_eq!(*seen.lock().unwrap(), planned);
    run_steps(&mut pair);
    let (client, server) = (pair.client_wire.ledger(), pair.server_wire.ledger());
    assert_eq!(client.bytes_sent(), server.bytes_received());
    assert_eq!(client.bytes_received(), server.bytes_sent());
    assert_eq!(client.sent(), server.received());
    assert!(client.bytes_sent() > plan().key_bytes() + (3 << 20));
    // Hello, then the prompt (with all keys before it), then two tokens.
    assert_eq!(client.rounds(), 4);
}

#[test]
fn a_whole_clear_session_runs() {
    let client = clear::Client::new(hello(Mode::Clear), lengths());
    let server = clear::Server::new(Mode::Clear, SHAPE, VOCAB, lengths(), welcome()).with_engine(Box::new(Sums));
    let mut pair = Pair::new(client, server);
    pair.settle().unwrap();
    run_steps(&mut pair);
}

fn fhe_server() -> fhe::Server {
    fhe::Server::new(SHAPE, VOCAB, plan(), welcome(), Box::new(Keys::default()))
}

fn begin(index: usize) -> KeyBegin {
    let planned = &plan().keys[index];
    KeyBegin::new(&planned.key, planned.len).unwrap()
}

#[test]
fn keys_out_of_order_at_other_levels_or_twice_are_refused() {
    let wrong = [
        begin(1),
        KeyBegin { level: 20, ..begin(0) },
        KeyBegin { level: 22, ..begin(0) },
        KeyBegin { len: begin(0).len - 1, ..begin(0) },
        KeyBegin { len: begin(0).len + 1, ..begin(0) },
        KeyBegin { id: KeyId::Galois(7).into(), ..begin(0) },
        KeyBegin { id: KeyId::FromSparse.into(), ..begin(0) },
    ];
    for begin in wrong {
        let mut server = fhe_server();
        let error = server.receive(Message::KeyBegin(begin)).unwrap_err();
        assert!(matches!(error, Error::UnexpectedKey { .. }), "{error}");
        assert_eq!(server.turn(), Turn::Closed);
        // A closed session takes nothing more.
        assert!(server.receive(Message::KeyBegin(begin)).is_err());
    }
    // A key of products where one of the chain is due, and the other way round.
    assert!(matches!(fhe_server().receive(Message::KeyBegin(begin(4))), Err(Error::UnexpectedKey { .. })));
    let wrong = [
        begin(0),
        begin(5),
        begin(6),
        KeyBegin { id: WireKeyId::Product(WireProductKey::Down(32)), ..begin(4) },
        KeyBegin { id: WireKeyId::Product(WireProductKey::Up(64)), ..begin(4) },
        KeyBegin { level: 0, ..begin(4) },
        KeyBegin { level: 2, ..begin(4) },
        KeyBegin { len: begin(4).len - 1, ..begin(4) },
        KeyBegin { len: begin(4).len + 1, ..begin(4) },
    ];
    for begin in wrong {
        let mut server = fhe_server();
        (0..4).for_each(|index| send_key(&mut server, index).unwrap());
        let error = server.receive(Message::KeyBegin(begin)).unwrap_err();
        assert!(matches!(error, Error::UnexpectedKey { .. }), "{error}");
        assert!(error.to_string().contains("down for products of 64 tokens at level 1"), "{error}");
    }
    // The first key a second time.
    let mut server = fhe_server();
    send_key(&mut server, 0).unwrap();
    assert!(matches!(send_key(&mut server, 0), Err(Error::UnexpectedKey { .. })));
}

fn send_key(server: &mut fhe::Server, index: usize) -> Result<(), Error> {
    server.receive(Message::KeyBegin(begin(index)))?;
    let bytes = vec![5u8; plan().keys[index].len];
    for chunk in bytes.chunks(CHUNK_LEN) {
        server.receive(Message::Chunk(chunk.to_vec()))?;
    }
    server.receive(Message::KeyEnd(KeyEnd { digest: *blake3::hash(&bytes).as_bytes() }))
}

#[test]
fn incomplete_damaged_and_surplus_keys_are_refused() {
    let mut server = fhe_server();
    server.receive(Message::KeyBegin(begin(0))).unwrap();
    server.receive(Message::Chunk(vec![0; CHUNK_LEN])).unwrap();
    let early = server.receive(Message::KeyEnd(KeyEnd { digest: [0; 32] }));
    assert!(matches!(early, Err(Error::OutOfTurn { message: "key_end", .. })));

    let mut server = fhe_server();
    send_key(&mut server, 0).unwrap();
    server.receive(Message::KeyBegin(begin(1))).unwrap();
    server.receive(Message::Chunk(vec![0; 1000])).unwrap();
    let damaged = server.receive(Message::KeyEnd(KeyEnd { digest: [0; 32] }));
    assert_eq!(damaged.unwrap_err(), Error::Digest { what: "a Galois key" });

    let mut server = fhe_server();
    send_key(&mut server, 0).unwrap();
    let missing = server.receive(Message::KeysDone);
    assert_eq!(missing.unwrap_err(), Error::Unexpected { field: "number of keys", have: 1, need: 7 });

    let mut server = fhe_server();
    (0..5).for_each(|index| send_key(&mut server, index).unwrap());
    server.receive(Message::KeyBegin(begin(5))).unwrap();
    let mut bytes = vec![5u8; plan().keys[5].len];
    let digest = *blake3::hash(&bytes).as_bytes();
    bytes[77] ^= 1;
    for chunk in bytes.chunks(CHUNK_LEN) {
        server.receive(Message::Chunk(chunk.to_vec())).unwrap();
    }
    let damaged = server.receive(Message::KeyEnd(KeyEnd { digest }));
    assert_eq!(damaged.unwrap_err(), Error::Digest { what: "a key of matrix products" });

    let mut server = fhe_server();
    (0..7).for_each(|index| send_key(&mut server, index).unwrap());
    assert!(matches!(send_key(&mut server, 6), Err(Error::UnexpectedKey { .. })));

    let mut server = fhe_server();
    let prompt = Message::Prefill(Prefill { public_tokens: vec![1], private_tokens: 1, blobs: vec![1] });
    assert!(matches!(server.receive(prompt), Err(Error::OutOfTurn { .. })));
}

fn ready_server() -> fhe::Server {
    let mut server = fhe_server();
    (0..plan().keys.len()).for_each(|index| send_key(&mut server, index).unwrap());
    server.receive(Message::KeysDone).unwrap();
    server
}

#[test]
fn prompts_other_than_planned_are_refused() {
    let good = Prefill { public_tokens: vec![1, 2, 3], private_tokens: 2, blobs: vec![3 << 20, 5] };
    let wrong = [
        Prefill { public_tokens: vec![1, 2], ..good.clone() },
        Prefill { public_tokens: vec![1, 2, VOCAB], ..good.clone() },
        Prefill { private_tokens: 3, ..good.clone() },
        Prefill { blobs: vec![3 << 20], ..good.clone() },
        Prefill { blobs: vec![3 << 20, 6], ..good.clone() },
    ];
    for prefill in wrong {
        let error = ready_server().receive(Message::Prefill(prefill)).unwrap_err();
        assert!(matches!(error, Error::Unexpected { .. } | Error::Cap { .. }), "{error}");
    }
    let mut server = ready_server();
    assert!(matches!(server.receive(Message::Decode(Blobs { blobs: vec![7] })), Err(Error::OutOfTurn { .. })));
    let mut server = ready_server();
    server.receive(Message::Prefill(good)).unwrap();
    assert!(matches!(server.receive(Message::Chunk(vec![0; 3])), Err(Error::Unexpected { .. })));
}

#[test]
fn cancelled_work_closes_the_session() {
    let mut server = ready_server();
    server
        .receive(Message::Prefill(Prefill { public_tokens: vec![1, 2, 3], private_tokens: 2, blobs: vec![3 << 20, 5] }))
        .unwrap();
    for _ in 0..(3 << 20) / CHUNK_LEN {
        server.receive(Message::Chunk(vec![0; CHUNK_LEN])).unwrap();
    }
    server.receive(Message::Chunk(vec![0; 5])).unwrap();
    assert_eq!(server.turn(), Turn::Work);
    let follow = Follow::new(true);
    assert_eq!(server.work(&follow), Err(Error::Cancelled));
    assert_eq!(follow.steps.load(Ordering::Relaxed), 1);
    assert_eq!(server.turn(), Turn::Closed);
}

#[test]
fn the_client_refuses_results_out_of_turn_and_errors_are_cleaned() {
    let mut client = clear::Client::new(hello(Mode::Clear), lengths());
    let result = Message::Result(StepResult { blobs: vec![9, 1 << 20], operations: Operations::default() });
    assert!(matches!(client.receive(result), Err(Error::OutOfTurn { .. })));

    let mut client = clear::Client::new(hello(Mode::Clear), lengths());
    client.receive(Message::Welcome(welcome())).unwrap();
    assert!(client.receive(Message::Welcome(welcome())).is_err());

    let mut client = clear::Client::new(hello(Mode::Clear), lengths());
    client.receive(Message::Welcome(welcome())).unwrap();
    client.prefill(vec![1, 2, 3], 2, vec![vec![1; 3 << 20], vec![2; 5]]).unwrap();
    let short = Message::Result(StepResult { blobs: vec![9, 10], operations: Operations::default() });
    assert!(matches!(client.receive(short), Err(Error::Unexpected { field: "blob length", .. })));

    let mut client = clear::Client::new(hello(Mode::Clear), lengths());
    let report = ErrorReport { class: ErrorClass::Busy, sentence: "full\u{1b}[2J".to_owned() };
    let error = client.receive(Message::Error(report)).unwrap_err();
    assert_eq!(error, Error::Peer { class: ErrorClass::Busy, sentence: "full [2J".to_owned() });
    assert_eq!(error.class(), ErrorClass::Busy);
}

#[test]
fn leakage_names_the_counts() {
    let leaks = fhe::leakage(Some(&SHAPE), None);
    let sentence = |key: &str| leaks.iter().find(|leak| leak.key == key).unwrap().sentence.clone();
    assert!(sentence("private_token_count").contains("exactly 2 tokens"));
    assert!(sentence("public_text").contains('3'));
    for key in
        ["positions", "answer_length", "timing", "model_identity", "hidden", "unverified", "transport", "feedback"]
    {
        assert!(sentence(key).ends_with('.'));
    }
    let general = fhe::leakage(None, None);
    assert!(leaks.iter().map(|leak| leak.key).eq(general.iter().map(|leak| leak.key)));
    assert!(!general.iter().any(|leak| leak.sentence.contains(|c: char| c.is_ascii_digit())));
    let padded = fhe::leakage(Some(&WireShape { private_tokens: 32, ..SHAPE }), Some(20));
    assert!(padded.iter().any(|leak| leak.sentence.contains("32 tokens long after filling up")));
    assert!(!padded.iter().any(|leak| leak.sentence.contains("20")));
}
