//! Permutations of opened values: what obfuscates the model from the user.
//!
//! Every site of every layer and step has its own, drawn from the provider's seed. Entries move only where the user's
//! function allows it: a norm and a softmax stay within rows, and rows move among rows of equal length. Row lengths
//! of scores are public (they follow from the position), so heads move among heads of one token.
//! Source: permute-and-share of Chase, Ghosh and Poburinnaya (eprint 2019/1340), with a dealer.

use crate::random::{Draw, Seed, WordStream};
use crate::shape::{Shape, Site, Step};

/// A permutation of the entries of one site: entry i of the result is entry `sources[i]` of the input.
pub(crate) struct Shuffle {
    sources: Vec<u32>,
}

impl Shuffle {
    /// The permutation of a site. The activation's is one permutation for gate and up.
    pub(crate) fn of_site(seed: &Seed, shape: &Shape, step: &Step, site: Site, layer: usize) -> Self {
        let mut stream = seed.stream(Draw::permutation(site), layer);
        let mut sources = Vec::new();
        match site {
            Site::AttentionNorm | Site::MlpNorm => push_rows(&mut sources, &mut stream, step.tokens, shape.hidden),
            Site::Softmax => {
                (0..step.tokens).for_each(|i| push_rows(&mut sources, &mut stream, shape.heads, step.visible(i)))
            }
            Site::Activation => push_rows(&mut sources, &mut stream, 1, step.tokens * shape.intermediate),
            Site::FinalNorm => push_rows(&mut sources, &mut stream, step.outputs, shape.hidden),
            // The user must know which output it chooses for, so rows stay.
            Site::Logits => (0..step.outputs).for_each(|_| push_rows(&mut sources, &mut stream, 1, shape.vocab)),
        }
        Self { sources }
    }

    /// The permuted values; of several runs side by side, each under the same permutation.
    pub(crate) fn apply(&self, values: &[u64]) -> Vec<u64> {
        let runs = values.chunks_exact(self.sources.len());
        runs.flat_map(|run| self.sources.iter().map(|&source| run[source as usize])).collect()
    }

    /// What [`Shuffle::apply`] came from, for one run.
    pub(crate) fn invert(&self, values: &[u64]) -> Vec<u64> {
        let mut out = vec![0; values.len()];
        for (&source, &value) in self.sources.iter().zip(values) {
            out[source as usize] = value;
        }
        out
    }

    /// Where each permuted entry came from.
    pub(crate) fn sources(&self) -> &[u32] {
        &self.sources
    }
}

/// Appends `rows` rows of `len` entries: rows permuted among themselves, entries within each row.
fn push_rows(sources: &mut Vec<u32>, stream: &mut WordStream, rows: usize, len: usize) {
    let first = sources.len() as u32;
    for row in shuffled(stream, rows) {
        let start = first + row * len as u32;
        sources.extend(shuffled(stream, len).into_iter().map(|entry| start + entry));
    }
}

/// A uniform permutation of `0..len`, by the shuffle of Fisher and Yates.
fn shuffled(stream: &mut WordStream, len: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..len as u32).collect();
    for last in (1..len).rev() {
        order.swap(last, stream.below(last as u64 + 1) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape =
        Shape { hidden: 5, intermediate: 7, layers: 1, heads: 3, key_heads: 3, head_dim: 2, vocab: 11 };
    const STEP: Step = Step { number: 0, position: 2, tokens: 4, outputs: 2, strict: false };

    #[test]
    fn rows_stay_together_and_inversion_undoes() {
        let seed = Seed::from_bytes([1; 32]);
        for site in [Site::AttentionNorm, Site::Softmax, Site::Activation, Site::FinalNorm, Site::Logits] {
            let shuffle = Shuffle::of_site(&seed, &SHAPE, &STEP, site, 0);
            let values: Vec<u64> = (0..shuffle.sources.len() as u64).collect();
            assert_eq!(shuffle.invert(&shuffle.apply(&values)), values);
        }
        let norm = Shuffle::of_site(&seed, &SHAPE, &STEP, Site::AttentionNorm, 0);
        for row in norm.sources.chunks(SHAPE.hidden) {
            assert!(row.iter().all(|source| source / 5 == row[0] / 5));
        }
        let scores = Shuffle::of_site(&seed, &SHAPE, &STEP, Site::Softmax, 0);
        let mut start = 0;
        for token in 0..STEP.tokens {
            let len = STEP.visible(token);
            for row in scores.sources[start..start + SHAPE.heads * len].chunks(len) {
                let heads: Vec<usize> = row.iter().map(|&source| (source as usize - start) / len).collect();
                assert!(heads.iter().all(|&head| head == heads[0] && head < SHAPE.heads));
            }
            start += SHAPE.heads * len;
        }
        assert_eq!(start, STEP.scores(&SHAPE));
        let logits = Shuffle::of_site(&seed, &SHAPE, &STEP, Site::Logits, 0);
        assert!(logits.sources.iter().enumerate().all(|(i, &source)| i / SHAPE.vocab == source as usize / SHAPE.vocab));
    }

    #[test]
    fn every_order_of_three_is_equally_likely() {
        let mut stream = Seed::from_bytes([2; 32]).stream(Draw::O, 0);
        let mut counts = std::collections::BTreeMap::new();
        (0..6000).for_each(|_| *counts.entry(shuffled(&mut stream, 3)).or_insert(0u32) += 1);
        // Five standard deviations of a count of mean 1000: 5 sqrt(1000 * 5/6) = 144.
        assert!(counts.len() == 6 && counts.values().all(|count| count.abs_diff(1000) < 144), "{counts:?}");
    }

    #[test]
    fn no_permutation_is_used_twice() {
        let shape = Shape { hidden: 24, intermediate: 40, layers: 3, heads: 4, key_heads: 2, head_dim: 8, vocab: 50 };
        let mut seen = std::collections::BTreeSet::new();
        let mut drawn = 0;
        for session in 0..2 {
            let root = Seed::from_bytes([session; 32]);
            for number in 0..20 {
                let step = Step { number, position: 30 + number as usize, tokens: 1, outputs: 1, strict: false };
                let seed = root.of_step(crate::random::Role::Provider, &step);
                let layers = [Site::AttentionNorm, Site::Softmax, Site::MlpNorm, Site::Activation];
                let sites = (0..shape.layers).flat_map(|layer| layers.map(|site| (site, layer)));
                for (site, layer) in sites.chain([(Site::FinalNorm, 0), (Site::Logits, 0)]) {
                    // At 24 entries and more, two of these meet by chance with probability below 10^-17.
                    drawn += 1;
                    seen.insert(Shuffle::of_site(&seed, &shape, &step, site, layer).sources);
                }
            }
        }
        assert_eq!((drawn, seen.len()), (2 * 20 * 14, 2 * 20 * 14));
    }
}
