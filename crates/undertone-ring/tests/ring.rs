//! Ring operations against plain integer arithmetic, on every backend of this machine.

use std::sync::Arc;

use undertone_ring::*;

/// A small deterministic generator for test inputs.
struct Lcg(u64);

impl Lcg {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 ^ (self.0 >> 29)
    }

    fn below(&mut self, bound: i128) -> i128 {
        (((self.next() as u128) << 64 | self.next() as u128) % bound as u128) as i128
    }
}

fn backends() -> Vec<Arc<dyn Backend>> {
    std::iter::once(scalar_backend()).chain(avx2_backend()).chain(avx512ifma_backend()).collect()
}

/// Rings with `q` and `p` primes of the given size, one per backend.
fn rings(log_n: u32, bits: u32, q: usize, p: usize) -> Vec<Ring> {
    let primes = ntt_primes_near(log_n, 1 << bits, q + p, &[]).unwrap();
    backends().into_iter().map(|b| Ring::new(log_n, &primes[..q], &primes[q..], b).unwrap()).collect()
}

fn random(ring: &Ring, basis: Basis, seed: u64) -> Poly<Ntt> {
    expand_uniform(ring, &Seed([7; 32]), seed, basis)
}

/// The centred integer coefficients of a polynomial whose whole modulus fits in 126 bits.
fn integers(ring: &Ring, poly: Poly<Ntt>) -> Vec<i128> {
    let basis = poly.basis();
    let poly = ring.intt(poly);
    let moduli: Vec<Modulus> = (0..basis.limb_count()).map(|i| ring.modulus(basis, i)).collect();
    let total: i128 = moduli.iter().map(|q| q.value() as i128).product();
    (0..ring.degree())
        .map(|k| {
            // Garner's mixed radix digits.
            let (mut value, mut radix) = (0i128, 1i128);
            for (i, q) in moduli.iter().enumerate() {
                let radix_inverse = q.inverse(q.reduce_i128(radix));
                let digit = q.mul(q.sub(poly.limb(i)[k], q.reduce_i128(value)), radix_inverse);
                value += radix * digit as i128;
                radix *= q.value() as i128;
            }
            if value > total / 2 { value - total } else { value }
        })
        .collect()
}

/// round(a / b) for odd b.
fn divide_round(a: i128, b: i128) -> i128 {
    (2 * a + b).div_euclid(2 * b)
}

fn schoolbook(q: Modulus, a: &[u64], b: &[u64]) -> Vec<u64> {
    let n = a.len();
    let mut out = vec![0; n];
    for (i, &x) in a.iter().enumerate() {
        for (j, &y) in b.iter().enumerate() {
            let product = q.mul(x, y);
            let at = (i + j) % n;
            out[at] = if i + j < n { q.add(out[at], product) } else { q.sub(out[at], product) };
        }
    }
    out
}

#[test]
fn product_is_negacyclic() {
    for (log_n, bits) in [(3, 20), (4, 30), (5, 49), (7, 50), (8, 36), (9, 50)] {
        for ring in rings(log_n, bits, 2, 1) {
            let basis = Basis { q: 2, p: 1 };
            let (a, b) = (ring.intt(random(&ring, basis, 1)), ring.intt(random(&ring, basis, 2)));
            let product = ring.intt(ring.mul(&ring.ntt(a.clone()), &ring.ntt(b.clone())));
            for limb in 0..3 {
                let expected = schoolbook(ring.modulus(basis, limb), a.limb(limb), b.limb(limb));
                assert_eq!(product.limb(limb), expected, "degree 2^{log_n}, limb {limb}, {}", ring.backend_name());
            }
        }
    }
}

#[test]
fn values_are_in_bit_reversed_order() {
    for ring in rings(6, 40, 1, 0) {
        let (n, q) = (64u64, ring.q_moduli()[0]);
        let mut x = vec![0i64; 64];
        x[1] = 1;
        let values = ring.ntt(ring.from_signed(&x, Basis { q: 1, p: 0 }));
        // The values of X itself are the odd powers of psi; psi is at the exponent 1, entry 0.
        let psi = values.limb(0)[0];
        assert_eq!(q.pow(psi, n), q.value() - 1);
        assert!((0..n).all(|k| q.pow(psi, 2 * k + 1) >= psi));
        for i in 0..n {
            assert_eq!(values.limb(0)[i as usize], q.pow(psi, 2 * (i.reverse_bits() >> 58) + 1));
        }
    }
}

