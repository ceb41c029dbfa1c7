//! Bad input at the command line: one sentence on standard error, the right exit code, nothing written.

use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A scratch folder with a copy of the bundled model, removed at the end.
struct Scene {
    folder: PathBuf,
}

impl Scene {
    fn new(name: &str) -> Self {
        let folder =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("bad-input-{name}-{}", std::process::id()));
        let scene = Self { folder };
        std::fs::create_dir_all(scene.model()).unwrap();
        let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
        for file in [
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "undertone-calibration.json",
        ] {
            std::fs::copy(bundled.join(file), scene.model().join(file)).unwrap();
        }
        scene.write("public.txt", "A formulary.\n");
        scene.write("private.txt", "A note.");
        scene
    }

    fn model(&self) -> PathBuf {
        self.folder.join("model")
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.folder.join(name), content).unwrap();
    }

    /// Replaces text in a file of the model.
    fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.model().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} holds no {from:?}");
        std::fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Keeps only some tensors of the weights.
    fn keep_tensors(&self, kept: impl Fn(&str) -> bool) {
        let bytes = std::fs::read(self.model().join("model.safetensors")).unwrap();
        let mut tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
        let all = tensors.len();
        tensors.retain(|(name, _)| kept(name));
        assert!(!tensors.is_empty() && tensors.len() < all);
        self.write("model/model.safetensors", safetensors::serialize(tensors, None).unwrap());
    }

    /// Every file below the scene with its length and content hash.
    fn listing(&self) -> BTreeMap<PathBuf, blake3::Hash> {
        let mut listing = BTreeMap::new();
        let mut folders = vec![self.folder.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    listing.insert(path.clone(), blake3::hash(&std::fs::read(path).unwrap()));
                }
            }
        }
        listing
    }

    fn output(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_undertone"))
            .args(arguments)
            .current_dir(&self.folder)
            .env("XDG_CONFIG_HOME", self.folder.join("config-home"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs the program, which must fail with `code`, say one sentence with all `words`, and change no file.
    fn refuses(&self, arguments: &[&str], code: i32, words: &[&str]) {
        let before = self.listing();
        let output = self.output(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?} printed a result");
        let (notices, sentences): (Vec<&str>, Vec<&str>) =
            said.lines().filter(|line| !line.starts_with('{')).partition(|line| line.contains("test-only feature"));
        // `cargo test` builds the program with it, and verbs that talk to a server say so.
        let talks = ["demo", "run", "eval", "serve"].contains(&arguments[0]);
        assert_eq!(notices.len(), usize::from(talks), "{arguments:?}: {said}");
        assert!(notices.iter().all(|line| line.contains("cargo build --release")), "{said}");
        assert_eq!(sentences.len(), 1, "{arguments:?}: {said}");
        assert!(sentences[0].starts_with("undertone: "), "{said}");
        for word in words {
            assert!(sentences[0].contains(word), "{arguments:?}: {word:?} is not in {said}");
        }
        assert!(before == self.listing(), "{arguments:?} changed files");
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

const RUN: &[&str] = &["run", "--model", "model", "--public-file", "public.txt", "--private-file", "private.txt"];

fn run_with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    RUN.iter().chain(more).copied().collect()
}

#[test]
fn models_that_are_missing_or_damaged() {
    let scene = Scene::new("damaged");
    scene.refuses(&["clear", "--model", "nowhere", "--prompt", "x"], 1, &["nowhere", "config.json"]);
    let weights = std::fs::read(scene.model().join("model.safetensors")).unwrap();
    scene.write("model/model.safetensors", &weights[..weights.len() / 2]);
    scene.refuses(RUN, 1, &["model.safetensors"]);
    scene.refuses(&["clear", "--model", "model", "--prompt", "x"], 1, &["model.safetensors"]);
    // A header that claims more than the file holds.
    let mut lying = weights.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    scene.write("model/model.safetensors", &lying);
    scene.refuses(RUN, 1, &["model.safetensors"]);
    std::fs::remove_file(scene.model().join("model.safetensors")).unwrap();
    scene.refuses(RUN, 1, &["model"]);
}

#[test]
fn configurations_that_are_not_understood() {
    let scene = Scene::new("config");
    scene.edit("config.json", "\"rope_type\": \"default\"", "\"rope_type\": \"spiral\", \"factor\": 2.0");
    scene.refuses(RUN, 1, &["spiral"]);
    scene.refuses(&["plan", "--model", "model"], 1, &["spiral"]);
    scene.edit("config.json", "\"rope_parameters\"", "\"other_parameters\"");
    scene.refuses(RUN, 1, &["rope_theta"]);
    scene.refuses(&["calibrate", "--model", "model", "--text", "public.txt"], 1, &["rope_theta"]);
}

#[test]
fn prompts_that_do_not_fit() {
    let scene = Scene::new("prompts");
    scene.write("long.txt", "one two three ".repeat(100));
    let long_private = ["run", "--model", "model", "--public-file", "public.txt", "--private-file", "long.txt"];
    scene.refuses(&long_private, 1, &["private part", "128"]);
    scene.write("longer.txt", "one two three ".repeat(1000));
    let long_public = ["run", "--model", "model", "--public-file", "longer.txt", "--private-file", "private.txt"];
    scene.refuses(&long_public, 1, &["1024"]);
    scene.refuses(&run_with(&["--max-new-tokens", "100000"]), 1, &["1024"]);
    scene.refuses(&run_with(&["--max-new-tokens", "0"]), 1, &["continuation"]);
    scene.refuses(&["run", "--model", "model", "--public-file", "public.txt"], 1, &["private part", "empty"]);
    scene.refuses(&["run", "--model", "model", "--private-file", "absent.txt"], 1, &["absent.txt"]);
    scene.write("bytes.txt", [0xff, 0xfe, 0x00]);
    scene.refuses(&["run", "--model", "model", "--private-file", "bytes.txt"], 1, &["bytes.txt"]);
}

#[test]
fn calibrations_that_are_missing_or_foreign() {
    let scene = Scene::new("calibration");
    let path = scene.model().join("undertone-calibration.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["model_fingerprint"] = "ab".repeat(32).into();
    std::fs::write(&path, value.to_string()).unwrap();
    scene.refuses(RUN, 1, &["abab", "calibrate"]);
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    scene.refuses(RUN, 1, &["undertone-calibration.json"]);
    std::fs::remove_file(&path).unwrap();
    scene.refuses(RUN, 1, &["undertone calibrate"]);
    // Text too short to calibrate on: no calibration appears.
    scene.refuses(&["calibrate", "--model", "model", "--text", "private.txt"], 1, &["text"]);
    scene.refuses(&["calibrate", "--model", "model", "--text", "private.txt", "--margin", "0.5"], 1, &[]);
}

#[test]
fn weights_beside_a_running_server_are_checked_all_the_same() {
    let scene = Scene::new("elsewhere");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let run = run_with(&["--server", &address]);
    let weights = std::fs::read(scene.model().join("model.safetensors")).unwrap();
    // The calibration of another model.
    let path = scene.model().join("undertone-calibration.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["model_fingerprint"] = "ab".repeat(32).into();
    std::fs::write(&path, value.to_string()).unwrap();
    scene.refuses(&run, 1, &["abab", "calibrate"]);
    std::fs::write(&path, &text).unwrap();
    // A value that is no number, a file cut short, one whose header lies, and one that lacks a single tensor.
    let mut damaged = weights.clone();
    let last = damaged.len() - 4;
    damaged[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    scene.write("model/model.safetensors", &damaged);
    scene.refuses(&run, 1, &["not finite"]);
    scene.write("model/model.safetensors", &weights[..weights.len() / 2]);
    scene.refuses(&run, 1, &["model.safetensors"]);
    damaged[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    scene.write("model/model.safetensors", &damaged);
    scene.refuses(&run, 1, &["model.safetensors", "header"]);
    scene.write("model/model.safetensors", &weights);
    scene.keep_tensors(|name| name != "model.layers.0.mlp.up_proj.weight");
    scene.refuses(&run, 1, &["model.layers.0.mlp.up_proj.weight"]);
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "the server was called");
}

#[test]
fn the_embedding_alone_is_enough_beside_a_running_server() {
    let scene = Scene::new("half");
    let run = run_with(&["--server", "127.0.0.1:1"]);
    // All that is left to complain about is that nobody listens at port 1.
    scene.keep_tensors(|name| name == "model.embed_tokens.weight");
    scene.refuses(&run, 1, &["cannot connect to 127.0.0.1:1"]);
    scene.refuses(RUN, 1, &["model.layers.0"]);
    // The same as the first of two shards.
    let shard = |file: &str| scene.model().join(file);
    std::fs::rename(shard("model.safetensors"), shard("first.safetensors")).unwrap();
    let index = serde_json::json!({ "weight_map": {
        "model.embed_tokens.weight": "first.safetensors", "model.norm.weight": "second.safetensors",
    }});
    scene.write("model/model.safetensors.index.json", index.to_string());
    scene.refuses(&run, 1, &["cannot connect to 127.0.0.1:1"]);
    scene.refuses(RUN, 1, &["second.safetensors"]);
    std::fs::remove_file(shard("first.safetensors")).unwrap();
    scene.refuses(&run, 1, &["first.safetensors"]);
}

#[test]
fn servers_that_cannot_be_used() {
    let scene = Scene::new("servers");
    // Port 1 on this machine: nobody listens there.
    scene.refuses(&run_with(&["--server", "127.0.0.1:1"]), 1, &["127.0.0.1:1"]);
    scene.refuses(&run_with(&["--server", "192.0.2.1:7411"]), 1, &["loopback"]);
    scene.refuses(&run_with(&["--server", "nonsense"]), 2, &["HOST:PORT"]);
}

#[test]
fn a_missing_server_program_is_named_with_its_remedy() {
    let scene = Scene::new("alone");
    // A copy of the program in a folder of its own has no server beside it.
    let alone = scene.folder.join(format!("undertone{}", std::env::consts::EXE_SUFFIX));
    std::fs::copy(env!("CARGO_BIN_EXE_undertone"), &alone).unwrap();
    for arguments in [RUN, &["serve", "--model", "model"]] {
        let output = Command::new(&alone).args(arguments).current_dir(&scene.folder).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("--server") && said.contains("cargo build"), "{said}");
    }
}

#[test]
fn outputs_that_cannot_be_written() {
    let scene = Scene::new("outputs");
    let clear =
        ["clear", "--model", "model", "--prompt", "x", "--max-new-tokens", "1", "--logits", "absent/x.safetensors"];
    scene.refuses(&clear, 1, &["absent"]);
    scene.write("results.jsonl", "{\"evaluation\":\"of something else\"}\n");
    scene.write("prompts.jsonl", "{\"public\":\"a\",\"private\":\"b\",\"max_new_tokens\":1}\n");
    let eval = ["eval", "--model", "model", "--prompts", "prompts.jsonl", "--out", "results.jsonl"];
    scene.refuses(&eval, 2, &["results.jsonl"]);
    scene.refuses(&[&eval[..], &["--mode", "permuted"]].concat(), 2, &["results.jsonl"]);
    let elsewhere = ["--mode", "permuted", "--server", "127.0.0.1:1"];
    scene.refuses(&[&eval[..], &elsewhere].concat(), 2, &["--server"]);
    scene.refuses(&[&eval[..], &["--mode", "adapter"]].concat(), 2, &["--mode fhe"]);
    scene.write("prompts.jsonl", "not json\n");
    scene.refuses(&eval, 2, &["line 1"]);
}

#[test]
fn keys_that_do_not_exist_or_are_unnamed() {
    let scene = Scene::new("keys");
    std::fs::create_dir_all(scene.folder.join("config-home/undertone/keys")).unwrap();
    scene.refuses(&["keys", "show", "clinic"], 1, &["clinic"]);
    scene.refuses(&["keys", "show", "../clinic"], 1, &["letters"]);
    scene.refuses(&["keys", "new", "clinic"], 2, &["passphrase"]);
    // Standard input can be read once.
    let both = ["run", "--model", "model", "--key", "clinic", "--private-file", "-", "--passphrase-file", "-"];
    scene.refuses(&both, 2, &["--private-file -", "--passphrase-file -"]);
    let both = ["run", "--model", "model", "--key", "clinic", "--public-file", "-", "--passphrase-file", "-"];
    scene.refuses(&both, 2, &["--public-file -", "--passphrase-file -"]);
    scene.refuses(&["keys", "push", "clinic"], 1, &["clinic"]);
    let help = scene.output(&["keys", "push", "--help"]);
    assert!(String::from_utf8_lossy(&help.stdout).contains("nothing is sent or stored"));
}

#[test]
fn modes_that_are_not_offered_and_flags_that_do_not_exist() {
    let scene = Scene::new("usage");
    for verb in [run_with(&["--mode", "adapter"]), vec!["demo", "--mode", "adapter"]] {
        scene.refuses(&verb, 2, &["--mode fhe"]);
    }
    // Mode permuted needs two more parties, and its flags belong to it alone.
    scene.refuses(&run_with(&["--mode", "permuted"]), 2, &["--server", "undertone deal"]);
    scene.refuses(&run_with(&["--mode", "permuted", "--server", "127.0.0.1:1"]), 2, &["--dealer"]);
    scene.refuses(&run_with(&["--draft", "2"]), 2, &["--mode permuted"]);
    scene.refuses(&["demo", "--mode", "permuted", "--draft", "33"], 2, &["at most 32"]);
    scene.refuses(&["serve", "--mode", "permuted", "--model", "model"], 2, &["--dealer-ticket"]);
    scene.refuses(&["deal", "--state", "dealer", "--piece", "0"], 2, &["--piece is 0"]);
    // Usage errors of the parser itself have its own form, and the same exit code.
    for arguments in [&["run"][..], &["run", "--no-such-flag"], &["no-such-verb"]] {
        assert_eq!(scene.output(arguments).status.code(), Some(2), "{arguments:?}");
    }
}
