//! `undertone bench`: micro-benchmarks, one JSON object per line.
//!
//! Every time is a median over runs after one run to warm up. Keys are made for the benchmark and forgotten.

mod backend;
mod bootstrap;
mod cycle;
mod layer;
mod multiply;
mod ntt;
mod precision;
mod rotate;
mod setup;
mod turn;

use crate::context::Context;
use crate::error::{Error, Result};
use clap::{Args, Subcommand};
use std::time::Instant;
use undertone_he::{KeyMemory, Parameters, ParametersLiteral};

/// Flags of `undertone bench`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  undertone bench ntt --json
  undertone bench rotate --threads 1 --json
  undertone bench bootstrap --runs 20 --json
  undertone bench bootstrap --threads 1 --backend avx2 --profile
  undertone bench precision --low-memory --search 40 --json
  undertone bench layer --like DIR/config.json --public 256 --private 64 --json
  undertone bench turn --outputs 4096 --inputs 1024 --tokens 128 --json
  undertone bench cycle --like llama-100m --public 256 --private 128 --json")]
pub struct BenchArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Number theoretic transform of one limb, N = 2^16, a 50-bit prime, always one thread
    Ntt(Measuring),
    /// Rotation by one slot at log Q of about 1300
    Rotate(Measuring),
    /// Product with relinearization and rescaling at log Q of about 1300
    Multiply(Measuring),
    /// Half-bootstrap of two real ciphertexts with all slots in use
    Bootstrap(bootstrap::BootstrapArguments),
    /// Error of the half-bootstrap: its distribution over slots and runs, and a search for the input that errs most
    Precision(precision::PrecisionArguments),
    /// The first of two layers of a shape with random weights, step by step
    Layer(layer::LayerArguments),
    /// A matrix product between the halves of bootstraps, step by step, at the parameters that have a product prime
    Turn(turn::TurnArguments),
    /// One encrypted layer in turns, of a given shape with random weights, stage by stage
    Cycle(cycle::CycleArguments),
}

/// Flags that all benchmarks share.
#[derive(Debug, Clone, Copy, Args)]
pub struct Measuring {
    /// Threads to use; all cores when absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,

    /// Times to repeat
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub runs: Option<u32>,

    /// Keep keys as seeds where they are uniform: half the memory, more time
    #[arg(long)]
    pub low_memory: bool,

    /// Kernels to use; the fastest that this processor supports when absent
    #[arg(long, value_enum, value_name = "NAME")]
    pub backend: Option<backend::BackendName>,
}

impl Measuring {
    fn thread_count(self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or_else(all, usize::from)
    }

    /// How the benchmark keeps its keys.
    pub fn key_memory(self) -> KeyMemory {
        if self.low_memory { KeyMemory::Seeded } else { KeyMemory::Expanded }
    }

    /// The shipped parameters on the chosen backend.
    ///
    /// # Errors
    /// As [`backend::backend`].
    pub fn parameters(self) -> Result<Parameters> {
        backend::parameters(backend::backend(self.backend)?)
    }

    /// The shipped parameters with a product prime on the chosen backend.
    ///
    /// # Errors
    /// As [`backend::backend`].
    pub fn product_parameters(self) -> Result<Parameters> {
        let backend = backend::backend(self.backend)?;
        Ok(Parameters::with_backend(ParametersLiteral::n16_l15_d36_w20(), backend)?)
    }

    fn run_count(self, default: u32) -> usize {
        self.runs.unwrap_or(default) as usize
    }
}

