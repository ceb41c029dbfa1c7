//! Ranges, determinism and moments of the samplers.

use undertone_ring::*;

#[test]
fn expansion_is_deterministic_and_prefix_stable() {
    let primes = ntt_primes_near(12, 1 << 49, 4, &[]).unwrap();
    let rings: Vec<Ring> = std::iter::once(scalar_backend())
        .chain(avx2_backend())
        .chain(avx512ifma_backend())
        .map(|b| Ring::new(12, &primes[..3], &primes[3..], b).unwrap())
        .collect();
    let seed = Seed([42; 32]);
    let full = expand_uniform(&rings[0], &seed, 9, Basis { q: 3, p: 1 });
    for ring in &rings {
        assert!(full == expand_uniform(ring, &seed, 9, Basis { q: 3, p: 1 }));
        let part = expand_uniform(ring, &seed, 9, Basis { q: 2, p: 1 });
        assert!(part.limb(0) == full.limb(0) && part.limb(1) == full.limb(1) && part.limb(2) == full.limb(3));
        assert!(full != expand_uniform(ring, &seed, 10, Basis { q: 3, p: 1 }));
    }
    for limb in 0..4 {
        let q = rings[0].modulus(full.basis(), limb).value();
        assert!(full.limb(limb).iter().all(|&x| x < q));
        let mean = full.limb(limb).iter().map(|&x| x as f64 / q as f64).sum::<f64>() / 4096.0;
        // Six standard deviations of the mean of 4096 uniform values.
        assert!((mean - 0.5).abs() < 6.0 * (1.0f64 / 12.0 / 4096.0).sqrt(), "mean {mean}");
    }
}

fn moments(values: &[i64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| v as f64).sum::<f64>() / n;
    (mean, values.iter().map(|&v| (v as f64 - mean).powi(2)).sum::<f64>() / n)
}

#[test]
fn secret_samplers_have_the_right_moments() {
    const N: usize = 1 << 16;
    // Fresh randomness: each check below fails by chance less than once in 10^7 runs.
    let mut rng = SecretRng::from_os().unwrap();
    let root = (N as f64).sqrt();

    let ternary = rng.ternary(N);
    assert!(ternary.iter().all(|v| v.abs() <= 1));
    let (mean, variance) = moments(&ternary);
    assert!(mean.abs() < 6.0 * 0.82 / root && (variance - 2.0 / 3.0).abs() < 6.0 * 0.48 / root);

    let error = rng.cbd21(N);
    assert!(error.iter().all(|v| v.abs() <= 21));
    let (mean, variance) = moments(&error);
    assert!(mean.abs() < 6.0 * 3.25 / root && (variance - 10.5).abs() < 6.0 * 10.5 * 1.42 / root);

    for (n, h) in [(N, 32), (N, 192), (1000, 1000), (64, 0)] {
        let sparse = rng.sparse_ternary(n, h);
        assert_eq!(sparse.len(), n);
        assert_eq!(sparse.iter().filter(|&&v| v != 0).count(), h);
        assert!(sparse.iter().all(|v| v.abs() <= 1));
    }
    // Positions are uniform: the mean position over many draws stays near the middle, signs balance.
    let (mut positions, mut signs, mut count) = (0.0, 0, 0.0);
    for _ in 0..200 {
        for (at, &v) in rng.sparse_ternary(256, 16).iter().enumerate().filter(|&(_, &v)| v != 0) {
            positions += at as f64;
            signs += v;
            count += 1.0;
        }
    }
    assert!((positions / count - 127.5).abs() < 6.0 * 74.0 / f64::sqrt(count));
    assert!((signs as f64).abs() < 6.0 * f64::sqrt(count));
}

#[test]
fn generators_are_distinct_streams() {
    let (mut x, mut y) = (SecretRng::from_os().unwrap(), SecretRng::from_os().unwrap());
    assert_ne!(x.next_u64(), y.next_u64());
    assert_ne!(x.public_seed(), y.public_seed());
    let mut bytes = [0; 100];
    x.fill_bytes(&mut bytes);
    assert!(bytes.iter().any(|&b| b != 0));
}
