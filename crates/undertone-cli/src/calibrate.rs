//! `undertone calibrate`: per-layer ranges of every nonlinear input, stored beside the model.

use crate::context::Context;
use crate::error::Result;
use crate::files::{Access, write_whole};
use crate::progress::Progress;
use crate::prompt::{PromptLine, prompt_lines, read_text};
use clap::Args;
use std::path::PathBuf;
use undertone_infer::calibrate::{CalibrationEvent, CalibrationOptions, Prompt, WindowOptions, calibrate, windows};
use undertone_infer::calibration::FILE_NAME;
use undertone_model::{Llama, Tokenizer};

/// Shape of the prompts that plain text is cut into.
const WINDOWS: usize = 256;
const WINDOW_ANSWER: usize = 16;

/// Flags of `undertone calibrate`.
#[derive(Debug, Args)]
#[command(after_help = "The text is either plain text, which is cut into prompts, or JSON lines like
  {\"public\": \"…\", \"private\": \"…\", \"answer\": \"…\"}
It should look like the prompts the model will see.

Examples:
  undertone calibrate --model DIR --text sample.txt
  undertone calibrate --model DIR --text prompts.jsonl --out narrow.json")]
pub struct CalibrateArguments {
    /// Hugging Face model directory
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,

    /// Text to calibrate on, or - for standard input
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,

    /// Where to write the calibration [default: beside the model]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,

    /// Factor by which ranges exceed what was seen
    #[arg(long, value_name = "X", default_value_t = CalibrationOptions::default().margin)]
    pub margin: f64,
}

/// Runs the verb.
///
/// # Errors
/// Whatever the model, the text or the ranges give rise to; nothing is written then.
pub fn run(arguments: &CalibrateArguments, context: &Context) -> Result<()> {
    let model = Llama::load(&arguments.model)?;
    let tokenizer = Tokenizer::load(&arguments.model, &model.config)?;
    let prompts = prompts(&read_text(&arguments.text)?, &tokenizer, &model)?;
    let options = CalibrationOptions { margin: arguments.margin, ..CalibrationOptions::default() };
    let mut report = Report { progress: &context.progress, pass: "", scans: 0 };
    let calibration = calibrate(&model, &prompts, options, &mut |event| report.event(event))?;
    context.progress.finish();
    let path = arguments.out.clone().unwrap_or_else(|| arguments.model.join(FILE_NAME));
    write_whole(&context.cleanup, &path, &calibration.to_json(), Access::Ordinary)?;
    let object = serde_json::json!({
        "file": path.display().to_string(),
        "prompts": calibration.prompts,
        "tokens": calibration.tokens,
        "scans": report.scans,
        "held_out_escapes": calibration.held_out_escapes,
        "layers": calibration.layers.len(),
    });
    context.result(&object, || {
        format!(
            "{}: {} layers from {} prompts, {} encrypted rows, {} held-out escapes after {} scans",
            path.display(),
            calibration.layers.len(),
            calibration.prompts,
            calibration.tokens,
            calibration.held_out_escapes,
            report.scans
        )
    });
    Ok(())
}

/// JSON lines when the first line is an object, plain text otherwise.
fn prompts(text: &str, tokenizer: &Tokenizer, model: &Llama) -> Result<Vec<Prompt>> {
    let context = model.config.max_position_embeddings;
    if !text.trim_start().starts_with('{') {
        let tokens = tokenizer.encode(text, false)?;
        let public = (context / 2).min(256);
        let private = (context / 4).min(128);
        let options = WindowOptions { count: WINDOWS, public, private, answer: WINDOW_ANSWER.min(context / 8) };
        return Ok(windows(&tokens, tokenizer.bos(), options));
    }
    let lines = prompt_lines(text)?;
    let prompt = |line: &PromptLine| {
        Ok(Prompt {
            public: tokenizer.encode(&line.public, true)?,
            private: tokenizer.encode(&line.private, false)?,
            answer: tokenizer.encode(&line.answer, false)?,
        })
    };
    lines.iter().map(prompt).collect()
}

struct Report<'a> {
    progress: &'a Progress,
    pass: &'static str,
    scans: usize,
}

impl Report<'_> {
    fn event(&mut self, event: CalibrationEvent) {
        match event {
            CalibrationEvent::Prompts { pass, done, total } => {
                if pass != self.pass {
                    self.pass = pass;
                    self.progress.begin(pass, total as u64);
                }
                self.progress.advance_to(done as u64, "prompt");
            }
            CalibrationEvent::Scanned { held_out, escapes, .. } => {
                self.scans += 1;
                self.pass = "";
                let note =
                    format!("scan {}: {} ranges left, {held_out} times by held-out prompts", self.scans, escapes.len());
                self.progress.note(&note);
            }
        }
    }
}
