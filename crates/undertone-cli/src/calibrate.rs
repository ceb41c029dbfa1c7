//! `undertone calibrate`: per-layer ranges of every nonlinear input, stored beside the model.

mod found;
mod report;

use crate::context::Context;
use crate::error::Result;
use crate::files::{Access, write_whole};
use crate::progress::Progress;
use crate::prompt::{PromptLine, prompt_lines, read_text};
use clap::Args;
use report::{Side, table};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use undertone_infer::calibrate::{
    CalibrationEvent, CalibrationOptions, PrefixOptions, PrefixStep, Prompt, RangeReport, WindowOptions,
    calibrate_prepared, ranges, search_prefix, windows,
};
use undertone_infer::calibration::FILE_NAME;
use undertone_infer::{Calibration, Preparation};
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
  undertone calibrate --model DIR --text prompts.jsonl --out narrow.json
  undertone calibrate --model DIR --text sample.txt --search-prefix --rotate --report")]
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

    /// Search a short public prefix for every prompt that narrows the ranges of private rows
    #[arg(long)]
    pub search_prefix: bool,

    /// Rotate the residual stream and the values, which spreads outliers over all channels
    #[arg(long)]
    pub rotate: bool,

    /// Public seed of the rotation
    #[arg(long, value_name = "S", default_value_t = 0, requires = "rotate")]
    pub rotation_seed: u64,

    /// Print the ranges of every layer, before and after prefix and rotation
    #[arg(long)]
    pub report: bool,
}

/// Runs the verb.
///
/// # Errors
/// Whatever the model, the text or the ranges give rise to; nothing is written then.
pub fn run(arguments: &CalibrateArguments, context: &Context) -> Result<()> {
    let model = Arc::new(Llama::load(&arguments.model)?);
    let config = model.config.clone();
    let tokenizer = Tokenizer::load(&arguments.model, &model.config)?;
    let prompts = prompts(&read_text(&arguments.text)?, &tokenizer, &model)?;
    let options = CalibrationOptions { margin: arguments.margin, ..CalibrationOptions::default() };
    let mut work = Work::new(model, &prompts, options, &context.progress);
    let steps = if arguments.search_prefix { work.search(&tokenizer)? } else { Vec::new() };
    let preparation = Preparation {
        prefix: found::kept(&steps, config.bos_token_id).map(|step| step.prefix.clone()).unwrap_or_default(),
        rotation_seed: arguments.rotate.then_some(arguments.rotation_seed),
    };
    let mut sides = Vec::new();
    if arguments.report && !preparation.is_plain() {
        sides.push(work.side(&Preparation::default())?);
    }
    let mut work = work.prepared(&preparation);
    let calibration = work.calibrate(&preparation);
    if arguments.report {
        sides.push(Side::new(work.ranges(&preparation)?, calibration.as_ref(), &config));
        if calibration.is_err() {
            // The ranges show why.
            context.result(&serde_json::json!({ "report": report_object(&sides) }), || table(&preparation, &sides));
        }
    }
    let calibration = calibration?;
    let scans = work.progress.scans;
    context.progress.finish();
    let path = arguments.out.clone().unwrap_or_else(|| arguments.model.join(FILE_NAME));
    write_whole(&context.cleanup, &path, &calibration.to_json(), Access::Ordinary)?;
    let mut object = serde_json::json!({
        "file": path.display().to_string(),
        "prompts": calibration.prompts,
        "tokens": calibration.tokens,
        "scans": scans,
        "held_out_escapes": calibration.held_out_escapes,
        "first_scan_escapes": calibration.first_scan_escapes,
        "layers": calibration.layers.len(),
        "prefix": calibration.preparation.prefix,
        "rotation_seed": calibration.preparation.rotation_seed,
    });
    if arguments.search_prefix {
        object["prefix_search"] = steps.iter().map(found::object).collect();
    }
    if arguments.report {
        object["report"] = report_object(&sides);
    }
    context.result(&object, || {
        let table = if arguments.report { table(&preparation, &sides) + "\n" } else { String::new() };
        let found = found::sentence(&steps, config.bos_token_id, |ids| tokenizer.decode(ids).unwrap_or_default());
        [table, summary(&path, &calibration, scans), found].concat()
    });
    Ok(())
}

fn report_object(sides: &[Side]) -> serde_json::Value {
    let side = |index: usize| sides.get(index).map(Side::object);
    serde_json::json!({ "before": side(0), "after": side(1) })
}

fn summary(path: &Path, calibration: &Calibration, scans: usize) -> String {
    format!(
        "{}: {} layers from {} prompts, {} encrypted rows, {} held-out escapes after {scans} scans",
        path.display(),
        calibration.layers.len(),
        calibration.prompts,
        calibration.tokens,
        calibration.held_out_escapes,
    )
}

/// The model and its text, and what is done with them.
struct Work<'a> {
    model: Arc<Llama>,
    /// That of the stored weights.
    fingerprint: [u8; 32],
    prompts: &'a [Prompt],
    options: CalibrationOptions,
    progress: Report<'a>,
}

impl<'a> Work<'a> {
    fn new(model: Arc<Llama>, prompts: &'a [Prompt], options: CalibrationOptions, progress: &'a Progress) -> Self {
        let fingerprint = model.fingerprint();
        Self { model, fingerprint, prompts, options, progress: Report::new(progress) }
    }

    /// The same with prepared weights, which take the place of the stored ones: there is never a second copy.
    fn prepared(self, preparation: &Preparation) -> Self {
        Self { model: preparation.weights(self.model), ..self }
    }

    /// Searches a prefix; full stops, line breaks and spaces are candidates whatever the text shows.
    fn search(&mut self, tokenizer: &Tokenizer) -> Result<Vec<PrefixStep>> {
        let mut suggested = Vec::new();
        for text in ["\n", ".", " "] {
            suggested.extend(tokenizer.encode(text, false)?.last());
        }
        let progress = &mut |event| self.progress.event(event);
        Ok(search_prefix(&self.model, self.prompts, &suggested, PrefixOptions::default(), progress)?)
    }

    fn calibrate(&mut self, preparation: &Preparation) -> Result<Calibration> {
        self.progress.scans = 0;
        let progress = &mut |event| self.progress.event(event);
        Ok(calibrate_prepared(&self.model, self.fingerprint, self.prompts, preparation, self.options, progress)?)
    }

    fn ranges(&mut self, preparation: &Preparation) -> Result<RangeReport> {
        Ok(ranges(&self.model, self.prompts, preparation, &mut |event| self.progress.event(event))?)
    }

    /// One side of the report; ranges that no polynomial covers are part of it.
    fn side(&mut self, preparation: &Preparation) -> Result<Side> {
        let ranges = self.ranges(preparation)?;
        let calibration = self.calibrate(preparation);
        Ok(Side::new(ranges, calibration.as_ref(), &self.model.config))
    }
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
    /// Prompts of the pass that are done.
    done: usize,
    scans: usize,
}

impl<'a> Report<'a> {
    fn new(progress: &'a Progress) -> Self {
        Self { progress, pass: "", done: 0, scans: 0 }
    }

    fn event(&mut self, event: CalibrationEvent) {
        match event {
            CalibrationEvent::Prompts { pass, done, total } => {
                // A pass of the same name starts again for every candidate of a search.
                if pass != self.pass || done <= self.done {
                    self.pass = pass;
                    self.progress.begin(pass, total as u64);
                }
                self.done = done;
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
