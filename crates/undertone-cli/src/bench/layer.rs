//! One encrypted layer of a given shape with random weights, step by step.
//!
//! Two layers, the final norm and a small head run. The line named `layer` is the first of them alone, because the last
//! one of a model works on the row of the last token alone; `total` is all that ran. Its error is that of the logits of the last private token
//! against the clear reference, relative to their root mean square. The weights are random, so the figures are those of
//! the shape, not of a trained model.

use super::setup::Setup;
use crate::config::config_like;
use crate::context::Context;
use crate::error::Result;
use crate::memory::peak_rss_bytes;
use crate::plan::Planned;
use clap::Args;
use serde_json::{Value, json};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use undertone_he::{Counts, Evaluator, Parameters};
use undertone_infer::calibrate::{CalibrationOptions, Prompt, calibrate};
use undertone_infer::{Calibration, Layout, Program, Progress, PublicCache, Shape};
use undertone_model::reference::forward_last;
use undertone_model::{KvCache, Llama, LlamaConfig, synthetic};
use undertone_protocol::modes::fhe::Route;

/// Vocabulary of the benchmark: the head is not part of a layer.
const VOCABULARY: usize = 256;
/// Layers that run.
const LAYERS: usize = 2;
/// The layer that is reported.
const REPORTED: usize = 0;
/// Prompts that the random model is calibrated on.
const CALIBRATION_PROMPTS: u64 = 12;

/// Flags of `bench layer`.
#[derive(Debug, Args)]
pub struct LayerArguments {
    /// A config.json, a model directory, llama-2-7b, llama-3-8b, tinyllama-1.1b or llama-100m
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
    let config = layers_like(&arguments.like, arguments.public.saturating_add(arguments.private))?;
    // Lengths are checked before prompts of these lengths are made.
    Layout::new(&config, shape, Parameters::default_preset().chain().slot_count())?;
    context.progress.begin("random weights and their ranges", 1);
    let model = synthetic(config, 1);
    let prompts: Vec<Prompt> = (0..CALIBRATION_PROMPTS).map(|seed| random_prompt(shape, VOCABULARY, seed)).collect();
    let calibration = calibrate(&model, &prompts, CalibrationOptions::default(), &mut |_| {})?;
    let planned = Planned::new(&model.config, Some(&calibration), shape, Some(Route::Slots))?;
    let (parameters, memory) = (arguments.measuring.parameters()?, arguments.measuring.key_memory());
    let setup = Setup::for_key_set(context, parameters, memory, planned.key_set())?;
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
    let steps = Steps::new(context, || setup.evaluator.counts());
    let start = Instant::now();
    let (output, _) = program.prefill(&setup.evaluator, model, &public, input, &steps)?;
    let seconds = start.elapsed().as_secs_f64();
    let logits: Vec<Vec<f64>> = output.logits.iter().map(|value| setup.decrypt(value)).collect();
    let found = program.read_logits(&logits, &setup.decrypt(&output.guard))?;
    let all: Vec<u32> = prompt.public.iter().chain(&prompt.private).copied().collect();
    let expected = forward_last(model, &mut KvCache::new(&model.config), &all)?;
    let counts = setup.evaluator.counts();
    report_layer(context, &steps.finished(), geometry(&model.config, planned.shape()), planned);
    let error = relative_rms_log2(&expected, &found);
    let object = total(geometry(&model.config, planned.shape()), seconds, &counts, error, planned);
    context.result(&object, || {
        let name = format!("total of {LAYERS} layers");
        let planned = planned.seconds().first().copied().unwrap_or(0.0);
        let (bootstraps, switches) = (counts.bootstraps, counts.key_switches);
        format!("{} with the head, error 2^{error:.1}", line(&name, seconds, planned, bootstraps, switches))
    });
    Ok(())
}

/// All that ran: the layers, how many they are, and the head.
fn total(geometry: Value, seconds: f64, counts: &Counts, error: f64, planned: &Planned) -> Value {
    json!({
        "name": "total",
        "layers": LAYERS,
        "head": true,
        "geometry": geometry,
        "seconds": seconds,
        "bootstraps": counts.bootstraps,
        "key_switches": counts.key_switches,
        "relative_rms_error_log2": error,
        "peak_rss_bytes": peak_rss_bytes(),
        "planned": {
            "seconds": planned.seconds().first(),
            "bootstraps": planned.bootstraps(),
            "key_switches": planned.key_switches(),
            // One process with one copy of the weights, which makes its keys before it computes.
            "peak_rss_bytes": planned.server_bytes(),
        },
    })
}

/// The stages of the reported layer, and their sum.
fn report_layer(context: &Context, stages: &[Stage], geometry: Value, planned: &Planned) {
    let stages: Vec<&Stage> = stages.iter().filter(|stage| stage.layer == REPORTED).collect();
    for Stage { name, seconds, bootstraps, key_switches, .. } in &stages {
        let object = json!({
            "name": name, "layer": REPORTED, "seconds": seconds, "bootstraps": bootstraps, "key_switches": key_switches,
        });
        context.result(&object, || format!("{name:<20} {seconds:>9.2} s"));
    }
    let seconds: f64 = stages.iter().map(|stage| stage.seconds).sum();
    let bootstraps: u64 = stages.iter().map(|stage| stage.bootstraps).sum();
    let key_switches: u64 = stages.iter().map(|stage| stage.key_switches).sum();
    let (planned_seconds, planned_bootstraps, planned_switches) = planned.prefill_layer(REPORTED);
    let object = json!({
        "name": "layer",
        "layer": REPORTED,
        "geometry": geometry,
        "seconds": seconds,
        "bootstraps": bootstraps,
        "key_switches": key_switches,
        "planned": {
            "seconds": planned_seconds, "bootstraps": planned_bootstraps, "key_switches": planned_switches,
        },
    });
    context.result(&object, || line("layer", seconds, planned_seconds, bootstraps, key_switches));
}

