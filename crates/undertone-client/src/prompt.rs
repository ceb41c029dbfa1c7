//! The prompt as token ids, split into what the server reads and what it must not.
//!
//! The two parts are tokenized independently: a merge across the boundary would make a public token depend on private
//! text. The public part starts with BOS, which is the same for everybody, or with the prefix of the calibration.

use crate::{Error, LocalModel};
use undertone_infer::Preparation;
use undertone_model::{LlamaConfig, Tokenizer};
use undertone_protocol::message::{MAX_PRIVATE_TOKENS, WireShape};
use zeroize::Zeroizing;

/// Most private tokens of one prompt.
pub const PRIVATE_LIMIT: usize = MAX_PRIVATE_TOKENS as usize;

/// A prompt as token ids; the private ones are erased when dropped and never printed.
pub struct Prompt {
    /// BOS, or the whole prefix of the calibration, and the public part.
    pub public: Vec<u32>,
    /// The private part, filler included.
    pub private: Zeroizing<Vec<u32>>,
    /// Private tokens before filling up, if it was filled up.
    pub padded_from: Option<usize>,
}

impl Prompt {
    /// Tokenizes both parts, each on its own.
    ///
    /// # Errors
    /// `TokenizerMissing`, or text that the tokenizer refuses.
    pub fn tokenize(model: &LocalModel, public: &str, private: &str) -> Result<Self, Error> {
        let tokenizer = model.tokenizer.as_ref().ok_or(Error::TokenizerMissing)?;
        let prompt = Self::tokenize_with(tokenizer, public, private)?;
        Ok(prompt.prepare(&model.calibration.preparation, &model.config))
    }

    /// Puts the prefix of a calibration before the public part.
    pub fn prepare(mut self, preparation: &Preparation, config: &LlamaConfig) -> Self {
        self.public = preparation.public_tokens(&self.public, config);
        self
    }

    /// The same with a tokenizer alone, where there is no calibration.
    ///
    /// # Errors
    /// Text that the tokenizer refuses.
    pub fn tokenize_with(tokenizer: &Tokenizer, public: &str, private: &str) -> Result<Self, Error> {
        let private = Zeroizing::new(tokenizer.encode(private, false)?);
        Ok(Self { public: tokenizer.encode(public, true)?, private, padded_from: None })
    }

    /// Takes token ids; `public` starts with BOS, or with the prefix of the calibration.
    pub fn from_ids(public: Vec<u32>, private: Vec<u32>) -> Self {
        Self { public, private: Zeroizing::new(private), padded_from: None }
    }

    /// Fills the private part up to `len` tokens with line breaks before it, so that its length says less.
    ///
    /// The filler is part of the prompt that the model reads.
    ///
    /// # Errors
    /// `TooLong` when the private part is longer than `len`, `TokenizerMissing`.
    pub fn pad_private_to(mut self, len: usize, model: &LocalModel) -> Result<Self, Error> {
        let have = self.private.len();
        if have > len {
            return Err(Error::TooLong {
                what: "private part",
                have,
                need: len,
                remedy: "fill up to a larger number or shorten it",
            });
        }
        let filler = filler(model.tokenizer.as_ref().ok_or(Error::TokenizerMissing)?)?;
        let mut padded = Zeroizing::new(vec![filler; len - have]);
        padded.extend_from_slice(&self.private);
        self.private = padded;
        self.padded_from = Some(have);
        Ok(self)
    }

    /// Checks that prompt and continuation fit the model.
    ///
    /// # Errors
    /// `TooLong` when they do not.
    pub fn check_context(&self, max_new_tokens: usize, config: &LlamaConfig) -> Result<(), Error> {
        // The last generated token is never fed back, so it needs no position.
        let have = (self.public.len() + self.private.len()).saturating_add(max_new_tokens.saturating_sub(1));
        let need = config.max_position_embeddings;
        if have > need {
            return Err(Error::TooLong {
                what: "prompt with its continuation",
                have,
                need,
                remedy: "shorten the public part or ask for fewer new tokens",
            });
        }
        Ok(())
    }

    /// Checks all lengths and returns what the session will be opened for.
    ///
    /// # Errors
    /// `Empty` or `TooLong`.
    pub fn shape(&self, max_new_tokens: usize, config: &LlamaConfig) -> Result<WireShape, Error> {
        let (public, private) = (self.public.len(), self.private.len());
        if public == 0 {
            return Err(Error::Empty { what: "public part", remedy: "use a model with a beginning-of-sequence token" });
        }
        if private == 0 {
            return Err(Error::Empty { what: "private part", remedy: "give it with --private-file" });
        }
        if max_new_tokens == 0 {
            return Err(Error::Empty { what: "continuation", remedy: "ask for at least one new token" });
        }
        if private > PRIVATE_LIMIT {
            return Err(Error::TooLong {
                what: "private part",
                have: private,
                need: PRIVATE_LIMIT,
                remedy: "shorten it or move what is not secret to the public part",
            });
        }
        self.check_context(max_new_tokens, config)?;
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let shape = WireShape {
            public_tokens: number(public),
            private_tokens: number(private),
            max_new_tokens: number(max_new_tokens),
        };
        shape.check()?;
        Ok(shape)
    }
}

/// The last token of a line break: neutral, and one that every vocabulary has.
fn filler(tokenizer: &Tokenizer) -> Result<u32, Error> {
    let ids = tokenizer.encode("\n", false)?;
    ids.last().copied().ok_or(Error::Empty { what: "filler", remedy: "use a model whose vocabulary has a line break" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_is_checked_to_the_token() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
        let config = LlamaConfig { max_position_embeddings: 228, ..LlamaConfig::from_dir(&folder).unwrap() };
        let prompt = |public, private| Prompt::from_ids(vec![1; public], vec![2; private]);
        assert!(prompt(100, 128).check_context(1, &config).is_ok());
        assert!(prompt(100, 128).check_context(2, &config).is_err());
        assert!(prompt(1, 1).check_context(usize::MAX, &config).is_err());
        // The check of the whole shape is the same, and refuses more.
        assert!(prompt(100, 128).shape(1, &config).is_ok());
        assert!(prompt(100, 128).shape(2, &config).is_err());
        assert!(prompt(100, 129).shape(1, &config).is_err());
    }
}
