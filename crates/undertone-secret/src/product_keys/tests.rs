use super::*;
use crate::secret_key::restrict;
use std::sync::Arc;
use std::time::Instant;
use undertone_he::circuits::pc_matmul::{
    ComponentOrder, MAX_WEIGHT, PcMatmul, ProductKeys, ProductWeights, WeightShape,
};
use undertone_he::{Ciphertext, Parameters, ParametersLiteral};
use undertone_ring::{Coeff, expand_uniform};

/// log2 of q0 over the message, as at ModRaise.
const MESSAGE_RATIO_LOG2: i32 = 7;
/// Standard deviation of errors.
const SIGMA: f64 = 3.24;

struct Client {
    parameters: ProductParameters,
    secret: SecretKey,
    product: PcMatmul,
    rng: SecretRng,
}

impl Client {
    fn new(parameters: &Parameters, log_small: u32, tokens: usize) -> Self {
        let mut rng = SecretRng::from_os().unwrap();
        let secret = SecretKey::generate(parameters, &mut rng);
        let parameters = ProductParameters::new(parameters, log_small, tokens).unwrap();
        let generator = ProductKeyGenerator::new(&parameters, &secret, &mut rng);
        let sent = generator.generate_all(&mut rng).unwrap();
        let received = sent.iter().map(|key| SeededProductKey::from_bytes(&parameters, &key.to_bytes(&parameters)));
        let keys = ProductKeys::new(&parameters, received.map(Result::unwrap)).unwrap();
        let product = PcMatmul::new(&parameters, Arc::new(keys));
        Self { parameters, secret, product, rng }
    }

    /// An encryption of integer coefficients at level 1.
    fn encrypt(&mut self, coefficients: &[i64], scale: f64) -> Ciphertext {
        let parameters = self.parameters.parameters();
        let (ring, basis) = (parameters.ring(), parameters.basis(1));
        let c1 = expand_uniform(ring, &self.rng.public_seed(), 0, basis);
        let errors = self.rng.cbd21(ring.degree());
        let noisy: Vec<i64> = coefficients.iter().zip(errors).map(|(&m, e)| m + e).collect();
        let mut c0 = ring.ntt(ring.from_signed(&noisy, basis));
        ring.sub_assign(&mut c0, &ring.mul(&c1, &restrict(&self.secret.main, ring, basis).0));
        Ciphertext::from_parts(c0, c1, scale)
    }

    /// The centred coefficients of a ciphertext at level 0.
    fn decrypt(&self, ciphertext: &Ciphertext) -> Vec<i64> {
        assert_eq!(ciphertext.level(), 0);
        let parameters = self.parameters.parameters();
        let (ring, basis) = (parameters.ring(), parameters.basis(0));
        let (c0, c1) = ciphertext.parts();
        let mut message = c0.clone();
        ring.mul_add_assign(&mut message, c1, &restrict(&self.secret.main, ring, basis).0);
        let q = ring.q_moduli()[0];
        SecretPoly::<Coeff>(ring.intt(message)).0.limb(0).iter().map(|&x| q.center(x)).collect()
    }

    /// Variance of the noise of one output coefficient, for the weights of its row as multiples of q_w, which are not
    /// all zero: from above where they are.
    ///
    /// A key switch leaves digit · errors / P: N·q²/12·σ² / P² for a digit modulo q, and two roundings, of which one
    /// meets the secret: (1 + weight)/12. The product adds up input noise with the squares of the weights; its rescale
    /// rounds again under the secret of the small ring, of weight 2N'/3.
    fn noise_variance(&self, weights: impl Iterator<Item = f64>) -> f64 {
        let ring = self.parameters.switch_ring();
        let log2 = |moduli: &[undertone_ring::Modulus]| moduli.iter().map(|m| (m.value() as f64).log2()).sum::<f64>();
        let [q, p] = [log2(ring.q_moduli()), log2(ring.p_moduli())];
        let q0 = log2(&ring.q_moduli()[..1]);
        let switch = |digit: f64, terms: f64| terms * (2.0 * (digit - p)).exp2() / 12.0 * SIGMA * SIGMA;
        let rounding = |weight: f64| (1.0 + weight) / 12.0;
        let (n, small) = (ring.degree() as f64, self.parameters.small_ring().degree() as f64);
        let (main, ternary) = (self.parameters.parameters().literal().secret_weight as f64, 2.0 * small / 3.0);
        let input = SIGMA * SIGMA + switch(q, n) + rounding(ternary);
        let square: f64 = weights.map(|w| w * w).sum();
        let pack = switch(q0, small * self.parameters.rank() as f64) + rounding(ternary);
        square * input + rounding(ternary) + pack + switch(q0, n) + rounding(main)
    }
}

