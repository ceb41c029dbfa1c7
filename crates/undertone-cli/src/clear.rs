//! `undertone clear`: the same prompt through the clear reference, the parity check of `run`.

use crate::context::Context;
use crate::error::{Error, Result};
use crate::files::{Access, write_whole};
use crate::prompt::PromptArguments;
use clap::Args;
use std::path::{Path, PathBuf};
use undertone_client::Prompt;
use undertone_infer::{Calibration, Error as InferError, Preparation};
use undertone_model::generate::clear_generate_with;
use undertone_model::tokenizer::Tokenizer;
use undertone_model::{KvCache, Llama, forward};
use zeroize::Zeroizing;

/// Flags of `undertone clear`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  undertone clear --model DIR --prompt 'Once upon a time' --max-new-tokens 20
  undertone clear --model DIR --public-file policy.txt --private-file note.txt --json
  undertone clear --model DIR --prompt '' --logits logits.safetensors")]
pub struct ClearArguments {
    /// Hugging Face model directory
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,

    /// One text instead of a public and a private part; empty means BOS alone
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["public_file", "private_file", "private"])]
    pub prompt: Option<String>,

    #[command(flatten)]
    pub text: PromptArguments,

    /// Write the logits of every position (f32 [positions, vocabulary]) to this file
    #[arg(long, value_name = "FILE.safetensors")]
    pub logits: Option<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// Whatever the model, the prompt or the output file gives rise to.
pub fn run(arguments: &ClearArguments, context: &Context) -> Result<()> {
    let mut sampler = arguments.text.sampling.sampler()?;
    let model = Llama::load(&arguments.model)?;
    let tokenizer = Tokenizer::load(&arguments.model, &model.config)?;
    let prompt = match &arguments.prompt {
        Some(text) => Prompt::tokenize_with(&tokenizer, text, "")?,
        None => {
            let text = arguments.text.read()?;
            Prompt::tokenize_with(&tokenizer, &text.public, &text.private)?
        }
    };
    let prompt = prompt.prepare(&preparation(&arguments.model, &model)?, &model.config);
    prompt.check_context(arguments.text.max_new_tokens, &model.config)?;
    let ids: Zeroizing<Vec<u32>> = Zeroizing::new(prompt.public.iter().chain(&*prompt.private).copied().collect());

    let progress = &context.progress;
    let limit = arguments.text.max_new_tokens;
    progress.begin("clear", limit as u64);
    let mut cache = KvCache::new(&model.config);
    let mut done = 0;
    let new_ids = clear_generate_with(&model, &mut cache, &ids, limit, &mut sampler, |_, _| {
        done += 1;
        progress.advance_to(done, "token");
    })?;
    progress.finish();

    if let Some(path) = &arguments.logits {
        let fed_back = new_ids.iter().take(new_ids.len().saturating_sub(1));
        let positions: Zeroizing<Vec<u32>> = Zeroizing::new(ids.iter().chain(fed_back).copied().collect());
        let rows = forward(&model, &mut KvCache::new(&model.config), &positions)?;
        write_logits(context, path, &rows)?;
    }
    let text = tokenizer.decode(&new_ids)?;
    context.result(&serde_json::json!({ "token_ids": new_ids, "text": text }), || text.clone());
    Ok(())
}

/// What the calibration beside the model does to prompts, so that `run` and `clear` read the same tokens.
///
/// The rotation leaves the function as it is, so only the prefix matters here.
fn preparation(folder: &Path, model: &Llama) -> Result<Preparation> {
    match Calibration::load(folder) {
        Ok(calibration) if calibration.preparation.prefix.is_empty() => Ok(Preparation::default()),
        Ok(calibration) => {
            calibration.check_model(model)?;
            Ok(calibration.preparation)
        }
        Err(InferError::CalibrationMissing { .. }) => Ok(Preparation::default()),
        Err(error) => Err(error.into()),
    }
}

/// One tensor named `logits`.
fn write_logits(context: &Context, path: &Path, rows: &[Vec<f32>]) -> Result<()> {
    let bytes: Vec<u8> = rows.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
    let shape = vec![rows.len(), rows.first().map_or(0, Vec::len)];
    let failed = |error: safetensors::SafeTensorError| Error::file("writing", path, std::io::Error::other(error));
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &bytes).map_err(failed)?;
    let file = safetensors::serialize([("logits", view)], None).map_err(failed)?;
    write_whole(&context.cleanup, path, &file, Access::Ordinary)
}
