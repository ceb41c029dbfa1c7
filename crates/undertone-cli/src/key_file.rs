//! The flags that name a stored key, and where its passphrase comes from.
//!
//! A passphrase is read from a file or from standard input, never from arguments or the environment, which others see.

use crate::error::{Error, Result};
use crate::prompt::read_text;
use clap::Args;
use std::path::{Path, PathBuf};
use undertone_client::KeyStore;
use undertone_he::Parameters;
use undertone_secret::SecretKey;
use zeroize::Zeroizing;

/// A stored key instead of a fresh one.
#[derive(Debug, Clone, Args)]
pub struct KeyArguments {
    /// Use this stored key; a fresh one that is forgotten after the run otherwise
    #[arg(long, value_name = "NAME", requires = "passphrase_file")]
    pub key: Option<String>,

    /// File with the key's passphrase, or - for standard input
    #[arg(long, value_name = "FILE|-")]
    pub passphrase_file: Option<PathBuf>,
}

impl KeyArguments {
    /// Opens the key, if one is named, and says which of the sets it serves.
    ///
    /// # Errors
    /// What the key store or the passphrase file refuses.
    pub fn open(&self, sets: &[Parameters]) -> Result<Option<(Parameters, SecretKey)>> {
        match &self.key {
            None => Ok(None),
            Some(name) => {
                let passphrase = passphrase(self.passphrase_file.as_ref())?;
                Ok(Some(KeyStore::of_user()?.open_any(name, sets, passphrase.as_bytes())?))
            }
        }
    }
}

/// Refuses two flags that both name standard input, of which the second would find nothing left.
///
/// # Errors
/// `Usage` with both flags.
pub fn one_standard_input(flags: &[(&str, Option<&Path>)]) -> Result<()> {
    let mut named = flags.iter().filter(|(_, file)| *file == Some(Path::new("-"))).map(|(flag, _)| flag);
    match (named.next(), named.next()) {
        (Some(first), Some(second)) => Err(Error::Usage(format!(
            "{first} - and {second} - cannot both read standard input; give a file to one of them"
        ))),
        _ => Ok(()),
    }
}

/// Reads a passphrase: the first line of the file.
///
/// # Errors
/// `Usage` when there is none.
pub fn passphrase(file: Option<&PathBuf>) -> Result<Zeroizing<String>> {
    let missing =
        || Error::Usage("a passphrase is needed; give it with --passphrase-file FILE or --passphrase-file -".into());
    let text = read_text(file.ok_or_else(missing)?)?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() { Err(missing()) } else { Ok(Zeroizing::new(line.to_owned())) }
}
