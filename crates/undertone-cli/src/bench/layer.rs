//! One encrypted layer of a given shape with random weights, step by step, with final norm and a small head.
//!
//! The error is that of the logits of the last private token against the clear reference, relative to their root mean
//! square. The weights are random, so the figures are those of the shape, not of a trained model.

use super::setup::Setup;
use crate::config::read_config;
use crate::context::Context;
use crate::error::Result;
use crate::memory::peak_rss_bytes;
use crate::plan::Planned;
use clap::Args;
use serde_json::json;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;
use undertone_he::{Evaluator, Parameters};
use undertone_infer::calibrate::{CalibrationOptions, Prompt, calibrate};
use undertone_infer::{Calibration, Layout, Program, Progress, PublicCache, Shape};
use undertone_model::reference::forward_last;
use undertone_model::{KvCache, Llama, LlamaConfig, synthetic};

/// Vocabulary of the benchmark: the head is not part of a layer.
const VOCABULARY: usize = 256;
/// Prompts that the random model is calibrated on.
const CALIBRATION_PROMPTS: u64 = 12;

/// Flags of `bench layer`.
#[derive(Debug, Args)]
pub struct LayerArguments {
    /// A config.json, a model directory, llama-2-7b or llama-3-8b
    #[arg(long, value_name = "CONFIG_OR_NAME")]
    pub like: String,

    /// Public tokens, BOS included
    #[arg(long, value_name = "P", default_value_t = 256)]
    pub public: usize,

    /// Private tokens
    #[arg(long, value_name = "T", default_value_t = 64)]
    pub private: usize,

    #[command(flatten)]
    pub measuring: super::Measuring,
}

/// Runs the benchmark.
pub fn run(arguments: &LayerArguments, context: &Context) -> Result<()> {
    let shape = Shape { public_tokens: arguments.public, private_tokens: arguments.private, max_new_tokens: 1 };
    let config = config_like(&arguments.like, arguments.public.saturating_add(arguments.private))?;
    // Lengths are checked before prompts of these lengths are made.
    Layout::new(&config, shape, Parameters::default_preset().chain().slot_count())?;
    context.progress.begin("random weights and their ranges", 1);
    let model = synthetic(config, 1);
    let prompts: Vec<Prompt> = (0..CALIBRATION_PROMPTS).map(|seed| random_prompt(shape, seed)).collect();
    let calibration = calibrate(&model, &prompts, CalibrationOptions::default(), &mut |_| {})?;
    let planned = Planned::new(&model.config, Some(&calibration), shape)?;
    let setup = Setup::new(context, Parameters::default_preset(), planned.requests())?;
    measure(context, setup, &model, &calibration, &prompts[0], &planned)
}

fn measure(
    context: &Context,
    mut setup: Setup,
    model: &Llama,
    calibration: &Calibration,
    prompt: &Prompt,
    planned: &Planned,
) -> Result<()> {
    let program = Program::new(&model.config, calibration, planned.shape(), setup.parameters.chain())?;
    let public = PublicCache::new(model, &prompt.public)?;
    let rows = undertone_model::reference::embed(&model.embed, &prompt.private)?;
    let rows: Vec<Vec<f32>> = rows.chunks(model.config.hidden_size).map(<[f32]>::to_vec).collect();
    let mut input = Vec::new();
    for slots in program.pack_prompt(&rows)? {
        input.push(setup.encrypt_slots(&slots, program.input_level())?);
    }
    let steps = Steps::new(context);
    let start = Instant::now();
    let (output, _) = program.prefill(&setup.evaluator, model, &public, input, &steps)?;
    let seconds = start.elapsed().as_secs_f64();
    let logits: Vec<Vec<f64>> = output.logits.iter().map(|value| setup.decrypt(value)).collect();
    let found = program.read_logits(&logits, &setup.decrypt(&output.guard))?;
    let all: Vec<u32> = prompt.public.iter().chain(&prompt.private).copied().collect();
    let expected = forward_last(model, &mut KvCache::new(&model.config), &all)?;
    let counts = setup.evaluator.counts();
    for (name, seconds) in steps.finished() {
        context.result(&json!({ "name": name, "seconds": seconds }), || format!("{name:<20} {seconds:>9.2} s"));
    }
    let error = relative_rms_log2(&expected, &found);
    let planned_seconds = planned.seconds().first().copied();
    let object = json!({
        "name": "total",
        "seconds": seconds,
        "bootstraps": counts.bootstraps,
        "key_switches": counts.key_switches,
        "relative_rms_error_log2": error,
        "peak_rss_bytes": peak_rss_bytes(),
        "planned": {
            "seconds": planned_seconds,
            "bootstraps": planned.bootstraps(),
            "key_switches": planned.key_switches(),
            "peak_rss_bytes": planned.peak_rss_bytes(),
        },
    });
    context.result(&object, || {
        format!(
            "total                {seconds:>9.2} s ({:.2} planned), {} bootstraps, {} key switches, relative error 2^{error:.1}",
            planned_seconds.unwrap_or(0.0),
            counts.bootstraps,
            counts.key_switches
        )
    });
    Ok(())
}

