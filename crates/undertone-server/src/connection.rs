//! A TCP stream with total deadlines for what is read and for what is written, so that a peer that dribbles bytes, or
//! takes them in dribbles, cannot hold a session.

use crate::Options;
use crate::pace::announced;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};
use undertone_protocol::{Error, Message, MessageStream};

/// The stream of one session.
#[derive(Debug)]
pub(crate) struct TimedStream {
    stream: TcpStream,
    message_timeout: Duration,
    /// Time spent on reads so far.
    waited: Duration,
    /// The value of `waited` by which the message that is due must be complete.
    due: Duration,
    /// Whether a part of it has arrived.
    begun: bool,
    /// When what is being written must have been taken.
    write_until: Instant,
}

impl TimedStream {
    /// Takes a fresh connection, whose hello is due.
    pub(crate) fn new(stream: TcpStream, options: &Options) -> std::io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            message_timeout: options.message_timeout,
            waited: Duration::ZERO,
            due: options.hello_timeout,
            begun: false,
            write_until: Instant::now(),
        })
    }

    /// Time spent on waiting for the peer so far.
    pub(crate) fn waited(&self) -> Duration {
        self.waited
    }

    /// The next message must be complete when the time waited is `due`, and once it has begun, within the time of one
    /// message.
    pub(crate) fn expect_by(&mut self, due: Duration) {
        self.due = due;
        self.begun = false;
    }

    /// What is written from now on must have been taken within `time`.
    pub(crate) fn allow_write(&mut self, time: Duration) {
        self.write_until = Instant::now() + time;
    }

    /// Whether the peer has closed the connection or sent something, looked up within about a millisecond.
    pub(crate) fn stirred(&self) -> bool {
        if self.stream.set_read_timeout(Some(Duration::from_millis(1))).is_err() {
            return true;
        }
        match self.stream.peek(&mut [0]) {
            Ok(_) => true,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted),
        }
    }

    /// Ends the connection so that the last message still arrives.
    ///
    /// Closing a socket with unread input resets it, which can destroy what was just sent; so a bounded amount of
    /// input is read and thrown away first.
    pub(crate) fn finish(&mut self) {
        const MOST: usize = 8 << 20;
        let wanted = self.stream.shutdown(Shutdown::Write).is_ok()
            && self.stream.set_read_timeout(Some(Duration::from_millis(200))).is_ok();
        let mut sink = [0u8; 16 << 10];
        let mut seen = 0;
        let patience = Instant::now() + Duration::from_secs(1);
        while wanted && seen < MOST && Instant::now() < patience {
            match self.stream.read(&mut sink) {
                Ok(0) | Err(_) => break,
                Ok(len) => seen += len,
            }
        }
    }
}

impl Read for TimedStream {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let left = self.due.saturating_sub(self.waited);
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let start = Instant::now();
        let result = self.stream.read(out);
        self.waited += start.elapsed();
        if !self.begun && matches!(result, Ok(1..)) {
            self.begun = true;
            self.due = self.due.min(self.waited + self.message_timeout);
        }
        result
    }
}

impl Write for TimedStream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let left = self.write_until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_write_timeout(Some(left))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

/// Sends a message; it must be taken within its time, and chunks within the time of all that was announced.
///
/// # Errors
/// Those of [`MessageStream::send`].
pub(crate) fn send(stream: &mut MessageStream<TimedStream>, message: &Message, options: &Options) -> Result<(), Error> {
    if !matches!(message, Message::Chunk(_)) {
        stream.inner_mut().allow_write(options.transfer_time(announced(message).unwrap_or(0)));
    }
    stream.send(message)
}
