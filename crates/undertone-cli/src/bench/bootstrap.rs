//! Half-bootstraps of one or two real ciphertexts, with the precision of every run.

use super::setup::Setup;
use super::{Figures, Measuring, Times, backend};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::key_place::KeyPlaceArguments;
use crate::memory::peak_rss_bytes;
use clap::Args;
use std::sync::Arc;
use undertone_he::{CostEvaluator, Evaluator, KeyMemory, Parameters, bootstrap_model};
use undertone_ring::Metered;

/// Flags of `undertone bench bootstrap`.
#[derive(Debug, Clone, Args)]
pub struct BootstrapArguments {
    #[command(flatten)]
    pub measuring: Measuring,

    #[command(flatten)]
    pub key_place: KeyPlaceArguments,

    /// Tell what each kernel did in the last run: calls, time over all threads, bytes of operands, half products
    #[arg(long)]
    pub profile: bool,

    /// Values that repeat with P slots, a power of two; without it all slots differ
    #[arg(long, value_name = "P")]
    pub period: Option<usize>,

    /// One value instead of two
    #[arg(long)]
    pub single: bool,
}

impl BootstrapArguments {
    fn period(&self, slot_count: usize) -> Result<usize> {
        match self.period {
            None => Ok(slot_count),
            Some(period) if period.is_power_of_two() && period <= slot_count => Ok(period),
            Some(period) => Err(Error::Usage(format!("--period {period} is not a power of two up to {slot_count}"))),
        }
    }
}

/// A new secret with the keys of one half-bootstrap of two values of `period` slots, which wait as `memory` says.
///
/// # Errors
/// What key generation refuses.
pub fn prepare(parameters: Parameters, memory: KeyMemory, period: usize, context: &Context) -> Result<Setup> {
    let chain = parameters.chain();
    let cost = CostEvaluator::new(chain).with_bootstrap_model(bootstrap_model(&parameters));
    let value = cost.value(chain.boot_level);
    cost.half_bootstrap(&value, Some(&value), period)?;
    Setup::for_key_set(context, parameters, memory, &cost.key_set())
}

/// Runs the benchmark.
pub fn run(arguments: &BootstrapArguments, context: &Context) -> Result<()> {
    let measuring = arguments.measuring;
    let chosen = backend::backend(measuring.backend)?;
    let meter = arguments.profile.then(|| Arc::new(Metered::new(chosen.clone())));
    let parameters = backend::parameters(meter.clone().map_or(chosen, |meter| meter))?;
    let chain = parameters.chain();
    let slots = arguments.period(chain.slot_count())?;
    let memory = arguments.key_place.memory(measuring.key_memory())?;
    let mut setup = prepare(parameters, memory, slots, context)?;

    let (mut worst, mut total) = (0f64, 0f64);
    let runs = measuring.run_count(5);
    let (mut times, mut kernels) = (Vec::with_capacity(runs), None);
    context.progress.begin("bootstrap", runs as u64 + 1);
    // The first run encodes the matrices and is not counted.
    for run in 0..=runs {
        let (low, high) = (setup.random_values(slots), setup.random_values(slots));
        let inputs = (setup.encrypt(&low, chain.boot_level)?, setup.encrypt(&high, chain.boot_level)?);
        meter.iter().for_each(|meter| meter.reset());
        let start = std::time::Instant::now();
        let (out_low, out_high) =
            setup.evaluator.half_bootstrap(&inputs.0, (!arguments.single).then_some(&inputs.1), slots)?;
        let elapsed = start.elapsed().as_secs_f64() * 1e3;
        kernels = meter.as_ref().map(|meter| meter.totals());
        if run > 0 {
            times.push(elapsed);
            let (mut sum, mut outputs) = (0.0, 0);
            for (output, expected) in [(Some(&out_low), &low), (out_high.as_ref(), &high)] {
                let Some(output) = output else { continue };
                let (largest, mean) = setup.errors(output, expected);
                worst = worst.max(largest);
                (sum, outputs) = (sum + mean, outputs + 1);
            }
            total += sum / f64::from(outputs);
        }
        context.progress.advance_to(run as u64 + 1, "run");
    }
    let times = Times::from_ms(times);
    let parameters = &setup.parameters;
    let figures = Figures {
        name: "bootstrap",
        log_n: chain.log_n,
        limbs: chain.max_level + 1,
        log_qp: parameters.log_qp(),
        threads: rayon::current_num_threads(),
        times: &times,
    };
    let mut object = figures.object();
    let more = [
        ("slots", slots.into()),
        ("values", if arguments.single { 1 } else { 2 }.into()),
        ("levels_left", (chain.top_level - chain.boot_level).into()),
        ("scale_log2", parameters.scale(chain.top_level).log2().into()),
        ("worst_slot_bits", (-worst.log2()).into()),
        ("mean_slot_bits", (-(total / runs as f64).log2()).into()),
        ("failure_log2", parameters.failure_log2().into()),
        ("security_bits", parameters.security_bits().into()),
        ("key_bytes", setup.key_bytes.into()),
        ("key_disk_bytes", setup.key_disk_bytes.into()),
        ("peak_rss_bytes", peak_rss_bytes().into()),
    ];
    object.extend(more.map(|(name, value): (&str, serde_json::Value)| (name.to_owned(), value)));
    if let Some(kernels) = kernels {
        object.insert("backend".into(), parameters.ring().backend_name().into());
        object.insert("profile_of_last_run".into(), backend::profile(kernels, context));
    }
    let line = format!(
        "{}; worst slot {:.2} bits, mean {:.2} bits",
        figures.line(),
        -worst.log2(),
        -(total / runs as f64).log2()
    );
    context.result(&object.into(), || line);
    Ok(())
}
