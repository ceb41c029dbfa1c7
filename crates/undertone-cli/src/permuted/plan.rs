//! `undertone plan --mode permuted`: rounds, bytes, memory and seconds per token, from the configuration alone.
//!
//! Rounds and bytes come from the formulas that sessions are held against. Seconds are those of rounds and bytes on a
//! network, and of reading every weight once from memory: the provider's 16-bit weights while a token is due, the user's
//! masked ones and the dealer's masks beside it. Computation above that floor is not in them.

use crate::config::config_like;
use crate::context::Context;
use crate::error::Result;
use crate::plan::PlanArguments;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::time::Instant;
use undertone_net::Network;
use undertone_protocol::modes::permuted::deal::MAX_PIECES;
use undertone_shares::formula::Traffic;
use undertone_shares::{MAX_BUNDLE_BYTES, MaskedModel, Shape, Step, pieces};

/// Words of the buffer whose reading is timed: far beyond what caches hold.
const PROBE_WORDS: usize = 96 << 20;
/// Most tokens of a piece of a prompt: what a dealer takes by default.
const PIECE: usize = 64;
/// Seconds per token that the published implementation reports at 10 ms and 1 Gbit/s, for ChatGLM-6B.
const PUBLISHED_SECONDS: f64 = 3.0;

/// Rounds, bytes of contents and bytes of bundles of a prompt.
type Prefill = (u64, u64, u64);

/// Runs the verb.
///
/// # Errors
/// What the configuration gives rise to, and lengths that the model does not have.
pub fn plan(arguments: &PlanArguments, context: &Context) -> Result<()> {
    super::check_draft(arguments.draft)?;
    let config = config_like(&arguments.model.to_string_lossy())?;
    let (shape, prompt) = (Shape::new(&config), arguments.public + arguments.private);
    let positions = config.max_position_embeddings;
    let pieces = |strict| pieces(&shape, positions, prompt.max(1), (PIECE, strict), MAX_BUNDLE_BYTES, MAX_PIECES);
    let rows = arguments.draft + 1;
    let last = (prompt + arguments.max_new_tokens).saturating_sub(1);
    Step { number: 0, position: last.saturating_sub(1), tokens: 1, outputs: 1, strict: false }
        .check(&shape, positions)?;
    // A token in the middle of the continuation.
    let position = prompt + arguments.max_new_tokens / 2;
    let token = |strict| Traffic::new(&shape, &Step { number: 0, position, tokens: rows, outputs: rows, strict });
    let bandwidth = memory_bandwidth();
    let default = (token(false), prefill(&shape, &pieces(false)?, false));
    // A model or a prompt may be too large for strict evaluation alone.
    let strictly = pieces(true).map(|pieces| (token(true), prefill(&shape, &pieces, true)));
    let mut object = object(&shape, (prompt, last), (&default.0, default.1), bandwidth, arguments.draft);
    object["strict"] = strict_object(strictly);
    context.result(&object, || text(&object));
    Ok(())
}

/// Bytes a second at which all cores together read memory, the best of three.
fn memory_bandwidth() -> f64 {
    let buffer = vec![1u64; PROBE_WORDS];
    let read = || {
        let started = Instant::now();
        let sum = |part: &[u64]| part.iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
        std::hint::black_box(buffer.par_chunks(1 << 16).map(sum).reduce(|| 0, u64::wrapping_add));
        8.0 * PROBE_WORDS as f64 / started.elapsed().as_secs_f64()
    };
    (0..3).map(|_| read()).fold(0.0, f64::max)
}

/// Rounds, bytes of contents and bytes of bundles of a prompt in these pieces.
fn prefill(shape: &Shape, pieces: &[usize], strict: bool) -> Prefill {
    let mut position = 0;
    pieces.iter().enumerate().fold((0, 0, 0), |sum, (number, &tokens)| {
        let outputs = usize::from(number + 1 == pieces.len());
        let traffic = Traffic::new(shape, &Step { number: number as u64, position, tokens, outputs, strict });
        position += tokens;
        (
            sum.0 + traffic.rounds(),
            sum.1 + traffic.token_bytes(),
            sum.2 + traffic.offline_bytes + traffic.user_offline_bytes,
        )
    })
}

fn object(
    shape: &Shape,
    (prompt, last): (usize, usize),
    (token, prefill): (&Traffic, Prefill),
    bandwidth: f64,
    draft: usize,
) -> Value {
    let masked = MaskedModel::size_bytes(shape);
    let weights = masked / 4;
    let rows = last as u64 * (draft as u64 + 1);
    let cache = 4 * 8 * 2 * shape.layers as u64 * shape.key() as u64 * rows / 2;
    let provider_seconds = weights as f64 / bandwidth;
    let networks: Vec<Value> = Network::PROFILES
        .iter()
        .map(|network| {
            let online = network_seconds(token.rounds(), token.token_bytes(), network) + provider_seconds;
            // What is prepared beside it reads four times as many bytes, and the slower of both counts.
            let per_token = online.max(masked as f64 / bandwidth);
            json!({
                "profile": network.name,
                "round_trip_ms": network.round_trip().as_secs_f64() * 1e3,
                "megabits_per_second": network.bits_per_second / 1_000_000,
                "network_seconds": network_seconds(token.rounds(), token.token_bytes(), network),
                "seconds_per_pass": per_token,
                "prefill_network_seconds": network_seconds(prefill.0, prefill.1, network),
            })
        })
        .collect();
    json!({
        "mode": "permuted",
        "offered": true,
        "prompt_tokens": prompt,
        "draft": draft,
        "rounds_per_pass": token.rounds(),
        "bytes_per_pass": token.token_bytes(),
        "online_bytes_per_pass": token.online_bytes,
        "offline_bytes_per_pass": token.offline_bytes + token.user_offline_bytes,
        "published_bytes_per_token": 8 * token.published_elements,
        "published_seconds_per_token": PUBLISHED_SECONDS,
        "prefill_rounds": prefill.0,
        "prefill_bytes": prefill.1,
        "prefill_offline_bytes": prefill.2,
        "setup_bytes": masked,
        "provider_bytes": weights + cache,
        "user_bytes": masked + cache,
        "dealer_bytes": masked + cache / 2,
        "memory_bytes_per_second": bandwidth,
        "provider_floor_seconds": provider_seconds,
        "user_floor_seconds": masked as f64 / bandwidth,
        "networks": networks,
        "verdict": "obfuscates the weights and hides the prompt; see undertone privacy --mode permuted",
    })
}

