//! One private generation, from text to text: the table of the architecture page, top to bottom.
//!
//! 1 tokenize, 3 embed, 4 pack and encrypt, 5 send, 8 receive, 9 decrypt, round and sample, 10 detokenize and loop are
//! here; 2 (the public prefill), 6 and 7 (layers and head) are the server's.

use crate::open::{Opened, Way, open};
use crate::report::{RunReport, TokenReport};
use crate::twin::ClearTwin;
use crate::{Error, LocalModel, Prompt};
use std::time::Instant;
use undertone_he::Slots;
use undertone_model::Sampler;
use undertone_model::tokenizer::DecodeStream;
use undertone_net::Endpoint;
use undertone_protocol::Turn;
use undertone_protocol::message::ProgressReport;
use undertone_protocol::modes::fhe::Route;
use zeroize::Zeroizing;

/// Follows a run, and may stop it.
pub trait Observer {
    /// `done` of `total` keys, and as many bytes of them, are sent.
    fn key(&mut self, done: usize, total: usize, done_bytes: u64, total_bytes: u64) {
        let _ = (done, total, done_bytes, total_bytes);
    }

    /// News of the server about step `step`; 0 is the prompt.
    fn progress(&mut self, step: usize, report: &ProgressReport) {
        let _ = (step, report);
    }

    /// A token is known.
    fn token(&mut self, report: &TokenReport) {
        let _ = report;
    }

    /// Whether to stop at the next occasion.
    fn stopped(&self) -> bool {
        false
    }
}

/// Follows nothing.
impl Observer for () {}

/// What to generate, and with whom.
pub struct Request<'a> {
    /// The client's side of the model.
    pub model: &'a LocalModel,
    /// The prompt.
    pub prompt: &'a Prompt,
    /// Most tokens to generate.
    pub max_new_tokens: usize,
    /// Chooses tokens from logits.
    pub sampler: &'a mut Sampler,
    /// The server, and how to reach it.
    pub server: &'a Endpoint,
    /// How the private part travels.
    pub way: Way<'a>,
}

/// Runs a request to its end.
///
/// # Errors
/// Prompts that do not fit, servers that refuse, results that left the calibrated ranges, and `Stopped`.
pub fn generate(request: Request<'_>, observer: &mut dyn Observer) -> Result<RunReport, Error> {
    let Request { model, prompt, max_new_tokens, sampler, server, way } = request;
    // 1: the prompt is tokenized and split; its lengths are all that the session is opened with.
    let shape = prompt.shape(max_new_tokens, &model.config)?;
    model.calibration.preparation.check_public(&prompt.public)?;
    let started = Instant::now();
    let mut opened = open(way, server, model, shape, prompt.padded_from, observer)?;
    let setup_seconds = started.elapsed().as_secs_f64();
    let spoken = converse(&mut opened, model, prompt, max_new_tokens, sampler, observer);
    // The server hears the same goodbye whether or not the result could be read.
    part(&mut opened);
    let tokens = spoken?;
    Ok(report(way, prompt, &opened, tokens, setup_seconds))
}

/// The exchange of steps, to the last token or the first error.
fn converse(
    opened: &mut Opened<'_>,
    model: &LocalModel,
    prompt: &Prompt,
    max_new_tokens: usize,
    sampler: &mut Sampler,
    observer: &mut dyn Observer,
) -> Result<Vec<TokenReport>, Error> {
    let mut twin = ClearTwin::of(model);
    let mut decoder = model.tokenizer.as_ref().map(|tokenizer| tokenizer.decode_stream());
    let mut tokens: Vec<TokenReport> = Vec::new();
    let mut fed = Zeroizing::new([&prompt.public[..], &prompt.private[..]].concat());
    loop {
        let step = tokens.len();
        let step_started = Instant::now();
        // 3, 4: embed, pack, encode, encrypt.
        let packed = pack(opened, model, prompt, tokens.last())?;
        let blobs = packed.iter().map(|slots| opened.codec.seal(slots)).collect::<Result<Vec<_>, _>>()?;
        // 5: send.
        match step {
            0 => opened.session.prefill(prompt.public.clone(), opened.private_tokens, blobs)?,
            _ => opened.session.decode(blobs)?,
        }
        // 2, 6, 7 happen at the server; 8: wait and receive.
        opened.connection.pump(opened.session.as_mut(), step, observer)?;
        // 9: decrypt, round, sample.
        let logits = read(opened)?;
        let id = sampler.sample(&logits)?;
        let seconds = step_started.elapsed().as_secs_f64();
        let ended = tokens.len() + 1 == max_new_tokens || model.config.eos_token_ids.contains(&id);
        if ended {
            // Before the comparison, so that the time of the goodbye does not show that there was one to make.
            part(opened);
        }
        // 10: compare, detokenize, append, loop.
        let compared = twin.as_mut().map(|twin| twin.compare(&fed, &logits)).transpose()?;
        let text = detokenize(&mut decoder, id, ended)?;
        let token = TokenReport {
            id,
            text,
            clear_id: compared.map(|c| c.clear_id),
            top1_agrees: compared.map(|c| c.top1_agrees),
            kl: compared.map(|c| c.kl),
            max_logit_error: compared.map(|c| c.max_logit_error),
            clear_margin: compared.map(|c| c.clear_margin),
            seconds,
        };
        observer.token(&token);
        tokens.push(token);
        if ended {
            return Ok(tokens);
        }
        fed = Zeroizing::new(vec![id]);
    }
}

