//! Messages over anything that reads and writes bytes. Opening, timing and closing it is the driver's business.

use crate::message::Message;
use crate::{Error, Ledger, Wire};
use std::io::{ErrorKind, Read, Write};
use zeroize::Zeroize;

/// Bytes read at a time.
const READ_LEN: usize = 64 << 10;

/// Anything that carries bytes both ways: a socket, with TLS or without, or one behind an emulated network.
pub trait Duplex: Read + Write + Send {}

impl<T: Read + Write + Send> Duplex for T {}

/// Opens a connection to one peer, whenever one is needed.
pub type Dial = std::sync::Arc<dyn Fn() -> std::io::Result<Box<dyn Duplex>> + Send + Sync>;

/// A [`Wire`] on a byte stream.
#[derive(Debug)]
pub struct MessageStream<S> {
    stream: S,
    wire: Wire,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that are not consumed yet.
    pending: std::ops::Range<usize>,
    /// Whether seeds and bundles pass: then nothing stays in buffers here.
    secret: bool,
}

impl<S> MessageStream<S> {
    /// Messages over `stream`, from frame 0 on.
    pub fn new(stream: S) -> Self {
        Self { stream, wire: Wire::new(), buffer: vec![0; READ_LEN], pending: 0..0, secret: false }
    }

    /// From now on frames are wiped here once they are sent or taken, because seeds and bundles pass.
    pub fn keep_nothing(&mut self) {
        self.secret = true;
    }

    /// The stream itself.
    pub fn inner(&self) -> &S {
        &self.stream
    }

    /// The stream itself, for settings.
    pub fn inner_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// What travelled so far.
    pub fn ledger(&self) -> &Ledger {
        self.wire.ledger()
    }

    /// Whether bytes of the peer wait that no message has taken.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }
}

impl<S: Read + Write> MessageStream<S> {
    /// Writes one message in full.
    ///
    /// # Errors
    /// Those of [`Message::encode`], `Silent` when the stream times out, `Connection` or `Transport` when it fails.
    pub fn send(&mut self, message: &Message) -> Result<(), Error> {
        let mut frame = self.wire.encode(message)?;
        let sent = self.stream.write_all(&frame).and_then(|()| self.stream.flush()).map_err(failed);
        if self.secret {
            frame.zeroize();
        }
        sent
    }

    /// Reads one message.
    ///
    /// # Errors
    /// `Closed` at the end between two frames, `Truncated` inside one, `Silent` when the stream times out, after
    /// which it may be called again, `Connection` or `Transport` when it fails, and those of [`Wire::feed`].
    pub fn receive(&mut self) -> Result<Message, Error> {
        loop {
            while !self.pending.is_empty() {
                let mut input = &self.buffer[self.pending.clone()];
                let message = self.wire.feed(&mut input)?;
                let taken = self.pending.start..self.pending.end - input.len();
                self.pending.start = taken.end;
                if self.secret {
                    self.buffer[taken].zeroize();
                }
                if let Some(message) = message {
                    return Ok(message);
                }
            }
            match self.stream.read(&mut self.buffer) {
                Ok(0) => {
                    self.wire.finish()?;
                    return Err(Error::Closed);
                }
                Ok(len) => self.pending = 0..len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::of_io(&error)
}

impl Error {
    /// What a stream, or the attempt to open one, reports.
    pub fn of_io(error: &std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Silent,
            // An error with something inside is one of the layer below, which words it better than its kind does.
            kind => match error.get_ref() {
                Some(cause) => Self::Transport { sentence: cause.to_string() },
                None => Self::Connection { kind },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// Reads at most three bytes at a time.
    struct Dribble(Cursor<Vec<u8>>);

    impl Read for Dribble {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let len = out.len().min(3);
            self.0.read(&mut out[..len])
        }
    }

    impl Write for Dribble {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn messages_arrive_in_pieces_and_the_end_is_told_apart() {
        let mut wire = Wire::new();
        let mut bytes = wire.encode(&Message::KeysDone).unwrap();
        bytes.extend(wire.encode(&Message::Chunk(vec![4; 100])).unwrap());
        let mut stream = MessageStream::new(Dribble(Cursor::new(bytes.clone())));
        assert!(stream.receive().unwrap() == Message::KeysDone);
        assert!(stream.receive().unwrap() == Message::Chunk(vec![4; 100]));
        assert_eq!(stream.receive().unwrap_err(), Error::Closed);

        bytes.pop();
        let mut stream = MessageStream::new(Dribble(Cursor::new(bytes)));
        stream.receive().unwrap();
        assert!(matches!(stream.receive(), Err(Error::Truncated { .. })));
    }
}
