//! How a server behaves; everything has a default.

use crate::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use undertone_net::ServerTls;

/// Settings of a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// The certificate to show and the clients to accept; without it, loopback addresses only.
    pub tls: Option<ServerTls>,
    /// Sessions served at a time; more are told to come back.
    pub max_sessions: usize,
    /// Sessions served at a time of one client, which its certificate tells from others; without TLS there is no telling.
    pub max_sessions_per_client: usize,
    /// Most new tokens that a session may ask for. Planning a session takes time for each, before anything is paid.
    pub max_new_tokens: u32,
    /// Threads of the compute pool; `None` takes one per core.
    pub threads: Option<usize>,
    /// Longest time that a client may be idle: between the welcome and the prompt, apart from what it sends then, and
    /// before every token.
    pub idle_timeout: Duration,
    /// Longest time for one message to arrive once it has begun, and to be taken; added to every transfer.
    pub message_timeout: Duration,
    /// The slowest transfer that is waited for: what was announced has this pace on average, or the session ends.
    pub slowest_bytes_per_second: u64,
    /// Longest time from connection to the end of the TLS handshake, and from there to hello.
    pub hello_timeout: Duration,
    /// Time between two signs of life while computing.
    pub heartbeat: Duration,
    /// Memory for all sessions in bytes; `None` takes nine tenths of what is free at the start.
    pub memory_bytes: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: None,
            max_sessions: 4,
            max_sessions_per_client: 2,
            max_new_tokens: 512,
            threads: None,
            // A person who reads a token and decides whether to go on.
            idle_timeout: Duration::from_secs(600),
            // A message is at most a mebibyte and usually a frame on the loopback interface; a client machine that is
            // busy with something else may be stopped for many seconds.
            message_timeout: Duration::from_secs(60),
            // An uplink of two megabits a second behind a tunnel, over which a gibibyte of keys takes an hour.
            slowest_bytes_per_second: 256 << 10,
            hello_timeout: Duration::from_secs(10),
            heartbeat: Duration::from_secs(5),
            memory_bytes: None,
        }
    }
}

impl Options {
    /// The longest time for a transfer of `bytes`.
    pub(crate) fn transfer_time(&self, bytes: u64) -> Duration {
        self.message_timeout + Duration::from_secs_f64(bytes as f64 / self.slowest_bytes_per_second.max(1) as f64)
    }

    /// Refuses what would expose a session.
    ///
    /// # Errors
    /// `NotLoopback`.
    pub fn check(&self) -> Result<(), Error> {
        if self.tls.is_some() || self.listen.ip().is_loopback() {
            Ok(())
        } else {
            Err(Error::NotLoopback { address: self.listen })
        }
    }
}
