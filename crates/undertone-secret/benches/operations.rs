//! Rotation and multiplication of the shipped parameters at log2 Q of at least 1300, and sums of diagonals, on one thread.
//!
//! It stands in this crate, not in that of the evaluators, because key generation needs a secret key. The inputs are
//! uniform, as the halves of any ciphertext look, so the times are those of real ones. `undertone bench` measures the
//! same operations from the command line.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use undertone_he::circuits::{Diagonals, LinearTransform};
use undertone_he::{
    Ciphertext, CkksEvaluator, EvaluationKeys, Evaluator, KeyId, KeyMemory, KeyRequest, Parameters, Slots,
    rotation_element,
};
use undertone_ring::{Seed, expand_uniform};
use undertone_secret::{Error, KeyGenerator, SecretKey, SecretRng};

/// Least log2 Q at which the operations are measured.
const LOG_Q: f64 = 1300.0;

/// Diagonals of one linear transform.
const DIAGONALS: usize = 64;

/// The lowest level whose log2 Q is at least [`LOG_Q`], or the highest there is.
fn operation_level(parameters: &Parameters) -> usize {
    let mut log_q = 0.0;
    let enough = parameters.ring().q_moduli().iter().position(|modulus| {
        log_q += (modulus.value() as f64).log2();
        log_q >= LOG_Q
    });
    enough.unwrap_or(usize::MAX).min(parameters.chain().max_level)
}

/// A ciphertext of uniform halves; what it would decrypt to is noise.
fn arbitrary(parameters: &Parameters, level: usize, seed: u8) -> Ciphertext {
    let uniform = |counter| expand_uniform(parameters.ring(), &Seed([seed; 32]), counter, parameters.basis(level));
    Ciphertext::from_parts(uniform(0), uniform(1), parameters.scale(level))
}

/// An evaluator with the keys of both operations.
fn evaluator(parameters: &Parameters, level: usize) -> Result<CkksEvaluator, Error> {
    let mut rng = SecretRng::from_os()?;
    let secret = SecretKey::generate(parameters, &mut rng);
    let generator = KeyGenerator::new(parameters, &secret);
    let mut keys = EvaluationKeys::new(parameters, &KeyMemory::Expanded).unwrap();
    let galois = KeyId::Galois(rotation_element(parameters.chain(), 1));
    for id in [galois, KeyId::Relinearization] {
        keys.insert(generator.generate(&KeyRequest { id, level }, &mut rng)?)?;
    }
    Ok(CkksEvaluator::new(parameters, Arc::new(keys)))
}

fn operations(criterion: &mut Criterion) -> Result<(), Error> {
    let parameters = Parameters::default_preset();
    let level = operation_level(&parameters);
    let evaluator = evaluator(&parameters, level)?;
    let (a, b) = (arbitrary(&parameters, level, 7), arbitrary(&parameters, level, 8));
    evaluator.rotate(&a, 1)?;
    evaluator.mul(&a, &b)?;
    let limbs = level + 1;
    criterion.bench_function(&format!("rotate/{limbs} limbs"), |bencher| {
        bencher.iter(|| black_box(evaluator.rotate(black_box(&a), 1)));
    });
    criterion.bench_function(&format!("multiply, relinearize, rescale/{limbs} limbs"), |bencher| {
        bencher.iter(|| black_box(evaluator.mul(black_box(&a), &b)));
    });
    Ok(())
}

/// Different values in every slot.
struct Full;

impl Diagonals for Full {
    fn contains(&self, _output: usize, _input: usize, _index: usize) -> bool {
        true
    }

    fn diagonal(&self, _output: usize, input: usize, _index: usize) -> Slots {
        let values = (0..1usize << 15).map(|slot| ((slot * 7919 + input) % 1024) as f64 / 1024.0);
        Slots::new(values.collect(), 1 << 15).expect("the shipped parameters have 2^15 slots")
    }
}

/// Products with diagonals of all slots that are encoded on the way, at a low and at a high level.
fn diagonals(criterion: &mut Criterion) -> Result<(), Error> {
    let parameters = Parameters::default_preset();
    let evaluator = evaluator(&parameters, 1)?;
    for level in [5, 15] {
        let inputs: Vec<Ciphertext> = (0..DIAGONALS).map(|seed| arbitrary(&parameters, level, seed as u8)).collect();
        let transform =
            LinearTransform { inputs: DIAGONALS, outputs: 1, stride: 1, count: 1, baby_steps: 1, diagonals: &Full };
        evaluator.linear_transform(&inputs, &transform)?;
        criterion.bench_function(&format!("{DIAGONALS} diagonals/{} limbs", level + 1), |bencher| {
            bencher.iter(|| black_box(evaluator.linear_transform(black_box(&inputs), &transform)));
        });
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // This thread is the pool, so no operation hands its work to another one.
    rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global()?;
    let short = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(2));
    let mut criterion = short.warm_up_time(Duration::from_millis(500)).without_plots().configure_from_args();
    operations(&mut criterion)?;
    diagonals(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}
