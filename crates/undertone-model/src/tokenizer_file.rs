//! What is accepted in a `tokenizer.json`, checked before the tokenizer library sees it.
//!
//! The library is built for files that its own trainer wrote: on others it can stop the program (merges that are not
//! in the vocabulary, strips longer than a token), run for exponential time (regular expressions) or answer
//! differently from run to run (two tokens with one id). So only the components that Llama-family models use are
//! accepted, each with its parameters bounded, and the vocabulary and the merges are checked against each other.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::error::{Error, Result, shown};

/// Pre-tokenizer patterns that are accepted, each with the first model family to use it.
pub(crate) const KNOWN_PATTERNS: [(&str, &str); 7] = [
    ("GPT-2", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
    ("GPT-2 (shortened)", r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
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

/// A section of the file with the components that it may hold.
struct Section {
    name: &'static str,
    /// The field of a `Sequence` that holds its parts.
    parts: &'static str,
    allowed: &'static [&'static str],
}

const SECTIONS: [Section; 3] = [
    Section {
        name: "pre_tokenizer",
        parts: "pretokenizers",
        allowed: &["ByteLevel", "Digits", "Metaspace", "Sequence", "Split"],
    },
    Section {
        name: "normalizer",
        parts: "normalizers",
        allowed: &["NFC", "NFD", "NFKC", "NFKD", "Prepend", "Replace", "Sequence"],
    },
    Section {
        name: "decoder",
        parts: "decoders",
        allowed: &["ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Sequence", "Strip"],
    },
];

/// Most components in one section; Llama 2 has four.
const COMPONENT_CAP: usize = 16;

/// Parses and checks a `tokenizer.json` and removes what would change a prompt silently.
///
/// # Errors
/// Anything that is malformed or not known.
pub(crate) fn checked(bytes: &[u8], vocab_size: usize) -> Result<Value> {
    let mut value: Value = serde_json::from_slice(bytes).map_err(|error| malformed(shown(&error.to_string())))?;
    let root = value.as_object_mut().ok_or_else(|| malformed("it is not an object"))?;
    for section in &SECTIONS {
        if let Some(component) = root.get(section.name).filter(|component| !component.is_null()) {
            let mut left = COMPONENT_CAP;
            section.check(component, &mut left)?;
        }
    }
    let model = root.get("model").and_then(Value::as_object).ok_or_else(|| malformed("it lacks a model"))?;
    check_model(model, vocab_size)?;
    // The caller decides on length, padding and the beginning-of-sequence token.
    for dropped in ["truncation", "padding", "post_processor"] {
        root.remove(dropped);
    }
    Ok(value)
}

/// The contents and ids of the added tokens.
pub(crate) fn added_tokens(root: &Value) -> Result<Vec<(String, u32)>> {
    let Some(tokens) = root.get("added_tokens").filter(|tokens| !tokens.is_null()) else { return Ok(Vec::new()) };
    let tokens = tokens.as_array().ok_or_else(|| malformed("added_tokens is not a list"))?;
    tokens
        .iter()
        .map(|token| {
            let content = token.get("content").and_then(Value::as_str).filter(|content| !content.is_empty());
            let id = token.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
            match (content, id) {
                (Some(content), Some(id)) => Ok((content.to_owned(), id)),
                _ => Err(malformed("an added token lacks its content or its id")),
            }
        })
        .collect()
}

fn malformed(reason: impl Into<String>) -> Error {
    Error::malformed("tokenizer.json", reason)
}

impl Section {
    /// Accepts known components only; the nesting is bounded by the JSON parser.
    fn check(&self, component: &Value, left: &mut usize) -> Result<()> {
        let refuse = |what: &str, have: &Value, need: &str| {
            let have = have.as_str().map_or_else(|| have.to_string(), str::to_owned);
            Err(Error::unsupported(format!("tokenizer.json {} {what}", self.name), &have, need))
        };
        *left = left.checked_sub(1).ok_or_else(|| {
            Error::unsupported(format!("tokenizer.json {}", self.name), "a long sequence", "at most 16 components")
        })?;
        let kind = component.get("type").unwrap_or(&Value::Null);
        let Some(name) = kind.as_str().filter(|name| self.allowed.contains(name)) else {
            return refuse("type", kind, &self.allowed.join(", "));
        };
        if name == "Sequence" {
            let parts = component.get(self.parts).and_then(Value::as_array);
            let parts = parts.ok_or_else(|| malformed(format!("a Sequence lacks {}", self.parts)))?;
            return parts.iter().try_for_each(|part| self.check(part, left));
        }
        // Longer replacements could multiply the length of a text with every component.
        for field in ["content", "prepend"] {
            if let Some(text) = component.get(field)
                && text.as_str().is_none_or(|text| text.chars().nth(1).is_some())
            {
                return refuse(field, text, "at most one character");
            }
        }
        // The library reads past the start of a token that is shorter than what is to be stripped from its end.
        if let Some(stop) = component.get("stop").filter(|stop| stop.as_u64() != Some(0)) {
            return refuse("stop", stop, "0");
        }
        component.get("pattern").map_or(Ok(()), |pattern| self.check_pattern(pattern))
    }

    fn check_pattern(&self, pattern: &Value) -> Result<()> {
        let field = || format!("tokenizer.json {} pattern", self.name);
        let entries = pattern.as_object().filter(|entries| entries.len() == 1);
        match entries.and_then(|entries| entries.iter().next()) {
            Some((kind, Value::String(text))) if kind == "String" && !text.is_empty() => Ok(()),
            Some((kind, Value::String(regex))) if kind == "Regex" => {
                if KNOWN_PATTERNS.iter().any(|(_, known)| known == regex) {
                    return Ok(());
                }
                let names: Vec<&str> = KNOWN_PATTERNS.iter().map(|(name, _)| *name).collect();
                Err(Error::unsupported(field(), regex, format!("the patterns {}", names.join(", "))))
            }
            _ => Err(Error::unsupported(field(), "neither", "a string or a known regular expression")),
        }
    }
}

fn check_model(model: &Map<String, Value>, vocab_size: usize) -> Result<()> {
    let refuse = |field: &str, have: &Value, need: &str| {
        let have = have.as_str().map_or_else(|| have.to_string(), str::to_owned);
        Err(Error::unsupported(format!("tokenizer.json model {field}"), &have, need))
    };
    let kind = model.get("type").unwrap_or(&Value::Null);
    if kind.as_str() != Some("BPE") {
        return refuse("type", kind, "BPE");
    }
    let given = |field: &str| model.get(field).filter(|value| !value.is_null());
    if let Some(dropout) = given("dropout").filter(|dropout| dropout.as_f64() != Some(0.0)) {
        return refuse("dropout", dropout, "none, since it tokenizes at random");
    }
    for field in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if let Some(affix) = given(field).filter(|affix| affix.as_str() != Some("")) {
            return refuse(field, affix, "none");
        }
    }
    let vocab = model.get("vocab").and_then(Value::as_object).ok_or_else(|| malformed("its model lacks a vocab"))?;
    let mut ids = HashSet::with_capacity(vocab.len());
    for id in vocab.values() {
        let id = id.as_u64().ok_or_else(|| malformed("a token of its vocab lacks an id"))?;
        let have = usize::try_from(id).unwrap_or(usize::MAX);
        if have >= vocab_size {
            return Err(Error::Vocabulary { have, need: vocab_size });
        }
        if !ids.insert(id) {
            return Err(malformed("two tokens of its vocab share one id"));
        }
    }
    if let Some(unknown) = given("unk_token").filter(|token| !token.as_str().is_some_and(|t| vocab.contains_key(t))) {
        return refuse("unk_token", unknown, "a token of the vocab");
    }
    let merges = model.get("merges").and_then(Value::as_array).ok_or_else(|| malformed("its model lacks merges"))?;
    merges.iter().try_for_each(|merge| check_merge(merge, vocab))
}

/// A merge joins two tokens into a third, and all three have to be in the vocabulary.
fn check_merge(merge: &Value, vocab: &Map<String, Value>) -> Result<()> {
    let pair = match merge {
        Value::Array(pair) => match pair.as_slice() {
            [Value::String(left), Value::String(right)] => Some((left.as_str(), right.as_str())),
            _ => None,
        },
        Value::String(line) => line.split_once(' '),
        _ => None,
    };
    let (left, right) = pair.ok_or_else(|| malformed("a merge is not a pair of tokens"))?;
    let known = |token: &str| !token.is_empty() && vocab.contains_key(token);
    if known(left) && known(right) && known(&format!("{left}{right}")) {
        Ok(())
    } else {
        Err(malformed("a merge names a token that is not in the vocab"))
    }
}
