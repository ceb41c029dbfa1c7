use super::*;
use undertone_model::synthetic::small_config;

fn plan(shape: Shape) -> Plan {
    let chain = Chain { log_n: 13, top_level: 21, boot_level: 3, max_level: 32, product_prime: None };
    Plan::new(&small_config(), None, shape, &CostEvaluator::new(chain)).unwrap()
}

#[test]
fn stages_add_up_to_their_step() {
    let plan = plan(Shape { public_tokens: 7, private_tokens: 20, max_new_tokens: 3 });
    assert!(plan.estimate);
    assert_eq!(plan.steps.len(), 3);
    for step in &plan.steps {
        let sum: u64 = step.stages.iter().map(|s| s.counts.key_switches).sum();
        // The guard's product follows the last stage.
        assert_eq!(sum + 1, step.counts.key_switches);
        assert_eq!(step.stages.iter().map(|s| s.counts.bootstraps).sum::<u64>(), step.counts.bootstraps);
        assert_eq!(step.stages.last().unwrap().stage, "head");
        assert_eq!(step.stages.len(), 8 * small_config().num_hidden_layers + 1);
    }
}

#[test]
fn decoding_bootstraps_no_more_than_the_prefill() {
    let plan = plan(Shape { public_tokens: 7, private_tokens: 20, max_new_tokens: 2 });
    assert!(plan.steps[1].counts.bootstraps <= plan.steps[0].counts.bootstraps);
    assert!(plan.steps[1].counts.key_switches < plan.steps[0].counts.key_switches);
}

#[test]
fn a_calibration_of_another_model_is_refused() {
    let mut other = assumed_calibration(&small_config());
    other.layers.pop();
    let shape = Shape { public_tokens: 7, private_tokens: 20, max_new_tokens: 1 };
    let chain = Chain { log_n: 13, top_level: 21, boot_level: 3, max_level: 32, product_prime: None };
    let refused = Plan::new(&small_config(), Some(&other), shape, &CostEvaluator::new(chain));
    assert!(matches!(refused, Err(Error::Calibration { what: "layers", .. })));
}
