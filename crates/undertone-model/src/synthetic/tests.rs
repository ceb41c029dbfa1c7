//! What synthetic weights promise: determinism, the statistics that their names say, and checkpoints that load.

use std::path::PathBuf;

use super::*;
use crate::fingerprint::fingerprint;
use crate::reference::{Block, ForwardOptions, KvCache, Observer, Site, SiteShape, forward_observed};
use crate::safetensors_file::NumberFormat;

const BOS: u32 = 1;
const DELIMITER: u32 = 7;

fn outlier_config() -> LlamaConfig {
    LlamaConfig {
        hidden_size: 256,
        intermediate_size: 512,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        vocab_size: 300,
        ..small_config()
    }
}

fn with_outliers(config: LlamaConfig) -> Synthetic {
    Synthetic::new(config, 5, &Statistics::Outliers { delimiters: vec![DELIMITER] }).unwrap()
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("undertone-synthetic-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_seed_determines_the_model() {
    let one = synthetic(small_config(), 1);
    assert_eq!(one.fingerprint(), synthetic(small_config(), 1).fingerprint());
    assert_ne!(one.fingerprint(), synthetic(small_config(), 2).fingerprint());
    assert_ne!(with_outliers(outlier_config()).model().fingerprint(), synthetic(outlier_config(), 5).fingerprint());
}

#[test]
fn a_checkpoint_holds_the_model_rounded_whatever_its_shards() {
    for (name, shard_bytes, tied) in [("one", SHARD_BYTES, false), ("many", 60_000, false), ("tied", 60_000, true)] {
        let synthetic = with_outliers(LlamaConfig { tie_word_embeddings: tied, ..outlier_config() });
        let scratch = Scratch::new(name);
        let mut last = 0;
        synthetic
            .write_checkpoint(&scratch.0, shard_bytes, &mut |_, done| {
                assert!(done > last);
                last = done;
            })
            .unwrap();
        assert_eq!(last, synthetic.checkpoint_bytes());
        let loaded = Llama::load(&scratch.0).unwrap();
        assert_eq!(&loaded.config, synthetic.config());
        for ((_, _, made), (tensor, _, read)) in synthetic.model().tensors().into_iter().zip(loaded.tensors()) {
            let rounded = made.iter().map(|&x| half::bf16::from_f32(x).to_f32());
            assert!(rounded.eq(read.iter().copied()), "{tensor:?}");
        }
        assert_eq!(fingerprint(&scratch.0).unwrap(), loaded.fingerprint());
        let files = std::fs::read_dir(&scratch.0).unwrap().count();
        assert!(if shard_bytes == SHARD_BYTES { files == 2 } else { files > 4 }, "{files}");
        let text = std::fs::read_to_string(scratch.0.join("config.json")).unwrap();
        assert_eq!(text, synthetic.config().to_json_as(NumberFormat::Bf16));
    }
}

/// Mean squares by layer and position at the attention norms, and the least weight of position 0 per layer.
struct Seen {
    squares: Vec<Vec<f32>>,
    sink: Vec<Vec<f32>>,
}

impl Observer for Seen {
    fn record(&mut self, layer: usize, site: Site, values: &[f32], shape: SiteShape) {
        if site == Site::MeanSquare && shape.block == Block::Attention {
            self.squares[layer].extend_from_slice(values);
        }
        if site == Site::Scores {
            let sum: f32 = values.iter().map(|score| (score - values[0]).exp()).sum();
            self.sink[layer].push(1.0 / sum);
        }
    }
}

fn observed(tokens: &[u32]) -> Seen {
    let model = with_outliers(outlier_config()).model();
    let mut seen = Seen { squares: vec![Vec::new(); 4], sink: vec![Vec::new(); 4] };
    let mut cache = KvCache::new(&model.config);
    forward_observed(&model, &mut cache, tokens, ForwardOptions::default(), &mut seen).unwrap();
    seen
}

#[test]
fn bos_and_the_first_delimiter_become_massive_and_the_later_ones_do_not() {
    let mut tokens: Vec<u32> = (0..60).map(|i| 10 + (i * 37) % 280).collect();
    tokens[0] = BOS;
    let places = [9, 20, 40];
    places.into_iter().for_each(|place| tokens[place] = DELIMITER);
    let seen = observed(&tokens);
    let massive = |squares: &[f32]| -> Vec<usize> { (0..60).filter(|&i| squares[i] > 100.0).collect() };
    // Layer 1 writes the massive channels, so that the layers from 2 on see them.
    assert!(massive(&seen.squares[1]).is_empty());
    for layer in 2..4 {
        assert_eq!(massive(&seen.squares[layer]), [0, places[0]], "layer {layer}");
        let usual = seen.squares[layer].iter().copied().filter(|&square| square < 100.0).fold(0.0, f32::max);
        assert!(usual < 1.0, "{usual}");
    }
}

#[test]
fn ordinary_rows_attend_to_the_massive_one_behind_it_only() {
    let mut tokens: Vec<u32> = (0..60).map(|i| 10 + (i * 37) % 280).collect();
    tokens[0] = BOS;
    let seen = observed(&tokens);
    let mean = |layer: usize| seen.sink[layer].iter().sum::<f32>() / seen.sink[layer].len() as f32;
    assert!(mean(0) < 0.3 && mean(1) < 0.3, "{} {}", mean(0), mean(1));
    assert!(mean(2) > 0.8 && mean(3) > 0.8, "{} {}", mean(2), mean(3));
}

#[test]
fn shapes_without_room_for_outliers_are_refused() {
    let refused = |config: LlamaConfig, delimiters: Vec<u32>| {
        Synthetic::new(config, 1, &Statistics::Outliers { delimiters }).unwrap_err().to_string()
    };
    assert!(refused(LlamaConfig { bos_token_id: None, ..small_config() }, vec![]).contains("bos_token_id"));
    assert!(refused(LlamaConfig { hidden_size: 15, ..small_config() }, vec![]).contains("16"));
    assert!(refused(LlamaConfig { head_dim: 2, ..small_config() }, vec![]).contains("head_dim"));
    assert!(refused(small_config(), vec![50]).contains("vocabulary"));
    assert!(Synthetic::new(LlamaConfig { num_hidden_layers: 0, ..small_config() }, 1, &Statistics::Even).is_err());
}
