//! Programs against themselves in the clear, and in the clear against f64.

use super::clear::Clear;
use super::count::Count;
use super::dealing::Dealing;
use super::exchange::{Exchange, Turn};
use super::extent::{flights, material};
use super::party::Party;
use super::program::Program;
use super::*;
use crate::fixed::{ACTIVATION_BITS, PROBABILITY_BITS, SCORE_BITS, difference, power, rounded, sum};
use crate::random::{Draw, Seed, SiteDraws};
use crate::shape::{Shape, Site, Step};

const SHAPE: Shape = Shape { hidden: 24, intermediate: 20, layers: 1, heads: 4, key_heads: 2, head_dim: 16, vocab: 29 };

fn seed(byte: u8) -> Seed {
    Seed::from_bytes([byte; 32])
}

fn draws(byte: u8, site: Site) -> SiteDraws {
    SiteDraws::new(&seed(byte), site, 0)
}

/// A stand-in for cached values: what a row of probabilities is multiplied with is public here, so shares are linear.
fn mix(step: Step, weights: &[u64]) -> Vec<u64> {
    let mut out = Vec::new();
    let mut start = 0;
    for token in 0..step.tokens {
        for head in 0..SHAPE.heads {
            for channel in 0..SHAPE.head_dim {
                let entry = |i: usize| weights[start + i].wrapping_mul(value(i, head, channel));
                out.push((0..step.visible(token)).map(entry).fold(0, u64::wrapping_add));
            }
            start += step.visible(token);
        }
    }
    out
}

fn value(i: usize, head: usize, channel: usize) -> u64 {
    rounded(((i * 7 + head * 3 + channel) as f64 * 0.61).sin() * 2.0 * power(ACTIVATION_BITS as i32 + 14))
}

/// The result of dealer, provider and user, and the words that travelled.
fn shared(site: Site, step: &Step, program: &dyn Fn() -> Program, input: &[u64]) -> Vec<u64> {
    let mut dealing = Dealing::new(draws(1, site), draws(2, site));
    let mut counted = Count::default();
    let zero = vec![0; input.len()];
    let result = program().run(&mut dealing, zero.clone(), |_, _| vec![0; step.tokens * SHAPE.query()], |_| {});
    program().run(&mut counted, zero, |_, _| vec![0; step.tokens * SHAPE.query()], |_| {});
    let need = material(site, &SHAPE, step);
    assert_eq!((dealing.corrections.len(), dealing.keys.len()), need, "{site:?}");
    assert_eq!((counted.corrections, counted.keys), need, "{site:?}");

    let user = Party::user(draws(1, site), dealing.keys.clone());
    let provider = Party::provider(draws(2, site), dealing.corrections, dealing.keys);
    let halves = seed(3).words(Draw(1), 0, input.len());
    let mut user = Exchange::new(program(), user, halves.to_vec());
    let mut provider = Exchange::new(program(), provider, difference(input, &halves));
    let hidden = seed(4).words(Draw(1), 0, result.len());
    // Shares of the probabilities: what is open belongs to the provider.
    let mut at_user = |wire: &wire::Wire| mix(*step, &difference(&vec![0; wire.len()], &wire.mask));
    let mut at_provider = |wire: &wire::Wire| mix(*step, &difference(&wire.open, &wire.mask));
    let mut due = flights(site, &SHAPE, step).into_iter();
    let mut check = |contents: &exchange::Contents| {
        let due = due.next().unwrap();
        let have = (contents.words.len(), contents.entries.len(), contents.bits.len());
        assert_eq!(have, (due.words, due.entries, due.bits.div_ceil(8)), "{site:?}");
    };
    let mut down = provider.start(user.masked_input().unwrap(), &mut at_provider).unwrap();
    loop {
        check(&down);
        let hidden = |_| hidden.clone();
        match user.turn((&down.words, &down.entries), hidden, &mut at_user).unwrap() {
            Turn::Send(up) => {
                check(&up);
                down = provider.answer((&up.words, &up.entries), &mut at_provider).unwrap();
            }
            Turn::Last(up) => {
                check(&up);
                assert!(due.next().is_none());
                return sum(&provider.finish(&up.words, &up.bits), &seed(4).words(Draw(1), 0, result.len()));
            }
            Turn::Revealed(values) => {
                assert!(due.next().is_none());
                return values.to_vec();
            }
        }
    }
}

