//! The shipped parameters, end to end without the socket: one key set serves a bootstrap whose precision is checked and
//! an encrypted pass of the bundled model, layer by layer counted as planned and compared with the clear model.
//!
//! One test on purpose: the expanded keys take about 9 GB, and are made once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use undertone_he::{
    Ciphertext, CkksEvaluator, CostEvaluator, EvaluationKeys, Evaluator, KeyMemory, Parameters, Slots, bootstrap_model,
    key_requests,
};
use undertone_infer::{Calibration, Plan, Program, PublicCache, Shape};
use undertone_model::{Llama, Tokenizer, reference};
use undertone_secret::{Decryptor, Encryptor, KeyGenerator, SecretKey, SecretRng};

struct Client {
    parameters: Parameters,
    secret: SecretKey,
    rng: SecretRng,
}

impl Client {
    fn encrypt(&mut self, slots: &Slots, level: usize) -> Ciphertext {
        let encryptor = Encryptor::new(&self.parameters, &self.secret);
        encryptor.encrypt(slots, level, &mut self.rng).unwrap().expand(&self.parameters)
    }

    fn decrypt(&self, value: &Ciphertext) -> Vec<f64> {
        Decryptor::new(&self.parameters, &self.secret).decrypt(value).unrounded_for_measurement()
    }

    fn keys(&mut self, plan: &Plan) -> EvaluationKeys {
        let generator = KeyGenerator::new(&self.parameters, &self.secret);
        let mut keys = EvaluationKeys::new(&self.parameters, &KeyMemory::Seeded).unwrap();
        for request in key_requests(&self.parameters, &plan.keys) {
            keys.insert(generator.generate(&request, &mut self.rng).unwrap()).unwrap();
        }
        keys
    }
}

fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny")
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

/// Worst slot of one bootstrap of two random real values.
fn bootstrap_error(client: &mut Client, ev: &CkksEvaluator, period: usize) -> f64 {
    let mut random = || {
        let uniform = (0..period).map(|_| (client.rng.next_u64() >> 11) as f64 / (1u64 << 52) as f64 - 1.0);
        uniform.collect::<Vec<f64>>()
    };
    let (x, y) = (random(), random());
    let (chain, slots) = (ev.chain(), ev.chain().slot_count());
    let lo = client.encrypt(&Slots::new(x.clone(), slots).unwrap(), chain.boot_level);
    let hi = client.encrypt(&Slots::new(y.clone(), slots).unwrap(), chain.boot_level);
    let (a, b) = ev.half_bootstrap(&lo, Some(&hi), period).unwrap();
    assert_eq!(a.level(), chain.top_level);
    let high = largest_difference(&client.decrypt(&b.unwrap()), &y);
    largest_difference(&client.decrypt(&a), &x).max(high)
}

#[test]
fn a_bootstrap_and_the_bundled_model_at_the_shipped_parameters() {
    let dir = bundled();
    let model = Llama::load(&dir).unwrap();
    let tokenizer = Tokenizer::load(&dir, &model.config).unwrap();
    let calibration = Calibration::load(&dir.join("undertone-calibration.json")).unwrap();
    calibration.check_model(&model).unwrap();
    let text = |name: &str| std::fs::read_to_string(dir.join("prompts").join(name)).unwrap();
    let public = tokenizer.encode(&text("demo.public.txt"), true).unwrap();
    let private = tokenizer.encode(&text("demo.private.txt"), false).unwrap();
    let shape = Shape { public_tokens: public.len(), private_tokens: private.len(), max_new_tokens: 1 };

    let parameters = Parameters::default_preset();
    assert!(parameters.security_bits() >= 128 && parameters.failure_log2() <= -128.0);
    let cost = CostEvaluator::new(parameters.chain()).with_bootstrap_model(bootstrap_model(&parameters));
    let plan = Plan::new(&model.config, Some(&calibration), shape, &cost).unwrap();
    let mut rng = SecretRng::from_os().unwrap();
    let secret = SecretKey::generate(&parameters, &mut rng);
    let mut client = Client { parameters: parameters.clone(), secret, rng };
    let keys = Arc::new(client.keys(&plan));

    let period = plan.keys.bootstrap_periods.iter().filter(|(_, pair)| **pair).map(|(period, _)| *period).max();
    let error = bootstrap_error(&mut client, &CkksEvaluator::new(&parameters, keys.clone()), period.unwrap());
    println!("bootstrap of a pair of {} slots: worst slot 2^{:.2}", period.unwrap(), error.log2());
    assert!(error < 2f64.powi(-15), "worst slot 2^{:.2}", error.log2());

    let ev = CkksEvaluator::new(&parameters, keys);
    let program = Program::new(&model.config, &calibration, shape, parameters.chain()).unwrap();
    let cache = PublicCache::new(&model, &public).unwrap();
    let embeddings: Vec<Vec<f32>> = private.iter().map(|&id| model.embed.row(id as usize).to_vec()).collect();
    let packed = program.pack_prompt(&embeddings).unwrap();
    let input = packed.iter().map(|slots| client.encrypt(slots, program.input_level())).collect();
    let (output, _) = program.prefill(&ev, &model, &cache, input, &()).unwrap();
    assert_eq!(ev.counts(), plan.steps[0].counts, "the plan must be what ran");

    let slots: Vec<Vec<f64>> = output.logits.iter().map(|value| client.decrypt(value)).collect();
    let logits = program.read_logits(&slots, &client.decrypt(&output.guard)).unwrap();
    let prompt: Vec<u32> = public.iter().chain(&private).copied().collect();
    let clear = reference::forward_last(&model, &mut reference::KvCache::new(&model.config), &prompt).unwrap();
    let error = logits.iter().zip(&clear).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("largest logit error {error:.4} of a bound of {:.1}", calibration.logit_bound);
    // Bootstraps keep 16 bits of values that are within 4 bits of their bounds; 2^-9 of the bound allows for two layers.
    assert!(f64::from(error) < calibration.logit_bound / 512.0);
    assert_eq!(undertone_model::sampling::greedy(&logits).unwrap(), undertone_model::sampling::greedy(&clear).unwrap());
}
