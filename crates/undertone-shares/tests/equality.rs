//! The two parties against the twin: equal tokens and equal logits, in every shape of model.

use std::sync::Arc;

use undertone_model::config::LlamaConfig;
use undertone_model::synthetic::{small_config, synthetic};
use undertone_model::{RopeKind, RopeScaling};
use undertone_ring::{detect_word_kernels, scalar_word_kernels};
use undertone_shares::*;

/// Grouped heads, heads of their own with H d = D, one key head; tied and not; every rotary embedding.
fn shapes() -> Vec<LlamaConfig> {
    let llama3 = RopeKind::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64,
    };
    let rope = |kind| RopeScaling { theta: 10_000.0, kind };
    vec![
        small_config(),
        LlamaConfig { num_key_value_heads: 4, head_dim: 6, rope: rope(llama3), ..small_config() },
        LlamaConfig { num_key_value_heads: 1, tie_word_embeddings: true, ..small_config() },
        LlamaConfig { num_hidden_layers: 1, rope: rope(RopeKind::Linear { factor: 2.0 }), ..small_config() },
    ]
}

fn sorted(mut words: Vec<u64>) -> Vec<u64> {
    words.sort_unstable();
    words
}

#[test]
fn tokens_and_logits_equal_the_twins_in_every_shape() {
    for (number, config) in shapes().into_iter().enumerate() {
        let model = Arc::new(QuantizedModel::new(&synthetic(config.clone(), 7)).unwrap());
        let kernels = detect_word_kernels();
        let setup = PairModel::new(Arc::clone(&model), 128, kernels, Seed::from_bytes([1; 32])).unwrap();
        let mut pair = Pair::new(&setup, Seed::from_bytes([number as u8; 32]));
        let rotary = Arc::new(RotaryTable::new(&config, 128));
        let mut twin = Twin::new(model, rotary, scalar_word_kernels(), pair.replay());
        // A prompt, a second piece of prompt, then single tokens.
        let mut input = vec![3, 1, 4, 1, 5, 9, 2];
        for round in 0..8 {
            let need = twin.forward_last(&input).unwrap();
            let mut opened = Vec::new();
            let choose = |logits: &[u64]| {
                opened = logits.to_vec();
                greedy_place(logits)
            };
            let token = pair.step(&input, choose, |_| {}).unwrap();
            assert_eq!(token as usize, greedy_place(&need), "shape {number} round {round}");
            assert_eq!(sorted(opened), sorted(need));
            input = if round == 0 { vec![6, 5, 3, 5, 8] } else { vec![token] };
        }
    }
}

/// Logits of the outputs of a step.
fn output_logits<R: Rounding>(twin: &mut Twin<R>, tokens: &[u32], outputs: usize, placement: Placement) -> Vec<u64> {
    let stream = twin.forward_as(tokens, outputs, placement).unwrap();
    let rows = &stream[stream.len() / tokens.len() * (tokens.len() - outputs)..];
    twin.logits(rows)
}

/// Under strict evaluation: all tokens are the twin's, which computes the same integers from the same masks.
#[test]
fn strictly_evaluated_tokens_equal_the_twins_in_every_shape() {
    for (number, config) in shapes().into_iter().enumerate() {
        let model = Arc::new(QuantizedModel::new(&synthetic(config.clone(), 7)).unwrap());
        let kernels = detect_word_kernels();
        let setup = PairModel::new(Arc::clone(&model), 128, kernels, Seed::from_bytes([1; 32])).unwrap();
        let mut pair = Pair::new(&setup, Seed::from_bytes([number as u8; 32])).with_strict(true);
        let rotary = || Arc::new(RotaryTable::new(&config, 128));
        let mut twin = Twin::new(Arc::clone(&model), rotary(), scalar_word_kernels(), pair.replay()).with_strict(true);
        // The other evaluation of the same rows, to nearest.
        let mut plain = Twin::new(model, rotary(), scalar_word_kernels(), Nearest);
        let mut kept = 0;
        // A prompt with filler, a piece without outputs, drafted tokens of which one and then two are dropped.
        let steps: [(&[u32], usize, usize, usize); 6] = [
            (&[7, 7, 3, 1], 0, 0, 2),
            (&[4, 1, 5], 1, 4, 0),
            (&[9, 2, 6], 3, 3, 0),
            (&[3, 5, 8], 3, 2, 0),
            (&[3], 1, 1, 0),
            (&[8], 1, 1, 0),
        ];
        for (tokens, outputs, rows, skipped) in steps {
            kept = rows.min(kept);
            let placement = Placement { kept, skipped };
            let logits = output_logits(&mut twin, tokens, outputs, placement);
            let near = output_logits(&mut plain, tokens, outputs, placement);
            let mut opened = Vec::new();
            let chosen = pair
                .step_as(
                    tokens,
                    outputs,
                    placement,
                    |_| panic!("no logits are opened"),
                    |flight| {
                        opened.push(flight.kind);
                    },
                )
                .unwrap();
            assert_eq!(chosen, twin.choose(&logits), "shape {number}");
            assert!(!opened.contains(&FlightKind::Mix) && !opened.contains(&FlightKind::Selected));
            let unit = plain.logit_unit();
            let differences = logits.iter().zip(&near).map(|(a, b)| (a.wrapping_sub(*b) as i64 as f64 * unit).abs());
            let size = near.iter().map(|&b| (b as i64 as f64 * unit).abs()).fold(0.0, f64::max);
            let worst = differences.fold(0.0, f64::max);
            assert!(worst <= 0.02 * size, "shape {number}: {worst} of {size}");
            kept = tokens.len();
        }
    }
}

