//! `undertone plan`: what a session will cost, from `config.json` and the lengths alone.
//!
//! Counts, keys and bytes come from the cost evaluator, which runs the layers' own code. Times come from a short
//! transform benchmark on this machine, multiplied by the number of transforms and by measured ratios.

mod turns;

use crate::config::{config_like, read_config};
use crate::context::Context;
use crate::error::Result;
use crate::estimate::{Machine, step_seconds};
use crate::mode::Mode;
use crate::permuted;
use crate::route::RouteArguments;
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use undertone_he::{Ciphertext, KeyMemory, KeySet, Parameters, PlannedKey, SeededCiphertext, planned_keys};
use undertone_infer::{Calibration, Error as InferError, Plan, Shape};
use undertone_model::LlamaConfig;
use undertone_protocol::message::WireShape;
use undertone_protocol::modes::fhe::{self, Candidate, Choice, Route, choose};

/// Longest job that "fits", in seconds.
const PATIENCE_SECONDS: f64 = 3600.0;

/// Worst-slot bits of a full bootstrap of the shipped set: just below the 19.53 that `bench precision` found over all
/// slots, runs and kinds of inputs, the table of docs/numerics.md.
const EXPECTED_PRECISION_BITS: f64 = 19.5;

/// Memory of a client that depends on the shipped parameters alone: tables, secrets, the largest key while it is made
/// and sent, and the freed polynomials that the ring keeps for reuse.
///
/// Measured: a client of the bundled model, with weights of 0.9 MB, peaks at 626 409 472 bytes.
const CLIENT_FIXED_BYTES: u64 = 630_000_000;

/// Flags of `undertone plan`.
#[derive(Debug, Args)]
#[command(after_help = "peak_rss_bytes is what `run` would report of both parties on one machine: session_bytes and
weight_bytes at the server, and client_bytes, which holds the weights once more to compare with.

Mode permuted shows what --strict of `run` and `demo` takes beside what the default does, in lines that begin with
--strict and in the field strict; it has no flag for it.

Examples:
  undertone plan --model DIR --public 256 --private 64 --max-new-tokens 8
  undertone plan --model DIR/config.json --compare --json
  undertone plan --model llama-2-7b --public 3900 --private 128 --max-new-tokens 2
  undertone plan --model DIR --route turns
  undertone plan --mode permuted --model llama-2-7b --private 128")]
pub struct PlanArguments {
    /// Hugging Face model directory, or a configuration file alone; the calibration beside a config.json counts. Also
    /// llama-2-7b, llama-3-8b, tinyllama-1.1b or llama-100m
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,

    /// Public tokens, BOS or the prefix of the calibration included
    #[arg(long, value_name = "P", default_value_t = 256)]
    pub public: usize,

    /// Private tokens
    #[arg(long, value_name = "T", default_value_t = 64)]
    pub private: usize,

    /// Most tokens to generate
    #[arg(long, value_name = "K", default_value_t = 16)]
    pub max_new_tokens: usize,

    /// The mode to plan
    #[arg(long, value_enum, default_value_t = Mode::Fhe, conflicts_with = "compare")]
    pub mode: Mode,

    #[command(flatten)]
    pub route: RouteArguments,

    /// Memory for the first keys of a session whose keys are on disk, in MiB
    #[arg(long, value_name = "MIB", default_value_t = KeyMemory::HELD_MIB)]
    pub key_held_mib: u64,

    /// Tokens guessed in every step (mode permuted)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub draft: usize,

    /// Show every mode
    #[arg(long)]
    pub compare: bool,
}

