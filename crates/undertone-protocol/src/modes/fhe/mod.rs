//! Mode `fhe`: the server computes on CKKS ciphertexts and holds no key that opens them.
//!
//! The client uploads evaluation keys in the order of the plan, then the encrypted private part of the prompt; each
//! further token is one encrypted embedding up and one set of encrypted logits down.

pub mod client;
mod engine;
mod memory;
pub mod message;
pub mod plan;
pub mod server;

use crate::message::WireShape;
use crate::session::Leak;

pub use client::Client;
pub use engine::CkksSetup;
pub use plan::{FhePlan, Prepared, prepare};
pub use server::{KeySink, Server};

/// What the server learns in this mode, and what the mode does not protect.
pub fn leakage(shape: &WireShape, padded_from: Option<u32>) -> Vec<Leak> {
    let count = match padded_from {
        Some(_) => format!(
            "The server sees that the private part is {} tokens long after filling up, not how many of them are filler.",
            shape.private_tokens
        ),
        None => format!(
            "The server sees that the private part is exactly {} tokens long; --pad-private-to hides it.",
            shape.private_tokens
        ),
    };
    let leak = |key, sentence: String| Leak { key, sentence };
    vec![
        leak("public_text", format!("The server reads the {} public tokens in the clear.", shape.public_tokens)),
        leak("private_token_count", count),
        leak(
            "positions",
            "The server sees that the private part follows the public part and at which positions.".into(),
        ),
        leak(
            "answer_length",
            format!("The server sees how many tokens are generated, at most {}.", shape.max_new_tokens),
        ),
        leak("timing", "The server sees when each token is asked for, and from which network address.".into()),
        leak("model_identity", "The server knows which model, calibration and parameters are used.".into()),
        leak(
            "unverified",
            "Results are not verified: a dishonest server can return a wrong answer, although it cannot read the \
             private text."
                .into(),
        ),
        leak(
            "transport",
            "The connection is not encrypted by itself; it is meant for this machine or a tunnel.".into(),
        ),
    ]
}
