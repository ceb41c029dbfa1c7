//! Text to token ids and back, by the `tokenizer.json` of the model.
//!
//! The file is untrusted: it has a size cap and is checked, component by component, before it is used. Truncation,
//! padding and post-processing are dropped; the beginning-of-sequence token comes from the configuration.
//!
//! Each call of [`Tokenizer::encode`] stands alone: a merge across the border of a public and a private segment would
//! tell private bytes, so segments are encoded one by one and their ids are concatenated.

use std::path::Path;

use crate::config::LlamaConfig;
use crate::error::{Error, Result, shown};
use crate::safetensors_file::read_capped;
use crate::tokenizer_file;

/// Largest `tokenizer.json` that is read, in bytes; that of Llama 3 has 9 MiB.
const FILE_CAP: u64 = 64 << 20;

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
        let value = tokenizer_file::checked(bytes, config.vocab_size)?;
        let added = tokenizer_file::added_tokens(&value)?;
        let inner: tokenizers::Tokenizer = serde_json::from_value(value)
            .map_err(|error| Error::malformed("tokenizer.json", shown(&error.to_string())))?;
        // The library numbers added tokens itself and only logs it when the file says otherwise.
        if added.iter().any(|(content, id)| inner.token_to_id(content) != Some(*id)) {
            return Err(Error::malformed("tokenizer.json", "an added token has another id than its place implies"));
        }
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::synthetic::small_config;
    use crate::tokenizer_file::KNOWN_PATTERNS;

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
    fn the_layout_of_llama_2_is_read() {
        let value = json!({
            "version": "1.0",
            "added_tokens": [{"id": 0, "content": "<unk>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
            "pre_tokenizer": null,
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
                "vocab": {"<unk>": 0, "▁": 1, "a": 2, "b": 3, "ab": 4, "▁ab": 5, "<0xC3>": 6, "<0xA9>": 7},
                "merges": ["a b", "▁ ab"]}
        });
        let tokenizer = build(&value).unwrap();
        let ids = tokenizer.encode("ab abé", false).unwrap();
        assert_eq!(ids, [5, 5, 6, 7]);
        assert_eq!(tokenizer.decode(&ids).unwrap(), "ab abé");
        let mut stream = tokenizer.decode_stream();
        let pieces: Vec<String> = ids.into_iter().map(|id| stream.push(id).unwrap()).collect();
        assert_eq!(pieces, ["ab", " ab", "", "é"]);
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
        assert!(with("/model/vocab/ab", json!(1)).contains("share"));
        assert!(with("/model/merges/0", json!(["a", "bb"])).contains("merge"));
        assert!(with("/model/merges/0", json!("b a")).contains("merge"));
        assert!(with("/model/unk_token", json!("?")).contains("unk_token"));
        assert!(with("/model/continuing_subword_prefix", json!("##")).contains("##"));
        assert!(with("/added_tokens/0/id", json!(9)).contains("added token"));
        let strip = json!({"type": "Strip", "content": " ", "start": 0, "stop": 3});
        assert!(with("/decoder", strip).contains("stop"));
        let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        assert!(with("/normalizer", double).contains("one character"));
        let long = json!({"type": "Sequence", "normalizers": vec![json!({"type": "NFC"}); 16]});
        assert!(with("/normalizer", long).contains("16"));
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

    #[test]
    fn mutated_files_are_refused_or_usable() {
        let bytes = contents().to_string().into_bytes();
        let config = LlamaConfig { bos_token_id: Some(0), ..small_config() };
        let mut usable = 0;
        for seed in 0..3000u64 {
            let digest = blake3::hash(&seed.to_le_bytes());
            let [a, b, kind, value, ..] = *digest.as_bytes();
            let place = usize::from(u16::from_le_bytes([a, b])) % bytes.len();
            let mut changed = bytes.clone();
            match kind % 3 {
                0 => changed[place] = value & 127,
                1 => drop(changed.remove(place)),
                _ => changed.insert(place, b"0123456789-[]{}\",:"[usize::from(value) % 18]),
            }
            if let Ok(tokenizer) = Tokenizer::from_json(&changed, &config) {
                let ids = tokenizer.encode("ab é <s> 12\n ab", false).unwrap_or_default();
                assert!(ids.iter().all(|&id| (id as usize) < config.vocab_size));
                usable += usize::from(tokenizer.decode(&[0, 1, 7, 49, 5000]).is_ok());
            }
        }
        assert!(usable > 100 && usable < 3000, "{usable}");
    }
}
