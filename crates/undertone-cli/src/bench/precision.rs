//! The error of the half-bootstrap: how it is distributed over slots and runs, and which input makes it largest.
//!
//! Both outputs count. The error is that of a fresh encryption, its bootstrap and its decryption together.

mod families;
mod report;
mod search;
mod statistics;

use super::Measuring;
use super::bootstrap;
use super::setup::Setup;
use crate::context::Context;
use crate::error::Result;
use clap::Args;
use families::{Family, Input, Random};
use search::Found;
use statistics::{Sample, Summary, tail_mean};
use undertone_he::Evaluator;

/// Flags of `bench precision`.
#[derive(Debug, Args)]
pub struct PrecisionArguments {
    /// Bootstraps that may search for the input with the largest error
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub search: u32,

    /// Decides the inputs; keys and encryptions are random whatever it is
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    #[command(flatten)]
    pub measuring: Measuring,
}

/// All that was measured.
struct Report<'a> {
    arguments: &'a PrecisionArguments,
    setup: &'a Setup,
    /// Bootstraps of each family and of the input that the search found.
    runs: usize,
    families: Vec<Measured>,
    confirmed: Option<Confirmed>,
}

/// One family's figures, and the input of the run that erred most.
struct Measured {
    family: Family,
    summary: Summary,
    input: Input,
    /// Mean of the largest errors of that run: what inputs are compared by.
    tail: f64,
}

/// The search's end, and the figures of its best input on encryptions that the search did not see.
struct Confirmed {
    /// The family of the input that the search started from.
    start: Family,
    /// The family of the input that mutations mixed with.
    second: Family,
    found: Found,
    summary: Summary,
}

/// Runs the benchmark.
///
/// # Errors
/// What key generation, encryption or the bootstrap refuses.
pub fn run(arguments: &PrecisionArguments, context: &Context) -> Result<()> {
    let runs = arguments.measuring.run_count(3);
    let mut random = Random::new(arguments.seed);
    let parameters = arguments.measuring.parameters()?;
    let slots = parameters.chain().slot_count();
    let mut setup = bootstrap::prepare(parameters, arguments.measuring.key_memory(), slots, context)?;
    let mut families = Vec::with_capacity(Family::ALL.len());
    for family in Family::ALL {
        families.push(measure_family(&mut setup, family, runs, &mut random, context)?);
    }
    let confirmed = match arguments.search {
        0 => None,
        evaluations => Some(search(&mut setup, &families, evaluations, runs, &mut random, context)?),
    };
    let report = Report { arguments, setup: &setup, runs, families, confirmed };
    context.result(&report.object(), || report.text());
    Ok(())
}

/// Signed errors of all slots of both outputs for one fresh encryption of an input.
fn errors_of(setup: &mut Setup, input: &Input) -> Result<Vec<f64>> {
    let chain = setup.parameters.chain();
    let (low, high) = (setup.encrypt(&input.low, chain.boot_level)?, setup.encrypt(&input.high, chain.boot_level)?);
    let (low, high) = setup.evaluator.half_bootstrap(&low, Some(&high), chain.slot_count())?;
    let mut errors = Vec::with_capacity(2 * chain.slot_count());
    for (output, expected) in [(Some(&low), &input.low), (high.as_ref(), &input.high)] {
        // An output that is missing is wrong in every slot.
        let found = output.map_or_else(|| vec![f64::INFINITY; expected.len()], |output| setup.decrypt(output));
        errors.extend(found.iter().zip(expected).map(|(found, expected)| found - expected));
    }
    Ok(errors)
}

fn measure_family(
    setup: &mut Setup,
    family: Family,
    runs: usize,
    random: &mut Random,
    context: &Context,
) -> Result<Measured> {
    let slots = setup.parameters.chain().slot_count();
    context.progress.begin(family.name(), runs as u64);
    let mut sample = Sample::default();
    let (mut worst, mut tail) = (None, f64::NEG_INFINITY);
    for run in 0..runs {
        let input = family.draw(slots, random);
        let errors = errors_of(setup, &input)?;
        let this = tail_mean(&errors);
        if this > tail {
            (worst, tail) = (Some(input), this);
        }
        sample.add_run(&errors);
        context.progress.advance_to(run as u64 + 1, "run");
    }
    let input = worst.unwrap_or_else(|| family.draw(slots, random));
    Ok(Measured { family, summary: sample.summary(), input, tail })
}

/// Climbs from the worst input of all families, mixing with the second worst, and measures the result anew.
fn search(
    setup: &mut Setup,
    families: &[Measured],
    evaluations: u32,
    runs: usize,
    random: &mut Random,
    context: &Context,
) -> Result<Confirmed> {
    let mut order: Vec<&Measured> = families.iter().collect();
    order.sort_by(|a, b| b.tail.total_cmp(&a.tail));
    let (start, second) = (order[0], order[1]);
    context.progress.begin("search", u64::from(evaluations));
    let mut done = 0;
    let found = search::climb(&start.input, &second.input, evaluations, random, |input| {
        let errors = errors_of(setup, input)?;
        done += 1;
        context.progress.advance_to(done, "input");
        Ok(errors)
    })?;
    context.progress.begin("confirmation", runs as u64);
    let mut sample = Sample::default();
    for run in 0..runs {
        sample.add_run(&errors_of(setup, &found.input)?);
        context.progress.advance_to(run as u64 + 1, "run");
    }
    Ok(Confirmed { start: start.family, second: second.family, found, summary: sample.summary() })
}
