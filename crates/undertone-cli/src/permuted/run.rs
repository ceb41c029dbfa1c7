//! `undertone run --mode permuted`: the user's program.

use super::report::{Streaming, disagreement, print};
use super::{check_draft, dial};
use crate::connection::resolve;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::memory::peak_rss_bytes;
use crate::run::RunArguments;
use std::path::Path;
use undertone_client::Prompt;
use undertone_client::permuted::{Choice, Request, compare, generate, setup};
use undertone_model::{Llama, LlamaConfig, Tokenizer};
use undertone_net::{ClientTls, Endpoint};
use undertone_ring::detect_word_kernels;
use undertone_shares::{BundleStore, DirectoryStore, MemoryStore};
use zeroize::Zeroizing;

/// Runs the verb.
///
/// # Errors
/// Whatever the flags, the prompt, the provider or the dealer give rise to.
pub fn run(arguments: &RunArguments, context: &Context) -> Result<()> {
    check_draft(arguments.permuted.draft)?;
    let (server, dealer) = endpoints(arguments)?;
    let profile = server.network.map_or("none", |network| network.name).to_owned();
    let choice = match arguments.text.sampling.temperature {
        0.0 => Choice::Greedy,
        _ => Choice::Sampled(arguments.text.sampling.sampler()?),
    };
    let config = LlamaConfig::from_dir(&arguments.model)?;
    let tokenizer = Tokenizer::load(&arguments.model, &config)?;
    let text = arguments.text.read()?;
    let prompt = Prompt::tokenize_with(&tokenizer, &text.public, &text.private)?;
    prompt.check_context(arguments.text.max_new_tokens, &config)?;
    let ids: Zeroizing<Vec<u32>> = Zeroizing::new(prompt.public.iter().chain(&*prompt.private).copied().collect());

    let (provider, dealer) = (dial(server), dial(dealer));
    let file = std::fs::read(arguments.model.join("tokenizer.json")).ok();
    let kernels = detect_word_kernels();
    let progress = &context.progress;
    let megabytes = |bytes: u64| bytes / 1_000_000;
    progress.begin("set-up", 1);
    let mut begun = false;
    let mut follow = |done: u64, total: u64| {
        if !std::mem::replace(&mut begun, true) {
            progress.begin("masked weights", megabytes(total).max(1));
        }
        progress.advance_to(megabytes(done), "megabytes");
    };
    let folder = arguments.permuted.store.as_deref();
    let side = setup(&provider, folder, file.as_deref(), kernels.clone(), &mut follow)?;
    let (store, _guard) = store(folder)?;
    let request = Request {
        side: &side,
        prompt: (&ids, prompt.public.len()),
        max_new_tokens: arguments.text.max_new_tokens,
        choice,
        draft: arguments.permuted.draft,
        provider: &provider,
        dealer: &dealer,
        store,
        tokenizer: Some(&tokenizer),
        profile,
    };
    let conversation = context.cleanup.conversing();
    let report = generate(request, &mut Streaming::new(context, arguments.text.max_new_tokens));
    drop(conversation);
    let mut report = report?;
    // Weights are here when the user is also the provider, or for a comparison; then the twin is run afterwards.
    if let Ok(model) = Llama::load(&arguments.model)
        && arguments.text.sampling.temperature == 0.0
    {
        compare(&mut report, &ids, &model, kernels)?;
    }
    print(context, &mut report, peak_rss_bytes())?;
    if let Some((number, _)) = disagreement(&report) {
        let count = report.run.tokens.len();
        eprintln!(
            "undertone: warning: token {number} of {count} is not the most likely one of the clear twin; see the report"
        );
    }
    Ok(())
}

/// Provider and dealer.
fn endpoints(arguments: &RunArguments) -> Result<(Endpoint, Endpoint)> {
    let network = arguments.connection.network;
    let remedy =
        "start `undertone deal` and `undertone serve --mode permuted`, or try `undertone demo --mode permuted`";
    let missing = |flag| Error::Usage(format!("mode permuted needs {flag}; {remedy}"));
    let mut server = arguments.connection.endpoint()?.ok_or_else(|| missing("--server HOST:PORT"))?;
    server.network = network;
    let name = arguments.permuted.dealer.as_deref().ok_or_else(|| missing("--dealer HOST:PORT"))?;
    let flags = (&arguments.connection.tls_certificate, &arguments.connection.tls_key);
    let tls = match flags {
        (Some(certificate), Some(key)) if !arguments.permuted.dealer_pin.is_empty() => {
            Some(ClientTls::load(certificate, key, &arguments.permuted.dealer_pin)?)
        }
        _ => None,
    };
    Ok((server, Endpoint { address: resolve(name, tls.is_some())?, tls, network }))
}

/// Removes the bundles of a session when it is over: its masks are spent, or will never be used.
struct SessionFolder(Option<std::path::PathBuf>);

impl Drop for SessionFolder {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // What stays belongs to no session that could be continued; the next run uses another folder.
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

fn store(folder: Option<&Path>) -> Result<(Box<dyn BundleStore>, SessionFolder)> {
    let Some(folder) = folder else { return Ok((Box::new(MemoryStore::default()), SessionFolder(None))) };
    let path = folder.join("sessions").join(std::process::id().to_string());
    if path.exists() {
        // A process of the same number ended without cleaning up; its session is over.
        std::fs::remove_dir_all(&path).map_err(|source| Error::file("removing", &path, source))?;
    }
    Ok((Box::new(DirectoryStore::open(&path)?), SessionFolder(Some(path))))
}
