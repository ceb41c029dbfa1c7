//! Keys, ciphertexts and evaluators for benchmarks: both sides in one process.

use crate::context::Context;
use crate::error::Result;
use std::sync::Arc;
use undertone_he::circuits::pc_matmul::{PcMatmul, ProductKeys, ProductParameters};
use undertone_he::{
    Ciphertext, CkksEvaluator, EvaluationKeys, KeyMemory, KeyRequest, KeySet, Parameters, Slots, key_requests,
};
use undertone_ring::{Seed, expand_uniform};
use undertone_secret::{Decryptor, Encryptor, KeyGenerator, ProductKeyGenerator, SecretKey, SecretRng};

/// Least log2 Q at which rotation and multiplication are measured.
const OPERATION_LOG_Q: f64 = 1300.0;

/// One secret and an evaluator with the keys that a benchmark needs.
pub struct Setup {
    /// The parameters in use.
    pub parameters: Parameters,
    /// The evaluator.
    pub evaluator: CkksEvaluator,
    /// Memory of the evaluation keys.
    pub key_bytes: usize,
    /// Disk of the evaluation keys.
    pub key_disk_bytes: u64,
    secret: SecretKey,
    rng: SecretRng,
}

impl Setup {
    /// Makes a secret and the requested keys.
    ///
    /// # Errors
    /// What key generation refuses.
    pub fn new(context: &Context, parameters: Parameters, memory: KeyMemory, requests: &[KeyRequest]) -> Result<Self> {
        let mut rng = SecretRng::from_os()?;
        let secret = SecretKey::generate(&parameters, &mut rng);
        let generator = KeyGenerator::new(&parameters, &secret);
        let mut keys = EvaluationKeys::new(&parameters, &memory)?;
        context.progress.begin("keys", requests.len() as u64);
        for (index, request) in requests.iter().enumerate() {
            keys.insert(generator.generate(request, &mut rng)?)?;
            context.progress.advance_to(index as u64 + 1, "key");
        }
        let (key_bytes, key_disk_bytes) = (keys.size_bytes(), keys.disk_bytes());
        let evaluator = CkksEvaluator::new(&parameters, Arc::new(keys));
        Ok(Self { parameters, evaluator, key_bytes, key_disk_bytes, secret, rng })
    }

    /// Makes a secret and all keys of a set, those of matrix products among them.
    ///
    /// # Errors
    /// What key generation refuses.
    pub fn for_key_set(context: &Context, parameters: Parameters, memory: KeyMemory, set: &KeySet) -> Result<Self> {
        let requests = key_requests(&parameters, set);
        let mut setup = Self::new(context, parameters, memory, &requests)?;
        for &tokens in &set.product_tokens {
            let product = ProductParameters::of_turn(&setup.parameters, tokens)?;
            let generator = ProductKeyGenerator::new(&product, &setup.secret, &mut setup.rng);
            let keys = ProductKeys::new(&product, generator.generate_all(&mut setup.rng)?)?;
            setup.key_bytes += keys.size_bytes();
            setup.evaluator = setup.evaluator.with_products(PcMatmul::new(&product, Arc::new(keys)));
        }
        Ok(setup)
    }

    /// `count` uniform values in [−1, 1).
    pub fn random_values(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| (self.rng.next_u64() >> 11) as f64 * 2f64.powi(-52) - 1.0).collect()
    }

    /// A fresh encryption.
    ///
    /// # Errors
    /// What encryption refuses.
    pub fn encrypt(&mut self, values: &[f64], level: usize) -> Result<Ciphertext> {
        let slots = Slots::new(values.to_vec(), self.parameters.chain().slot_count())?;
        self.encrypt_slots(&slots, level)
    }

    /// A fresh encryption of one period of slots.
    ///
    /// # Errors
    /// What encryption refuses.
    pub fn encrypt_slots(&mut self, slots: &Slots, level: usize) -> Result<Ciphertext> {
        let encryptor = Encryptor::new(&self.parameters, &self.secret);
        Ok(encryptor.encrypt(slots, level, &mut self.rng)?.expand(&self.parameters))
    }

    /// A ciphertext for timing, at any level of the chain, above that of fresh encryptions too.
    ///
    /// Both halves are uniform, as those of any ciphertext look; what it would decrypt to is noise.
    pub fn arbitrary(&self, level: usize) -> Ciphertext {
        let (ring, basis) = (self.parameters.ring(), self.parameters.basis(level));
        let uniform = |counter| expand_uniform(ring, &Seed([7; 32]), counter, basis);
        Ciphertext::from_parts(uniform(0), uniform(1), self.parameters.scale(level))
    }

    /// The real parts of all slots; 40 bits are far below the errors that are measured.
    pub fn decrypt(&self, ciphertext: &Ciphertext) -> Vec<f64> {
        Decryptor::new(&self.parameters, &self.secret).decrypt(ciphertext).unrounded_for_measurement()
    }

    /// The largest and the mean magnitude of decrypted slots less the expected ones, which repeat.
    pub fn errors(&self, ciphertext: &Ciphertext, expected: &[f64]) -> (f64, f64) {
        let found = self.decrypt(ciphertext);
        let errors = found.iter().zip(expected.iter().cycle()).map(|(a, b)| (a - b).abs());
        let (mut largest, mut sum) = (0f64, 0f64);
        for error in errors {
            largest = largest.max(error);
            sum += error;
        }
        (largest, sum / found.len() as f64)
    }
}

/// log2 of the product of the primes up to `level`.
pub fn log_q(parameters: &Parameters, level: usize) -> f64 {
    parameters.ring().q_moduli()[..=level].iter().map(|modulus| (modulus.value() as f64).log2()).sum()
}

/// log2 of the product of the special primes.
pub fn log_p(parameters: &Parameters) -> f64 {
    parameters.ring().p_moduli().iter().map(|modulus| (modulus.value() as f64).log2()).sum()
}

/// The lowest level whose log2 Q is at least 1300, or the highest there is.
pub fn operation_level(parameters: &Parameters) -> usize {
    let highest = parameters.chain().max_level;
    (0..highest).find(|&level| log_q(parameters, level) >= OPERATION_LOG_Q).unwrap_or(highest)
}
