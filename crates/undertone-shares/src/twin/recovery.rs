//! How far a user gets who tries to read weights out of what it sees: the exposure of this mode, measured.
//!
//! The attack, after arXiv 2605.04901: align differently shuffled activations, then solve. The user asks for one token
//! after a history of the same token with one other token X in it, for many X. Every X moves the residual stream a
//! little, so sorting aligns its entries with those of the history without X, and nearest pairs align gate and up.
//! Differences of norms against differences of gates and ups are then a linear system for the matrix of layer 0.
//! What the user opens are the twin's values in a secret order (tests/equality.rs), so the twin supplies them here;
//! the attack uses nothing that the order would change.

use super::*;
use crate::fixed::power;
use crate::random::Seed;
use crate::weights::QuantizedModel;
use undertone_model::Llama;
use undertone_ring::detect_word_kernels;

/// What the user sees of one step in layer 0, in no order: the stream before the second norm, pairs of gate and up.
struct View {
    stream: Vec<f64>,
    pairs: Vec<[f64; 2]>,
}

/// The values of one step, in true order, for scoring; an attacker gets them shuffled.
fn view(twin: &mut Twin<Replay>, history: &[u32], token: u32) -> View {
    let public = twin.model.public().clone();
    twin.forward(history).unwrap();
    let step = Step { number: twin.next, position: twin.position, tokens: 1, outputs: 1, strict: false };
    let vocab = twin.shape.vocab;
    let shift = public.shift(Matrix::Embed);
    let table = &twin.model.matrix(Matrix::Embed).values;
    let mut stream: Vec<u64> =
        (0..twin.shape.hidden).map(|row| (i64::from(table[row * vocab + token as usize]) as u64) << shift).collect();
    twin.attention(&step, &[step.position], 0, &mut stream);
    let both = twin.product(Matrix::GateUp(0), &twin.norm(&step, (crate::Site::MlpNorm, 0), &stream));
    let scales = public.layers[0];
    let unit = |bits: u32| power(-(bits as i32));
    let value = |word: &u64, unit: f64| *word as i64 as f64 * unit;
    let (gates, ups) = both.split_at(both.len() / 2);
    let [gate, up] = [scales.gate, scales.up].map(|bits| unit(ACTIVATION_BITS + bits));
    View {
        stream: stream.iter().map(|word| value(word, unit(public.residual_bits()))).collect(),
        pairs: gates.iter().zip(ups).map(|(g, u)| [value(g, gate), value(u, up)]).collect(),
    }
}

/// Indices in rising order of value: what sorting tells without knowing the order.
fn ranks(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    order
}

/// For each pair of `base` an own pair of `other`, closest first.
fn matched(base: &[[f64; 2]], other: &[[f64; 2]]) -> Vec<usize> {
    let distance = |a: &[f64; 2], b: &[f64; 2]| (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2);
    let mut candidates: Vec<(f64, usize, usize)> = base
        .iter()
        .enumerate()
        .flat_map(|(i, a)| other.iter().enumerate().map(move |(j, b)| (distance(a, b), i, j)))
        .collect();
    candidates.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut out = vec![usize::MAX; base.len()];
    let mut taken = vec![false; other.len()];
    for (_, i, j) in candidates {
        if out[i] == usize::MAX && !taken[j] {
            (out[i], taken[j]) = (j, true);
        }
    }
    out
}

/// The solution w of least squares `rows · w = targets` for many targets, with a small ridge, by elimination.
fn solved(rows: &[Vec<f64>], targets: &[Vec<f64>], ridge: f64) -> Vec<Vec<f64>> {
    let (unknowns, outputs) = (rows[0].len(), targets[0].len());
    let mut system = vec![vec![0.0; unknowns + outputs]; unknowns];
    for (row, target) in rows.iter().zip(targets) {
        for (i, line) in system.iter_mut().enumerate() {
            let terms = row.iter().chain(target);
            line.iter_mut().zip(terms).for_each(|(sum, term)| *sum += row[i] * term);
        }
    }
    let trace: f64 = (0..unknowns).map(|i| system[i][i]).sum::<f64>() / unknowns as f64;
    (0..unknowns).for_each(|i| system[i][i] += ridge * trace);
    // The matrix is positive definite, so no pivoting is needed.
    for pivot in 0..unknowns {
        let line = system[pivot].clone();
        for (i, other) in system.iter_mut().enumerate() {
            if i != pivot {
                let factor = other[pivot] / line[pivot];
                other.iter_mut().zip(&line).for_each(|(x, y)| *x -= factor * y);
            }
        }
    }
    (0..outputs).map(|o| (0..unknowns).map(|i| system[i][unknowns + o] / system[i][i]).collect()).collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(1e-300)
}

