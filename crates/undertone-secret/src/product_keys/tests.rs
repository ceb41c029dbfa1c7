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

    /// Variance of the noise of one output coefficient, for the weights of its row as multiples of q_w.
    ///
    /// A key switch leaves digit · errors / P: N·q²/12·σ² / P² for a digit modulo q, and two roundings, of which one meets
    /// the secret: (1 + weight)/12. The product adds up input noise with the squares of the weights; its rescale rounds
    /// again under the secret of the small ring, of weight 2N'/3.
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

/// Encrypts random channels, multiplies, and compares every coefficient with the clear product; returns the largest error and its
/// predicted standard deviation, both in coefficients.
fn check(client: &mut Client, shape: &WeightShape, kind: Kind) -> (f64, f64) {
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
    let count = shape.inputs.div_ceil(components);
    let inputs: Vec<Ciphertext> = (0..count)
        .map(|c| {
            let channel = |p: usize| c * components + shape.input_order.channel(p % components);
            let coefficients: Vec<i64> = (0..components * tokens).map(|p| value(channel(p), p / components)).collect();
            client.encrypt(&coefficients, scale)
        })
        .collect();
    let weights = ProductWeights::new(&parameters, shape, 0, |o, i| weight(kind, o, i)).unwrap();
    let outputs = client.product.apply(&inputs, &weights).unwrap();
    assert_eq!(outputs.len(), shape.outputs.div_ceil(components));
    let (mut worst, mut deviation) = (0.0f64, 0.0f64);
    for (c, output) in outputs.iter().enumerate() {
        assert_eq!(output.scale(), scale);
        let have = client.decrypt(output);
        for component in 0..components {
            let o = c * components + shape.output_order.channel(component);
            let row: Vec<i16> =
                if o < shape.outputs { (0..shape.inputs).map(|i| weight(kind, o, i)).collect() } else { vec![] };
            let variance = client.noise_variance(row.iter().map(|&w| f64::from(w) / prime as f64));
            // Of all coefficients of all tests together, one leaves seven deviations in more than 10^5 runs.
            let bound = 7.0 * variance.sqrt();
            deviation = deviation.max(variance.sqrt());
            for t in 0..tokens {
                let term = |(i, &w): (usize, &i16)| i128::from(w) * i128::from(value(i, t));
                let need = row.iter().enumerate().map(term).sum::<i128>() as f64 / prime as f64;
                let error = (have[component + components * t] as f64 - need).abs();
                assert!(error <= bound, "{kind:?} {shape:?}: channel {o}, token {t}: {error} above {bound}");
                worst = worst.max(error);
            }
        }
    }
    (worst, deviation)
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
    for (outputs, inputs) in [(64, 64), (512, 4096)] {
        let shape = WeightShape { outputs, inputs, output_order: order.clone(), input_order: order.clone() };
        let start = Instant::now();
        let (worst, deviation) = check(&mut client, &shape, Kind::Random);
        let bits = (message / worst).log2();
        println!(
            "{outputs} x {inputs}: worst {worst:.1}, deviation {deviation:.1}, {bits:.1} bits, {:.2?}",
            start.elapsed()
        );
        // The prediction is no loose bound: the worst of so many errors is several deviations away from zero.
        assert!(worst > 2.0 * deviation);
    }
}

#[test]
fn inputs_and_weights_that_do_not_fit_are_refused() {
    use undertone_he::Error as Scheme;
    let mut client = Client::new(&Parameters::insecure_product_test(7), 5, 4);
    let order = ComponentOrder::natural(client.parameters.components());
    let shape = WeightShape { outputs: 3, inputs: 40, output_order: order.clone(), input_order: order };
    let weights = ProductWeights::new(&client.parameters, &shape, 0, |_, _| 1).unwrap();
    let zeros = vec![0; 128];
    let (one, other) = (client.encrypt(&zeros, 1024.0), client.encrypt(&zeros, 2048.0));
    let product = &client.product;
    assert!(matches!(product.apply(&[], &weights), Err(Scheme::Arity { .. })));
    assert!(matches!(product.apply(std::slice::from_ref(&one), &weights), Err(Scheme::ProductShape { .. })));
    assert!(matches!(product.apply(&[one.clone(), other], &weights), Err(Scheme::ScaleMismatch { .. })));
    let lowered = product.apply(&[one.clone(), one.clone()], &weights).unwrap();
    assert!(matches!(
        product.apply(&[lowered[0].clone(), one.clone()], &weights),
        Err(Scheme::ScaleMismatch { .. }) | Err(Scheme::LevelTooLow { .. })
    ));
    assert!(matches!(product.switch_down(&lowered[0]), Err(Scheme::LevelTooLow { .. })));
    assert!(matches!(product.prepare_pairs(&[], 1.0), Err(Scheme::Arity { .. })));
    let pairs = product.switch_down(&one).unwrap();
    assert!(matches!(product.switch_up(&pairs[1..], 1.0), Err(Scheme::ProductShape { .. })));
    let prepared = product.prepare(&[one.clone(), one.clone()]).unwrap();
    assert!(matches!(product.rows(&prepared, &weights, weights.blocks()), Err(Scheme::ProductShape { .. })));
    let stranger = Client::new(&Parameters::insecure_product_test(7), 5, 8);
    let foreign = stranger.product.prepare(&[one.clone(), one.clone()]).unwrap();
    assert!(matches!(product.multiply(&foreign, &weights), Err(Scheme::Decode { .. })));
    let larger = Client::new(&Parameters::insecure_product_test(8), 5, 4);
    assert!(matches!(larger.product.switch_down(&one), Err(Scheme::ProductShape { .. })));
    let mut larger = Client::new(&Parameters::insecure_product_test(8), 6, 4);
    let wide = larger.encrypt(&vec![0; 256], 1024.0);
    let pairs = larger.product.switch_down(&wide).unwrap();
    assert!(matches!(product.prepare_pairs(&pairs, 1.0), Err(Scheme::ProductShape { .. })));
    assert!(matches!(product.switch_up(&pairs, 1.0), Err(Scheme::ProductShape { .. })));
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
        let seed = undertone_ring::Seed(key[40..72].try_into().unwrap());
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
