//! Wire types of mode fhe: which key follows.

use crate::Error;
use crate::message::{MAX_BLOB, MAX_PRIVATE_TOKENS};
use serde::{Deserialize, Serialize};
use undertone_he::circuits::pc_matmul::ProductKeyId;
use undertone_he::{KeyId, KeyRequest, UploadKey};

/// Highest level that a key may claim.
const MAX_LEVEL: u8 = 64;

/// The name of an evaluation key on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WireKeyId {
    /// s² to s.
    Relinearization,
    /// σ_g(s) to s, for the Galois element g.
    Galois(u64),
    /// The secret to the sparse ephemeral secret.
    ToSparse,
    /// The sparse ephemeral secret to the secret.
    FromSparse,
    /// A key of matrix products between bootstraps.
    Product(WireProductKey),
}

/// The name of a key of matrix products on channels of so many tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WireProductKey {
    /// The secret to that of the small ring.
    Down(u32),
    /// Components of the small ring's secret to the whole.
    Pack(u32),
    /// Back to the secret.
    Up(u32),
}

impl WireProductKey {
    fn new(id: ProductKeyId, tokens: usize) -> Result<Self, Error> {
        let too_many = Error::Cap { field: "tokens of a key", have: tokens as u64, need: MAX_PRIVATE_TOKENS.into() };
        let tokens = u32::try_from(tokens).map_err(|_| too_many)?;
        Ok(match id {
            ProductKeyId::Down => Self::Down(tokens),
            ProductKeyId::Pack => Self::Pack(tokens),
            ProductKeyId::Up => Self::Up(tokens),
        })
    }

    fn tokens(self) -> u32 {
        let (Self::Down(tokens) | Self::Pack(tokens) | Self::Up(tokens)) = self;
        tokens
    }
}

impl From<KeyId> for WireKeyId {
    fn from(id: KeyId) -> Self {
        match id {
            KeyId::Relinearization => Self::Relinearization,
            KeyId::Galois(element) => Self::Galois(element),
            KeyId::ToSparse => Self::ToSparse,
            KeyId::FromSparse => Self::FromSparse,
        }
    }
}

impl std::fmt::Display for WireKeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Relinearization => f.write_str("relinearization"),
            Self::Galois(element) => write!(f, "galois {element}"),
            Self::ToSparse => f.write_str("to sparse"),
            Self::FromSparse => f.write_str("from sparse"),
            Self::Product(key) => write!(f, "{key}"),
        }
    }
}

impl std::fmt::Display for WireProductKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self {
            Self::Down(_) => "down",
            Self::Pack(_) => "pack",
            Self::Up(_) => "up",
        };
        write!(f, "{name} for products of {} tokens", self.tokens())
    }
}

/// One key follows in chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyBegin {
    /// Which key.
    pub id: WireKeyId,
    /// The level up to which it serves.
    pub level: u8,
    /// Its length in bytes.
    pub len: u32,
}

impl KeyBegin {
    /// The announcement of a key of `len` bytes.
    ///
    /// # Errors
    /// `Cap` when level or length do not fit the wire.
    pub fn new(key: &UploadKey, len: usize) -> Result<Self, Error> {
        let level = key.level();
        let too_long = Error::Cap { field: "key length", have: len as u64, need: MAX_BLOB.into() };
        let too_high = Error::Cap { field: "key level", have: level as u64, need: MAX_LEVEL.into() };
        Ok(Self {
            id: match *key {
                UploadKey::Evaluation(KeyRequest { id, .. }) => id.into(),
                UploadKey::Product { id, tokens } => WireKeyId::Product(WireProductKey::new(id, tokens)?),
            },
            level: u8::try_from(level).map_err(|_| too_high)?,
            len: u32::try_from(len).map_err(|_| too_long)?,
        })
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let cap = |field, have: u32, need: u32| {
            if have > need { Err(Error::Cap { field, have: have.into(), need: need.into() }) } else { Ok(()) }
        };
        if let WireKeyId::Product(key) = self.id {
            cap("tokens of a key", key.tokens(), MAX_PRIVATE_TOKENS)?;
        }
        cap("key level", self.level.into(), MAX_LEVEL.into())?;
        cap("key length", self.len, MAX_BLOB)
    }

    /// How errors name the key.
    pub(crate) fn describe(&self) -> String {
        format!("{} at level {} with {} bytes", self.id, self.level, self.len)
    }
}

/// The key is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEnd {
    /// BLAKE3 of the key's bytes.
    pub digest: [u8; 32],
}
