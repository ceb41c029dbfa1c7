//! The server: a listening loop, one thread per connection, one computation at a time.
//!
//! Stands at steps 2, 6 and 7 of the pipe. It drives sessions of `undertone-protocol` over connections of
//! `undertone-net` and gives them a model through [`Host`]. Clients are untrusted: the number of sessions, their memory, every message and
//! every wait are bounded, and a client that goes away frees its session within one stage of the computation.
//! Under TLS only pinned clients are heard; without it only loopback addresses are listened to.
//! Absent on purpose: the secret keys of clients and anything that could hold one.
#![forbid(unsafe_code)]

mod compute;
mod connection;
mod error;
mod host;
mod memory;
mod model_host;
mod options;
mod pace;
mod permuted;
mod server;
mod sessions;
mod watch;

pub use error::Error;
pub use host::{Host, Opening};
pub use memory::{Budget, Reservation, SystemMemory};
pub use model_host::ModelHost;
pub use options::Options;
pub use permuted::{DealerAccess, PermutedHost, read_ticket};
pub use server::{Handle, Server};
