//! The bundled model: greedy tokens of the protocol equal the twin's, and the twin reads text as well as float does.
//!
//! `cargo test --release -p undertone-shares --test bundled` takes seconds; without optimisation, minutes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use undertone_model::reference::{KvCache, forward};
use undertone_model::{Llama, LlamaConfig, Tokenizer};
use undertone_ring::detect_word_kernels;
use undertone_shares::*;

/// Positions of the longest prompt and its continuation.
const POSITIONS: usize = 1024;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny")
}

/// Tokens of held-out prompts, each with its answer apart.
fn prompts() -> Vec<(Vec<u32>, Vec<u32>)> {
    let tokenizer = Tokenizer::load(&directory(), &LlamaConfig::from_dir(&directory()).unwrap()).unwrap();
    let text = std::fs::read_to_string(directory().join("prompts/heldout.jsonl")).unwrap();
    let read = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| line[name].as_str().unwrap().to_owned();
        let mut tokens = tokenizer.encode(&field("public"), true).unwrap();
        tokens.extend(tokenizer.encode(&field("private"), false).unwrap());
        (tokens, tokenizer.encode(&field("answer"), false).unwrap())
    };
    text.lines().map(read).collect()
}

struct Bundled {
    llama: Llama,
    model: Arc<QuantizedModel>,
    rotary: Arc<RotaryTable>,
}

fn bundled() -> Bundled {
    let llama = Llama::load(&directory()).unwrap();
    let model = Arc::new(QuantizedModel::new(&llama).unwrap());
    let rotary = Arc::new(RotaryTable::new(&llama.config, POSITIONS));
    Bundled { llama, model, rotary }
}

#[test]
fn greedy_tokens_equal_the_twins() {
    const PROMPTS: usize = 22;
    const NEW: usize = 12;
    let Bundled { llama, model, rotary } = bundled();
    let kernels = detect_word_kernels();
    let setup = PairModel::new(Arc::clone(&model), POSITIONS, Arc::clone(&kernels), Seed::from_bytes([9; 32])).unwrap();
    let (mut compared, mut as_float) = (0, 0);
    for (number, (prompt, _)) in prompts().into_iter().take(PROMPTS).enumerate() {
        let mut pair = Pair::new(&setup, Seed::from_bytes([number as u8; 32]));
        let mut twin = Twin::new(Arc::clone(&model), Arc::clone(&rotary), Arc::clone(&kernels), pair.replay());
        let mut cache = KvCache::new(&llama.config);
        let mut input = prompt;
        for _ in 0..NEW {
            let logits = twin.forward_last(&input).unwrap();
            let clear_id = greedy_place(&logits) as u32;
            // A tie would be broken by the permuted order; none occurs, and the comparison is exact.
            assert_eq!(logits.iter().filter(|&&word| word == logits[clear_id as usize]).count(), 1);
            let float = forward(&llama, &mut cache, &input).unwrap();
            as_float += u32::from(undertone_model::sampling::greedy(float.last().unwrap()).unwrap() == clear_id);
            let token = pair.step(&input, greedy_place, |_| {}).unwrap();
            assert_eq!(token, clear_id, "prompt {number}");
            compared += 1;
            input = vec![token];
        }
    }
    println!("{compared} tokens of {PROMPTS} prompts equal the twin's; {as_float} equal float's");
    assert!(compared >= 256);
}

#[test]
fn perplexity_is_that_of_float() {
    let Bundled { llama, model, rotary } = bundled();
    let kernels = detect_word_kernels();
    // Every rounding of the dealer is a draw, so text is read with draws as well as to nearest.
    let nearest = || Twin::new(Arc::clone(&model), Arc::clone(&rotary), Arc::clone(&kernels), Nearest);
    let dealer =
        Arc::new(Dealer::with_seed(model.public().clone(), Arc::clone(&kernels), Seed::from_bytes([0; 32])).unwrap());
    // Sums over all tokens, and over the tokens of the answers, which are what the model was trained to predict.
    let mut sums = [[0.0; 3]; 2];
    let mut counts = [0; 2];
    for (number, (prompt, answer)) in prompts().into_iter().enumerate() {
        let starts = [1, prompt.len()];
        let tokens = [prompt, answer].concat();
        let rows = forward(&llama, &mut KvCache::new(&llama.config), &tokens).unwrap();
        let rows: Vec<f64> = rows.concat().into_iter().map(f64::from).collect();
        let replay = dealer.session_with_seed(Seed::from_bytes([number as u8; 32])).replay();
        let twin = Twin::new(Arc::clone(&model), Arc::clone(&rotary), Arc::clone(&kernels), replay);
        let all =
            [rows, clear_rows(nearest(), &tokens), clear_rows(twin, &tokens)].map(|rows| surprises(&rows, &tokens));
        for (part, &start) in starts.iter().enumerate() {
            (0..3).for_each(|way| sums[part][way] += all[way][start - 1..].iter().sum::<f64>());
            counts[part] += tokens.len() - start;
        }
    }
    for (part, name) in ["all tokens", "tokens of answers"].into_iter().enumerate() {
        let [float, fixed, drawn] = sums[part].map(|sum| (sum / counts[part] as f64).exp());
        println!("perplexity of {} {name}: float {float:.6}, nearest {fixed:.6}, drawn {drawn:.6}", counts[part]);
        for perplexity in [fixed, drawn] {
            assert!((perplexity / float - 1.0).abs() < 0.005, "{perplexity} for {float}");
        }
    }
}

/// Logits of all tokens, `[n, V]`.
fn clear_rows<R: Rounding>(mut twin: Twin<R>, tokens: &[u32]) -> Vec<f64> {
    let stream = twin.forward(tokens).unwrap();
    let unit = twin.logit_unit();
    twin.logits(&stream).into_iter().map(|word| word as i64 as f64 * unit).collect()
}

/// -log p of every token but the first.
fn surprises(rows: &[f64], tokens: &[u32]) -> Vec<f64> {
    let vocab = rows.len() / tokens.len();
    let of_token = |(row, &token): (&[f64], &u32)| {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|logit| (logit - largest).exp()).sum();
        largest + sum.ln() - row[token as usize]
    };
    rows.chunks_exact(vocab).zip(&tokens[1..]).map(of_token).collect()
}
