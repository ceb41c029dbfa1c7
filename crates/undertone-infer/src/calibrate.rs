//! Calibration: runs text through the clear model and declares the range of every nonlinear input.
//!
//! Three passes over the prompts: extremes of all activations; the sums inside the softmax for every number of rounds;
//! a scan that repeats the softmax with the chosen polynomials and counts what leaves its range. A part of the prompts
//! is held out from the first two. Prompts that escape are added to the fit and everything is chosen again, until a
//! scan finds nothing; a calibration that still has escapes after the last scan is refused. The escapes of held-out
//! prompts in the first scan, when none of them was fitted, are recorded: they say how new text would have fared.
//!
//! Only rows that are encrypted count: private and generated tokens. Rows that fill a block repeat the last private
//! token at its position, so they add nothing. Public rows never enter; that keeps the first tokens of a sequence,
//! whose activations are the largest of all, out of the ranges.

mod choose;
mod extremes;
mod prefix;
mod report;
mod scan;
mod sums;
mod windows;

use crate::Error;
use crate::calibration::{Calibration, VERSION, hex};
use crate::preparation::Preparation;
use choose::Chooser;
use extremes::Extremes;
pub use prefix::{PrefixOptions, PrefixStep, search_prefix};
use rayon::prelude::*;
pub use report::{LayerRanges, RangeReport, polynomial_levels, ranges};
pub use scan::Escape;
use scan::Scan;
use std::sync::OnceLock;
use sums::Sums;
use undertone_model::reference::{self, Block, ForwardOptions, KvCache, LogitRows, Observer, Site, SiteShape};
use undertone_model::{Accumulation, Llama, LlamaConfig};
pub use windows::{WindowOptions, windows};

/// Most tokens of a private part.
pub const MAX_PRIVATE: usize = 128;
/// Scans before giving up on finding none that escapes.
const MAX_SCANS: usize = 8;
/// Factor on the margin when the fitted prompts themselves escape.
const WIDENING: f64 = 1.1;
/// Prompts between two progress events.
const CHUNK: usize = 8;
/// Bytes of public caches that are kept from pass to pass.
const PUBLIC_BYTES: usize = 1 << 30;
/// Separates this hash from all others.
const CORPUS_CONTEXT: &str = "undertone calibration corpus, version 1";

/// One calibration prompt.
#[derive(Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Tokens that the server reads; the first one starts the sequence.
    pub public: Vec<u32>,
    /// Encrypted tokens, 1 to [`MAX_PRIVATE`].
    pub private: Vec<u32>,
    /// Tokens that follow, as if generated; may be empty.
    pub answer: Vec<u32>,
}

/// Calibration text may be as private as prompts are, so only lengths are shown.
impl std::fmt::Debug for Prompt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lengths = [self.public.len(), self.private.len(), self.answer.len()];
        write!(f, "Prompt{lengths:?}")
    }
}

/// How to calibrate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CalibrationOptions {
    /// Factor by which bounds exceed what was seen; intervals widen in proportion. 1.2 to 1.3 serves.
    pub margin: f64,
    /// Part of the prompts that is only scanned, between 0 and 1.
    pub held_out_fraction: f64,
    /// Precision of every polynomial in bits. 12 to 13 serves small models.
    pub target_bits: f64,
    /// Slots of a ciphertext, which says how many masked columns a softmax sums over.
    pub slot_count: usize,
}

impl Default for CalibrationOptions {
    fn default() -> Self {
        Self { margin: 1.25, held_out_fraction: 0.25, target_bits: 12.5, slot_count: 1 << 15 }
    }
}

/// What a calibration reports while it runs.
#[derive(Debug, Clone, PartialEq)]
pub enum CalibrationEvent {
    /// Prompts done in one pass.
    Prompts {
        /// `ranges`, `sums` or `scan`.
        pass: &'static str,
        /// Prompts done.
        done: usize,
        /// Prompts of the pass.
        total: usize,
    },
    /// A scan is complete.
    Scanned {
        /// Everything that left its range.
        escapes: Vec<Escape>,
        /// How many of those came from held-out prompts.
        held_out: usize,
        /// −log2 of the largest total variation between exact and approximated attention weights.
        softmax_bits: f64,
    },
}

