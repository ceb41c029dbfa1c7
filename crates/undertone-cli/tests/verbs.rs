//! Verbs that need no encryption, from the command line: output rules, JSON fields, exit codes.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny")
}

fn undertone(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_undertone")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// The one object on standard output; standard error holds objects only when it is piped.
fn object(arguments: &[&str]) -> Value {
    let output = undertone(arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    for line in String::from_utf8(output.stderr).unwrap().lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object()), "{line}");
    }
    serde_json::from_str(&text).unwrap()
}

fn has_fields(object: &Value, fields: &[&str]) {
    for field in fields {
        assert!(object.get(field).is_some(), "{field} is missing from {object}");
    }
}

#[test]
fn clear_continues_the_demo_prompt_and_writes_logits() {
    let model = model();
    let (public, private) = (model.join("prompts/demo.public.txt"), model.join("prompts/demo.private.txt"));
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("logits-{}.safetensors", std::process::id()));
    let object = object(&[
        "clear",
        "--model",
        model.to_str().unwrap(),
        "--public-file",
        public.to_str().unwrap(),
        "--private-file",
        private.to_str().unwrap(),
        "--max-new-tokens",
        "8",
        "--json",
        "--logits",
        path.to_str().unwrap(),
    ]);
    let ids = object["token_ids"].as_array().unwrap();
    assert!((4..=8).contains(&ids.len()) && object["text"].as_str().unwrap().contains("mg"), "{object}");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let logits = file.tensor("logits").unwrap();
    let [positions, vocabulary] = logits.shape()[..] else { panic!("{:?}", logits.shape()) };
    assert!(positions > 256 + 64 && vocabulary == 1024);
    // The last row is what the last token was chosen from.
    let rows: Vec<f32> = logits.data().chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let last = &rows[(positions - 1) * vocabulary..];
    let best = (0..vocabulary).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
    assert_eq!(best as u64, ids.last().unwrap().as_u64().unwrap());
}

#[test]
fn an_empty_prompt_means_bos_alone() {
    let model = model();
    let object =
        object(&["clear", "--model", model.to_str().unwrap(), "--prompt", "", "--max-new-tokens", "3", "--json"]);
    assert!((1..=3).contains(&object["token_ids"].as_array().unwrap().len()));
}

#[test]
fn a_synthetic_checkpoint_serves_the_other_verbs() {
    let tiny = model();
    for (name, like, vocab, tokenizer) in
        [("copied", tiny.to_str().unwrap(), "1024", "copied"), ("made", "llama-100m", "300", "bytes")]
    {
        let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("synth-{name}-{}", std::process::id()));
        let folder = out.to_str().unwrap();
        let made = [
            "model",
            "synth",
            "--like",
            like,
            "--layers",
            "1",
            "--vocab",
            vocab,
            "--outliers",
            "--out",
            folder,
            "--json",
        ];
        let said = object(&made);
        has_fields(&said, &["folder", "layers", "hidden_size", "vocab_size", "parameters", "weight_bytes", "seed"]);
        assert_eq!((said["tokenizer"].as_str(), said["layers"].as_u64()), (Some(tokenizer), Some(1)));
        let said = object(&["clear", "--model", folder, "--prompt", "A note.", "--max-new-tokens", "2", "--json"]);
        assert!((1..=2).contains(&said["token_ids"].as_array().unwrap().len()));
        assert_eq!(object(&["plan", "--model", folder, "--private", "8", "--json"])["estimate"], true);
        // What is there already is not touched.
        let again = Command::new(env!("CARGO_BIN_EXE_undertone")).args(made).output().unwrap();
        assert_eq!(again.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&again.stderr).contains("exists already"));
        std::fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn plan_states_security_cost_and_a_verdict() {
    let model = model();
    let object = object(&["plan", "--model", model.to_str().unwrap(), "--public", "256", "--private", "64", "--json"]);
    has_fields(
        &object,
        &[
            "parameters",
            "security_bits",
            "levels",
            "bootstraps",
            "key_switches",
            "key_bytes",
            "session_bytes",
            "keys_on_disk",
            "weight_bytes",
            "client_bytes",
            "peak_rss_bytes",
            "bytes_up",
            "bytes_down",
            "rounds",
            "prefill_seconds",
            "seconds_per_token",
            "derived_from",
            "expected_precision_bits",
            "verdict",
        ],
    );
    assert!(object["security_bits"].as_u64().unwrap() >= 128);
    assert!(object["failure_log2"].as_f64().unwrap() <= -128.0);
    assert_eq!(object["estimate"], false, "the bundled model is calibrated");
    assert_eq!(object["rounds"], 17, "the welcome and 16 tokens");
    // docs/numerics.md: 19.53 bits were measured.
    assert!(object["expected_precision_bits"].as_f64().unwrap() <= 19.53);
    assert!(object["bootstraps"].as_u64().unwrap() > 0 && object["key_bytes"].as_u64().unwrap() > 1 << 20);
}

