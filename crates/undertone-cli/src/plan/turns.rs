//! Which route a session takes and why, and what a whole model costs where its prompt runs in turns, on this machine and on
//! larger ones.
//!
//! Counts are those of the program itself; seconds on other machines are extrapolated, and every one of them says from what.

use crate::estimate::{Machine, step_seconds};
use serde_json::{Value, json};
use undertone_he::bootstrap_model;
use undertone_protocol::modes::fhe::{Candidate, Choice, Route};

/// Cores of the larger machine that is estimated.
const MANY_CORES: usize = 64;
/// A bootstrap of all slots on one card: published for an H100, Cheddar, as in the design's table of peers.
const CARD_BOOTSTRAP_SECONDS: f64 = 0.031;

/// Seconds of the prefill and of each later token.
pub fn seconds(candidate: &Candidate, machine: &Machine) -> Vec<f64> {
    let steps = candidate.costs.steps.iter();
    steps.map(|step| step_seconds(&candidate.parameters, machine, &step.counts)).collect()
}

/// The route that a session takes, why, and what the other would be. Work is in transforms of a limb.
pub fn route(choice: &Choice, machine: &Machine) -> Value {
    let taken = &choice.taken;
    let other = choice.others.first();
    let reason = match other {
        None => "asked for",
        Some((_, Ok(_))) => "less work",
        Some((_, Err(_))) => "the only one",
    };
    let sum = |candidate| seconds(candidate, machine).iter().sum::<f64>();
    json!({
        "taken": taken.route().name(),
        "reason": reason,
        "work": taken.work,
        "seconds": sum(taken),
        "other": other.map(|(route, candidate)| match candidate {
            Ok(other) => json!({ "route": route.name(), "work": other.work, "seconds": sum(other) }),
            Err(error) => json!({ "route": route.name(), "refused": error.to_string() }),
        }),
    })
}

/// The object of [`route`] as a line.
pub fn route_text(object: &Value) -> String {
    let phrase = |name: &Value| if name == Route::Turns.name() { "in turns" } else { "through slots" };
    let (taken, other) = (phrase(&object["taken"]), &object["other"]);
    let seconds = |of: &Value| of["seconds"].as_f64().unwrap_or(0.0);
    let reason = match (other.is_null(), other["refused"].as_str()) {
        (true, _) => "as asked for".to_owned(),
        (_, Some(refused)) => format!("as it cannot run {}: {refused}", phrase(&other["route"])),
        _ => format!("{:.0} s in all, against {:.0} s {}", seconds(object), seconds(other), phrase(&other["route"])),
    };
    format!("route        {taken}, {reason}")
}

/// Counts and seconds of the whole model in turns, why it cannot run so, or nothing where that was not planned. The clear pass
/// over public tokens is not in them.
pub fn estimate(choice: &Choice, machine: &Machine) -> Value {
    if choice.taken.route() == Route::Turns {
        return object(&choice.taken, machine);
    }
    match choice.others.iter().find(|(route, _)| *route == Route::Turns) {
        None => Value::Null,
        Some((_, Ok(candidate))) => object(candidate, machine),
        Some((_, Err(error))) => json!({ "refused": error.to_string() }),
    }
}

fn object(candidate: &Candidate, machine: &Machine) -> Value {
    let (parameters, costs) = (&candidate.parameters, &candidate.costs);
    let here = seconds(candidate, machine);
    let many = Machine { threads: MANY_CORES, ..*machine };
    let bootstrap = bootstrap_model(parameters)(parameters.chain().slot_count(), true);
    // A preset with turns bootstraps all slots.
    let bootstrap = bootstrap.map_or(f64::INFINITY, |cost| step_seconds(parameters, machine, &cost.counts()));
    let card: Vec<f64> = here.iter().map(|seconds| seconds * CARD_BOOTSTRAP_SECONDS / bootstrap).collect();
    let line = |name: String, seconds: &[f64], rests_on: String| {
        json!({
            "machine": name, "prefill_seconds": seconds.first(), "seconds_per_token": seconds.get(1),
            "rests_on": rests_on,
        })
    };
    let ntt = format!("a transform of {:.3} ms here and the kernel times of docs/performance.md", machine.ntt_ms);
    let threads = format!("{} threads", machine.threads);
    let cores = format!("cores like these; the gain from one thread to two, extrapolated to {MANY_CORES}");
    let cards = format!("a published bootstrap of {CARD_BOOTSTRAP_SECONDS} s (Cheddar, H100), all else in proportion");
    let first = costs.steps.first().map(|step| &step.counts);
    json!({
        "parameters": parameters.name(),
        "estimate": costs.estimate,
        "prefill_bootstraps": first.map(|counts| counts.bootstraps),
        "prefill_key_switches": first.map(|counts| counts.key_switches),
        "bootstraps": costs.steps.iter().map(|step| step.counts.bootstraps).sum::<u64>(),
        "key_switches": costs.steps.iter().map(|step| step.counts.key_switches).sum::<u64>(),
        "machines": [
            line(threads, &here, ntt),
            line(format!("{MANY_CORES} cores"), &seconds(candidate, &many), cores),
            line("one H200-class GPU".into(), &card, cards),
        ],
    })
}

