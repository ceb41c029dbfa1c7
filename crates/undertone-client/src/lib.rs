//! The client: turns a prompt into an answer with the work of a server that cannot read it.
//!
//! Stands at steps 1, 3, 4, 5, 8, 9 and 10 of the pipe; [`generate`](generate()) reads as that table. Keys are fresh
//! for every run unless one of the [`KeyStore`] is given. Decrypted values leave this crate only as tokens and as
//! figures of comparison, and go back to the server only as fresh encryptions; there is no retry on a malformed result.
#![forbid(unsafe_code)]

mod codec;
mod connection;
mod error;
mod generate;
mod key_store;
mod local_model;
mod open;
pub mod permuted;
mod prompt;
mod report;
mod twin;
mod upload;

pub use connection::Connection;
pub use error::Error;
pub use generate::{Observer, Request, generate};
pub use key_store::{KeyEntry, KeyStore};
pub use local_model::LocalModel;
pub use open::Way;
pub use prompt::{PRIVATE_LIMIT, Prompt};
pub use report::{RunReport, TokenReport};
pub use twin::{Comparison, compare};
pub use undertone_net::Endpoint;
