//! The bundled model: its calibration loads and belongs to it, and its circuit stays as cheap as it was.

mod session;

use session::{Session, chain};
use std::path::{Path, PathBuf};
use undertone_he::{ClearEvaluator, CostEvaluator};
use undertone_infer::{Calibration, Plan, Shape};
use undertone_model::{Llama, LlamaConfig, Tokenizer};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny")
}

#[test]
fn the_circuit_of_the_bundled_model_keeps_its_bootstraps() {
    let directory = directory();
    let calibration = Calibration::load(&directory).unwrap();
    let config = LlamaConfig::from_dir(&directory).unwrap();
    calibration.check_shape(&config).unwrap();
    let shape = Shape { public_tokens: 32, private_tokens: 16, max_new_tokens: 2 };
    let plan = Plan::new(&config, Some(&calibration), shape, &CostEvaluator::new(chain(16))).unwrap();
    // Two products at levels 5 and 4 per evaluated polynomial and bootstrapped value keep the guard sensitive.
    for (step, (bootstraps, key_switches)) in plan.steps.iter().zip([(9, 625), (8, 612)]) {
        println!("{:?}", step.counts);
        assert!(step.counts.bootstraps <= bootstraps && step.counts.key_switches <= key_switches);
    }
}

#[test]
fn its_demonstration_passes_the_guard_with_the_noise_of_bootstraps() {
    let directory = directory();
    let model = Llama::load(&directory).unwrap();
    let tokenizer = Tokenizer::load(&directory, &model.config).unwrap();
    let text = |name: &str| std::fs::read_to_string(directory.join("prompts").join(name)).unwrap();
    let public = tokenizer.encode(&text("demo.public.txt"), true).unwrap();
    let private = tokenizer.encode(&text("demo.private.txt"), false).unwrap();
    let calibration = Calibration::load(&directory).unwrap();
    let shape = Shape { public_tokens: public.len(), private_tokens: private.len(), max_new_tokens: 2 };
    // Bootstraps at the shipped parameters keep about 16 bits.
    let ev = ClearEvaluator::new(chain(13)).with_noise(16.0, 3);
    let mut session = Session::on(ev, &model, &calibration, shape, &public);
    for step in 0..2 {
        let output = if step == 0 { session.prefill(&private) } else { session.decode(private[0]) };
        session.read(&output).unwrap();
        let guard = session.ev.decrypt(&output.guard).into_iter().fold(0.0, f64::max);
        println!("step {step}: guard {guard:.3}");
        assert!(guard > 0.1 && guard <= 1.0, "{guard}");
    }
}
