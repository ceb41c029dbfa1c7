//! The bundled model, compiled into the program so that `demo` works from anywhere and offline.

use crate::cleanup::Cleanup;
use crate::error::Result;
use crate::files::{Access, ScratchFolder, write_whole};

/// The files of the model directory that inference reads.
const FILES: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../../../models/tiny/config.json")),
    ("generation_config.json", include_bytes!("../../../models/tiny/generation_config.json")),
    ("model.safetensors", include_bytes!("../../../models/tiny/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../../models/tiny/tokenizer.json")),
    ("undertone-calibration.json", include_bytes!("../../../models/tiny/undertone-calibration.json")),
];

/// The public part of the demo's prompt: a clinic's formulary.
pub const PUBLIC_TEXT: &str = include_str!("../../../models/tiny/prompts/demo.public.txt");
/// The private part: a note about one patient.
pub const PRIVATE_TEXT: &str = include_str!("../../../models/tiny/prompts/demo.private.txt");

/// Writes the model into a scratch folder, because models are read as files.
///
/// # Errors
/// `File` when the system's temporary folder cannot be written.
pub fn unpack(cleanup: &Cleanup) -> Result<ScratchFolder> {
    let folder = ScratchFolder::new(cleanup, "model")?;
    for (name, bytes) in FILES {
        write_whole(cleanup, &folder.path().join(name), bytes, Access::Ordinary)?;
    }
    Ok(folder)
}
