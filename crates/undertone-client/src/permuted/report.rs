//! What a run in mode `permuted` reports beside what every run does.

use crate::RunReport;
use serde::Serialize;
use std::collections::BTreeMap;

/// One pass of the two parties.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct StepReport {
    /// Rows of the step: tokens, drafted tokens, filler.
    pub rows: usize,
    /// Tokens that it led to.
    pub tokens: usize,
    /// Seconds from its first byte to its last.
    pub seconds: f64,
    /// Seconds of it in which the user computed.
    pub user_seconds: f64,
    /// Bundles that waited when it was over.
    pub stock: usize,
}

/// One run.
#[derive(Clone, Serialize)]
pub struct PermutedReport {
    /// What every run reports; the numbers of encryption are 0, `rounds` are those of the job online.
    #[serde(flatten)]
    pub run: RunReport,
    /// Bytes of contents of all flights, by kind.
    pub bytes_by_message: BTreeMap<&'static str, u64>,
    /// Bytes of bundles that the dealer gave the two parties.
    pub offline_bytes: u64,
    /// Seconds that the user waited for bundles and their preparation while a token was due.
    pub offline_seconds: f64,
    /// Bytes of the set-up: 0 when the masked weights were here.
    pub setup_bytes: u64,
    /// The emulated network, or `none`.
    pub profile: String,
    /// Whether nonlinear steps were evaluated on shares.
    pub strict: bool,
    /// Passes over the model.
    pub steps: Vec<StepReport>,
    /// Tokens for every pass after the prompt: above 1 when drafted tokens were right.
    pub tokens_per_pass: f64,
}
