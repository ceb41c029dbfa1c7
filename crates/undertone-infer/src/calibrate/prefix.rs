//! The search for a short static public prefix that keeps outliers out of encrypted rows.
//!
//! Candidates are the tokens that carry outliers in the calibration text, the caller's suggestions, and BOS once more.
//! From BOS alone the search appends greedily what narrows the ranges of encrypted rows most, and stops where fitted
//! prompts gain less than [`LEAST_GAIN_BITS`] or held-out ones nothing. Source: PrefixQuant (Chen et al., arXiv
//! 2410.05265) for prefixes by the frequency of outlier tokens; the objective, what polynomials and precision cost, is
//! ours: log2 of the spread of every mean square, of every SiLU input, span of scores and bound of the residual stream.

use super::extremes::{Extremes, Range};
use super::{CHUNK, CalibrationEvent, Prompt, Run, check_lengths, is_held_out, prepared_prompts};
use crate::Error;
use crate::preparation::{MAX_PREFIX, Preparation};
use rayon::prelude::*;
use std::collections::BTreeMap;
use undertone_model::reference::{KvCache, Observer, Site, SiteShape, embed, forward_hidden};
use undertone_model::{Accumulation, Llama, LlamaConfig};

/// A row is an outlier where its largest channel exceeds the median of its pass this many times.
const OUTLIER_RATIO: f32 = 6.0;
/// Least gain of one more token, over all nonlinear inputs together.
const LEAST_GAIN_BITS: f64 = 1.0;

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrefixOptions {
    /// Most tokens of the prefix, BOS included; at most [`MAX_PREFIX`](crate::MAX_PREFIX).
    pub max_tokens: usize,
    /// Most candidates for each further token.
    pub candidates: usize,
    /// Most prompts that are run for each candidate.
    pub prompts: usize,
    /// Part of them that is held out.
    pub held_out_fraction: f64,
}

impl Default for PrefixOptions {
    fn default() -> Self {
        Self { max_tokens: 4, candidates: 6, prompts: 32, held_out_fraction: 0.25 }
    }
}

/// One step of the search: the prefix that was best, and what it reaches.
#[derive(Debug, Clone, PartialEq)]
pub struct PrefixStep {
    /// The prefix.
    pub prefix: Vec<u32>,
    /// The objective over fitted prompts, in bits.
    pub fitted_bits: f64,
    /// The objective over held-out prompts, in bits.
    pub held_out_bits: f64,
    /// Whether the step was taken.
    pub kept: bool,
}

/// Searches a prefix for `model`; the first of the steps returned is the start, BOS alone or nothing.
///
/// The prefix is that of the last step that was kept; where it is the start, no prefix beyond BOS is worth it.
///
/// # Errors
/// `Calibration` for a longest prefix that does not suit the model, `CalibrationText` for too few or unusable prompts
/// and for those that exceed the context with the longest prefix, and model errors.
pub fn search_prefix(
    model: &Llama,
    prompts: &[Prompt],
    suggested: &[u32],
    options: PrefixOptions,
    progress: &mut dyn FnMut(CalibrationEvent),
) -> Result<Vec<PrefixStep>, Error> {
    check_lengths(prompts)?;
    let start: Vec<u32> = model.config.bos_token_id.into_iter().collect();
    check_longest(prompts, &start, options.max_tokens, &model.config)?;
    let chosen = spread(prompts, options.prompts);
    let held_out: Vec<bool> = (0..chosen.len()).map(|i| is_held_out(i, options.held_out_fraction)).collect();
    if !held_out.contains(&true) || !held_out.contains(&false) {
        let need = "enough for a fitted and a held-out part".to_owned();
        return Err(Error::CalibrationText { what: "prompts", have: chosen.len(), need });
    }
    let mut candidates = outlier_tokens(model, &chosen, progress)?;
    candidates.truncate(options.candidates);
    for &id in suggested.iter().chain(model.config.bos_token_id.as_slice()) {
        if !candidates.contains(&id) && (id as usize) < model.config.vocab_size {
            candidates.push(id);
        }
    }
    let mut search = Search { model, prompts: &chosen, held_out: &held_out, progress };
    let mut steps = vec![search.step(start)?];
    while let Some(last) = steps.last().filter(|step| step.kept && step.prefix.len() < options.max_tokens).cloned() {
        let mut best: Option<PrefixStep> = None;
        for &candidate in &candidates {
            let step = search.step([&last.prefix[..], &[candidate]].concat())?;
            if best.as_ref().is_none_or(|best| step.fitted_bits < best.fitted_bits) {
                best = Some(step);
            }
        }
        let Some(mut best) = best else { break };
        best.kept = best.fitted_bits + LEAST_GAIN_BITS <= last.fitted_bits && best.held_out_bits < last.held_out_bits;
        steps.push(best);
    }
    Ok(steps)
}

