//! Key switches and hoisted sums against their definitions, composed of single operations, on every backend.

use std::ops::Range;
use std::sync::Arc;

use undertone_ring::*;

const LOG_N: u32 = 6;
const LIMBS: usize = 5;
const SPECIAL: usize = 2;
const RANGES: [Range<usize>; 3] = [0..2, 2..4, 4..6];

fn rings() -> Vec<Ring> {
    let primes = ntt_primes_near(LOG_N, 1 << 45, LIMBS + 1 + SPECIAL, &[]).unwrap();
    let (q, p) = primes.split_at(LIMBS + 1);
    let backends: Vec<Arc<dyn Backend>> =
        std::iter::once(scalar_backend()).chain(avx2_backend()).chain(avx512ifma_backend()).collect();
    backends.into_iter().map(|backend| Ring::new(LOG_N, q, p, backend).unwrap()).collect()
}

fn random(ring: &Ring, basis: Basis, seed: u64) -> Poly<Ntt> {
    expand_uniform(ring, &Seed([3; 32]), seed, basis)
}

/// A key with one more q limb than it serves.
struct Key {
    b: Vec<PackedPoly>,
    a: Vec<PackedPoly>,
    permutation: Permutation,
}

impl Key {
    fn new(ring: &Ring, seed: u64) -> Self {
        let polys = |from: u64| -> Vec<PackedPoly> {
            (0..3).map(|i| ring.pack(&random(ring, Basis { q: LIMBS + 1, p: SPECIAL }, from + i))).collect()
        };
        Self { b: polys(10 * seed), a: polys(10 * seed + 5), permutation: ring.permutation(2 * seed + 1) }
    }

    fn gadget(&self) -> GadgetKey<'_> {
        GadgetKey { b: ComputedHalf::Held(&self.b), a: UniformHalf::Expanded(&self.a) }
    }

    fn step(&self) -> Step<'_> {
        Step { key: self.gadget(), permutation: &self.permutation }
    }
}

/// P * plus + sum of lifted digits times key, modulo QP.
fn product(ring: &Ring, poly: &Poly<Ntt>, key: &[PackedPoly], plus: Option<&Poly<Ntt>>) -> Poly<Ntt> {
    let (digits, basis) = (ring.digits(poly, &RANGES), Basis { q: poly.basis().q, p: SPECIAL });
    let mut sum = plus.map_or_else(|| ring.zero(basis), |plus| ring.lift_p(plus.clone(), SPECIAL));
    for (index, key) in key.iter().enumerate().take(digits.count()) {
        ring.mul_add_assign(&mut sum, &ring.lifted_digit(&digits, index), &ring.restrict(&ring.unpack(key), basis));
    }
    sum
}

#[test]
fn a_switch_is_the_divided_inner_product() {
    for ring in rings() {
        for limbs in [LIMBS, 4, 2] {
            let basis = Basis { q: limbs, p: 0 };
            let (poly, plus) = (random(&ring, basis, 1), random(&ring, basis, 2));
            let (key, digits) = (Key::new(&ring, 3), ring.digits(&poly, &RANGES));
            let [b, a] = ring.switch(&digits, key.gadget(), [Some(&plus), None]);
            assert!(b == ring.mod_down(product(&ring, &poly, &key.b, Some(&plus))), "{limbs} limbs");
            assert!(a == ring.mod_down(product(&ring, &poly, &key.a, None)), "{limbs} limbs");
            let [b, a] = ring.switch_rescale(&digits, key.gadget(), [Some(&plus), Some(&poly)]);
            assert!(b == ring.mod_down_rescale(product(&ring, &poly, &key.b, Some(&plus))), "{limbs} limbs");
            assert!(a == ring.mod_down_rescale(product(&ring, &poly, &key.a, Some(&poly))), "{limbs} limbs");
        }
    }
}

#[test]
fn a_seeded_half_is_the_expanded_one() {
    for ring in rings() {
        let (basis, seed) = (Basis { q: LIMBS, p: 0 }, Seed([9; 32]));
        let full = Basis { q: LIMBS + 1, p: SPECIAL };
        let (poly, key) = (random(&ring, basis, 1), Key::new(&ring, 3));
        let a: Vec<_> = (0..3).map(|digit| ring.pack(&expand_uniform(&ring, &seed, digit, full))).collect();
        let digits = ring.digits(&poly, &RANGES);
        let halves = [UniformHalf::Expanded(&a), UniformHalf::Seeded(&seed)];
        let [stored, made] =
            halves.map(|a| ring.switch(&digits, GadgetKey { b: ComputedHalf::Held(&key.b), a }, [None, None]));
        assert!(stored == made, "{}", ring.backend_name());
    }
}

/// A key whose limbs are copied out on request.
struct Elsewhere<'a>(&'a [PackedPoly]);

impl StoredHalf for Elsewhere<'_> {
    fn degree(&self) -> usize {
        self.0[0].degree()
    }

    fn basis(&self) -> Basis {
        self.0[0].basis()
    }

    fn digit_count(&self) -> usize {
        self.0.len()
    }

    fn read(&self, limb: usize, out: &mut [u8]) {
        let len = self.0[0].limb(limb).bytes().len();
        assert!(out.len().is_multiple_of(len));
        out.chunks_exact_mut(len).zip(self.0).for_each(|(out, b)| out.copy_from_slice(b.limb(limb).bytes()));
    }
}