/// Runs the verb.
///
/// # Errors
/// Whatever the configuration, the calibration or the lengths give rise to.
pub fn run(arguments: &PlanArguments, context: &Context) -> Result<()> {
    arguments.mode.require_offered()?;
    arguments.route.check_mode(arguments.mode)?;
    if arguments.mode == Mode::Permuted {
        return permuted::plan(arguments, context);
    }
    let (config, calibration) = read(&arguments.model)?;
    let shape = Shape {
        public_tokens: arguments.public,
        private_tokens: arguments.private,
        max_new_tokens: arguments.max_new_tokens,
    };
    let planned = Planned::new(&config, calibration.as_ref(), shape, arguments.route.only())?;
    let object = planned.object(arguments.key_held_mib);
    context.result(&object, || text(&object));
    if arguments.compare {
        permuted::plan(arguments, context)?;
        let object = json!({ "mode": Mode::Adapter.name(), "offered": false, "verdict": "not part of this release" });
        context.result(&object, || format!("mode {}: not part of this release", Mode::Adapter.name()));
    }
    Ok(())
}

/// The configuration, and the calibration beside it when there is one.
fn read(path: &Path) -> Result<(LlamaConfig, Option<Calibration>)> {
    if let Some(name) = path.to_str().filter(|_| !path.exists()) {
        return Ok((config_like(name)?, None));
    }
    let config = read_config(path)?;
    let folder = match path.file_name() {
        _ if path.is_dir() => path,
        Some(name) if name == "config.json" => path.parent().unwrap_or(Path::new(".")),
        // Under another name it is not what the directory's calibration was made for.
        _ => return Ok((config, None)),
    };
    match Calibration::load(folder) {
        Ok(calibration) => {
            calibration.check_shape(&config)?;
            Ok((config, Some(calibration)))
        }
        Err(InferError::CalibrationMissing { .. }) => Ok((config, None)),
        Err(error) => Err(error.into()),
    }
}

/// A session's costs in bytes and seconds.
pub struct Planned {
    choice: Choice,
    keys: Vec<PlannedKey>,
    session_bytes: u64,
    weight_bytes: u64,
    client_bytes: u64,
    machine: Machine,
}

impl Planned {
    /// Plans a session on this machine, by the route that is least work or by `only`.
    ///
    /// # Errors
    /// What the planner refuses, and lengths that no session may have.
    pub fn new(
        config: &LlamaConfig,
        calibration: Option<&Calibration>,
        shape: Shape,
        only: Option<Route>,
    ) -> Result<Self> {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let wire = WireShape {
            public_tokens: number(shape.public_tokens),
            private_tokens: number(shape.private_tokens),
            max_new_tokens: number(shape.max_new_tokens),
        };
        let choice = choose(&Parameters::presets(), config, calibration, wire, only)?;
        let Candidate { parameters, costs, .. } = &choice.taken;
        let keys = planned_keys(parameters, &costs.keys)?;
        let session_bytes = fhe::session_bytes(parameters, config, costs, &keys, &KeyMemory::Seeded);
        let weight_bytes = config.parameter_count().saturating_mul(size_of::<f32>() as u64);
        let client_bytes = client_bytes(parameters, config, costs).saturating_add(weight_bytes);
        Ok(Self { choice, keys, session_bytes, weight_bytes, client_bytes, machine: Machine::measure()? })
    }

    fn plan(&self) -> &Plan {
        &self.choice.taken.costs
    }

    fn parameters(&self) -> &Parameters {
        &self.choice.taken.parameters
    }

    /// The shape.
    pub fn shape(&self) -> Shape {
        self.plan().shape
    }

    /// Every key that the session uses.
    pub fn key_set(&self) -> &KeySet {
        &self.plan().keys
    }

    /// Bytes of the seeded keys on the wire.
    pub fn key_bytes(&self) -> usize {
        self.keys.iter().map(|planned| planned.len).sum()
    }

    /// Memory of the server with this session: what it reserves, and the weights.
    pub fn server_bytes(&self) -> u64 {
        self.session_bytes.saturating_add(self.weight_bytes)
    }

    /// Memory of both parties on one machine, as `run` reports it: that of the server and that of the client.
    pub fn peak_rss_bytes(&self) -> u64 {
        self.server_bytes().saturating_add(self.client_bytes)
    }

    /// How often the client waits for an answer: for the welcome, and for the logits of every token.
    pub fn rounds(&self) -> usize {
        1 + self.plan().steps.len()
    }

