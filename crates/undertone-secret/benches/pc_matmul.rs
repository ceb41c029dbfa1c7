//! A plaintext × ciphertext matrix product at secure degrees, step by step: `pc_matmul [outputs] [inputs] [runs]`.
//!
//! It stands in this crate because key generation needs a secret key. Inputs are uniform, as the halves of any
//! ciphertext look. Each step is timed alone, over all its calls, on one thread and on all; the last line is the whole.

use rayon::prelude::*;
use std::sync::Arc;
use std::time::Instant;
use undertone_he::circuits::pc_matmul::{
    ComponentOrder, MAX_WEIGHT, PcMatmul, ProductKeys, ProductParameters, ProductWeights, SmallPair, WeightShape,
};
use undertone_he::{Ciphertext, Parameters, ParametersLiteral};
use undertone_ring::{ModuleRows, Seed, expand_uniform};
use undertone_secret::{Error, ProductKeyGenerator, SecretKey, SecretRng};

const LOG_SMALL: u32 = 13;
const TOKENS: usize = 128;
/// Output blocks that are packed together, as in a whole product.
const PACKED: usize = 4;

/// A ciphertext of uniform halves at level 1.
fn arbitrary(parameters: &Parameters, seed: u8) -> Ciphertext {
    let uniform = |counter| expand_uniform(parameters.ring(), &Seed([seed; 32]), counter, parameters.basis(1));
    Ciphertext::from_parts(uniform(0), uniform(1), parameters.scale(1))
}

/// The largest resident memory of this process so far, in MiB; zero where it is not told.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

/// Processor time of all threads so far in milliseconds, to the kernel's 10 ms; zero where it is not told.
fn processor_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum();
    ticks * 10.0
}

/// Milliseconds of one step: the least by the clock, and the mean by the processor, which a busy machine disturbs less.
#[derive(Clone, Copy)]
struct Times {
    clock: f64,
    processor: f64,
}

/// The times of `runs` runs, and what the last one made.
fn timed<T>(runs: usize, mut work: impl FnMut() -> T) -> (Times, T) {
    let before = processor_ms();
    let mut once = || {
        let start = Instant::now();
        let made = work();
        (start.elapsed().as_secs_f64() * 1e3, made)
    };
    let mut best = once();
    for _ in 1..runs {
        let next = once();
        best = (best.0.min(next.0), next.1);
    }
    (Times { clock: best.0, processor: (processor_ms() - before) / runs as f64 }, best.1)
}

/// Times of all steps, in the order of [`STEPS`].
fn steps(
    product: &PcMatmul,
    inputs: &[Ciphertext],
    order: &ComponentOrder,
    weights: &ProductWeights,
    runs: usize,
) -> Result<[Times; 6], Error> {
    let parts = product.parameters().parts();
    let down = || inputs.par_iter().map(|input| product.switch_down(input)).collect::<Result<Vec<_>, _>>();
    let (down, pairs) = timed(runs, down);
    let pairs: Vec<SmallPair> = pairs?.into_iter().flatten().collect();
    let (prepare, input) = timed(runs, || product.prepare_pairs(&pairs, inputs[0].scale(), order));
    let input = input?;
    let rows = || (0..weights.blocks()).into_par_iter().map(|block| product.rows(&input, weights, block));
    // Rows of all blocks together take several hundred MiB that a product never holds; only a few are kept.
    let (multiply, made) = timed(runs, || rows().try_for_each(|rows| rows.map(drop)));
    made?;
    let sets: Vec<ModuleRows> =
        (0..PACKED).map(|block| product.rows(&input, weights, block)).collect::<Result<_, _>>()?;
    let tasks = weights.blocks() / PACKED;
    let (pack, packed) =
        timed(runs, || (0..tasks).into_par_iter().map(|_| product.pack(&sets)).collect::<Result<Vec<_>, _>>());
    let packed: Vec<SmallPair> = packed?.into_iter().flatten().collect();
    let (up, made) = timed(runs, || {
        packed.par_chunks_exact(parts).map(|pairs| product.switch_up(pairs, 1.0)).collect::<Result<Vec<_>, _>>()
    });
    made?;
    let (whole, made) = timed(runs, || product.apply(inputs, order, weights));
    made?;
    Ok([down, prepare, multiply, pack, up, whole])
}

const STEPS: [&str; 6] =
    ["ring switch down", "evaluate inputs", "product and rescale", "pack", "ring switch up", "whole"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let at = |i: usize, usual: usize| numbers.get(i).copied().unwrap_or(usual);
    let (outputs, inputs, runs) = (at(0, 4096), at(1, 4096), at(2, 3).max(1));
    let parameters = Parameters::new(ParametersLiteral::n16_product())?;
    let product = ProductParameters::new(&parameters, LOG_SMALL, TOKENS)?;
    let mut rng = SecretRng::from_os()?;
    let secret = SecretKey::generate(&parameters, &mut rng);
    let sent = ProductKeyGenerator::new(&product, &secret, &mut rng).generate_all(&mut rng)?;
    let keys = ProductKeys::new(&product, sent)?;
    println!("N = 2^16, N' = 2^{LOG_SMALL}, T = {TOKENS}, log QP = {:.1} of the small ring", product.log_qp());
    println!("keys: {:.1} MB in memory", keys.size_bytes() as f64 / 1e6);
    let evaluator = PcMatmul::new(&product, Arc::new(keys));
    let order = ComponentOrder::bit_reversed(product.components())?;
    let shape = WeightShape { outputs, inputs, output_order: order.clone(), input_order: order.clone() };
    let integer = |o: usize, i: usize| ((o * 7919 + i * 104_729) % (1 << 15)) as i16 - MAX_WEIGHT;
    let (converted, weights) = timed(1, || ProductWeights::new(&product, &shape, 0, integer));
    let weights = weights?;
    println!(
        "weights {outputs} x {inputs}: {:.1} MB, converted in {:.0} ms",
        weights.size_bytes() as f64 / 1e6,
        converted.clock
    );
    let ciphertexts: Vec<Ciphertext> =
        (0..inputs.div_ceil(product.components())).map(|c| arbitrary(&parameters, c as u8)).collect();
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let single = alone.install(|| steps(&evaluator, &ciphertexts, &order, &weights, runs))?;
    let all = steps(&evaluator, &ciphertexts, &order, &weights, runs)?;
    let threads = format!("{} threads", rayon::current_num_threads());
    println!("{:<22} {:>12} {:>12} {threads:>12}", "milliseconds", "1 thread", "processor");
    for ((name, single), all) in STEPS.iter().zip(single).zip(all) {
        println!("{name:<22} {:>12.1} {:>12.1} {:>12.1}", single.clock, single.processor, all.clock);
    }
    // What a dense product of the weights with all T + N' columns would take, for two residue primes.
    let dense = 2.0 * (outputs * inputs) as f64 * (TOKENS + (1 << LOG_SMALL)) as f64;
    let rate = dense / single[2].processor / 1e6;
    println!("dense multiply-adds replaced: {:.0} G, {rate:.0} G per second of one processor", dense / 1e9);
    println!("peak memory: {} MiB", peak_mib());
    Ok(())
}
