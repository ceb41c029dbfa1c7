//! One encrypted layer in turns, of a given shape with random weights, stage by stage.
//!
//! The layer works on all private rows, as every layer of a long prompt but the last does. Its output, the residual
//! stream, is compared with that of the reference in f64, relative to its root mean square over all private rows. The
//! weights are random and ranges are those of the very prompt that runs, so the figures are those of the shape, not of
//! a trained model.

use super::layer::{Steps, geometry, random_prompt};
use super::setup::Setup;
use crate::config::config_like;
use crate::context::Context;
use crate::error::Result;
use crate::memory::peak_rss_bytes;
use clap::Args;
use serde_json::json;
use std::time::Instant;
use undertone_he::{Chain, Ciphertext, CostEvaluator, Counts, Evaluator, KeySet, Parameters, bootstrap_model};
use undertone_infer::calibrate::{CalibrationOptions, Prompt, calibrate};
use undertone_infer::{Calibration, Program, PublicCache, Shape, plan_layer_in_turns};
use undertone_model::reference::{embed, forward_cache, forward_hidden};
use undertone_model::{Accumulation, KvCache, Llama, synthetic};

/// Vocabulary of the benchmark: neither embedding nor head is part of a layer.
const VOCABULARY: usize = 256;
/// What queries are multiplied by: the scores of a row then span about 36, near the 33 to 40 that arXiv 2601.18511 reports
/// for Llama-2-7B.
const SCORE_SPREAD: f32 = 1.8;

/// Flags of `bench cycle`.
#[derive(Debug, Args)]
pub struct CycleArguments {
    /// A config.json, a model directory, llama-2-7b, llama-3-8b, tinyllama-1.1b or llama-100m
    #[arg(long, value_name = "CONFIG_OR_NAME")]
    pub like: String,

    /// Public tokens, BOS included
    #[arg(long, value_name = "P", default_value_t = 3968)]
    pub public: usize,

    /// Private tokens
    #[arg(long, value_name = "T", default_value_t = 128)]
    pub private: usize,

    #[command(flatten)]
    pub measuring: super::Measuring,
}

/// What runs, and what should come out.
struct Case {
    model: Llama,
    program: Program,
    prompt: Prompt,
    calibration: Calibration,
    /// The cache after the public tokens.
    public: PublicCache,
    /// Private rows of the stream that leaves the layer.
    expected: Vec<Vec<f32>>,
}

/// Runs the benchmark.
pub fn run(arguments: &CycleArguments, context: &Context) -> Result<()> {
    let shape = Shape { public_tokens: arguments.public, private_tokens: arguments.private, max_new_tokens: 1 };
    let parameters = arguments.measuring.product_parameters()?;
    let case = Case::new(context, &arguments.like, shape, parameters.chain())?;
    let (planned, keys) = case.plan(&parameters)?;
    let mut setup = Setup::for_key_set(context, parameters, arguments.measuring.key_memory(), &keys)?;
    let rows = case.rows()?;
    let mut input = Vec::new();
    for [lo, hi] in case.program.pack_halves(&rows)? {
        let level = setup.parameters.chain().top_level;
        input.push([setup.encrypt_slots(&lo, level)?, setup.encrypt_slots(&hi, level)?]);
    }
    let start = Instant::now();
    let matrices = case.program.layer_matrices(&setup.evaluator, Some(&case.model), 0)?;
    let conversion = start.elapsed().as_secs_f64();
    let steps = Steps::new(context, || setup.evaluator.counts());
    let start = Instant::now();
    let source = Some((&case.model, &case.public));
    let (output, guard) = case.program.layer_in_turns(&setup.evaluator, source, &matrices, input, &steps)?;
    let seconds = start.elapsed().as_secs_f64();
    for stage in steps.finished() {
        let object = json!({
            "name": stage.name, "seconds": stage.seconds, "bootstraps": stage.bootstraps,
            "key_switches": stage.key_switches, "plaintext_products": stage.plaintext_products,
        });
        context.result(&object, || {
            let (name, seconds, bootstraps) = (stage.name, stage.seconds, stage.bootstraps);
            format!("{name:<20} {seconds:>9.2} s, {bootstraps} bootstraps, {} key switches", stage.key_switches)
        });
    }
    let error = case.error_log2(&setup, &output)?;
    let largest = setup.decrypt(&guard).iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let counts = setup.evaluator.counts();
    let object = json!({
        "name": "layer",
        "geometry": geometry(&case.model.config, shape),
        "parameters": setup.parameters.name(),
        "softmax_rounds": case.calibration.layers[0].softmax.rounds,
        "conversion_seconds": conversion,
        "seconds": seconds,
        "bootstraps": counts.bootstraps,
        "key_switches": counts.key_switches,
        "plaintext_products": counts.plaintext_products,
        "relative_rms_error_log2": error,
        "guard": largest,
        "key_bytes": setup.key_bytes,
        "peak_rss_bytes": peak_rss_bytes(),
        "planned": { "bootstraps": planned.bootstraps, "key_switches": planned.key_switches },
    });
    context.result(&object, || {
        let (bootstraps, switches) = (counts.bootstraps, counts.key_switches);
        format!("layer {seconds:>24.2} s, {bootstraps} bootstraps, {switches} key switches, error 2^{error:.1}")
    });
    Ok(())
}