    /// Seconds of the prefill and of each later token.
    pub fn seconds(&self) -> Vec<f64> {
        turns::seconds(&self.choice.taken, &self.machine)
    }

    /// Seconds, bootstraps and key switches of one layer of the prefill.
    pub fn prefill_layer(&self, layer: usize) -> (f64, u64, u64) {
        let stages = self.plan().steps.iter().take(1).flat_map(|step| &step.stages);
        stages.filter(|stage| stage.layer == layer).fold((0.0, 0, 0), |sum, stage| {
            let seconds = step_seconds(self.parameters(), &self.machine, &stage.counts);
            (sum.0 + seconds, sum.1 + stage.counts.bootstraps, sum.2 + stage.counts.key_switches)
        })
    }

    /// Bootstraps of the whole session.
    pub fn bootstraps(&self) -> u64 {
        self.plan().steps.iter().map(|step| step.counts.bootstraps).sum()
    }

    /// Key switches of the whole session.
    pub fn key_switches(&self) -> u64 {
        self.plan().steps.iter().map(|step| step.counts.key_switches).sum()
    }

    /// Bytes of memory that the server reserves, and of disk, when all keys of the session but `held_mib` MiB are on disk.
    fn on_disk(&self, held_mib: u64) -> [u64; 2] {
        let memory = KeyMemory::Spooled { folder: PathBuf::new(), held_bytes: held_mib.saturating_mul(1 << 20) };
        fhe::waiting_otherwise(self.session_bytes, &self.keys, &memory)
    }

    fn object(&self, held_mib: u64) -> Value {
        let (parameters, plan) = (self.parameters(), self.plan());
        let chain = parameters.chain();
        let seconds = self.seconds();
        let total: f64 = seconds.iter().sum();
        let key_bytes = self.key_bytes();
        let [on_disk_session_bytes, on_disk_bytes] = self.on_disk(held_mib);
        let steps = plan.steps.len();
        let input = SeededCiphertext::byte_len(parameters, plan.input_level);
        let output = Ciphertext::byte_len(parameters, plan.output_level);
        let verdict = self.machine.verdict(self.session_bytes, self.weight_bytes, total, PATIENCE_SECONDS);
        let prefill = plan.steps.first();
        json!({
            "mode": "fhe",
            "route": turns::route(&self.choice, &self.machine),
            "parameters": parameters.name(),
            "security_bits": parameters.security_bits(),
            "ring_degree": 1u64 << chain.log_n,
            "log_qp": parameters.log_qp(),
            "failure_log2": parameters.failure_log2(),
            "job_failure_log2": parameters.failure_log2() + (self.bootstraps().max(1) as f64).log2(),
            "levels": chain.top_level - chain.boot_level,
            "public_tokens": plan.shape.public_tokens,
            "private_tokens": plan.shape.private_tokens,
            "max_new_tokens": plan.shape.max_new_tokens,
            "estimate": plan.estimate,
            "bootstraps": self.bootstraps(),
            "key_switches": self.key_switches(),
            "prefill_bootstraps": prefill.map(|step| step.counts.bootstraps),
            "prefill_key_switches": prefill.map(|step| step.counts.key_switches),
            "keys": self.keys.len(),
            "key_bytes": key_bytes,
            "session_bytes": self.session_bytes,
            "keys_on_disk": { "session_bytes": on_disk_session_bytes, "disk_bytes": on_disk_bytes },
            "weight_bytes": self.weight_bytes,
            "client_bytes": self.client_bytes,
            "peak_rss_bytes": self.peak_rss_bytes(),
            "bytes_up": key_bytes + input * (plan.prompt_ciphertexts + steps.saturating_sub(1)),
            "bytes_down": output * (plan.logit_ciphertexts + 1) * steps,
            "rounds": self.rounds(),
            "prefill_seconds": seconds.first(),
            "seconds_per_token": seconds.get(1),
            "seconds": total,
            "derived_from": { "name": "ntt", "median_ms": self.machine.ntt_ms, "threads": self.machine.threads },
            "expected_precision_bits": EXPECTED_PRECISION_BITS,
            "verdict": verdict,
            "in_turns": turns::estimate(&self.choice, &self.machine),
        })
    }
}