/// What a pass and a prompt take under strict evaluation, or why there is none.
fn strict_object(strictly: std::result::Result<(Traffic, Prefill), undertone_shares::Error>) -> Value {
    let (token, prefill) = match strictly {
        Ok(strictly) => strictly,
        Err(error) => return json!({ "offered": false, "reason": error.to_string() }),
    };
    let networks: Vec<Value> = Network::PROFILES
        .iter()
        .map(|network| {
            json!({
                "profile": network.name,
                "network_seconds": network_seconds(token.rounds(), token.token_bytes(), network),
                "prefill_network_seconds": network_seconds(prefill.0, prefill.1, network),
            })
        })
        .collect();
    json!({
        "offered": true,
        "rounds_per_pass": token.rounds(),
        "bytes_per_pass": token.token_bytes(),
        "online_bytes_per_pass": token.online_bytes,
        "offline_bytes_per_pass": token.offline_bytes + token.user_offline_bytes,
        "prefill_rounds": prefill.0,
        "prefill_bytes": prefill.1,
        "prefill_offline_bytes": prefill.2,
        "networks": networks,
    })
}

/// Seconds of rounds and bytes on a network.
fn network_seconds(rounds: u64, bytes: u64, network: &Network) -> f64 {
    rounds as f64 * network.round_trip().as_secs_f64() + 8.0 * bytes as f64 / network.bits_per_second as f64
}

/// The object as lines.
fn text(object: &Value) -> String {
    let number = |name: &str| object[name].as_f64().unwrap_or(0.0);
    let (mega, giga) = (|name: &str| number(name) / 1e6, |name: &str| number(name) / 1e9);
    let mut lines = vec![
        format!(
            "pass         {} rounds, {:.2} MB on the network (published formula {:.2} MB), {:.2} MB of bundles beforehand",
            object["rounds_per_pass"],
            mega("bytes_per_pass"),
            mega("published_bytes_per_token"),
            mega("offline_bytes_per_pass")
        ),
        format!(
            "prompt       {} tokens: {} rounds, {:.1} MB on the network, {:.1} MB of bundles beforehand",
            object["prompt_tokens"],
            object["prefill_rounds"],
            mega("prefill_bytes"),
            mega("prefill_offline_bytes")
        ),
        format!(
            "memory       provider {:.2} GB, user {:.2} GB, dealer {:.2} GB; {:.2} GB of masked weights go to the user once",
            giga("provider_bytes"),
            giga("user_bytes"),
            giga("dealer_bytes"),
            giga("setup_bytes")
        ),
        format!(
            "floor        {:.3} s to read the weights at the provider, {:.3} s beside it at the user and the dealer ({:.1} GB/s)",
            number("provider_floor_seconds"),
            number("user_floor_seconds"),
            giga("memory_bytes_per_second")
        ),
    ];
    for network in object["networks"].as_array().into_iter().flatten() {
        lines.push(format!(
            "{:<12} {} ms a round, {} Mbit/s: {:.2} s a pass, of which {:.2} s on the network; prompt {:.1} s on the network",
            network["profile"].as_str().unwrap_or(""),
            network["round_trip_ms"],
            network["megabits_per_second"],
            network["seconds_per_pass"].as_f64().unwrap_or(0.0),
            network["network_seconds"].as_f64().unwrap_or(0.0),
            network["prefill_network_seconds"].as_f64().unwrap_or(0.0)
        ));
    }
    let strict = &object["strict"];
    if strict["offered"] == Value::Bool(true) {
        let number = |name: &str| strict[name].as_f64().unwrap_or(0.0);
        let seconds: Vec<String> = strict["networks"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|network| {
                let name = network["profile"].as_str().unwrap_or("");
                format!("{name} {:.2} s", network["network_seconds"].as_f64().unwrap_or(0.0))
            })
            .collect();
        lines.push(format!(
            "--strict     a pass: {} rounds, {:.2} MB on the network, {:.2} MB of bundles beforehand, on the network {}",
            strict["rounds_per_pass"],
            number("bytes_per_pass") / 1e6,
            number("offline_bytes_per_pass") / 1e6,
            seconds.join(", ")
        ));
        lines.push(format!(
            "--strict     prompt: {} rounds, {:.1} MB on the network, {:.1} MB of bundles beforehand",
            strict["prefill_rounds"],
            number("prefill_bytes") / 1e6,
            number("prefill_offline_bytes") / 1e6
        ));
    } else {
        lines.push(format!("--strict     not for this prompt: {}", strict["reason"].as_str().unwrap_or("")));
    }
    lines.push(format!(
        "published    about {PUBLISHED_SECONDS:.0} s per token at 10 ms and 1 Gbit/s, for a model of 6 billion weights"
    ));
    lines.push(format!("verdict      {}", object["verdict"].as_str().unwrap_or("")));
    lines.join("\n")
}
