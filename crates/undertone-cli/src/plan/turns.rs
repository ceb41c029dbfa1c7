//! What a whole model costs where its prompt runs in turns, on this machine and on larger ones.
//!
//! No session runs in turns yet, so this stands beside the plan of a session and not in its place. Counts are those of
//! the program itself; seconds on other machines are extrapolated, and every one of them says from what.

use crate::estimate::{Machine, step_seconds};
use serde_json::{Value, json};
use undertone_he::{CostEvaluator, Counts, Parameters, bootstrap_model};
use undertone_infer::{Calibration, Error as InferError, Plan, Shape};
use undertone_model::LlamaConfig;

/// Cores of the larger machine that is estimated.
const MANY_CORES: usize = 64;
/// A bootstrap of all slots on one card: published for an H100, Cheddar, as in the design's table of peers.
const CARD_BOOTSTRAP_SECONDS: f64 = 0.031;

/// Counts and seconds of the whole model, or why it cannot run in turns. The clear pass over public tokens is not in them.
pub fn estimate(config: &LlamaConfig, calibration: Option<&Calibration>, shape: Shape, machine: &Machine) -> Value {
    let parameters = Parameters::product_preset();
    match InTurns::new(&parameters, config, calibration, shape) {
        Ok(costs) => costs.object(&parameters, machine),
        Err(error) => json!({ "parameters": parameters.name(), "refused": error.to_string() }),
    }
}

struct InTurns {
    steps: Vec<Counts>,
    /// One bootstrap of all slots.
    bootstrap: Counts,
    estimate: bool,
}

impl InTurns {
    fn new(
        parameters: &Parameters,
        config: &LlamaConfig,
        calibration: Option<&Calibration>,
        shape: Shape,
    ) -> Result<Self, InferError> {
        let model = bootstrap_model(parameters);
        let bootstrap = model(parameters.chain().slot_count(), true)?.counts();
        let ev = CostEvaluator::new(parameters.chain()).with_bootstrap_model(bootstrap_model(parameters));
        let plan = Plan::new(config, calibration, shape, &ev)?;
        Ok(Self { steps: plan.steps.into_iter().map(|step| step.counts).collect(), bootstrap, estimate: plan.estimate })
    }

    fn object(&self, parameters: &Parameters, machine: &Machine) -> Value {
        let of = |machine: &Machine| -> Vec<f64> {
            self.steps.iter().map(|counts| step_seconds(parameters, machine, counts)).collect()
        };
        let here = of(machine);
        let many = Machine { threads: MANY_CORES, ..*machine };
        let bootstrap = step_seconds(parameters, machine, &self.bootstrap);
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
        let cards =
            format!("a published bootstrap of {CARD_BOOTSTRAP_SECONDS} s (Cheddar, H100), all else in proportion");
        let first = self.steps.first();
        json!({
            "parameters": parameters.name(),
            "estimate": self.estimate,
            "prefill_bootstraps": first.map(|counts| counts.bootstraps),
            "prefill_key_switches": first.map(|counts| counts.key_switches),
            "bootstraps": self.steps.iter().map(|counts| counts.bootstraps).sum::<u64>(),
            "key_switches": self.steps.iter().map(|counts| counts.key_switches).sum::<u64>(),
            "machines": [
                line(threads, &here, ntt),
                line(format!("{MANY_CORES} cores"), &of(&many), cores),
                line("one H200-class GPU".into(), &card, cards),
            ],
        })
    }
}

/// The object as lines.
pub fn text(object: &Value) -> Vec<String> {
    if let Some(refused) = object["refused"].as_str() {
        return vec![format!("in turns     not possible: {refused}")];
    }
    let mut lines = vec![format!(
        "in turns     {} bootstraps in the prefill on {}; not offered by `run` yet, without the clear pass over public tokens",
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

    #[test]
    fn a_7b_layer_keeps_to_its_bootstraps_and_machines_are_ordered() {
        let machine = Machine { ntt_ms: 0.11, threads: 2, memory: None };
        // The last of 4096 positions is that of the second new token.
        let shape = Shape { public_tokens: 3967, private_tokens: 128, max_new_tokens: 2 };
        let layers = |count| {
            let config = LlamaConfig { num_hidden_layers: count, ..config_like("llama-2-7b").unwrap() };
            estimate(&config, None, shape, &machine)
        };
        let (two, three) = (layers(2), layers(3));
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
        let shape = Shape { public_tokens: 16, private_tokens: 16, max_new_tokens: 1 };
        let object = estimate(&config, None, shape, &machine);
        assert!(object["refused"].as_str().unwrap().contains("head"), "{object}");
        assert_eq!(text(&object).len(), 1);
    }
}