/// One layer of the shape that is asked for.
fn config_like(like: &str, tokens: usize) -> Result<LlamaConfig> {
    let known = match like {
        "llama-2-7b" => Some(known(4096, 11008, 32, 32, 10000.0)),
        "llama-3-8b" => Some(known(4096, 14336, 32, 8, 500_000.0)),
        _ => None,
    };
    let mut config = match known {
        Some(text) => LlamaConfig::from_json(text.as_bytes(), None)?,
        None => read_config(Path::new(like))?,
    };
    config.num_hidden_layers = 1;
    config.vocab_size = VOCABULARY;
    config.max_position_embeddings = config.max_position_embeddings.max(tokens + 1);
    config.bos_token_id = Some(0);
    config.eos_token_ids = vec![1];
    config.validate()?;
    Ok(config)
}

fn known(hidden: usize, intermediate: usize, heads: usize, key_heads: usize, theta: f64) -> String {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": hidden,
        "intermediate_size": intermediate, "num_hidden_layers": 1, "num_attention_heads": heads,
        "num_key_value_heads": key_heads, "vocab_size": VOCABULARY, "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5, "rope_theta": theta, "tie_word_embeddings": true, "bos_token_id": 0, "eos_token_id": 1,
    })
    .to_string()
}

/// Token ids without meaning, from a fixed multiplicative sequence.
fn random_prompt(shape: Shape, seed: u64) -> Prompt {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = |count: usize| -> Vec<u32> {
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                (state >> 33) as u32 % VOCABULARY as u32
            })
            .collect()
    };
    let public = std::iter::once(0).chain(draw(shape.public_tokens - 1)).collect();
    Prompt { public, private: draw(shape.private_tokens), answer: Vec::new() }
}

/// log2 of the root mean square of the difference over that of the expected values.
fn relative_rms_log2(expected: &[f32], found: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = expected.iter().zip(found).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let size: f64 = expected.iter().map(|a| square(f64::from(*a))).sum();
    (error / size).sqrt().log2()
}

/// Times the stages as they end.
struct Steps<'a> {
    context: &'a Context,
    state: Mutex<(Instant, Vec<(&'static str, f64)>)>,
}

impl<'a> Steps<'a> {
    fn new(context: &'a Context) -> Self {
        context.progress.begin("layer", 1000);
        Self { context, state: Mutex::new((Instant::now(), Vec::new())) }
    }

    fn finished(&self) -> Vec<(&'static str, f64)> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1.clone()
    }
}

impl Progress for Steps<'_> {
    fn step(&self, stage: &'static str, _: usize, _: usize, done_fraction: f64) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = Instant::now();
        let seconds = now.duration_since(state.0).as_secs_f64();
        state.0 = now;
        state.1.push((stage, seconds));
        self.context.progress.advance_to((done_fraction * 1000.0) as u64, stage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn known_names_and_files_give_one_layer() {
        let config = config_like("llama-3-8b", 300).unwrap();
        assert_eq!((config.hidden_size, config.num_key_value_heads, config.num_hidden_layers), (4096, 8, 1));
        assert!(config_like("llama-2-7b", 300).is_ok());
        assert!(matches!(config_like("no-such-name", 300), Err(Error::File { .. })));
    }

    #[test]
    fn the_relative_error_is_in_bits() {
        assert!((relative_rms_log2(&[1.0, -1.0], &[1.25, -1.25]) + 2.0).abs() < 1e-9);
    }
}
