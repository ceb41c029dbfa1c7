//! Where a client finds its server, and how it talks to it.

use crate::{ClientTls, Connection, Error, Network};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The address of a server, and the TLS settings for it; without them it must be on this machine.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// How to prove oneself, and which certificates to accept.
    pub tls: Option<ClientTls>,
    /// A network to pretend between the two, for measurements.
    pub network: Option<Network>,
}

impl From<SocketAddr> for Endpoint {
    /// A server on this machine, without TLS and as near as it is.
    fn from(address: SocketAddr) -> Self {
        Self { address, tls: None, network: None }
    }
}

impl Endpoint {
    /// Connects and agrees on TLS, all of it within `time`.
    ///
    /// # Errors
    /// `NotLoopback`, `Connect`, or what [`Connection::begin`] reports.
    pub fn connect(&self, time: Duration) -> Result<Connection, Error> {
        if self.tls.is_none() && !self.address.ip().is_loopback() {
            return Err(Error::NotLoopback { address: self.address });
        }
        let failed = |error: std::io::Error| Error::Connect { address: self.address, kind: error.kind() };
        let until = Instant::now() + time;
        let mut stream = TcpStream::connect_timeout(&self.address, time).map_err(failed)?;
        if let Some(network) = self.network {
            stream = network.before(stream).map_err(failed)?;
            // What the handshake of TCP itself would have taken.
            std::thread::sleep(2 * network.delay);
        }
        let left = until.saturating_duration_since(Instant::now());
        Connection::begin(stream, self.address, self.tls.as_ref(), left)
    }
}
