//! One turn: a matrix product between the halves of bootstraps, step by step, with its precision.
//!
//! Weights and inputs are random; the weights are as large as keeps outputs of many tokens within ±1. What comes out is
//! compared with the same integers times the same slots in the clear, so the error is that of encryption alone.

use super::setup::Setup;
use super::{Figures, Measuring, Times};
use crate::context::Context;
use crate::error::Result;
use crate::memory::peak_rss_bytes;
use clap::Args;
use std::time::Instant;
use undertone_he::{
    Chain, Ciphertext, CkksMatrix, ClearEvaluator, ClearValue, CostEvaluator, Evaluator, MatrixShape, Parameters,
    Slots, bootstrap_model,
};

/// Root mean square of the outputs: six times it stays below 1.
const OUTPUT_RMS: f64 = 0.16;
/// Names of the steps, in their order.
const STEPS: [&str; 4] = ["to_coefficients_ms", "prepare_ms", "multiply_ms", "to_slots_ms"];

/// Flags of `bench turn`.
#[derive(Debug, Clone, Copy, Args)]
pub struct TurnArguments {
    /// Channels that come out
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub outputs: u32,

    /// Channels that go in
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub inputs: u32,

    /// Tokens of each channel, a power of two
    #[arg(long, value_name = "T", default_value_t = 128)]
    pub tokens: u32,

    #[command(flatten)]
    pub measuring: Measuring,
}

impl TurnArguments {
    fn shape(&self) -> MatrixShape {
        let [outputs, inputs, tokens] = [self.outputs, self.inputs, self.tokens].map(|number| number as usize);
        MatrixShape { outputs, inputs, tokens }
    }
}

/// Writes rows of weights that are uniform in both directions from 0.
fn row(shape: &MatrixShape) -> impl Fn(usize, &mut [f32]) + Sync + use<> {
    // Inputs and weights of variance 1/3 each, relative to their bounds.
    let bound = OUTPUT_RMS * 3.0 / (shape.inputs as f64).sqrt();
    move |o, out| {
        for (i, out) in out.iter_mut().enumerate() {
            *out = (bound * (2.0 * unit((o as u64) << 32 | i as u64) - 1.0)) as f32;
        }
    }
}

/// A number in [0, 1) that depends on `index` (splitmix64).
fn unit(index: u64) -> f64 {
    let z = index.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 * (-53f64).exp2()
}

/// A new secret with the keys of one turn.
fn prepare(parameters: Parameters, arguments: &TurnArguments, context: &Context) -> Result<Setup> {
    let (chain, shape) = (parameters.chain(), arguments.shape());
    let cost = CostEvaluator::new(chain).with_bootstrap_model(bootstrap_model(&parameters));
    let matrix = cost.encode_matrix(&shape, &|_, _| ())?;
    let pair = [(); 2].map(|()| cost.value(chain.boot_level));
    cost.product_bootstrap(&vec![pair; shape.input_pairs(chain)], &matrix)?;
    Setup::for_key_set(context, parameters, arguments.measuring.key_memory(), &cost.key_set())
}

/// Slots of the pairs that go in, zero past the last channel.
fn inputs(setup: &mut Setup, shape: &MatrixShape) -> Result<Vec<[Slots; 2]>> {
    let chain = setup.parameters.chain();
    let (half, components) = (shape.tokens / 2, shape.components(chain));
    let mut side = |pair: usize| {
        let mut values = setup.random_values(chain.slot_count());
        values[(shape.inputs - pair * components).min(components) * half..].fill(0.0);
        Slots::new(values, chain.slot_count())
    };
    let mut pairs = Vec::with_capacity(shape.input_pairs(chain));
    for pair in 0..shape.input_pairs(chain) {
        pairs.push([side(pair)?, side(pair)?]);
    }
    Ok(pairs)
}

/// What the same integers make of the same slots.
fn expected(chain: Chain, shape: &MatrixShape, pairs: &[[Slots; 2]]) -> Result<Vec<[ClearValue; 2]>> {
    let clear = ClearEvaluator::new(chain);
    let encrypt = |pair: &[Slots; 2]| pair.each_ref().map(|slots| clear.encrypt(slots, chain.boot_level));
    let matrix = clear.encode_matrix(shape, &row(shape))?;
    Ok(clear.product_bootstrap(&pairs.iter().map(encrypt).collect::<Vec<_>>(), &matrix)?)
}

/// What one turn gave: its outputs, and the milliseconds of each step.
struct Turn {
    outputs: Vec<[Ciphertext; 2]>,
    steps: [f64; 4],
}

fn turn(setup: &Setup, matrix: &CkksMatrix, pairs: &[[Ciphertext; 2]]) -> Result<Turn> {
    let ev = &setup.evaluator;
    let mut steps = [0.0; 4];
    let mut start = Instant::now();
    let mut lap = |step: usize| {
        steps[step] = start.elapsed().as_secs_f64() * 1e3;
        start = Instant::now();
    };
    let coefficients = ev.turn_to_coefficients(pairs)?;
    lap(0);
    let operand = ev.prepare_product(&coefficients, matrix)?;
    lap(1);
    let products = ev.multiply_prepared(&operand, matrix)?;
    lap(2);
    let outputs = ev.turn_to_slots(&products, matrix)?;
    lap(3);
    Ok(Turn { outputs, steps })
}

/// Largest error and sum of squares of errors, over channels of the matrix only.
#[derive(Default)]
struct Errors {
    worst: f64,
    squares: f64,
    count: usize,
}

