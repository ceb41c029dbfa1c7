//! The dealer: correlated randomness for both parties, made before any prompt exists.
//!
//! It knows masks and permutations of every step, neither weights nor prompts. It is assumed to follow the protocol
//! and to tell neither party what it gave the other: together with the provider it could read prompts, together with
//! the user weights. The user's halves of everything come from the user's seed, so that only the provider receives
//! corrections. The mask of a product's input is the user's share of what the site before it returned.

use std::sync::Arc;

use rayon::prelude::*;
use undertone_ring::WordKernels;
use undertone_ring::words::product_u64;
use zeroize::Zeroizing;

use crate::attention::{HeadRows, add_mixed, add_scores};
use crate::bundle::{
    Corrections, LayerCorrections, ProviderBundle, SessionId, SiteCorrection, TruncationCorrection, UserBundle, sites,
};
use crate::columns::columns;
use crate::error::Result;
use crate::fixed::{add_assign, difference, sub_assign, sum};
use crate::random::{Draw, Role, Seed, SiteDraws};
use crate::shape::{Matrix, Shape, Site, Step};
use crate::shuffle::Shuffle;
use crate::strict::{self, Wire};
use crate::truncation;
use crate::weights::PublicModel;

/// The masks of the weights of one model, for one provider and one user.
pub struct Dealer {
    public: PublicModel,
    shape: Shape,
    kernels: Arc<dyn WordKernels>,
    weights: Seed,
    /// U of every matrix, `[rows, cols]`; without them, U is drawn again for every product.
    masks: Option<Vec<Zeroizing<Vec<u64>>>>,
}

/// Rows of U that are drawn at a time when U is not held.
const DRAWN_ROWS: usize = 16;

impl Dealer {
    /// A dealer with fresh masks for the weights of a model.
    ///
    /// # Errors
    /// No randomness, or a public model that contradicts itself.
    pub fn new(public: PublicModel, kernels: Arc<dyn WordKernels>) -> Result<Self> {
        Self::with_seed(public, kernels, Seed::from_os()?)
    }

    /// A dealer whose weight masks follow from `weights`, which was drawn before. They take eight bytes for every
    /// weight of the model.
    ///
    /// # Errors
    /// A public model that contradicts itself.
    pub fn with_seed(public: PublicModel, kernels: Arc<dyn WordKernels>, weights: Seed) -> Result<Self> {
        let dealer = Self::drawing(public, kernels, weights)?;
        let masks = Some(weight_masks(&dealer.shape, &dealer.weights));
        Ok(Self { masks, ..dealer })
    }

    /// As [`Dealer::with_seed`], with next to no memory: masks are drawn again for every step, which takes longer, and
    /// less so the more tokens a step has.
    ///
    /// # Errors
    /// A public model that contradicts itself.
    pub fn drawing(public: PublicModel, kernels: Arc<dyn WordKernels>, weights: Seed) -> Result<Self> {
        public.check()?;
        let shape = public.shape();
        Ok(Self { public, shape, kernels, weights, masks: None })
    }

    /// The seed of the weight masks, for the provider alone.
    pub fn weight_seed(&self) -> Seed {
        self.weights.duplicate()
    }

    /// The dimensions of the model.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Positions that a session has.
    pub fn positions(&self) -> usize {
        self.public.config.max_position_embeddings
    }

    /// A session with a fresh seed.
    ///
    /// # Errors
    /// No randomness.
    pub fn session(self: &Arc<Self>) -> Result<DealerSession> {
        Ok(self.session_with_seed(Seed::from_os()?))
    }

    /// A session whose every mask follows from `root`. A seed serves one session, or masks are used twice.
    pub fn session_with_seed(self: &Arc<Self>, root: Seed) -> DealerSession {
        let name = root.child(Role::Session, 0);
        let caches = (0..self.shape.layers).map(|_| (HeadRows::new(&self.shape), HeadRows::new(&self.shape)));
        DealerSession {
            strict: false,
            id: std::array::from_fn(|i| name.bytes()[i]),
            caches: caches.collect(),
            dealer: Arc::clone(self),
            root,
            next: 0,
            position: 0,
        }
    }

    /// U v - w1.
    fn product(&self, matrix: Matrix, input: &[u64], output: &[u64]) -> Vec<u64> {
        let (_, cols) = self.shape.matrices()[matrix.index()];
        let mut out = match &self.masks {
            Some(masks) => product_u64(&*self.kernels, &masks[matrix.index()], input, cols),
            None => self.drawn_product(matrix, input),
        };
        sub_assign(&mut out, output);
        out
    }

