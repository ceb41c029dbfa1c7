//! `undertone demo`: both parties on this machine, joined by a socket, with the bundled model.

use crate::bundled;
use crate::connection::profile;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::key_place::KeyPlaceArguments;
use crate::memory::peak_rss_bytes;
use crate::mode::Mode;
use crate::permuted;
use crate::route::parameters_for;
use crate::session::{RunProgress, disagreement, print};
use clap::Args;
use std::sync::Arc;
use undertone_client::{LocalModel, Prompt, Request, RunReport, Way, generate};
use undertone_he::{KeyMemory, Parameters};
use undertone_model::{Llama, Sampler};
use undertone_net::Network;
use undertone_server::{ModelHost, Options, Server};

/// Flags of `undertone demo`.
#[derive(Debug, Args)]
#[command(after_help = "The server half reads a clinic's formulary, the client half holds a note about a patient, and
the answer depends on both. Everything runs in this process; the two halves talk over a socket.
The exit code is 1 when a token is not the one that the clear model prefers.

Examples:
  undertone demo
  undertone demo --json
  undertone demo --mode permuted --network metro
  undertone demo --mode permuted --draft 4
  undertone demo --mode permuted --strict")]
pub struct DemoArguments {
    /// How the private part is protected
    #[arg(long, value_enum, default_value_t = Mode::Fhe)]
    pub mode: Mode,

    /// Most tokens to generate
    #[arg(long, value_name = "K", default_value_t = 8)]
    pub max_new_tokens: usize,

    #[command(flatten)]
    pub key_place: KeyPlaceArguments,

    /// Tokens guessed in every step and checked in one pass (mode permuted)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub draft: usize,

    /// Evaluate nonlinear steps on shares, so that nothing permuted is opened (mode permuted)
    #[arg(long)]
    pub strict: bool,

    /// Make the connections as slow as a network: lan (0.2 ms there and back, 10 Gbit/s), metro (10 ms, 1 Gbit/s),
    /// metro-100 (10 ms, 100 Mbit/s) or wan (80 ms, 100 Mbit/s) (mode permuted)
    #[arg(long, value_name = "PROFILE", value_parser = profile)]
    pub network: Option<Network>,
}

/// Runs the verb.
///
/// # Errors
/// Whatever the run gives rise to, and `Disagreement`, after the report, for a token that differs from the clear model's.
pub fn run(arguments: &DemoArguments, context: &Context) -> Result<()> {
    arguments.mode.require_offered()?;
    arguments.key_place.check_mode(arguments.mode)?;
    if arguments.mode == Mode::Permuted {
        return permuted::demo(arguments, context);
    }
    let of_permuted = arguments.network.is_some() || arguments.strict;
    permuted::refuse_flags(arguments.draft, of_permuted, "demo --mode fhe")?;
    let key_memory = arguments.key_place.memory(KeyMemory::Seeded)?;
    let mut progress = RunProgress::new(context);
    let folder = bundled::unpack(&context.cleanup)?;
    let model = LocalModel::load(folder.path(), true)?;
    let prompt = Prompt::tokenize(&model, bundled::PUBLIC_TEXT, bundled::PRIVATE_TEXT)?;
    let shape = prompt.shape(arguments.max_new_tokens, &model.config)?;
    let parameters = parameters_for(&Parameters::presets(), &model, shape, None)?;

    // The server half loads its own copy: nothing of the client's but the socket connects the two.
    let served = Arc::new(Llama::load(folder.path())?);
    let host = ModelHost::new(served, model.calibration.clone(), parameters.clone())?.keep_keys(key_memory);
    let server = Server::bind(Options::default(), Box::new(host))?;
    let (address, handle) = (server.address(), server.handle());
    let serving = std::thread::spawn(move || server.run());

    let request = Request {
        model: &model,
        prompt: &prompt,
        max_new_tokens: arguments.max_new_tokens,
        sampler: &mut Sampler::greedy(),
        server: &address.into(),
        way: Way::Fhe { parameters: &parameters, key: None },
    };
    let conversation = context.cleanup.conversing();
    let report = generate(request, &mut progress);
    drop(conversation);
    handle.stop();
    let ended = serving.join();
    let mut report = report?;
    if !matches!(ended, Ok(Ok(()))) {
        let source = std::io::Error::other("it did not end in order");
        return Err(Error::System { what: "the server half", source });
    }
    print(context, &mut report, peak_rss_bytes())?;
    agreeing(&report)
}

/// Only the bundled prompt is run here, so that its tokens may be named.
fn agreeing(report: &RunReport) -> Result<()> {
    match disagreement(report) {
        Some((number, token)) => Err(Error::Disagreement {
            number,
            count: report.tokens.len(),
            have: token.id,
            need: token.clear_id.unwrap_or(token.id),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::report_of;

    #[test]
    fn a_token_that_differs_is_an_error_that_names_it() {
        assert!(agreeing(&report_of(&[(5, Some(5)), (7, Some(7))])).is_ok());
        let error = agreeing(&report_of(&[(5, Some(5)), (7, Some(9)), (1, Some(2))])).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("token 2 of 3 is 7") && said.contains('9'), "{said}");
        assert_eq!(error.exit_code(), 1);
    }
}
