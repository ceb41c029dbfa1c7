//! Text to token ids and back, by the `tokenizer.json` of the model.
//!
//! The file is untrusted: it has a size cap, only known components are accepted, and a regular expression has to be
//! one of the pre-tokenizer patterns in common use, because an arbitrary one can take exponential time. Truncation,
//! padding and post-processing are dropped, since they would change a prompt silently; dropout is refused, since it
//! would tokenize at random. The beginning-of-sequence token comes from the configuration.
//!
//! Each call of [`Tokenizer::encode`] stands alone: a merge across the border of a public and a private segment would
//! tell private bytes, so segments are encoded one by one and their ids are concatenated.

use std::path::Path;

use serde_json::Value;

use crate::config::LlamaConfig;
use crate::error::{Error, Result, shown};
use crate::safetensors_file::read_capped;

/// Largest `tokenizer.json` that is read, in bytes; that of Llama 3 has 9 MiB.
const FILE_CAP: u64 = 64 << 20;

/// Pre-tokenizer patterns that are accepted, each with the first model family to use it.
const KNOWN_PATTERNS: [(&str, &str); 7] = [
    ("GPT-2", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
    ("GPT-2, shortened", r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
    (
        "Llama 3",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "Qwen 2",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    ("one digit", r"\p{N}"),
    ("up to three digits", r"\p{N}{1,3}"),
    ("line breaks", r"[\r\n]"),
];

const PRE_TOKENIZERS: &[&str] = &["ByteLevel", "Digits", "Metaspace", "Sequence", "Split"];
const NORMALIZERS: &[&str] = &["NFC", "NFD", "NFKC", "NFKD", "Prepend", "Replace", "Sequence", "Strip"];
const DECODERS: &[&str] = &["ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Sequence", "Strip"];

/// A tokenizer that was checked against the vocabulary of its model.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    vocab_size: usize,
}

/// Vocabularies are long, so only their size is shown.
impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer[{}]", self.vocab_size)
    }
}

impl Tokenizer {
    /// Reads the `tokenizer.json` of a model directory.
    ///
    /// # Errors
    /// A missing or oversized file, and whatever [`Tokenizer::from_json`] refuses.
    pub fn load(dir: &Path, config: &LlamaConfig) -> Result<Self> {
        Self::from_json(&read_capped(&dir.join("tokenizer.json"), FILE_CAP)?, config)
    }

    /// Builds a tokenizer from the contents of a `tokenizer.json`.
    ///
    /// # Errors
    /// Malformed contents, components and patterns that are not known, ids outside the vocabulary of the model.
    pub fn from_json(bytes: &[u8], config: &LlamaConfig) -> Result<Self> {
        let malformed = |reason: &str| Error::malformed("tokenizer.json", reason);
        let mut value: Value = serde_json::from_slice(bytes).map_err(|error| malformed(&shown(&error.to_string())))?;
        let root = value.as_object_mut().ok_or_else(|| malformed("it is not an object"))?;
        for (section, list, allowed) in [
            ("pre_tokenizer", "pretokenizers", PRE_TOKENIZERS),
            ("normalizer", "normalizers", NORMALIZERS),
            ("decoder", "decoders", DECODERS),
        ] {
            if let Some(component) = root.get(section).filter(|component| !component.is_null()) {
                check_component(section, list, allowed, component)?;
            }
        }
        check_model(root.get("model").unwrap_or(&Value::Null))?;
        for dropped in ["truncation", "padding", "post_processor"] {
            root.remove(dropped);
        }
        let inner: tokenizers::Tokenizer =
            serde_json::from_value(value).map_err(|error| malformed(&shown(&error.to_string())))?;
        let largest = inner.get_vocab(true).into_values().max().unwrap_or(0) as usize;
        if largest >= config.vocab_size {
            return Err(Error::Vocabulary { have: largest, need: config.vocab_size });
        }
        Ok(Self { inner, bos: config.bos_token_id, vocab_size: config.vocab_size })
    }

