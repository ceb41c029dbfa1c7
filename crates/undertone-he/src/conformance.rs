//! The suite that every [`Evaluator`] must pass: each operation against plain arithmetic, and the level rules.
//!
//! It is library code so that evaluators of this and other crates run the same checks. Slots and operands are derived
//! from fixed formulas; magnitudes stay below 1 where a bootstrap follows.

mod turns;

pub use turns::product_tokens;

use crate::circuits::{Chebyshev, Diagonals, LinearTransform, evaluate_chebyshev};
use crate::{Error, Evaluator, Slots};

/// An evaluator together with its client side, and the plain vectors it is compared with.
struct Suite<'a, E: Evaluator, Enc, Dec> {
    ev: &'a E,
    encrypt: Enc,
    decrypt: Dec,
    tolerance: f64,
}

/// A value and the slots it should hold.
struct Tracked<V> {
    value: V,
    slots: Vec<f64>,
}

/// Runs every check. `encrypt` takes slots and a level, `decrypt` returns all slots; errors up to `tolerance` pass.
///
/// # Errors
/// Whatever the evaluator returns where it should succeed (missing keys, for example).
///
/// # Panics
/// When a result or a level is wrong: this is a test suite.
pub fn run<E: Evaluator>(
    ev: &E,
    encrypt: impl Fn(&Slots, usize) -> E::Value,
    decrypt: impl Fn(&E::Value) -> Vec<f64>,
    tolerance: f64,
) -> Result<(), Error> {
    let suite = Suite { ev, encrypt, decrypt, tolerance };
    suite.linear_operations()?;
    suite.products()?;
    suite.levels()?;
    suite.rotations()?;
    suite.transforms()?;
    suite.polynomials()?;
    suite.bootstraps()?;
    suite.turns()
}

/// The rotations that [`run`] uses, for evaluators that need a key for each; bootstraps need theirs in addition.
pub fn rotations(slot_count: usize) -> Vec<i32> {
    let mut rotations = vec![1, 2, 3, 6, 8, 16, 24, 32, 40, 48, slot_count as i32 - 3];
    rotations.extend([slot_count as i32 / 4, slot_count as i32 / 2]);
    rotations.sort_unstable();
    rotations.dedup();
    rotations
}

/// Periods that [`run`] bootstraps, with and without a second value.
pub fn bootstrap_periods(slot_count: usize) -> Vec<usize> {
    vec![slot_count / 8, slot_count]
}

