//! What a session will cost, before any weight is read or any key is made.
//!
//! The plan runs the very program that the server runs, on the evaluator that only counts. Its counts and its key set
//! are therefore exact for the given calibration, and an estimate when ranges are assumed instead.

use crate::Error;
use crate::calibration::{Calibration, Interval, LayerCalibration, NormCalibration, SoftmaxCalibration, VERSION};
use crate::decode;
use crate::packing::Shape;
use crate::preparation::Preparation;
use crate::program::{Pass, Program};
use crate::progress::Progress;
use std::sync::Mutex;
use undertone_he::{Chain, CostEvaluator, Counts, Evaluator, KeySet};
use undertone_model::LlamaConfig;

/// Costs of one stage of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct StageCost {
    /// The stage.
    pub stage: &'static str,
    /// The layer, or the number of layers for the head.
    pub layer: usize,
    /// Counters of this stage alone.
    pub counts: Counts,
}

/// Costs of one step: the prefill or the decoding of one token.
#[derive(Debug, Clone, PartialEq)]
pub struct StepCost {
    /// All counters of the step.
    pub counts: Counts,
    /// Its stages in order; their counters add up to `counts` less the final guard product.
    pub stages: Vec<StageCost>,
}

/// The costs of a session.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The shape that was planned.
    pub shape: Shape,
    /// Level at which the client encrypts.
    pub input_level: usize,
    /// Ciphertexts that the client sends for the prompt; one per later token.
    pub prompt_ciphertexts: usize,
    /// Ciphertexts of logits that each step returns, besides the guard.
    pub logit_ciphertexts: usize,
    /// Level of the results.
    pub output_level: usize,
    /// The prefill, then one entry per decoded token.
    pub steps: Vec<StepCost>,
    /// Every evaluation key of the session, with the highest level of its use.
    pub keys: KeySet,
    /// The most limbs that ciphertexts take at one time, besides keys and matrices of bootstraps.
    pub peak_limbs: usize,
    /// Whether ranges were assumed because no calibration was given.
    pub estimate: bool,
}

impl Plan {
    /// Plans a session on `ev`, which may carry a model of the inside of bootstraps.
    ///
    /// # Errors
    /// As [`Program::new`].
    pub fn new(
        config: &LlamaConfig,
        calibration: Option<&Calibration>,
        shape: Shape,
        ev: &CostEvaluator,
    ) -> Result<Self, Error> {
        let program = program(config, calibration, shape, ev.chain())?;
        let mut steps = Vec::with_capacity(shape.max_new_tokens);
        let mut recorder = Recorder::new(ev);
        let input = vec![ev.value(program.input_level()); program.input_count()];
        let (first, mut state) = program.prefill_pass(Pass::new(ev, &program, None, &recorder)?, input)?;
        steps.push(recorder.take());
        for _ in 1..shape.max_new_tokens {
            recorder = Recorder::new(ev);
            let input = vec![ev.value(program.input_level())];
            decode::decode(Pass::new(ev, &program, None, &recorder)?, &mut state, input)?;
            steps.push(recorder.take());
        }
        Ok(Self {
            shape,
            input_level: program.input_level(),
            prompt_ciphertexts: program.input_count(),
            logit_ciphertexts: first.logits.len(),
            output_level: ev.level(&first.guard),
            steps,
            keys: ev.key_set(),
            peak_limbs: ev.peak_limbs(),
            estimate: calibration.is_none(),
        })
    }
}

/// The program to plan, with assumed ranges where there is no calibration.
fn program(
    config: &LlamaConfig,
    calibration: Option<&Calibration>,
    shape: Shape,
    chain: Chain,
) -> Result<Program, Error> {
    match calibration {
        Some(calibration) => Program::new(config, calibration, shape, chain),
        None => Program::new(config, &assumed_calibration(config), shape, chain),
    }
}

/// What one layer in turns costs on `ev`, with assumed ranges where there is no calibration.
///
/// # Errors
/// As [`Program::layer_in_turns`].
pub fn plan_layer_in_turns(
    config: &LlamaConfig,
    calibration: Option<&Calibration>,
    shape: Shape,
    ev: &CostEvaluator,
) -> Result<StepCost, Error> {
    let program = program(config, calibration, shape, ev.chain())?;
    let recorder = Recorder::new(ev);
    let input = (0..program.halves_count()).map(|_| [(); 2].map(|()| ev.value(ev.chain().top_level))).collect();
    let matrices = program.layer_matrices(ev, None, 0)?;
    program.layer_in_turns(ev, None, &matrices, input, &recorder)?;
    Ok(recorder.take())
}

/// Takes the counters apart by stage.
struct Recorder<'a> {
    ev: &'a CostEvaluator,
    first: Counts,
    stages: Mutex<(Counts, Vec<StageCost>)>,
}

impl<'a> Recorder<'a> {
    fn new(ev: &'a CostEvaluator) -> Self {
        let first = ev.counts();
        Self { ev, stages: Mutex::new((first.clone(), Vec::new())), first }
    }

    fn take(&self) -> StepCost {
        let mut stages = self.stages.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        StepCost { counts: self.ev.counts().since(&self.first), stages: std::mem::take(&mut stages.1) }
    }
}

impl Progress for Recorder<'_> {
    fn step(&self, stage: &'static str, layer: usize, _layers: usize, _done_fraction: f64) {
        let now = self.ev.counts();
        let mut stages = self.stages.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let counts = now.since(&stages.0);
        stages.1.push(StageCost { stage, layer, counts });
        stages.0 = now;
    }
}

/// Ranges and degrees as small trained models have them, and scores that span up to 64: 33 to 40 are reported for
/// Llama-2-7B (arXiv 2601.18511).
fn assumed_calibration(config: &LlamaConfig) -> Calibration {
    let layers = config.num_hidden_layers;
    let norm = NormCalibration { mean_square: Interval { low: 0.1, high: 10.0 }, degree: 31 };
    let rounds = 2;
    let layer = LayerCalibration {
        attention_norm: norm,
        mlp_norm: norm,
        query_bound: 16.0,
        key_bound: 16.0,
        value_bound: 16.0,
        softmax: SoftmaxCalibration {
            rounds,
            shift: vec![0.0; config.num_attention_heads],
            half_span: 8.0,
            exp_degree: 15,
            sums: vec![Interval { low: 0.05, high: 8.0 }; rounds],
            inverse_degree: vec![31; rounds],
            newton_steps: 0,
        },
        attention_bound: 16.0,
        gate_bound: 16.0,
        up_bound: 16.0,
        silu_degree: 63,
        product_bound: 64.0,
    };
    Calibration {
        version: VERSION,
        model_fingerprint: String::new(),
        corpus_hash: String::new(),
        prompts: 0,
        tokens: 0,
        held_out_escapes: 0,
        first_scan_escapes: None,
        margin: 1.0,
        preparation: Preparation::default(),
        residual_bound: vec![32.0; 2 * layers + 1],
        layers: vec![layer; layers],
        final_norm: norm.mean_square,
        logit_bound: 64.0,
    }
}

#[cfg(test)]
mod tests;
