//! Model directories that lie: each has one fault and has to be refused with the error for that fault.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use undertone_model::safetensors_file::{HEADER_CAP, read_header};
use undertone_model::synthetic::small_config;
use undertone_model::weights::{parse_index, tensor_shapes};
use undertone_model::{Error, Llama, LlamaConfig, Matrix, fingerprint, load_client_half, synthetic};

/// A directory that is removed when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("undertone-model-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn with_model(model: &Llama) -> Self {
        let scratch = Self::new();
        model.save(&scratch.0).unwrap();
        scratch
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.join(name)).unwrap()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.0.join(name), bytes).unwrap();
    }

    fn refusal(&self) -> Error {
        let error = Llama::load(&self.0).unwrap_err();
        assert_eq!(fingerprint(&self.0).unwrap_err().to_string(), error.to_string());
        error
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A safetensors file from a header and data, without any check.
fn container(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(data);
    out
}

/// All tensors of a model in one file, in a number format given by its name, its width and its encoding.
fn encoded(model: &Llama, dtype: &str, encode: impl Fn(f32) -> Vec<u8>) -> (Value, Vec<u8>) {
    let (mut header, mut data) = (json!({}), Vec::new());
    let values = read_values(model);
    for (name, shape) in tensor_shapes(&model.config) {
        let start = data.len();
        data.extend(values[&name].iter().flat_map(|&value| encode(value)));
        header[name] = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
    }
    (header, data)
}

/// The values of every tensor, by way of a saved file.
fn read_values(model: &Llama) -> BTreeMap<String, Vec<f32>> {
    let scratch = Scratch::with_model(model);
    let file = scratch.read("model.safetensors");
    let entries = read_header("test", &file).unwrap();
    entries
        .into_iter()
        .map(|(name, entry)| {
            let bytes = &file[entry.bytes];
            (name, bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect())
        })
        .collect()
}

fn f32_bytes(value: f32) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

fn bf16_bytes(value: f32) -> Vec<u8> {
    ((value.to_bits() >> 16) as u16).to_le_bytes().to_vec()
}

#[test]
fn what_is_saved_is_loaded_with_the_same_fingerprint() {
    for tied in [false, true] {
        let model = synthetic(LlamaConfig { tie_word_embeddings: tied, ..small_config() }, 11);
        let scratch = Scratch::with_model(&model);
        let loaded = Llama::load(&scratch.0).unwrap();
        assert_eq!(loaded.config, model.config);
        assert!(loaded.layers == model.layers && loaded.embed == model.embed && loaded.head == model.head);
        assert_eq!(std::sync::Arc::ptr_eq(&loaded.embed, &loaded.head), tied);
        assert_eq!(fingerprint(&scratch.0).unwrap(), model.fingerprint());
        assert!(load_client_half(&scratch.0).unwrap().embed == model.embed);
    }
}

#[test]
fn number_formats_and_shards_do_not_change_the_model() {
    let model = synthetic(small_config(), 12);
    let scratch = Scratch::with_model(&model);
    let (header, data) = encoded(&model, "BF16", bf16_bytes);
    scratch.write("model.safetensors", container(&header, &data));
    let short = Llama::load(&scratch.0).unwrap();
    let print = fingerprint(&scratch.0).unwrap();
    assert_eq!(print, short.fingerprint());
    let rounded = |matrix: &Matrix| -> Vec<f32> {
        matrix.data.iter().map(|value| f32::from_bits(value.to_bits() & 0xffff_0000)).collect()
    };
    assert_eq!(short.layers[1].down.data, rounded(&model.layers[1].down));

    // The same numbers as f32 in two shards.
    let values = read_values(&short);
    let names: Vec<String> = values.keys().cloned().collect();
    std::fs::remove_file(scratch.0.join("model.safetensors")).unwrap();
    let shapes: BTreeMap<String, Vec<usize>> = tensor_shapes(&short.config).into_iter().collect();
    let mut map = json!({});
    for (shard, names) in [("a-1.safetensors", &names[..9]), ("a-2.safetensors", &names[9..])] {
        let (mut header, mut data) = (json!({}), Vec::new());
        for name in names {
            let start = data.len();
            data.extend(values[name].iter().flat_map(|&value| f32_bytes(value)));
            header[name] = json!({"dtype": "F32", "shape": shapes[name], "data_offsets": [start, data.len()]});
            map[name] = json!(shard);
        }
        scratch.write(shard, container(&header, &data));
    }
    let index = |map: &Value| json!({"metadata": {}, "weight_map": map}).to_string();
    scratch.write("model.safetensors.index.json", index(&map));
    assert_eq!(fingerprint(&scratch.0).unwrap(), print);
    assert!(Llama::load(&scratch.0).unwrap().layers == short.layers);

    // A tensor listed in the wrong shard, and a shard that is not there; the client needs its own shard only.
    let mut wrong = map.clone();
    wrong[&names[0]] = json!("a-2.safetensors");
    scratch.write("model.safetensors.index.json", index(&wrong));
    assert!(matches!(scratch.refusal(), Error::Malformed { .. }));
    scratch.write("model.safetensors.index.json", index(&map));
    let embedding_shard = map["model.embed_tokens.weight"].as_str().unwrap();
    let other = if embedding_shard == "a-1.safetensors" { "a-2.safetensors" } else { "a-1.safetensors" };
    std::fs::remove_file(scratch.0.join(other)).unwrap();
    assert!(matches!(scratch.refusal(), Error::Io { op: "open", .. }));
    assert!(load_client_half(&scratch.0).unwrap().embed == short.embed);
}

#[test]
fn every_truncation_is_refused() {
    let scratch = Scratch::with_model(&synthetic(small_config(), 13));
    let whole = scratch.read("model.safetensors");
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    // Every length around the header, then one in a hundred.
    for len in (0..header + 9).step_by(7).chain((header..whole.len()).step_by(997)).chain([whole.len() - 1]) {
        assert!(read_header("test", &whole[..len]).is_err(), "{len}");
    }
    scratch.write("model.safetensors", &whole[..whole.len() - 4]);
    assert!(matches!(scratch.refusal(), Error::Malformed { .. }));
    scratch.write("model.safetensors", b"");
    assert!(Llama::load(&scratch.0).is_err());
    let mut longer = whole.clone();
    longer.extend_from_slice(&[0; 4]);
    scratch.write("model.safetensors", &longer);
    assert!(matches!(scratch.refusal(), Error::Malformed { .. }));
}

#[test]
fn a_lying_header_length_is_refused_before_it_is_believed() {
    let scratch = Scratch::with_model(&synthetic(small_config(), 14));
    let mut file = scratch.read("model.safetensors");
    for length in [HEADER_CAP + 1, u64::MAX, u64::MAX - 7] {
        file[..8].copy_from_slice(&length.to_le_bytes());
        scratch.write("model.safetensors", &file);
        assert!(matches!(scratch.refusal(), Error::TooLarge { have, .. } if have == length));
    }
    for length in [0, 1, file.len() as u64, HEADER_CAP] {
        file[..8].copy_from_slice(&length.to_le_bytes());
        scratch.write("model.safetensors", &file);
        assert!(matches!(scratch.refusal(), Error::Malformed { .. }));
    }
}

#[test]
fn overlaps_gaps_and_overflows_are_refused() {
    let entry = |shape: Value, from: u64, to: u64| json!({"dtype": "F32", "shape": shape, "data_offsets": [from, to]});
    for (a, b, len) in [
        (entry(json!([4]), 0, 16), entry(json!([4]), 8, 24), 24),
        (entry(json!([4]), 0, 16), entry(json!([4]), 0, 16), 16),
        (entry(json!([4]), 0, 16), entry(json!([4]), 20, 36), 36),
        (entry(json!([4]), 16, 0), entry(json!([4]), 16, 32), 32),
        (entry(json!([4]), 0, 16), entry(json!([5]), 16, 32), 32),
        (entry(json!([4]), 0, 16), entry(json!([4]), 16, 32), 28),
        (entry(json!([1u64 << 62, 4]), 0, 0), entry(json!([4]), 0, 16), 16),
        (entry(json!([u64::MAX]), 0, u64::MAX), entry(json!([4]), 0, 16), 16),
    ] {
        let file = container(&json!({"a": a, "b": b}), &vec![0; len]);
        assert!(matches!(read_header("test", &file), Err(Error::Malformed { .. })), "{a} {b}");
    }
    let odd = container(&json!({"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}), &[0; 8]);
    assert!(matches!(read_header("test", &odd), Err(Error::Unsupported { .. })));
}

#[test]
fn tensors_that_contradict_the_configuration_are_refused() {
    let model = synthetic(small_config(), 15);
    let scratch = Scratch::with_model(&model);
    let (header, data) = encoded(&model, "F32", f32_bytes);
    let name = "model.layers.1.mlp.gate_proj.weight";
    let gate = |shape: Value| {
        let mut header = header.clone();
        header[name]["shape"] = shape;
        container(&header, &data)
    };
    // The same number of values, so that only the shape is wrong.
    for shape in [json!([24, 40]), json!([960]), json!([40, 24, 1])] {
        scratch.write("model.safetensors", gate(shape));
        assert!(matches!(scratch.refusal(), Error::TensorShape { tensor, .. } if tensor == name));
    }
    let mut renamed = header.clone();
    let entry = renamed.as_object_mut().unwrap().remove(name).unwrap();
    renamed["model.layers.1.mlp.other.weight"] = entry;
    scratch.write("model.safetensors", container(&renamed, &data));
    assert!(matches!(scratch.refusal(), Error::MissingTensor { tensor } if tensor == name));

    let mut extra = header.clone();
    let end = data.len();
    extra["model.layers.1.mlp.gate_proj.bias"] = json!({"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]});
    scratch.write("model.safetensors", container(&extra, &[data.as_slice(), &[0; 4]].concat()));
    assert!(matches!(scratch.refusal(), Error::UnexpectedTensor { .. }));

    // Tied by the configuration, but with a head of its own.
    let tied = LlamaConfig { tie_word_embeddings: true, ..small_config() };
    scratch.write("config.json", tied.to_json());
    scratch.write("model.safetensors", container(&header, &data));
    assert!(matches!(Llama::load(&scratch.0), Err(Error::UntiedHead)));
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    let model = synthetic(small_config(), 16);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut broken = model.clone();
        broken.layers[0].v.data[17] = bad;
        let scratch = Scratch::with_model(&broken);
        let error = scratch.refusal();
        assert!(matches!(&error, Error::NotFinite { tensor, index: 17 } if tensor.contains("v_proj")), "{error}");
    }
}

#[test]
fn shard_names_stay_in_the_directory() {
    for name in [
        "../a.safetensors",
        "/a.safetensors",
        "b/a.safetensors",
        "..\\a.safetensors",
        ".safetensors",
        "a.bin",
        "é.safetensors",
        "",
    ] {
        let index = json!({"weight_map": {"model.norm.weight": name}}).to_string();
        assert!(matches!(parse_index(index.as_bytes()), Err(Error::Malformed { .. })), "{name}");
    }
    assert!(parse_index(br#"{"weight_map": {"a": "model-00001-of-00002.safetensors"}}"#).is_ok());
    assert!(parse_index(b"{}").is_err());
}

#[test]
fn configurations_that_cannot_be_honoured_are_refused_before_the_weights_are_read() {
    let scratch = Scratch::with_model(&synthetic(small_config(), 17));
    let good: Value = serde_json::from_slice(&scratch.read("config.json")).unwrap();
    let with = |field: &str, new: Value| {
        let mut config = good.clone();
        config[field] = new;
        scratch.write("config.json", config.to_string());
        scratch.refusal()
    };
    assert!(matches!(with("rope_theta", Value::Null), Error::MissingRope));
    let unknown = with("rope_scaling", json!({"rope_type": "longrope", "factor": 2.0}));
    assert!(matches!(&unknown, Error::Unsupported { have, .. } if have.contains("longrope")), "{unknown}");
    assert!(matches!(with("hidden_size", json!(u64::MAX)), Error::OutOfRange { .. }));
    assert!(matches!(with("vocab_size", json!(1u64 << 40)), Error::OutOfRange { .. }));
    assert!(matches!(with("vocab_size", json!(-1)), Error::Malformed { .. }));
    assert!(matches!(with("vocab_size", json!(1 << 20)), Error::TensorShape { .. }));
    assert!(matches!(with("num_hidden_layers", json!(1000)), Error::MissingTensor { .. }));
    scratch.write("config.json", vec![b' '; (1 << 20) + 1]);
    assert!(matches!(scratch.refusal(), Error::TooLarge { .. }));
    std::fs::remove_file(scratch.0.join("config.json")).unwrap();
    assert!(matches!(scratch.refusal(), Error::Io { .. }));
}

#[test]
fn pickled_weights_are_refused_by_name() {
    let scratch = Scratch::with_model(&synthetic(small_config(), 18));
    std::fs::remove_file(scratch.0.join("model.safetensors")).unwrap();
    assert!(matches!(scratch.refusal(), Error::MissingWeights { hint: "", .. }));
    scratch.write("pytorch_model.bin", b"x");
    assert!(scratch.refusal().to_string().contains("pytorch_model.bin"));
}

/// Changes one to three bytes at places that a seed determines.
fn mutated(bytes: &[u8], seed: u64) -> Vec<u8> {
    let digest = blake3::hash(&seed.to_le_bytes());
    let mut out = bytes.to_vec();
    for choice in digest.as_bytes().chunks_exact(8).take(1 + seed as usize % 3) {
        let place = u32::from_le_bytes(choice[..4].try_into().unwrap()) as usize % out.len();
        match choice[4] % 4 {
            0 => out[place] = choice[5],
            1 => drop(out.remove(place)),
            2 => out.insert(place, b"0123456789-[]{}\",:"[choice[5] as usize % 18]),
            _ => out[place] ^= 1 << (choice[5] % 8),
        }
    }
    out
}

#[test]
fn mutated_files_are_refused_or_read_but_never_end_the_program() {
    let model = synthetic(LlamaConfig { num_hidden_layers: 1, ..small_config() }, 19);
    let scratch = Scratch::with_model(&model);
    let config = scratch.read("config.json");
    let weights = scratch.read("model.safetensors");
    let index = br#"{"metadata": {"total_size": 9}, "weight_map": {"a": "b.safetensors", "c": "d.safetensors"}}"#;
    let header = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let mut refused = [0; 3];
    for seed in 0..5000 {
        refused[0] += usize::from(LlamaConfig::from_json(&mutated(&config, seed), None).is_err());
        refused[1] += usize::from(parse_index(&mutated(index, seed)).is_err());
        // Only the header is mutated, since every bit pattern of the data is a number.
        let mut file = mutated(&weights[..header], seed);
        file.extend_from_slice(&weights[header..]);
        match read_header("test", &file) {
            Ok(entries) => {
                for (name, entry) in entries {
                    assert!(entry.bytes.end <= file.len(), "{name}");
                }
            }
            Err(_) => refused[2] += 1,
        }
    }
    assert!(refused.iter().all(|&count| count > 1000 && count < 5000), "{refused:?}");
}
