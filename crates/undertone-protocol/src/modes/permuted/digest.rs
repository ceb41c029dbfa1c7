//! What both parties must have in common, as three digests in the hello: what they compute with, the model, the
//! tokenizer. Norm gains are inside the provider's matrices, so there is nothing of them to compare.

use crate::Error;
use crate::message::{Hello, Mode, WireShape};
use undertone_shares::{ACTIVATION_BITS, PROBABILITY_BITS, PublicModel, ROTARY_BITS, RotaryTable, SCORE_BITS};

/// The digests of one party.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digests {
    /// Of the rotary table and the fixed-point formats.
    pub rotary: [u8; 32],
    /// Of the public model and the name of the masked weights.
    pub model: [u8; 32],
    /// Of the tokenizer file; zero for a party that has none.
    pub tokenizer: [u8; 32],
}

/// The digest of a public model and of the name of its masked weights. All three parties compare it: weights masked under
/// another seed than the dealer's would give nonsense, and nobody would notice.
pub fn masked_digest(public: &PublicModel, masked_name: &[u8; 32]) -> [u8; 32] {
    let public = blake3::derive_key("undertone public model, version 1", &public.encode());
    let mut hasher = blake3::Hasher::new_derive_key("undertone masked model, version 1");
    *hasher.update(&public).update(masked_name).finalize().as_bytes()
}

impl Digests {
    /// The digests of what a party holds.
    pub fn new(public: &PublicModel, masked_name: &[u8; 32], rotary: &RotaryTable, tokenizer: Option<&[u8]>) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("undertone rotary table, version 1");
        for bits in [ACTIVATION_BITS, PROBABILITY_BITS, ROTARY_BITS, SCORE_BITS] {
            hasher.update(&bits.to_le_bytes());
        }
        let mut bytes = Vec::with_capacity(8 * rotary.words().len());
        bytes.extend(rotary.words().iter().flat_map(|word| word.to_le_bytes()));
        let rotary = *hasher.update(&bytes).finalize().as_bytes();
        let model = masked_digest(public, masked_name);
        let tokenizer = tokenizer.map_or([0; 32], |file| *blake3::hash(file).as_bytes());
        Self { rotary, model, tokenizer }
    }

    /// The hello of a user, which says how nonlinear steps are evaluated.
    pub fn hello(&self, shape: WireShape, strict: bool) -> Hello {
        let mode = if strict { Mode::Strict } else { Mode::Permuted };
        Hello::new(mode, self.rotary, self.model, self.tokenizer, shape)
    }

    /// Compares the hello of a user with these of its provider.
    ///
    /// # Errors
    /// `Version`, or `Mismatch` naming the first object that differs.
    pub fn expect(&self, hello: &Hello) -> Result<(), Error> {
        let differ = |what| Err(Error::Mismatch { what });
        // The version first: all else may mean something else in another one.
        hello.expect(hello.parameters, hello.model, hello.calibration)?;
        if hello.parameters != self.rotary {
            return differ("rotary tables");
        }
        if hello.model != self.model {
            return differ("public model and masked weights");
        }
        if hello.calibration != self.tokenizer { differ("tokenizer") } else { Ok(()) }
    }
}