/// The object of [`estimate`] as lines.
pub fn text(object: &Value) -> Vec<String> {
    if object.is_null() {
        return Vec::new();
    }
    if let Some(refused) = object["refused"].as_str() {
        return vec![format!("in turns     not possible: {refused}")];
    }
    let mut lines = vec![format!(
        "in turns     {} bootstraps in the prefill on {}, without the clear pass over public tokens",
        object["prefill_bootstraps"],
        object["parameters"].as_str().unwrap_or("")
    )];
    for line in object["machines"].as_array().into_iter().flatten() {
        let word = |name: &str| line[name].as_str().unwrap_or("");
        // With one new token there is no further one.
        let token = line["seconds_per_token"].as_f64().map(|seconds| format!(", {seconds:.0} s per further token"));
        lines.push(format!(
            "  {:<18} {:.0} s for the prompt{} (from {})",
            word("machine"),
            line["prefill_seconds"].as_f64().unwrap_or(0.0),
            token.unwrap_or_default(),
            word("rests_on")
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::config_like;
    use undertone_he::Parameters;
    use undertone_model::LlamaConfig;
    use undertone_protocol::message::WireShape;
    use undertone_protocol::modes::fhe::choose;

    fn chosen(config: &LlamaConfig, shape: WireShape) -> Choice {
        choose(&Parameters::presets(), config, None, shape, None).unwrap()
    }

    #[test]
    fn a_7b_layer_keeps_to_its_bootstraps_and_machines_are_ordered() {
        let machine = Machine { ntt_ms: 0.11, threads: 2, memory: None };
        // The last of 4096 positions is that of the second new token.
        let shape = WireShape { public_tokens: 3967, private_tokens: 128, max_new_tokens: 2 };
        let layers = |count| {
            let config = LlamaConfig { num_hidden_layers: count, ..config_like("llama-2-7b").unwrap() };
            estimate(&chosen(&config, shape), &machine)
        };
        let (two, three) = (layers(2), layers(3));
        let choice = chosen(&LlamaConfig { num_hidden_layers: 2, ..config_like("llama-2-7b").unwrap() }, shape);
        let said = route_text(&route(&choice, &machine));
        assert!(said.starts_with("route        in turns, ") && said.ends_with(" s through slots"), "{said}");
        let bootstraps = |object: &Value| object["prefill_bootstraps"].as_u64().unwrap();
        // 24 for queries, keys and values, 8 for the output, 44 and 8 for the feed-forward network, and sums.
        let layer = bootstraps(&three) - bootstraps(&two);
        assert!((84..=88).contains(&layer), "{layer}");
        let seconds: Vec<f64> = (0..3).map(|i| three["machines"][i]["prefill_seconds"].as_f64().unwrap()).collect();
        assert!(seconds[0] > seconds[1] && seconds[1] > seconds[2] && seconds[2] > 0.0, "{seconds:?}");
        assert_eq!(text(&three).len(), 4);
    }

    #[test]
    fn what_does_not_fit_says_why() {
        let machine = Machine { ntt_ms: 0.11, threads: 2, memory: None };
        let config = LlamaConfig { head_dim: 96, ..config_like("llama-100m").unwrap() };
        let shape = WireShape { public_tokens: 16, private_tokens: 16, max_new_tokens: 1 };
        let choice = chosen(&config, shape);
        let said = route_text(&route(&choice, &machine));
        assert!(said.contains("through slots, as it cannot run in turns: ") && said.contains("head"), "{said}");
        let object = estimate(&choice, &machine);
        assert!(object["refused"].as_str().unwrap().contains("head"), "{object}");
        assert_eq!(text(&object).len(), 1);
    }
}
