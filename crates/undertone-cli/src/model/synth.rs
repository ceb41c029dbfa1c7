//! `undertone model synth`: a checkpoint with random weights, so that any shape can be measured without its weights.
//!
//! The folder is what Hugging Face would have: config.json, bf16 safetensors (sharded when large), tokenizer.json. It
//! is written row by row under a hidden name and renamed, so that a broken-off run leaves nothing.

use crate::config::config_like;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files::{Access, make_folder, write_whole};
use clap::Args;
use std::path::{Path, PathBuf};
use undertone_model::synthetic::{SHARD_BYTES, byte_tokenizer};
use undertone_model::{LlamaConfig, Statistics, Synthetic, Tokenizer};

/// Bytes per step of the progress display.
const PROGRESS_UNIT: u64 = 1 << 20;
/// Files of a model directory that belong to its tokenizer.
const TOKENIZER_FILES: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];

/// Flags of `undertone model synth`.
#[derive(Debug, Args)]
#[command(
    after_help = "Weights are random with the deviations of trained models. With --outliers the checkpoint also has
what makes trained ones hard to encrypt: outlier channels, massive activations, an attention sink at BOS and at the
first \".\" or line break. It says nothing about quality.

Examples:
  undertone model synth --like llama-2-7b --layers 2 --out synth-7b --outliers
  undertone model synth --like DIR --layers 4 --vocab 4096 --seed 7 --out DIR-random"
)]
pub struct SynthArguments {
    /// A config.json, a model directory, llama-2-7b, llama-3-8b, tinyllama-1.1b or llama-100m
    #[arg(long, value_name = "CONFIG_OR_NAME")]
    pub like: String,

    /// Number of layers [default: as many as the shape has]
    #[arg(long, value_name = "N")]
    pub layers: Option<usize>,

    /// Number of tokens, at least 258 unless the tokenizer is copied [default: as many as the shape has]
    #[arg(long, value_name = "V")]
    pub vocab: Option<usize>,

    /// The folder to make
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,

    /// Seed of the weights
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,

    /// Add outlier channels, massive activations and an attention sink
    #[arg(long)]
    pub outliers: bool,
}

/// Runs the verb.
///
/// # Errors
/// Shapes that no model may have, and files that cannot be written; nothing stays then.
pub fn run(arguments: &SynthArguments, context: &Context) -> Result<()> {
    let config = shape(arguments)?;
    let source = TokenizerSource::of(&arguments.like, &config)?;
    let statistics = match arguments.outliers {
        true => Statistics::Outliers { delimiters: delimiters(&source.tokenizer, &config)? },
        false => Statistics::Even,
    };
    let synthetic = Synthetic::new(config, arguments.seed, &statistics)?;
    let bytes = synthetic.checkpoint_bytes();
    context.progress.begin("weights", bytes.div_ceil(PROGRESS_UNIT));
    make_folder(&context.cleanup, &arguments.out, |folder| {
        source.write(folder, context)?;
        Ok(synthetic.write_checkpoint(folder, SHARD_BYTES, &mut |tensor, done| {
            context.progress.advance_to(done / PROGRESS_UNIT, tensor);
        })?)
    })?;
    context.progress.finish();
    let config = synthetic.config();
    let tokenizer = if source.copied_from.is_some() { "copied" } else { "bytes" };
    let object = serde_json::json!({
        "folder": arguments.out.display().to_string(),
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "parameters": config.parameter_count(),
        "weight_bytes": bytes,
        "seed": arguments.seed,
        "outliers": arguments.outliers,
        "tokenizer": tokenizer,
    });
    context.result(&object, || {
        format!(
            "{}: {} layers of {} channels, {} tokens, {:.1} million random weights in bf16 ({:.2} GB), tokenizer: {tokenizer}",
            arguments.out.display(),
            config.num_hidden_layers,
            config.hidden_size,
            config.vocab_size,
            config.parameter_count() as f64 / 1e6,
            bytes as f64 / 1e9,
        )
    });
    Ok(())
}

