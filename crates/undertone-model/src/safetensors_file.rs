//! One safetensors file: mapped, its header checked, its tensors read as f32.
//!
//! Format: eight bytes of little-endian header length, a JSON header of names, types, shapes and offsets, then the
//! data. The `safetensors` crate checks that the offsets tile the data without gap or overlap and agree with shapes
//! and types; this file adds a header cap of its own, which is checked before the header is parsed.
//!
//! The only `unsafe` of the crate is the memory map. A file that another process shortens while it is mapped ends
//! this process with a bus error, not with wrong data.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result, shown};

/// Largest header that is accepted, in bytes; the header of a 70-billion-parameter Llama has about 10^5.
pub const HEADER_CAP: u64 = 16 << 20;

/// Values converted per task.
const CHUNK: usize = 1 << 16;

/// The number formats that weights may be stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberFormat {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
}

impl NumberFormat {
    /// Bytes of a number.
    pub fn width(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The name in the header of a file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }
}

/// Where a tensor lies in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// The number format.
    pub format: NumberFormat,
    /// The shape, slowest dimension first.
    pub shape: Vec<usize>,
    /// Byte range in the file.
    pub bytes: Range<usize>,
}

/// Reads the header of a safetensors file and checks it against the length of `file`.
///
/// `name` is used in messages only.
///
/// # Errors
/// A header that is too large, truncated or malformed, offsets that overlap, leave gaps, leave the file or
/// contradict the shapes, and number formats other than f32, f16 and bf16.
pub fn read_header(name: &str, file: &[u8]) -> Result<BTreeMap<String, TensorEntry>> {
    let Some((length, _)) = file.split_first_chunk::<8>() else {
        return Err(Error::malformed(name, "it is shorter than the eight bytes of its header length"));
    };
    let length = u64::from_le_bytes(*length);
    if length > HEADER_CAP {
        return Err(Error::TooLarge { what: "the header", file: name.to_owned(), have: length, need: HEADER_CAP });
    }
    let (header, metadata) = SafeTensors::read_metadata(file)
        .map_err(|error| Error::malformed(name, format!("its header is refused ({})", shown(&error.to_string()))))?;
    let start = header + 8;
    let mut entries = BTreeMap::new();
    for (tensor, info) in metadata.tensors() {
        let format = match info.dtype {
            Dtype::F32 => NumberFormat::F32,
            Dtype::F16 => NumberFormat::F16,
            Dtype::BF16 => NumberFormat::Bf16,
            other => {
                let field = format!("the number format of {} in {name}", shown(&tensor));
                return Err(Error::unsupported(field, &format!("{other:?}"), "F32, F16 and BF16"));
            }
        };
        let (from, to) = info.data_offsets;
        let bytes = match (start.checked_add(from), start.checked_add(to)) {
            (Some(from), Some(to)) if from <= to && to <= file.len() => from..to,
            _ => return Err(Error::malformed(name, format!("{} lies outside the file", shown(&tensor)))),
        };
        entries.insert(tensor, TensorEntry { format, shape: info.shape.clone(), bytes });
    }
    Ok(entries)
}

/// A mapped safetensors file with a checked header.
pub struct SafetensorsFile {
    map: Mmap,
    entries: BTreeMap<String, TensorEntry>,
}

impl SafetensorsFile {
    /// Maps a file and checks its header.
    ///
    /// # Errors
    /// A file that cannot be mapped, and whatever [`read_header`] refuses.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|source| Error::io("open", path, source))?;
        let map = map_read_only(&file).map_err(|source| Error::io("map", path, source))?;
        let entries = read_header(&path.display().to_string(), &map)?;
        Ok(Self { map, entries })
    }

    /// The tensors of the file by name.
    pub fn entries(&self) -> &BTreeMap<String, TensorEntry> {
        &self.entries
    }

    /// The values of a tensor, row major, after a check of its shape.
    ///
    /// # Errors
    /// A tensor that is absent, has another shape, or holds an infinity or a NaN.
    pub fn read_f32(&self, tensor: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let entry = self.entries.get(tensor).ok_or_else(|| Error::MissingTensor { tensor: tensor.to_owned() })?;
        if entry.shape != shape {
            return Err(Error::TensorShape {
                tensor: tensor.to_owned(),
                have: entry.shape.iter().take(8).copied().collect(),
                need: shape.to_vec(),
            });
        }
        let bytes = &self.map[entry.bytes.clone()];
        let values = match entry.format {
            NumberFormat::F32 => convert(bytes, f32::from_le_bytes),
            NumberFormat::F16 => convert(bytes, |pair: [u8; 2]| f16::from_le_bytes(pair).to_f32()),
            NumberFormat::Bf16 => convert(bytes, |pair: [u8; 2]| bf16::from_le_bytes(pair).to_f32()),
        };
        match values.par_iter().position_first(|value| !value.is_finite()) {
            Some(index) => Err(Error::NotFinite { tensor: tensor.to_owned(), index }),
            None => Ok(values),
        }
    }
}

fn convert<const WIDTH: usize>(bytes: &[u8], number: impl Fn([u8; WIDTH]) -> f32 + Sync) -> Vec<f32> {
    let (numbers, _) = bytes.as_chunks::<WIDTH>();
    let mut values = vec![0.0f32; numbers.len()];
    values.par_chunks_mut(CHUNK).zip(numbers.par_chunks(CHUNK)).for_each(|(values, numbers)| {
        for (value, &bytes) in values.iter_mut().zip(numbers) {
            *value = number(bytes);
        }
    });
    values
}

/// Reads a whole file of at most `cap` bytes.
pub(crate) fn read_capped(path: &Path, cap: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|source| Error::io("open", path, source))?;
    let mut bytes = Vec::new();
    // One byte above the cap is enough to know; the length in the metadata may be a lie or zero for a pipe.
    file.take(cap + 1).read_to_end(&mut bytes).map_err(|source| Error::io("read", path, source))?;
    if bytes.len() as u64 > cap {
        let have = std::fs::metadata(path).map_or(cap + 1, |metadata| metadata.len().max(cap + 1));
        return Err(Error::TooLarge { what: "the file", file: path.display().to_string(), have, need: cap });
    }
    Ok(bytes)
}

#[allow(unsafe_code)]
fn map_read_only(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is private to this module and only read. Rust requires that the bytes do not change while they
    // are borrowed; a model file is not written in place by any program that follows the Hugging Face layout, and if
    // one did, this module reads each number once and interprets any bit pattern as a float, so that a change can
    // alter values but not break memory safety.
    unsafe { Mmap::map(file) }
}
