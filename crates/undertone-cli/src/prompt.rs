//! The flags that describe a prompt, the files it comes from, and files of many prompts.
//!
//! Private text is erased when dropped, and no message quotes it.

use crate::error::{Error, Result};
use clap::Args;
use serde::{Deserialize, Deserializer};
use std::io::Read;
use std::path::{Path, PathBuf};
use undertone_model::sampling::{Sampler, SamplingParameters};
use zeroize::Zeroizing;

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
    pub private: Zeroizing<String>,
}

/// One line of a file of prompts, for `eval` and `calibrate`.
#[derive(Deserialize)]
pub struct PromptLine {
    /// What the server reads.
    #[serde(default)]
    pub public: String,
    /// What it must not read.
    #[serde(deserialize_with = "erased")]
    pub private: Zeroizing<String>,
    /// How the text goes on, for `calibrate`.
    #[serde(default, deserialize_with = "erased")]
    pub answer: Zeroizing<String>,
    /// Most tokens to generate, for `eval`.
    #[serde(default = "default_new_tokens")]
    pub max_new_tokens: usize,
}

fn default_new_tokens() -> usize {
    8
}

fn erased<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

/// The prompts of a file of JSON lines; empty lines do not count.
///
/// # Errors
/// `Usage` with the number of the first line that is no prompt; the sentence does not repeat what stands there.
pub fn prompt_lines(text: &str) -> Result<Vec<PromptLine>> {
    let numbered = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parsed = numbered.map(|(number, line)| {
        serde_json::from_str(line).map_err(|error| {
            let (line, column) = (number + 1, error.column());
            Error::Usage(format!(
                "line {line} of the prompt file is no prompt, see column {column}; write {{\"public\": \"…\", \"private\": \"…\"}}"
            ))
        })
    });
    parsed.collect()
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
            (Some(text), _) => Zeroizing::new(text.clone()),
            (None, Some(path)) => read_text(path)?,
            (None, None) => Zeroizing::default(),
        };
        Ok(PromptText { public: public.to_string(), private })
    }
}

/// Reads a text file, or standard input for `-`; the text may be private.
///
/// # Errors
/// `File` when it cannot be read, is over 16 MiB or is not UTF-8.
pub fn read_text(path: &Path) -> Result<Zeroizing<String>> {
    let failed = |source| Error::file("reading", path, source);
    let mut text = Zeroizing::new(String::new());
    let length = if path == Path::new("-") {
        std::io::stdin().lock().take(FILE_LIMIT + 1).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        // Room for all of it at once, because a string that grows leaves copies of its beginning behind.
        let room = file.metadata().map_or(0, |metadata| metadata.len().min(FILE_LIMIT) + 1);
        text.reserve(room as usize);
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

    #[test]
    fn one_kind_of_line_serves_eval_and_calibrate() {
        let lines = prompt_lines(
            "{\"private\": \"a\"}\n\n{\"public\": \"b\", \"private\": \"c\", \"answer\": \"d\", \"max_new_tokens\": 3}\n",
        );
        let lines = lines.unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].public.as_str(), lines[0].private.as_str(), lines[0].max_new_tokens), ("", "a", 8));
        assert_eq!((lines[1].public.as_str(), lines[1].answer.as_str(), lines[1].max_new_tokens), ("b", "d", 3));
    }

    #[test]
    fn a_line_that_is_no_prompt_is_named_and_not_repeated() {
        for text in
            ["\n\"a secret\"\n", "\n{\"private\": \"x\", \"max_new_tokens\": \"a secret\"}\n", "\n{\"a secret\": 1}\n"]
        {
            let said = prompt_lines(text).err().unwrap().to_string();
            assert!(said.contains("line 2") && !said.contains("secret"), "{said}");
        }
    }
}
