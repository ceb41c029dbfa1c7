//! One layer in turns, in the clear, against the reference forward pass, and its costs.

mod session;

use session::{config, measure, tokens};
use undertone_he::{Chain, ClearEvaluator, CostEvaluator, Evaluator};
use undertone_infer::{Calibration, Program, PublicCache, Shape};
use undertone_model::reference::{Block, ForwardOptions, Observer, Site, SiteShape, embed, forward_observed};
use undertone_model::{Accumulation, KvCache, Llama, synthetic};

const CHAIN: Chain = Chain { log_n: 9, top_level: 19, boot_level: 4, max_level: 32, product_prime: Some(786_433) };
const SHAPE: Shape = Shape { public_tokens: 21, private_tokens: 13, max_new_tokens: 1 };

/// Precision of a bootstrap of values in all of [−1, 1], root mean square (docs/numerics.md).
const BOOTSTRAP_BITS: f64 = 22.7;

/// The residual stream that enters layer 1.
#[derive(Default)]
struct Stream(Vec<f32>);

impl Observer for Stream {
    fn record(&mut self, layer: usize, site: Site, values: &[f32], shape: SiteShape) {
        if (layer, site, shape.block) == (1, Site::Residual, Block::Attention) {
            self.0.extend_from_slice(values);
        }
    }
}

struct Case {
    model: Llama,
    calibration: Calibration,
    ids: Vec<u32>,
}

impl Case {
    fn new(dims: [usize; 7], rounds: usize) -> Self {
        let model = synthetic(config(dims), 5);
        let ids = tokens(SHAPE.public_tokens + SHAPE.private_tokens, dims[6], 11);
        let calibration = measure(&model, &ids, rounds, 1.05);
        Self { model, calibration, ids }
    }

    fn program(&self) -> Program {
        Program::new(&self.model.config, &self.calibration, SHAPE, CHAIN).unwrap()
    }

    fn public(&self) -> PublicCache {
        PublicCache::new(&self.model, &self.ids[..SHAPE.public_tokens]).unwrap()
    }

    fn private_rows(&self) -> Vec<Vec<f32>> {
        let flat = embed(&self.model.embed, &self.ids[SHAPE.public_tokens..]).unwrap();
        flat.chunks(self.model.config.hidden_size).map(<[f32]>::to_vec).collect()
    }

    /// Private rows after layer 0, by the reference.
    fn expected(&self) -> Vec<Vec<f32>> {
        let mut stream = Stream::default();
        let options = ForwardOptions { accumulation: Accumulation::F64, ..ForwardOptions::default() };
        forward_observed(&self.model, &mut KvCache::new(&self.model.config), &self.ids, options, &mut stream).unwrap();
        let width = self.model.config.hidden_size;
        stream.0.chunks(width).skip(SHAPE.public_tokens).map(<[f32]>::to_vec).collect()
    }

    /// log2 of the error relative to the stream, root mean squares both, with bootstraps of `bits`.
    fn error_log2(&self, bits: Option<f64>) -> f64 {
        let program = self.program();
        let mut ev = ClearEvaluator::new(CHAIN);
        if let Some(bits) = bits {
            ev = ev.with_noise(bits, 3);
        }
        let packed = program.pack_halves(&self.private_rows()).unwrap();
        let input = packed.iter().map(|pair| pair.each_ref().map(|slots| ev.encrypt(slots, CHAIN.top_level))).collect();
        let public = self.public();
        let matrices = program.layer_matrices(&ev, Some(&self.model), 0).unwrap();
        let (output, guard) = program.layer_in_turns(&ev, Some((&self.model, &public)), &matrices, input, &()).unwrap();
        assert!(output.iter().flatten().all(|value| ev.level(value) == CHAIN.top_level));
        assert!(guard.slots().iter().all(|x| x.abs() <= 1.05));
        let slots: Vec<_> = output.iter().map(|pair| pair.each_ref().map(|v| v.slots().to_vec())).collect();
        let (mut errors, mut squares) = (0.0f64, 0.0);
        for (token, row) in self.expected().iter().enumerate() {
            for (found, &expected) in program.unpack_halves(&slots, token).unwrap().iter().zip(row) {
                errors += (found - f64::from(expected)).powi(2);
                squares += f64::from(expected).powi(2);
            }
        }
        (errors / squares).log2() / 2.0
    }
}