/// Rounds of one token, of drafted tokens of which some are dropped, and pieces of a prompt with filler before it: all
/// integers are those of a twin whose rows are the same.
#[test]
fn rows_that_do_not_count_change_nothing_for_the_others() {
    let config = small_config();
    let model = Arc::new(QuantizedModel::new(&synthetic(config.clone(), 7)).unwrap());
    let setup = PairModel::new(Arc::clone(&model), 128, detect_word_kernels(), Seed::from_bytes([1; 32])).unwrap();
    let mut pair = Pair::new(&setup, Seed::from_bytes([9; 32]));
    let rotary = Arc::new(RotaryTable::new(&config, 128));
    let mut twin = Twin::new(Arc::clone(&model), Arc::clone(&rotary), scalar_word_kernels(), pair.replay());
    let steps: [(&[u32], usize, Placement); 5] = [
        (&[7, 7, 7, 3, 1], 0, Placement { kept: 0, skipped: 3 }),
        (&[4, 1, 5], 1, Placement { kept: 5, skipped: 0 }),
        (&[9, 2, 6, 5], 4, Placement { kept: 3, skipped: 0 }),
        (&[3, 5, 8, 9], 4, Placement { kept: 2, skipped: 0 }),
        (&[7], 1, Placement { kept: 1, skipped: 0 }),
    ];
    // The tokens that count, for a twin without any other row.
    let counted = [3, 1, 4, 1, 5, 9, 2, 3, 7];
    let mut last = Vec::new();
    for (tokens, outputs, placement) in steps {
        let stream = twin.forward_as(tokens, outputs, placement).unwrap();
        let need = twin.logits(&stream[stream.len() - outputs * config.hidden_size..]);
        let mut opened = Vec::new();
        let choose = |row: &[u64]| {
            opened.push(sorted(row.to_vec()));
            greedy_place(row)
        };
        let chosen = pair.step_as(tokens, outputs, placement, choose, |_| {}).unwrap();
        let rows: Vec<&[u64]> = need.chunks(config.vocab_size).collect();
        assert_eq!(opened, rows.iter().map(|row| sorted(row.to_vec())).collect::<Vec<_>>());
        assert_eq!(chosen, rows.iter().map(|row| greedy_place(row) as u32).collect::<Vec<_>>());
        last = need;
    }
    // Without the rows that do not count, and rounded to nearest, the logits are the same but for the rounding.
    let mut plain = Twin::new(model, rotary, scalar_word_kernels(), Nearest);
    let need = plain.forward_last(&counted).unwrap();
    let unit = plain.logit_unit();
    let differences = last.iter().zip(&need).map(|(a, b)| (a.wrapping_sub(*b) as i64 as f64 * unit).abs());
    let (worst, size) =
        (differences.fold(0.0, f64::max), need.iter().map(|&b| (b as i64 as f64 * unit).abs()).fold(0.0, f64::max));
    assert!(worst < 0.02 * size, "{worst} of {size}");
}

#[test]
fn the_masked_model_in_pieces_is_the_whole() {
    let model = Arc::new(QuantizedModel::new(&synthetic(small_config(), 7)).unwrap());
    let shape = model.public().shape();
    let provider = ProviderModel::new(model, 64, scalar_word_kernels());
    let whole = provider.masked(&Seed::from_bytes([4; 32])).encode();
    let words = MaskedModel::size_bytes(&shape) / 8;
    let mut pieces = Vec::new();
    for first in (0..words).step_by(1777) {
        pieces.extend(provider.masked_words(&Seed::from_bytes([4; 32]), first, 1777));
    }
    let bytes: Vec<u8> = pieces.iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!((bytes.len() as u64, bytes == whole), (8 * words, true));
    let read = MaskedModel::read(&mut &bytes[..], &shape).unwrap();
    assert!(read.encode() == whole);
    assert!(MaskedModel::read(&mut &bytes[1..], &shape).is_err());
    assert!(provider.masked_words(&Seed::from_bytes([4; 32]), words, 10).is_empty());
}