impl<E: Evaluator, Enc: Fn(&Slots, usize) -> E::Value, Dec: Fn(&E::Value) -> Vec<f64>> Suite<'_, E, Enc, Dec> {
    fn slot_count(&self) -> usize {
        self.ev.chain().slot_count()
    }

    /// Slots in (−1, 1) that repeat with `period`, different for every `seed`.
    fn pattern(&self, seed: usize, period: usize) -> Slots {
        let values = (0..period).map(|i| (((i * 7919 + seed * 104_729 + 13) % 1999) as f64 / 1000.0 - 0.9995) * 0.95);
        Slots::new(values.collect(), self.slot_count()).expect("the period is a power of two")
    }

    fn fresh(&self, seed: usize, level: usize) -> Tracked<E::Value> {
        self.fresh_periodic(seed, level, self.slot_count())
    }

    fn fresh_periodic(&self, seed: usize, level: usize, period: usize) -> Tracked<E::Value> {
        let plain = self.pattern(seed, period);
        let slots = (0..self.slot_count()).map(|i| plain.at(i)).collect();
        Tracked { value: (self.encrypt)(&plain, level), slots }
    }

    /// Compares all slots and the level.
    fn check(&self, name: &str, value: &E::Value, level: usize, expected: impl Fn(usize) -> f64) {
        assert_eq!(self.ev.level(value), level, "{name}: level");
        let slots = (self.decrypt)(value);
        assert_eq!(slots.len(), self.slot_count(), "{name}: slot count");
        for (i, slot) in slots.iter().enumerate() {
            let want = expected(i);
            assert!((slot - want).abs() <= self.tolerance, "{name}: slot {i} is {slot}, should be {want}");
        }
    }

    fn linear_operations(&self) -> Result<(), Error> {
        let (ev, top) = (self.ev, self.ev.chain().top_level);
        let (a, b) = (self.fresh(1, top), self.fresh(2, top - 2));
        let plain = self.pattern(3, 16);
        self.check("encrypt", &a.value, top, |i| a.slots[i]);
        self.check("add", &ev.add(&a.value, &b.value)?, top - 2, |i| a.slots[i] + b.slots[i]);
        self.check("sub", &ev.sub(&b.value, &a.value)?, top - 2, |i| b.slots[i] - a.slots[i]);
        self.check("negate", &ev.negate(&a.value), top, |i| -a.slots[i]);
        self.check("add_slots", &ev.add_slots(&a.value, &plain)?, top, |i| a.slots[i] + plain.at(i));
        self.check("add_constant", &ev.add_constant(&a.value, -0.375)?, top, |i| a.slots[i] - 0.375);
        self.check("mul_integer", &ev.mul_integer(&a.value, -3)?, top, |i| -3.0 * a.slots[i]);
        assert!(ev.mul_integer(&a.value, 1025).is_err(), "mul_integer must refuse factors beyond 1024");
        Ok(())
    }

    fn products(&self) -> Result<(), Error> {
        let (ev, top) = (self.ev, self.ev.chain().top_level);
        let (a, b, c) = (self.fresh(4, top), self.fresh(5, top - 3), self.fresh(6, top - 1));
        let (x, y, z) = (&a.slots, &b.slots, &c.slots);
        self.check("mul", &ev.mul(&a.value, &b.value)?, top - 4, |i| x[i] * y[i]);
        self.check("square", &ev.square(&a.value)?, top - 1, |i| x[i] * x[i]);
        let sum = ev.multiply_sum(&[(&a.value, &c.value), (&b.value, &c.value), (&c.value, &c.value)])?;
        self.check("multiply_sum", &sum, top - 4, |i| (x[i] + y[i] + z[i]) * z[i]);
        for period in [1, 8, self.slot_count()] {
            let plain = self.pattern(7, period);
            self.check("mul_slots", &ev.mul_slots(&a.value, &plain)?, top - 1, |i| x[i] * plain.at(i));
        }
        let combined = ev.combine(&[(0.5, &a.value), (-1.25, &b.value), (0.0, &c.value)], 0.125)?;
        self.check("combine", &combined, top - 4, |i| 0.5 * x[i] - 1.25 * y[i] + 0.125);
        assert!(ev.combine(&[], 1.0).is_err(), "combine must refuse an empty sum");
        let mixed = ev.multiply_combine(&[(&a.value, &c.value), (&a.value, &c.value)], &[(-0.5, &b.value)], 0.25)?;
        self.check("multiply_combine", &mixed, top - 4, |i| 2.0 * x[i] * z[i] - 0.5 * y[i] + 0.25);
        assert!(ev.multiply_sum(&[]).is_err(), "multiply_sum must refuse an empty sum");
        Ok(())
    }

    fn levels(&self) -> Result<(), Error> {
        let (ev, top) = (self.ev, self.ev.chain().top_level);
        let a = self.fresh(8, top);
        self.check("drop_level", &ev.drop_level(&a.value, 2, 1.0)?, 2, |i| a.slots[i]);
        self.check("drop_level with a factor", &ev.drop_level(&a.value, 1, -0.3)?, 1, |i| -0.3 * a.slots[i]);
        self.check("drop_level to the same level", &ev.drop_level(&a.value, top, 1.0)?, top, |i| a.slots[i]);
        let last = ev.drop_level(&a.value, 0, 1.0)?;
        self.check("level 0", &last, 0, |i| a.slots[i]);
        let too_low = |op, have, need| Some(Error::LevelTooLow { op, have, need });
        assert_eq!(ev.drop_level(&a.value, top, 0.5).err(), too_low("drop_level", top, top + 1));
        assert_eq!(ev.drop_level(&last, 1, 1.0).err(), too_low("drop_level", 0, 1));
        assert_eq!(ev.mul(&a.value, &last).err(), too_low("mul", 0, 1));
        assert_eq!(ev.multiply_sum(&[(&a.value, &last)]).err(), too_low("multiply_combine", 0, 1));
        assert_eq!(ev.mul_slots(&last, &self.pattern(9, 4)).err(), too_low("mul_slots", 0, 1));
        assert_eq!(ev.combine(&[(1.0, &last)], 0.0).err(), too_low("combine", 0, 1));
        let boot = ev.chain().boot_level;
        if boot > 0 {
            assert_eq!(ev.half_bootstrap(&last, None, 8).err(), too_low("half_bootstrap", 0, boot));
        }
        Ok(())
    }

    fn rotations(&self) -> Result<(), Error> {
        let (ev, n) = (self.ev, self.slot_count());
        let a = self.fresh(10, 4);
        for by in [0, 3, -3, n as i32 / 2, n as i32] {
            let moved = |i: usize| a.slots[(i as i64 + by as i64).rem_euclid(n as i64) as usize];
            self.check("rotate", &ev.rotate(&a.value, by)?, 4, moved);
        }
        let steps = [1, 0, 3, -3];
        for (value, by) in ev.rotate_many(&a.value, &steps)?.iter().zip(steps) {
            let moved = |i: usize| a.slots[(i as i64 + by as i64).rem_euclid(n as i64) as usize];
            self.check("rotate_many", value, 4, moved);
        }
        let sum = ev.rotate_sum(&a.value, n as i32 / 4, 4)?;
        self.check("rotate_sum", &sum, 4, |i| (0..4).map(|j| a.slots[(i + j * n / 4) % n]).sum());
        Ok(())
    }

    fn transforms(&self) -> Result<(), Error> {
        let (ev, n) = (self.ev, self.slot_count());
        let (a, b) = (self.fresh(11, 3), self.fresh(12, 5));
        let diagonals = SparseDiagonals { slot_count: n };
        for (stride, count, baby_steps) in [(1, 8, 3), (8, 7, 3), (8, 5, 1), (8, 6, 6)] {
            let transform = LinearTransform { inputs: 2, outputs: 2, stride, count, baby_steps, diagonals: &diagonals };
            let outputs = ev.linear_transform(&[a.value.clone(), b.value.clone()], &transform)?;
            assert_eq!(outputs.len(), 2, "linear_transform: outputs");
            for (o, output) in outputs.iter().enumerate() {
                self.check("linear_transform", output, 2, |slot| {
                    let terms = [&a, &b].into_iter().enumerate().flat_map(|(i, x)| (0..count).map(move |k| (i, x, k)));
                    terms
                        .filter(|&(i, _, k)| diagonals.contains(o, i, k))
                        .map(|(i, x, k)| diagonals.diagonal(o, i, k).at(slot) * x.slots[(slot + k * stride) % n])
                        .sum()
                });
            }
        }
        let transform =
            LinearTransform { inputs: 2, outputs: 1, stride: 1, count: 1, baby_steps: 1, diagonals: &diagonals };
        let wrong = ev.linear_transform(&[a.value], &transform).err();
        assert_eq!(wrong, Some(Error::Arity { op: "linear_transform", have: 1, need: 2 }));
        Ok(())
    }

    fn polynomials(&self) -> Result<(), Error> {
        let a = self.fresh(13, 6);
        for degree in [1, 3, 6, 15, 31] {
            let poly = Chebyshev::interpolate(|x| (x - 0.5).exp() / 2.0, (-1.0, 1.0), degree);
            let (value, _) = evaluate_chebyshev(self.ev, &a.value, &poly)?;
            let level = 6 - poly.cost().depth;
            self.check("evaluate_chebyshev", &value, level, |i| poly.eval(a.slots[i]));
        }
        Ok(())
    }

    fn bootstraps(&self) -> Result<(), Error> {
        let (ev, top, boot) = (self.ev, self.ev.chain().top_level, self.ev.chain().boot_level);
        for period in bootstrap_periods(self.slot_count()) {
            let (a, b) = (self.fresh_periodic(14, boot, period), self.fresh_periodic(15, boot + 1, period));
            let (lo, hi) = ev.half_bootstrap(&a.value, Some(&b.value), period)?;
            self.check("half_bootstrap (first of a pair)", &lo, top, |i| a.slots[i]);
            let hi = hi.expect("a pair returns a pair");
            self.check("half_bootstrap (second of a pair)", &hi, top, |i| b.slots[i]);
            let (alone, none) = ev.half_bootstrap(&b.value, None, period)?;
            assert!(none.is_none(), "half_bootstrap: a single value returns one");
            self.check("half_bootstrap (single)", &alone, top, |i| b.slots[i]);
        }
        Ok(())
    }
}

/// Two inputs, two outputs; every third diagonal of the cross terms is absent, periods vary.
struct SparseDiagonals {
    slot_count: usize,
}

impl Diagonals for SparseDiagonals {
    fn contains(&self, output: usize, input: usize, index: usize) -> bool {
        output == input || index % 3 == 1
    }

    fn diagonal(&self, output: usize, input: usize, index: usize) -> Slots {
        let period = if index.is_multiple_of(2) { 32 } else { self.slot_count };
        let value = |i: usize| ((i * 31 + output * 7 + input * 5 + index * 3) % 23) as f64 / 23.0 - 0.5;
        Slots::new((0..period).map(value).collect(), self.slot_count).expect("the period is a power of two")
    }
}