/// Runs the verb.
///
/// # Errors
/// Whatever the benchmark meets; `Usage` for flags that this release does not serve.
pub fn run(arguments: &BenchArguments, context: &Context) -> Result<()> {
    let measuring = match &arguments.what {
        What::Ntt(measuring) | What::Rotate(measuring) | What::Multiply(measuring) => *measuring,
        What::Bootstrap(arguments) => arguments.measuring,
        What::Precision(arguments) => arguments.measuring,
        What::Layer(arguments) => arguments.measuring,
        What::Turn(arguments) => arguments.measuring,
        What::Cycle(arguments) => arguments.measuring,
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(measuring.thread_count()).build();
    let pool = pool.map_err(|error| Error::System {
        what: "starting the benchmark's threads",
        source: std::io::Error::other(error),
    })?;
    pool.install(|| match &arguments.what {
        What::Ntt(measuring) => ntt::run(*measuring, context),
        What::Rotate(measuring) => rotate::run(*measuring, context),
        What::Multiply(measuring) => multiply::run(*measuring, context),
        What::Bootstrap(arguments) => bootstrap::run(arguments, context),
        What::Precision(arguments) => precision::run(arguments, context),
        What::Layer(arguments) => layer::run(arguments, context),
        What::Turn(arguments) => turn::run(arguments, context),
        What::Cycle(arguments) => cycle::run(arguments, context),
    })
}

/// Times of the runs of one benchmark, in milliseconds, ascending.
pub struct Times(Vec<f64>);

impl Times {
    /// Runs `work` once to warm up and then `runs` times.
    ///
    /// # Errors
    /// The first error of `work`.
    pub fn measure(context: &Context, name: &str, runs: usize, mut work: impl FnMut() -> Result<()>) -> Result<Self> {
        context.progress.begin(name, runs as u64 + 1);
        work()?;
        context.progress.advance_to(1, "warm");
        let mut times = Vec::with_capacity(runs);
        for run in 0..runs {
            let start = Instant::now();
            work()?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
            context.progress.advance_to(run as u64 + 2, "run");
        }
        Ok(Self::from_ms(times))
    }

    /// Takes times that were measured elsewhere; there is at least one.
    pub fn from_ms(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    /// Number of runs.
    pub fn runs(&self) -> usize {
        self.0.len()
    }

    /// The middle, the mean of both middles when there are two.
    pub fn median_ms(&self) -> f64 {
        let (lower, upper) = ((self.0.len() - 1) / 2, self.0.len() / 2);
        (self.0[lower] + self.0[upper]) / 2.0
    }

    /// The least.
    pub fn min_ms(&self) -> f64 {
        self.0[0]
    }

    /// The most.
    pub fn max_ms(&self) -> f64 {
        self.0[self.0.len() - 1]
    }
}

/// The fields that every benchmark prints.
pub struct Figures<'a> {
    /// The benchmark's word.
    pub name: &'a str,
    /// log2 of the ring degree.
    pub log_n: u32,
    /// Limbs of q.
    pub limbs: usize,
    /// log2 of the product of all primes involved.
    pub log_qp: f64,
    /// Threads in use.
    pub threads: usize,
    /// The times.
    pub times: &'a Times,
}

impl Figures<'_> {
    /// As a JSON object; more fields may be added.
    pub fn object(&self) -> serde_json::Map<String, serde_json::Value> {
        let object = serde_json::json!({
            "name": self.name,
            "log_n": self.log_n,
            "limbs": self.limbs,
            "log_qp": self.log_qp,
            "threads": self.threads,
            "runs": self.times.runs(),
            "median_ms": self.times.median_ms(),
            "min_ms": self.times.min_ms(),
            "max_ms": self.times.max_ms(),
        });
        match object {
            serde_json::Value::Object(map) => map,
            _ => serde_json::Map::new(),
        }
    }

    /// As a line for people.
    pub fn line(&self) -> String {
        format!(
            "{:<10} N = 2^{}, {} limbs, log QP {:.0}, {} threads: median {:.3} ms, least {:.3} ms over {} runs",
            self.name,
            self.log_n,
            self.limbs,
            self.log_qp,
            self.threads,
            self.times.median_ms(),
            self.times.min_ms(),
            self.times.runs()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(Times(vec![1.0, 2.0, 9.0]).median_ms(), 2.0);
        assert_eq!(Times(vec![1.0, 2.0, 4.0, 9.0]).median_ms(), 3.0);
        assert_eq!(Times(vec![7.0]).median_ms(), 7.0);
    }

    #[test]
    fn the_figures_hold_the_least_and_the_most() {
        let times = Times::from_ms(vec![4.0, 9.0, 1.0]);
        let figures = Figures { name: "ntt", log_n: 16, limbs: 1, log_qp: 50.0, threads: 1, times: &times };
        let object = figures.object();
        assert_eq!((object["min_ms"].as_f64(), object["max_ms"].as_f64()), (Some(1.0), Some(9.0)));
        assert_eq!((object["median_ms"].as_f64(), object["runs"].as_u64()), (Some(4.0), Some(3)));
    }
}