#[test]
fn arithmetic_follows_the_definitions() {
    for ring in rings(5, 50, 3, 2) {
        let basis = Basis { q: 2, p: 2 };
        let (a, b, c) = (random(&ring, basis, 1), random(&ring, basis, 2), random(&ring, basis, 3));
        let residues: Vec<u64> = (0..4).map(|i| ring.modulus(basis, i).value() - 5 - i as u64).collect();
        let check = |name: &str, got: &Poly<Ntt>, rule: &dyn Fn(usize, Modulus, usize) -> u64| {
            for limb in 0..4 {
                let q = ring.modulus(basis, limb);
                for k in 0..32 {
                    assert_eq!(got.limb(limb)[k], rule(limb, q, k), "{name}, {}", ring.backend_name());
                }
            }
        };
        let apply = |work: &dyn Fn(&mut Poly<Ntt>)| {
            let mut x = a.clone();
            work(&mut x);
            x
        };
        let at = |p: &Poly<Ntt>, l: usize, k: usize| p.limb(l)[k];
        check("add", &apply(&|x| ring.add_assign(x, &b)), &|l, q, k| q.add(at(&a, l, k), at(&b, l, k)));
        check("sub", &apply(&|x| ring.sub_assign(x, &b)), &|l, q, k| q.sub(at(&a, l, k), at(&b, l, k)));
        check("neg", &apply(&|x| ring.neg_assign(x)), &|l, q, k| q.neg(at(&a, l, k)));
        check("mul", &ring.mul(&a, &b), &|l, q, k| q.mul(at(&a, l, k), at(&b, l, k)));
        check("mul_assign", &apply(&|x| ring.mul_assign(x, &b)), &|l, q, k| q.mul(at(&a, l, k), at(&b, l, k)));
        check("mul_add", &apply(&|x| ring.mul_add_assign(x, &b, &c)), &|l, q, k| {
            q.add(at(&a, l, k), q.mul(at(&b, l, k), at(&c, l, k)))
        });
        let short = Basis { q: 2, p: 0 };
        let sum = ring.weighted_sum(short, &[(&a, residues.clone()), (&b, vec![3, 0, 0, 0])], &[7, 8]);
        for (limb, &weight) in residues.iter().take(2).enumerate() {
            let q = ring.modulus(basis, limb);
            for k in 0..32 {
                let first = q.add(q.mul(at(&a, limb, k), weight), 7 + limb as u64);
                assert_eq!(sum.limb(limb)[k], q.add(first, q.mul(at(&b, limb, k), 3 * u64::from(limb == 0))));
            }
        }
        let [d0, d1, d2] = ring.tensor(short, &[[[&a, &b], [&b, &c]], [[&c, &a], [&a, &c]]]);
        let expected = |terms: [(&Poly<Ntt>, &Poly<Ntt>); 4], count: usize| {
            let mut sum = ring.zero::<Ntt>(short);
            let cut = |p: &Poly<Ntt>| ring.restrict(p, short);
            terms[..count].iter().for_each(|(x, y)| ring.mul_add_assign(&mut sum, &cut(x), &cut(y)));
            sum
        };
        assert!(d0 == expected([(&a, &b), (&c, &a), (&a, &a), (&a, &a)], 2));
        assert!(d1 == expected([(&a, &c), (&b, &b), (&c, &c), (&a, &a)], 4));
        assert!(d2 == expected([(&b, &c), (&a, &c), (&a, &a), (&a, &a)], 2));
        check("mul_scalar", &apply(&|x| ring.mul_scalar_assign(x, &residues)), &|l, q, k| {
            q.mul(at(&a, l, k), residues[l])
        });
        check("add_scalar", &apply(&|x| ring.add_scalar_assign(x, &residues)), &|l, q, k| {
            q.add(at(&a, l, k), residues[l])
        });
        check("mul_scalar_add", &apply(&|x| ring.mul_scalar_add_assign(x, &b, &residues)), &|l, q, k| {
            q.add(at(&a, l, k), q.mul(at(&b, l, k), residues[l]))
        });
    }
}

#[test]
fn automorphisms_agree_between_forms() {
    for log_n in [3, 4, 6, 9] {
        for ring in rings(log_n, 45, 2, 0) {
            let basis = Basis { q: 2, p: 0 };
            let a = random(&ring, basis, 3);
            for galois in [1, 3, 5, 25, 125, 2 * ring.degree() as u64 - 1] {
                let permutation = ring.permutation(galois);
                let expected = ring.ntt(ring.automorphism_coeff(&ring.intt(a.clone()), galois));
                let got = ring.automorphism(&a, &permutation);
                assert!(got == expected, "degree 2^{log_n}, g = {galois}, {}", ring.backend_name());
                for i in 0..ring.degree() {
                    assert_eq!(got.limb(1)[i], a.limb(1)[permutation.source(i)]);
                }
                let mut sum = a.clone();
                ring.automorphism_add_assign(&mut sum, &a, &permutation);
                ring.sub_assign(&mut sum, &a);
                assert!(sum == expected);
            }
        }
    }
}

