//! Mode `fhe`: the server computes on CKKS ciphertexts and holds no key that opens them.
//!
//! The parameter set says how the layers run: through slots, or in turns where its chain has a product prime; the client
//! takes the one that costs less ([`choose`]) from those that the server offers.
//! The client uploads evaluation keys in the order of the plan, then the encrypted private part of the prompt; each
//! further token is one encrypted embedding up and one set of encrypted logits down.

pub mod client;
mod engine;
mod memory;
pub mod message;
pub mod plan;
pub mod route;
pub mod server;

use crate::message::WireShape;
use crate::session::Leak;

pub use client::Client;
pub use engine::CkksSetup;
pub use memory::{session_bytes, waiting_otherwise};
pub use plan::{FhePlan, Prepared, prepare};
pub use route::{Candidate, Choice, Route, choose};
pub use server::{KeySink, Server};

/// Whether this build knows the parameter sets for tests, which protect nothing; it speaks to builds of its kind only.
pub const KNOWS_TEST_PARAMETERS: bool = cfg!(feature = "insecure-test-parameters");

/// What the server learns in this mode, what it cannot read, and what the mode does not protect.
///
/// Without a shape, the statement holds for any session and names no numbers; `padded_from` then means nothing.
pub fn leakage(shape: Option<&WireShape>, padded_from: Option<u32>) -> Vec<Leak> {
    let (public, count, answer) = match shape {
        Some(shape) => (
            format!("The server reads the {} public tokens in the clear.", shape.public_tokens),
            private_count(shape.private_tokens, padded_from.is_some()),
            format!("The server sees how many tokens are generated, at most {}.", shape.max_new_tokens),
        ),
        None => (
            "The server reads every public token in the clear.".to_owned(),
            "The server sees exactly how many private tokens there are; --pad-private-to hides the number.".to_owned(),
            "The server sees how many tokens are generated.".to_owned(),
        ),
    };
    let fixed = [
        ("positions", "The server sees that the private part follows the public part and at which positions."),
        ("timing", "The server sees when each token is asked for, and from which network address."),
        ("model_identity", "The server knows which model, calibration and parameters are used."),
        ("hidden", "The server cannot read the private text, the activations, the logits or the generated text."),
        (
            "unverified",
            "Results are not verified: a dishonest server can return wrong results, although it cannot read the private \
             text.",
        ),
        (
            "transport",
            "Someone on the network sees sizes and times of messages, and so the token counts. TLS hides the rest; without TLS \
             both programs must be on one machine, whose administrator sees what the server sees.",
        ),
        ("feedback", "Do not hand logits or exact probabilities back to the server: they can reveal the secret key."),
    ];
    let counted = [("public_text", public), ("private_token_count", count), ("answer_length", answer)];
    let fixed = fixed.into_iter().map(|(key, sentence)| (key, sentence.to_owned()));
    counted.into_iter().chain(fixed).map(|(key, sentence)| Leak { key, sentence }).collect()
}

fn private_count(tokens: u32, padded: bool) -> String {
    if padded {
        format!(
            "The server sees that the private part is {tokens} tokens long after filling up, not how many are filler."
        )
    } else {
        format!("The server sees that the private part is exactly {tokens} tokens long; --pad-private-to hides it.")
    }
}
