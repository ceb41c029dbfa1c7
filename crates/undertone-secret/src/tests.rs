//! Nothing secret is left in the buffers that a ring hands out again.

use crate::secret_key::{SecretPoly, restrict};
use crate::{Decryptor, Encryptor, KeyGenerator, SecretKey};
use std::collections::HashSet;
use undertone_he::{CIPHERTEXT_COUNTER, KeyId, KeyRequest, Parameters, Slots};
use undertone_ring::{Basis, Coeff, Form, Poly, Ring, SecretRng, Seed, expand_uniform};
use zeroize::Zeroize;

const LOG_N: u32 = 9;

/// Pairs of neighbouring words of secrets. A pair of residues is rare enough to name its polynomial.
#[derive(Default)]
struct Traces(HashSet<(u64, u64)>);

impl Traces {
    /// Two small words, such as 0 and 1, name nothing.
    fn telling(words: &[u64]) -> impl Iterator<Item = (u64, u64)> {
        words.windows(2).map(|pair| (pair[0], pair[1])).filter(|pair| pair.0.max(pair.1) > 1 << 20)
    }

    fn add<F: Form>(&mut self, poly: &Poly<F>) {
        self.0.extend(Self::telling(poly.data()));
    }

    /// How many are among `released`, the words of released buffers at some moment.
    fn left_in(&self, released: &[u64]) -> usize {
        Self::telling(released).filter(|pair| self.0.contains(pair)).count()
    }
}

/// The product a·s of an object whose seed is `bytes`, as encryption computes it.
fn mask(ring: &Ring, bytes: &[u8], counter: u64, secret: &SecretPoly, basis: Basis) -> SecretPoly {
    let seed = Seed(bytes[64..96].try_into().unwrap());
    let uniform = expand_uniform(ring, &seed, counter, basis);
    SecretPoly(ring.mul(&uniform, &restrict(secret, ring, basis).0))
}

#[test]
fn secret_keys_and_what_evaluation_keys_are_made_of_are_erased() {
    let parameters = Parameters::insecure_test(LOG_N);
    let (ring, small) = (parameters.ring(), parameters.sparse_ring());
    let mut rng = SecretRng::from_os().unwrap();
    let key = SecretKey::generate(&parameters, &mut rng);
    let mut traces = Traces::default();
    for secret in [&key.main, &key.ephemeral, &key.small_main, &key.small_ephemeral] {
        traces.add(&secret.0);
    }
    traces.add(&SecretPoly::<Coeff>(ring.intt(key.main.0.clone())).0);
    let top = parameters.chain().max_level;
    // Later work overwrites buffers, so each step has its own look at them.
    let mut released = Vec::new();
    let generator = KeyGenerator::new(&parameters, &key);
    for (id, level) in [
        (KeyId::Relinearization, top),
        (KeyId::Galois(5), 2),
        (KeyId::FromSparse, top),
        (KeyId::ToSparse, 0),
        (KeyId::Galois(25), top),
    ] {
        let made = generator.generate(&KeyRequest { id, level }, &mut rng).unwrap().to_bytes(&parameters);
        released.push(ring.released_words());
        released.push(small.released_words());
        if matches!(id, KeyId::Relinearization | KeyId::FromSparse) {
            let basis = parameters.key_basis(level);
            for digit in 0..parameters.digits(level).len() as u64 {
                traces.add(&mask(ring, &made, digit, &key.main, basis).0);
            }
        }
        if id == KeyId::ToSparse {
            traces.add(&mask(small, &made, 0, &key.small_ephemeral, Basis { q: 1, p: 1 }).0);
        }
    }
    traces.add(&SecretPoly(ring.mul(&key.main.0, &key.main.0)).0);
    for element in [5, 25, inverse(5), inverse(25)] {
        traces.add(&SecretPoly(ring.automorphism(&key.main.0, &ring.permutation(element))).0);
    }
    // The search finds what is not erased.
    drop(key.main.0.clone());
    assert!(traces.left_in(&ring.released_words()) > 1 << LOG_N);
    drop(SecretPoly::<Coeff>(ring.zero(key.main.0.basis())));
    assert_eq!(traces.left_in(&ring.released_words()), 0, "the overwritten copy was the only one");
    drop(key);
    released.extend([ring.released_words(), small.released_words()]);
    for (step, words) in released.iter().enumerate() {
        assert_eq!(traces.left_in(words), 0, "after step {step}");
    }
    assert!(ring.released_words().len() > 100 << LOG_N && small.released_words().len() >= 2 << LOG_N);
}

/// The inverse of a Galois element: its powers run through a group of order N/2.
fn inverse(element: u64) -> u64 {
    (0..(1 << (LOG_N - 1)) - 1).fold(1, |power: u64, _| power * element % (2 << LOG_N))
}

#[test]
fn plaintexts_and_masks_of_encryption_and_decryption_are_erased() {
    let parameters = Parameters::insecure_test(LOG_N);
    let ring = parameters.ring();
    let mut rng = SecretRng::from_os().unwrap();
    let key = SecretKey::generate(&parameters, &mut rng);
    let mut traces = Traces::default();
    let slot_count = parameters.chain().slot_count();
    for (period, level) in [(slot_count, parameters.chain().top_level), (32, 3), (slot_count, 0)] {
        let values: Vec<f64> = (0..period).map(|slot| (slot as f64 * 0.7).sin()).collect();
        let slots = Slots::new(values, slot_count).unwrap();
        let sealed = Encryptor::new(&parameters, &key).encrypt(&slots, level, &mut rng).unwrap();
        let after_encryption = ring.released_words();
        let bytes = sealed.to_bytes(&parameters);
        let ciphertext = sealed.expand(&parameters);
        let found = Decryptor::new(&parameters, &key).decrypt(&ciphertext).rounded(14);
        let after_decryption = ring.released_words();
        assert!((found[3] - 2.1f64.sin()).abs() < 1e-3);

        // What both sides computed on the way, once more.
        let mut masked = mask(ring, &bytes, CIPHERTEXT_COUNTER, &key.main, parameters.basis(level));
        traces.add(&masked.0);
        ring.add_assign(&mut masked.0, ciphertext.parts().0);
        traces.add(&masked.0);
        let two = Basis { q: (level + 1).min(2), p: 0 };
        traces.add(&SecretPoly::<Coeff>(ring.intt(SecretPoly(ring.restrict(&masked.0, two)).0.clone())).0);
        let encoder = parameters.encoder();
        let coefficients = encoder.encode_real(slots.period(), parameters.scale(level)).unwrap();
        let mut plaintext = ring.ntt_compact(&coefficients, encoder.log_gap(period), parameters.basis(level));
        for limb in 0..=level {
            traces.0.extend(Traces::telling(plaintext.limb(limb)));
        }
        plaintext.zeroize();
        drop(plaintext);
        let left = [after_encryption, after_decryption, ring.released_words()].map(|words| traces.left_in(&words));
        assert_eq!(left, [0; 3], "period {period} at level {level}");
    }
    assert!(traces.0.len() > 10 << LOG_N && ring.released_words().len() > 10 << LOG_N);
}