/// SplitMix64.
fn mix(state: u64) -> u64 {
    let x = state.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Kinds of weights.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Random,
    Extreme,
    Most,
    Least,
}

fn weight(kind: Kind, o: usize, i: usize) -> i16 {
    let word = mix((o as u64) << 32 | i as u64);
    match kind {
        Kind::Random => (word % (1 << 15)) as i16 - MAX_WEIGHT,
        Kind::Extreme => [MAX_WEIGHT, -MAX_WEIGHT, 0, 1, -1][word as usize % 5],
        Kind::Most => MAX_WEIGHT,
        Kind::Least => -MAX_WEIGHT,
    }
}

/// How far a product is from the clear one.
struct Measured {
    /// The largest error, in coefficients.
    worst: f64,
    /// The largest error of a channel of the matrix, as a multiple of its own predicted standard deviation.
    worst_deviations: f64,
}

/// Encrypts random channels, multiplies, and compares every coefficient with the clear product.
fn check(client: &mut Client, shape: &WeightShape, kind: Kind) -> Measured {
    let parameters = client.parameters.clone();
    let (components, tokens) = (parameters.components(), parameters.tokens());
    let (q0, prime) = (parameters.switch_ring().q_moduli()[0].value(), parameters.product_prime());
    // The largest sum of weights times the message stays below q0 / 2^7, which is what ModRaise takes.
    let gain = (shape.inputs as f64 * f64::from(MAX_WEIGHT) / prime as f64).max(1.0);
    let scale = q0 as f64 * f64::from(-MESSAGE_RATIO_LOG2).exp2() / gain;
    let value = |channel: usize, token: usize| {
        let unit = mix(!((channel as u64) << 32 | token as u64)) as f64 / u64::MAX as f64;
        ((2.0 * unit - 1.0) * scale) as i64
    };
    let values: Vec<Vec<i64>> = (0..shape.inputs).map(|i| (0..tokens).map(|token| value(i, token)).collect()).collect();
    let count = shape.inputs.div_ceil(components);
    let inputs: Vec<Ciphertext> = (0..count)
        .map(|c| {
            let channel = |p: usize| c * components + shape.input_order.channel(p % components);
            let coefficients: Vec<i64> = (0..components * tokens).map(|p| value(channel(p), p / components)).collect();
            client.encrypt(&coefficients, scale)
        })
        .collect();
    let weights = ProductWeights::new(&parameters, shape, 0, |o, i| weight(kind, o, i)).unwrap();
    let product = client.product.apply(&inputs, &shape.input_order, &weights).unwrap();
    assert_eq!(product.ciphertexts.len(), shape.outputs.div_ceil(components));
    assert_eq!((product.gain_log2, product.order), (0, shape.output_order.digest()));
    let mut measured = Measured { worst: 0.0, worst_deviations: 0.0 };
    for (c, output) in product.ciphertexts.iter().enumerate() {
        assert_eq!(output.scale(), scale);
        let have = client.decrypt(output);
        for component in 0..components {
            let o = c * components + shape.output_order.channel(component);
            let row: Vec<i16> =
                if o < shape.outputs { (0..shape.inputs).map(|i| weight(kind, o, i)).collect() } else { vec![] };
            let variance = client.noise_variance(row.iter().map(|&w| f64::from(w) / prime as f64));
            // Of all coefficients of all tests together, one leaves seven deviations in more than 10^5 runs.
            let deviation = variance.sqrt();
            let bound = 7.0 * deviation;
            for (t, need) in clear_row(&row, &values, tokens).into_iter().enumerate() {
                let error = (have[component + components * t] as f64 - need as f64 / prime as f64).abs();
                assert!(error <= bound, "{kind:?} {shape:?}: channel {o}, token {t}: {error} above {bound}");
                measured.worst = measured.worst.max(error);
                if o < shape.outputs {
                    measured.worst_deviations = measured.worst_deviations.max(error / deviation);
                }
            }
        }
    }
    measured
}