    /// U v with a few rows of U at a time.
    fn drawn_product(&self, matrix: Matrix, input: &[u64]) -> Vec<u64> {
        let (rows, cols) = self.shape.matrices()[matrix.index()];
        let tokens = input.len() / cols;
        let mut by_row = vec![0u64; rows * tokens];
        by_row.par_chunks_mut(DRAWN_ROWS * tokens).enumerate().for_each(|(block, out)| {
            let first = block * DRAWN_ROWS * cols;
            let mask = self.weights.words_from(Draw::WEIGHTS, matrix.index(), first, out.len() / tokens * cols);
            self.kernels.product_u64(out, &mask, input, cols);
        });
        let token = |token| by_row.iter().skip(token).step_by(tokens).copied();
        (0..tokens).flat_map(token).collect()
    }
}

/// U of every matrix from its seed.
pub(crate) fn weight_masks(shape: &Shape, seed: &Seed) -> Vec<Zeroizing<Vec<u64>>> {
    let matrices = shape.matrices();
    matrices.par_iter().enumerate().map(|(i, (rows, cols))| seed.words(Draw::WEIGHTS, i, rows * cols)).collect()
}

/// One conversation's worth of bundles, dealt step by step; it remembers the masks of cached keys and values.
pub struct DealerSession {
    id: SessionId,
    strict: bool,
    dealer: Arc<Dealer>,
    root: Seed,
    next: u64,
    position: usize,
    /// Masks of keys and of values, by layer.
    caches: Vec<(HeadRows, HeadRows)>,
}

impl DealerSession {
    /// The same session before its first step, for strict evaluation or not.
    #[must_use]
    pub fn with_strict(self, strict: bool) -> Self {
        Self { strict, ..self }
    }

    /// The name of the session.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The rounding of every truncation of this session, for a twin. It gives the low bits of masks away, so it is for
    /// tests and for demonstrations in one process, and only there with the feature `replay`.
    #[cfg(any(test, feature = "replay"))]
    pub fn replay(&self) -> crate::twin::Replay {
        crate::twin::Replay::new(self.root.duplicate())
    }

    /// The bundles of the next step, of `tokens` tokens of which the last `outputs` are opened.
    ///
    /// # Errors
    /// What [`Step::check`] refuses.
    pub fn deal(&mut self, tokens: usize, outputs: usize) -> Result<(UserBundle, ProviderBundle)> {
        let step = Step { number: self.next, position: self.position, tokens, outputs, strict: self.strict };
        let dealer = Arc::clone(&self.dealer);
        step.check(&dealer.shape, dealer.positions())?;
        let user = self.root.of_step(Role::User, &step);
        let provider = self.root.of_step(Role::Provider, &step);
        let mut dealing = Dealing { dealer: &dealer, step, user: &user, provider: &provider };
        let mut corrections = dealing.corrections(&mut self.caches);
        if step.strict {
            self.next += 1;
            self.position += tokens;
            let keys = sites(&dealer.shape).map(|(site, layer)| corrections.of_site(site, layer).returned.clone());
            let (keys, table_masks) = (keys.collect(), Zeroizing::default());
            let for_user = UserBundle { session: self.id, step, seed: user, table_masks, keys };
            return Ok((for_user, ProviderBundle { session: self.id, step, seed: provider, corrections }));
        }
        let tables = table_masks(&provider, &dealer.shape, outputs);
        let places = lookup_places(&user, &dealer.shape, outputs);
        let rows = tables.chunks_exact(dealer.shape.vocab).zip(&places);
        let table_masks = Zeroizing::new(rows.map(|(table, &place)| table[place as usize]).collect());
        self.next += 1;
        self.position += tokens;
        let bundle = UserBundle { session: self.id, step, seed: user, table_masks, keys: Vec::new() };
        Ok((bundle, ProviderBundle { session: self.id, step, seed: provider, corrections }))
    }
}

/// The place of the one entry that the user can read in the table of every output.
pub(crate) fn lookup_places(user: &Seed, shape: &Shape, outputs: usize) -> Vec<u32> {
    let mut stream = user.stream(Draw::LOOKUP_PLACE, 0);
    (0..outputs).map(|_| stream.below(shape.vocab as u64) as u32).collect()
}

/// The masks of the tables, `[outputs, V]`.
pub(crate) fn table_masks(provider: &Seed, shape: &Shape, outputs: usize) -> Zeroizing<Vec<u32>> {
    let words = provider.words(Draw::LOOKUP_TABLE, 0, outputs * shape.vocab);
    Zeroizing::new(words.iter().map(|&word| word as u32).collect())
}

