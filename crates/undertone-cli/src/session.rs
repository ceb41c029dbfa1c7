//! What `run`, `demo` and `eval` share: a server to talk to, progress of a run, and its report.

use crate::cleanup::Cleanup;
use crate::connection::ConnectionArguments;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::key_place::KeyPlaceArguments;
use crate::memory::peak_rss_bytes_of;
use crate::progress::Progress;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use undertone_client::{Observer, RunReport, TokenReport};
use undertone_net::Endpoint;
use undertone_protocol::message::ProgressReport;

/// Steps of the progress bar of one computation.
const FRACTION_STEPS: f64 = 1000.0;
/// Longest first line of a server, in bytes.
const LONGEST_READY_LINE: u64 = 4096;
/// Bytes of a server's standard error that are kept for a message.
const LAST_WORDS: usize = 4096;

/// Where the computation happens.
pub struct ServerAddress {
    /// The server, and how to reach it.
    pub endpoint: Endpoint,
    /// The process, when it was started here.
    process: Option<u32>,
}

impl ServerAddress {
    /// The server that the user named, or a child process that serves `model`.
    ///
    /// The child is reached without TLS: what passes between two processes of one user stays in this machine, whose
    /// administrator reads their memory anyway, and a certificate for it would only be one more key to lose.
    ///
    /// # Errors
    /// `Usage` for an address that does not resolve, or for a place of keys at somebody else's server; `Net` for TLS flags
    /// that are refused, `ServerMissing` or `ServerStart` for a child that does not come up.
    pub fn of(
        connection: &ConnectionArguments,
        model: &Path,
        keys: &KeyPlaceArguments,
        context: &Context,
    ) -> Result<Self> {
        match connection.endpoint()? {
            Some(_) if keys.any() => {
                let remedy = "give it to `undertone serve` there";
                Err(Error::Usage(format!("--key-folder is for a server that is started here; {remedy}")))
            }
            Some(endpoint) => Ok(Self { endpoint, process: None }),
            None => {
                let mut started = start(model, keys, context)?;
                started.endpoint.network = connection.network;
                Ok(started)
            }
        }
    }

    /// Peak memory of the child process; 0 when the server is somebody else's.
    pub fn peak_rss_bytes(&self) -> u64 {
        self.process.map_or(0, peak_rss_bytes_of)
    }
}

/// The program `undertone-server`, next to this one.
///
/// # Errors
/// `ServerMissing` when it is not there.
pub fn server_program() -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(|source| Error::System { what: "finding this program", source })?;
    let program = own.with_file_name(format!("undertone-server{}", std::env::consts::EXE_SUFFIX));
    if program.is_file() { Ok(program) } else { Err(Error::ServerMissing { path: program }) }
}

/// Starts the server and waits until it says where it listens.
fn start(model: &Path, keys: &KeyPlaceArguments, context: &Context) -> Result<ServerAddress> {
    let mut command = Command::new(server_program()?);
    command.arg("--model").arg(model).args(["--listen", "127.0.0.1:0", "--json"]).args(keys.flags());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |source| Error::System { what: "starting undertone-server", source };
    let pipes = |child: &mut Child| (child.stdout.take(), child.stderr.take());
    let (process, (stdout, stderr)) = context.cleanup.spawn(&mut command, pipes).map_err(failed)?;
    // Read for as long as the server runs, because a full pipe would make it wait.
    let last_words = std::thread::spawn(move || stderr.map(tail).unwrap_or_default());
    let mut line = String::new();
    if let Some(stdout) = stdout {
        // An unreadable line is an empty one, which is reported below.
        let _ = BufReader::new(stdout).take(LONGEST_READY_LINE).read_line(&mut line);
    }
    let ready: Option<SocketAddr> =
        serde_json::from_str::<serde_json::Value>(&line).ok().and_then(|line| line["address"].as_str()?.parse().ok());
    let Some(address) = ready else {
        context.cleanup.end(process);
        let text = last_words.join().unwrap_or_default();
        let cause = text.lines().last().unwrap_or("it said nothing").trim_start_matches("undertone-server: ");
        return Err(Error::ServerStart { cause: cause.to_owned() });
    };
    Ok(ServerAddress { endpoint: address.into(), process: Some(process) })
}

