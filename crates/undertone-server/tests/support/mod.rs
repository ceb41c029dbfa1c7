//! A running server, and a client that moves messages.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use undertone_protocol::message::{Hello, ProgressReport, WireShape};
use undertone_protocol::{Error, MessageStream, Mode, StepSession, Turn};
use undertone_server::{Handle, Host, Options, Server};

pub const SHAPE: WireShape = WireShape { public_tokens: 2, private_tokens: 3, max_new_tokens: 2 };

pub fn hello() -> Hello {
    let zero = [0; 32];
    Hello { version: 1, mode: Mode::Clear, parameters: zero, model: zero, calibration: zero, shape: SHAPE }
}

/// A server in a thread of its own; stopped and joined when dropped.
pub struct Running {
    pub handle: Handle,
    pub address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub fn start(host: impl Host + 'static, options: Options) -> Self {
        let server = Server::bind(options, Box::new(host)).unwrap();
        let (handle, address) = (server.handle(), server.address());
        let thread = Some(std::thread::spawn(move || server.run().unwrap()));
        Self { handle, address, thread }
    }

    pub fn connect(&self) -> MessageStream<TcpStream> {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        MessageStream::new(stream)
    }

    pub fn expect_sessions(&self, need: usize) {
        let start = Instant::now();
        while self.handle.session_count() != need {
            assert!(start.elapsed() < Duration::from_secs(10), "{} sessions", self.handle.session_count());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            assert!(joined.is_ok() || std::thread::panicking());
        }
        assert!(self.handle.session_count() == 0 || std::thread::panicking());
    }
}

pub fn options() -> Options {
    Options { threads: Some(1), heartbeat: Duration::from_millis(200), ..Options::default() }
}

/// Moves messages until it is the application's turn; collects the news.
pub fn pump(
    stream: &mut MessageStream<impl Read + Write>,
    client: &mut dyn StepSession,
) -> Result<Vec<ProgressReport>, Error> {
    let mut news = Vec::new();
    loop {
        while let Some(message) = client.next_message() {
            stream.send(&message)?;
        }
        if client.turn() != Turn::Peer {
            return Ok(news);
        }
        client.receive(stream.receive()?)?;
        news.extend(client.take_progress());
    }
}
