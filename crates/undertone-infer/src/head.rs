//! The end of a step: final norm, output head, guard.

use crate::Error;
use crate::matmul::AxisProduct;
use crate::mlp::Frame;
use crate::program::{Pass, StepOutput};
use crate::refresh::drop_to;
use undertone_he::Evaluator;

impl<E: Evaluator> Pass<'_, E> {
    /// Logits of one token from its residual stream in the dense frame, at the top level.
    pub(crate) fn head(mut self, x: &[E::Value]) -> Result<StepOutput<E>, Error> {
        let program = self.program;
        let (layout, plan) = (&program.layout, &program.head);
        let start = plan.start();
        let input = self.channels(Frame::Dense, layout.hidden);
        let normed = self.norm(x, input, &plan.norm, start)?;
        let normed = drop_to(self.ev, &normed, plan.out_level + 1)?;
        let output = program.logit_axis();
        let entry = |_: usize, (o, p): (usize, usize), (_, c): (usize, usize)| {
            let row = o * output.len + p;
            match self.model {
                Some(model) if row < layout.vocab && c < layout.hidden => {
                    f64::from(model.head.data[row * layout.hidden + c]) * f64::from(model.final_norm[c])
                        / plan.logit_bound
                }
                _ => 0.0,
            }
        };
        let logits = AxisProduct::new(layout.slot_count, input, output, &entry).apply(self.ev, &normed)?;
        self.steps.done("head", program.layers.len())?;
        Ok(StepOutput { logits, guard: self.guard.finish(self.ev)? })
    }
}
