//! `undertone run --mode permuted`: the user's program.

use super::report::{Streaming, disagreement, print};
use super::{check_draft, dial};
use crate::cleanup::Cleanup;
use crate::connection::resolve;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::memory::peak_rss_bytes;
use crate::run::RunArguments;
use std::path::{Path, PathBuf};
use undertone_client::Prompt;
use undertone_client::permuted::{Choice, MaskedFolder, Request, compare, generate, setup};
use undertone_model::{Llama, LlamaConfig, Tokenizer};
use undertone_net::{ClientTls, Endpoint};
use undertone_ring::detect_word_kernels;
use undertone_shares::{BundleStore, MemoryStore, SessionId, StoreFolder};
use zeroize::Zeroizing;

/// Runs the verb.
///
/// # Errors
/// Whatever the flags, the prompt, the provider or the dealer give rise to.
pub fn run(arguments: &RunArguments, context: &Context) -> Result<()> {
    check_draft(arguments.permuted.draft)?;
    if arguments.permuted.strict && arguments.text.sampling.temperature != 0.0 {
        let remedy = "leave out --temperature, or --strict";
        return Err(Error::Usage(format!("under --strict nobody sees logits to draw from; {remedy}")));
    }
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
    let folder = arguments.permuted.store.as_deref().map(|path| SessionFolder::open(path, context)).transpose()?;
    let masked = folder.as_ref().map(SessionFolder::masked);
    let side = setup(&provider, masked.as_ref(), file.as_deref(), kernels.clone(), &mut follow)?;
    let store = folder.as_ref().map_or_else(|| Ok(Box::new(MemoryStore::default()) as _), SessionFolder::store)?;
    let request = Request {
        side: &side,
        prompt: (&ids, prompt.public.len()),
        max_new_tokens: arguments.text.max_new_tokens,
        choice,
        draft: arguments.permuted.draft,
        strict: arguments.permuted.strict,
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

/// The one session of this run: its folder goes when it is over, because its masks are spent or will never be used.
struct SessionFolder {
    parent: PathBuf,
    stores: StoreFolder,
    path: PathBuf,
    cleanup: Cleanup,
}

/// The name of the session's folder: a run has one session, and nobody else has a session there meanwhile.
const SESSION: SessionId = [0; 16];

impl SessionFolder {
    fn open(parent: &Path, context: &Context) -> Result<Self> {
        let stores = StoreFolder::open(parent, "user")?;
        let (path, cleanup) = (stores.session_path(&SESSION), context.cleanup.clone());
        let made = cleanup.make(&path, |path| std::fs::create_dir(path));
        made.map_err(|source| Error::file("making", &path, source))?;
        Ok(Self { parent: parent.to_owned(), stores, path, cleanup })
    }

    /// Masked weights stay beside it; a file that is not whole yet goes with the session.
    fn masked(&self) -> MaskedFolder {
        MaskedFolder { path: self.parent.clone(), partial: self.path.clone() }
    }

    fn store(&self) -> Result<Box<dyn BundleStore>> {
        Ok(Box::new(self.stores.session(&SESSION)?.0))
    }
}

impl Drop for SessionFolder {
    fn drop(&mut self) {
        // What stays belongs to no session that could be continued; the next run removes it.
        let _ = std::fs::remove_dir_all(&self.path);
        self.cleanup.release(&self.path);
    }
}