/// One row of weights times all channels, token by token. Terms are below 2^14 · 2^43.
fn clear_row(row: &[i16], values: &[Vec<i64>], tokens: usize) -> Vec<i128> {
    let mut sums = vec![0i128; tokens];
    for (&w, values) in row.iter().zip(values) {
        sums.iter_mut().zip(values).for_each(|(sum, &x)| *sum += i128::from(i64::from(w) * x));
    }
    sums
}

fn orders(components: usize) -> [ComponentOrder; 2] {
    [ComponentOrder::natural(components), ComponentOrder::bit_reversed(components).unwrap()]
}

#[test]
fn products_equal_the_clear_ones_within_the_predicted_noise() {
    for (log_n, log_small, tokens) in [(7, 5, 4), (9, 6, 16), (11, 9, 128), (8, 7, 16)] {
        let mut client = Client::new(&Parameters::insecure_product_test(log_n), log_small, tokens);
        let components = client.parameters.components();
        let [natural, reversed] = orders(components);
        for (outputs, inputs) in [(components, components), (5, 2 * components + 3), (components + 1, 7), (1, 1)] {
            for kind in [Kind::Random, Kind::Extreme, Kind::Most, Kind::Least] {
                for (output_order, input_order) in
                    [(natural.clone(), reversed.clone()), (reversed.clone(), natural.clone())]
                {
                    check(&mut client, &WeightShape { outputs, inputs, output_order, input_order }, kind);
                }
            }
        }
    }
}

#[test]
fn a_product_at_the_secure_degrees() {
    let parameters = Parameters::new(ParametersLiteral::n16_product()).unwrap();
    let start = Instant::now();
    let mut client = Client::new(&parameters, 13, 128);
    println!("keys: {:.2?}", start.elapsed());
    let order = ComponentOrder::bit_reversed(client.parameters.components()).unwrap();
    let message = client.parameters.switch_ring().q_moduli()[0].value() as f64 * f64::from(-MESSAGE_RATIO_LOG2).exp2();
    for (outputs, inputs) in [(512, 64), (512, 4096)] {
        let shape = WeightShape { outputs, inputs, output_order: order.clone(), input_order: order.clone() };
        let start = Instant::now();
        let Measured { worst, worst_deviations } = check(&mut client, &shape, Kind::Random);
        let (bits, time) = ((message / worst).log2(), start.elapsed());
        println!(
            "{outputs} x {inputs}: worst {worst:.1}, {worst_deviations:.2} deviations, {bits:.1} bits, {time:.2?}"
        );
        // The prediction is no loose bound. The worst of 2^16 normal errors is 4.2 to 4.5 deviations, and below 3.5
        // once in 10^13 runs; with a deviation predicted twice too large it would be 2.2, with such a variance 3.1.
        assert!(worst_deviations > 3.5, "{worst_deviations} deviations");
    }
}

/// The value that leaves a product is 2^-gain times what the matrix says, at the scale that went in.
#[test]
fn the_scale_stays_and_the_gain_is_told() {
    let mut client = Client::new(&Parameters::insecure_product_test(7), 5, 4);
    let (components, tokens) = (client.parameters.components(), client.parameters.tokens());
    let order = ComponentOrder::natural(components);
    let inputs = 2 * components;
    let shape = WeightShape { outputs: 3, inputs, output_order: order.clone(), input_order: order.clone() };
    let scale = 2f64.powi(30);
    let value = |channel: usize, token: usize| ((channel * 5 + token * 3) % 17) as f64 / 16.0 - 0.5;
    let ciphertexts: Vec<Ciphertext> = (0..2)
        .map(|c| {
            let channel = |p: usize| c * components + p % components;
            let coefficient = |p: usize| (scale * value(channel(p), p / components)).round() as i64;
            client.encrypt(&(0..components * tokens).map(coefficient).collect::<Vec<_>>(), scale)
        })
        .collect();
    for magnitude in [0.004f32, 0.9, 700.0] {
        let matrix: Vec<f32> = (0..3 * inputs).map(|k| magnitude * (k as f32 * 0.37).cos()).collect();
        let weights = ProductWeights::quantize(&client.parameters, &shape, &matrix).unwrap();
        let product = client.product.apply(&ciphertexts, &order, &weights).unwrap();
        assert_eq!(product.gain_log2, weights.gain_log2());
        // 2^14 · 2^gain / q_w is the largest weight or up to twice that.
        let largest = f64::from(MAX_WEIGHT) / client.parameters.product_prime() as f64;
        let log2 = (f64::from(magnitude) / largest).log2().ceil() as i32;
        assert_eq!(product.gain_log2, log2);
        let gain = f64::from(product.gain_log2).exp2();
        let [output] = &product.ciphertexts[..] else { panic!("{} ciphertexts", product.ciphertexts.len()) };
        assert_eq!(output.scale(), scale);
        let have = client.decrypt(output);
        for o in 0..3 {
            let row = &matrix[o * inputs..][..inputs];
            for t in 0..tokens {
                let need: f64 = row.iter().enumerate().map(|(i, &w)| f64::from(w) * value(i, t)).sum();
                let have = gain * have[o + components * t] as f64 / output.scale();
                // Quantisation moves each weight by half a unit at most and inputs are at most 1/2; noise is far below.
                let unit = gain / client.parameters.product_prime() as f64;
                let bound = inputs as f64 * unit / 4.0 + gain * 2f64.powi(-20);
                assert!((have - need).abs() <= bound, "{magnitude}: {have} for {need}, bound {bound}");
            }
        }
    }
}

