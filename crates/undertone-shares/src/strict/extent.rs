//! What the exchange of a site takes, from the dimensions alone: flights, corrections, keys.

use super::tree::{Comparison, Point};
use crate::flight::Extent;
use crate::shape::{Shape, Site, Step};

/// Wide words and narrow ones of an opening.
type Opening = (usize, usize);

/// Values that are opened one after the other, and how many are returned or revealed at the end.
pub(crate) fn openings(site: Site, shape: &Shape, step: &Step) -> (Vec<Opening>, usize) {
    let (n, input, output) = (step.tokens, step.site_input(shape, site), step.site_output(shape, site));
    match site {
        Site::AttentionNorm | Site::MlpNorm | Site::FinalNorm => {
            let rows = output / shape.hidden;
            (vec![(output, 0), (rows, 0), (2 * rows, 0), (rows, 0)], output)
        }
        Site::Activation => (vec![(input, 0), (0, output), (output, 0)], output),
        Site::Softmax => {
            let mut all = vec![(input, 0)];
            let mut lengths: Vec<usize> = (0..n).map(|token| step.visible(token)).collect();
            while lengths.iter().any(|&length| length > 1) {
                all.push((0, shape.heads * lengths.iter().map(|length| length / 2).sum::<usize>()));
                lengths.iter_mut().for_each(|length| *length = length.div_ceil(2));
            }
            let (mixed, rows) = (n * shape.query(), n * shape.heads);
            all.extend([(2 * input, 0), (input, 0), (mixed + 2 * rows, 0), (rows, 0)]);
            (all, mixed)
        }
        Site::Logits => {
            let (mut all, mut length) = (vec![(input, 0)], shape.vocab);
            while length > 2 {
                all.push((0, 2 * step.outputs * (length / 2)));
                length = length.div_ceil(2);
            }
            (all, step.outputs)
        }
    }
}

/// The flights of a site in their order, the provider's first: each brings what its sender alone could open and a share of
/// what is opened next.
pub(crate) fn flights(site: Site, shape: &Shape, step: &Step) -> Vec<Extent> {
    let (openings, last) = openings(site, shape, step);
    let extent = |words: usize, entries: usize| Extent { words, bits: 0, entries };
    let pair = |pair: &[Opening]| extent(pair[0].0 + pair[1].0, pair[0].1 + pair[1].1);
    let mut all: Vec<Extent> = openings.windows(2).map(pair).collect();
    let (words, entries) = openings[openings.len() - 1];
    // The last share goes down, in a flight of its own where this one goes up; places are narrow.
    let (last_words, last_entries) = if site == Site::Logits { (0, last) } else { (last, 0) };
    if openings.len() % 2 == 1 {
        all.push(extent(words + last_words, entries + last_entries));
    } else {
        all.extend([extent(words, entries), extent(last_words, last_entries)]);
    }
    if site != Site::Logits {
        all.push(Extent { words: last, bits: last, entries: 0 });
    }
    all
}

/// What the dealer gives for a site: words of the provider's corrections, and of the keys that both parties get.
pub(crate) fn material(site: Site, shape: &Shape, step: &Step) -> (usize, usize) {
    let compare = |levels, payload| Comparison { levels, payload }.words();
    let point = |payload| Point { payload }.words();
    let (n, input, output) = (step.tokens, step.site_input(shape, site), step.site_output(shape, site));
    match site {
        Site::AttentionNorm | Site::MlpNorm | Site::FinalNorm => {
            let rows = output / shape.hidden;
            (7 * output + 3 * rows, rows * (compare(63, 2) + point(6)))
        }
        Site::Activation => (11 * output, output * (compare(31, 3) + point(3))),
        Site::Softmax => {
            let (mixed, rows) = (n * shape.query(), n * shape.heads);
            let entries = input * (compare(31, 1) + point(3)) + (input - rows) * compare(31, 2);
            let keys = entries + rows * (compare(63, 2) + point(6));
            (5 * input + 7 * mixed + 2 * rows, keys)
        }
        Site::Logits => (input, step.outputs * (shape.vocab - 1) * compare(31, 3)),
    }
}
