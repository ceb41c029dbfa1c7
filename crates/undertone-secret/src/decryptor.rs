//! Decryption. Only this crate turns a ciphertext into values, and it gives them out rounded.
//!
//! The error of an approximate decryption depends on the secret (Li–Micciancio, eprint 2020/1533). Decrypted values
//! therefore stay at the client; what leaves this type is rounded to a declared precision, and nothing derived from it
//! may be sent anywhere except as a fresh encryption.

use crate::SecretKey;
use crate::secret_key::{SecretPoly, restrict};
use num_complex::Complex64;
use undertone_he::{Ciphertext, Parameters};
use undertone_ring::{Basis, Coeff};
use zeroize::Zeroizing;

/// No result leaves this crate with more bits after the binary point: about what a bootstrap keeps.
pub const DECLARED_PRECISION_BITS: u32 = 14;

/// Decrypts under one secret.
pub struct Decryptor<'a> {
    parameters: &'a Parameters,
    secret: &'a SecretKey,
}

impl<'a> Decryptor<'a> {
    /// A decryptor for `secret`.
    pub fn new(parameters: &'a Parameters, secret: &'a SecretKey) -> Self {
        Self { parameters, secret }
    }

    /// Decrypts. A wrong key or a damaged ciphertext gives noise, never an error.
    pub fn decrypt(&self, ciphertext: &Ciphertext) -> Decrypted {
        let ring = self.parameters.ring();
        // Two limbs hold every value a circuit may return; more would only make the reconstruction wider.
        let basis = Basis { q: (ciphertext.level() + 1).min(2), p: 0 };
        let (c0, c1) = ciphertext.parts();
        let mut message = SecretPoly(ring.restrict(c0, basis));
        let secret = restrict(&self.secret.main, ring, basis);
        ring.mul_add_assign(&mut message.0, &ring.restrict(c1, basis), &secret.0);
        // `intt` takes its input by value: the NTT form is cloned so that the guarded copy is erased as well.
        let coefficients = SecretPoly::<Coeff>(ring.intt(message.0.clone()));
        let values = self.centred(&coefficients, ciphertext.scale());
        Decrypted { slots: self.parameters.encoder().decode(&values) }
    }

    /// Centred coefficients divided by the scale.
    fn centred(&self, message: &SecretPoly<Coeff>, scale: f64) -> Zeroizing<Vec<f64>> {
        let moduli = self.parameters.ring().q_moduli();
        let low = message.0.limb(0);
        if message.0.basis().q == 1 {
            return Zeroizing::new(low.iter().map(|&x| moduli[0].center(x) as f64 / scale).collect());
        }
        let (q0, q1) = (moduli[0], moduli[1]);
        let inverse = q1.inverse(q1.reduce(q0.value()));
        let product = i128::from(q0.value()) * i128::from(q1.value());
        let garner = |(&x0, &x1): (&u64, &u64)| {
            let difference = q1.mul(q1.sub(x1, q1.reduce(x0)), inverse);
            let value = i128::from(x0) + i128::from(q0.value()) * i128::from(difference);
            // All ones in the upper half; a branch would depend on the plaintext.
            let above = (product / 2 - value) >> 127;
            (value - (product & above)) as f64 / scale
        };
        Zeroizing::new(low.iter().zip(message.0.limb(1)).map(garner).collect())
    }
}

/// Slots of a decrypted value; cannot be printed, cloned or serialized, and is erased when dropped.
pub struct Decrypted {
    slots: Vec<Complex64>,
}

impl Decrypted {
    /// Real parts rounded to multiples of 2^-`precision_bits`, at most [`DECLARED_PRECISION_BITS`].
    pub fn rounded(&self, precision_bits: u32) -> Vec<f64> {
        let unit = f64::from(precision_bits.min(DECLARED_PRECISION_BITS)).exp2();
        self.slots.iter().map(|z| (z.re * unit).round() / unit).collect()
    }

    /// Real parts with all their noise, which depends on the secret: for measuring precision on values of one's own
    /// making, under a key that is thrown away. Never for results of a session.
    pub fn unrounded_for_measurement(&self) -> Vec<f64> {
        self.slots.iter().map(|z| z.re).collect()
    }

    /// Whether every imaginary part is within `tolerance` of zero, as in every honest result.
    pub fn imaginary_within(&self, tolerance: f64) -> bool {
        self.slots.iter().all(|z| z.im.abs() <= tolerance)
    }
}

impl Drop for Decrypted {
    fn drop(&mut self) {
        self.slots.fill(Complex64::new(0.0, 0.0));
        std::hint::black_box(&self.slots);
    }
}
