//! The weights of a Llama-family model, from `model.safetensors` or its shards, as f32.
//!
//! Matrices are stored as the files store them: row major `[out, in]`, applied as `y = x Wᵀ`. Every tensor that the
//! configuration implies has to be present with its exact shape, and no other tensor may be: a file for another
//! model is refused, not read in part. Shards are named by the index as plain file names; anything that could leave
//! the directory is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde::Deserialize;

use crate::config::LlamaConfig;
use crate::error::{Error, Result, shown};
use crate::safetensors_file::{NumberFormat, SafetensorsFile, read_capped};
use crate::safetensors_writer::{TensorHeader, write_safetensors};

/// Largest `model.safetensors.index.json` that is read, in bytes.
const INDEX_CAP: u64 = 64 << 20;

pub(crate) const EMBED: &str = "model.embed_tokens.weight";
pub(crate) const FINAL_NORM: &str = "model.norm.weight";
pub(crate) const HEAD: &str = "lm_head.weight";

/// A dense matrix.
///
/// # Shapes
/// `data` is `[rows, cols]`, row major; for a weight, `[out, in]`.
#[derive(Clone, PartialEq)]
pub struct Matrix {
    /// Number of rows: outputs of a layer, or tokens of an embedding.
    pub rows: usize,
    /// Number of columns: inputs of a layer.
    pub cols: usize,
    /// The values, row after row.
    pub data: Vec<f32>,
}

impl Matrix {
    /// A matrix from its values.
    ///
    /// # Errors
    /// A length of `data` other than `rows · cols`, or an empty matrix.
    pub fn new(rows: usize, cols: usize, data: Vec<f32>) -> Result<Self> {
        match rows.checked_mul(cols) {
            Some(need) if need == data.len() && need > 0 => Ok(Self { rows, cols, data }),
            need => {
                let need = need.unwrap_or(usize::MAX);
                Err(Error::Length { op: "Matrix::new", what: "values", have: data.len(), need })
            }
        }
    }

    /// Row `i`, `[cols]`.
    ///
    /// # Panics
    /// If `i` is not below `rows`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.cols..(i + 1) * self.cols]
    }
}

/// Weights stay out of logs: only the shape is shown.
impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Matrix[{}, {}]", self.rows, self.cols)
    }
}

/// The weights of one transformer layer.
#[derive(Clone, PartialEq)]
pub struct LayerWeights {
    /// Gain of the norm before attention, `[D]`.
    pub attention_norm: Vec<f32>,
    /// Query projection, `[H d, D]`.
    pub q: Matrix,
    /// Key projection, `[K d, D]`.
    pub k: Matrix,
    /// Value projection, `[K d, D]`.
    pub v: Matrix,
    /// Output projection of attention, `[D, H d]`.
    pub o: Matrix,
    /// Gain of the norm before the feed-forward network, `[D]`.
    pub mlp_norm: Vec<f32>,
    /// Gate projection, `[F, D]`.
    pub gate: Matrix,
    /// Up projection, `[F, D]`.
    pub up: Matrix,
    /// Down projection, `[D, F]`.
    pub down: Matrix,
}

/// A whole model in memory.
#[derive(Clone)]
pub struct Llama {
    /// Shape and constants.
    pub config: LlamaConfig,
    /// Token embedding, `[V, D]`.
    pub embed: Arc<Matrix>,
    /// The layers, first to last.
    pub layers: Vec<LayerWeights>,
    /// Gain of the norm before the head, `[D]`.
    pub final_norm: Vec<f32>,
    /// Output head, `[V, D]`; the same allocation as `embed` when tied.
    pub head: Arc<Matrix>,
}

/// What a client needs that leaves the layers to a server: the configuration and the embedding.
#[derive(Clone)]
pub struct ClientHalf {
    /// Shape and constants.
    pub config: LlamaConfig,
    /// Token embedding, `[V, D]`.
    pub embed: Arc<Matrix>,
}

impl std::fmt::Debug for Llama {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Llama").field("config", &self.config).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ClientHalf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientHalf").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Llama {
    /// Loads a Hugging Face model directory.
    ///
    /// # Errors
    /// A configuration or weights that are missing, damaged, not supported, or that contradict each other.
    pub fn load(dir: &Path) -> Result<Self> {
        let config = LlamaConfig::from_dir(dir)?;
        let files = WeightFiles::open(dir)?;
        files.check(&config)?;
        let embed = Arc::new(files.matrix(EMBED, config.vocab_size, config.hidden_size)?);
        let head = files.head(&config, &embed)?;
        let layers =
            (0..config.num_hidden_layers).map(|layer| files.layer(&config, layer)).collect::<Result<Vec<_>>>()?;
        let final_norm = files.read(FINAL_NORM, &[config.hidden_size])?;
        Ok(Self { config, embed, layers, final_norm, head })
    }

