//! `undertone eval`: quality of a mode over a prompt file, held against the clear model token by token.
//!
//! With `--out`, each finished prompt is one line of that file, and a run that was broken off continues where it
//! stopped. The first line binds the file to program, model, calibration, parameters and prompts.

mod journal;
mod permuted;

use crate::connection::ConnectionArguments;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::key_place::KeyPlaceArguments;
use crate::mode::Mode;
use crate::prompt::{PromptLine, prompt_lines, read_text};
use crate::route::{RouteArguments, parameters_for};
use crate::session::{RunProgress, ServerAddress, server_program};
use crate::version::{COMMIT, VERSION};
use clap::Args;
use journal::{Compared, Head, Journal, Outcome};
use std::path::{Path, PathBuf};
use undertone_client::{Error as ClientError, LocalModel, Prompt, Request, RunReport, TokenReport, Way, generate};
use undertone_he::Parameters;
use undertone_infer::Error as InferError;
use undertone_model::Sampler;
use undertone_protocol::modes::fhe::Route;

/// Flags of `undertone eval`.
#[derive(Debug, Args)]
#[command(after_help = "The prompt file holds lines like
  {\"public\": \"…\", \"private\": \"…\", \"max_new_tokens\": 8}
Decoding is greedy. An answer that left the calibrated ranges counts as an escape and gives no tokens. A token that differs
from the clear model's counts as unexplained where the clear margin, by which that token led in the clear, exceeds twice the
largest error of a logit.

In mode permuted provider and dealer are in this process. Tokens are compared with the clear model and with its fixed-point
twin; the user sees logits in an unknown order, so KL is that of the twin after the same tokens.

Examples:
  undertone eval --model DIR --mode fhe --prompts heldout.jsonl --out results.jsonl --json
  undertone eval --model DIR --mode permuted --prompts heldout.jsonl --json")]
pub struct EvalArguments {
    /// Hugging Face model directory, with its weights, in mode fhe with its calibration too
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,

    /// How the private part is protected
    #[arg(long, value_enum, default_value_t = Mode::Fhe)]
    pub mode: Mode,

    /// Prompts, one JSON object per line
    #[arg(long, value_name = "FILE.jsonl")]
    pub prompts: PathBuf,

    /// Keep finished prompts here and continue from them
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,

    #[command(flatten)]
    pub connection: ConnectionArguments,

    #[command(flatten)]
    pub route: RouteArguments,

    #[command(flatten)]
    pub key_place: KeyPlaceArguments,

    /// Use only the first prompts of the file
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

/// Runs the verb.
///
/// # Errors
/// Whatever the model, a prompt or the server gives rise to; finished prompts stay in the `--out` file.
pub fn run(arguments: &EvalArguments, context: &Context) -> Result<()> {
    arguments.mode.require_offered()?;
    arguments.route.check_mode(arguments.mode)?;
    let text = read_text(&arguments.prompts)?;
    let mut lines = prompt_lines(&text)?;
    if lines.is_empty() {
        return Err(Error::Usage("the prompt file is empty; write one JSON object per line".into()));
    }
    lines.truncate(arguments.limit.unwrap_or(usize::MAX));
    let journal = match arguments.mode {
        Mode::Permuted => permuted::run(arguments, &lines, &text, context)?,
        _ => run_fhe(arguments, &lines, &text, context)?,
    };
    let summary = journal.summary();
    let object = serde_json::to_value(&summary)
        .map_err(|error| Error::System { what: "writing the summary", source: std::io::Error::other(error) })?;
    context.result(&object, || summary.text());
    Ok(())
}

/// Runs what is left of `lines` under encryption and gives all results.
fn run_fhe(arguments: &EvalArguments, lines: &[PromptLine], text: &str, context: &Context) -> Result<Journal> {
    let model = LocalModel::load(&arguments.model, true)?;
    let (sets, only) = (Parameters::presets(), arguments.route.only());
    let prompts = lines.iter().map(|line| prompt(line, &model)).collect::<Result<Vec<_>>>()?;
    let server_here = arguments.connection.server.is_none().then(server_program).transpose()?;
    let programs = programs_digest(server_here.as_deref())?;
    let head = Head::new(identity(&model, &sets, only, &programs, text), VERSION, COMMIT);
    let mut journal = Journal::open(arguments.out.as_deref(), head, prompts.len())?;
    if journal.done() < prompts.len() {
        let mut progress = RunProgress::new(context);
        let server = ServerAddress::of(&arguments.connection, &arguments.model, &arguments.key_place, context)?;
        for (index, (prompt, line)) in prompts.iter().zip(lines).enumerate().skip(journal.done()) {
            context.progress.note(&format!("prompt {} of {}", index + 1, prompts.len()));
            let shape = prompt.shape(line.max_new_tokens, &model.config)?;
            let parameters = parameters_for(&sets, &model, shape, only)?;
            let request = Request {
                model: &model,
                prompt,
                max_new_tokens: line.max_new_tokens,
                sampler: &mut Sampler::greedy(),
                server: &server.endpoint,
                way: Way::Fhe { parameters: &parameters, key: None },
            };
            progress = progress.next_run();
            let conversation = context.cleanup.conversing();
            let generated = generate(request, &mut progress);
            drop(conversation);
            journal.append(outcome(index, generated)?)?;
        }
        context.progress.finish();
    }
    Ok(journal)
}

/// Every prompt is checked before the first is run.
fn prompt(line: &PromptLine, model: &LocalModel) -> Result<Prompt> {
    let prompt = Prompt::tokenize(model, &line.public, &line.private)?;
    prompt.shape(line.max_new_tokens, &model.config)?;
    Ok(prompt)
}

/// What a result depends on; a digest, so that no prompt stands in the results.
fn identity(
    model: &LocalModel,
    sets: &[Parameters],
    only: Option<Route>,
    programs: &blake3::Hash,
    prompts: &str,
) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("undertone evaluation, version 5");
    hasher.update(programs.as_bytes());
    hasher.update(&model.fingerprint);
    sets.iter().for_each(|set| {
        hasher.update(&set.digest());
    });
    // What is chosen follows from the sets, the model and the prompts; a flag is one thing more.
    hasher.update(&[only.map_or(0, |route| route as u8 + 1)]);
    hasher.update(blake3::hash(&model.calibration.to_json()).as_bytes());
    hasher.update(prompts.as_bytes());
    hasher.finalize().to_hex().to_string()
}

/// A digest of the programs that compute: two builds of one commit, with different uncommitted edits, differ in it.
fn programs_digest(server: Option<&Path>) -> Result<blake3::Hash> {
    let own = std::env::current_exe().map_err(|source| Error::System { what: "finding this program", source })?;
    let mut hasher = blake3::Hasher::new();
    for program in [Some(own.as_path()), server].into_iter().flatten() {
        let failed = |source| Error::file("reading", program, source);
        let bytes = std::fs::read(program).map_err(failed)?;
        hasher.update(blake3::hash(&bytes).as_bytes());
    }
    Ok(hasher.finalize())
}

/// An answer, or an escape; other errors end the evaluation.
fn outcome(index: usize, result: std::result::Result<RunReport, ClientError>) -> Result<Outcome> {
    match result {
        Ok(report) => Ok(Outcome {
            prompt: index,
            tokens: report.tokens.iter().map(compared).collect::<Option<_>>().ok_or_else(no_weights)?,
            escaped: false,
            seconds: report.tokens.iter().map(|token| token.seconds).sum(),
        }),
        Err(ClientError::Infer(InferError::OutOfCalibratedRange { .. })) => {
            Ok(Outcome { prompt: index, tokens: Vec::new(), escaped: true, seconds: 0.0 })
        }
        Err(error) => Err(error.into()),
    }
}

/// A token beside the clear model's, where there was one.
fn compared(token: &TokenReport) -> Option<Compared> {
    Some(Compared {
        agrees: token.top1_agrees?,
        twin_agrees: None,
        kl: token.kl?,
        logit_error: token.max_logit_error?,
        clear_margin: token.clear_margin?,
    })
}

fn no_weights() -> Error {
    Error::Usage("the model directory has no weights to compare with; give a directory that has them".into())
}