/// The shape that is asked for; special tokens outside a smaller vocabulary move to its beginning.
fn shape(arguments: &SynthArguments) -> Result<LlamaConfig> {
    let mut config = config_like(&arguments.like)?;
    config.num_hidden_layers = arguments.layers.unwrap_or(config.num_hidden_layers);
    config.vocab_size = arguments.vocab.unwrap_or(config.vocab_size);
    let inside = |id: &u32| (*id as usize) < config.vocab_size;
    if !config.bos_token_id.iter().chain(&config.eos_token_ids).all(inside) {
        config.bos_token_id = Some(0);
        config.eos_token_ids = vec![1];
    }
    // Every prompt begins with BOS, so that a model without one would be of no use here.
    config.bos_token_id.get_or_insert(0);
    config.validate()?;
    Ok(config)
}

/// The tokens of a full stop and of a line break, which become sinks.
fn delimiters(tokenizer: &Tokenizer, config: &LlamaConfig) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for text in [".", "\n"] {
        let last = tokenizer.encode(text, false)?.last().copied();
        found.extend(last.filter(|id| Some(*id) != config.bos_token_id));
    }
    found.dedup();
    Ok(found)
}

/// Where the tokenizer of the new folder comes from.
struct TokenizerSource {
    tokenizer: Tokenizer,
    copied_from: Option<PathBuf>,
    /// The file, when it is not copied.
    made: String,
}

impl TokenizerSource {
    /// That of the directory named by `like` when it fits the vocabulary, or one of bytes.
    fn of(like: &str, config: &LlamaConfig) -> Result<Self> {
        let folder = Path::new(like);
        if folder.join(TOKENIZER_FILES[0]).is_file()
            && let Ok(tokenizer) = Tokenizer::load(folder, config)
        {
            return Ok(Self { tokenizer, copied_from: Some(folder.to_path_buf()), made: String::new() });
        }
        let made = byte_tokenizer(config)?;
        Ok(Self { tokenizer: Tokenizer::from_json(made.as_bytes(), config)?, copied_from: None, made })
    }

    fn write(&self, folder: &Path, context: &Context) -> Result<()> {
        let Some(from) = &self.copied_from else {
            let path = folder.join(TOKENIZER_FILES[0]);
            return write_whole(&context.cleanup, &path, self.made.as_bytes(), Access::Ordinary);
        };
        for name in TOKENIZER_FILES {
            let (from, to) = (from.join(name), folder.join(name));
            if from.is_file() {
                std::fs::copy(&from, &to).map_err(|source| Error::file("copying", &from, source))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(like: &str, vocab: Option<usize>) -> SynthArguments {
        let like = like.to_owned();
        SynthArguments { like, layers: Some(2), vocab, out: PathBuf::new(), seed: 0, outliers: true }
    }

    #[test]
    fn special_tokens_move_into_a_smaller_vocabulary() {
        let whole = shape(&arguments("llama-3-8b", None)).unwrap();
        assert_eq!((whole.num_hidden_layers, whole.bos_token_id), (2, Some(128_000)));
        let cut = shape(&arguments("llama-3-8b", Some(512))).unwrap();
        assert_eq!((cut.vocab_size, cut.bos_token_id, cut.eos_token_ids), (512, Some(0), vec![1]));
        assert!(matches!(shape(&arguments("no-such-model", None)), Err(Error::Usage(_))));
        assert!(shape(&SynthArguments { layers: Some(0), ..arguments("llama-100m", None) }).is_err());
    }

    #[test]
    fn the_tokenizer_is_copied_where_it_fits() {
        let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny");
        for (vocab, copied) in [(None, true), (Some(4096), true), (Some(512), false)] {
            let config = shape(&arguments(tiny, vocab)).unwrap();
            let source = TokenizerSource::of(tiny, &config).unwrap();
            assert_eq!(source.copied_from.is_some(), copied, "{vocab:?}");
            assert_eq!(delimiters(&source.tokenizer, &config).unwrap().len(), 2);
        }
        let config = shape(&arguments(tiny, Some(100))).unwrap();
        assert!(TokenizerSource::of(tiny, &config).is_err());
    }
}