impl Case {
    fn new(context: &Context, like: &str, shape: Shape, chain: Chain) -> Result<Self> {
        let mut config = config_like(like)?;
        config.num_hidden_layers = 1;
        config.vocab_size = VOCABULARY;
        let tokens = shape.public_tokens.saturating_add(shape.private_tokens);
        config.max_position_embeddings = config.max_position_embeddings.max(tokens.saturating_add(1));
        config.bos_token_id = Some(0);
        config.eos_token_ids = vec![1];
        config.validate()?;
        // Lengths are checked before prompts of these lengths are made.
        undertone_infer::Layout::new(&config, shape, chain.slot_count())?;
        context.progress.begin("random weights and their ranges", 1);
        let mut model = synthetic(config, 1);
        // Random heads look at everything alike; trained ones spread their scores.
        for weight in model.layers.iter_mut().flat_map(|layer| &mut layer.q.data) {
            *weight *= SCORE_SPREAD;
        }
        let prompt = random_prompt(shape, VOCABULARY, 0);
        let options = CalibrationOptions { held_out_fraction: 0.0, ..CalibrationOptions::default() };
        let calibration = calibrate(&model, std::slice::from_ref(&prompt), options, &mut |_| {})?;
        Self::with(model, calibration, prompt, shape, chain)
    }

    fn with(model: Llama, calibration: Calibration, prompt: Prompt, shape: Shape, chain: Chain) -> Result<Self> {
        let program = Program::new(&model.config, &calibration, shape, chain)?;
        let accumulation = Accumulation::F64;
        let mut public = KvCache::new(&model.config);
        forward_cache(&model, &mut public, &prompt.public, accumulation)?;
        let private = embed(&model.embed, &prompt.private)?;
        let stream = forward_hidden(&model, &mut public.clone(), private, accumulation, &mut ())?;
        let expected = stream.chunks(model.config.hidden_size).map(<[f32]>::to_vec).collect();
        let public = PublicCache::from_cache(&model.config, public);
        Ok(Self { model, program, prompt, calibration, public, expected })
    }

    /// The counters and keys of the layer.
    fn plan(&self, parameters: &Parameters) -> Result<(Counts, KeySet)> {
        let cost = CostEvaluator::new(parameters.chain()).with_bootstrap_model(bootstrap_model(parameters));
        let shape = self.program.layout().shape;
        let planned = plan_layer_in_turns(&self.model.config, Some(&self.calibration), shape, &cost)?;
        Ok((planned.counts, cost.key_set()))
    }

    /// The embedded private tokens.
    fn rows(&self) -> Result<Vec<Vec<f32>>> {
        let flat = embed(&self.model.embed, &self.prompt.private)?;
        Ok(flat.chunks(self.model.config.hidden_size).map(<[f32]>::to_vec).collect())
    }

    /// log2 of the error of the decrypted stream relative to the expected one, root mean squares both.
    fn error_log2(&self, setup: &Setup, output: &[[Ciphertext; 2]]) -> Result<f64> {
        let slots: Vec<[Vec<f64>; 2]> = output.iter().map(|pair| pair.each_ref().map(|v| setup.decrypt(v))).collect();
        let (mut errors, mut squares) = (0.0, 0.0);
        for (token, row) in self.expected.iter().enumerate() {
            for (found, &expected) in self.program.unpack_halves(&slots, token)?.iter().zip(row) {
                errors += (found - f64::from(expected)).powi(2);
                squares += f64::from(expected).powi(2);
            }
        }
        Ok((errors / squares).log2() / 2.0)
    }
}