#[test]
fn plan_reads_the_file_that_is_named() {
    let text = std::fs::read_to_string(model().join("config.json")).unwrap();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("plan-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.json"), &text).unwrap();
    std::fs::copy(model().join("undertone-calibration.json"), folder.join("undertone-calibration.json")).unwrap();
    let mut deeper: Value = serde_json::from_str(&text).unwrap();
    let layers = deeper["num_hidden_layers"].as_u64().unwrap();
    deeper["num_hidden_layers"] = (layers + 1).into();
    std::fs::write(folder.join("deeper.json"), deeper.to_string()).unwrap();
    let plan = |name: &str| object(&["plan", "--model", folder.join(name).to_str().unwrap(), "--json"]);
    let (shallow, deep) = (plan("config.json"), plan("deeper.json"));
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!((&shallow["estimate"], &deep["estimate"]), (&false.into(), &true.into()));
    assert!(deep["bootstraps"].as_u64().unwrap() > shallow["bootstraps"].as_u64().unwrap());
}

#[test]
fn plan_compares_modes() {
    let model = model();
    let output = undertone(&["plan", "--model", model.to_str().unwrap(), "--compare", "--json"]);
    let modes: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["mode"].clone())
        .collect();
    assert_eq!(modes, ["fhe", "permuted", "adapter"]);
}

#[test]
fn privacy_states_what_the_server_sees() {
    let object = object(&["privacy", "--json"]);
    let text = object["leakage"].to_string();
    for fact in ["public", "private tokens", "wrong results"] {
        assert!(text.contains(fact), "{fact}");
    }
}

