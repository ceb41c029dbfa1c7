//! The 64-byte header of every encoded object.

use crate::{Error, KeyId, Parameters};

/// Length of the header.
pub(super) const HEADER_BYTES: usize = 64;
const MAGIC: [u8; 4] = *b"UNDT";
const VERSION: u8 = 1;

/// What follows the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ciphertext,
    SeededCiphertext,
    Key(KeyId),
}

impl Kind {
    fn code(self) -> (u8, u64) {
        match self {
            Self::Ciphertext => (1, 0),
            Self::SeededCiphertext => (2, 0),
            Self::Key(KeyId::Relinearization) => (3, 0),
            Self::Key(KeyId::Galois(element)) => (4, element),
            Self::Key(KeyId::ToSparse) => (5, 0),
            Self::Key(KeyId::FromSparse) => (6, 0),
        }
    }

    fn from_code(code: u8, element: u64) -> Option<Self> {
        Some(match (code, element) {
            (1, 0) => Self::Ciphertext,
            (2, 0) => Self::SeededCiphertext,
            (3, 0) => Self::Key(KeyId::Relinearization),
            (4, element) => Self::Key(KeyId::Galois(element)),
            (5, 0) => Self::Key(KeyId::ToSparse),
            (6, 0) => Self::Key(KeyId::FromSparse),
            _ => return None,
        })
    }
}

/// magic 4 | version 1 | kind 1 | level u16 | Galois element u64 | parameter digest 32 | zero 16, little-endian.
pub(super) fn write(parameters: &Parameters, kind: Kind, level: usize, out: &mut Vec<u8>) {
    let (code, element) = kind.code();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, code]);
    out.extend_from_slice(&(level as u16).to_le_bytes());
    out.extend_from_slice(&element.to_le_bytes());
    out.extend_from_slice(&parameters.digest());
    out.extend_from_slice(&[0; 16]);
}

/// Reads and checks a header; returns the kind, the level and the bytes after it.
pub(super) fn read<'a>(
    parameters: &Parameters,
    bytes: &'a [u8],
    what: &'static str,
) -> Result<(Kind, usize, &'a [u8]), Error> {
    let fail = |cause| Error::Decode { what, cause };
    let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or(fail("it is shorter than its header"))?;
    if header[..4] != MAGIC {
        return Err(fail("it does not start with the magic bytes"));
    }
    if header[4] != VERSION {
        return Err(fail("its version is not supported"));
    }
    if header[16..48] != parameters.digest() {
        return Err(fail("it was made for other parameters"));
    }
    if header[48..].iter().any(|&b| b != 0) {
        return Err(fail("reserved header bytes are set"));
    }
    let mut element = [0; 8];
    element.copy_from_slice(&header[8..16]);
    let kind = Kind::from_code(header[5], u64::from_le_bytes(element)).ok_or(fail("its kind is unknown"))?;
    let level = usize::from(u16::from_le_bytes([header[6], header[7]]));
    if level > parameters.chain().max_level {
        return Err(fail("its level is above the chain"));
    }
    Ok((kind, level, body))
}