/// In the clear, with the masks of a session or to nearest.
fn clear(site: Site, step: &Step, program: &dyn Fn() -> Program, input: &[u64], drawn: bool) -> Vec<u64> {
    let masks = drawn.then(|| [draws(1, site).masks, draws(2, site).masks]);
    program().run(&mut Clear::new(masks), input.to_vec(), |_, wire| mix(*step, &wire.open), |_| {})
}

fn step(position: usize, tokens: usize) -> Step {
    Step { number: 0, position, tokens, outputs: tokens.min(2), strict: false }
}

/// The parties' result is that of the clear twin with the same masks; both it and the twin to nearest are given to `right`.
fn agree(site: Site, step: Step, program: &dyn Fn() -> Program, input: &[u64], right: &mut dyn FnMut(&[u64])) {
    let drawn = clear(site, &step, program, input, true);
    assert!(shared(site, &step, program, input) == drawn, "{site:?}");
    right(&drawn);
    right(&clear(site, &step, program, input, false));
}

fn real(words: &[u64], bits: u32) -> Vec<f64> {
    words.iter().map(|&word| word as i64 as f64 * power(-(bits as i32))).collect()
}

fn fixed(values: impl IntoIterator<Item = f64>, bits: u32) -> Vec<u64> {
    values.into_iter().map(|value| rounded(value * power(bits as i32))).collect()
}