#[test]
fn monomials_shift_coefficients() {
    for log_n in [3, 5, 8] {
        for ring in rings(log_n, 50, 2, 0) {
            let (n, basis) = (ring.degree(), Basis { q: 2, p: 0 });
            let a = ring.intt(random(&ring, basis, 4));
            for exponent in (0..2 * n).step_by(n / 8).chain([1, 2, 3, n - 1, n + 5, 2 * n - 1]) {
                let mut shifted = ring.ntt(a.clone());
                ring.mul_monomial_assign(&mut shifted, exponent);
                let shifted = ring.intt(shifted);
                for limb in 0..2 {
                    let q = ring.modulus(basis, limb);
                    for k in 0..n {
                        let to = (k + exponent) % (2 * n);
                        let value = a.limb(limb)[k];
                        let expected = if to < n { value } else { q.neg(value) };
                        assert_eq!(shifted.limb(limb)[to % n], expected, "X^{exponent} in degree {n}");
                    }
                }
            }
        }
    }
}

#[test]
fn rescale_and_mod_down_round_to_nearest() {
    for ring in rings(6, 20, 4, 2) {
        let x = random(&ring, Basis { q: 4, p: 0 }, 5);
        let last = ring.q_moduli()[3].value() as i128;
        let expected: Vec<i128> = integers(&ring, x.clone()).iter().map(|&c| divide_round(c, last)).collect();
        let total: i128 = ring.q_moduli()[..3].iter().map(|q| q.value() as i128).product();
        let centre = |c: i128| {
            if c > total / 2 {
                c - total
            } else if c < -total / 2 {
                c + total
            } else {
                c
            }
        };
        let expected: Vec<i128> = expected.into_iter().map(centre).collect();
        assert_eq!(integers(&ring, ring.rescale(x)), expected);

        let x = random(&ring, Basis { q: 3, p: 2 }, 6);
        let special: i128 = ring.p_moduli().iter().map(|p| p.value() as i128).product();
        let quotients: Vec<i128> =
            integers(&ring, x.clone()).iter().map(|&c| centre(divide_round(c, special))).collect();
        assert_eq!(integers(&ring, ring.mod_down(x.clone())), quotients);
        let last = ring.q_moduli()[2].value() as i128;
        let total: i128 = ring.q_moduli()[..2].iter().map(|q| q.value() as i128).product();
        let once: Vec<i128> = integers(&ring, x.clone()).iter().map(|&c| divide_round(c, special * last)).collect();
        let centred: Vec<i128> = once.iter().map(|c| c - divide_round(*c, total) * total).collect();
        assert_eq!(integers(&ring, ring.mod_down_rescale(x)), centred);

        let x = random(&ring, Basis { q: 3, p: 0 }, 7);
        assert!(ring.mod_down(ring.lift_p(x.clone(), 2)) == x);
        assert!(ring.lift_p(x, 2).limb(3).iter().all(|&v| v == 0));
    }
}

#[test]
fn digits_are_centred_lifts() {
    for ring in rings(6, 38, 6, 2) {
        for limbs in [5usize, 4, 2] {
            let x = random(&ring, Basis { q: limbs, p: 0 }, 8);
            let digits = ring.digits(&x, &[0..2, 2..5, 5..6]);
            let ranges: Vec<_> = [0..2, 2..limbs.min(5)].into_iter().filter(|r| !r.is_empty()).collect();
            assert_eq!(digits.count(), ranges.len());
            let coefficients = ring.intt(x.clone());
            for (index, range) in ranges.into_iter().enumerate() {
                let digit = ring.lifted_digit(&digits, index);
                let basis = Basis { q: limbs, p: 2 };
                assert_eq!(digit.basis(), basis);
                let moduli = &ring.q_moduli()[range.clone()];
                let total: i128 = moduli.iter().map(|q| q.value() as i128).product();
                let lifted = ring.intt(digit);
                for k in 0..ring.degree() {
                    let (mut value, mut radix) = (0i128, 1i128);
                    for (q, limb) in moduli.iter().zip(range.clone()) {
                        let residue = coefficients.limb(limb)[k];
                        let inverse = q.inverse(q.reduce_i128(radix));
                        value += radix * q.mul(q.sub(residue, q.reduce_i128(value)), inverse) as i128;
                        radix *= q.value() as i128;
                    }
                    let value = if value > total / 2 { value - total } else { value };
                    for limb in 0..limbs + 2 {
                        assert_eq!(lifted.limb(limb)[k], ring.modulus(basis, limb).reduce_i128(value));
                    }
                }
            }
        }
    }
}

