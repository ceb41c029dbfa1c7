//! The configuration of a Llama-family model, read from `config.json` and `generation_config.json`.
//!
//! Field names are those of `config.json`. What the forward pass cannot honour is refused by name: other
//! architectures, remote code, biases, quantized weights, other activations and unknown rotary embeddings. Both
//! layouts of the rotary embedding are read, `rope_theta` with `rope_scaling` and the `rope_parameters` of
//! transformers 5, and a configuration with neither is refused, because a wrong θ yields a model that looks alive.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Result, shown};
use crate::rope::{RopeKind, RopeScaling};
use crate::safetensors_file::{NumberFormat, read_capped};

/// Largest `config.json` and `generation_config.json` that is read, in bytes.
const FILE_CAP: u64 = 1 << 20;

/// Largest number of parameters that a configuration may imply: 2^40, four times the largest Llama.
const PARAMETER_CAP: u64 = 1 << 40;

/// The shape and the constants of a Llama-family model.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Width `D` of the residual stream.
    pub hidden_size: usize,
    /// Width `F` of the feed-forward network.
    pub intermediate_size: usize,
    /// Number of transformer layers.
    pub num_hidden_layers: usize,
    /// Query heads `H`.
    pub num_attention_heads: usize,
    /// Key and value heads `K`, a divisor of `H`.
    pub num_key_value_heads: usize,
    /// Width `d` of a head; `H d` need not equal `D`.
    pub head_dim: usize,
    /// Vocabulary size `V`.
    pub vocab_size: usize,
    /// Longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// The ε of every RMSNorm.
    pub rms_norm_eps: f64,
    /// The rotary embedding.
    pub rope: RopeScaling,
    /// Whether the output head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// The token that starts a sequence.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a sequence; may be empty.
    pub eos_token_ids: Vec<u32>,
}

