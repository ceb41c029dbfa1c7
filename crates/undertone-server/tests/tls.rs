//! The driver under TLS: the same sessions, known clients only, and a share of the server for each.

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use support::{Running, hello, options, pump};
use tls::{identity, settings};
use undertone_infer::Progress;
use undertone_net::{ClientTls, Connection, Endpoint, Pins};
use undertone_protocol::message::{ErrorClass, Hello, Welcome};
use undertone_protocol::modes::clear;
use undertone_protocol::{Engine, Error, Message, MessageStream, Mode, StepLengths, StepSession};
use undertone_server::{Host, Opening, Options};

const BLOB: usize = (1 << 20) + 7;

fn lengths() -> StepLengths {
    StepLengths { prefill: vec![BLOB], decode: vec![11], result: vec![13] }
}

/// Sums bytes.
struct Sum;

impl Engine for Sum {
    fn prefill(&mut self, _: &[u32], input: Vec<Vec<u8>>, _: &dyn Progress) -> Result<Vec<Vec<u8>>, Error> {
        Ok(vec![vec![input.iter().flatten().fold(0u8, |sum, &byte| sum.wrapping_add(byte)); 13]])
    }

    fn decode(&mut self, input: Vec<Vec<u8>>, progress: &dyn Progress) -> Result<Vec<Vec<u8>>, Error> {
        self.prefill(&[], input, progress)
    }
}

struct SumHost;

impl Host for SumHost {
    fn open(&self, hello: &Hello, welcome: Welcome) -> Result<Opening, Error> {
        let session = clear::Server::new(Mode::Clear, hello.shape, 100, lengths(), welcome).with_engine(Box::new(Sum));
        Ok(Opening { session: Box::new(session), memory_bytes: 1000, setup_bytes: 0 })
    }
}

fn try_connect(server: &Running, tls: &ClientTls) -> Result<Connection, undertone_net::Error> {
    let endpoint = Endpoint { tls: Some(tls.clone()), ..server.address.into() };
    let mut connection = endpoint.connect(Duration::from_secs(10))?;
    connection.set_read_timeout(Duration::from_secs(20));
    Ok(connection)
}

fn connect(server: &Running, tls: &ClientTls) -> MessageStream<Connection> {
    MessageStream::new(try_connect(server, tls).unwrap())
}

fn whole_run<S: Read + Write>(mut stream: MessageStream<S>) {
    let mut client = clear::Client::new(hello(), lengths());
    pump(&mut stream, &mut client).unwrap();
    client.prefill(vec![4, 5], 3, vec![vec![1; BLOB]]).unwrap();
    pump(&mut stream, &mut client).unwrap();
    assert_eq!(client.take_result().unwrap(), [vec![7; 13]]);
    client.decode(vec![vec![2; 11]]).unwrap();
    pump(&mut stream, &mut client).unwrap();
    assert_eq!(client.take_result().unwrap(), [vec![22; 13]]);
    client.close();
    pump(&mut stream, &mut client).unwrap();
}

/// Why the server ends a session that is opened over this stream.
fn refusal<S: Read + Write>(mut stream: MessageStream<S>) -> Error {
    pump(&mut stream, &mut clear::Client::new(hello(), lengths())).unwrap_err()
}

#[test]
fn two_known_clients_run_at_once_and_each_has_its_share() {
    let (server, clients) = settings(2);
    let options = Options { tls: Some(server), max_sessions_per_client: 1, ..options() };
    let server = Running::start(SumHost, options);
    let mut first = connect(&server, &clients[0]);
    pump(&mut first, &mut clear::Client::new(hello(), lengths())).unwrap();
    let error = refusal(connect(&server, &clients[0]));
    assert!(
        matches!(&error, Error::Peer { class: ErrorClass::Busy, sentence } if sentence.contains("of this client")),
        "{error}"
    );
    whole_run(connect(&server, &clients[1]));
    first.inner_mut().close();
    server.expect_sessions(0);
    std::thread::scope(|scope| clients.iter().for_each(|tls| drop(scope.spawn(|| whole_run(connect(&server, tls))))));
    server.expect_sessions(0);
}

