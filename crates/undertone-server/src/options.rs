//! How a server behaves; everything has a default.

use crate::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Settings of a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Sessions served at a time; more are told to come back.
    pub max_sessions: usize,
    /// Most new tokens that a session may ask for. Planning a session takes time for each, before anything is paid.
    pub max_new_tokens: u32,
    /// Threads of the compute pool; `None` takes one per core.
    pub threads: Option<usize>,
    /// Longest time for one message to arrive, and for one write to be taken.
    pub idle_timeout: Duration,
    /// Longest time from connection to hello.
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
            max_sessions: 4,
            max_new_tokens: 512,
            threads: None,
            idle_timeout: Duration::from_secs(600),
            hello_timeout: Duration::from_secs(10),
            heartbeat: Duration::from_secs(5),
            memory_bytes: None,
        }
    }
}

impl Options {
    /// Refuses what would expose a session.
    ///
    /// # Errors
    /// `NotLoopback`.
    pub fn check(&self) -> Result<(), Error> {
        if self.listen.ip().is_loopback() { Ok(()) } else { Err(Error::NotLoopback { address: self.listen }) }
    }
}
