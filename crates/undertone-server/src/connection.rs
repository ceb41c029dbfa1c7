//! A connection with total deadlines for what is read and for what is written, so that a peer that dribbles bytes, or
//! takes them in dribbles, cannot hold a session.

use crate::Options;
use crate::pace::announced;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};
use undertone_net::Connection;
use undertone_protocol::{Error, Message, MessageStream};

/// The connection of one session.
#[derive(Debug)]
pub(crate) struct TimedConnection {
    connection: Connection,
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

impl TimedConnection {
    /// Takes a fresh connection, whose hello is due.
    pub(crate) fn new(connection: Connection, options: &Options) -> Self {
        Self {
            connection,
            message_timeout: options.message_timeout,
            waited: Duration::ZERO,
            due: options.hello_timeout,
            begun: false,
            write_until: Instant::now(),
        }
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
    pub(crate) fn stirred(&mut self) -> bool {
        self.connection.stirred()
    }

    /// Ends the connection so that the last message still arrives.
    pub(crate) fn finish(&mut self) {
        self.connection.finish();
    }
}

impl Read for TimedConnection {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let left = self.due.saturating_sub(self.waited);
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.connection.set_read_timeout(left);
        let start = Instant::now();
        let result = self.connection.read(out);
        self.waited += start.elapsed();
        if !self.begun && matches!(result, Ok(1..)) {
            self.begun = true;
            self.due = self.due.min(self.waited + self.message_timeout);
        }
        result
    }
}

impl Write for TimedConnection {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let left = self.write_until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.connection.set_write_timeout(left);
        self.connection.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.connection.flush()
    }
}

/// Sends a message; it must be taken within its time, and chunks within the time of all that was announced.
///
/// # Errors
/// Those of [`MessageStream::send`].
pub(crate) fn send(
    stream: &mut MessageStream<TimedConnection>,
    message: &Message,
    options: &Options,
) -> Result<(), Error> {
    if !matches!(message, Message::Chunk(_)) {
        stream.inner_mut().allow_write(options.transfer_time(announced(message).unwrap_or(0)));
    }
    stream.send(message)
}