/// Reads to the end and keeps the last bytes as text.
fn tail(mut from: impl Read) -> String {
    let (mut kept, mut buffer) = (Vec::new(), [0u8; LAST_WORDS]);
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..count]);
        let surplus = kept.len().saturating_sub(LAST_WORDS);
        kept.drain(..surplus);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Shows a run as progress.
pub struct RunProgress<'a> {
    progress: &'a Progress,
    cleanup: &'a Cleanup,
    stage: Option<Stage>,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Keys,
    Step(usize),
}

impl<'a> RunProgress<'a> {
    /// Shows the first sign of life.
    pub fn new(context: &'a Context) -> Self {
        context.progress.begin("connecting", 1);
        Self { progress: &context.progress, cleanup: &context.cleanup, stage: None }
    }

    /// The same display for the next run.
    pub fn next_run(self) -> Self {
        Self { stage: None, ..self }
    }

    fn enter(&mut self, stage: Stage, total: u64) {
        if self.stage == Some(stage) {
            return;
        }
        self.stage = Some(stage);
        match stage {
            Stage::Keys => self.progress.begin("keys", total),
            Stage::Step(0) => self.progress.begin("prompt", total),
            Stage::Step(step) => self.progress.begin(&format!("token {}", step + 1), total),
        }
    }
}

impl Observer for RunProgress<'_> {
    fn key(&mut self, done: usize, total: usize, done_bytes: u64, total_bytes: u64) {
        self.enter(Stage::Keys, total as u64);
        let detail = format!("{} of {} MB sent", done_bytes / 1_000_000, total_bytes / 1_000_000);
        self.progress.advance_to(done as u64, &detail);
    }

    fn progress(&mut self, step: usize, report: &ProgressReport) {
        self.enter(Stage::Step(step), FRACTION_STEPS as u64);
        let detail = if report.layer < report.layers {
            format!("layer {}/{}, {} done", report.layer + 1, report.layers, report.stage)
        } else {
            report.stage.clone()
        };
        self.progress.advance_to((f64::from(report.fraction) * FRACTION_STEPS) as u64, &detail);
    }

    fn stopped(&self) -> bool {
        self.cleanup.interrupted()
    }

    fn token(&mut self, _: &TokenReport) {
        if let Some(Stage::Step(_)) = self.stage {
            self.progress.advance_to(FRACTION_STEPS as u64, "token known");
        }
    }
}

/// The report as a table with the leakage statement below.
pub fn text(report: &RunReport) -> String {
    let mut lines = vec![
        report.text.clone(),
        String::new(),
        format!(
            "{:>5} {:>8} {:>8} {:>12} {:>12} {:>12} {:>9}  text",
            "token", "id", "clear", "KL (nats)", "logit error", "clear margin", "seconds"
        ),
    ];
    let figure = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2e}"));
    for (index, token) in report.tokens.iter().enumerate() {
        lines.push(format!(
            "{:>5} {:>8} {:>8} {:>12} {:>12} {:>12} {:>9.1}  {:?}",
            index + 1,
            token.id,
            token.clear_id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
            figure(token.kl),
            figure(token.max_logit_error),
            figure(token.clear_margin),
            token.seconds,
            token.text
        ));
    }
    let mib = |bytes: u64| bytes as f64 / (1u64 << 20) as f64;
    lines.extend([
        String::new(),
        verdict(report).to_owned(),
        format!(
            "{} bits of security (N = {}, log QP {:.0}), failure 2^{:.0} per bootstrap",
            report.security_bits, report.ring_degree, report.log_qp, report.failure_log2
        ),
        format!(
            "{} public and {} private tokens, {} bootstraps, {} key switches",
            report.public_tokens, report.private_tokens, report.bootstraps, report.key_switches
        ),
        format!(
            "{:.0} MiB up ({:.0} MiB of keys), {:.1} MiB down, {:.1} s for keys, {:.1} s to the first token, peak memory {:.1} GiB",
            mib(report.bytes_up),
            mib(report.key_bytes),
            mib(report.bytes_down),
            report.setup_seconds,
            report.prefill_seconds,
            mib(report.peak_rss_bytes.unwrap_or(0)) / 1024.0
        ),
        String::new(),
        "What the server learns, what it cannot read, and what is not protected:".to_owned(),
    ]);
    lines.extend(report.leakage.iter().map(|sentence| format!("  - {sentence}")));
    lines.join("\n")
}