#[test]
fn weights_recovered_from_permuted_activations() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
    let model = Arc::new(QuantizedModel::new(&Llama::load(&directory).unwrap()).unwrap());
    let config = model.public().config.clone();
    let rotary = Arc::new(RotaryTable::new(&config, 512));
    let mut session = 0u64;
    let mut seen = |history: &[u32], token| {
        // Every question is a conversation of its own, with its own rounding.
        session += 1;
        let mut seed = [8; 32];
        seed[..8].copy_from_slice(&session.to_le_bytes());
        let replay = Replay::new(Seed::from_bytes(seed));
        view(&mut Twin::new(Arc::clone(&model), Arc::clone(&rotary), detect_word_kernels(), replay), history, token)
    };
    const TOKEN: u32 = 300;
    let normed = |stream: &[f64]| {
        let mean = stream.iter().map(|x| x * x).sum::<f64>() / stream.len() as f64;
        stream.iter().map(|x| x / (mean + config.rms_norm_eps).sqrt()).collect::<Vec<f64>>()
    };
    for length in [40, 160] {
        let base = seen(&vec![TOKEN; length], TOKEN);
        let columns = ranks(&base.stream);
        let base_norm = normed(&base.stream);
        let mut attack = (Vec::new(), Vec::new());
        let mut control = (Vec::new(), Vec::new());
        let (mut aligned, mut paired) = (0, 0);
        for other in (2..config.vocab_size as u32).step_by(2) {
            let mut history = vec![TOKEN; length];
            history[length - 1] = other;
            let view = seen(&history, TOKEN);
            let (order, partners) = (ranks(&view.stream), matched(&base.pairs, &view.pairs));
            aligned += order.iter().zip(&columns).filter(|(a, b)| a == b).count();
            paired += partners.iter().enumerate().filter(|(i, j)| i == *j).count();
            let norm = normed(&view.stream);
            let moved = |order: &[usize]| -> Vec<f64> {
                order.iter().zip(&columns).map(|(&a, &b)| norm[a] - base_norm[b]).collect()
            };
            let known: Vec<usize> = (0..base.pairs.len()).collect();
            attack.0.push(moved(&order));
            attack.1.push(changes(&base.pairs, &view.pairs, &partners));
            control.0.push(moved(&columns));
            control.1.push(changes(&base.pairs, &view.pairs, &known));
        }
        let count = attack.0.len();
        // Wrong alignments are noise, which a large ridge damps; among 10^-8 to 10^-1 these two were the best.
        let attack = scores(&model, &columns, &solved(&attack.0, &attack.1, 1e-1));
        let control = scores(&model, &columns, &solved(&control.0, &control.1, 1e-6));
        let share = |hits: usize, of: usize| 100.0 * hits as f64 / (count * of) as f64;
        println!(
            "history {length}, {count} questions: sorting aligns {:.1} % of entries, nearest pairs {:.1} %; cosine of \
             recovered and true rows: median {:.3}, highest tenth {:.3}; with the order known: median {:.3}",
            share(aligned, base.stream.len()),
            share(paired, base.pairs.len()),
            attack[attack.len() / 2],
            attack[attack.len() * 9 / 10],
            control[control.len() / 2],
        );
        // Rows that have nothing to do with each other have cosines about 1/8, of either sign: 64 columns.
        assert!(control[control.len() / 2] > 0.95, "whoever knows the order has the weights");
        assert!(attack[attack.len() / 2] > 0.1, "the threat model says that part of the weights leaks");
    }
}

/// Changes of all gates, then of all ups, from the base to a view.
fn changes(base: &[[f64; 2]], view: &[[f64; 2]], partners: &[usize]) -> Vec<f64> {
    let side = |side: usize| partners.iter().enumerate().map(move |(i, &j)| view[j][side] - base[i][side]);
    side(0).chain(side(1)).collect()
}

/// Cosines of recovered and true rows of the matrix, rising. Only here the order of columns is looked at.
fn scores(model: &QuantizedModel, columns: &[usize], found: &[Vec<f64>]) -> Vec<f64> {
    let weights = model.matrix(Matrix::GateUp(0));
    let row = |row: &[i16]| columns.iter().map(|&c| f64::from(row[c])).collect::<Vec<f64>>();
    let rows = weights.values.chunks_exact(weights.cols).zip(found);
    let mut cosines: Vec<f64> = rows.map(|(weights, found)| cosine(&row(weights), found)).collect();
    cosines.sort_by(f64::total_cmp);
    cosines
}
