//! The TCP connection to a server on this machine, and the loop that moves messages.

use crate::{Error, Observer};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use undertone_protocol::{MessageStream, StepSession, Turn};

/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of a server; a working one gives a sign of life every few seconds.
const SILENCE: Duration = Duration::from_secs(120);

/// An open connection.
pub struct Connection {
    stream: MessageStream<TcpStream>,
}

impl Connection {
    /// Connects to a server on this machine.
    ///
    /// # Errors
    /// `NotLoopback` for other machines, `Connect` when nobody listens.
    pub fn open(address: SocketAddr) -> Result<Self, Error> {
        if !address.ip().is_loopback() {
            return Err(Error::NotLoopback { address });
        }
        let failed = |error: std::io::Error| Error::Connect { address, kind: error.kind() };
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(SILENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(SILENCE)).map_err(failed)?;
        Ok(Self { stream: MessageStream::new(stream) })
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
                while let Ok(message) = self.stream.receive() {
                    session.receive(message)?;
                }
                return Err(error.into());
            }
        }
        Ok(())
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
            session.receive(self.stream.receive()?)?;
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
