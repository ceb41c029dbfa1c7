//! The provider: holds weights, computes on masked words, learns nothing of the prompt but its length.
//!
//! Of every value x it holds x minus the user's share, which is uniform and independent of x. It answers flights and
//! asks questions in a fixed order; the counts of every flight follow from the model and the step. Nothing here can
//! be linked to what the user holds: no type of the module `user` is used.

mod layer;

use std::collections::VecDeque;
use std::sync::Arc;

use undertone_ring::WordKernels;
use undertone_ring::words::product_i16;
use zeroize::Zeroizing;

use crate::bundle::{ProviderBundle, SessionId, check_place};
use crate::dealer::{table_masks, weight_masks};
use crate::error::{Error, Result};
use crate::fixed::{add_assign, add_shifted};
use crate::flight::{Flight, FlightKind};
use crate::masked::MaskedModel;
use crate::random::Seed;
use crate::rotary::RotaryTable;
use crate::shape::{Matrix, Shape, Site, Step};
use crate::shuffle::Shuffle;
use crate::weights::QuantizedModel;

use layer::LayerState;

/// A model ready to serve, shared by sessions.
pub struct ProviderModel {
    model: Arc<QuantizedModel>,
    shape: Shape,
    rotary: RotaryTable,
    kernels: Arc<dyn WordKernels>,
}

impl ProviderModel {
    /// A model for sessions of at most `positions` positions.
    pub fn new(model: Arc<QuantizedModel>, positions: usize, kernels: Arc<dyn WordKernels>) -> Self {
        let config = &model.public().config;
        let positions = positions.min(config.max_position_embeddings);
        let (shape, rotary) = (Shape::new(config), RotaryTable::new(config, positions));
        Self { model, shape, rotary, kernels }
    }

    /// The rotary table. It must equal the user's; nothing compares them yet.
    pub fn rotary(&self) -> &RotaryTable {
        &self.rotary
    }

    /// The weights under the dealer's masks, which the user stores: `X - U`.
    pub fn masked(&self, weight_seed: &Seed) -> MaskedModel {
        let mut masks = weight_masks(&self.shape, weight_seed);
        for (mask, weights) in masks.iter_mut().zip(self.model.matrices()) {
            let words = mask.iter_mut().zip(&weights.values);
            words.for_each(|(word, &weight)| *word = (i64::from(weight) as u64).wrapping_sub(*word));
        }
        // The masks are gone now, so what is left needs no clearing.
        MaskedModel::new(masks.iter_mut().map(|words| std::mem::take(&mut **words)).collect())
    }

    /// X (y - v) + w0.
    fn product(&self, matrix: Matrix, input: &[u64], correction: &[u64]) -> Vec<u64> {
        let weights = self.model.matrix(matrix);
        let mut out = product_i16(&*self.kernels, &weights.values, input, weights.cols);
        add_assign(&mut out, correction);
        out
    }
}

/// The step in progress.
struct Active {
    step: Step,
    bundle: ProviderBundle,
    /// What the user sent ahead, consumed from the front.
    prepared: VecDeque<u64>,
    /// Share of the residual stream, `[n, D]`.
    stream: Zeroizing<Vec<u64>>,
    due: (FlightKind, usize),
}

/// The provider's side of one session.
pub struct Provider {
    model: Arc<ProviderModel>,
    session: Option<SessionId>,
    next: u64,
    position: usize,
    layers: Vec<LayerState>,
    active: Option<Active>,
    failed: bool,
}

impl Provider {
    /// A session at position 0.
    pub fn new(model: Arc<ProviderModel>) -> Self {
        let layers = (0..model.shape.layers).map(|_| LayerState::new(&model.shape)).collect();
        Self { model, session: None, next: 0, position: 0, layers, active: None, failed: false }
    }

    /// Begins a step with its bundle, which the store has marked as taken.
    ///
    /// # Errors
    /// A step in progress, a session that failed, a bundle for another step or session.
    pub fn begin(&mut self, bundle: ProviderBundle) -> Result<()> {
        if self.failed || self.active.is_some() {
            return Err(Error::OutOfTurn {
                have: "a new step",
                need: self.due().map_or("none", |(kind, _)| kind.name()),
            });
        }
        let step = bundle.step;
        step.check(&self.model.shape, self.model.rotary.positions())?;
        check_place(&mut self.session, bundle.session, &step, self.next, self.position)?;
        let (prepared, stream) = (VecDeque::new(), Zeroizing::new(Vec::new()));
        self.active = Some(Active { step, bundle, prepared, stream, due: (FlightKind::Prepare, 0) });
        Ok(())
    }

    /// The flight that is due, and its layer.
    pub fn due(&self) -> Option<(FlightKind, usize)> {
        self.active.as_ref().map(|active| active.due)
    }

    /// The step in progress.
    pub fn step(&self) -> Option<Step> {
        self.active.as_ref().map(|active| active.step)
    }

