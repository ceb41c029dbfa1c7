//! Seeded encryption of slot vectors.

use crate::secret_key::{SecretPoly, restrict};
use crate::{Error, SecretKey};
use undertone_he::{CIPHERTEXT_COUNTER, Parameters, SeededCiphertext, Slots};
use undertone_ring::{SecretRng, expand_uniform};
use zeroize::{Zeroize, Zeroizing};

/// Encrypts under one secret.
pub struct Encryptor<'a> {
    parameters: &'a Parameters,
    secret: &'a SecretKey,
}

impl<'a> Encryptor<'a> {
    /// An encryptor for `secret`.
    pub fn new(parameters: &'a Parameters, secret: &'a SecretKey) -> Self {
        Self { parameters, secret }
    }

    /// A fresh encryption at `level`, at its canonical scale; every call draws new randomness.
    ///
    /// # Errors
    /// `Request` for a level above the chain's top.
    pub fn encrypt(&self, slots: &Slots, level: usize, rng: &mut SecretRng) -> Result<SeededCiphertext, Error> {
        let top = self.parameters.chain().top_level;
        if level > top {
            return Err(Error::Request { have: level, need: top });
        }
        let (ring, basis) = (self.parameters.ring(), self.parameters.basis(level));
        let seed = rng.public_seed();
        let errors = Zeroizing::new(rng.cbd21(ring.degree()));
        let mut c0 = ring.ntt(ring.from_signed(&errors, basis));
        // a·s gives the secret away, so its buffer must not go back to the ring's pool as it is.
        let mut masked = SecretPoly(expand_uniform(ring, &seed, CIPHERTEXT_COUNTER, basis));
        ring.mul_assign(&mut masked.0, &restrict(&self.secret.main, ring, basis).0);
        ring.sub_assign(&mut c0, &masked.0);
        let encoder = self.parameters.encoder();
        let coefficients = Zeroizing::new(encoder.encode_real(slots.period(), self.parameters.scale(level))?);
        let gap = encoder.log_gap(slots.period().len());
        let mut plaintext = ring.ntt_compact(&coefficients, gap, basis);
        ring.add_compact_assign(&mut c0, &plaintext);
        plaintext.zeroize();
        Ok(SeededCiphertext::from_parts(c0, seed))
    }
}
