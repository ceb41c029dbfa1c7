//! Mode `clear`: the same program on clear slots. It protects nothing.
//!
//! It is the reference of the [`Session`](crate::Session) seam: no keys, the same steps, milliseconds instead of
//! minutes. A server offers it only when its library is told to; the program `undertone-server` never is.

mod engine;
pub mod message;
pub mod plan;

use crate::session::Leak;

// There is nothing before the prompt, so both sides are the exchange itself.
pub use crate::exchange::{ClientExchange as Client, ServerExchange as Server};
pub use engine::engine;
pub use plan::{Prepared, chain_digest, prepare};

/// What the server learns in this mode: everything.
pub fn leakage() -> Vec<Leak> {
    vec![Leak { key: "everything", sentence: "The server reads the whole prompt and the whole answer.".to_owned() }]
}