#[test]
fn inputs_and_weights_that_do_not_fit_are_refused() {
    use undertone_he::Error as Scheme;
    let mut client = Client::new(&Parameters::insecure_product_test(7), 5, 4);
    let order = ComponentOrder::natural(client.parameters.components());
    let shape = WeightShape { outputs: 3, inputs: 40, output_order: order.clone(), input_order: order.clone() };
    let weights = ProductWeights::new(&client.parameters, &shape, 0, |_, _| 1).unwrap();
    let zeros = vec![0; 128];
    let (one, other) = (client.encrypt(&zeros, 1024.0), client.encrypt(&zeros, 2048.0));
    let product = &client.product;
    let apply = |inputs: &[Ciphertext]| product.apply(inputs, &order, &weights);
    assert!(matches!(apply(&[]), Err(Scheme::Arity { .. })));
    assert!(matches!(apply(std::slice::from_ref(&one)), Err(Scheme::ProductShape { .. })));
    assert!(matches!(apply(&[one.clone(), other]), Err(Scheme::ScaleMismatch { .. })));
    let lowered = apply(&[one.clone(), one.clone()]).unwrap().ciphertexts;
    assert!(matches!(apply(&[lowered[0].clone(), one.clone()]), Err(Scheme::LevelTooLow { .. })));
    assert!(matches!(product.switch_down(&lowered[0]), Err(Scheme::LevelTooLow { .. })));
    assert!(matches!(product.prepare_pairs(&[], 1.0, &order), Err(Scheme::Arity { .. })));
    let pairs = product.switch_down(&one).unwrap();
    assert!(matches!(product.prepare_pairs(&pairs[1..], 1.0, &order), Err(Scheme::ProductShape { .. })));
    let short = ComponentOrder::natural(order.components() / 2);
    assert!(matches!(product.prepare_pairs(&pairs, 1.0, &short), Err(Scheme::ProductShape { .. })));
    assert!(matches!(product.switch_up(&pairs[1..], 1.0), Err(Scheme::ProductShape { .. })));
    let prepared = product.prepare(&[one.clone(), one.clone()], &order).unwrap();
    assert!(matches!(product.rows(&prepared, &weights, weights.blocks()), Err(Scheme::ProductIndex { .. })));
    let reversed = ComponentOrder::bit_reversed(order.components()).unwrap();
    let turned = product.prepare(&[one.clone(), one.clone()], &reversed).unwrap();
    assert!(matches!(product.multiply(&turned, &weights), Err(Scheme::ProductOrder { .. })));
    assert!(matches!(product.rows(&turned, &weights, 0), Err(Scheme::ProductOrder { .. })));
    let stranger = Client::new(&Parameters::insecure_product_test(7), 5, 8);
    let stranger_order = ComponentOrder::natural(stranger.parameters.components());
    let foreign = stranger.product.prepare(&[one.clone(), one.clone()], &stranger_order).unwrap();
    assert!(matches!(product.multiply(&foreign, &weights), Err(Scheme::Decode { .. })));
    let larger = Client::new(&Parameters::insecure_product_test(8), 5, 4);
    assert!(matches!(larger.product.switch_down(&one), Err(Scheme::ProductShape { .. })));
    let mut larger = Client::new(&Parameters::insecure_product_test(8), 6, 4);
    let wide = larger.encrypt(&vec![0; 256], 1024.0);
    let pairs = larger.product.switch_down(&wide).unwrap();
    assert!(matches!(product.prepare_pairs(&pairs, 1.0, &order), Err(Scheme::ProductShape { .. })));
    assert!(matches!(product.switch_up(&pairs, 1.0), Err(Scheme::ProductShape { .. })));
}

