//! Evaluation keys that wait on disk: a private file of one key set, written as keys arrive and read limb by limb.
//!
//! Limbs lie outermost, so that one positional read brings a limb of all digits, which is what one step of a key switch
//! takes; nothing of a key stays in memory but a digest for each limb of each digit. Threads share the file without a lock,
//! and what the system keeps in its page cache is the only other copy. Readers cannot return an error through the ring:
//! the spool remembers the first one, and every evaluator operation asks for it before it lets its result out.
//!
//! Absent: keys of an earlier process. They come from a client and end with its session.

use super::KeyShape;
use super::positional::PrivateFile;
use crate::Error;
use rayon::prelude::*;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use undertone_ring::{Basis, PackedPoly, StoredHalf};

/// Refuses a folder in which no key can be spooled.
///
/// # Errors
/// What the system says of the folder.
pub(super) fn check_key_folder(folder: &Path) -> io::Result<()> {
    PrivateFile::create(folder).map(drop)
}

/// Writes keys one after the other.
pub(super) struct SpoolWriter {
    spool: Arc<Spool>,
    /// Where the next key goes.
    end: u64,
}

/// The file of one key set.
struct Spool {
    file: PrivateFile,
    failure: OnceLock<Error>,
}

/// Where one limb of a half lies.
struct StoredLimb {
    start: u64,
    /// Bytes of one digit.
    len: usize,
    digests: Vec<[u8; blake3::OUT_LEN]>,
}

/// The computed half of a key in a spool.
pub(super) struct SpooledHalf {
    spool: Arc<Spool>,
    degree: usize,
    basis: Basis,
    digits: usize,
    limbs: Vec<StoredLimb>,
}

impl SpoolWriter {
    /// An empty file in `folder`.
    ///
    /// # Errors
    /// `KeySpool` when none can be made there.
    pub(super) fn create(folder: &Path) -> Result<Self, Error> {
        PrivateFile::create(folder).map(Self::over).map_err(|error| spool_error("made", &error))
    }

    fn over(file: PrivateFile) -> Self {
        Self { spool: Arc::new(Spool { file, failure: OnceLock::new() }), end: 0 }
    }

    /// Appends the computed half of a key of this shape.
    ///
    /// # Errors
    /// `KeySpool` when the disk does not take it.
    pub(super) fn append(&mut self, shape: KeyShape, b: &[PackedPoly]) -> Result<SpooledHalf, Error> {
        let first = b.first().ok_or(Error::Decode { what: "evaluation key", cause: "it has no digits" })?;
        let mut end = self.end;
        let places = (0..shape.basis.limb_count()).map(|limb| {
            let (start, len) = (end, first.limb(limb).bytes().len());
            end += (len * b.len()) as u64;
            (start, len)
        });
        let places: Vec<(u64, usize)> = places.collect();
        let write = |(limb, (start, len)): (usize, (u64, usize))| {
            let digits = b.iter().enumerate().map(|(index, digit)| {
                let bytes = digit.limb(limb).bytes();
                self.spool.file.write_at(bytes, start + (index * len) as u64)?;
                Ok(*blake3::hash(bytes).as_bytes())
            });
            Ok(StoredLimb { start, len, digests: digits.collect::<io::Result<_>>()? })
        };
        let limbs = places.into_par_iter().enumerate().map(write).collect::<io::Result<Vec<_>>>();
        let limbs = limbs.map_err(|error| spool_error("written", &error))?;
        self.end = end;
        Ok(SpooledHalf {
            spool: self.spool.clone(),
            degree: first.degree(),
            basis: shape.basis,
            digits: b.len(),
            limbs,
        })
    }

    /// Bytes of the file.
    pub(super) fn size_bytes(&self) -> u64 {
        self.end
    }

    /// Flips a bit of the byte at `offset`.
    #[cfg(test)]
    pub(super) fn damage(&self, offset: u64) {
        let mut byte = [0];
        self.spool.file.read_at(&mut byte, offset).expect("the byte is there");
        self.spool.file.write_at(&[byte[0] ^ 4], offset).expect("the byte is there");
    }

    /// Whether every read so far brought what was written.
    ///
    /// # Errors
    /// `KeySpool` with the first failure.
    pub(super) fn intact(&self) -> Result<(), Error> {
        self.spool.failure.get().map_or(Ok(()), |error| Err(error.clone()))
    }
}

impl Spool {
    fn read(&self, limb: &StoredLimb, out: &mut [u8]) -> Result<(), Error> {
        self.file.read_at(out, limb.start).map_err(|error| spool_error("read", &error))?;
        let mut digits = out.chunks_exact(limb.len).zip(&limb.digests);
        if digits.all(|(bytes, digest)| blake3::hash(bytes) == *digest) {
            return Ok(());
        }
        Err(Error::KeySpool { op: "read", cause: "they are not what was written".to_owned() })
    }
}

impl SpooledHalf {
    /// Memory of the digests.
    pub(super) fn size_bytes(&self) -> usize {
        self.limbs.len() * (self.digits * blake3::OUT_LEN + size_of::<StoredLimb>())
    }
}

impl StoredHalf for SpooledHalf {
    fn degree(&self) -> usize {
        self.degree
    }

    fn basis(&self) -> Basis {
        self.basis
    }

    fn digit_count(&self) -> usize {
        self.digits
    }

    fn read(&self, limb: usize, out: &mut [u8]) {
        if let Err(error) = self.spool.read(&self.limbs[limb], out) {
            out.fill(0);
            // Only the first failure is told.
            let _ = self.spool.failure.set(error);
        }
    }
}

fn spool_error(op: &'static str, error: &io::Error) -> Error {
    Error::KeySpool { op, cause: error.to_string() }
}

#[cfg(test)]
mod tests;