/// Memory of a client beside the weights: what the parameters alone ask for, the caches of the clear model that it
/// compares with, and one step's slots and ciphertexts.
fn client_bytes(parameters: &Parameters, config: &LlamaConfig, plan: &Plan) -> u64 {
    let word = |count: usize| count as u64;
    let positions = word(plan.shape.public_tokens + plan.shape.private_tokens + plan.shape.max_new_tokens);
    let row = word(config.num_key_value_heads * config.head_dim * size_of::<f32>());
    let caches = (2 * word(config.num_hidden_layers)).saturating_mul(row).saturating_mul(positions);
    let slots = parameters.chain().slot_count() * size_of::<f64>();
    let input = SeededCiphertext::byte_len(parameters, plan.input_level) + slots;
    let output = Ciphertext::byte_len(parameters, plan.output_level) + slots;
    let travelling = word(plan.prompt_ciphertexts * input) + word((plan.logit_ciphertexts + 1) * output);
    [caches, travelling].into_iter().fold(CLIENT_FIXED_BYTES, u64::saturating_add)
}

/// The object as lines.
fn text(object: &Value) -> String {
    let number = |name: &str| object[name].as_f64().unwrap_or(0.0);
    let gib = |name: &str| number(name) / (1u64 << 30) as f64;
    let on_disk = |name: &str| object["keys_on_disk"][name].as_f64().unwrap_or(0.0) / (1u64 << 30) as f64;
    let mut lines = vec![
        format!(
            "parameters   {} ({} bits of security, log QP {:.0}, 2^{:.0} failures per bootstrap)",
            object["parameters"].as_str().unwrap_or(""),
            object["security_bits"],
            number("log_qp"),
            number("failure_log2")
        ),
        turns::route_text(&object["route"]),
        format!("levels       {} between bootstraps", object["levels"]),
        format!("bootstraps   {} ({} in the prefill)", object["bootstraps"], object["prefill_bootstraps"]),
        format!("key switches {} ({} in the prefill)", object["key_switches"], object["prefill_key_switches"]),
        format!("keys         {} of {:.2} GiB on the wire, sent once", object["keys"], gib("key_bytes")),
        format!(
            "memory       {:.1} GiB reserved at the server, beside {:.1} GiB of weights; {:.1} GiB at the client, with them",
            gib("session_bytes"),
            gib("weight_bytes"),
            gib("client_bytes")
        ),
        format!(
            "on disk      {:.1} GiB reserved and {:.1} GiB of disk, with --key-folder at the server",
            on_disk("session_bytes"),
            on_disk("disk_bytes")
        ),
        format!(
            "traffic      {:.2} GiB up, {:.3} GiB down, {} rounds",
            gib("bytes_up"),
            gib("bytes_down"),
            object["rounds"]
        ),
        format!(
            "time         {:.0} s for the prompt, {:.0} s per further token on {} threads (from a transform of {:.3} ms)",
            number("prefill_seconds"),
            number("seconds_per_token"),
            object["derived_from"]["threads"],
            object["derived_from"]["median_ms"].as_f64().unwrap_or(0.0)
        ),
        format!("precision    about {:.1} bits at the worst slot of a bootstrap", number("expected_precision_bits")),
        format!("verdict      {}", object["verdict"].as_str().unwrap_or("")),
    ];
    // The line of the route has said already why not.
    if object["route"]["other"]["refused"].is_null() {
        lines.extend(turns::text(&object["in_turns"]));
    }
    if object["estimate"] == true {
        lines.push("This is an estimate: the model has no calibration, so typical ranges were assumed.".into());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use undertone_protocol::modes::fhe::prepare;

    #[test]
    fn the_plan_is_what_both_sides_prepare() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
        let (narrow, calibration) = read(&folder).unwrap();
        let calibration = calibration.unwrap();
        // Turns want heads that fill a value; ranges know nothing of their width.
        let wide = LlamaConfig { head_dim: 64, ..narrow.clone() };
        let shape = |private_tokens| Shape { public_tokens: 12, private_tokens, max_new_tokens: 2 };
        for (only, config, shape, parameters) in [
            (Route::Slots, narrow, shape(5), Parameters::default_preset()),
            (Route::Turns, wide, shape(100), Parameters::product_preset()),
        ] {
            let planned = Planned::new(&config, Some(&calibration), shape, Some(only)).unwrap();
            let private_tokens = shape.private_tokens as u32;
            let wire = WireShape { public_tokens: 12, private_tokens, max_new_tokens: 2 };
            let prepared = prepare(&parameters, &config, &calibration, wire).unwrap();
            assert_eq!(planned.session_bytes, prepared.plan.memory_bytes);
            assert_eq!(planned.key_bytes() as u64, prepared.plan.key_bytes());
            assert_eq!(planned.keys, prepared.plan.keys);
            assert_eq!(planned.plan().steps, prepared.costs.steps);
        }
    }

    /// The route of the bundled demo, whose times docs/performance.md has.
    #[test]
    fn the_demo_runs_through_slots_and_the_plan_says_why() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
        let (config, calibration) = read(&folder).unwrap();
        let shape = Shape { public_tokens: 293, private_tokens: 79, max_new_tokens: 8 };
        let planned = Planned::new(&config, calibration.as_ref(), shape, None).unwrap();
        let object = planned.object(KeyMemory::HELD_MIB);
        assert_eq!((&object["route"]["taken"], &object["route"]["reason"]), (&"slots".into(), &"the only one".into()));
        let said = text(&object);
        assert!(
            said.contains("route        through slots, as it cannot run in turns: ") && said.contains("heads"),
            "{said}"
        );
        // Asked for, the reason is the answer.
        let refused = Planned::new(&config, calibration.as_ref(), shape, Some(Route::Turns)).err().unwrap();
        assert!(refused.to_string().contains("the padded width of all heads, in turns is 64"), "{refused}");
        // With heads as wide as turns want them, slots are still less work.
        let wide = LlamaConfig { head_dim: 64, ..config };
        let planned = Planned::new(&wide, calibration.as_ref(), shape, None).unwrap();
        let route = turns::route(&planned.choice, &planned.machine);
        assert_eq!(route["reason"], "less work", "{route}");
        let work = |object: &Value| object["work"].as_f64().unwrap();
        assert!(work(&route) < work(&route["other"]), "{route}");
        let line = turns::route_text(&route);
        assert!(line.contains(" s in all, against "), "{line}");
    }

    #[test]
    fn rounds_and_memory_are_those_that_a_run_reports() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
        let (config, calibration) = read(&folder).unwrap();
        let shape = Shape { public_tokens: 293, private_tokens: 79, max_new_tokens: 4 };
        let planned = Planned::new(&config, calibration.as_ref(), shape, Some(Route::Slots)).unwrap();
        // Hello and welcome, then one round per token.
        assert_eq!(planned.rounds(), 5);
        let object = planned.object(KeyMemory::HELD_MIB);
        let on_disk = |name: &str| object["keys_on_disk"][name].as_u64().unwrap();
        let [keys, _] = KeyMemory::Seeded.planned_bytes(&planned.keys);
        assert_eq!(on_disk("session_bytes") + on_disk("disk_bytes"), planned.session_bytes);
        assert!((keys - (KeyMemory::HELD_MIB << 20)..keys).contains(&on_disk("disk_bytes")));
        let bytes = |name: &str| object[name].as_u64().unwrap();
        assert_eq!(bytes("peak_rss_bytes"), bytes("session_bytes") + bytes("weight_bytes") + bytes("client_bytes"));
        assert!((630_000_000..700_000_000).contains(&bytes("client_bytes")), "{}", bytes("client_bytes"));
        // A client that compares holds the weights as well.
        let mut wider = config.clone();
        wider.vocab_size *= 64;
        let more = Planned::new(&wider, None, shape, Some(Route::Slots)).unwrap();
        assert!(more.client_bytes - planned.client_bytes >= more.weight_bytes - planned.weight_bytes);
    }
}
