//! Writes a safetensors file tensor by tensor, with no more than a few megabytes of it in memory.
//!
//! The format is described in [`crate::safetensors_file`]. Offsets follow from the shapes, so the header is written
//! first and the values as they are made.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use half::{bf16, f16};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::safetensors_file::NumberFormat;

/// Values that are made, converted and written at a time, in whole rows.
const CHUNK: usize = 1 << 20;

/// The name and the shape of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorHeader {
    pub(crate) name: String,
    /// Slowest dimension first; never empty.
    pub(crate) shape: Vec<usize>,
}

impl TensorHeader {
    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Values of one row: the whole of a vector.
    pub(crate) fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

/// Writes `tensors` to a new file at `path` and makes sure that they are on the disk.
///
/// `fill` is called with the index of a tensor, the first row and whole rows to fill, in order.
///
/// # Errors
/// A file that cannot be written; what was written of it stays.
pub(crate) fn write_safetensors(
    path: &Path,
    tensors: &[&TensorHeader],
    format: NumberFormat,
    mut fill: impl FnMut(usize, usize, &mut [f32]),
) -> Result<()> {
    let failed = |source| Error::io("write", path, source);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed)?);
    let header = header(tensors, format);
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
    file.write_all(header.as_bytes()).map_err(failed)?;
    let (mut values, mut bytes) = (Vec::new(), Vec::new());
    for (index, tensor) in tensors.iter().enumerate() {
        let (row_len, rows) = (tensor.row_len().max(1), tensor.len() / tensor.row_len().max(1));
        let step = (CHUNK / row_len).max(1);
        for first in (0..rows).step_by(step) {
            values.resize(step.min(rows - first) * row_len, 0.0);
            fill(index, first, &mut values);
            encode(&values, format, &mut bytes);
            file.write_all(&bytes).map_err(failed)?;
        }
    }
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)
}

/// The JSON header, filled up with spaces so that the values start at a multiple of eight bytes.
fn header(tensors: &[&TensorHeader], format: NumberFormat) -> String {
    let mut entries = Map::new();
    // Other readers of Hugging Face checkpoints ask for this entry.
    entries.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut start = 0;
    for tensor in tensors {
        let end = start + tensor.len() * format.width();
        let entry: Value = json!({ "dtype": format.name(), "shape": tensor.shape, "data_offsets": [start, end] });
        entries.insert(tensor.name.clone(), entry);
        start = end;
    }
    let mut text = Value::Object(entries).to_string();
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    text
}

fn encode(values: &[f32], format: NumberFormat, out: &mut Vec<u8>) {
    out.resize(values.len() * format.width(), 0);
    match format {
        NumberFormat::F32 => convert(values, out, f32::to_le_bytes),
        NumberFormat::F16 => convert(values, out, |x| f16::from_f32(x).to_le_bytes()),
        NumberFormat::Bf16 => convert(values, out, |x| bf16::from_f32(x).to_le_bytes()),
    }
}

fn convert<const WIDTH: usize>(values: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; WIDTH] + Sync) {
    let (out, _) = out.as_chunks_mut::<WIDTH>();
    out.par_chunks_mut(1 << 14).zip(values.par_chunks(1 << 14)).for_each(|(out, values)| {
        for (out, &value) in out.iter_mut().zip(values) {
            *out = bytes(value);
        }
    });
}