#[test]
fn a_set_without_levels_for_a_bootstrap_says_so() {
    use undertone_he::{CkksEvaluator, EvaluationKeys, Evaluator, KeyMemory};
    let mut client = Client::new(&Parameters::insecure_product_test(7), 5, 4);
    let parameters = client.parameters.parameters().clone();
    let value = client.encrypt(&vec![0; 128], 1024.0);
    let ev = CkksEvaluator::new(&parameters, Arc::new(EvaluationKeys::new(&parameters, &KeyMemory::Expanded).unwrap()));
    for period in [1, 8, 64] {
        let refused = ev.half_bootstrap(&value, Some(&value), period).err().unwrap().to_string();
        assert!(refused.contains("0 levels for EvalMod"), "{refused}");
    }
}

#[test]
fn keys_of_two_generators_are_told_apart() {
    let parameters = Parameters::insecure_product_test(7);
    let mut rng = SecretRng::from_os().unwrap();
    let secret = SecretKey::generate(&parameters, &mut rng);
    let parameters = ProductParameters::new(&parameters, 5, 4).unwrap();
    let mut sent = || ProductKeyGenerator::new(&parameters, &secret, &mut rng).generate_all(&mut rng).unwrap();
    let (one, mut other) = (sent(), sent());
    let mixed = one.into_iter().take(2).chain(other.pop());
    let through = mixed.map(|key| SeededProductKey::from_bytes(&parameters, &key.to_bytes(&parameters)).unwrap());
    let refused = ProductKeys::new(&parameters, through).err().unwrap().to_string();
    assert!(refused.contains("another set of keys"), "{refused}");
}

#[test]
fn the_secret_of_the_small_ring_leaves_no_trace() {
    let parameters = Parameters::insecure_product_test(9);
    let mut rng = SecretRng::from_os().unwrap();
    let secret = SecretKey::generate(&parameters, &mut rng);
    let parameters = ProductParameters::new(&parameters, 7, 16).unwrap();
    let generator = ProductKeyGenerator::new(&parameters, &secret, &mut rng);
    for id in ProductKeyId::ALL {
        let (ring, basis) = (parameters.key_ring(id), parameters.key_basis(id));
        let key = generator.generate(id, &mut rng).unwrap().to_bytes(&parameters);
        let released = ring.released_words();
        assert!(released.len() >= ring.degree());
        let target = match id {
            ProductKeyId::Down => spaced(ring, basis, &generator.small, parameters.parts()),
            ProductKeyId::Up => secret_ntt(ring, secret.coefficients(), basis),
            ProductKeyId::Pack => secret_ntt(ring, &generator.small, basis),
        };
        let seed = undertone_ring::Seed(key[56..88].try_into().unwrap());
        let mut traces = vec![target.0.clone()];
        for digit in 0..parameters.key_digits(id) as u64 {
            traces.push(ring.mul(&expand_uniform(ring, &seed, digit, basis), &target.0));
        }
        let traces: std::collections::HashSet<(u64, u64)> = traces
            .iter()
            .flat_map(|poly| poly.data().windows(2).map(|pair| (pair[0], pair[1])).collect::<Vec<_>>())
            .filter(|pair| pair.0.max(pair.1) > 1 << 20)
            .collect();
        let left = |words: &[u64]| words.windows(2).filter(|pair| traces.contains(&(pair[0], pair[1]))).count();
        assert_eq!(left(&released), 0, "{id:?}");
        // The search finds what is not erased.
        drop(target.0.clone());
        assert!(left(&ring.released_words()) > 0, "{id:?}");
        drop(SecretPoly::<Coeff>(ring.zero(basis)));
    }
}
