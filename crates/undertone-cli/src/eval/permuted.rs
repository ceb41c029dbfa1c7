//! `undertone eval --mode permuted`: the mode's tokens against the clear model and against the fixed-point twin.
//!
//! All three parties are in this process. The user sees logits in an order that it does not know, so distributions are those
//! of the twin: KL(clear ‖ twin) after the tokens that the run chose. The twin rounds to nearest where the dealer draws.

use super::journal::{Compared, Head, Journal, Outcome};
use super::{EvalArguments, programs_digest};
use crate::cleanup::Cleanup;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::permuted::Parties;
use crate::prompt::PromptLine;
use crate::version::{COMMIT, VERSION};
use undertone_client::Prompt;
use undertone_client::permuted::{
    Choice, ClearSide, Follower, Measured, PermutedReport, Request, UserSide, generate, setup,
};
use undertone_model::{Llama, Tokenizer};
use undertone_ring::detect_word_kernels;
use undertone_shares::MemoryStore;
use zeroize::Zeroizing;

/// Token ids of a prompt and of how many of them the text is public.
type Ids = (Zeroizing<Vec<u32>>, usize);

/// Runs what is left of `lines` and gives all results.
///
/// # Errors
/// Flags of other modes, whatever the model, a prompt or a party gives rise to.
pub(super) fn run(arguments: &EvalArguments, lines: &[PromptLine], text: &str, context: &Context) -> Result<Journal> {
    arguments.key_place.check_mode(arguments.mode)?;
    if arguments.connection.server.is_some() {
        let remedy = "leave --server out";
        return Err(Error::Usage(format!("eval --mode permuted has all three parties in its own process; {remedy}")));
    }
    let weights = Llama::load(&arguments.model)?;
    let tokenizer = Tokenizer::load(&arguments.model, &weights.config)?;
    let prompts = lines.iter().map(|line| ids(line, &weights, &tokenizer)).collect::<Result<Vec<_>>>()?;
    let head = Head::new(identity(&weights, text)?, VERSION, COMMIT);
    let mut journal = Journal::open(arguments.out.as_deref(), head, prompts.len())?;
    if journal.done() == prompts.len() {
        return Ok(journal);
    }
    context.progress.begin("setting up", 1);
    let file = std::fs::read(arguments.model.join("tokenizer.json")).ok();
    let parties = Parties::start(&weights, file.as_deref(), arguments.connection.network, context)?;
    let side = setup(&parties.to_provider, None, file.as_deref(), detect_word_kernels(), &mut |_, _| {})?;
    let clear = ClearSide::new(&weights, detect_word_kernels())?;
    context.progress.begin("prompts", prompts.len() as u64);
    for (index, (prompt, line)) in prompts.iter().zip(lines).enumerate().skip(journal.done()) {
        context.progress.advance_to(index as u64, "");
        let report = conversation(&parties, &side, (prompt, line.max_new_tokens), context)?;
        journal.append(outcome(index, &report, &prompt.0, &clear)?)?;
    }
    context.progress.finish();
    parties.end()?;
    Ok(journal)
}

/// Every prompt is checked before the first is run.
fn ids(line: &PromptLine, weights: &Llama, tokenizer: &Tokenizer) -> Result<Ids> {
    let prompt = Prompt::tokenize_with(tokenizer, &line.public, &line.private)?;
    prompt.check_context(line.max_new_tokens, &weights.config)?;
    let all = prompt.public.iter().chain(&*prompt.private).copied().collect();
    Ok((Zeroizing::new(all), prompt.public.len()))
}

/// What a result depends on; a digest, so that no prompt stands in the results.
fn identity(weights: &Llama, prompts: &str) -> Result<String> {
    let mut hasher = blake3::Hasher::new_derive_key("undertone evaluation of mode permuted, version 2");
    hasher.update(programs_digest(None)?.as_bytes());
    hasher.update(&weights.fingerprint());
    hasher.update(prompts.as_bytes());
    Ok(hasher.finalize().to_hex().to_string())
}

/// Only an interrupt matters.
struct Quiet(Cleanup);

impl Follower for Quiet {
    fn stopped(&self) -> bool {
        self.0.interrupted()
    }
}

fn conversation(
    parties: &Parties,
    side: &UserSide,
    ((ids, public), max_new_tokens): (&Ids, usize),
    context: &Context,
) -> Result<PermutedReport> {
    let request = Request {
        side,
        prompt: (ids, *public),
        max_new_tokens,
        choice: Choice::Greedy,
        draft: 0,
        strict: false,
        provider: &parties.to_provider,
        dealer: &parties.to_dealer,
        store: Box::new(MemoryStore::default()),
        tokenizer: None,
        profile: String::new(),
    };
    let conversation = context.cleanup.conversing();
    let report = generate(request, &mut Quiet(context.cleanup.clone()));
    drop(conversation);
    Ok(report?)
}

fn outcome(index: usize, report: &PermutedReport, prompt: &[u32], clear: &ClearSide<'_>) -> Result<Outcome> {
    let tokens = &report.run.tokens;
    let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
    let compared = clear.measure(prompt, &ids)?;
    let token = |one: &Measured| Compared {
        agrees: one.clear_agrees,
        twin_agrees: Some(one.twin_agrees),
        kl: one.kl,
        logit_error: one.max_logit_error,
        clear_margin: one.clear_margin,
    };
    Ok(Outcome {
        prompt: index,
        tokens: compared.iter().map(token).collect(),
        escaped: false,
        seconds: tokens.iter().map(|token| token.seconds).sum(),
    })
}
