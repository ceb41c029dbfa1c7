//! `undertone demo --mode permuted`: provider, dealer and user in this process, joined by sockets.

use super::report::{Streaming, disagreement, print};
use super::{Parties, check_draft};
use crate::bundled;
use crate::context::Context;
use crate::demo::DemoArguments;
use crate::error::{Error, Result};
use crate::memory::peak_rss_bytes;
use undertone_client::Prompt;
use undertone_client::permuted::{Choice, Request, compare, generate, setup};
use undertone_model::{Llama, Tokenizer};
use undertone_ring::detect_word_kernels;
use undertone_shares::MemoryStore;
use zeroize::Zeroizing;

/// Runs the verb.
///
/// # Errors
/// Whatever the run gives rise to, and `Disagreement`, after the report, for a token that differs from the clear twin's.
pub fn demo(arguments: &DemoArguments, context: &Context) -> Result<()> {
    check_draft(arguments.draft)?;
    context.progress.begin("setting up", 1);
    let folder = bundled::unpack(&context.cleanup)?;
    let weights = Llama::load(folder.path())?;
    let tokenizer = Tokenizer::load(folder.path(), &weights.config)?;
    let file = std::fs::read(folder.path().join("tokenizer.json")).ok();
    let prompt = Prompt::tokenize_with(&tokenizer, bundled::PUBLIC_TEXT, bundled::PRIVATE_TEXT)?;
    let ids: Zeroizing<Vec<u32>> = Zeroizing::new(prompt.public.iter().chain(&*prompt.private).copied().collect());
    let kernels = detect_word_kernels();

    let network = arguments.network;
    let parties = Parties::start(&weights, file.as_deref(), network, context)?;
    let side = setup(&parties.to_provider, None, file.as_deref(), kernels.clone(), &mut |_, _| {})?;
    let request = Request {
        side: &side,
        prompt: (&ids, prompt.public.len()),
        max_new_tokens: arguments.max_new_tokens,
        choice: Choice::Greedy,
        draft: arguments.draft,
        strict: arguments.strict,
        provider: &parties.to_provider,
        dealer: &parties.to_dealer,
        store: Box::new(MemoryStore::default()),
        tokenizer: Some(&tokenizer),
        profile: network.map_or("none", |network| network.name).to_owned(),
    };
    let conversation = context.cleanup.conversing();
    let report = generate(request, &mut Streaming::new(context, arguments.max_new_tokens));
    drop(conversation);
    let ended = parties.end();
    let mut report = report?;
    ended?;
    compare(&mut report, &ids, &weights, kernels)?;
    print(context, &mut report, peak_rss_bytes())?;
    match disagreement(&report) {
        // Only the bundled prompt is run here, so that its tokens may be named.
        Some((number, token)) => Err(Error::Disagreement {
            number,
            count: report.run.tokens.len(),
            have: token.id,
            need: token.clear_id.unwrap_or(token.id),
        }),
        None => Ok(()),
    }
}