/// How the tokens compare with the clear model's, in one sentence.
fn verdict(report: &RunReport) -> &'static str {
    if disagreement(report).is_some() {
        "NOT every token is the one that the clear model prefers; see the table."
    } else if report.tokens.iter().all(|token| token.top1_agrees == Some(true)) {
        "Every token is the one that the clear model prefers."
    } else {
        "There were no weights here to compare the tokens with."
    }
}

/// The first token where the most likely one differs from the clear model's, with its place from 1.
pub fn disagreement(report: &RunReport) -> Option<(usize, &TokenReport)> {
    (1..).zip(&report.tokens).find(|(_, token)| token.top1_agrees == Some(false))
}

/// Prints a report, with the memory of all processes that took part.
pub fn print(context: &Context, report: &mut RunReport, peak_rss_bytes: u64) -> Result<()> {
    context.progress.finish();
    report.peak_rss_bytes = Some(peak_rss_bytes);
    let object = serde_json::to_value(&*report)
        .map_err(|error| Error::System { what: "writing the report", source: std::io::Error::other(error) })?;
    context.result(&object, || text(report));
    Ok(())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A report of these tokens, each with what the clear model prefers.
    pub fn report_of(tokens: &[(u32, Option<u32>)]) -> RunReport {
        let token = |&(id, clear_id): &(u32, Option<u32>)| TokenReport {
            id,
            clear_id,
            top1_agrees: clear_id.map(|clear| clear == id),
            seconds: 1.0,
            ..TokenReport::default()
        };
        RunReport {
            mode: "fhe",
            route: Some("slots"),
            security_bits: 128,
            ring_degree: 1 << 16,
            log_qp: 1.0,
            failure_log2: -128.0,
            public_tokens: 1,
            private_tokens: 1,
            tokens: tokens.iter().map(token).collect(),
            text: String::new(),
            setup_seconds: 1.0,
            prefill_seconds: 1.0,
            bootstraps: 0,
            key_switches: 0,
            bytes_up: 0,
            bytes_down: 0,
            key_bytes: 0,
            rounds: 2,
            peak_rss_bytes: None,
            leakage: Vec::new(),
        }
    }

    #[test]
    fn the_report_says_whether_every_token_agrees() {
        let agreeing = report_of(&[(5, Some(5)), (6, Some(6))]);
        assert!(disagreement(&agreeing).is_none() && text(&agreeing).contains("Every token"));
        let differing = report_of(&[(5, Some(5)), (6, Some(7)), (8, Some(9))]);
        assert_eq!(disagreement(&differing).map(|(number, token)| (number, token.id)), Some((2, 6)));
        assert!(text(&differing).contains("NOT every token"));
        let alone = report_of(&[(5, None)]);
        assert!(disagreement(&alone).is_none() && text(&alone).contains("no weights"));
    }

    #[test]
    fn the_end_of_a_long_output_is_kept() {
        let text = format!("{}\nthe cause\n", "x".repeat(3 * LAST_WORDS));
        let kept = tail(text.as_bytes());
        assert_eq!(kept.len(), LAST_WORDS);
        assert!(kept.ends_with("x\nthe cause\n"));
        assert_eq!(tail("short".as_bytes()), "short");
    }
}
