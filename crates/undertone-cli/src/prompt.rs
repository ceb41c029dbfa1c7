//! The flags that describe a prompt, and the token ids they lead to.
//!
//! The public part starts with BOS; the private part is tokenized on its own, so that no merge across the boundary
//! makes a public token depend on private text.

use crate::error::{Error, Result};
use clap::Args;
use std::io::Read;
use std::path::{Path, PathBuf};
use undertone_model::sampling::{Sampler, SamplingParameters};
use undertone_model::tokenizer::Tokenizer;

/// Longest prompt file, in bytes; any context that fits the supported models is far shorter.
const FILE_LIMIT: u64 = 16 << 20;

/// Where the prompt comes from and how it is continued.
#[derive(Debug, Clone, Args)]
pub struct PromptArguments {
    /// File with the public part of the prompt, which the server reads
    #[arg(long, value_name = "FILE")]
    pub public_file: Option<PathBuf>,

    /// File with the private part, or - for standard input
    #[arg(long, value_name = "FILE|-", conflicts_with = "private")]
    pub private_file: Option<PathBuf>,

    /// The private part itself; other users of this machine can see arguments, so prefer --private-file
    #[arg(long, value_name = "TEXT")]
    pub private: Option<String>,

    /// Most tokens to generate
    #[arg(long, value_name = "K", default_value_t = 16)]
    pub max_new_tokens: usize,

    #[command(flatten)]
    pub sampling: SamplingArguments,
}

/// How the next token is chosen; greedy unless a temperature is given.
#[derive(Debug, Clone, Args)]
pub struct SamplingArguments {
    /// Divisor of the logits; 0 means the most likely token
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub temperature: f64,

    /// Draw from the K most likely tokens
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,

    /// Draw from the most likely tokens that hold this probability together
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub top_p: f64,

    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

impl SamplingArguments {
    /// The sampler these flags describe.
    ///
    /// # Errors
    /// Values out of range.
    pub fn sampler(&self) -> Result<Sampler> {
        let parameters = SamplingParameters { temperature: self.temperature, top_k: self.top_k, top_p: self.top_p };
        Ok(Sampler::new(parameters, self.seed)?)
    }
}

/// A prompt as text.
pub struct PromptText {
    /// What the server reads.
    pub public: String,
    /// What it must not read.
    pub private: String,
}

/// A prompt as token ids.
pub struct PromptIds {
    /// BOS and the public part.
    pub public: Vec<u32>,
    /// The private part.
    pub private: Vec<u32>,
}

impl PromptArguments {
    /// Reads the files; warns when private text stands in the arguments.
    ///
    /// # Errors
    /// `File` for files that cannot be read, are too large or are not UTF-8.
    pub fn read(&self) -> Result<PromptText> {
        if self.private.is_some() {
            eprintln!(
                "undertone: warning: --private shows the text to other users of this machine; use --private-file"
            );
        }
        let public = self.public_file.as_deref().map(read_text).transpose()?.unwrap_or_default();
        let private = match (&self.private, &self.private_file) {
            (Some(text), _) => text.clone(),
            (None, Some(path)) => read_text(path)?,
            (None, None) => String::new(),
        };
        Ok(PromptText { public, private })
    }
}

impl PromptText {
    /// Tokenizes both parts, each on its own.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    pub fn tokenize(&self, tokenizer: &Tokenizer) -> Result<PromptIds> {
        Ok(PromptIds {
            public: tokenizer.encode(&self.public, true)?,
            private: tokenizer.encode(&self.private, false)?,
        })
    }
}

impl PromptIds {
    /// Checks that prompt and continuation fit the model.
    ///
    /// # Errors
    /// `Client(TooLong)` when they do not.
    pub fn check_context(&self, max_new_tokens: usize, context: usize) -> Result<()> {
        let prompt = self.public.len() + self.private.len();
        // The last generated token is never fed back, so it needs no position.
        let have = prompt.saturating_add(max_new_tokens.saturating_sub(1));
        if have > context {
            return Err(Error::Client(undertone_client::Error::TooLong {
                what: "prompt with its continuation",
                have,
                need: context,
                remedy: "shorten the public part or ask for fewer new tokens",
            }));
        }
        Ok(())
    }

    /// Both parts in order.
    pub fn joined(&self) -> Vec<u32> {
        self.public.iter().chain(&self.private).copied().collect()
    }
}

/// Reads a text file, or standard input for `-`.
///
/// # Errors
/// `File` when it cannot be read, is over 16 MiB or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let failed = |source| Error::file("reading", path, source);
    let mut text = String::new();
    let length = if path == Path::new("-") {
        std::io::stdin().lock().take(FILE_LIMIT + 1).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(FILE_LIMIT + 1).read_to_string(&mut text)
    };
    if length.map_err(failed)? as u64 > FILE_LIMIT {
        return Err(failed(std::io::Error::other("the text is longer than 16 MiB")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(public: usize, private: usize) -> PromptIds {
        PromptIds { public: vec![1; public], private: vec![2; private] }
    }

    #[test]
    fn the_context_is_checked_to_the_token() {
        assert!(ids(100, 128).check_context(1, 228).is_ok());
        assert!(ids(100, 128).check_context(2, 228).is_err());
        assert!(ids(1, 1).check_context(usize::MAX, 1000).is_err());
    }
}
