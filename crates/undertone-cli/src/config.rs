//! The configuration of a model that need not be there: a model directory, a file of its form under any name, or the
//! name of a well-known shape.

use crate::error::{Error, Result};
use crate::prompt::read_text;
use std::path::Path;
use undertone_model::LlamaConfig;
use undertone_model::presets::{PRESET_NAMES, preset};

/// Reads the file that is named, or `config.json` and what belongs to it in a directory.
///
/// # Errors
/// `File` when it cannot be read, and whatever the model crate refuses in it.
pub fn read_config(path: &Path) -> Result<LlamaConfig> {
    if path.is_dir() {
        return Ok(LlamaConfig::from_dir(path)?);
    }
    Ok(LlamaConfig::from_json(read_text(path)?.as_bytes(), None)?)
}

/// A known shape by its name, or what [`read_config`] reads.
///
/// # Errors
/// `Usage` for what is neither a name nor a path that exists, and as [`read_config`].
pub fn config_like(like: &str) -> Result<LlamaConfig> {
    match preset(like) {
        Some(config) => Ok(config),
        None if Path::new(like).exists() => read_config(Path::new(like)),
        None => {
            let known = PRESET_NAMES.join(", ");
            Err(Error::Usage(format!("{like} is neither a config.json, nor a model directory, nor one of {known}")))
        }
    }
}