    /// Token ids of one segment of text, after the beginning-of-sequence token if asked for.
    ///
    /// # Errors
    /// [`Error::MissingBos`] if the model has no such token; a text that the tokenizer cannot represent.
    pub fn encode(&self, text: &str, add_bos: bool) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        if add_bos {
            ids.push(self.bos.ok_or(Error::MissingBos)?);
        }
        if !text.is_empty() {
            let encoding = self.inner.encode_fast(text, false).map_err(|_| Error::Tokenize { op: "encode" })?;
            ids.extend_from_slice(encoding.get_ids());
        }
        Ok(ids)
    }

    /// Text of token ids, without special tokens; ids that the tokenizer does not know are left out.
    ///
    /// # Errors
    /// Ids that do not decode together.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(|_| Error::Tokenize { op: "decode" })
    }

    /// The beginning-of-sequence token of the model.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Decodes one token after another, for output while it is generated.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream { tokenizer: self, ids: Vec::new(), shown: 0, text: String::new() }
    }
}

/// Turns a growing sequence of tokens into a growing text.
///
/// A character may be spread over several tokens and a token may decode differently at the start of a text, so a few
/// tokens before the new one are decoded with it and the difference is returned.
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The tokens of the previous piece of text, then those not shown yet.
    ids: Vec<u32>,
    /// How many of `ids` are shown.
    shown: usize,
    /// The text of the shown `ids`.
    text: String,
}

impl DecodeStream<'_> {
    /// Appends a token and returns the text that is now certain, which may be empty.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids)?;
        // The replacement character at the end stands for a character whose last bytes are still to come.
        if text.ends_with('\u{FFFD}') || text.len() <= self.text.len() {
            return Ok(String::new());
        }
        let piece = text.get(self.text.len()..).unwrap_or_default().to_owned();
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
        self.text = self.tokenizer.decode(&self.ids)?;
        Ok(piece)
    }

    /// Returns what is left, with a replacement character for an unfinished character.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(self) -> Result<String> {
        let text = self.tokenizer.decode(&self.ids)?;
        Ok(text.get(self.text.len()..).unwrap_or_default().to_owned())
    }
}

/// Accepts known components only; the nesting is bounded by the JSON parser.
fn check_component(section: &str, list: &str, allowed: &[&str], component: &Value) -> Result<()> {
    let kind = component.get("type").and_then(Value::as_str).unwrap_or("absent");
    if !allowed.contains(&kind) {
        return Err(Error::unsupported(format!("tokenizer.json {section} type"), kind, allowed.join(", ")));
    }
    if kind == "Sequence" {
        let parts = component.get(list).and_then(Value::as_array);
        let parts = parts.ok_or_else(|| Error::malformed("tokenizer.json", format!("a Sequence lacks {list}")))?;
        return parts.iter().try_for_each(|part| check_component(section, list, allowed, part));
    }
    match component.get("pattern") {
        None | Some(Value::String(_)) => Ok(()),
        Some(pattern) => check_pattern(section, pattern),
    }
}

fn check_pattern(section: &str, pattern: &Value) -> Result<()> {
    let field = || format!("tokenizer.json {section} pattern");
    let entries = pattern.as_object().filter(|entries| entries.len() == 1);
    match entries.and_then(|entries| entries.iter().next()) {
        Some((kind, Value::String(_))) if kind == "String" => Ok(()),
        Some((kind, Value::String(regex))) if kind == "Regex" => {
            if KNOWN_PATTERNS.iter().any(|(_, known)| known == regex) {
                return Ok(());
            }
            let names: Vec<&str> = KNOWN_PATTERNS.iter().map(|(name, _)| *name).collect();
            Err(Error::unsupported(field(), regex, format!("the patterns of {}", names.join(", "))))
        }
        _ => Err(Error::unsupported(field(), "neither a string nor a regular expression", "one of the two")),
    }
}