    /// Writes `config.json` and `model.safetensors` (f32) into `dir`, which is created if need be.
    ///
    /// # Errors
    /// A directory or a file that cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(|source| Error::io("write", dir, source))?;
        let config = dir.join("config.json");
        std::fs::write(&config, self.config.to_json()).map_err(|source| Error::io("write", &config, source))?;
        let tensors = self.tensors();
        let headers: Vec<TensorHeader> =
            tensors.iter().map(|(name, shape, _)| TensorHeader { name: name.clone(), shape: shape.clone() }).collect();
        let path = dir.join("model.safetensors");
        write_safetensors(&path, &headers.iter().collect::<Vec<_>>(), NumberFormat::F32, |index, first, out| {
            let start = first * headers[index].row_len();
            out.copy_from_slice(&tensors[index].2[start..start + out.len()]);
        })
    }

    /// Every tensor with its name and shape, in the canonical order of [`tensor_shapes`].
    pub(crate) fn tensors(&self) -> Vec<(String, Vec<usize>, &[f32])> {
        let mut values: Vec<&[f32]> = vec![&self.embed.data];
        for layer in &self.layers {
            values.extend([
                layer.attention_norm.as_slice(),
                &layer.q.data,
                &layer.k.data,
                &layer.v.data,
                &layer.o.data,
                &layer.mlp_norm,
                &layer.gate.data,
                &layer.up.data,
                &layer.down.data,
            ]);
        }
        values.push(&self.final_norm);
        if !self.config.tie_word_embeddings {
            values.push(&self.head.data);
        }
        tensor_shapes(&self.config).into_iter().zip(values).map(|((name, shape), v)| (name, shape, v)).collect()
    }
}

/// Loads the configuration and the embedding of a model directory that may hold nothing else.
///
/// Only the shard with the embedding is opened.
///
/// # Errors
/// A configuration or an embedding that is missing, damaged or not supported.
pub fn load_client_half(dir: &Path) -> Result<ClientHalf> {
    let config = LlamaConfig::from_dir(dir)?;
    let files = WeightFiles::open_only(dir, Some(EMBED))?;
    let embed = Arc::new(files.matrix(EMBED, config.vocab_size, config.hidden_size)?);
    Ok(ClientHalf { config, embed })
}

/// Names and shapes of all tensors that a configuration implies, in a canonical order: embedding, layers, final norm,
/// and the head when it is not tied.
pub fn tensor_shapes(config: &LlamaConfig) -> Vec<(String, Vec<usize>)> {
    let mut all = vec![(EMBED.to_owned(), vec![config.vocab_size, config.hidden_size])];
    for layer in 0..config.num_hidden_layers {
        all.extend(layer_shapes(config).into_iter().map(|(part, shape)| (layer_tensor(layer, part), shape)));
    }
    all.push((FINAL_NORM.to_owned(), vec![config.hidden_size]));
    if !config.tie_word_embeddings {
        all.push((HEAD.to_owned(), vec![config.vocab_size, config.hidden_size]));
    }
    all
}

fn layer_tensor(layer: usize, part: &str) -> String {
    format!("model.layers.{layer}.{part}.weight")
}