#[test]
fn privacy_states_what_strict_evaluation_changes() {
    let said = |more: &[&str]| {
        let object = object(&[&["privacy", "--mode", "permuted", "--json"], more].concat());
        assert_eq!((&object["mode"], &object["strict"]), (&"permuted".into(), &(!more.is_empty()).into()));
        object["leakage"].to_string()
    };
    let (permuted, strict) = (said(&[]), said(&["--strict"]));
    assert!(permuted.contains("obfuscation") && !permuted.contains("weights leak only through the answers"));
    assert!(strict.contains("weights leak only through the answers") && !strict.contains("obfuscation"), "{strict}");
    // What the provider sees is the same.
    assert!([permuted, strict].iter().all(|text| text.contains("cannot read the text")));
    let help = String::from_utf8(undertone(&["privacy", "--help"]).stdout).unwrap();
    assert!(help.contains("undertone privacy --mode permuted --strict"), "{help}");
    for arguments in [&["privacy", "--strict"][..], &["privacy", "--mode", "fhe", "--strict"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_undertone")).args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && output.stdout.is_empty(), "{arguments:?}: {said}");
        assert!(said.lines().count() == 1 && said.contains("--strict") && said.contains("--mode permuted"), "{said}");
    }
}

#[test]
fn plan_of_mode_permuted_shows_strict_evaluation_beside_the_default() {
    let planned = object(&["plan", "--mode", "permuted", "--model", model().to_str().unwrap(), "--json"]);
    let strict = &planned["strict"];
    assert_eq!(strict["offered"], true);
    for field in ["rounds_per_pass", "bytes_per_pass", "offline_bytes_per_pass", "prefill_rounds", "prefill_bytes"] {
        assert!(strict[field].as_u64() > planned[field].as_u64(), "{field}: {planned}");
    }
    let help = String::from_utf8(undertone(&["plan", "--help"]).stdout).unwrap();
    assert!(help.contains("--strict"), "{help}");
}

#[test]
fn bench_ntt_prints_its_figures() {
    let object = object(&["bench", "ntt", "--runs", "5", "--json"]);
    has_fields(&object, &["name", "log_n", "limbs", "log_qp", "threads", "runs", "median_ms", "min_ms"]);
    assert_eq!(
        (object["name"].as_str(), object["log_n"].as_u64(), object["runs"].as_u64()),
        (Some("ntt"), Some(16), Some(5))
    );
    assert!(object["min_ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn every_verb_has_help_with_what_it_does() {
    for verb in ["demo", "run", "clear", "plan", "calibrate", "eval", "keys", "serve", "bench", "privacy"] {
        let text = String::from_utf8(undertone(&[verb, "--help"]).stdout).unwrap();
        assert!(text.contains("Examples:") && text.contains("--json"), "{verb}: {text}");
    }
}

#[test]
fn the_version_names_the_commit() {
    let text = String::from_utf8(undertone(&["--version"]).stdout).unwrap();
    let (version, commit) = text.trim_end().trim_end_matches(')').split_once(" (commit ").unwrap();
    assert_eq!(version, format!("undertone {}", env!("CARGO_PKG_VERSION")));
    let digits = commit.trim_end_matches("-dirty");
    let is_commit = digits.len() >= 12 && digits.chars().all(|c| c.is_ascii_hexdigit());
    assert!(is_commit || commit == "unknown", "{commit}");
}

#[test]
fn calibrate_reports_what_a_prefix_and_a_rotation_change_and_clear_reads_the_prefix() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("prepared-{}", std::process::id()));
    let out = folder.to_str().unwrap();
    // Heads are wide enough to tell distances apart over the whole of these prompts.
    let shape = folder.with_extension("json");
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 3,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64, "vocab_size": 300, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512, "rope_theta": 10000.0, "bos_token_id": 0, "eos_token_id": 1,
    });
    std::fs::write(&shape, config.to_string()).unwrap();
    // Of seeds 0 to 6 only 0 gives a layer whose range is too wide for any polynomial even with the prefix.
    object(&["model", "synth", "--like", shape.to_str().unwrap(), "--outliers", "--seed", "1", "--out", out, "--json"]);
    std::fs::remove_file(&shape).unwrap();
    let text = folder.join("prompts.jsonl");
    // In every other prompt the first full stop is a private one.
    let line = |i: usize| {
        let words: Vec<String> = (0..9).map(|j| format!("w{}", (i * 31 + j * 17) % 97)).collect();
        let (public, private) = (words[..4].join(" "), words[4..].join(" "));
        serde_json::json!({ "public": public + ["", "."][i % 2], "private": private + ". So", "answer": " it is" })
    };
    std::fs::write(&text, (0..32).map(|i| format!("{}\n", line(i))).collect::<String>()).unwrap();
    let text = text.to_str().unwrap();
    let flags = ["--search-prefix", "--rotate", "--rotation-seed", "5", "--report", "--json"];
    let said = object(&[&["calibrate", "--model", out, "--text", text], &flags[..]].concat());
    assert_eq!((said["held_out_escapes"].as_u64(), said["rotation_seed"].as_u64()), (Some(0), Some(5)));
    let prefix = said["prefix"].as_array().unwrap();
    assert!((2..=4).contains(&prefix.len()) && prefix[0] == 0, "{prefix:?}");
    let (before, after) = (&said["report"]["before"], &said["report"]["after"]);
    has_fields(&after["layers"][1], &["attention_mean_square", "scores", "silu_input", "o_out", "down_out", "degrees"]);
    let residual = |side: &Value| side["final_residual"].as_f64().unwrap();
    assert!(residual(after) < residual(before), "{said}");
    assert!(after["bootstraps"].as_u64().is_some() && after["refused"].is_null());
    // The text form shows the same.
    let shown =
        String::from_utf8(undertone(&[&["calibrate", "--model", out, "--text", text], &flags[..5]].concat()).stdout);
    let shown = shown.unwrap();
    assert!(shown.contains("before") && shown.contains("layer 1 SiLU input") && shown.contains("prefix"), "{shown}");
    // `clear` reads what `run` would send: the prefix and the prompt.
    let logits = folder.join("logits.safetensors");
    let path = logits.to_str().unwrap();
    object(&["clear", "--model", out, "--prompt", "", "--max-new-tokens", "1", "--logits", path, "--json"]);
    let bytes = std::fs::read(&logits).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("logits").unwrap().shape()[0], prefix.len());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn eval_of_mode_permuted_compares_with_the_clear_model_and_with_the_twin_and_goes_on() {
    let model = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
    let folder = std::env::temp_dir().join(format!("undertone-eval-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let out = folder.join("results.jsonl");
    let eval = |limit: &str| -> Value {
        let prompts = model.join("prompts/heldout.jsonl");
        let paths = [model.to_str().unwrap(), prompts.to_str().unwrap(), out.to_str().unwrap()];
        let flags = ["--model", paths[0], "--prompts", paths[1], "--out", paths[2], "--limit", limit, "--json"];
        serde_json::from_slice(&undertone(&[&["eval", "--mode", "permuted"], &flags[..]].concat()).stdout).unwrap()
    };
    let one = eval("1");
    assert_eq!((&one["prompts"], &one["escapes"]), (&1.into(), &0.into()));
    let (first, before) = (one["tokens"].as_u64().unwrap(), std::fs::read_to_string(&out).unwrap());
    let three = eval("3");
    assert!(std::fs::read_to_string(&out).unwrap().starts_with(&before) && first > 0);
    assert_eq!(
        (&three["prompts"], &three["top1_agreement"], &three["twin_agreement"]),
        (&3.into(), &1.0.into(), &1.0.into())
    );
    let kl = ["mean_kl", "max_kl"].map(|name| three[name].as_f64().unwrap());
    assert!(0.0 < kl[0] && kl[0] <= kl[1] && kl[1] < 1e-3, "{kl:?}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_demo_of_mode_permuted_agrees_with_its_twin() {
    // A build for tests says so on standard error, so only standard output is looked at.
    let demo = |flags: &[&str]| -> Value {
        let output = undertone(&[&["demo", "--mode", "permuted", "--json"], flags].concat());
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let plain = demo(&[]);
    has_fields(
        &plain,
        &[
            "mode",
            "tokens",
            "prefill_seconds",
            "bytes_up",
            "bytes_down",
            "peak_rss_bytes",
            "leakage",
            "rounds",
            "bytes_by_message",
            "offline_bytes",
            "offline_seconds",
            "profile",
        ],
    );
    let ids = |report: &Value| -> Vec<u64> {
        let tokens = report["tokens"].as_array().unwrap().iter();
        tokens
            .map(|token| {
                assert_eq!(token["id"], token["clear_id"]);
                token["id"].as_u64().unwrap()
            })
            .collect()
    };
    let drafted = demo(&["--draft", "4"]);
    assert!(ids(&plain).len() >= 4 && ids(&plain) == ids(&drafted));
    assert!(drafted["rounds"].as_u64() < plain["rounds"].as_u64());
    assert!(drafted["tokens_per_pass"].as_f64().unwrap() > 1.0);
}

#[test]
fn plan_of_mode_permuted_knows_rounds_and_bytes_of_the_published_models() {
    let plan =
        object(&["plan", "--mode", "permuted", "--model", "llama-2-7b", "--private", "119", "--public", "0", "--json"]);
    // 6 rounds for each of 32 layers and 3 for the token; the published count at 128 columns is 38.8 MB.
    assert_eq!(plan["rounds_per_pass"], 195);
    assert!((plan["published_bytes_per_token"].as_f64().unwrap() / 1e6 - 38.8).abs() < 0.1, "{plan}");
    assert!(plan["bytes_per_pass"].as_u64() < plan["published_bytes_per_token"].as_u64());
    assert_eq!(plan["networks"].as_array().unwrap().len(), 4);
    let metro = &plan["networks"][1];
    assert!(metro["network_seconds"].as_f64().unwrap() > 1.95, "{metro}");
}
