//! Transforms of one limb: tfhe-ntt and undertone-ring for the same prime, in alternating rounds on one thread.
//!
//! N = 2^16 and a prime just below 2^50, for which tfhe-ntt's `prime64::Plan` takes its AVX-512 IFMA code where the
//! processor has it (`use_ifma` says so); its `native64::Plan52` is three such plans, so it cannot be faster per prime.
//! Both sides are checked before they are timed: ours against the definition, theirs by its inverse and a product.

use crate::measure::{Times, print};
use serde_json::json;
use std::hint::black_box;
use std::time::Instant;
use tfhe_ntt::prime64::Plan;
use undertone_ring::{Backend, Modulus, NttTable, detect_backend, ntt_primes_near};

const LOG_N: u32 = 16;
const N: usize = 1 << LOG_N;
const PRIME_BITS: u32 = 50;
/// Transforms per round and side.
const PER_ROUND: usize = 200;
/// Entries of our transform that are recomputed from the definition.
const CHECKED: usize = 16;

/// A limb that starts at a cache line, so that neither side suffers from its allocation.
struct Limb {
    words: Vec<u64>,
    start: usize,
}

impl Limb {
    fn new(residues: &[u64]) -> Self {
        let mut words = vec![0; residues.len() + 8];
        let start = words.as_ptr().align_offset(64);
        words[start..start + residues.len()].copy_from_slice(residues);
        Self { words, start }
    }

    fn residues(&mut self) -> &mut [u64] {
        &mut self.words[self.start..self.start + N]
    }
}

/// Runs the comparison and prints one line per side and direction.
pub fn run(rounds: usize) -> Result<(), String> {
    let target = (1 << PRIME_BITS) - (1 << (LOG_N + 6));
    let prime = ntt_primes_near(LOG_N, target, 1, &[]).map_err(|error| error.to_string())?[0];
    let modulus = Modulus::new(prime).map_err(|error| error.to_string())?;
    let table = NttTable::new(modulus, LOG_N).map_err(|error| error.to_string())?;
    let plan = Plan::try_new(N, prime).ok_or_else(|| format!("tfhe-ntt has no plan for the prime {prime}"))?;
    let backend = detect_backend();

    let input = residues(modulus, 1);
    check_ours(&table, &*backend, &input)?;
    check_theirs(&plan, modulus, &input)?;

    let (mut ours, mut theirs) = (Limb::new(&input), Limb::new(&input));
    let forward = alternate(
        rounds,
        || backend.ntt(&table, black_box(ours.residues())),
        || plan.fwd(black_box(theirs.residues())),
    );
    report("ntt", forward, prime, &*backend, &plan);
    let inverse = alternate(
        rounds,
        || backend.intt(&table, black_box(ours.residues()), 1),
        || plan.inv(black_box(theirs.residues())),
    );
    report("intt", inverse, prime, &*backend, &plan);
    Ok(())
}

/// Uniform residues from SplitMix64.
fn residues(q: Modulus, seed: u64) -> Vec<u64> {
    let mut state = seed;
    let mut word = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    (0..N).map(|_| q.reduce(word())).collect()
}

/// Entry i of our transform must be the value at psi^(2*bitrev(i)+1), and the inverse must undo it.
fn check_ours(table: &NttTable, backend: &dyn Backend, input: &[u64]) -> Result<(), String> {
    let q = table.modulus();
    let mut limb = Limb::new(input);
    backend.ntt(table, limb.residues());
    for index in (0..CHECKED).map(|i| (i * 0x9e37 + i) % N) {
        let exponent = 2 * (index.reverse_bits() >> (usize::BITS - LOG_N)) as u64 + 1;
        let point = q.pow(table.psi(), exponent);
        let value = input.iter().rev().fold(0, |sum, &c| q.add(q.mul(sum, point), c));
        let found = limb.residues()[index];
        if found != value {
            return Err(format!("undertone-ring: entry {index} of the transform is {found} instead of {value}"));
        }
    }
    backend.intt(table, limb.residues(), 1);
    if limb.residues() != input {
        return Err("undertone-ring: the inverse does not undo the transform".to_owned());
    }
    Ok(())
}

/// The inverse must undo the transform, and a product with X must shift with a sign, so that it is negacyclic.
fn check_theirs(plan: &Plan, q: Modulus, input: &[u64]) -> Result<(), String> {
    let mut limb = Limb::new(input);
    plan.fwd(limb.residues());
    if limb.residues().iter().any(|&x| x >= q.value()) {
        return Err("tfhe-ntt: a transformed residue is not reduced".to_owned());
    }
    let mut product = Limb::new(limb.residues());
    plan.inv(limb.residues());
    plan.normalize(limb.residues());
    if limb.residues() != input {
        return Err("tfhe-ntt: the inverse does not undo the transform".to_owned());
    }
    let mut monomial = Limb::new(&[&[0, 1], &vec![0; N - 2][..]].concat());
    plan.fwd(monomial.residues());
    plan.mul_assign_normalize(product.residues(), monomial.residues());
    plan.inv(product.residues());
    let expected: Vec<u64> = std::iter::once(q.neg(input[N - 1])).chain(input[..N - 1].iter().copied()).collect();
    if product.residues() != expected {
        return Err("tfhe-ntt: a product with X is not the negacyclic shift".to_owned());
    }
    Ok(())
}

/// Milliseconds per transform of each round of ours and theirs; who is first changes from round to round.
fn alternate(rounds: usize, mut ours: impl FnMut(), mut theirs: impl FnMut()) -> [Times; 2] {
    (0..PER_ROUND).for_each(|_| ours());
    (0..PER_ROUND).for_each(|_| theirs());
    let (mut our_times, mut their_times) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
    for round in 0..rounds {
        if round % 2 == 0 {
            our_times.push(time(&mut ours));
            their_times.push(time(&mut theirs));
        } else {
            their_times.push(time(&mut theirs));
            our_times.push(time(&mut ours));
        }
    }
    [Times::from_ms(our_times), Times::from_ms(their_times)]
}

/// Milliseconds per call over one round.
fn time(work: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..PER_ROUND).for_each(|_| work());
    start.elapsed().as_secs_f64() * 1e3 / PER_ROUND as f64
}

fn report(operation: &str, [ours, theirs]: [Times; 2], prime: u64, backend: &dyn Backend, plan: &Plan) {
    let log_q = (prime as f64).log2();
    let both = json!({
        "operation": operation, "log_n": LOG_N, "log_q": log_q, "log_qp": log_q, "threads": 1,
        "per_round": PER_ROUND, "alternating": true,
    });
    let ratio = theirs.median() / ours.median();
    let own = json!({
        "library": "undertone-ring", "version": "of this tree", "code": backend.name(),
        "peer_over_ours": ratio,
    });
    print([both.clone(), own, ours.fields()]);
    let peer = json!({
        "library": "tfhe-ntt", "version": "0.7.1", "code": if plan.use_ifma() { "avx512ifma" } else { "other" },
    });
    print([both, peer, theirs.fields()]);
}
