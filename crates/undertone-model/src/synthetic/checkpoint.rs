//! Writes a synthetic model as a Hugging Face checkpoint, row by row: no more than one chunk of rows is in memory.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use super::{Synthetic, Tensor};
use crate::error::{Error, Result};
use crate::safetensors_file::NumberFormat;
use crate::safetensors_writer::{TensorHeader, write_safetensors};

/// Bytes of weights from which a checkpoint is split, and the most in one shard unless a tensor alone is larger.
pub const SHARD_BYTES: u64 = 4 << 30;

impl Synthetic {
    /// Bytes of all weights in the number format of a checkpoint, bf16.
    pub fn checkpoint_bytes(&self) -> u64 {
        self.config.parameter_count() * NumberFormat::Bf16.width() as u64
    }

    /// Writes `config.json` and the weights in bf16 into the existing folder `dir`, split into shards above
    /// `shard_bytes`.
    ///
    /// `progress` is told the name of a tensor and the bytes written so far, after every few megabytes.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn write_checkpoint(&self, dir: &Path, shard_bytes: u64, progress: &mut dyn FnMut(&str, u64)) -> Result<()> {
        let config = dir.join("config.json");
        let text = self.config.to_json_as(NumberFormat::Bf16);
        std::fs::write(&config, text).map_err(|source| Error::io("write", &config, source))?;
        let shards = self.shards(shard_bytes);
        let name = |number: usize| match shards.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        let (mut done, mut weight_map) = (0, BTreeMap::new());
        for (number, shard) in shards.iter().enumerate() {
            weight_map.extend(shard.iter().map(|(_, header)| (header.name.clone(), name(number))));
            let headers: Vec<&TensorHeader> = shard.iter().map(|(_, header)| header).collect();
            write_safetensors(&dir.join(name(number)), &headers, NumberFormat::Bf16, |index, first, out| {
                let (tensor, header) = &shard[index];
                self.fill_rows(*tensor, first, header.row_len(), out);
                done += (out.len() * NumberFormat::Bf16.width()) as u64;
                progress(&header.name, done);
            })?;
        }
        if shards.len() == 1 {
            return Ok(());
        }
        let index = json!({ "metadata": { "total_size": self.checkpoint_bytes() }, "weight_map": weight_map });
        let path = dir.join("model.safetensors.index.json");
        std::fs::write(&path, format!("{index:#}\n")).map_err(|source| Error::io("write", &path, source))
    }

    /// The tensors in order, cut where a shard would exceed `shard_bytes`.
    fn shards(&self, shard_bytes: u64) -> Vec<Vec<(Tensor, TensorHeader)>> {
        let (mut shards, mut filled) = (vec![Vec::new()], 0);
        for (tensor, name, shape) in self.tensors() {
            let header = TensorHeader { name, shape };
            let bytes = header.len() as u64 * NumberFormat::Bf16.width() as u64;
            if filled > 0 && filled + bytes > shard_bytes {
                shards.push(Vec::new());
                filled = 0;
            }
            filled += bytes;
            if let Some(shard) = shards.last_mut() {
                shard.push((tensor, header));
            }
        }
        shards
    }
}