fn layer_shapes(config: &LlamaConfig) -> [(&'static str, Vec<usize>); 9] {
    let (hidden, wide) = (config.hidden_size, config.intermediate_size);
    let (query, key) = (config.query_size(), config.key_size());
    [
        ("input_layernorm", vec![hidden]),
        ("self_attn.q_proj", vec![query, hidden]),
        ("self_attn.k_proj", vec![key, hidden]),
        ("self_attn.v_proj", vec![key, hidden]),
        ("self_attn.o_proj", vec![hidden, query]),
        ("post_attention_layernorm", vec![hidden]),
        ("mlp.gate_proj", vec![wide, hidden]),
        ("mlp.up_proj", vec![wide, hidden]),
        ("mlp.down_proj", vec![hidden, wide]),
    ]
}

/// The opened weight files of a directory, with every tensor in exactly one of them.
pub(crate) struct WeightFiles {
    files: Vec<SafetensorsFile>,
    owner: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: BTreeMap<String, String>,
}

impl WeightFiles {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        Self::open_only(dir, None)
    }

    /// Opens all weight files, or, of a sharded model, only the one that holds the tensor `only`.
    fn open_only(dir: &Path, only: Option<&str>) -> Result<Self> {
        let single = dir.join("model.safetensors");
        let index_path = dir.join("model.safetensors.index.json");
        if single.exists() {
            let file = SafetensorsFile::open(&single)?;
            let owner = file.entries().keys().map(|name| (name.clone(), 0)).collect();
            return Ok(Self { files: vec![file], owner });
        }
        if !index_path.exists() {
            let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
            let hint = match pickled.iter().any(|name| dir.join(name).exists()) {
                true => ", only pickled pytorch_model.bin weights, which are refused because they can run code",
                false => "",
            };
            return Err(Error::MissingWeights { directory: dir.display().to_string(), hint });
        }
        let index = parse_index(&read_capped(&index_path, INDEX_CAP)?)?;
        let wanted = |tensor: &str| only.is_none_or(|name| name == tensor);
        let shards: BTreeSet<&str> =
            index.iter().filter(|(tensor, _)| wanted(tensor)).map(|(_, shard)| shard.as_str()).collect();
        let mut files = Vec::new();
        let mut owner = BTreeMap::new();
        for (number, shard) in shards.into_iter().enumerate() {
            let file = SafetensorsFile::open(&dir.join(shard))?;
            for tensor in file.entries().keys() {
                if index.get(tensor).map(String::as_str) != Some(shard) {
                    let reason = format!("{} holds {}, which it does not list there", shown(shard), shown(tensor));
                    return Err(Error::malformed("model.safetensors.index.json", reason));
                }
                owner.insert(tensor.clone(), number);
            }
            files.push(file);
        }
        match index.keys().find(|tensor| wanted(tensor) && !owner.contains_key(*tensor)) {
            Some(tensor) => Err(Error::MissingTensor { tensor: shown(tensor) }),
            None => Ok(Self { files, owner }),
        }
    }

    /// Checks that the tensors and their shapes are exactly those that the configuration implies.
    pub(crate) fn check(&self, config: &LlamaConfig) -> Result<()> {
        let mut unexpected: BTreeSet<&str> = self.owner.keys().map(String::as_str).collect();
        for (name, need) in tensor_shapes(config) {
            unexpected.remove(name.as_str());
            let entry = self.owner.get(&name).and_then(|&file| self.files[file].entries().get(&name));
            let entry = entry.ok_or_else(|| Error::MissingTensor { tensor: name.clone() })?;
            if entry.shape != need {
                let have = entry.shape.iter().take(8).copied().collect();
                return Err(Error::TensorShape { tensor: name, have, need });
            }
        }
        // Old conversions store the rotary frequencies, which follow from the configuration; tied models may store
        // the head again, which is compared when it is read.
        unexpected.retain(|name| !name.ends_with(".rotary_emb.inv_freq") && *name != HEAD);
        match unexpected.first() {
            Some(name) => Err(Error::UnexpectedTensor { tensor: shown(name) }),
            None => Ok(()),
        }
    }

    pub(crate) fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let owner = self.owner.get(name).ok_or_else(|| Error::MissingTensor { tensor: name.to_owned() })?;
        self.files[*owner].read_f32(name, shape)
    }

    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        Matrix::new(rows, cols, self.read(name, &[rows, cols])?)
    }

    fn head(&self, config: &LlamaConfig, embed: &Arc<Matrix>) -> Result<Arc<Matrix>> {
        let stored = self.owner.contains_key(HEAD);
        if config.tie_word_embeddings && !stored {
            return Ok(Arc::clone(embed));
        }
        let head = self.matrix(HEAD, config.vocab_size, config.hidden_size)?;
        if !config.tie_word_embeddings {
            return Ok(Arc::new(head));
        }
        if head.data.par_iter().zip(&embed.data).all(|(head, embed)| head == embed) {
            Ok(Arc::clone(embed))
        } else {
            Err(Error::UntiedHead)
        }
    }

    fn layer(&self, config: &LlamaConfig, layer: usize) -> Result<LayerWeights> {
        let shapes = layer_shapes(config);
        let vector = |part: usize| self.read(&layer_tensor(layer, shapes[part].0), &shapes[part].1);
        let matrix = |part: usize| {
            let (name, shape) = &shapes[part];
            self.matrix(&layer_tensor(layer, name), shape[0], shape[1])
        };
        Ok(LayerWeights {
            attention_norm: vector(0)?,
            q: matrix(1)?,
            k: matrix(2)?,
            v: matrix(3)?,
            o: matrix(4)?,
            mlp_norm: vector(5)?,
            gate: matrix(6)?,
            up: matrix(7)?,
            down: matrix(8)?,
        })
    }
}

/// Parses a `model.safetensors.index.json` into tensor → shard.
///
/// # Errors
/// Malformed JSON and shard names that are not plain names of safetensors files.
pub fn parse_index(bytes: &[u8]) -> Result<BTreeMap<String, String>> {
    let file = "model.safetensors.index.json";
    let index: RawIndex =
        serde_json::from_slice(bytes).map_err(|error| Error::malformed(file, shown(&error.to_string())))?;
    for shard in index.weight_map.values() {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let named = shard.ends_with(".safetensors") && shard.len() <= 255;
        if shard.starts_with('.') || !named || !shard.chars().all(plain) {
            let reason = format!("it names the shard {}, which is not a plain safetensors file name", shown(shard));
            return Err(Error::malformed(file, reason));
        }
    }
    Ok(index.weight_map)
}
