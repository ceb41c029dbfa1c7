//! Products over Z_2^64 against a plain read of the same weights: `bench_words [rows] [cols] [tokens]`.
//!
//! Weights fill memory several times over the caches at the default size, as those of one large layer do.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;
use undertone_ring::words::{product_i16, product_u64};
use undertone_ring::{avx2_word_kernels, avx512_word_kernels, scalar_word_kernels};

/// Least time of a run in seconds; the least is what the machine can do when nobody disturbs it.
fn least_s(runs: usize, mut work: impl FnMut()) -> f64 {
    work();
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    (0..runs).map(time).fold(f64::INFINITY, f64::min)
}

fn sum(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, &word| sum ^ word)
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<usize>().expect("numbers only"));
    let rows = arguments.next().unwrap_or(65_536);
    let cols = arguments.next().unwrap_or(4096);
    let tokens = arguments.next().unwrap_or(1);
    let bytes = (2 * rows * cols) as f64;
    // Small operands are read often, so that some run is not disturbed.
    let runs = (8e9 / bytes).clamp(9.0, 1000.0) as usize;
    let weights: Vec<i16> = (0..rows * cols).map(|i| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) as i16).collect();
    let words: Vec<u64> = (0..tokens * cols).map(|i| (i as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9)).collect();
    println!("{rows} x {cols} weights of 16 bits, {tokens} tokens, {} threads", rayon::current_num_threads());

    let view: Vec<u64> = (0..rows * cols / 4).map(|i| i as u64).collect();
    let one = least_s(runs, || _ = black_box(sum(&view)));
    let all = least_s(runs, || _ = black_box(view.par_chunks(1 << 16).map(sum).reduce(|| 0, |a, b| a ^ b)));
    println!("{:<32} {:>7.2} GB/s", "plain read, one thread", bytes / one / 1e9);
    println!("{:<32} {:>7.2} GB/s", "plain read, all threads", bytes / all / 1e9);
    drop(view);

    let kernels = [Some(scalar_word_kernels()), avx2_word_kernels(), avx512_word_kernels()];
    for kernels in kernels.into_iter().flatten() {
        let name = kernels.name();
        let runs = if name == "scalar" { 3 } else { runs };
        let mut out = vec![0; rows * tokens];
        let operand = kernels.operand(&words, cols);
        let one = least_s(runs, || kernels.product_i16(&mut out, &weights, &operand));
        let all = least_s(runs, || drop(black_box(product_i16(&*kernels, &weights, &words, cols))));
        println!("{:<32} {:>7.2} GB/s", format!("{name} 16 x 64 bits, one thread"), bytes / one / 1e9);
        println!("{:<32} {:>7.2} GB/s", format!("{name} 16 x 64 bits, all threads"), bytes / all / 1e9);
    }

    // What dealer and user do ahead: a quarter of the rows, of words.
    let wide: Vec<u64> = (0..rows / 4 * cols).map(|i| (i as u64).wrapping_mul(0x94d0_49bb_1331_11eb)).collect();
    for kernels in [avx2_word_kernels(), avx512_word_kernels()].into_iter().flatten() {
        let all = least_s(runs, || drop(black_box(product_u64(&*kernels, &wide, &words, cols))));
        let label = format!("{} 64 x 64 bits, all threads", kernels.name());
        println!("{label:<32} {:>7.2} GB/s", 8.0 * wide.len() as f64 / all / 1e9);
    }
}