/// Says goodbye, unless that was done or the conversation itself has failed.
fn part(opened: &mut Opened<'_>) {
    if opened.session.turn() == Turn::Application {
        opened.session.close();
        // Nothing more is expected of the server; one that is gone already needs no goodbye.
        let _ = opened.connection.flush(opened.session.as_mut());
    }
}

/// The slots of the prompt, or of the token that was generated last.
fn pack(
    opened: &Opened<'_>,
    model: &LocalModel,
    prompt: &Prompt,
    last: Option<&TokenReport>,
) -> Result<Vec<Slots>, Error> {
    match last {
        None => Ok(opened.program.pack_prompt(&model.embed_rows(&prompt.private)?)?),
        Some(token) => {
            let row = Zeroizing::new(model.embed_rows(&[token.id])?.concat());
            Ok(opened.program.pack_token(&row)?)
        }
    }
}

/// The logits of the step, after the checks that `Program::read_logits` makes.
fn read(opened: &mut Opened<'_>) -> Result<Vec<f32>, Error> {
    let blobs = opened.session.take_result().unwrap_or_default();
    // All of them are opened before any is judged: the time that it takes says nothing about the values.
    let opened_blobs: Vec<_> = blobs.iter().map(|blob| opened.codec.open(blob)).collect();
    let mut slots = opened_blobs.into_iter().collect::<Result<Vec<_>, _>>()?;
    let guard = slots.pop().unwrap_or_default();
    Ok(opened.program.read_logits(&slots, &guard)?)
}

fn detokenize(decoder: &mut Option<DecodeStream<'_>>, id: u32, ended: bool) -> Result<String, Error> {
    let Some(stream) = decoder.as_mut() else { return Ok(String::new()) };
    let mut piece = stream.push(id)?;
    if ended && let Some(stream) = decoder.take() {
        piece.push_str(&stream.finish()?);
    }
    Ok(piece)
}

fn report(
    way: Way<'_>,
    prompt: &Prompt,
    opened: &Opened<'_>,
    tokens: Vec<TokenReport>,
    setup_seconds: f64,
) -> RunReport {
    let (mode, log_n, parameters) = match way {
        Way::Fhe { parameters, .. } => ("fhe", parameters.chain().log_n, Some(parameters)),
        Way::Clear { chain } => ("clear", chain.log_n, None),
    };
    let operations = opened.session.operations();
    let ledger = opened.connection.ledger();
    RunReport {
        mode,
        route: parameters.map(|p| Route::of(p).name()),
        security_bits: parameters.map_or(0, |p| p.security_bits()),
        ring_degree: 1 << log_n,
        log_qp: parameters.map_or(0.0, |p| p.log_qp()),
        failure_log2: parameters.map_or(0.0, |p| p.failure_log2()),
        public_tokens: prompt.public.len(),
        private_tokens: prompt.private.len(),
        prefill_seconds: tokens.first().map_or(0.0, |token| token.seconds),
        text: tokens.iter().map(|token| token.text.as_str()).collect(),
        tokens,
        setup_seconds,
        bootstraps: operations.bootstraps,
        key_switches: operations.key_switches,
        bytes_up: ledger.bytes_sent(),
        bytes_down: ledger.bytes_received(),
        key_bytes: opened.key_bytes,
        rounds: ledger.rounds(),
        peak_rss_bytes: None,
        leakage: opened.leakage.iter().map(|leak| leak.sentence.clone()).collect(),
    }
}
