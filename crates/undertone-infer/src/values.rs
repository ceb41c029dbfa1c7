//! The weighted sum of values: public ones as a plaintext product, private ones from the encrypted cache.
//!
//! Weights are the squared, not yet normalised ones of the softmax; the inverse of their sum multiplies the result,
//! which is much smaller than they are.

use crate::Error;
use crate::lanes::{Shear, bundle_mask, bundle_place, bundles_at_a_time, for_each_bundle, sheared};
use crate::matmul::AxisProduct;
use crate::packing::Key;
use crate::program::Pass;
use crate::scores::public_score_axis;
use crate::softmax::add_all;
use undertone_he::Evaluator;

/// Most products that are kept before they are added up with one relinearization.
const PRODUCTS: usize = 8;

impl<E: Evaluator> Pass<'_, E> {
    /// Σ weight · value / value bound for all queries of the block, in the lane frame: the sum over lanes is left to
    /// the output projection.
    ///
    /// # Levels
    /// Two below `weights`; `values` start at the level that the plan of the layer names.
    pub(crate) fn block_values(
        &self,
        layer: usize,
        weights: &[E::Value],
        values: Vec<E::Value>,
    ) -> Result<Vec<E::Value>, Error> {
        let (ev, layout) = (self.ev, &self.program.layout);
        let bound = self.program.layers[layer].value_bound;
        let input = public_score_axis(layout);
        let entry = |low: usize, (o, p): (usize, usize), (i, b): (usize, usize)| {
            let at = layout.score_at(i, low + layout.lane_stride() * b);
            match (at.key, self.public) {
                (Key::Public(position), Some(cache)) => {
                    cache.value(layer, position, at.head, o * layout.head_len + p) / bound
                }
                _ => 0.0,
            }
        };
        let output = layout.lane_coordinate_axis();
        let product = AxisProduct::new(layout.slot_count, input, output, &entry).in_runs(layout.block);
        let public = product.apply(ev, &weights[..input.count])?;

        let private = self.private_block_values(self.program.layers[layer].softmax.parts, weights, values)?;
        public.iter().zip(&private).map(|(public, private)| Ok(ev.add(public, private)?)).collect()
    }

    fn private_block_values(
        &self,
        parts: usize,
        weights: &[E::Value],
        values: Vec<E::Value>,
    ) -> Result<Vec<E::Value>, Error> {
        let (ev, layout) = (self.ev, &self.program.layout);
        let positions = layout.lane_positions();
        let stride = layout.lane_stride() as i32;
        let bundles = layout.private_groups() / parts;
        // Per part and ciphertext.
        let mut sums: Vec<Vec<Option<E::Value>>> = vec![vec![None; layout.head_count]; parts];
        let mut waiting: Vec<E::Value> = Vec::new();
        let mut moved: Vec<Vec<Vec<E::Value>>> = Vec::new();
        let values = sheared(ev, layout, parts, values, Shear::Values)?;
        let products = bundles_at_a_time(ev, &values, PRODUCTS);
        for_each_bundle(ev, layout, parts, values, |bundle, values| {
            self.steps.poll()?;
            let (count, _) = bundle_place(layout, parts, bundle);
            let masked = ev.mul_slots(&weights[count], &bundle_mask(layout, parts, bundle, 1.0))?;
            let weight = ev.rotate_sum(&masked, stride * parts as i32, positions / parts)?;
            waiting.push(weight);
            moved.push(values);
            if waiting.len() < products && bundle + 1 < bundles {
                return Ok(());
            }
            for (m, sums) in sums.iter_mut().enumerate() {
                for (o, sum) in sums.iter_mut().enumerate() {
                    let pairs: Vec<_> =
                        waiting.iter().zip(&moved).map(|(weight, values)| (weight, &values[m][o])).collect();
                    let products = ev.multiply_sum(&pairs)?;
                    *sum = Some(match sum.take() {
                        Some(sum) => ev.add(&sum, &products)?,
                        None => products,
                    });
                }
            }
            waiting.clear();
            moved.clear();
            Ok(())
        })?;
        (0..layout.head_count)
            .map(|o| {
                let moved = sums
                    .iter()
                    .enumerate()
                    .filter_map(|(m, sums)| sums[o].as_ref().map(|sum| ev.rotate(sum, m as i32 * stride)))
                    .collect::<Result<Vec<_>, _>>()?;
                add_all(ev, &moved)
            })
            .collect()
    }

    /// Σ weight · value / value bound for one query, in the block frame, still per row: the sum over rows is left to
    /// the output projection.
    ///
    /// # Levels
    /// One below `public`, `private` and `values`.
    pub(crate) fn token_values(
        &self,
        layer: usize,
        public: &[E::Value],
        private: &[E::Value],
        values: &[Vec<E::Value>],
    ) -> Result<Vec<E::Value>, Error> {
        let (ev, layout) = (self.ev, &self.program.layout);
        let bound = self.program.layers[layer].value_bound;
        let input = layout.public_block_axis();
        let entry = |low: usize, (o, p): (usize, usize), (i, b): (usize, usize)| {
            let position = low % layout.block + layout.block * (i * input.len + b);
            let head = low / layout.block;
            let live = position < layout.shape.public_tokens && head < layout.heads;
            match self.public.filter(|_| live) {
                Some(cache) => cache.value(layer, position, head, o * layout.head_len + p) / bound,
                None => 0.0,
            }
        };
        let product = AxisProduct::new(layout.slot_count, input, layout.coordinate_axis(), &entry);
        let sums = product.apply(ev, public)?;
        sums.into_iter()
            .enumerate()
            .map(|(o, sum)| {
                let pairs: Vec<_> = private.iter().zip(values).map(|(w, block)| (w, &block[o])).collect();
                let private = ev.multiply_sum(&pairs)?;
                add_all(ev, &[sum, private])
            })
            .collect()
    }
}
