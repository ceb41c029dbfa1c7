//! One product: tensor product, relinearization and rescaling at log Q of about 1300.

use super::setup::{Setup, log_p, log_q, operation_level};
use super::{Figures, Measuring, Times};
use crate::context::Context;
use crate::error::Result;
use undertone_he::{Evaluator, KeyId, KeyRequest};

/// Runs the benchmark.
pub fn run(measuring: Measuring, context: &Context) -> Result<()> {
    let parameters = measuring.parameters()?;
    let level = operation_level(&parameters);
    let setup =
        Setup::new(context, parameters, measuring.key_memory(), &[KeyRequest { id: KeyId::Relinearization, level }])?;
    let (a, b) = (setup.arbitrary(level), setup.arbitrary(level));
    let times = Times::measure(context, "multiply", measuring.run_count(20), || {
        std::hint::black_box(setup.evaluator.mul(&a, &b)?);
        Ok(())
    })?;
    let figures = Figures {
        name: "multiply",
        log_n: setup.parameters.chain().log_n,
        limbs: level + 1,
        log_qp: log_q(&setup.parameters, level) + log_p(&setup.parameters),
        threads: rayon::current_num_threads(),
        times: &times,
    };
    context.result(&figures.object().into(), || figures.line());
    Ok(())
}
