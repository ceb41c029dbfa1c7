//! The reference forward pass against logits and greedy continuations of transformers in f32.
//!
//! Each directory under `tests/golden` holds a small model and `expected.safetensors` with `input_ids` `[T]` i64,
//! `logits` `[T, V]` f32, `greedy_ids` `[64]` i64 and `greedy_margin` `[64]` f32, the gap between the two largest
//! logits at each step.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use undertone_model::reference::forward_last;
use undertone_model::sampling::greedy;
use undertone_model::{KvCache, Llama, forward};

const TOLERANCE: f32 = 1e-4;

fn directories() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let mut found: Vec<PathBuf> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.join("expected.safetensors").exists()).collect();
    found.sort();
    found
}

struct Expected {
    input_ids: Vec<u32>,
    logits: Vec<f32>,
    greedy_ids: Vec<u32>,
    greedy_margin: Vec<f32>,
}

impl Expected {
    fn read(dir: &Path) -> Self {
        let bytes = std::fs::read(dir.join("expected.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let ids = |name: &str| -> Vec<u32> {
            let data = file.tensor(name).unwrap().data().to_vec();
            data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()).try_into().unwrap()).collect()
        };
        let numbers = |name: &str| -> Vec<f32> {
            let data = file.tensor(name).unwrap().data().to_vec();
            data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        };
        Self {
            input_ids: ids("input_ids"),
            logits: numbers("logits"),
            greedy_ids: ids("greedy_ids"),
            greedy_margin: numbers("greedy_margin"),
        }
    }
}

#[test]
fn the_set_is_complete() {
    let found = directories().len();
    assert!(found >= 8, "{found} golden directories");
}

#[test]
fn logits_and_greedy_continuations_are_those_of_transformers() {
    for dir in directories() {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let model = Llama::load(&dir).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = Expected::read(&dir);
        let mut cache = KvCache::new(&model.config);
        let logits = forward(&model, &mut cache, &expected.input_ids).unwrap();
        assert_eq!(logits.len() * model.config.vocab_size, expected.logits.len(), "{name}");
        let differences = logits.iter().flatten().zip(&expected.logits).map(|(a, b)| (a - b).abs());
        let worst = differences.fold(0.0, f32::max);
        assert!(worst < TOLERANCE, "{name}: logits differ by {worst}");

        assert_eq!((expected.greedy_ids.len(), expected.greedy_margin.len()), (64, 64), "{name}");
        let mut last = logits.last().unwrap().clone();
        let mut agreed = 0;
        for (&id, &margin) in expected.greedy_ids.iter().zip(&expected.greedy_margin) {
            let own = greedy(&last).unwrap();
            if own != id {
                // Two differences of `worst` can close a gap of twice that; beyond it a disagreement is an error, and
                // within it the two sequences part and are not comparable any more.
                assert!(margin <= 2.0 * worst, "{name}: step {agreed} has margin {margin}");
                break;
            }
            agreed += 1;
            last = forward_last(&model, &mut cache, &[id]).unwrap();
        }
        println!("{name}: largest difference {worst:.2e}, {agreed} of 64 greedy tokens agree");
        assert!(agreed > 0, "{name}");
    }
}