impl LlamaConfig {
    /// Reads `config.json` and, where present, `generation_config.json` of a model directory.
    ///
    /// # Errors
    /// A missing, oversized or malformed file, and whatever [`LlamaConfig::from_json`] refuses.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let config = read_capped(&dir.join("config.json"), FILE_CAP)?;
        let generation_path = dir.join("generation_config.json");
        let generation = if generation_path.exists() { Some(read_capped(&generation_path, FILE_CAP)?) } else { None };
        Self::from_json(&config, generation.as_deref())
    }

    /// Parses the contents of `config.json` and of `generation_config.json`, which wins for bos and eos.
    ///
    /// # Errors
    /// Anything that is malformed, out of range, missing or not supported.
    pub fn from_json(config: &[u8], generation: Option<&[u8]>) -> Result<Self> {
        let raw: RawConfig = parse("config.json", config)?;
        let generation: RawGeneration = match generation {
            Some(bytes) => parse("generation_config.json", bytes)?,
            None => RawGeneration::default(),
        };
        raw.refuse_unsupported()?;
        let heads = required(raw.num_attention_heads, "num_attention_heads")?;
        let hidden = required(raw.hidden_size, "hidden_size")?;
        let head_dim = match raw.head_dim {
            Some(head_dim) => head_dim,
            None if heads > 0 && hidden % heads == 0 => hidden / heads,
            None => {
                return Err(Error::OutOfRange {
                    field: "hidden_size",
                    have: hidden.to_string(),
                    need: format!("a multiple of num_attention_heads = {heads} when head_dim is absent"),
                });
            }
        };
        let rope = raw.rope()?;
        let ids = |ids: Option<Ids>| ids.map(Ids::list).unwrap_or_default();
        let bos = generation.bos_token_id.or(raw.bos_token_id);
        let config = Self {
            hidden_size: dimension(hidden),
            intermediate_size: dimension(required(raw.intermediate_size, "intermediate_size")?),
            num_hidden_layers: dimension(required(raw.num_hidden_layers, "num_hidden_layers")?),
            num_attention_heads: dimension(heads),
            num_key_value_heads: dimension(raw.num_key_value_heads.unwrap_or(heads)),
            head_dim: dimension(head_dim),
            vocab_size: dimension(required(raw.vocab_size, "vocab_size")?),
            max_position_embeddings: dimension(required(raw.max_position_embeddings, "max_position_embeddings")?),
            rms_norm_eps: required(raw.rms_norm_eps, "rms_norm_eps")?,
            rope,
            tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(false),
            bos_token_id: ids(bos).first().copied(),
            eos_token_ids: ids(generation.eos_token_id.or(raw.eos_token_id)),
        };
        config.validate()?;
        Ok(config)
    }

    /// Checks every dimension against its cap and against the others.
    ///
    /// Every function that allocates from a configuration calls this first.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] with the field, its value and the condition.
    pub fn validate(&self) -> Result<()> {
        let caps = [
            ("hidden_size", self.hidden_size, 1 << 16),
            ("intermediate_size", self.intermediate_size, 1 << 18),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 10),
            ("num_attention_heads", self.num_attention_heads, 1 << 10),
            ("num_key_value_heads", self.num_key_value_heads, self.num_attention_heads),
            ("head_dim", self.head_dim, 1 << 10),
            ("vocab_size", self.vocab_size, 1 << 21),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 24),
        ];
        let refuse = |field, have: String, need: String| Err(Error::OutOfRange { field, have, need });
        for (field, have, cap) in caps {
            if have == 0 || have > cap {
                return refuse(field, have.to_string(), format!("from 1 to {cap}"));
            }
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let need = format!("a divisor of num_attention_heads = {}", self.num_attention_heads);
            return refuse("num_key_value_heads", self.num_key_value_heads.to_string(), need);
        }
        if !self.head_dim.is_multiple_of(2) {
            return refuse("head_dim", self.head_dim.to_string(), "even".to_owned());
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps <= 0.1) {
            return refuse("rms_norm_eps", self.rms_norm_eps.to_string(), "above 0 and at most 0.1".to_owned());
        }
        for (field, ids) in
            [("bos_token_id", self.bos_token_id.as_slice()), ("eos_token_id", self.eos_token_ids.as_slice())]
        {
            if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
                return refuse(field, id.to_string(), format!("below vocab_size = {}", self.vocab_size));
            }
        }
        self.rope.check()?;
        // The caps bound every product below 2^64: 2^10 layers of at most 4 · 2^16 · 2^20 + 3 · 2^16 · 2^18 weights.
        let parameters = self.parameter_count();
        if parameters > PARAMETER_CAP {
            return refuse("the number of parameters", parameters.to_string(), format!("at most {PARAMETER_CAP}"));
        }
        Ok(())
    }

    /// Number of weights, the tied head counted once.
    pub fn parameter_count(&self) -> u64 {
        let [d, f, layers, vocab] =
            [self.hidden_size, self.intermediate_size, self.num_hidden_layers, self.vocab_size].map(|n| n as u64);
        let (query, key) = (self.query_size() as u64, self.key_size() as u64);
        let layer = 2 * d * query + 2 * d * key + 3 * d * f + 2 * d;
        let matrices = if self.tie_word_embeddings { 1 } else { 2 };
        layers * layer + matrices * vocab * d + d
    }

    /// Width `H d` of the queries of one token.
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width `K d` of the keys, and of the values, of one token.
    pub fn key_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Query heads that share one key head.
    pub fn heads_per_key(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }

    /// Angular frequencies of the rotary embedding, in radians per position.
    ///
    /// # Shapes
    /// `[head_dim / 2]`
    pub fn inverse_frequencies(&self) -> Vec<f64> {
        self.rope.inverse_frequencies(self.head_dim)
    }

    /// The contents of a `config.json` that [`LlamaConfig::from_json`], transformers 4 and transformers 5 read.
    pub fn to_json(&self) -> String {
        self.to_json_as(NumberFormat::F32)
    }

    /// The same for weights that are stored in another number format.
    pub fn to_json_as(&self, format: NumberFormat) -> String {
        let stored = match format {
            NumberFormat::F32 => "float32",
            NumberFormat::F16 => "float16",
            NumberFormat::Bf16 => "bfloat16",
        };
        let rope_scaling = match self.rope.kind {
            RopeKind::Default => Value::Null,
            RopeKind::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            RopeKind::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
            }),
        };
        let eos = match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [id] => json!(id),
            ids => json!(ids),
        };
        let value = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope.theta,
            "rope_scaling": rope_scaling,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": false,
            "mlp_bias": false,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos,
            "torch_dtype": stored,
        });
        format!("{value:#}\n")
    }
}

#[derive(Deserialize)]
struct RawConfig {
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
    auto_map: Option<Value>,
    quantization_config: Option<Value>,
    hidden_act: Option<String>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    partial_rotary_factor: Option<f64>,
    hidden_size: Option<u64>,
    intermediate_size: Option<u64>,
    num_hidden_layers: Option<u64>,
    num_attention_heads: Option<u64>,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    vocab_size: Option<u64>,
    max_position_embeddings: Option<u64>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRope>,
    tie_word_embeddings: Option<bool>,
    bos_token_id: Option<Ids>,
    eos_token_id: Option<Ids>,
}

#[derive(Deserialize, Default)]
struct RawGeneration {
    bos_token_id: Option<Ids>,
    eos_token_id: Option<Ids>,
}

#[derive(Deserialize)]
struct RawRope {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    #[serde(rename = "type")]
    old_type: Option<String>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<u64>,
    partial_rotary_factor: Option<f64>,
}