/// The making of one step's corrections.
struct Dealing<'a> {
    dealer: &'a Dealer,
    step: Step,
    user: &'a Seed,
    provider: &'a Seed,
}

impl Dealing<'_> {
    fn corrections(&mut self, caches: &mut [(HeadRows, HeadRows)]) -> Corrections {
        let (shape, n) = (self.dealer.shape, self.step.tokens);
        let input = self.user.words(Draw::EMBED_INPUT, 0, n * shape.vocab);
        let embed = self.product(Matrix::Embed, 0, &input, Draw::EMBED);
        let layers = caches.iter_mut().enumerate().map(|(layer, cache)| self.layer(layer, cache)).collect();
        if self.step.outputs == 0 {
            return Corrections { embed, layers, ..Corrections::default() };
        }
        let (final_norm, output) = self.site(Site::FinalNorm, 0);
        let head = self.product(Matrix::Head, 0, &output, Draw::HEAD);
        let (logits, _) = self.site(Site::Logits, 0);
        Corrections { embed, layers, final_norm, head, logits }
    }

    fn layer(&self, layer: usize, (keys, values): &mut (HeadRows, HeadRows)) -> LayerCorrections {
        let (shape, step) = (&self.dealer.shape, &self.step);
        let kernels = &*self.dealer.kernels;
        let (attention_norm, normed) = self.site(Site::AttentionNorm, layer);
        let qkv = self.product(Matrix::Qkv(layer), layer, &normed, Draw::QKV);

        let (rotated, masks) = self.rotated(layer);
        keys.push(shape, &columns(&masks, shape.rotated(), shape.query()..shape.rotated()));
        values.push(shape, &self.both(Draw::VALUE_MASK, layer, step.tokens * shape.key()));
        let mut scores = vec![0; step.scores(shape)];
        let queries = columns(&masks, shape.rotated(), 0..shape.query());
        add_scores(kernels, (shape, step), &mut scores, &queries, keys);
        self.user.subtract_from(Draw::SCORE_PRODUCT, layer, &mut scores);

        let mut mixed = vec![0; step.tokens * shape.query()];
        let (softmax, mix) = if step.strict {
            let mix = |opened: &Wire| {
                // Probabilities are what is open less this mask.
                let mask = Zeroizing::new(opened.mask.iter().map(|mask| mask.wrapping_neg()).collect::<Vec<u64>>());
                add_mixed(kernels, (shape, step), &mut mixed, &mask, values);
            };
            (self.strict_site(Site::Softmax, layer, mix), TruncationCorrection::default())
        } else {
            let (softmax, mut probabilities) = self.site(Site::Softmax, layer);
            self.provider.add_to(Draw::PROBABILITY_MASK, layer, &mut probabilities);
            add_mixed(kernels, (shape, step), &mut mixed, &probabilities, values);
            (softmax, self.mix(layer))
        };
        self.user.subtract_from(Draw::MIX_PRODUCT, layer, &mut mixed);
        let input = self.user.words(Draw::O_INPUT, layer, mixed.len());
        let o = self.product(Matrix::O(layer), layer, &input, Draw::O);

        let (mlp_norm, normed) = self.site(Site::MlpNorm, layer);
        let gate_up = self.product(Matrix::GateUp(layer), layer, &normed, Draw::GATE_UP);
        let (activation, activated) = self.site(Site::Activation, layer);
        let down = self.product(Matrix::Down(layer), layer, &activated, Draw::DOWN);
        LayerCorrections {
            attention_norm,
            qkv,
            rotated,
            scores,
            softmax,
            mixed,
            mix,
            o,
            mlp_norm,
            gate_up,
            activation,
            down,
        }
    }

    fn product(&self, matrix: Matrix, layer: usize, input: &[u64], output: Draw) -> Vec<u64> {
        let (rows, cols) = self.dealer.shape.matrices()[matrix.index()];
        let output = self.user.words(output, layer, input.len() / cols * rows);
        self.dealer.product(matrix, input, &output)
    }

    /// The sum of both parties' halves.
    fn both(&self, draw: Draw, layer: usize, len: usize) -> Zeroizing<Vec<u64>> {
        Zeroizing::new(sum(&self.user.words(draw, layer, len), &self.provider.words(draw, layer, len)))
    }

    /// The corrections of a site, and the user's share of what it returns.
    fn site(&self, site: Site, layer: usize) -> (SiteCorrection, Zeroizing<Vec<u64>>) {
        let shape = &self.dealer.shape;
        let (into, out) = (self.step.site_input(shape, site), self.step.site_output(shape, site));
        if self.step.strict {
            let output = self.user.words(Draw::output(site), layer, out);
            return (self.strict_site(site, layer, |_| {}), output);
        }
        let shuffle = Shuffle::of_site(self.provider, shape, &self.step, site, layer);
        let user = |draw, len| self.user.words(draw, layer, len);
        let opened = difference(&shuffle.apply(&user(Draw::input(site), into)), &user(Draw::opened(site), into));
        let output = user(Draw::output(site), out);
        let returned = difference(&shuffle.invert(&user(Draw::returned(site), out)), &output);
        (SiteCorrection { opened, returned }, output)
    }

    /// Corrections and keys of a strictly evaluated site; `mix` gets the masks of the probabilities.
    fn strict_site(&self, site: Site, layer: usize, mut mix: impl FnMut(&Wire)) -> SiteCorrection {
        let draws = |seed| SiteDraws::new(seed, site, layer);
        let mut dealing = strict::Dealing::new(draws(self.user), draws(self.provider));
        let program = strict::program(&self.dealer.public, &self.step, (site, layer), &[]);
        let (shape, step) = (&self.dealer.shape, &self.step);
        let mixed = |_: &mut strict::Dealing, opened: &Wire| {
            mix(opened);
            vec![0; step.tokens * shape.query()]
        };
        program.run(&mut dealing, vec![0; step.site_input(shape, site)], mixed, |_| {});
        SiteCorrection { opened: dealing.corrections, returned: dealing.keys }
    }

    /// Truncation of queries and keys. The pair is corrected together with the mask of the product that follows,
    /// which is also returned.
    fn rotated(&self, layer: usize) -> (TruncationCorrection, Zeroizing<Vec<u64>>) {
        let shape = &self.dealer.shape;
        let len = self.step.tokens * shape.rotated();
        let openings = self.both(Draw::ROTATED_OPENING, layer, len);
        let masks = self.both(Draw::ROTATED_MASK, layer, len);
        let drops = self.dealer.public.rotated_drop(layer);
        let drop = |i: usize| drops[usize::from(i % shape.rotated() >= shape.query())];
        let pairs = openings.iter().enumerate().map(|(i, &opening)| truncation::pair(opening, drop(i)));
        let (mut top, mut pair): (Vec<u64>, Vec<u64>) = pairs.unzip();
        add_assign(&mut pair, &masks);
        sub_assign(&mut top, &self.user.words(Draw::ROTATED_TOP, layer, len));
        sub_assign(&mut pair, &self.user.words(Draw::ROTATED_PAIR, layer, len));
        (TruncationCorrection { top, pair }, masks)
    }

    /// Truncation of mixed values.
    fn mix(&self, layer: usize) -> TruncationCorrection {
        let len = self.step.tokens * self.dealer.shape.query();
        let drop = self.dealer.public.mix_drop(layer);
        let openings = self.both(Draw::MIX_OPENING, layer, len);
        let (mut top, mut pair): (Vec<u64>, Vec<u64>) =
            openings.iter().map(|&opening| truncation::pair(opening, drop)).unzip();
        sub_assign(&mut top, &self.user.words(Draw::MIX_TOP, layer, len));
        sub_assign(&mut pair, &self.user.words(Draw::MIX_PAIR, layer, len));
        TruncationCorrection { top, pair }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::QuantizedModel;
    use undertone_model::synthetic::{small_config, synthetic};
    use undertone_ring::scalar_word_kernels;

    #[test]
    fn drawing_masks_gives_what_holding_them_gives() {
        let public = QuantizedModel::new(&synthetic(small_config(), 1)).unwrap().public().clone();
        let seed = || Seed::from_bytes([7; 32]);
        let held = Arc::new(Dealer::with_seed(public.clone(), scalar_word_kernels(), seed()).unwrap());
        let drawn = Arc::new(Dealer::drawing(public, scalar_word_kernels(), seed()).unwrap());
        let [mut held, mut drawn] = [held, drawn].map(|dealer| dealer.session_with_seed(Seed::from_bytes([8; 32])));
        for tokens in [3, 1] {
            let encoded = |session: &mut DealerSession| {
                use crate::bundle::Bundle;
                let (user, provider) = session.deal(tokens, 1).unwrap();
                let shape = session.dealer.shape;
                (user.encode(&shape), provider.encode(&shape))
            };
            assert!(encoded(&mut held) == encoded(&mut drawn));
        }
    }
}
