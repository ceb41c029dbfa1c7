//! Mode `permuted`: two parties with secret shares, nonlinear steps on permuted values, a dealer who works ahead.
//!
//! After hello and welcome, every step is: `step_begin` and the flight `prepare` from the user, before the prompt is
//! needed; then flights to and fro in the fixed order of `undertone-shares`, one up and one down a round, each as
//! `flight_begin` and chunks. Drivers take bundles from their stores, which never give one out twice.
//!
//! A step begins when the one before is complete, so `prepare` travels between two tokens too.
//!
//! Two more kinds of sessions surround these: `setup` brings a user the public model and the masked weights, `deal`
//! brings both parties their bundles. The hello carries digests of what the parties must have in common.

pub mod client;
pub mod deal;
mod digest;
mod link;
pub mod message;
pub mod plan;
pub mod server;
pub mod setup;

use crate::session::Leak;

pub use client::Client;
pub use deal::DealServer;
pub use digest::{Digests, masked_digest};
pub use link::{DealLink, SetupLink};
pub use plan::{FlightLedger, FlightTraffic};
pub use server::Server;
pub use setup::SetupServer;

/// What each party learns in this mode, with nonlinear steps on permuted values or on shares, and what the mode does not
/// protect.
pub fn leakage(strict: bool) -> Vec<Leak> {
    let permuted = [
        (
            "weights",
            "The user sees activations in a secret order. That is obfuscation, not encryption: many of them can reveal \
             weights.",
        ),
        (
            "dishonest_user",
            "A user who departs from the protocol obtains the weights exactly, within about a third as many tokens as \
             the hidden size.",
        ),
        (
            "lookup",
            "A dishonest user learns one token id per step for a place of its choice in the permuted logits, no more.",
        ),
    ];
    let strictly = [
        (
            "weights",
            "The user sees chosen tokens and nothing else of what the model computes: weights leak only through the \
             answers.",
        ),
        (
            "dishonest_user",
            "A user who departs from the protocol can put shares of its choice into every step and learn about weights \
             from the tokens; nothing is checked.",
        ),
    ];
    let sentences = [
        (
            "hidden",
            "The provider cannot read the text, the activations, the logits or the generated text: cryptographic shares \
             hide them.",
        ),
        (
            "length",
            "The provider sees exactly how many tokens the prompt has, how many are generated, and how many drafted \
             tokens were right.",
        ),
        ("timing", "The provider sees when each token is asked for, and from which network address."),
        (
            "model_identity",
            "The user learns the configuration and the largest weight of every matrix, to a factor of two.",
        ),
        (
            "dealer",
            "The dealer and the provider together can read the text; the dealer and the user together can read the \
             weights.",
        ),
        ("unverified", "Results are not verified: a dishonest provider can return wrong results."),
    ];
    let weights = if strict { &strictly[..] } else { &permuted[..] };
    sentences
        .iter()
        .chain(weights)
        .copied()
        .map(|(key, sentence)| Leak { key, sentence: sentence.to_owned() })
        .collect()
}