#[test]
fn mod_raise_and_wide_inputs_are_exact() {
    for ring in rings(5, 41, 3, 1) {
        let basis = Basis { q: 3, p: 1 };
        let mut lcg = Lcg(11);
        let q0 = ring.q_moduli()[0].value() as i128;
        let small: Vec<i64> = (0..32).map(|_| (lcg.below(q0) - q0 / 2) as i64).collect();
        let one = ring.from_signed(&small, Basis { q: 1, p: 0 });
        assert!(ring.mod_raise(&one, basis) == ring.ntt(ring.from_signed(&small, basis)));
        let wide: Vec<i128> = (0..32).map(|_| lcg.below(1 << 122) - (1 << 121)).collect();
        let narrow: Vec<i64> = (0..32).map(|_| lcg.below(1 << 62) as i64 - (1 << 61)).collect();
        assert_eq!(
            integers(&ring, ring.truncate(ring.ntt(ring.from_signed_wide(&wide, basis)), Basis { q: 3, p: 0 })),
            {
                let total: i128 = ring.q_moduli().iter().map(|q| q.value() as i128).product();
                wide.iter().map(|w| w - divide_round(*w, total) * total).collect::<Vec<_>>()
            }
        );
        let from_narrow = ring.ntt(ring.from_signed(&narrow, basis));
        let expected: Vec<i128> = narrow.iter().map(|&c| c as i128).collect();
        assert_eq!(integers(&ring, ring.truncate(from_narrow.clone(), Basis { q: 2, p: 0 })), expected);
        // Truncation with p limbs keeps the special residues.
        let copied = ring.restrict(&from_narrow, Basis { q: 1, p: 1 });
        let short = ring.truncate(from_narrow, Basis { q: 1, p: 1 });
        assert!(copied == short);
        assert!(short == ring.ntt(ring.from_signed(&narrow, Basis { q: 1, p: 1 })));
    }
}

#[test]
fn compact_plaintexts_equal_full_ones() {
    for ring in rings(8, 50, 2, 1) {
        let basis = Basis { q: 2, p: 1 };
        let mut lcg = Lcg(5);
        for log_gap in 0..=8 {
            let stored = ring.degree() >> log_gap;
            let coefficients: Vec<i64> = (0..stored).map(|_| lcg.below(1 << 40) as i64 - (1 << 39)).collect();
            let mut full = vec![0; ring.degree()];
            coefficients.iter().enumerate().for_each(|(k, &c)| full[k << log_gap] = c);
            let full = ring.ntt(ring.from_signed(&full, basis));
            let compact = ring.ntt_compact(&coefficients, log_gap, basis);
            assert_eq!(compact.size_bytes(), 3 * 8 * stored);
            let (a, b) = (random(&ring, basis, 9), random(&ring, basis, 10));
            let run = |work: &dyn Fn(&mut Poly<Ntt>)| {
                let mut x = b.clone();
                work(&mut x);
                x
            };
            let name = ring.backend_name();
            assert!(run(&|x| ring.add_compact_assign(x, &compact)) == run(&|x| ring.add_assign(x, &full)), "{name}");
            assert!(run(&|x| ring.sub_compact_assign(x, &compact)) == run(&|x| ring.sub_assign(x, &full)), "{name}");
            assert!(run(&|x| ring.mul_compact_assign(x, &compact)) == run(&|x| ring.mul_assign(x, &full)), "{name}");
            let fused = run(&|x| ring.mul_compact_add_assign(x, &a, &compact));
            assert!(fused == run(&|x| ring.mul_add_assign(x, &a, &full)), "{name}, gap 2^{log_gap}");
        }
    }
}

#[test]
fn unsuitable_primes_are_refused() {
    let scalar = scalar_backend;
    let good = ntt_primes_near(5, 1 << 40, 2, &[]).unwrap();
    assert!(matches!(Ring::new(5, &[good[0], good[0]], &[], scalar()), Err(Error::DuplicatePrime { .. })));
    assert!(matches!(Ring::new(5, &[1_000_003], &[], scalar()), Err(Error::NoRoot { .. })));
    assert!(matches!(Ring::new(18, &good, &[], scalar()), Err(Error::DegreeRange { .. })));
    assert!(matches!(Ring::new(5, &[], &good, scalar()), Err(Error::ChainLength { .. })));
}

#[test]
fn avx2_conforms_where_a_faster_backend_is_detected() {
    if let Some(backend) = avx2_backend() {
        conformance::run(&*backend);
    }
}
