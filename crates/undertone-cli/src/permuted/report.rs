//! Tokens as they come, and the report at the end.

use crate::cleanup::Cleanup;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::progress::Progress;
use std::io::Write;
use undertone_client::TokenReport;
use undertone_client::permuted::{Follower, PermutedReport, StepReport};

/// Shows a generation: progress on standard error, text on standard output unless that is for an object.
pub struct Streaming<'a> {
    progress: &'a Progress,
    cleanup: Cleanup,
    streams: bool,
    tokens: usize,
    most: usize,
}

impl<'a> Streaming<'a> {
    /// Shows at most `most` tokens.
    pub fn new(context: &'a Context, most: usize) -> Self {
        context.progress.begin("prompt", 1);
        let (progress, cleanup) = (&context.progress, context.cleanup.clone());
        Self { progress, cleanup, streams: !context.json, tokens: 0, most }
    }
}

impl Follower for Streaming<'_> {
    fn prompt(&mut self, done: usize, total: usize) {
        if done == total {
            self.progress.begin("tokens", self.most as u64);
        } else {
            self.progress.advance_to(0, &format!("{done} of {total} tokens of the prompt"));
        }
    }

    fn token(&mut self, token: &TokenReport) {
        self.tokens += 1;
        if self.streams {
            let mut out = std::io::stdout().lock();
            // A reader that closed the pipe has seen what it wanted.
            let _ = write!(out, "{}", token.text).and_then(|()| out.flush());
        }
    }

    fn step(&mut self, step: &StepReport) {
        let detail = format!("{:.2} s, {} rows, {} bundles in stock", step.seconds, step.rows, step.stock);
        self.progress.advance_to(self.tokens as u64, &detail);
    }

    fn stopped(&self) -> bool {
        self.cleanup.interrupted()
    }
}

/// Prints a report, with the memory of the processes that are known.
pub fn print(context: &Context, report: &mut PermutedReport, peak_rss_bytes: u64) -> Result<()> {
    context.progress.finish();
    report.run.peak_rss_bytes = Some(peak_rss_bytes);
    let object = serde_json::to_value(&*report)
        .map_err(|error| Error::System { what: "writing the report", source: std::io::Error::other(error) })?;
    context.result(&object, || text(report));
    Ok(())
}

/// The first token that is not the twin's, with its place from 1.
pub fn disagreement(report: &PermutedReport) -> Option<(usize, &TokenReport)> {
    (1..).zip(&report.run.tokens).find(|(_, token)| token.top1_agrees == Some(false))
}

/// Seconds of a token after the first, on average.
fn seconds_per_token(report: &PermutedReport) -> f64 {
    let later = report.run.tokens.get(1..).unwrap_or_default();
    later.iter().map(|token| token.seconds).sum::<f64>() / later.len().max(1) as f64
}

/// The report as a table, with the leakage statement below. The text itself was shown while it came.
pub fn text(report: &PermutedReport) -> String {
    let run = &report.run;
    let mut lines =
        vec![String::new(), String::new(), format!("{:>5} {:>8} {:>8} {:>9}  text", "token", "id", "clear", "seconds")];
    lines.extend((1..).zip(&run.tokens).map(|(number, token)| {
        let clear = token.clear_id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        format!("{number:>5} {:>8} {clear:>8} {:>9.3}  {:?}", token.id, token.seconds, token.text)
    }));
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let verdict = match disagreement(report) {
        Some(_) => "NOT every token is the one that the clear twin prefers; see the table.",
        None if run.tokens.iter().all(|token| token.clear_id.is_some()) => {
            "Every token is the one that the clear fixed-point twin prefers."
        }
        None => "There were no weights here to compare the tokens with.",
    };
    lines.extend([
        String::new(),
        verdict.to_owned(),
        format!(
            "network {}: {:.2} s to the first token, {:.3} s per token after it, {:.2} tokens per pass",
            report.profile,
            run.prefill_seconds,
            seconds_per_token(report),
            report.tokens_per_pass
        ),
        format!(
            "{} tokens of prompt, {} rounds, {:.2} MB up, {:.2} MB down, {:.2} MB of bundles beforehand, {:.2} MB of \
             masked weights at set-up",
            run.public_tokens + run.private_tokens,
            run.rounds,
            megabytes(run.bytes_up),
            megabytes(run.bytes_down),
            megabytes(report.offline_bytes),
            megabytes(report.setup_bytes)
        ),
        format!(
            "{:.2} s to open the session, {:.2} s waited for bundles and their preparation, peak memory {:.2} GB",
            run.setup_seconds,
            report.offline_seconds,
            megabytes(run.peak_rss_bytes.unwrap_or(0)) / 1e3
        ),
        String::new(),
        "What each party learns, what is hidden, and what is not protected:".to_owned(),
    ]);
    lines.extend(run.leakage.iter().map(|sentence| format!("  - {sentence}")));
    lines.join("\n")
}
