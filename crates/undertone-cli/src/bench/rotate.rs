//! One rotation: a key switch at log Q of about 1300.

use super::setup::{Setup, log_p, log_q, operation_level};
use super::{Figures, Measuring, Times};
use crate::context::Context;
use crate::error::Result;
use undertone_he::{Evaluator, KeyId, KeyRequest, rotation_element};

/// Runs the benchmark.
pub fn run(measuring: Measuring, context: &Context) -> Result<()> {
    let parameters = measuring.parameters()?;
    let level = operation_level(&parameters);
    let request = KeyRequest { id: KeyId::Galois(rotation_element(parameters.chain(), 1)), level };
    let setup = Setup::new(context, parameters, measuring.key_memory(), &[request])?;
    let input = setup.arbitrary(level);
    let times = Times::measure(context, "rotate", measuring.run_count(20), || {
        std::hint::black_box(setup.evaluator.rotate(&input, 1)?);
        Ok(())
    })?;
    let figures = Figures {
        name: "rotate",
        log_n: setup.parameters.chain().log_n,
        limbs: level + 1,
        log_qp: log_q(&setup.parameters, level) + log_p(&setup.parameters),
        threads: rayon::current_num_threads(),
        times: &times,
    };
    context.result(&figures.object().into(), || figures.line());
    Ok(())
}
