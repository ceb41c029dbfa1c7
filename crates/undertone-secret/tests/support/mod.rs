//! A client and an evaluator over all keys that a set of rotations and bootstraps needs.
#![allow(dead_code)]

use std::sync::Arc;
use undertone_he::circuits::pc_matmul::{PcMatmul, ProductKeys, ProductParameters};
use undertone_he::{
    Ciphertext, CkksEvaluator, EvaluationKeys, KeyMemory, KeySet, Parameters, Slots, bootstrap_model, key_requests,
};
use undertone_secret::{Decryptor, Encryptor, KeyGenerator, ProductKeyGenerator, SecretKey, SecretRng};

pub struct Client {
    pub parameters: Parameters,
    pub secret: SecretKey,
}

impl Client {
    pub fn new(parameters: Parameters) -> Self {
        let mut rng = SecretRng::from_os().unwrap();
        let secret = SecretKey::generate(&parameters, &mut rng);
        Self { parameters, secret }
    }

    pub fn evaluator(&self, set: &KeySet) -> CkksEvaluator {
        let evaluator = CkksEvaluator::new(&self.parameters, Arc::new(self.keys(set, &KeyMemory::Expanded)));
        set.product_tokens.iter().fold(evaluator, |evaluator, &tokens| evaluator.with_products(self.product(tokens)))
    }

    /// The keys of a set but those of products, which wait as `memory` says.
    pub fn keys(&self, set: &KeySet, memory: &KeyMemory) -> EvaluationKeys {
        let mut rng = SecretRng::from_os().unwrap();
        let generator = KeyGenerator::new(&self.parameters, &self.secret);
        let mut keys = EvaluationKeys::new(&self.parameters, memory).unwrap();
        for request in key_requests(&self.parameters, set) {
            keys.insert(generator.generate(&request, &mut rng).unwrap()).unwrap();
        }
        keys
    }

    fn product(&self, tokens: usize) -> PcMatmul {
        let mut rng = SecretRng::from_os().unwrap();
        let parameters = ProductParameters::of_turn(&self.parameters, tokens).unwrap();
        let generator = ProductKeyGenerator::new(&parameters, &self.secret, &mut rng);
        let keys = ProductKeys::new(&parameters, generator.generate_all(&mut rng).unwrap()).unwrap();
        PcMatmul::new(&parameters, Arc::new(keys))
    }

    pub fn encrypt(&self, slots: &Slots, level: usize) -> Ciphertext {
        let mut rng = SecretRng::from_os().unwrap();
        let encryptor = Encryptor::new(&self.parameters, &self.secret);
        encryptor.encrypt(slots, level, &mut rng).unwrap().expand(&self.parameters)
    }

    pub fn decrypt(&self, value: &Ciphertext) -> Vec<f64> {
        Decryptor::new(&self.parameters, &self.secret).decrypt(value).unrounded_for_measurement()
    }
}

/// The keys of bootstraps of the given periods plus `rotations` at the highest level.
pub fn key_set(parameters: &Parameters, periods: &[(usize, bool)], rotations: &[i32]) -> KeySet {
    let chain = parameters.chain();
    let model = bootstrap_model(parameters);
    let mut set = KeySet { relinearization_level: Some(chain.top_level), ..KeySet::default() };
    let normalised = |by: i32| i64::from(by).rem_euclid(chain.slot_count() as i64) as i32;
    for &by in rotations.iter().filter(|&&by| normalised(by) != 0) {
        set.rotations.insert(normalised(by), chain.max_level);
    }
    for &(period, pair) in periods {
        let cost = model(period, pair).unwrap();
        set.relinearization_level = set.relinearization_level.max(Some(cost.relinearization_level));
        set.conjugation_level = set.conjugation_level.max(Some(cost.conjugation_level));
        for (by, level) in cost.rotations {
            let highest = set.rotations.entry(by).or_default();
            *highest = level.max(*highest);
        }
    }
    set
}

/// Deterministic values in [−1, 1].
pub fn sample(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 11) as f64 / (1u64 << 53) as f64).mul_add(2.0, -1.0)
        })
        .collect()
}

pub fn worst(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}
