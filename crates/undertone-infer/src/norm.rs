//! RMSNorm without its gain, which the following weights carry.

use crate::Error;
use crate::layer::NormPlan;
use crate::packing::Axis;
use crate::program::Pass;
use undertone_he::Evaluator;
use undertone_he::circuits::evaluate_chebyshev;

impl<E: Evaluator> Pass<'_, E> {
    /// x / √(mean(x²) + ε) over all channels of `axis`, per token.
    ///
    /// # Levels
    /// Starts by dropping x to `start`, which must lie below it; returns `start − plan.depth()`.
    pub(crate) fn norm(
        &mut self,
        x: &[E::Value],
        axis: Axis,
        plan: &NormPlan,
        start: usize,
    ) -> Result<Vec<E::Value>, Error> {
        let ev = self.ev;
        // Squares of scaled activations add up to the affine image of the mean square, which saves a level.
        let scaled = x.iter().map(|x| ev.drop_level(x, start, plan.factor)).collect::<Result<Vec<_>, _>>()?;
        let pairs: Vec<_> = scaled.iter().map(|x| (x, x)).collect();
        let sum = ev.rotate_sum(&ev.multiply_sum(&pairs)?, axis.stride as i32, axis.len)?;
        let unit = ev.add_constant(&sum, plan.constant)?;
        let (root, top) = evaluate_chebyshev(ev, &unit, &plan.poly)?;
        self.guard.push(ev, &top)?;
        x.iter().map(|x| Ok(ev.mul(x, &root)?)).collect()
    }
}
