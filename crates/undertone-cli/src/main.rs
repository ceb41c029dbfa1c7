//! The `undertone` program: one file per verb.
//!
//! Standard output holds results only; progress and errors go to standard error. An error is one sentence, with exit
//! code 1, or 2 when the command line itself is wrong.
#![forbid(unsafe_code)]

mod bench;
mod bundled;
mod calibrate;
mod certificate;
mod cleanup;
mod clear;
mod config;
mod connection;
mod context;
mod deal;
mod demo;
mod error;
mod estimate;
mod eval;
mod files;
mod key_file;
mod key_place;
mod keys;
mod memory;
mod mode;
mod model;
mod permuted;
mod plan;
mod privacy;
mod progress;
mod prompt;
mod route;
mod run;
mod serve;
mod session;
mod version;

use clap::{Parser, Subcommand};
use cleanup::Cleanup;
use context::Context;
use progress::Progress;
use std::process::ExitCode;
use undertone_protocol::modes::fhe::KNOWS_TEST_PARAMETERS;

/// Encrypted inference of Llama-family models
#[derive(Debug, Parser)]
#[command(name = "undertone", version = version::LONG, about, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "Start with: undertone demo")]
struct Arguments {
    /// Print results as JSON, one object per line
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Both parties on this machine with the bundled model: start here
    Demo(demo::DemoArguments),
    /// Run one prompt whose private part the server cannot read
    Run(run::RunArguments),
    /// Run one prompt through the clear reference: the parity check
    Clear(clear::ClearArguments),
    /// Say what a session will cost, from config.json and the lengths
    Plan(plan::PlanArguments),
    /// Record the ranges of every nonlinear input, once per model
    Calibrate(calibrate::CalibrateArguments),
    /// Make a checkpoint of any shape with random weights
    Model(model::ModelArguments),
    /// Measure encrypted quality over a prompt file, resumable
    Eval(eval::EvalArguments),
    /// Make, list, show and revoke stored keys, and certificates for TLS
    Keys(keys::KeysArguments),
    /// Make randomness for a server and its users: the dealer of mode permuted
    Deal(deal::DealArguments),
    /// Start undertone-server
    Serve(serve::ServeArguments),
    /// Micro-benchmarks
    Bench(bench::BenchArguments),
    /// Say what each party sees
    Privacy(privacy::PrivacyArguments),
}

/// Said once by verbs that talk to another program: `cargo test` leaves such builds where plain ones are expected.
const TEST_BUILD: &str = "undertone: built with the test-only feature insecure-test-parameters, so that plainly built \
                          programs refuse to talk to it; build again with `cargo build --release`";

impl Verb {
    /// Whether client and server talk to each other.
    fn talks(&self) -> bool {
        matches!(self, Self::Demo(_) | Self::Run(_) | Self::Eval(_) | Self::Serve(_))
    }
}

fn main() -> ExitCode {
    if let Err(error) = undertone_protocol::process::deny_core_dumps() {
        // Nothing secret is held yet, and a system that cannot promise this is still worth using.
        eprintln!("undertone: note: core dumps of this process could not be denied: {error}");
    }
    let arguments = Arguments::parse();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A sentence from a peer or a library may hold line breaks; the user gets one line.
            eprintln!("undertone: {}", error.to_string().replace(['\n', '\r'], " "));
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(arguments: &Arguments) -> error::Result<()> {
    let context = Context { json: arguments.json, progress: Progress::on_stderr(), cleanup: Cleanup::on_interrupt()? };
    if KNOWS_TEST_PARAMETERS && arguments.verb.talks() {
        eprintln!("{TEST_BUILD}");
    }
    let outcome = match &arguments.verb {
        Verb::Demo(arguments) => demo::run(arguments, &context),
        Verb::Run(arguments) => run::run(arguments, &context),
        Verb::Clear(arguments) => clear::run(arguments, &context),
        Verb::Plan(arguments) => plan::run(arguments, &context),
        Verb::Calibrate(arguments) => calibrate::run(arguments, &context),
        Verb::Model(arguments) => model::run(arguments, &context),
        Verb::Eval(arguments) => eval::run(arguments, &context),
        Verb::Keys(arguments) => keys::run(arguments, &context),
        Verb::Deal(arguments) => deal::run(arguments, &context),
        Verb::Serve(arguments) => serve::run(arguments, &context),
        Verb::Bench(arguments) => bench::run(arguments, &context),
        Verb::Privacy(arguments) => privacy::run(arguments, &context),
    };
    // A child process must not outlive the verb that started it.
    context.cleanup.run();
    context.progress.finish();
    outcome
}
