//! Matrix products between bootstraps, in chains that have a product prime; all others must say that they have none.

use super::Suite;
use crate::{Error, Evaluator, MatrixShape, Slots};

/// The tokens of the products that the suite runs: 32 channels fit a pair.
pub fn product_tokens(slot_count: usize) -> usize {
    slot_count / 16
}

/// The integer weight from channel i to channel o, below 2^14, and 2^14 once.
fn weight(o: usize, i: usize) -> i64 {
    if (o, i) == (1, 2) { 1 << 14 } else { ((o * 613 + i * 3571 + 77) % 32_001) as i64 - 16_000 }
}

impl<E: Evaluator, Enc: Fn(&Slots, usize) -> E::Value, Dec: Fn(&E::Value) -> Vec<f64>> Suite<'_, E, Enc, Dec> {
    pub(super) fn turns(&self) -> Result<(), Error> {
        let (ev, chain) = (self.ev, self.ev.chain());
        let shape = MatrixShape { outputs: 70, inputs: 40, tokens: product_tokens(self.slot_count()) };
        let Some(prime) = chain.product_prime else {
            let refused = ev.encode_matrix(&shape, &|_, _| panic!("no row is needed")).err();
            assert!(matches!(refused, Some(Error::Parameters { .. })), "encode_matrix without a product prime");
            return Ok(());
        };
        let (pairs, channels) = self.turn_inputs(&shape, chain.boot_level);
        // What a row says beside an integer: the gain it needs, the integers it becomes, and a remainder to round off.
        for (gain, divisor, remainder) in [(1.0, 1, 0.0), (1.0, 200, 0.3), (4.0, 1, -0.4)] {
            let unit = gain / prime as f64;
            let row = move |o: usize, out: &mut [f32]| {
                let value = |i: usize| ((weight(o, i) / divisor) as f64 + remainder * (i % 2) as f64) * unit;
                out.iter_mut().enumerate().for_each(|(i, out)| *out = value(i) as f32);
            };
            let matrix = ev.encode_matrix(&shape, &row)?;
            let outputs = ev.product_bootstrap(&pairs, &matrix)?;
            assert_eq!(outputs.len(), shape.output_pairs(chain), "product_bootstrap: pairs");
            let expected = |o: usize, t: usize| -> f64 {
                let terms = channels.iter().enumerate();
                terms.map(|(i, channel)| (weight(o, i) / divisor) as f64 * unit * channel[t]).sum()
            };
            self.check_turn(&shape, &outputs, gain, expected);
        }
        self.refused_turns(&shape, &pairs)
    }

    /// Encryptions of the channels that go in, the second value of each pair one level higher, and their tokens.
    fn turn_inputs(&self, shape: &MatrixShape, level: usize) -> (Vec<[E::Value; 2]>, Vec<Vec<f64>>) {
        let (half, components) = (shape.tokens / 2, shape.components(self.ev.chain()));
        let mut channels = vec![Vec::with_capacity(shape.tokens); shape.inputs];
        let pairs = (0..shape.input_pairs(self.ev.chain())).map(|pair| {
            [0, 1].map(|side| {
                let mut slots = self.pattern(20 + 2 * pair + side, self.slot_count()).period().to_vec();
                for (c, tokens) in slots.chunks_exact_mut(half).enumerate() {
                    match channels.get_mut(pair * components + c) {
                        Some(channel) => channel.extend_from_slice(tokens),
                        None => tokens.fill(0.0),
                    }
                }
                let slots = Slots::new(slots, self.slot_count()).expect("all slots are given");
                (self.encrypt)(&slots, level + side)
            })
        });
        (pairs.collect(), channels)
    }

    fn check_turn(
        &self,
        shape: &MatrixShape,
        outputs: &[[E::Value; 2]],
        gain: f64,
        expected: impl Fn(usize, usize) -> f64,
    ) {
        let (chain, half) = (self.ev.chain(), shape.tokens / 2);
        for (pair, values) in outputs.iter().enumerate() {
            for (side, value) in values.iter().enumerate() {
                assert_eq!(self.ev.level(value), chain.top_level, "product_bootstrap: level");
                for (slot, found) in (self.decrypt)(value).into_iter().enumerate() {
                    let (o, t) = (pair * shape.components(chain) + slot / half, side * half + slot % half);
                    let want = if o < shape.outputs { expected(o, t) } else { 0.0 };
                    let wrong = (found - want).abs() > gain * self.tolerance;
                    assert!(!wrong, "product_bootstrap: token {t} of channel {o} is {found}, should be {want}");
                }
            }
        }
    }

    fn refused_turns(&self, shape: &MatrixShape, pairs: &[[E::Value; 2]]) -> Result<(), Error> {
        let (ev, boot) = (self.ev, self.ev.chain().boot_level);
        let matrix = ev.encode_matrix(shape, &|_, out| out.fill(0.01))?;
        let wrong = ev.product_bootstrap(&pairs[..1], &matrix).err();
        assert_eq!(wrong, Some(Error::Arity { op: "product_bootstrap", have: 1, need: 2 }));
        let mut low = pairs.to_vec();
        low[1][0] = ev.drop_level(&low[1][0], boot - 1, 1.0)?;
        let wrong = ev.product_bootstrap(&low, &matrix).err();
        assert_eq!(wrong, Some(Error::LevelTooLow { op: "product_bootstrap", have: boot - 1, need: boot }));
        for shape in [MatrixShape { tokens: shape.tokens + 1, ..*shape }, MatrixShape { inputs: 0, ..*shape }] {
            assert!(ev.encode_matrix(&shape, &|_, out| out.fill(0.0)).is_err(), "encode_matrix of {shape:?}");
        }
        Ok(())
    }
}