#[test]
fn strangers_are_told_and_leave_nothing_behind() {
    let (server, clients) = settings(1);
    let pin = server.pin();
    let server = Running::start(SumHost, Options { tls: Some(server), ..options() });

    let stranger = ClientTls::new(&identity("stranger"), Pins::from(pin)).unwrap();
    let error = refusal(connect(&server, &stranger));
    assert!(matches!(&error, Error::Transport { sentence } if sentence.contains("refused the certificate")), "{error}");

    let elsewhere = ClientTls::new(&identity("client"), Pins::from(identity("other").pin())).unwrap();
    let error = try_connect(&server, &elsewhere).err().unwrap();
    assert!(matches!(error, undertone_net::Error::WrongPin { have } if have == pin), "{error}");

    // A client that speaks the protocol without TLS.
    assert_eq!(refusal(MessageStream::new(TcpStream::connect(server.address).unwrap())), Error::TlsPeer);

    server.expect_sessions(0);
    whole_run(connect(&server, &clients[0]));
    server.expect_sessions(0);
}

#[test]
fn a_tls_client_of_a_plain_server_is_told() {
    let (_, clients) = settings(1);
    let server = Running::start(SumHost, options());
    let error = try_connect(&server, &clients[0]).err().unwrap();
    assert!(matches!(error, undertone_net::Error::NotTls), "{error}");
    // What the server tells whoever it takes for a plain client.
    let mut raw = TcpStream::connect(server.address).unwrap();
    let mut record = [0; 64];
    record[..5].copy_from_slice(&[22, 3, 1, 0, 59]);
    raw.write_all(&record).unwrap();
    let Message::Error(report) = MessageStream::new(raw).receive().unwrap() else { panic!("no report") };
    assert!(report.sentence.contains("speaks TLS"), "{}", report.sentence);
    server.expect_sessions(0);
    whole_run(server.connect());
}

#[test]
fn any_address_is_bound_under_tls_and_the_server_stops() {
    let (tls, clients) = settings(1);
    let listen = "0.0.0.0:0".parse().unwrap();
    let mut server = Running::start(SumHost, Options { tls: Some(tls), listen, ..options() });
    assert!(server.address.ip().is_unspecified());
    server.address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    whole_run(connect(&server, &clients[0]));
    // A handshake that has not begun and a session that waits: both end when the server stops.
    let _silent = TcpStream::connect(server.address).unwrap();
    let mut waiting = connect(&server, &clients[0]);
    pump(&mut waiting, &mut clear::Client::new(hello(), lengths())).unwrap();
    let start = std::time::Instant::now();
    server.handle.stop();
    let Ok(Message::Error(report)) = waiting.receive() else { panic!("no farewell") };
    assert_eq!(report.class, ErrorClass::ShuttingDown);
    drop(server);
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
}

#[test]
fn a_flood_of_connections_that_never_say_who_they_are_keeps_nobody_out() {
    let (tls, clients) = settings(1);
    let server = Running::start(SumHost, Options { tls: Some(tls), max_sessions: 1, ..options() });
    // Far more than there are threads for, each of which could wait for ten seconds.
    let _crowd: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    let (start, over) = (std::time::Instant::now(), std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut more = Vec::new();
            while !over.load(std::sync::atomic::Ordering::SeqCst) {
                more.extend(TcpStream::connect(server.address));
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        // A connection that comes while threads are short is dropped; it tries again.
        let connected = (0..40).find_map(|_| {
            let connected = try_connect(&server, &clients[0]).ok();
            if connected.is_none() {
                std::thread::sleep(Duration::from_millis(50));
            }
            connected
        });
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            whole_run(MessageStream::new(connected.unwrap()))
        }));
        over.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(ran.is_ok());
    });
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    server.expect_sessions(0);
}