/// The largest difference.
fn worst(have: &[f64], need: &[f64]) -> f64 {
    assert_eq!(have.len(), need.len());
    have.iter().zip(need).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Gates are below this in magnitude.
const GATES: f64 = 131_072.0 - 16.0;

#[test]
fn gates_wrap_where_their_range_ends() {
    let step = Step { number: 0, position: 0, tokens: 1, outputs: 1, strict: false };
    let program = || Program::Activation(activation::Activation::new([14, 12]));
    let product = |gate: f64| {
        let input = [fixed([gate], 14), fixed([1.0], 12)].concat();
        real(&clear(Site::Activation, &step, &program, &input, false), ACTIVATION_BITS)[0]
    };
    let last = GATES - power(-14);
    assert!((product(last) - last).abs() <= power(-12));
    // Where the distance from -16 does not fit, the table reads as far below its end as the gate is beyond the range.
    assert!((product(GATES + 15.0) - (GATES + 15.0)).abs() > 14.0);
}

#[test]
fn silu_is_right_over_its_whole_range() {
    for (gate_bits, up_bits) in [(30, 28), (27, 30), (14, 12), (12, 14)] {
        // Around the table's ends, inside densely, and far outside.
        let inside = (-1200..=1200).map(|i| f64::from(i) * 0.0137);
        let last = GATES - power(-14);
        let ends = [-last, -131_055.0, -300.0, -16.01, -16.0, -15.99, 15.8, 15.87, 15.88];
        let ends = ends.into_iter().chain([16.0, 16.1, 300.0, 131_055.0, last]);
        let gates: Vec<f64> = inside.chain(ends).collect();
        let ups: Vec<f64> = (0..gates.len()).map(|i| ((i * 37 % 101) as f64 - 50.0) * 0.021).collect();
        let input = [fixed(gates.clone(), gate_bits), fixed(ups.clone(), up_bits)].concat();
        let step = Step { number: 0, position: 0, tokens: 1, outputs: 1, strict: false };
        let program = || Program::Activation(activation::Activation::new([gate_bits, up_bits]));
        let silu = |gate: f64| gate / (1.0 + (-gate).exp());
        let need: Vec<f64> = gates.iter().zip(&ups).map(|(gate, up)| silu(*gate) * up).collect();
        for drawn in [true, false] {
            let have = real(&clear(Site::Activation, &step, &program, &input, drawn), ACTIVATION_BITS);
            for i in 0..gates.len() {
                // A unit of the result; a unit of the gate, of the table's 2^-14 and of SiLU's 16 bits, each times up; a unit
                // of up times the gate.
                let unit = |bits: u32| power(-(bits.min(14) as i32));
                let bound = power(-12)
                    + ups[i].abs() * (1.1 * unit(gate_bits) + power(-14) + power(-16))
                    + silu(gates[i]).abs() * unit(up_bits);
                assert!((have[i] - need[i]).abs() <= bound, "{} {} {}", gates[i], have[i], need[i]);
            }
        }
    }
    let step = step(3, 3);
    let program = || Program::Activation(activation::Activation::new([29, 30]));
    let gates = (0..120).map(|i| (f64::from(i) * 1.7).sin() * 20.0);
    let input = fixed(gates, 29);
    agree(Site::Activation, step, &program, &input, &mut |_| {});
}

#[test]
fn norms_are_right_from_the_smallest_to_the_largest_rows() {
    let cols = SHAPE.hidden;
    for bits in [30, 27, 12] {
        // Roots of the mean square from below ε to 2^12, rows with one entry that holds everything among them.
        let scales: Vec<f64> = (-9..=12).map(|k| power(k) * 1.3).filter(|&s| s > power(3 - bits as i32)).collect();
        let entry = |row: usize, i: usize| match row % 3 {
            0 => {
                if i == 5 {
                    scales[row]
                } else {
                    0.0
                }
            }
            _ => ((row * 31 + i * 17) as f64 * 0.77).sin() * scales[row],
        };
        let rows: Vec<f64> = (0..scales.len()).flat_map(|row| (0..cols).map(move |i| entry(row, i))).collect();
        let (input, epsilon) = (fixed(rows.clone(), bits), 1e-5);
        let step = Step { number: 0, position: 0, tokens: scales.len(), outputs: 1, strict: false };
        let new = || norm::Norm::new(cols, bits, epsilon);
        let inverse_bits = (new().product_bits() - bits.max(16)) as i32;
        let mut right = |have: &[u64]| {
            for (row, have) in rows.chunks(cols).zip(real(have, ACTIVATION_BITS).chunks(cols)) {
                let root = (row.iter().map(|x| x * x).sum::<f64>() / cols as f64 + epsilon).sqrt();
                // Entries are rounded to a unit, and to another before they are squared; by Cauchy and Schwarz that moves the
                // root by as much at most. Then the table, and the last place of the inverse.
                let unit = power(-16);
                let relative = unit / root + 4e-6 + power(-inverse_bits) * root;
                for (x, have) in row.iter().zip(have) {
                    let need = x / root;
                    let bound = power(-12) + need.abs() * relative + power(-(bits as i32)) / root;
                    assert!((have - need).abs() <= bound, "{bits} {root} {need} {have} {bound}");
                }
            }
        };
        agree(Site::AttentionNorm, step, &|| Program::Norm(new()), &input, &mut right);
    }
}

/// Rows of scores, `[n, H]` of them, and what they mix to; entries that do not count are left out.
fn attended(step: &Step, scores: &[f64], alive: &[bool]) -> Vec<f64> {
    let (mut out, mut start) = (Vec::new(), 0);
    for token in 0..step.tokens {
        for head in 0..SHAPE.heads {
            let row = &scores[start..start + step.visible(token)];
            let weight = |i: usize, score: f64| {
                let counts = alive.get(i).copied().unwrap_or(true);
                if counts { (score / (SHAPE.head_dim as f64).sqrt()).exp() } else { 0.0 }
            };
            let weights: Vec<f64> = row.iter().enumerate().map(|(i, score)| weight(i, *score)).collect();
            let sum: f64 = weights.iter().sum();
            for channel in 0..SHAPE.head_dim {
                let one = |i: usize| weights[i] * real(&[value(i, head, channel)], ACTIVATION_BITS + 14)[0];
                out.push((0..row.len()).map(one).sum::<f64>() / sum);
            }
            start += row.len();
        }
    }
    out
}

#[test]
fn softmax_is_right_for_flat_steep_and_dead_rows() {
    // Longest rows of 1, 2, 3, 8 and 29 entries.
    for (position, tokens) in [(0, 1), (1, 1), (0, 3), (6, 2), (27, 2)] {
        for (kind, scale) in [(0, 0.0), (1, 3.0), (2, 40.0), (3, 60_000.0)] {
            let step = step(position, tokens);
            let len = step.scores(&SHAPE);
            let scores: Vec<f64> =
                (0..len).map(|i| ((i * 53 + kind) as f64 * 0.71).sin() * scale - 0.3 * scale).collect();
            // None dead, and every third one where enough are left.
            for every in [usize::MAX, 3] {
                let alive: Vec<bool> = (0..position).map(|i| i % every != 0 || every > 3).collect();
                let input = fixed(scores.clone(), SCORE_BITS);
                let need = attended(&step, &scores, &alive);
                // The difference of two scores moves by two units; an exponential by a unit and by the table's 2e-5. An error
                // of the weights together counts once in the numerator and once in the sum, which is one at least.
                let moved = 2.0 * power(-12) / (SHAPE.head_dim as f64).sqrt() + 2e-5;
                let weights =
                    moved + (position + tokens) as f64 * (power(-(PROBABILITY_BITS as i32)) + (-11.1f64).exp());
                let bound = 2.0 * 2.0 * weights + 2.0 * power(-14) + power(-12);
                let program = || Program::Softmax(softmax::Softmax::new(&SHAPE, &step, 14, &alive));
                agree(Site::Softmax, step, &program, &input, &mut |have| {
                    let error = worst(&real(have, ACTIVATION_BITS), &need);
                    assert!(error <= bound, "{position} {tokens} {kind} {error} {bound}");
                });
            }
        }
    }
}

#[test]
fn the_largest_logit_is_found_and_the_first_of_several() {
    let program = |vocab| move || Program::Argmax(argmax::Argmax::new(2, vocab, 28));
    for vocab in [2, 3, 4, 5, 8, 29] {
        let shape = Shape { vocab, ..SHAPE };
        for case in 0..6u64 {
            // Whole multiples of the last place that is compared, so that equal ones stay equal.
            let logit = |i: usize| ((i as u64 * 7919 + case * 104_729) % 23) as i64 * 4096 * 999 - (1 << 30);
            let row = |from: usize| (0..vocab).map(move |i| logit(i + from) as u64);
            let input: Vec<u64> = row(0).chain(row(case as usize)).collect();
            let step = Step { number: 0, position: 4, tokens: 2, outputs: 2, strict: false };
            let need: Vec<u64> = input.chunks(vocab).map(|row| crate::greedy_place(row) as u64).collect();
            let masks = || Some([draws(1, Site::Logits).masks, draws(2, Site::Logits).masks]);
            for masks in [masks(), None] {
                let have = program(vocab)().run(&mut Clear::new(masks), input.clone(), |_, _| vec![], |_| {});
                assert_eq!(have.iter().map(|place| place & 0xffff_ffff).collect::<Vec<_>>(), need, "{shape:?}");
            }
            if vocab == SHAPE.vocab {
                let have = shared(Site::Logits, &step, &program(vocab), &input);
                assert_eq!(have, need);
            }
        }
    }
}