/// Calibrates `model` on `prompts` as they are.
///
/// # Errors
/// As [`calibrate_prepared`].
pub fn calibrate(
    model: &Llama,
    prompts: &[Prompt],
    options: CalibrationOptions,
    progress: &mut dyn FnMut(CalibrationEvent),
) -> Result<Calibration, Error> {
    calibrate_prepared(model, model.fingerprint(), prompts, &Preparation::default(), options, progress)
}

/// Calibrates a model that is prepared as `preparation` says on `prompts`, which are prepared here.
///
/// `model` is what [`Preparation::weights`] makes of the stored weights, so that no second copy is needed here;
/// `fingerprint` is that of the stored ones.
///
/// # Errors
/// `Calibration` for a prefix that does not suit the model; `CalibrationText` for unusable prompts or options, prompts
/// that exceed the context with the prefix and when escapes remain after the last scan; `RangeTooWide` when no
/// polynomial fits; model errors.
pub fn calibrate_prepared(
    model: &Llama,
    fingerprint: [u8; 32],
    prompts: &[Prompt],
    preparation: &Preparation,
    options: CalibrationOptions,
    progress: &mut dyn FnMut(CalibrationEvent),
) -> Result<Calibration, Error> {
    check(prompts, &options)?;
    // Fingerprint and hash are those of what is stored and supplied, before any preparation.
    let (model_fingerprint, corpus_hash) = (hex(&fingerprint), corpus_hash(prompts));
    let prompts = &prepared_prompts(prompts, preparation, &model.config)?[..];
    let config = &model.config;
    let mut fitted: Vec<bool> = (0..prompts.len()).map(|i| !is_held_out(i, options.held_out_fraction)).collect();
    let mut chooser = Chooser::new(config, options, longest_public(prompts));
    let mut run = Run::new(model, prompts, progress);
    let mut extremes = run.pass("ranges", &fitted, || Extremes::new(config))?;
    let (mut first_scan_escapes, mut escapes_left) = (None, 0);
    for _ in 0..MAX_SCANS {
        let spans = chooser.spans(&extremes);
        let sums = run.pass("sums", &fitted, || Sums::new(&spans, chooser.padded_columns))?;
        let mut calibration = Calibration {
            version: VERSION,
            model_fingerprint: model_fingerprint.clone(),
            corpus_hash: corpus_hash.clone(),
            preparation: preparation.clone(),
            prompts: prompts.len(),
            tokens: prompts.iter().map(|p| p.private.len() + p.answer.len()).sum(),
            held_out_escapes: 0,
            first_scan_escapes: None,
            ..chooser.choose(&extremes, &spans, &sums)?
        };
        let scans = run.scan(&calibration, chooser.padded_columns)?;
        let escaped: Vec<usize> = (0..prompts.len()).filter(|&i| scans[i].escape_count() > 0).collect();
        let held_out = |i: usize| is_held_out(i, options.held_out_fraction);
        calibration.held_out_escapes = escaped.iter().filter(|&&i| held_out(i)).map(|&i| scans[i].escape_count()).sum();
        let all = scans.iter().cloned().reduce(Scan::merged).map(|scan| scan.report()).unwrap_or_default();
        (run.progress)(CalibrationEvent::Scanned {
            escapes: all.0,
            held_out: calibration.held_out_escapes,
            softmax_bits: -all.1.log2(),
        });
        let first = *first_scan_escapes.get_or_insert(calibration.held_out_escapes);
        if escaped.is_empty() {
            calibration.first_scan_escapes = Some(first);
            return Ok(calibration);
        }
        escapes_left = scans.iter().map(Scan::escape_count).sum();
        let news: Vec<bool> = (0..prompts.len()).map(|i| !fitted[i] && escaped.contains(&i)).collect();
        if news.contains(&true) {
            extremes = extremes.merged(run.pass("ranges", &news, || Extremes::new(config))?);
            fitted.iter_mut().zip(&news).for_each(|(fitted, new)| *fitted |= new);
        } else {
            chooser.widen(WIDENING);
        }
    }
    let need = format!("none after {MAX_SCANS} scans, which a larger margin gives");
    Err(Error::CalibrationText { what: "escapes", have: escapes_left, need })
}

