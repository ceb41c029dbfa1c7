//! Times of the ring's main operations: `bench_ring [log_n] [limbs] [special] [digit_limbs]`.

use std::hint::black_box;
use std::time::Instant;

use undertone_ring::*;

/// Median, least, and mean processor time of one run, in microseconds.
struct Times {
    median: f64,
    least: f64,
    processor: f64,
}

/// Processor time of all threads so far in microseconds, to the kernel's 10 ms; zero where it is not told.
fn processor_us() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum();
    ticks * 1e4
}

/// Times `work` over `runs` runs after one to warm up.
fn median_us(runs: usize, mut work: impl FnMut()) -> Times {
    work();
    let before = processor_us();
    let mut times: Vec<f64> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    Times { median: times[runs / 2], least: times[0], processor: (processor_us() - before) / runs as f64 }
}

fn report(name: &str, Times { median, least, processor }: Times) {
    println!("{name:<40} median {median:>11.1} us, least {least:>11.1} us, processor {processor:>11.0} us");
}

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<usize>().expect("numbers only"));
    let log_n = arguments.next().unwrap_or(16) as u32;
    let limbs = arguments.next().unwrap_or(26);
    let special = arguments.next().unwrap_or(6);
    let digit_limbs = arguments.next().unwrap_or(6);
    let n = 1usize << log_n;

    for bits in [50u32, 40] {
        let prime = ntt_primes_near(log_n, 1 << bits, 2, &[])?[1];
        let table = NttTable::new(Modulus::new(prime)?, log_n)?;
        for backend in std::iter::once(scalar_backend()).chain(avx512ifma_backend()) {
            let mut data: Vec<u64> = (0..n as u64 + 8).map(|i| i * 0x9e37_79b9 % prime).collect();
            let skip = data.as_ptr().align_offset(64);
            let data = &mut data[skip..skip + n];
            let runs = if backend.name() == "scalar" { 20 } else { 400 };
            let forward = median_us(runs, || backend.ntt(&table, black_box(data)));
            let inverse = median_us(runs, || backend.intt(&table, black_box(data), 1));
            report(&format!("{} {bits}-bit ntt 2^{log_n}", backend.name()), forward);
            report(&format!("{} {bits}-bit intt 2^{log_n}", backend.name()), inverse);
        }
    }

    let q = ntt_primes_near(log_n, 1 << 50, limbs + special, &[])?;
    let ring = Ring::new(log_n, &q[..limbs], &q[limbs..], detect_backend())?;
    let (base, full) = (Basis { q: limbs, p: 0 }, Basis { q: limbs, p: special });
    let seed = Seed([1; 32]);
    println!("{ring:?}, digits of {digit_limbs}, {} threads", rayon::current_num_threads());
    report("expand_uniform", median_us(9, || drop(black_box(expand_uniform(&ring, &seed, 0, full)))));
    let a = expand_uniform(&ring, &seed, 1, base);
    let b = expand_uniform(&ring, &seed, 2, base);
    let mut acc = a.clone();
    report("clone", median_us(51, || drop(black_box(a.clone()))));
    report("add_assign", median_us(51, || ring.add_assign(&mut acc, &b)));
    report("mul", median_us(51, || drop(black_box(ring.mul(&a, &b)))));
    report("mul_add_assign", median_us(51, || ring.mul_add_assign(&mut acc, &a, &b)));
    let permutation = ring.permutation(5);
    report("automorphism", median_us(51, || drop(black_box(ring.automorphism(&a, &permutation)))));
    report("mul_monomial_assign X^(N/2)", median_us(51, || ring.mul_monomial_assign(&mut acc, n / 2)));
    report("mul_monomial_assign X", median_us(51, || ring.mul_monomial_assign(&mut acc, 1)));
    let coefficients = vec![123_456_789; n];
    report("from_signed + ntt", median_us(9, || drop(black_box(ring.ntt(ring.from_signed(&coefficients, base))))));
    report("clone + rescale", median_us(21, || drop(black_box(ring.rescale(a.clone())))));
    let ranges: Vec<_> = (0..limbs).step_by(digit_limbs).map(|s| s..(s + digit_limbs).min(limbs)).collect();
    let one = ring.intt(ring.truncate(a.clone(), Basis { q: 1, p: 0 }));
    report("digits", median_us(9, || drop(black_box(ring.digits(&a, &ranges)))));
    let digits = ring.digits(&a, &ranges);
    let keys: Vec<_> = (0..2 * digits.count() as u64).map(|i| expand_uniform(&ring, &seed, 3 + i, full)).collect();
    let packed: Vec<_> = keys.iter().map(|key| ring.pack(key)).collect();
    let (b, uniform) = packed.split_at(digits.count());
    let key = GadgetKey { b: ComputedHalf::Held(b), a: UniformHalf::Expanded(uniform) };
    report("switch of digits", median_us(9, || drop(black_box(ring.switch(&digits, key, [None, None])))));
    let seeded = GadgetKey { b: ComputedHalf::Held(b), a: UniformHalf::Seeded(&seed) };
    report("switch, seeded key", median_us(9, || drop(black_box(ring.switch(&digits, seeded, [None, None])))));
    report("clone + mod_down", median_us(21, || drop(black_box(ring.mod_down(keys[0].clone())))));
    let whole = || drop(black_box(ring.switch_rescale(&ring.digits(&a, &ranges), key, [Some(&a), Some(&a)])));
    report("whole key switch with rescale", median_us(9, whole));
    report("mod_raise", median_us(9, || drop(black_box(ring.mod_raise(&one, base)))));
    Ok(())
}
