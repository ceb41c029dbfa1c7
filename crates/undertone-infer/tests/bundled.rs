//! The bundled model: its calibration loads and belongs to it, and its circuit stays as cheap as it was.

mod session;

use session::chain;
use std::path::Path;
use undertone_he::CostEvaluator;
use undertone_infer::{Calibration, Plan, Shape};
use undertone_model::LlamaConfig;

#[test]
fn the_circuit_of_the_bundled_model_keeps_its_bootstraps() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
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