#[test]
fn a_half_that_is_read_limb_by_limb_is_the_held_one() {
    for ring in rings() {
        let (key, seed) = (Key::new(&ring, 3), Seed([9; 32]));
        let stored = Elsewhere(&key.b);
        for limbs in [LIMBS, 4, 2] {
            let basis = Basis { q: limbs, p: 0 };
            let c = [random(&ring, basis, 1), random(&ring, basis, 2)];
            let digits = ring.digits(&c[1], &RANGES);
            for a in [UniformHalf::Expanded(&key.a), UniformHalf::Seeded(&seed)] {
                let both = [ComputedHalf::Held(&key.b), ComputedHalf::Stored(&stored)];
                let [held, read] = both.map(|b| {
                    let step = Step { key: GadgetKey { b, a }, permutation: &key.permutation };
                    let switched = ring.switch_rescale(&digits, step.key, [Some(&c[0]), None]);
                    let summed = ring.rotation_sum([&c[0], &c[1]], &RANGES, &[step, step]);
                    [switched, summed]
                });
                assert!(held == read, "{} with {limbs} limbs", ring.backend_name());
            }
        }
    }
}

#[test]
fn a_hoisted_sum_is_its_definition() {
    for ring in rings() {
        let (base, full) = (Basis { q: LIMBS, p: 0 }, Basis { q: LIMBS, p: SPECIAL });
        let c = [random(&ring, base, 1), random(&ring, base, 2)];
        let keys: Vec<Key> = (1..6).map(|seed| Key::new(&ring, seed)).collect();
        for log_gap in [0, 2, LOG_N] {
            let plain = |seed: i64| {
                let stored = (1i64 << LOG_N) >> log_gap;
                let values: Vec<i64> = (0..stored).map(|k| (k * k * seed + 77 * seed) % 1009 - 500).collect();
                ring.ntt_compact(&values, log_gap, full)
            };
            let plains: Vec<CompactPoly> = (1..8).map(plain).collect();
            let babies = [None, Some(keys[0].step()), Some(keys[1].step())];
            let giants = [
                Giant { step: None, terms: vec![(0, &plains[0]), (1, &plains[1]), (2, &plains[2])] },
                Giant { step: Some(keys[2].step()), terms: vec![(0, &plains[3]), (2, &plains[4])] },
                Giant { step: Some(keys[3].step()), terms: vec![(1, &plains[5])] },
                Giant { step: None, terms: vec![(1, &plains[6])] },
            ];
            let got = ring.hoisted_sum([&c[0], &c[1]], &RANGES, &babies, &giants);
            let expected = composed(&ring, &c, &babies, &giants);
            assert!(got == expected, "gap 2^{log_gap}, {}", ring.backend_name());
        }
    }
}

#[test]
fn a_rotation_sum_is_its_definition() {
    for ring in rings() {
        let base = Basis { q: LIMBS, p: 0 };
        let c = [random(&ring, base, 1), random(&ring, base, 2)];
        let keys: Vec<Key> = (1..4).map(|seed| Key::new(&ring, seed)).collect();
        let steps: Vec<Step<'_>> = keys.iter().map(Key::step).collect();
        let mut expected = c.each_ref().map(|c| ring.lift_p(c.clone(), SPECIAL));
        for step in &steps {
            let sums = [product(&ring, &c[1], computed(step), Some(&c[0])), product(&ring, &c[1], uniform(step), None)];
            for (total, sum) in expected.iter_mut().zip(sums) {
                ring.add_assign(total, &ring.automorphism(&sum, step.permutation));
            }
        }
        let got = ring.rotation_sum([&c[0], &c[1]], &RANGES, &steps);
        assert!(got == expected.map(|sum| ring.mod_down(sum)), "{}", ring.backend_name());
    }
}

fn composed(ring: &Ring, c: &[Poly<Ntt>; 2], babies: &[Option<Step<'_>>], giants: &[Giant<'_>]) -> [Poly<Ntt>; 2] {
    let rotated: Vec<[Poly<Ntt>; 2]> = babies
        .iter()
        .map(|baby| match baby {
            None => c.each_ref().map(|c| ring.lift_p(c.clone(), SPECIAL)),
            Some(step) => {
                let sums =
                    [product(ring, &c[1], computed(step), Some(&c[0])), product(ring, &c[1], uniform(step), None)];
                sums.map(|sum| ring.automorphism(&sum, step.permutation))
            }
        })
        .collect();
    let zero = || ring.zero::<Ntt>(Basis { q: LIMBS, p: SPECIAL });
    let mut total = [zero(), zero()];
    for giant in giants {
        let mut sum = [zero(), zero()];
        for &(baby, plain) in &giant.terms {
            for (sum, value) in sum.iter_mut().zip(&rotated[baby]) {
                ring.mul_compact_add_assign(sum, value, plain);
            }
        }
        if let Some(step) = giant.step {
            let [b, a] = sum;
            let a = ring.mod_down(a);
            let mut switched = [product(ring, &a, computed(&step), None), product(ring, &a, uniform(&step), None)];
            ring.add_assign(&mut switched[0], &b);
            sum = switched.map(|half| ring.automorphism(&half, step.permutation));
        }
        total.iter_mut().zip(&sum).for_each(|(total, sum)| ring.add_assign(total, sum));
    }
    total.map(|sum| ring.mod_down_rescale(sum))
}

/// The computed half of a step whose key is in memory.
fn computed<'a>(step: &Step<'a>) -> &'a [PackedPoly] {
    match step.key.b {
        ComputedHalf::Held(polys) => polys,
        ComputedHalf::Stored(_) => panic!("the keys of this test are held"),
    }
}

/// The uniform half of a step whose key is expanded.
fn uniform<'a>(step: &Step<'a>) -> &'a [PackedPoly] {
    match step.key.a {
        UniformHalf::Expanded(polys) => polys,
        UniformHalf::Seeded(_) => panic!("the keys of this test are expanded"),
    }
}
