//! The connection to a server, and the loop that moves messages.

use crate::{Error, Observer};
use std::time::{Duration, Instant};
use undertone_net::Endpoint;
use undertone_protocol::{Error as ProtocolError, Message, MessageStream, StepSession, Turn};

/// Longest time to connect and to agree on TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of a server; a working one gives a sign of life every few seconds.
const SILENCE: Duration = Duration::from_secs(120);
/// How long the last message of a server that has closed is waited for.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How soon a wish to stop is noticed while the server is silent.
const ATTENTION: Duration = Duration::from_millis(200);

/// An open connection; says farewell when dropped.
pub struct Connection {
    stream: MessageStream<undertone_net::Connection>,
}

impl Connection {
    /// Connects to a server.
    ///
    /// # Errors
    /// Those of [`Endpoint::connect`].
    pub fn open(server: &Endpoint) -> Result<Self, Error> {
        let mut connection = server.connect(CONNECT_TIMEOUT)?;
        connection.set_read_timeout(ATTENTION);
        connection.set_write_timeout(SILENCE);
        Ok(Self { stream: MessageStream::new(connection) })
    }

    /// Sends what the session has to say.
    ///
    /// When the server has closed, its last message says why; it is worth more than the failed write.
    ///
    /// # Errors
    /// What the connection or the server reports.
    pub fn flush(&mut self, session: &mut dyn StepSession) -> Result<(), Error> {
        while let Some(message) = session.next_message() {
            if let Err(error) = self.stream.send(&message) {
                return Err(self.last_message(session).unwrap_or_else(|| error.into()));
            }
        }
        Ok(())
    }

    /// Why the server, or the TLS below, has ended the connection, if it says so.
    fn last_message(&mut self, session: &mut dyn StepSession) -> Option<Error> {
        let start = Instant::now();
        loop {
            match self.stream.receive() {
                Err(ProtocolError::Silent) if start.elapsed() < LAST_WORDS => {}
                Ok(message) => {
                    if let Err(error) = session.receive(message) {
                        return Some(error.into());
                    }
                }
                Err(error @ (ProtocolError::Transport { .. } | ProtocolError::TlsPeer)) => return Some(error.into()),
                Err(_) => return None,
            }
        }
    }

    /// The next message of the server.
    fn receive(&mut self, observer: &dyn Observer) -> Result<Option<Message>, Error> {
        let start = Instant::now();
        loop {
            match self.stream.receive() {
                Err(ProtocolError::Silent) if observer.stopped() => return Ok(None),
                // Not silent: a message that takes long to arrive, or a server that was not listened to for a while.
                Err(ProtocolError::Silent) if start.elapsed().min(self.stream.inner().silence()) < SILENCE => {}
                received => return Ok(Some(received?)),
            }
        }
    }

    /// Moves messages until the session waits for the application or is closed.
    ///
    /// # Errors
    /// What the connection, the server or the session reports, and `Stopped`.
    pub fn pump(
        &mut self,
        session: &mut dyn StepSession,
        step: usize,
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        loop {
            self.flush(session)?;
            if session.turn() != Turn::Peer {
                return Ok(());
            }
            if let Some(message) = self.receive(observer)? {
                session.receive(message)?;
            }
            if let Some(report) = session.take_progress() {
                observer.progress(step, &report);
            }
            if observer.stopped() {
                // Bye during a computation cancels it; if the server is gone already, so is the computation.
                session.close();
                let _ = self.flush(session);
                return Err(Error::Stopped);
            }
        }
    }

    /// What travelled so far.
    pub fn ledger(&self) -> &undertone_protocol::Ledger {
        self.stream.ledger()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.stream.inner_mut().close();
    }
}