/// A collector that a pass fills from several prompts.
trait Collector: Observer + Send + Sized {
    /// The union with what another prompt showed.
    fn merged(self, other: Self) -> Self;
}

/// The prompts and where to report.
struct Run<'a> {
    model: &'a Llama,
    prompts: &'a [Prompt],
    /// The public part of the first prompts, which every pass needs again.
    publics: Vec<OnceLock<KvCache>>,
    progress: &'a mut dyn FnMut(CalibrationEvent),
}

impl<'a> Run<'a> {
    fn new(model: &'a Llama, prompts: &'a [Prompt], progress: &'a mut dyn FnMut(CalibrationEvent)) -> Self {
        let mut bytes = 0usize;
        let kept = prompts.iter().take_while(|prompt| {
            bytes = bytes.saturating_add(KvCache::bytes_of(&model.config, prompt.public.len()));
            bytes <= PUBLIC_BYTES
        });
        let publics = kept.map(|_| OnceLock::new()).collect();
        Self { model, prompts, publics, progress }
    }

    /// One collector per selected prompt, in order.
    fn each<C: Collector>(
        &mut self,
        pass: &'static str,
        selected: &[bool],
        make: impl Fn() -> C + Sync,
    ) -> Result<Vec<C>, Error> {
        let chosen: Vec<usize> = (0..self.prompts.len()).filter(|&index| selected[index]).collect();
        let mut collectors = Vec::with_capacity(chosen.len());
        for chunk in chosen.chunks(CHUNK) {
            let (model, prompts, publics) = (self.model, self.prompts, &self.publics);
            let done: Result<Vec<C>, Error> = chunk
                .par_iter()
                .map(|&index| {
                    let mut collector = make();
                    observe(model, &prompts[index], publics.get(index), &mut collector)?;
                    Ok(collector)
                })
                .collect();
            collectors.extend(done?);
            let (done, total) = (collectors.len(), chosen.len());
            (self.progress)(CalibrationEvent::Prompts { pass, done, total });
        }
        Ok(collectors)
    }

    /// The union over all selected prompts.
    fn pass<C: Collector>(
        &mut self,
        pass: &'static str,
        selected: &[bool],
        make: impl Fn() -> C + Sync,
    ) -> Result<C, Error> {
        let collectors = self.each(pass, selected, &make)?;
        Ok(collectors.into_iter().reduce(C::merged).unwrap_or_else(make))
    }

    fn scan(&mut self, calibration: &Calibration, padded_columns: f64) -> Result<Vec<Scan>, Error> {
        let all = vec![true; self.prompts.len()];
        let blank = Scan::new(calibration, &self.model.config, padded_columns);
        self.each("scan", &all, || blank.clone())
    }
}

/// The cache after the public part of a prompt, from `kept` or for `kept`.
fn public_cache(model: &Llama, prompt: &Prompt, kept: Option<&OnceLock<KvCache>>) -> Result<KvCache, Error> {
    if let Some(cache) = kept.and_then(OnceLock::get) {
        return Ok(cache.clone());
    }
    let mut cache = KvCache::new(&model.config);
    reference::forward_cache(model, &mut cache, &prompt.public, Accumulation::default())?;
    if let Some(kept) = kept {
        kept.get_or_init(|| cache.clone());
    }
    Ok(cache)
}