fn check_model(model: &Value) -> Result<()> {
    let kind = model.get("type").and_then(Value::as_str).unwrap_or("absent");
    if !["BPE", "Unigram"].contains(&kind) {
        return Err(Error::unsupported("tokenizer.json model type", kind, "BPE and Unigram"));
    }
    match model.get("dropout") {
        None | Some(Value::Null) => Ok(()),
        Some(dropout) if dropout.as_f64() == Some(0.0) => Ok(()),
        Some(dropout) => Err(Error::unsupported("tokenizer.json model dropout", &dropout.to_string(), "none")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::synthetic::small_config;

    /// A byte-level tokenizer of a few letters; é is the two bytes that the alphabet writes as Ã and ©.
    fn contents() -> Value {
        json!({
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0},
            "padding": null,
            "added_tokens": [
                {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                 "normalized": false, "special": true}
            ],
            "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": KNOWN_PATTERNS[2].1}, "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}
            ]},
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": {"<s>": 0, "a": 1, "b": 2, "Ġ": 3, "Ã": 4, "©": 5, "ab": 6, "Ġab": 7},
                "merges": [["a", "b"], ["Ġ", "ab"]]}
        })
    }

    fn build(value: &Value) -> Result<Tokenizer> {
        let config = LlamaConfig { bos_token_id: Some(0), ..small_config() };
        Tokenizer::from_json(value.to_string().as_bytes(), &config)
    }

    #[test]
    fn text_survives_a_round_trip_and_truncation_is_dropped() {
        let tokenizer = build(&contents()).unwrap();
        let ids = tokenizer.encode("ab ab é", false).unwrap();
        assert_eq!(ids, [6, 7, 3, 4, 5]);
        assert_eq!(tokenizer.decode(&ids).unwrap(), "ab ab é");
        assert_eq!(tokenizer.encode("ab", true).unwrap(), [0, 6]);
        assert_eq!(tokenizer.encode("", true).unwrap(), [0]);
        assert_eq!(tokenizer.decode(&[0, 6]).unwrap(), "ab");
    }

    #[test]
    fn a_stream_holds_back_unfinished_characters() {
        let tokenizer = build(&contents()).unwrap();
        let mut stream = tokenizer.decode_stream();
        let pieces: Vec<String> = [6, 7, 3, 4, 5, 1].into_iter().map(|id| stream.push(id).unwrap()).collect();
        assert_eq!(pieces, ["ab", " ab", " ", "", "é", "a"]);
        assert_eq!(stream.push(4).unwrap(), "");
        assert_eq!(stream.finish().unwrap(), "\u{FFFD}");
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        let with = |pointer: &str, new: Value| {
            let mut value = contents();
            *value.pointer_mut(pointer).unwrap() = new;
            build(&value).unwrap_err().to_string()
        };
        let regex = with("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("(a+)+$"));
        assert!(regex.contains("(a+)+$"), "{regex}");
        let replace = json!({"type": "Sequence", "normalizers": [
            {"type": "Replace", "pattern": {"Regex": "(x*)*"}, "content": ""}]});
        assert!(with("/normalizer", replace).contains("(x*)*"));
        assert!(
            with("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": ""})).contains("Precompiled")
        );
        assert!(with("/model/type", json!("WordPiece")).contains("WordPiece"));
        assert!(with("/model/dropout", json!(0.1)).contains("dropout"));
        assert!(with("/model/vocab/ab", json!(50)).contains("50"));
        assert!(with("/decoder", json!({"pattern": {"Regex": "x"}, "content": ""})).contains("decoder"));
        assert!(build(&json!([])).is_err());
        assert!(build(&json!({"version": "1.0"})).is_err());
    }

    #[test]
    fn a_model_without_bos_says_so() {
        let config = LlamaConfig { bos_token_id: None, ..small_config() };
        let tokenizer = Tokenizer::from_json(contents().to_string().as_bytes(), &config).unwrap();
        assert!(matches!(tokenizer.encode("a", true), Err(Error::MissingBos)));
        assert_eq!(tokenizer.encode("a", false).unwrap(), [1]);
    }
}
