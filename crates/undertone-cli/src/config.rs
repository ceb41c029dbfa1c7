//! The configuration of a model that need not be there: a model directory, or a file of its form under any name.

use crate::error::Result;
use crate::prompt::read_text;
use std::path::Path;
use undertone_model::LlamaConfig;

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
