//! A TCP stream with a deadline per message, so that a peer that dribbles bytes cannot hold a session.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// The stream of one session.
#[derive(Debug)]
pub(crate) struct TimedStream {
    stream: TcpStream,
    deadline: Instant,
}

impl TimedStream {
    /// Takes a fresh connection whose first message is due within `timeout`.
    pub(crate) fn new(stream: TcpStream, timeout: Duration, write_timeout: Duration) -> std::io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(write_timeout))?;
        Ok(Self { stream, deadline: Instant::now() + timeout })
    }

    /// The next message is due within `timeout` from now.
    pub(crate) fn expect_within(&mut self, timeout: Duration) {
        self.deadline = Instant::now() + timeout;
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
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(out)
    }
}

impl Write for TimedStream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}