impl Errors {
    fn add(&mut self, setup: &Setup, shape: &MatrixShape, found: &[[Ciphertext; 2]], expected: &[[ClearValue; 2]]) {
        let components = shape.components(setup.parameters.chain());
        for (pair, (found, expected)) in found.iter().zip(expected).enumerate() {
            let slots = (shape.outputs - pair * components).min(components) * shape.tokens / 2;
            for (found, expected) in found.iter().zip(expected) {
                let found = setup.decrypt(found);
                for (found, expected) in found.iter().zip(expected.slots()).take(slots) {
                    let error = (found - expected).abs();
                    self.worst = self.worst.max(error);
                    self.squares += error * error;
                }
                self.count += slots;
            }
        }
    }

    fn worst_bits(&self) -> f64 {
        -self.worst.log2()
    }

    fn rms_bits(&self) -> f64 {
        -(self.squares / self.count as f64).sqrt().log2()
    }
}

/// All that was measured.
struct Measured {
    arguments: TurnArguments,
    encode_ms: f64,
    times: Times,
    /// By step.
    laps: [Times; 4],
    errors: Errors,
}

/// Runs the benchmark.
pub fn run(arguments: &TurnArguments, context: &Context) -> Result<()> {
    let (measuring, shape) = (arguments.measuring, arguments.shape());
    let runs = measuring.run_count(3);
    let mut setup = prepare(measuring.product_parameters()?, arguments, context)?;
    let chain = setup.parameters.chain();
    let start = Instant::now();
    let matrix = setup.evaluator.encode_matrix(&shape, &row(&shape))?;
    let encode_ms = start.elapsed().as_secs_f64() * 1e3;
    let mut laps: [Vec<f64>; 4] = Default::default();
    let mut errors = Errors::default();
    context.progress.begin("turn", runs as u64 + 1);
    // The first run encodes the matrices of the bootstrap and is not counted.
    for run in 0..=runs {
        let slots = inputs(&mut setup, &shape)?;
        let mut pairs = Vec::with_capacity(slots.len());
        for [low, high] in &slots {
            pairs.push([setup.encrypt_slots(low, chain.boot_level)?, setup.encrypt_slots(high, chain.boot_level)?]);
        }
        let Turn { outputs, steps } = turn(&setup, &matrix, &pairs)?;
        if run > 0 {
            laps.iter_mut().zip(steps).for_each(|(times, time)| times.push(time));
            errors.add(&setup, &shape, &outputs, &expected(chain, &shape, &slots)?);
        }
        context.progress.advance_to(run as u64 + 1, "run");
    }
    let times = Times::from_ms((0..runs).map(|run| laps.iter().map(|times| times[run]).sum()).collect());
    let laps = laps.map(Times::from_ms);
    report(&Measured { arguments: *arguments, encode_ms, times, laps, errors }, &setup, &matrix, context);
    Ok(())
}

fn report(measured: &Measured, setup: &Setup, matrix: &CkksMatrix, context: &Context) {
    let Measured { arguments, encode_ms, times, laps, errors } = measured;
    let (parameters, chain) = (&setup.parameters, setup.parameters.chain());
    let figures = Figures {
        name: "turn",
        log_n: chain.log_n,
        limbs: chain.max_level + 1,
        log_qp: parameters.log_qp(),
        threads: rayon::current_num_threads(),
        times,
    };
    let mut object = figures.object();
    let steps: serde_json::Map<String, serde_json::Value> =
        STEPS.iter().zip(laps).map(|(&name, times)| (name.to_owned(), times.median_ms().into())).collect();
    let more = [
        ("parameters", parameters.name().into()),
        ("outputs", arguments.outputs.into()),
        ("inputs", arguments.inputs.into()),
        ("tokens", arguments.tokens.into()),
        ("gain_log2", matrix.gain_log2().into()),
        ("steps", steps.into()),
        ("encode_matrix_ms", (*encode_ms).into()),
        ("matrix_bytes", matrix.size_bytes().into()),
        ("levels_left", (chain.top_level - chain.boot_level).into()),
        ("worst_slot_bits", errors.worst_bits().into()),
        ("rms_slot_bits", errors.rms_bits().into()),
        ("key_bytes", setup.key_bytes.into()),
        ("peak_rss_bytes", peak_rss_bytes().into()),
    ];
    object.extend(more.map(|(name, value): (&str, serde_json::Value)| (name.to_owned(), value)));
    let medians = laps.each_ref().map(Times::median_ms);
    let line = format!(
        "{}; {} × {} × {} tokens: to coefficients {:.0} ms, prepare {:.0}, multiply {:.0}, to slots {:.0}; \
         worst slot {:.2} bits, rms {:.2} bits",
        figures.line(),
        arguments.outputs,
        arguments.inputs,
        arguments.tokens,
        medians[0],
        medians[1],
        medians[2],
        medians[3],
        errors.worst_bits(),
        errors.rms_bits()
    );
    context.result(&object.into(), || line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_outputs_in_range_and_differ() {
        let shape = MatrixShape { outputs: 64, inputs: 100, tokens: 16 };
        let chain = Chain { log_n: 11, top_level: 8, boot_level: 4, max_level: 20, product_prime: Some(786_433) };
        let values = |seed: u64| (0..1024).map(move |i| 2.0 * unit(seed << 40 | i) - 1.0).collect::<Vec<_>>();
        // 128 channels fit a pair; those past the last are ignored, whatever they hold.
        let pair = [1, 2].map(|seed| Slots::new(values(seed), 1024).unwrap());
        let [low, high] = &expected(chain, &shape, &[pair]).unwrap()[0];
        let rms = |value: &ClearValue| (value.slots().iter().map(|x| x * x).sum::<f64>() / 512.0).sqrt();
        for value in [low, high] {
            assert!((rms(value) / OUTPUT_RMS - 1.0).abs() < 0.2, "{}", rms(value));
            assert!(value.slots()[512..].iter().all(|&slot| slot == 0.0));
        }
    }
}
