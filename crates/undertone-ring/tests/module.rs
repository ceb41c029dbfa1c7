//! The module view, the product of weights with it, and packing, against the definitions in the clear.

use std::sync::Arc;

use undertone_ring::*;

fn backends() -> Vec<Arc<dyn Backend>> {
    std::iter::once(scalar_backend()).chain(avx2_backend()).chain(avx512ifma_backend()).collect()
}

/// SplitMix64.
fn word(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn ring(log_n: u32, backend: Arc<dyn Backend>) -> Ring {
    let product = ntt_primes_near(log_n, 1 << 20, 1, &[]).unwrap();
    let others = ntt_primes_near(log_n, (1 << 50) - (1 << 24), 3, &product).unwrap();
    Ring::new(log_n, &[others[0], product[0]], &others[1..], backend).unwrap()
}

fn uniform(ring: &Ring, basis: Basis, state: &mut u64) -> Poly<Coeff> {
    let mut poly = ring.zero(basis);
    for limb in 0..basis.limb_count() {
        let q = ring.modulus(basis, limb);
        poly.limb_mut(limb).iter_mut().for_each(|x| *x = q.reduce(word(state)));
    }
    poly
}

/// a * b modulo X^n + 1 and q, by the definition.
fn negacyclic(q: Modulus, a: &[u64], b: &[u64]) -> Vec<u64> {
    let n = a.len();
    let mut out = vec![0; n];
    for (i, &x) in a.iter().enumerate().filter(|(_, x)| **x != 0) {
        for (j, &y) in b.iter().enumerate() {
            let (at, product) = ((i + j) % n, q.mul(x, y));
            out[at] = if i + j < n { q.add(out[at], product) } else { q.sub(out[at], product) };
        }
    }
    out
}

/// Weights of one kind: 0 random, 1 all 2^14, 2 all -2^14, 3 a mixture of extremes.
fn weights(len: usize, kind: u64, state: &mut u64) -> Vec<i16> {
    let extremes = [0, 1, -1, 1 << 14, -(1 << 14)];
    let mut pick = || match kind {
        0 => (word(state) % (1 << 15)) as i16 - (1 << 14),
        1 => 1 << 14,
        2 => -(1 << 14),
        _ => extremes[word(state) as usize % extremes.len()],
    };
    (0..len).map(|_| pick()).collect()
}

#[test]
fn products_are_the_polynomial_products_they_stand_for() {
    let basis = Basis { q: 2, p: 0 };
    for backend in backends() {
        for (log_n, degree, count, rows) in
            [(4, 2, 1, 1), (5, 4, 3, 5), (7, 4, 2, 17), (8, 16, 5, 33), (9, 128, 3, 16), (6, 8, 1, 40)]
        {
            let (ring, mut state) = (ring(log_n, backend.clone()), u64::from(log_n));
            let (n, rank) = (ring.degree(), ring.degree() / degree);
            for kind in 0..4 {
                let pairs: Vec<[Poly<Coeff>; 2]> =
                    (0..count).map(|_| [(); 2].map(|()| uniform(&ring, basis, &mut state))).collect();
                let weights = weights(rows * count * rank, kind, &mut state);
                let product = ring.module_product(&ring.module_operand(&pairs, degree), &weights);
                assert_eq!((product.rows(), product.limb_count()), (rows, 2));
                for limb in 0..2 {
                    let q = ring.modulus(basis, limb);
                    for (row, weights) in weights.chunks_exact(count * rank).enumerate() {
                        let (mut b, mut a) = (vec![0; n], vec![0; n]);
                        for ([pair_b, pair_a], weights) in pairs.iter().zip(weights.chunks_exact(rank)) {
                            let mut factor = vec![0; n];
                            factor.iter_mut().zip(weights).for_each(|(x, &w)| *x = q.reduce_i64(i64::from(w)));
                            for (sum, half) in [(&mut b, pair_b), (&mut a, pair_a)] {
                                let product = negacyclic(q, &factor, half.limb(limb));
                                sum.iter_mut().zip(product).for_each(|(x, y)| *x = q.add(*x, y));
                            }
                        }
                        assert_eq!(product.a(limb, row), a, "{} row {row}", backend.name());
                        let class: Vec<u64> = b.iter().skip(rank - 1).step_by(rank).copied().collect();
                        assert_eq!(product.b(limb, row), class, "{} row {row}", backend.name());
                    }
                }
            }
        }
    }
}

/// Component i of a polynomial: coefficients i, i + r, i + 2r and so on.
fn component(poly: &[u64], rank: usize, i: usize) -> Vec<u64> {
    poly.iter().skip(i).step_by(rank).copied().collect()
}

#[test]
fn rows_are_module_ciphertexts_of_the_weighted_components() {
    // Every position of every row of small rings: no sign or wrap is left to chance.
    let basis = Basis { q: 2, p: 0 };
    for (log_n, degree, count) in [(3, 2, 1), (4, 2, 2), (4, 4, 3), (5, 4, 2), (6, 8, 2)] {
        let (ring, mut state) = (ring(log_n, scalar_backend()), 7);
        let (rank, q) = (ring.degree() / degree, ring.modulus(basis, 0));
        let secret: Vec<u64> = (0..ring.degree()).map(|_| q.reduce_i64((word(&mut state) % 3) as i64 - 1)).collect();
        let pairs: Vec<[Poly<Coeff>; 2]> =
            (0..count).map(|_| [(); 2].map(|()| uniform(&ring, basis, &mut state))).collect();
        let messages: Vec<Vec<u64>> = pairs
            .iter()
            .map(|[b, a]| {
                let product = negacyclic(q, a.limb(0), &secret);
                b.limb(0).iter().zip(product).map(|(&b, x)| q.add(b, x)).collect()
            })
            .collect();
        // One row for every component of every pair: weight 3 on it, nothing elsewhere, then one row with all of them.
        let width = count * rank;
        let mut rows: Vec<Vec<i16>> =
            (0..width).map(|at| (0..width).map(|k| 3 * i16::from(k == at)).collect()).collect();
        rows.push(weights(width, 0, &mut state));
        let flat: Vec<i16> = rows.concat();
        let product = ring.module_product(&ring.module_operand(&pairs, degree), &flat);
        for (row, weights) in rows.iter().enumerate() {
            let mut have = product.b(0, row).to_vec();
            for j in 0..rank {
                let a = component(product.a(0, row), rank, rank - 1 - j);
                let term = negacyclic(q, &a, &component(&secret, rank, j));
                have.iter_mut().zip(term).for_each(|(x, y)| *x = q.add(*x, y));
            }
            let mut need = vec![0; degree];
            for (c, message) in messages.iter().enumerate() {
                for i in 0..rank {
                    // The weight of component i stands at rank - 1 - i.
                    let w = q.reduce_i64(i64::from(weights[c * rank + rank - 1 - i]));
                    let values = component(message, rank, i);
                    need.iter_mut().zip(values).for_each(|(x, y)| *x = q.add(*x, q.mul(w, y)));
                }
            }
            assert_eq!(have, need, "N = 2^{log_n}, T = {degree}, row {row}");
        }
    }
}

#[test]
fn rescaling_rows_divides_and_rounds() {
    let basis = Basis { q: 2, p: 0 };
    let (ring, mut state) = (ring(6, detect_backend()), 3);
    let pairs = [[(); 2].map(|()| uniform(&ring, basis, &mut state))];
    let weights = weights(3 * 8, 0, &mut state);
    let operand = ring.module_operand(&pairs, 8);
    let before = ring.module_product(&operand, &weights);
    let after = ring.rescale_rows(ring.module_product(&operand, &weights));
    let [q, w] = [0, 1].map(|limb| ring.modulus(basis, limb));
    let product = i128::from(q.value()) * i128::from(w.value());
    let inverse = w.inverse(w.reduce(q.value()));
    for row in 0..3 {
        for half in [ModuleRows::b, ModuleRows::a] {
            for (k, &y) in half(&after, 0, row).iter().enumerate() {
                let (x0, x1) = (half(&before, 0, row)[k], half(&before, 1, row)[k]);
                let digit = w.mul(w.sub(x1, w.reduce(x0)), inverse);
                let x = i128::from(x0) + i128::from(q.value()) * i128::from(digit);
                let rounded = (x + i128::from(w.value() / 2)).div_euclid(i128::from(w.value()));
                assert!((0..product).contains(&x) && y == q.reduce_i128(rounded));
            }
        }
    }
}

#[test]
fn packed_rows_decrypt_to_interleaved_rows() {
    let one = Basis { q: 1, p: 0 };
    let key_basis = Basis { q: 1, p: 2 };
    for backend in backends() {
        for (log_n, degree) in [(4, 2), (5, 4), (7, 4), (8, 16), (9, 128)] {
            let (ring, mut state) = (ring(log_n, backend.clone()), 11);
            let (n, rank, q) = (ring.degree(), ring.degree() / degree, ring.modulus(one, 0));
            let secret: Vec<i64> = (0..n).map(|_| (word(&mut state) % 3) as i64 - 1).collect();
            let target = ring.ntt(ring.from_signed(&secret, key_basis));
            let special = |m: Modulus| ring.p_moduli().iter().fold(1, |x, p| m.mul(x, m.reduce(p.value())));
            let factors = [special(q), 0, 0];
            let seed = Seed([5; 32]);
            // Without errors, so that only the roundings of the division remain.
            let b: Vec<PackedPoly> = (0..rank)
                .map(|t| {
                    let mut component = vec![0; n];
                    component
                        .iter_mut()
                        .step_by(rank)
                        .zip(secret.iter().skip(rank - 1 - t).step_by(rank))
                        .for_each(|(x, &s)| *x = s);
                    let mut b = ring.mul(&expand_uniform(&ring, &seed, t as u64, key_basis), &target);
                    ring.neg_assign(&mut b);
                    ring.mul_scalar_add_assign(&mut b, &ring.ntt(ring.from_signed(&component, key_basis)), &factors);
                    ring.pack(&b)
                })
                .collect();
            let pairs = [[(); 2].map(|()| uniform(&ring, one, &mut state))];
            let operand = ring.module_operand(&pairs, degree);
            let sets: Vec<ModuleRows> =
                (0..3).map(|_| ring.module_product(&operand, &weights(rank * rank, 0, &mut state))).collect();
            let residues: Vec<u64> = secret.iter().map(|&s| q.reduce_i64(s)).collect();
            // Each half is rounded to within 1/2, and the second meets the secret.
            let bound = (1 + secret.iter().filter(|s| **s != 0).count()) as i64 / 2 + 1;
            let packed = ring.pack_rows(&sets, &ring.pack_key(&b, &seed));
            let decrypted = packed.into_iter().map(|[c0, c1]| {
                let mut message = c0;
                ring.mul_add_assign(&mut message, &c1, &ring.restrict(&target, one));
                ring.intt(message)
            });
            let decrypted: Vec<Poly<Coeff>> = decrypted.collect();
            assert_eq!(decrypted.len(), sets.len());
            let all = sets.iter().zip(&decrypted).flat_map(|(rows, have)| (0..rank).map(move |o| (rows, have, o)));
            for (rows, have, o) in all {
                let mut need = rows.b(0, o).to_vec();
                for j in 0..rank {
                    let a = component(rows.a(0, o), rank, rank - 1 - j);
                    let term = negacyclic(q, &a, &component(&residues, rank, j));
                    need.iter_mut().zip(term).for_each(|(x, y)| *x = q.add(*x, y));
                }
                for (k, need) in need.into_iter().enumerate() {
                    let error = q.center(q.sub(have.limb(0)[o + rank * k], need));
                    assert!(error.abs() <= bound, "{}: row {o}, {k}: {error}", backend.name());
                }
            }
        }
    }
}
