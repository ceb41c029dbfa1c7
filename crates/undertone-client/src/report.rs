//! What a run reports, under the names that people see in `--json`.

use serde::Serialize;

/// One generated token.
#[derive(Clone, Default, Serialize)]
pub struct TokenReport {
    /// The token.
    pub id: u32,
    /// The text it adds; empty inside a character of several tokens, and without a tokenizer.
    pub text: String,
    /// The most likely token of the clear model after the same tokens; absent without weights to compare with.
    pub clear_id: Option<u32>,
    /// Whether the most likely token is the same in private and in the clear.
    pub top1_agrees: Option<bool>,
    /// KL(clear ‖ private) of the two distributions, in nats.
    pub kl: Option<f64>,
    /// The largest difference of two logits.
    pub max_logit_error: Option<f64>,
    /// By how much the clear model prefers `clear_id` to every other token, in logits.
    pub clear_margin: Option<f64>,
    /// Seconds from embedding the token before it to knowing this one.
    pub seconds: f64,
}

/// One run.
#[derive(Clone, Serialize)]
pub struct RunReport {
    /// The mode.
    pub mode: &'static str,
    /// How the layers ran in mode fhe: `slots` or `turns`; absent in other modes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<&'static str>,
    /// Security of the parameters in bits; 0 where nothing is encrypted or parameters are for tests.
    pub security_bits: u32,
    /// The ring degree N.
    pub ring_degree: usize,
    /// log2 of the largest modulus.
    pub log_qp: f64,
    /// log2 of the probability that one bootstrap fails.
    pub failure_log2: f64,
    /// Public tokens, BOS included.
    pub public_tokens: usize,
    /// Private tokens, filler included.
    pub private_tokens: usize,
    /// The answer.
    pub tokens: Vec<TokenReport>,
    /// The text of all tokens.
    pub text: String,
    /// Seconds from connecting to the last key sent.
    pub setup_seconds: f64,
    /// Seconds to the first token after that.
    pub prefill_seconds: f64,
    /// Bootstraps of all steps, as the server counted them; 0 in mode clear.
    pub bootstraps: u64,
    /// Key switches of all steps, as the server counted them; 0 in mode clear.
    pub key_switches: u64,
    /// Bytes sent, frame headers included.
    pub bytes_up: u64,
    /// Bytes received, frame headers included.
    pub bytes_down: u64,
    /// Bytes of evaluation keys, part of `bytes_up`.
    pub key_bytes: u64,
    /// Rounds: how often the client waited for an answer.
    pub rounds: u64,
    /// Peak memory; filled in by the program that knows its processes.
    pub peak_rss_bytes: Option<u64>,
    /// What the server learns, what it cannot read, and what is not protected.
    pub leakage: Vec<String>,
}
