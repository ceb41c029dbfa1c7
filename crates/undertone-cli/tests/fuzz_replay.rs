//! Replays the committed corpora through the bodies of the fuzz targets, and every input once truncated and once with
//! one bit flipped per region.

mod fuzz_targets;

use std::path::PathBuf;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("no corpus for {name}: {error}"));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

#[test]
fn corpora_are_replayed() {
    for (name, body) in fuzz_targets::TARGETS {
        let inputs = corpus(name);
        assert!(inputs.len() >= 3, "{name} has {} corpus files", inputs.len());
        let accepted = inputs.iter().filter(|input| body(input)).count();
        // An authenticated file with costs that a fuzzer can pay cannot be made through the public interface.
        assert!(accepted >= 1 || *name == "sealed", "{name}: no input decodes any more; write the seeds again");
        for input in &inputs {
            body(&input[..input.len() / 2]);
            body(&input[..input.len().saturating_sub(1)]);
            for region in 0..8 {
                let mut damaged = input.clone();
                if let Some(byte) = damaged.get_mut(input.len() * region / 8) {
                    *byte ^= 1 << region;
                }
                body(&damaged);
            }
        }
    }
}

#[test]
fn every_target_has_a_fuzzer() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for (name, _) in fuzz_targets::TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is missing from fuzz/Cargo.toml");
        assert!(folder.join(format!("fuzz_targets/{name}.rs")).is_file(), "{name} has no fuzz target file");
    }
}