/// Runs one prompt, whose public part may be kept, and shows the encrypted rows to the observer.
fn observe(
    model: &Llama,
    prompt: &Prompt,
    kept: Option<&OnceLock<KvCache>>,
    observer: &mut dyn Observer,
) -> Result<(), Error> {
    let mut cache = public_cache(model, prompt, kept)?;
    let (accumulation, layers) = (Accumulation::default(), model.layers.len());
    let hidden = model.config.hidden_size;
    for (tokens, logits) in [(&prompt.private, LogitRows::Last), (&prompt.answer, LogitRows::All)] {
        if tokens.is_empty() {
            continue;
        }
        let position = cache.len();
        let stream = reference::embed(&model.embed, tokens)?;
        let stream = reference::forward_hidden(model, &mut cache, stream, accumulation, observer)?;
        // Every row leaves the last layer through a bootstrap; only some of them enter the head.
        let shape = SiteShape { block: Block::Final, rows: tokens.len(), cols: hidden, position, head: 0 };
        observer.record(layers, Site::Residual, &stream, shape);
        let rows = if logits == LogitRows::Last { &stream[stream.len() - hidden..] } else { &stream[..] };
        let first = position + tokens.len() - rows.len() / hidden;
        reference::head(model, rows, first, ForwardOptions { logits, accumulation }, observer);
    }
    Ok(())
}

/// Whether prompt `index` is held out: evenly spread, about `fraction` of all.
fn is_held_out(index: usize, fraction: f64) -> bool {
    (fraction * (index + 1) as f64).floor() > (fraction * index as f64).floor()
}

/// The prompts as the prepared model reads them; each fits its context.
fn prepared_prompts(prompts: &[Prompt], preparation: &Preparation, config: &LlamaConfig) -> Result<Vec<Prompt>, Error> {
    preparation.check_shape(config)?;
    let most = config.max_position_embeddings;
    let prepared = |prompt: &Prompt| {
        let public = preparation.public_tokens(&prompt.public, config);
        let have = public.len() + prompt.private.len() + prompt.answer.len();
        if have > most {
            let (what, need) = ("tokens in one prompt with its prefix", format!("at most {most}, the model's context"));
            return Err(Error::CalibrationText { what, have, need });
        }
        Ok(Prompt { public, private: prompt.private.clone(), answer: prompt.answer.clone() })
    };
    prompts.iter().map(prepared).collect()
}

fn longest_public(prompts: &[Prompt]) -> usize {
    prompts.iter().map(|p| p.public.len()).max().unwrap_or(0)
}

fn check(prompts: &[Prompt], options: &CalibrationOptions) -> Result<(), Error> {
    let refuse = |what, have, need: &str| Err(Error::CalibrationText { what, have, need: need.into() });
    let fraction = options.held_out_fraction;
    if !(0.0..1.0).contains(&fraction) || !(1.0..=4.0).contains(&options.margin) {
        return refuse("per cent of margin or held-out part out of range", 1, "a margin of 1 to 4 and a part below 1");
    }
    if !(4.0..=40.0).contains(&options.target_bits) || !options.slot_count.is_power_of_two() {
        return refuse("precision or slot count out of range", 1, "4 to 40 bits and a power of two");
    }
    let held_out = (0..prompts.len()).filter(|&i| is_held_out(i, fraction)).count();
    if prompts.len() == held_out || (fraction > 0.0 && held_out == 0) {
        return refuse("prompts", prompts.len(), "enough for a fitted and a held-out part");
    }
    check_lengths(prompts)
}

fn check_lengths(prompts: &[Prompt]) -> Result<(), Error> {
    let refuse = |what, have, need: &str| Err(Error::CalibrationText { what, have, need: need.into() });
    for prompt in prompts {
        if prompt.public.is_empty() {
            return refuse("public tokens in one prompt", 0, "at least the token that starts the sequence");
        }
        if prompt.private.is_empty() || prompt.private.len() > MAX_PRIVATE {
            return refuse("private tokens in one prompt", prompt.private.len(), "from 1 to 128");
        }
    }
    Ok(())
}

fn corpus_hash(prompts: &[Prompt]) -> String {
    let mut hasher = blake3::Hasher::new_derive_key(CORPUS_CONTEXT);
    for part in prompts.iter().flat_map(|p| [&p.public, &p.private, &p.answer]) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        part.iter().for_each(|token| {
            hasher.update(&token.to_le_bytes());
        });
    }
    hex(hasher.finalize().as_bytes())
}

#[cfg(test)]
mod prepared_tests;
#[cfg(test)]
mod tests;
