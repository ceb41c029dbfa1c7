//! Replays the committed corpora through the bodies of the fuzz targets, and every input once truncated and once with
//! one bit flipped per region.

mod fuzz_targets;

use std::path::PathBuf;

/// Names and bytes of the inputs of a target.
fn files(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("no corpus for {name}: {error}"));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let file = |path: PathBuf| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap());
    paths.into_iter().map(file).collect()
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    files(name).into_iter().map(|(_, bytes)| bytes).collect()
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
fn seeds_of_mode_permuted_are_accepted_for_both_evaluations() {
    let both = [
        ("bundles", &["seed-user-0", "seed-strict-user", "seed-strict-provider"][..]),
        ("flights", &["seed-token"]),
        ("messages", &["seed-deal_request-open", "seed-hello-strict", "seed-flight_begin-turn"]),
        ("strict_flights", &["seed-prompt", "seed-token", "seed-drafted"]),
    ];
    for (target, names) in both {
        let (_, body) = fuzz_targets::TARGETS.iter().find(|(name, _)| *name == target).unwrap();
        let seeds: Vec<_> = files(target).into_iter().filter(|(name, _)| name.starts_with("seed-")).collect();
        for name in names {
            assert!(seeds.iter().any(|(seed, _)| seed == name), "{target} has no {name}; write the seeds again");
        }
        for (name, bytes) in seeds {
            // What goes one beyond a bound says so in its name.
            let refused = name.contains("beyond");
            assert_eq!(body(&bytes), !refused, "{target}/{name}: refused or not, write the seeds again");
        }
    }
    // A byte of the header says for which evaluation a bundle is.
    let header = |bytes: &[u8]| bytes[1 + 6];
    let evaluation = |name: &str| {
        let all = files("bundles");
        header(&all.iter().find(|(file, _)| file == name).unwrap().1)
    };
    assert_eq!(
        [evaluation("seed-user-0"), evaluation("seed-strict-user"), evaluation("seed-strict-provider")],
        [0, 1, 1]
    );
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