/// One token id or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    fn list(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

impl RawConfig {
    fn refuse_unsupported(&self) -> Result<()> {
        if self.auto_map.is_some() {
            let have = "remote code";
            return Err(Error::unsupported("config.json auto_map", have, "models that need no code of their own"));
        }
        if self.quantization_config.is_some() {
            let need = "weights in f32, f16 or bf16";
            return Err(Error::unsupported("config.json quantization_config", "quantized weights", need));
        }
        match self.architectures.as_deref() {
            Some([one]) if one == "LlamaForCausalLM" => {}
            None | Some([]) if self.model_type.as_deref() == Some("llama") => {}
            other => {
                let have = other.map(|names| names.join(", ")).unwrap_or_else(|| "absent".to_owned());
                return Err(Error::unsupported("config.json architectures", &have, "LlamaForCausalLM"));
            }
        }
        if let Some(model_type) = self.model_type.as_deref().filter(|&name| name != "llama") {
            return Err(Error::unsupported("config.json model_type", model_type, "llama"));
        }
        if let Some(activation) = self.hidden_act.as_deref().filter(|&name| name != "silu") {
            return Err(Error::unsupported("config.json hidden_act", activation, "silu"));
        }
        for (field, value) in [("attention_bias", self.attention_bias), ("mlp_bias", self.mlp_bias)] {
            if value == Some(true) {
                return Err(Error::unsupported(format!("config.json {field}"), "true", "false"));
            }
        }
        Ok(())
    }

    /// The rotary embedding from either layout; where both are present they have to agree.
    fn rope(&self) -> Result<RopeScaling> {
        let (old, new) = (self.rope_scaling.as_ref(), self.rope_parameters.as_ref());
        let thetas = [self.rope_theta, new.and_then(|r| r.rope_theta), old.and_then(|r| r.rope_theta)];
        let mut stated = thetas.into_iter().flatten();
        let theta = stated.next().ok_or(Error::MissingRope)?;
        if stated.any(|other| other != theta) {
            return Err(Error::malformed("config.json", "it states two different values of rope_theta"));
        }
        let kinds = [old, new].map(|raw| raw.map(RawRope::kind).transpose());
        let kind = match kinds {
            [Err(error), _] | [_, Err(error)] => return Err(error),
            [Ok(Some(old)), Ok(Some(new))] if old != new => {
                return Err(Error::malformed("config.json", "rope_scaling and rope_parameters disagree"));
            }
            [Ok(old), Ok(new)] => new.or(old).unwrap_or(RopeKind::Default),
        };
        let partial = [self.partial_rotary_factor, old.and_then(|r| r.partial_rotary_factor)];
        let partial = partial.into_iter().chain([new.and_then(|r| r.partial_rotary_factor)]).flatten();
        if let Some(factor) = partial.into_iter().find(|&factor| factor != 1.0) {
            return Err(Error::unsupported("config.json partial_rotary_factor", &factor.to_string(), "1"));
        }
        Ok(RopeScaling { theta, kind })
    }
}

impl RawRope {
    fn kind(&self) -> Result<RopeKind> {
        let name = match (&self.rope_type, &self.old_type) {
            (Some(new), Some(old)) if new != old => {
                return Err(Error::malformed("config.json", "rope_type and type disagree"));
            }
            (Some(name), _) | (None, Some(name)) => name.as_str(),
            (None, None) if self.factor.is_none() => "default",
            (None, None) => return Err(missing("rope_type")),
        };
        let need = |value: Option<f64>, field| value.ok_or_else(|| missing(field));
        match name {
            "default" => Ok(RopeKind::Default),
            "linear" => Ok(RopeKind::Linear { factor: need(self.factor, "factor")? }),
            "llama3" => Ok(RopeKind::Llama3 {
                factor: need(self.factor, "factor")?,
                low_freq_factor: need(self.low_freq_factor, "low_freq_factor")?,
                high_freq_factor: need(self.high_freq_factor, "high_freq_factor")?,
                original_max_position_embeddings: dimension(
                    self.original_max_position_embeddings.ok_or_else(|| missing("original_max_position_embeddings"))?,
                ),
            }),
            other => Err(Error::unsupported("config.json rope_type", other, "default, linear and llama3")),
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(file: &str, bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::malformed(file, shown(&error.to_string())))
}

fn missing(field: &'static str) -> Error {
    Error::MissingField { file: "config.json".to_owned(), field }
}

fn required<T>(value: Option<T>, field: &'static str) -> Result<T> {
    value.ok_or_else(|| missing(field))
}

/// A dimension that [`LlamaConfig::validate`] will see; what does not fit is far above every cap.
fn dimension(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
