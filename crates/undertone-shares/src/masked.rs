//! The masked model `X - U`, which the user stores: uniform words to whoever does not know U.

use std::io::Read;

use crate::error::{Error, Result, expect_len};
use crate::shape::Shape;

/// Every weight matrix under its mask, in the order of [`Shape::matrices`].
pub struct MaskedModel {
    pub(crate) matrices: Vec<Vec<u64>>,
}

impl MaskedModel {
    pub(crate) fn new(matrices: Vec<Vec<u64>>) -> Self {
        Self { matrices }
    }

    /// Checks the sizes of all matrices.
    pub(crate) fn check(&self, shape: &Shape) -> Result<()> {
        let sizes = shape.matrices();
        expect_len("the list of masked matrices", self.matrices.len(), sizes.len())?;
        let mut sizes = self.matrices.iter().zip(sizes);
        sizes.try_for_each(|(words, (rows, cols))| expect_len("a masked matrix", words.len(), rows * cols))
    }

    /// Bytes of the encoding: eight for every weight.
    pub fn size_bytes(shape: &Shape) -> u64 {
        shape.matrices().iter().map(|&(rows, cols)| 8 * rows as u64 * cols as u64).sum()
    }

    /// Reads an encoding, one matrix at a time.
    ///
    /// # Errors
    /// What the reader reports, and an end before the last word; what follows it is left unread.
    pub fn read(from: &mut impl Read, shape: &Shape) -> std::io::Result<Self> {
        let mut bytes = vec![0u8; 1 << 16];
        let mut matrix = |len: usize| {
            let mut words = Vec::with_capacity(len);
            while words.len() < len {
                let part = &mut bytes[..(8 * (len - words.len())).min(1 << 16)];
                from.read_exact(part)?;
                words.extend(part.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)));
            }
            Ok::<_, std::io::Error>(words)
        };
        let sizes = shape.matrices();
        let matrices = sizes.iter().map(|(rows, cols)| matrix(rows * cols)).collect::<std::io::Result<_>>()?;
        Ok(Self { matrices })
    }

    /// Its encoding: the words of all matrices, little endian, nothing else.
    pub fn encode(&self) -> Vec<u8> {
        self.matrices.iter().flatten().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Reads an encoding.
    ///
    /// # Errors
    /// Another length than [`MaskedModel::size_bytes`].
    pub fn decode(bytes: &[u8], shape: &Shape) -> Result<Self> {
        if bytes.len() as u64 != Self::size_bytes(shape) {
            return Err(Error::Malformed { what: "the masked model", cause: "its length is not that of the model" });
        }
        let mut words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        let matrices = shape.matrices().iter().map(|(rows, cols)| words.by_ref().take(rows * cols).collect()).collect();
        Ok(Self { matrices })
    }
}
