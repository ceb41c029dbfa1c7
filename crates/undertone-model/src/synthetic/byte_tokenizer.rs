//! A tokenizer of single bytes, for synthetic checkpoints whose shape comes without one.
//!
//! Byte-level BPE without merges, in the format of `tokenizer.json`: every text is representable, every byte is one
//! token. Special tokens keep the ids that the configuration gives them; the bytes take the lowest ids left.

use serde_json::{Map, Value, json};

use crate::config::LlamaConfig;
use crate::error::{Error, Result};

/// The contents of a `tokenizer.json` for a model of this configuration.
///
/// # Errors
/// A vocabulary without room for 256 bytes and the special tokens.
pub fn byte_tokenizer(config: &LlamaConfig) -> Result<String> {
    let bos = config.bos_token_id;
    let mut special: Vec<(u32, String)> = bos.map(|id| (id, "<s>".to_owned())).into_iter().collect();
    for (number, &id) in config.eos_token_ids.iter().enumerate().filter(|&(_, &id)| Some(id) != bos) {
        if special.iter().all(|&(taken, _)| taken != id) {
            let content = if number == 0 { "</s>".to_owned() } else { format!("</s{number}>") };
            special.push((id, content));
        }
    }
    special.sort();
    let need = 256 + special.len();
    if config.vocab_size < need {
        let need = format!("at least {need} for a tokenizer of bytes");
        return Err(Error::OutOfRange { field: "vocab_size", have: config.vocab_size.to_string(), need });
    }
    let free = (0..).filter(|id| special.iter().all(|(taken, _)| taken != id));
    let mut vocab: Map<String, Value> =
        (0..=255).zip(free).map(|(byte, id)| (symbol(byte).to_string(), json!(id))).collect();
    vocab.extend(special.iter().map(|(id, content)| (content.clone(), json!(id))));
    let added: Vec<Value> = special
        .iter()
        .map(|(id, content)| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            })
        })
        .collect();
    let level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    let file = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": level,
        "post_processor": null,
        "decoder": level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": [],
        },
    });
    Ok(format!("{file:#}\n"))
}

/// The printable character that stands for a byte in byte-level vocabularies: itself, or one from U+0100 on.
fn symbol(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let place = (0..byte).filter(|&earlier| !printable(earlier)).count() as u32;
    // 68 bytes are not printable, so that the last symbol is U+0143.
    char::from_u32(0x100 + place).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::small_config;
    use crate::tokenizer::Tokenizer;

    fn built(vocab_size: usize, bos: Option<u32>, eos: Vec<u32>) -> Result<Tokenizer> {
        let config = LlamaConfig { vocab_size, bos_token_id: bos, eos_token_ids: eos, ..small_config() };
        Tokenizer::from_json(byte_tokenizer(&config)?.as_bytes(), &config)
    }

    #[test]
    fn every_text_is_its_bytes_and_comes_back() {
        let tokenizer = built(32000, Some(1), vec![2]).unwrap();
        let text = "A note.\n\u{e9}\u{20ac}\u{1f600} <s> \t\0";
        let ids = tokenizer.encode(text, false).unwrap();
        // The special token is recognised, everything else is one id per byte.
        assert_eq!(ids.len(), text.len() - "<s>".len() + 1);
        assert_eq!(ids.iter().filter(|&&id| id == 1).count(), 1);
        assert_eq!(tokenizer.decode(&ids).unwrap(), text.replace("<s>", ""));
        let all: std::collections::BTreeSet<u32> = tokenizer.encode("\n. a", false).unwrap().into_iter().collect();
        assert_eq!(all.len(), 4);
    }

    #[test]
    fn special_tokens_keep_their_ids_and_small_vocabularies_are_refused() {
        let tokenizer = built(400, Some(390), vec![0, 391, 390]).unwrap();
        assert_eq!(tokenizer.encode("</s>", true).unwrap(), [390, 0]);
        assert!(built(258, Some(0), vec![1]).is_ok());
        assert!(built(257, Some(0), vec![1]).unwrap_err().to_string().contains("258"));
        assert!(built(256, None, vec![]).is_ok());
    }
}
