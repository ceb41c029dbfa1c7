//! A TCP socket whose reads and writes end at a given instant, however many system calls they take.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// Bytes taken from the socket at a time; TLS asks for 4 KiB, of which a gibibyte of keys would take a quarter million.
const READ_LEN: usize = 64 << 10;

/// How long a peer may be unreachable, or take nothing at all, before the operating system gives the connection up: the
/// longest that a client waits for a server in any case.
#[cfg(target_os = "linux")]
const UNREACHABLE: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    read_until: Instant,
    write_until: Instant,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that are not consumed yet.
    pending: std::ops::Range<usize>,
}

impl Socket {
    /// Takes a fresh socket. Nothing can be read or written before a time is allowed for it.
    pub(crate) fn new(stream: TcpStream) -> std::io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(false)?;
        notice_unreachable(&stream);
        let now = Instant::now();
        Ok(Self { stream, read_until: now, write_until: now, buffer: Vec::new(), pending: 0..0 })
    }

    /// What is read from now on must arrive within `time`.
    pub(crate) fn allow_read(&mut self, time: Duration) {
        self.read_until = later(time);
    }

    /// What is written from now on must be taken within `time`.
    pub(crate) fn allow_write(&mut self, time: Duration) {
        self.write_until = later(time);
    }

    /// Whether bytes or the end of the peer wait, looked up within about a millisecond.
    pub(crate) fn stirred(&self) -> bool {
        if !self.pending.is_empty() || self.stream.set_read_timeout(Some(Duration::from_millis(1))).is_err() {
            return true;
        }
        match self.stream.peek(&mut [0]) {
            Ok(_) => true,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted),
        }
    }

    /// Reads into the whole of `out` or less, past the buffer; for channels that keep one of their own.
    pub(crate) fn read_direct(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let left = self.read_until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(out).map_err(timed_out)
    }

    pub(crate) fn shutdown(&self, half: Shutdown) -> std::io::Result<()> {
        self.stream.shutdown(half)
    }
}

impl Read for Socket {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.pending.is_empty() {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize(READ_LEN, 0);
            let read = self.read_direct(&mut buffer);
            self.buffer = buffer;
            self.pending = 0..read?;
        }
        let len = out.len().min(self.pending.len());
        out[..len].copy_from_slice(&self.buffer[self.pending.start..self.pending.start + len]);
        self.pending.start += len;
        Ok(len)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let left = self.write_until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_write_timeout(Some(left))?;
        self.stream.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

/// An instant after `time`, or one that is far enough where the clock ends.
fn later(time: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(1 << 30);
    Instant::now() + time.min(FAR)
}

/// A blocked call that ran out of time is `WouldBlock` on some systems.
fn timed_out(error: std::io::Error) -> std::io::Error {
    if error.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { error }
}

/// Has the system probe a silent peer and end a connection whose peer does not answer, so that one that vanished
/// without a word is noticed although nothing but small signs of life is sent to it. A system that refuses one of these is
/// still usable: the time limits of reads and writes do not depend on them.
#[cfg(target_os = "linux")]
fn notice_unreachable(stream: &TcpStream) {
    use rustix::net::sockopt;
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, UNREACHABLE / 4);
    let _ = sockopt::set_tcp_keepintvl(stream, UNREACHABLE / 4);
    let _ = sockopt::set_tcp_keepcnt(stream, 3);
    let _ = sockopt::set_tcp_user_timeout(stream, UNREACHABLE.as_millis() as u32);
}

#[cfg(not(target_os = "linux"))]
fn notice_unreachable(_: &TcpStream) {}
