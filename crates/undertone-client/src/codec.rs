//! Between slots and blobs: encryption and decryption in mode fhe, plain numbers in mode clear.

use crate::Error;
use undertone_he::{Ciphertext, Parameters, Slots};
use undertone_protocol::modes::clear::message::{decode_slots, encode_slots};
use undertone_secret::{DECLARED_PRECISION_BITS, Decryptor, Encryptor, SecretKey, SecretRng};

/// Largest imaginary part that noise leaves in a result.
const IMAGINARY_TOLERANCE: f64 = 0.02;

/// What a mode does to slots on their way.
pub(crate) trait Codec {
    /// The blob that carries `slots` to the server.
    fn seal(&mut self, slots: &Slots) -> Result<Vec<u8>, Error>;
    /// All slots of a blob from the server.
    fn open(&self, blob: &[u8]) -> Result<Vec<f64>, Error>;
}

/// A secret key that lives as long as the run, or longer.
pub(crate) enum Key<'a> {
    Ephemeral(Box<SecretKey>),
    Stored(&'a SecretKey),
}

impl Key<'_> {
    pub(crate) fn secret(&self) -> &SecretKey {
        match self {
            Self::Ephemeral(secret) => secret,
            Self::Stored(secret) => secret,
        }
    }
}

/// CKKS under the client's key.
pub(crate) struct FheCodec<'a> {
    pub(crate) parameters: &'a Parameters,
    pub(crate) key: Key<'a>,
    pub(crate) rng: SecretRng,
    pub(crate) input_level: usize,
}

impl Codec for FheCodec<'_> {
    fn seal(&mut self, slots: &Slots) -> Result<Vec<u8>, Error> {
        let encryptor = Encryptor::new(self.parameters, self.key.secret());
        Ok(encryptor.encrypt(slots, self.input_level, &mut self.rng)?.to_bytes(self.parameters))
    }

    fn open(&self, blob: &[u8]) -> Result<Vec<f64>, Error> {
        let ciphertext = Ciphertext::from_bytes(self.parameters, blob)?;
        let decrypted = Decryptor::new(self.parameters, self.key.secret()).decrypt(&ciphertext);
        if decrypted.imaginary_within(IMAGINARY_TOLERANCE) {
            Ok(decrypted.rounded(DECLARED_PRECISION_BITS))
        } else {
            Err(escape())
        }
    }
}

/// A value outside its polynomial's interval explodes, and after the next bootstrap nothing real is left of it.
///
/// The size of what was found stays here: it depends on the secret.
fn escape() -> Error {
    let (have, need) = (f64::INFINITY, IMAGINARY_TOLERANCE);
    undertone_infer::Error::OutOfCalibratedRange { what: "imaginary part of the result", have, need }.into()
}

/// No secrecy.
pub(crate) struct ClearCodec;

impl Codec for ClearCodec {
    fn seal(&mut self, slots: &Slots) -> Result<Vec<u8>, Error> {
        Ok(encode_slots(slots.period()))
    }

    fn open(&self, blob: &[u8]) -> Result<Vec<f64>, Error> {
        Ok(decode_slots(blob)?)
    }
}
