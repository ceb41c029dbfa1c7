//! What the user computes before a step: its share of every value, from its seed and the masked model.

use undertone_ring::words::product_u64;
use zeroize::Zeroizing;

use super::UserModel;
use crate::bundle::UserBundle;
use crate::columns::{columns, halves};
use crate::fixed::{add_assign, add_shifted, difference, sum};
use crate::flight::{Flight, FlightKind};
use crate::random::{Draw, Seed, SiteDraws};
use crate::shape::{Matrix, Site, Step};

/// The shares that the provider needs, each under a mask used nowhere else, in the order of their use.
pub(super) fn flight(model: &UserModel, bundle: &UserBundle, positions: &[usize]) -> Flight {
    let (shape, step) = (&model.shape, bundle.step);
    // The step was checked, so this is at most `MAX_FLIGHT_BYTES`.
    let extent = FlightKind::Prepare.extent(shape, &step);
    debug_assert!(extent.size_bytes() <= crate::MAX_FLIGHT_BYTES);
    let mut preparing =
        Preparing { model, step, positions, seed: &bundle.seed, words: Vec::with_capacity(extent.words) };
    preparing.all();
    debug_assert_eq!(preparing.words.len(), extent.words);
    Flight::words(FlightKind::Prepare, 0, &step, preparing.words)
}

struct Preparing<'a> {
    model: &'a UserModel,
    step: Step,
    positions: &'a [usize],
    seed: &'a Seed,
    words: Vec<u64>,
}

impl Preparing<'_> {
    fn all(&mut self) {
        let (shape, n) = (self.model.shape, self.step.tokens);
        let mut stream = vec![0; n * shape.hidden];
        let input = self.seed.words(Draw::EMBED_INPUT, 0, n * shape.vocab);
        self.add_to_stream(&mut stream, Matrix::Embed, 0, &input, Draw::EMBED);
        for layer in 0..shape.layers {
            self.attention(&mut stream, layer);
            self.push_site(Site::MlpNorm, layer, &stream);
            let both = self.product(Matrix::GateUp(layer), layer, &self.output(Site::MlpNorm, layer), Draw::GATE_UP);
            self.push_site(Site::Activation, layer, &halves(&both, 2 * shape.intermediate));
            let input = self.output(Site::Activation, layer);
            self.add_to_stream(&mut stream, Matrix::Down(layer), layer, &input, Draw::DOWN);
        }
        if self.step.outputs == 0 {
            return;
        }
        self.push_site(Site::FinalNorm, 0, &stream[(n - self.step.outputs) * shape.hidden..]);
        let logits = self.product(Matrix::Head, 0, &self.output(Site::FinalNorm, 0), Draw::HEAD);
        self.push_site(Site::Logits, 0, &logits);
    }

    fn attention(&mut self, stream: &mut [u64], layer: usize) {
        let (shape, n) = (self.model.shape, self.step.tokens);
        self.push_site(Site::AttentionNorm, layer, stream);
        let qkv = self.product(Matrix::Qkv(layer), layer, &self.output(Site::AttentionNorm, layer), Draw::QKV);
        let width = shape.rotated() + shape.key();
        let mut rotated = columns(&qkv, width, 0..shape.rotated());
        self.model.rotary.rotate(&mut rotated, shape.rotated(), self.positions);
        self.seed.add_to(Draw::ROTATED_OPENING, layer, &mut rotated);
        self.words.extend(rotated);
        let values = columns(&qkv, width, shape.rotated()..width);
        self.words.extend(difference(&values, &self.seed.words(Draw::VALUE_MASK, layer, values.len())));
        let input = self.seed.words(Draw::O_INPUT, layer, n * shape.query());
        self.add_to_stream(stream, Matrix::O(layer), layer, &input, Draw::O);
    }

    /// The user's share of what a site returns.
    fn output(&self, site: Site, layer: usize) -> Zeroizing<Vec<u64>> {
        self.seed.words(Draw::output(site), layer, self.step.site_output(&self.model.shape, site))
    }

    /// Appends a share that goes into a site, under the site's mask.
    fn push_site(&mut self, site: Site, layer: usize, share: &[u64]) {
        if self.step.strict {
            // The first masks of the site's exchange, which are added.
            let mask = Zeroizing::new(SiteDraws::new(self.seed, site, layer).masks.take(share.len()));
            return self.words.extend(sum(share, &mask));
        }
        self.words.extend(difference(share, &self.seed.words(Draw::input(site), layer, share.len())));
    }

    /// (X - U) v + w1: the user's share of X y when its share of y is v.
    fn product(&self, matrix: Matrix, layer: usize, input: &[u64], output: Draw) -> Vec<u64> {
        let (_, cols) = self.model.shape.matrices()[matrix.index()];
        let mut out = product_u64(&*self.model.kernels, &self.model.masked.matrices[matrix.index()], input, cols);
        let mask = self.seed.words(output, layer, out.len());
        add_assign(&mut out, &mask);
        out
    }

    fn add_to_stream(&self, stream: &mut [u64], matrix: Matrix, layer: usize, input: &[u64], output: Draw) {
        let out = self.product(matrix, layer, input, output);
        add_shifted(stream, &out, self.model.public.shift(matrix));
    }
}
