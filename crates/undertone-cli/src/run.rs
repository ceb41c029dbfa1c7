//! `undertone run`: one prompt, whose private part the server cannot read.

use crate::connection::ConnectionArguments;
use crate::context::Context;
use crate::error::Result;
use crate::key_file::{KeyArguments, one_standard_input};
use crate::key_place::KeyPlaceArguments;
use crate::memory::peak_rss_bytes;
use crate::mode::Mode;
use crate::permuted::{self, PermutedArguments};
use crate::prompt::PromptArguments;
use crate::route::{RouteArguments, parameters_for};
use crate::session::{RunProgress, ServerAddress, disagreement, print};
use clap::Args;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use undertone_client::{Error as ClientError, LocalModel, Prompt, Request, Way, generate};
use undertone_he::Parameters;
use undertone_model::Error as ModelError;
use undertone_model::safetensors_file::SafetensorsFile;
use undertone_model::weights::parse_index;

/// Flags of `undertone run`.
#[derive(Debug, Args)]
#[command(after_help = "Without --server, the program undertone-server next to this one is started for the run.

Examples:
  undertone run --model DIR --public-file policy.txt --private-file note.txt --max-new-tokens 8
  cat note.txt | undertone run --model DIR --private-file - --server 127.0.0.1:7411 --json
  undertone run --model DIR --private-file note.txt --key-folder /var/tmp
  undertone run --model DIR --private-file note.txt --server 192.0.2.7:7411 --tls-certificate client.crt \
      --tls-key client.key --server-pin server.crt
  undertone run --mode permuted --model DIR --private-file note.txt --server 127.0.0.1:7411 \
      --dealer 127.0.0.1:7412 --store user --strict")]
pub struct RunArguments {
    /// Hugging Face model directory, with its calibration; the weights may be absent with --server
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,

    #[command(flatten)]
    pub text: PromptArguments,

    /// How the private part is protected
    #[arg(long, value_enum, default_value_t = Mode::Fhe)]
    pub mode: Mode,

    #[command(flatten)]
    pub connection: ConnectionArguments,

    /// Fill the private part up to this many tokens with line breaks, so that its length says less
    #[arg(long, value_name = "N", value_parser = ["32", "64", "128"])]
    pub pad_private_to: Option<String>,

    #[command(flatten)]
    pub route: RouteArguments,

    #[command(flatten)]
    pub key: KeyArguments,

    #[command(flatten)]
    pub key_place: KeyPlaceArguments,

    #[command(flatten)]
    pub permuted: PermutedArguments,
}

/// Runs the verb.
///
/// # Errors
/// Whatever the model, the prompt or the server gives rise to.
pub fn run(arguments: &RunArguments, context: &Context) -> Result<()> {
    arguments.mode.require_offered()?;
    arguments.key_place.check_mode(arguments.mode)?;
    arguments.route.check_mode(arguments.mode)?;
    if arguments.mode == Mode::Permuted {
        return permuted::run(arguments, context);
    }
    let of_permuted = arguments.permuted.dealer.is_some() || arguments.permuted.strict;
    permuted::refuse_flags(arguments.permuted.draft, of_permuted, "run --mode fhe")?;
    one_standard_input(&[
        ("--public-file", arguments.text.public_file.as_deref()),
        ("--private-file", arguments.text.private_file.as_deref()),
        ("--passphrase-file", arguments.key.passphrase_file.as_deref()),
    ])?;
    let mut sampler = arguments.text.sampling.sampler()?;
    let model = load(&arguments.model, arguments.connection.server.is_some())?;
    let text = arguments.text.read()?;
    let mut prompt = Prompt::tokenize(&model, &text.public, &text.private)?;
    if let Some(length) = arguments.pad_private_to.as_deref().and_then(|length| length.parse().ok()) {
        prompt = prompt.pad_private_to(length, &model)?;
    }
    // Lengths are checked before a server is started or a key is made.
    let shape = prompt.shape(arguments.text.max_new_tokens, &model.config)?;
    let sets = Parameters::presets();
    let key = arguments.key.open(&sets)?;
    let only = arguments.route.with_key(key.as_ref().map(|(set, _)| set))?;
    let parameters = parameters_for(&sets, &model, shape, only)?;
    drop(sets);
    let mut progress = RunProgress::new(context);
    let server = ServerAddress::of(&arguments.connection, &arguments.model, &arguments.key_place, context)?;
    let request = Request {
        model: &model,
        prompt: &prompt,
        max_new_tokens: arguments.text.max_new_tokens,
        sampler: &mut sampler,
        server: &server.endpoint,
        way: Way::Fhe { parameters: &parameters, key: key.as_ref().map(|(_, key)| key) },
    };
    let conversation = context.cleanup.conversing();
    let report = generate(request, &mut progress);
    drop(conversation);
    let mut report = report?;
    print(context, &mut report, peak_rss_bytes() + server.peak_rss_bytes())?;
    if let Some((number, _)) = disagreement(&report) {
        let count = report.tokens.len();
        eprintln!(
            "undertone: warning: token {number} of {count} is not the most likely one of the clear model; see the report"
        );
    }
    Ok(())
}

/// All weights, so that results can be compared; where only another machine needs them, the embedding will do.
///
/// Weights that are here are checked, and so is whether the calibration is theirs: only their absence is forgiven.
fn load(model: &Path, server_elsewhere: bool) -> Result<LocalModel> {
    match LocalModel::load(model, true) {
        Err(ClientError::Model(error)) if server_elsewhere && weights_absent(model, &error) => {
            Ok(LocalModel::load(model, false)?)
        }
        loaded => Ok(loaded?),
    }
}

/// Whether all weights could not be loaded because a shard is not there, or no tensor of any layer.
fn weights_absent(model: &Path, error: &ModelError) -> bool {
    match error {
        ModelError::Io { op: "open", source, .. } => source.kind() == ErrorKind::NotFound,
        ModelError::MissingTensor { .. } => {
            tensor_names(model).is_some_and(|names| !names.iter().any(|name| name.starts_with("model.layers.")))
        }
        _ => false,
    }
}

/// The tensors that the weight file holds, or that the index of a sharded model lists.
fn tensor_names(model: &Path) -> Option<Vec<String>> {
    let single = model.join("model.safetensors");
    if single.exists() {
        return Some(SafetensorsFile::open(&single).ok()?.entries().keys().cloned().collect());
    }
    // Its size was checked when the weights were opened.
    let index = std::fs::read(model.join("model.safetensors.index.json")).ok()?;
    Some(parse_index(&index).ok()?.into_keys().collect())
}