#[test]
fn a_layer_in_turns_is_the_reference_layer() {
    // hidden, intermediate, layers, heads, key heads, head width, vocabulary.
    for (dims, rounds) in
        [([24, 40, 2, 4, 4, 8, 48], 2), ([40, 72, 2, 4, 2, 16, 48], 1), ([64, 24, 2, 8, 2, 32, 32], 2)]
    {
        let case = Case::new(dims, rounds);
        let exact = case.error_log2(None);
        // Integers of 15 bits and polynomials of 18 are what is left.
        assert!(exact < -12.0, "{dims:?}: 2^{exact:.1}");
        let noisy = case.error_log2(Some(BOOTSTRAP_BITS));
        assert!(noisy < -11.0, "{dims:?} with noise: 2^{noisy:.1}");
    }
}

/// The largest slot of the guard of layer 0 with these weights and ranges, where nothing but the guard tells.
fn guard_of(case: &Case, weights: &Llama, calibration: &Calibration) -> f64 {
    let program = Program::new(&case.model.config, calibration, SHAPE, CHAIN).unwrap();
    let ev = ClearEvaluator::new(CHAIN).without_range_check();
    let packed = program.pack_halves(&case.private_rows()).unwrap();
    let input = packed.iter().map(|pair| pair.each_ref().map(|slots| ev.encrypt(slots, CHAIN.top_level))).collect();
    let matrices = program.layer_matrices(&ev, Some(weights), 0).unwrap();
    let (_, guard) = program.layer_in_turns(&ev, Some((weights, &case.public())), &matrices, input, &()).unwrap();
    guard.slots().iter().copied().fold(0.0, f64::max)
}

#[test]
fn inputs_beyond_their_bounds_are_seen_before_their_turn() {
    let case = Case::new([24, 40, 2, 4, 4, 8, 48], 2);
    // Gates and ups of zero, so that the turn of the second norm cannot tell what entered it.
    let mut silent = case.model.clone();
    silent.layers[0].mlp_norm.fill(0.0);
    assert!(guard_of(&case, &silent, &case.calibration) <= 1.05);
    let mut narrow = case.calibration.clone();
    narrow.layers[0].mlp_norm.mean_square.high /= 4.0;
    let guard = guard_of(&case, &silent, &narrow);
    assert!(guard > 1.05, "{guard}");
}

#[test]
fn a_layer_in_turns_costs_what_it_is_planned_to() {
    let case = Case::new([40, 72, 2, 4, 4, 16, 48], 2);
    let program = case.program();
    let run = |counts: undertone_he::Counts| (counts.bootstraps, counts.key_switches, counts.plaintext_products);
    let cost = CostEvaluator::new(CHAIN);
    let pairs = program.pack_halves(&case.private_rows()).unwrap().len();
    let input = vec![[(); 2].map(|()| cost.value(CHAIN.top_level)); pairs];
    let matrices = program.layer_matrices(&cost, None, 0).unwrap();
    program.layer_in_turns(&cost, None, &matrices, input, &()).unwrap();
    let clear = ClearEvaluator::new(CHAIN);
    let packed = program.pack_halves(&case.private_rows()).unwrap();
    let input = packed.iter().map(|pair| pair.each_ref().map(|s| clear.encrypt(s, CHAIN.top_level))).collect();
    let matrices = program.layer_matrices(&clear, Some(&case.model), 0).unwrap();
    program.layer_in_turns(&clear, Some((&case.model, &case.public())), &matrices, input, &()).unwrap();
    assert_eq!(run(cost.counts()), run(clear.counts()));
    // 32 channels per pair: 64 head channels, 40 hidden, 72 intermediate; and the two sums of the softmax.
    let wide = 3 * 2 + 2 + 2 * 3 + 2;
    assert!((wide..=wide + 2).contains(&cost.counts().bootstraps), "{}", cost.counts().bootstraps);
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let case = Case::new([24, 40, 2, 4, 4, 8, 48], 1);
    let program = case.program();
    let cost = CostEvaluator::new(CHAIN);
    let matrices = program.layer_matrices(&cost, None, 0).unwrap();
    assert!(program.layer_in_turns(&cost, None, &matrices, vec![], &()).is_err());
    assert!(program.layer_matrices(&cost, None, 2).is_err());
    let plain = Chain { product_prime: None, ..CHAIN };
    let without = Program::new(&case.model.config, &case.calibration, SHAPE, plain).unwrap();
    let cost = CostEvaluator::new(plain);
    assert!(without.layer_matrices(&cost, None, 0).is_err());
    assert!(without.layer_in_turns(&cost, None, &matrices, vec![[(); 2].map(|()| cost.value(19))], &()).is_err());
}