fn line(name: &str, seconds: f64, planned_seconds: f64, bootstraps: u64, key_switches: u64) -> String {
    format!(
        "{name:<20} {seconds:>9.2} s ({planned_seconds:.2} planned), {bootstraps} bootstraps, {key_switches} key switches"
    )
}

/// What was run, since the figures mean nothing without it.
pub(super) fn geometry(config: &LlamaConfig, shape: Shape) -> Value {
    json!({
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "public_tokens": shape.public_tokens,
        "private_tokens": shape.private_tokens,
    })
}

/// Layers of the shape that is asked for.
fn layers_like(like: &str, tokens: usize) -> Result<LlamaConfig> {
    let mut config = config_like(like)?;
    config.num_hidden_layers = LAYERS;
    config.vocab_size = VOCABULARY;
    config.max_position_embeddings = config.max_position_embeddings.max(tokens + 1);
    config.bos_token_id = Some(0);
    config.eos_token_ids = vec![1];
    config.validate()?;
    Ok(config)
}

/// Token ids without meaning, from a fixed multiplicative sequence.
pub(super) fn random_prompt(shape: Shape, vocabulary: usize, seed: u64) -> Prompt {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = |count: usize| -> Vec<u32> {
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                (state >> 33) as u32 % vocabulary as u32
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

/// What one stage took.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    pub name: &'static str,
    pub layer: usize,
    pub seconds: f64,
    pub bootstraps: u64,
    pub key_switches: u64,
    pub plaintext_products: u64,
}

/// Times the stages as they end.
pub(super) struct Steps<'a, C> {
    context: &'a Context,
    /// The counters so far.
    counts: C,
    state: Mutex<(Instant, Counts, Vec<Stage>)>,
}

impl<'a, C: Fn() -> Counts> Steps<'a, C> {
    pub(super) fn new(context: &'a Context, counts: C) -> Self {
        context.progress.begin("layers", 1000);
        Self { context, state: Mutex::new((Instant::now(), counts(), Vec::new())), counts }
    }

    pub(super) fn finished(&self) -> Vec<Stage> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).2.clone()
    }
}

impl<C: Fn() -> Counts + Sync> Progress for Steps<'_, C> {
    fn step(&self, name: &'static str, layer: usize, _: usize, done_fraction: f64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, counts) = (Instant::now(), (self.counts)());
        let stage = Stage {
            name,
            layer,
            seconds: now.duration_since(state.0).as_secs_f64(),
            bootstraps: counts.bootstraps - state.1.bootstraps,
            key_switches: counts.key_switches - state.1.key_switches,
            plaintext_products: counts.plaintext_products - state.1.plaintext_products,
        };
        (state.0, state.1) = (now, counts);
        state.2.push(stage);
        self.context.progress.advance_to((done_fraction * 1000.0) as u64, name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cleanup::Cleanup;
    use crate::error::Error;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    #[test]
    fn known_names_and_files_give_layers() {
        let config = layers_like("llama-3-8b", 300).unwrap();
        assert_eq!((config.hidden_size, config.num_key_value_heads, config.num_hidden_layers), (4096, 8, LAYERS));
        assert!(layers_like("llama-2-7b", 300).is_ok());
        assert!(matches!(layers_like("no-such-name", 300), Err(Error::Usage(_))));
    }

    #[test]
    fn the_relative_error_is_in_bits() {
        assert!((relative_rms_log2(&[1.0, -1.0], &[1.25, -1.25]) + 2.0).abs() < 1e-9);
    }

    #[test]
    fn the_reported_layer_works_on_all_rows_and_is_counted_alone() {
        let config = layers_like("../../models/tiny", 40).unwrap();
        let shape = Shape { public_tokens: 8, private_tokens: 16, max_new_tokens: 1 };
        let planned = Planned::new(&config, None, shape, Some(Route::Slots)).unwrap();
        let (reported, last) = (planned.prefill_layer(REPORTED), planned.prefill_layer(LAYERS - 1));
        assert!(reported.0 > last.0 && reported.2 > last.2, "{reported:?} {last:?}");
        assert!(reported.1 + last.1 <= planned.bootstraps() && reported.2 + last.2 < planned.key_switches());
        let said = geometry(&config, shape);
        assert_eq!((&said["layers"], &said["private_tokens"]), (&LAYERS.into(), &16.into()));
        let all = total(said, 1.0, &Counts::default(), -20.0, &planned);
        assert_eq!((&all["name"], &all["layers"], &all["head"]), (&"total".into(), &2.into(), &true.into()));
        assert_eq!(all["planned"]["seconds"].as_f64(), planned.seconds().first().copied());
    }

    #[test]
    fn stages_are_counted_apart() {
        let context =
            Context { json: true, progress: crate::progress::Progress::on_stderr(), cleanup: Cleanup::default() };
        let total = AtomicU64::new(0);
        let steps = Steps::new(&context, || Counts { bootstraps: total.load(Relaxed), ..Counts::default() });
        for (layer, bootstraps) in [(0, 3), (0, 0), (1, 2)] {
            total.fetch_add(bootstraps, Relaxed);
            steps.step("stage", layer, LAYERS, 0.5);
        }
        let found: Vec<_> = steps.finished().iter().map(|stage| (stage.layer, stage.bootstraps)).collect();
        assert_eq!(found, [(0, 3), (0, 0), (1, 2)]);
    }
}