/// Refuses, before any pass, what the longest prefix of the search would make too long.
fn check_longest(prompts: &[Prompt], start: &[u32], max_tokens: usize, config: &LlamaConfig) -> Result<(), Error> {
    // Only the length counts, and token 0 exists in every vocabulary. A length that is refused is not allocated.
    let further = max_tokens.min(MAX_PREFIX + 1).saturating_sub(start.len());
    let prefix = start.iter().copied().chain(std::iter::repeat_n(0, further)).collect();
    prepared_prompts(prompts, &Preparation { prefix, rotation_seed: None }, config).map(|_| ())
}

struct Search<'a> {
    model: &'a Llama,
    prompts: &'a [Prompt],
    held_out: &'a [bool],
    progress: &'a mut dyn FnMut(CalibrationEvent),
}

impl Search<'_> {
    fn step(&mut self, prefix: Vec<u32>) -> Result<PrefixStep, Error> {
        let preparation = Preparation { prefix, rotation_seed: None };
        let prompts = prepared_prompts(self.prompts, &preparation, &self.model.config)?;
        let mut run = Run::new(self.model, &prompts, self.progress);
        let fitted: Vec<bool> = self.held_out.iter().map(|held_out| !held_out).collect();
        let mut bits = |selected: &[bool]| {
            let seen = run.pass("prefix", selected, || Extremes::new(&self.model.config));
            seen.map(|seen| objective_bits(&seen))
        };
        let (fitted_bits, held_out_bits) = (bits(&fitted)?, bits(self.held_out)?);
        Ok(PrefixStep { prefix: preparation.prefix, fitted_bits, held_out_bits, kept: true })
    }
}

/// What the ranges cost: terms decide on the degree of a polynomial or on the precision of a bootstrap.
fn objective_bits(seen: &Extremes) -> f64 {
    let spread = |range: Range| (range.high / range.low.max(f64::MIN_POSITIVE)).log2();
    let magnitude = |value: f64| value.max(1e-3).log2();
    let layers = seen.layers.iter().map(|layer| {
        let mut scores = Range::NONE;
        layer.scores.iter().for_each(|head| scores.merge(head.all));
        let span = magnitude(scores.high - scores.low);
        spread(layer.attention_square) + spread(layer.mlp_square) + magnitude(layer.gate) + span
    });
    // What a bound of the stream takes, a bootstrap lacks in precision; it also shows massive rows of the last layer,
    // of which only one enters the final norm.
    let stream: f64 = seen.residual.iter().map(|&largest| magnitude(largest)).sum();
    layers.sum::<f64>() + spread(seen.final_square) + stream
}

/// At most `count` prompts, evenly spread.
fn spread(prompts: &[Prompt], count: usize) -> Vec<Prompt> {
    let count = count.min(prompts.len());
    (0..count).map(|i| prompts[i * prompts.len() / count].clone()).collect()
}

/// Tokens that carry outliers anywhere but at the start of a sequence, the most frequent first.
fn outlier_tokens(
    model: &Llama,
    prompts: &[Prompt],
    progress: &mut dyn FnMut(CalibrationEvent),
) -> Result<Vec<u32>, Error> {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    let (mut done, total) = (0, prompts.len());
    for chunk in prompts.chunks(CHUNK) {
        let found: Result<Vec<Vec<u32>>, Error> = chunk.par_iter().map(|prompt| outlier_rows(model, prompt)).collect();
        found?.into_iter().flatten().for_each(|token| *counts.entry(token).or_default() += 1);
        done += chunk.len();
        progress(CalibrationEvent::Prompts { pass: "outliers", done, total });
    }
    let mut tokens: Vec<(usize, u32)> = counts.into_iter().map(|(token, count)| (count, token)).collect();
    tokens.sort_by_key(|&(count, token)| (std::cmp::Reverse(count), token));
    Ok(tokens.into_iter().map(|(_, token)| token).collect())
}

/// The token of every outlier row of every layer.
fn outlier_rows(model: &Llama, prompt: &Prompt) -> Result<Vec<u32>, Error> {
    let tokens = [&prompt.public[..], &prompt.private, &prompt.answer].concat();
    let mut rows = OutlierRows { tokens: &tokens, found: Vec::new() };
    let stream = embed(&model.embed, &tokens)?;
    forward_hidden(model, &mut KvCache::new(&model.config), stream, Accumulation::default(), &mut rows)?;
    Ok(rows.found)
}

struct OutlierRows<'a> {
    tokens: &'a [u32],
    found: Vec<u32>,
}

impl Observer for OutlierRows<'_> {
    fn record(&mut self, _: usize, site: Site, values: &[f32], shape: SiteShape) {
        if site != Site::Residual {
            return;
        }
        let largest: Vec<f32> =
            values.chunks(shape.cols).map(|row| row.iter().fold(0.0f32, |m, x| m.max(x.abs()))).collect();
        let mut sorted = largest.clone();
        sorted.sort_by(f32::total_cmp);
        let limit = OUTLIER_RATIO * sorted[sorted.len() / 2];
        let outliers = largest.iter().zip(self.tokens).skip(1).filter(|(largest, _)| **largest > limit);
        self.found.extend(outliers.map(|(_, token)| *token));
    }
}
