//! The user's answers to the provider's questions.

use zeroize::Zeroizing;

use super::{Active, Due, LayerCache, UserModel};
use crate::attention::{add_mixed, add_scores};
use crate::columns::columns;
use crate::error::Result;
use crate::fixed::{ACTIVATION_BITS, sum};
use crate::flight::{Flight, FlightKind};
use crate::nonlinear::{rms_norm, silu_product, softmax_rows};
use crate::random::Draw;
use crate::shape::Site;
use crate::truncation::{OFFSET, opened, pack, signed, unpacked};

impl Active {
    /// The answer to a question other than the last two.
    pub(super) fn answer(
        &mut self,
        model: &UserModel,
        caches: &mut [LayerCache],
        layer: usize,
        flight: &Flight,
    ) -> Result<Flight> {
        let (config, shape) = (&model.public.config, &model.shape);
        let epsilon = config.rms_norm_eps;
        let norm = |values: &[u64]| rms_norm(values, shape.hidden, model.public.residual_bits(), epsilon);
        Ok(match flight.kind {
            FlightKind::AttentionNorm => {
                self.site(Site::AttentionNorm, layer, flight, [FlightKind::AttentionNormed, FlightKind::Rotated], norm)
            }
            FlightKind::Rotated => self.scores(model, &mut caches[layer], layer, flight)?,
            FlightKind::Softmax => {
                let next = [FlightKind::Probabilities, FlightKind::Mix];
                let step = self.step;
                self.site(Site::Softmax, layer, flight, next, |values| softmax_rows(shape, &step, values))
            }
            FlightKind::Mix => self.mixed(model, &caches[layer], layer, flight),
            FlightKind::MlpNorm => {
                self.site(Site::MlpNorm, layer, flight, [FlightKind::MlpNormed, FlightKind::Gate], norm)
            }
            FlightKind::Gate => {
                let scales = &model.public.layers[layer];
                let bits = [scales.gate, scales.up].map(|bits| ACTIVATION_BITS + bits);
                let next = [FlightKind::Activated, FlightKind::AttentionNorm];
                let answer = self.site(Site::Activation, layer, flight, next, |values| silu_product(values, bits));
                self.due = if layer + 1 < shape.layers {
                    Due::Peer(FlightKind::AttentionNorm, layer + 1)
                } else {
                    Due::Peer(FlightKind::FinalNorm, 0)
                };
                answer
            }
            _ => self.site(Site::FinalNorm, 0, flight, [FlightKind::FinalNormed, FlightKind::Logits], norm),
        })
    }

    /// The permuted values of a site.
    pub(super) fn opened(&self, site: Site, layer: usize, words: &[u64]) -> Zeroizing<Vec<u64>> {
        Zeroizing::new(sum(words, &self.bundle.seed.words(Draw::opened(site), layer, words.len())))
    }

    /// Opens, evaluates `function`, and returns its result under a mask, in the order in which it came.
    fn site(
        &mut self,
        site: Site,
        layer: usize,
        flight: &Flight,
        [kind, next]: [FlightKind; 2],
        function: impl FnOnce(&[u64]) -> Vec<u64>,
    ) -> Flight {
        let mut out = function(&self.opened(site, layer, &flight.words));
        self.bundle.seed.subtract_from(Draw::returned(site), layer, &mut out);
        self.due = Due::Peer(next, layer);
        Flight::words(kind, layer, &self.step, out)
    }

    /// Completes the opening of queries and keys, and sends its share of the scores, E B1 + A1 F and a share of A B,
    /// under the mask of the softmax.
    fn scores(&mut self, model: &UserModel, cache: &mut LayerCache, layer: usize, flight: &Flight) -> Result<Flight> {
        let (shape, step, kernels, seed) = (&model.shape, self.step, &*model.kernels, &self.bundle.seed);
        let (theirs, values) = flight.words.split_at(step.tokens * shape.rotated());
        let mut ours = seed.words(Draw::ROTATED_TOP, layer, theirs.len());
        ours.iter_mut().enumerate().for_each(|(i, top)| *top = signed(unpacked(&flight.bits, i), *top));
        seed.subtract_from(Draw::ROTATED_PAIR, layer, &mut ours);
        let open = sum(theirs, &ours);
        let mask = seed.words(Draw::ROTATED_MASK, layer, theirs.len());
        let queries = |values: &[u64]| columns(values, shape.rotated(), 0..shape.query());
        let keys = |values: &[u64]| columns(values, shape.rotated(), shape.query()..shape.rotated());
        cache.keys.push(shape, &keys(&open));
        cache.key_masks.push(shape, &keys(&mask));
        cache.values.push(shape, values);
        cache.value_masks.push(shape, &seed.words(Draw::VALUE_MASK, layer, values.len()));

        let mut scores = seed.words(Draw::SCORE_PRODUCT, layer, step.scores(shape));
        add_scores(kernels, (shape, &step), &mut scores, &queries(&open), &cache.key_masks);
        add_scores(kernels, (shape, &step), &mut scores, &queries(&mask), &cache.keys);
        if step.strict {
            let exchange = self.begin_exchange(model, (Site::Softmax, layer), std::mem::take(&mut *scores));
            scores.extend_from_slice(exchange.masked_input()?);
            self.exchange = Some((exchange, 0));
        } else {
            self.bundle.seed.subtract_from(Draw::input(Site::Softmax), layer, &mut scores);
        }
        self.due = Due::Peer(FlightKind::Softmax, layer);
        Ok(Flight::words(FlightKind::Scores, layer, &step, [&ours[..], &scores].concat()))
    }

    /// Completes the opening of the mixed values, E' B1' + A1' F' and a share of A' B', and sends its part of their
    /// truncation, so that the provider gets them minus the mask of the output projection.
    fn mixed(&mut self, model: &UserModel, cache: &LayerCache, layer: usize, flight: &Flight) -> Flight {
        let (shape, step, kernels, seed) = (&model.shape, self.step, &*model.kernels, &self.bundle.seed);
        let (open, theirs) = flight.words.split_at(step.scores(shape));
        let mask = seed.words(Draw::output(Site::Softmax), layer, open.len());
        let mut mixed = sum(theirs, &seed.words(Draw::MIX_PRODUCT, layer, theirs.len()));
        add_mixed(kernels, (shape, &step), &mut mixed, open, &cache.value_masks);
        add_mixed(kernels, (shape, &step), &mut mixed, &mask, &cache.values);
        seed.add_to(Draw::MIX_OPENING, layer, &mut mixed);

        let tops = seed.words(Draw::MIX_TOP, layer, mixed.len());
        let mut hidden = seed.words(Draw::MIX_PAIR, layer, mixed.len());
        seed.add_to(Draw::O_INPUT, layer, &mut hidden);
        let drop = model.public.mix_drop(layer);
        let mut bits = Vec::with_capacity(mixed.len());
        for (i, word) in mixed.iter_mut().enumerate() {
            let (public, top) = opened(word.wrapping_add(OFFSET), drop);
            *word = public.wrapping_add(signed(top, tops[i])).wrapping_sub(hidden[i]);
            bits.push(top);
        }
        self.due = Due::Peer(FlightKind::MlpNorm, layer);
        Flight { bits: pack(&bits), ..Flight::words(FlightKind::Mixed, layer, &step, mixed) }
    }
}