    /// Takes a flight and returns the answer, if it has one.
    ///
    /// # Errors
    /// A flight that is not due or has other counts. The session has failed then.
    pub fn receive(&mut self, flight: Flight) -> Result<Option<Flight>> {
        let Some(mut active) = self.active.take().filter(|_| !self.failed) else {
            return Err(Error::OutOfTurn { have: flight.kind.name(), need: "a bundle" });
        };
        // Until the answer is complete the session counts as failed, and then its masks are spent.
        self.failed = true;
        let (kind, layer) = active.due;
        flight.expect(kind, layer, &self.model.shape, &active.step)?;
        let answer = self.answer(&mut active, flight)?;
        self.failed = false;
        if kind == FlightKind::Select {
            self.next += 1;
            self.position += active.step.tokens;
        } else {
            self.active = Some(active);
        }
        Ok(answer)
    }

    fn answer(&mut self, active: &mut Active, flight: Flight) -> Result<Option<Flight>> {
        let model = Arc::clone(&self.model);
        let (kind, layer) = active.due;
        if kind.in_layer() {
            let done = self.layers[layer].answer(&model, active, layer, flight)?;
            return Ok(Some(match done {
                Some(flight) => flight,
                None if layer + 1 < model.shape.layers => active.ask_norm(&model, layer + 1),
                None => active.ask_final_norm(&model),
            }));
        }
        match kind {
            FlightKind::Prepare => {
                active.prepared = flight.words.into();
                active.due = (FlightKind::Embed, 0);
                Ok(None)
            }
            FlightKind::Embed => {
                let embedded = model.product(Matrix::Embed, &flight.words, &active.bundle.corrections.embed);
                active.stream = Zeroizing::new(vec![0; embedded.len()]);
                add_shifted(&mut active.stream, &embedded, model.model.public().shift(Matrix::Embed));
                Ok(Some(active.ask_norm(&model, 0)))
            }
            FlightKind::FinalNormed => Ok(Some(active.ask_logits(&model, flight.words))),
            _ => active.look_up(&model, &flight).map(Some),
        }
    }
}

impl Active {
    /// The next `len` words of what the user prepared, added to a share.
    fn add_prepared(&mut self, share: &mut [u64]) {
        let len = share.len();
        share.iter_mut().zip(self.prepared.drain(..len)).for_each(|(x, a)| *x = x.wrapping_add(a));
    }

    fn shuffle(&self, model: &ProviderModel, site: Site, layer: usize) -> Shuffle {
        Shuffle::of_site(&self.bundle.seed, &model.shape, &self.step, site, layer)
    }

    /// The question of a site: its input, permuted, minus what the user knows.
    fn open(
        &mut self,
        model: &ProviderModel,
        (site, layer): (Site, usize),
        mut share: Vec<u64>,
        kind: FlightKind,
        next: FlightKind,
    ) -> Flight {
        // The scores' mask comes with the user's flight, all others were prepared.
        if site != Site::Softmax {
            self.add_prepared(&mut share);
        }
        let mut words = self.shuffle(model, site, layer).apply(&share);
        let corrections = &self.bundle.corrections;
        let correction = match site {
            Site::AttentionNorm => &corrections.layers[layer].attention_norm,
            Site::Softmax => &corrections.layers[layer].softmax,
            Site::MlpNorm => &corrections.layers[layer].mlp_norm,
            Site::Activation => &corrections.layers[layer].activation,
            Site::FinalNorm => &corrections.final_norm,
            Site::Logits => &corrections.logits,
        };
        add_assign(&mut words, &correction.opened);
        self.due = (next, layer);
        Flight::words(kind, layer, &self.step, words)
    }

    fn ask_norm(&mut self, model: &ProviderModel, layer: usize) -> Flight {
        let share = self.stream.to_vec();
        let site = (Site::AttentionNorm, layer);
        self.open(model, site, share, FlightKind::AttentionNorm, FlightKind::AttentionNormed)
    }

    fn ask_final_norm(&mut self, model: &ProviderModel) -> Flight {
        let last = self.stream[self.stream.len() - model.shape.hidden..].to_vec();
        self.open(model, (Site::FinalNorm, 0), last, FlightKind::FinalNorm, FlightKind::FinalNormed)
    }

    fn ask_logits(&mut self, model: &ProviderModel, words: Vec<u64>) -> Flight {
        let mut normed = self.shuffle(model, Site::FinalNorm, 0).invert(&words);
        add_assign(&mut normed, &self.bundle.corrections.final_norm.returned);
        let logits = model.product(Matrix::Head, &normed, &self.bundle.corrections.head);
        self.open(model, (Site::Logits, 0), logits, FlightKind::Logits, FlightKind::Select)
    }

    /// The table of token ids by permuted place, shifted by the user's number and masked: the user can read one entry.
    fn look_up(&mut self, model: &ProviderModel, flight: &Flight) -> Result<Flight> {
        let vocab = model.shape.vocab;
        let shift = flight.entries[0] as usize;
        if shift >= vocab {
            let need = format!("below {vocab}");
            return Err(Error::OutOfRange { what: "the place of a look-up", have: shift as u64, need });
        }
        let shuffle = self.shuffle(model, Site::Logits, 0);
        let shifted = shuffle.sources()[shift..].iter().chain(&shuffle.sources()[..shift]);
        let masks = table_masks(&self.bundle.seed, &model.shape);
        let entries = shifted.zip(masks).map(|(id, mask)| id.wrapping_add(mask)).collect();
        Ok(Flight { entries, ..Flight::words(FlightKind::Selected, 0, &self.step, Vec::new()) })
    }
}
