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
use crate::flight::{Flight, FlightDue, FlightKind};
use crate::masked::MaskedModel;
use crate::random::{Draw, Seed, SiteDraws};
use crate::rotary::RotaryTable;
use crate::rows::{Placement, Rows};
use crate::shape::{Matrix, Shape, Site, Step};
use crate::shuffle::Shuffle;
use crate::strict::{self, Exchange, Party, Wire};
use crate::weights::{PublicModel, QuantizedModel};

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

    /// The rotary table. It must equal the user's.
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

    /// Words `first..first + len` of the masked model, fewer at its end: what [`ProviderModel::masked`] holds, without
    /// holding it.
    pub fn masked_words(&self, weight_seed: &Seed, first: u64, len: usize) -> Vec<u64> {
        let (mut skip, mut out) = (first, Vec::new());
        for (index, weights) in self.model.matrices().iter().enumerate() {
            let size = weights.values.len() as u64;
            if skip < size {
                let start = skip as usize;
                let count = (len - out.len()).min(weights.values.len() - start);
                let masks = weight_seed.words_from(Draw::WEIGHTS, index, start, count);
                let words = weights.values[start..start + count].iter().zip(&*masks);
                out.extend(words.map(|(&weight, mask)| (i64::from(weight) as u64).wrapping_sub(*mask)));
            }
            skip = skip.saturating_sub(size);
            if out.len() == len {
                break;
            }
        }
        out
    }

    /// What the user may know.
    pub fn public(&self) -> &PublicModel {
        self.model.public()
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
    /// Positions of its tokens.
    positions: Vec<usize>,
    /// The session's, in the hands of the step while it lasts.
    rows: Rows,
    due: (FlightKind, usize),
    /// Under strict evaluation the exchange in progress, and its turn.
    exchange: Option<(Exchange, usize)>,
}

/// The provider's side of one session.
pub struct Provider {
    model: Arc<ProviderModel>,
    session: Option<SessionId>,
    next: u64,
    position: usize,
    rows: Rows,
    layers: Vec<LayerState>,
    active: Option<Active>,
    failed: bool,
    strict: bool,
}

impl Provider {
    /// A session at position 0.
    pub fn new(model: Arc<ProviderModel>) -> Self {
        let layers = (0..model.shape.layers).map(|_| LayerState::new(&model.shape)).collect();
        Self {
            model,
            session: None,
            next: 0,
            position: 0,
            rows: Rows::default(),
            layers,
            active: None,
            failed: false,
            strict: false,
        }
    }

    /// The same session before its first step, for strict evaluation or not.
    #[must_use]
    pub fn with_strict(self, strict: bool) -> Self {
        Self { strict, ..self }
    }

    /// Whether nonlinear functions are evaluated strictly.
    pub fn is_strict(&self) -> bool {
        self.strict
    }

    /// Begins a step with its bundle, which the store has marked as taken.
    ///
    /// # Errors
    /// A step in progress, a session that failed, a bundle for another step or session, a placement that does not fit.
    pub fn begin(&mut self, bundle: ProviderBundle, placement: Placement) -> Result<()> {
        if self.failed || self.active.is_some() {
            return Err(Error::OutOfTurn {
                have: "a new step",
                need: self.due().map_or("none", |due| due.kind.name()),
            });
        }
        let step = bundle.step;
        step.check(&self.model.shape, self.model.rotary.positions())?;
        let due = Step { number: self.next, position: self.position, strict: self.strict, ..step };
        check_place(&mut self.session, bundle.session, &step, &due)?;
        let positions = self.rows.positions(&step, &placement)?;
        self.rows.push(&step, &placement);
        let (prepared, stream, rows) = (VecDeque::new(), Zeroizing::new(Vec::new()), std::mem::take(&mut self.rows));
        let due = (FlightKind::Prepare, 0);
        self.active = Some(Active { step, bundle, prepared, stream, positions, rows, due, exchange: None });
        Ok(())
    }

    /// Checks a step that a user announces, before anything is received for it.
    ///
    /// # Errors
    /// What [`Step::check`] refuses.
    pub fn check(&self, step: &Step) -> Result<()> {
        step.check(&self.model.shape, self.model.rotary.positions())
    }

    /// Whether this is the flight that ends a step without outputs, which takes no computation.
    pub fn is_last(&self, flight: &Flight) -> bool {
        let last = |active: &Active| {
            active.step.outputs == 0
                && flight.layer as usize + 1 == self.model.shape.layers
                && active.ends(&self.model.shape, Site::Activation)
        };
        flight.kind == FlightKind::Activated && self.active.as_ref().is_some_and(last)
    }

    /// The flight that is due.
    pub fn due(&self) -> Option<FlightDue> {
        self.active.as_ref().map(Active::flight_due)
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
        let (kind, _) = active.due;
        flight.expect(&active.flight_due(), &self.model.shape, &active.step)?;
        let answer = self.answer(&mut active, flight)?;
        self.failed = false;
        let chosen = match active.step.strict {
            false => kind == FlightKind::Select,
            true => active.revealed(&self.model.shape),
        };
        if chosen || (answer.is_none() && kind == FlightKind::Activated) {
            self.next += 1;
            self.position += active.step.tokens;
            self.rows = active.rows;
        } else {
            self.active = Some(active);
        }
        Ok(answer)
    }

    fn answer(&mut self, active: &mut Active, flight: Flight) -> Result<Option<Flight>> {
        let model = Arc::clone(&self.model);
        let (kind, layer) = active.due;
        if !kind.in_layer()
            && let Some(site) = kind.site()
            && let Some(next) = active.exchanged(&model.shape, (site, layer), &flight, &mut |_| Vec::new())?
        {
            return Ok(Some(next));
        }
        if kind == FlightKind::Activated
            && active.ends(&model.shape, Site::Activation)
            && layer + 1 == model.shape.layers
            && active.step.outputs == 0
        {
            // Nobody looks at what the last layer adds.
            return Ok(None);
        }
        if kind.in_layer() {
            let done = self.layers[layer].answer(&model, active, layer, flight)?;
            return Ok(match done {
                Some(flight) => Some(flight),
                None if layer + 1 < model.shape.layers => Some(active.ask_norm(&model, layer + 1)?),
                None => Some(active.ask_final_norm(&model)?),
            });
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
                active.ask_norm(&model, 0).map(Some)
            }
            FlightKind::FinalNormed => active.ask_logits(&model, &flight).map(Some),
            _ => active.look_up(&model, &flight).map(Some),
        }
    }
}

/// The error of a strict step whose exchange has not begun.
fn no_exchange(flight: &Flight) -> Error {
    Error::OutOfTurn { have: flight.kind.name(), need: "the beginning of its exchange" }
}

impl Active {
    /// The flight that is due.
    fn flight_due(&self) -> FlightDue {
        let (kind, layer) = self.due;
        FlightDue { kind, layer, turn: self.exchange.as_ref().map_or(0, |(_, turn)| *turn) }
    }

    /// Whether the flight due is the last of this site: without strict evaluation the only one, and otherwise what its
    /// exchange says.
    fn ends(&self, shape: &Shape, site: Site) -> bool {
        let flights = || strict::flights(site, shape, &self.step).len();
        !self.step.strict || self.exchange.as_ref().is_some_and(|(_, turn)| *turn + 1 >= flights())
    }

    /// Whether the last share of the tokens' places is on its way.
    fn revealed(&self, shape: &Shape) -> bool {
        let flights = || strict::flights(Site::Logits, shape, &self.step).len();
        self.due.0 == FlightKind::Select && self.exchange.as_ref().is_some_and(|(_, turn)| *turn >= flights())
    }

    /// Goes on with the exchange of a site: its next question, or none where this flight brings the result.
    fn exchanged(
        &mut self,
        shape: &Shape,
        (site, layer): (Site, usize),
        flight: &Flight,
        mix: &mut dyn FnMut(&Wire) -> Vec<u64>,
    ) -> Result<Option<Flight>> {
        if !self.step.strict || (site != Site::Logits && self.ends(shape, site)) {
            return Ok(None);
        }
        let (exchange, turn) = self.exchange.as_mut().ok_or_else(|| no_exchange(flight))?;
        let contents = exchange.answer((&flight.words, &flight.entries), mix)?;
        *turn += 2;
        Ok(Some(Flight::contents(site, layer, *turn - 1, &self.step, contents)))
    }

    /// Begins the exchange of a site with this share of its input and the user's under its mask.
    fn begin_exchange(
        &mut self,
        model: &ProviderModel,
        (site, layer): (Site, usize),
        (share, theirs): (Vec<u64>, &[u64]),
        mix: &mut dyn FnMut(&Wire) -> Vec<u64>,
    ) -> Result<Flight> {
        let program = strict::program(model.public(), &self.step, (site, layer), self.rows.alive());
        let lists = std::mem::take(self.bundle.corrections.of_site(site, layer));
        let draws = SiteDraws::new(&self.bundle.seed, site, layer);
        let party = Party::provider(draws, lists.opened, lists.returned);
        let mut exchange = Exchange::new(program, party, share);
        let contents = exchange.start(theirs, mix)?;
        self.exchange = Some((exchange, 1));
        self.due = (FlightKind::of_site(site)[1], layer);
        Ok(Flight::contents(site, layer, 0, &self.step, contents))
    }

    /// The result of a site, in its own order: y minus the user's share.
    fn returned(&mut self, model: &ProviderModel, (site, layer): (Site, usize), flight: &Flight) -> Result<Vec<u64>> {
        if self.step.strict {
            let (mut exchange, _) = self.exchange.take().ok_or_else(|| no_exchange(flight))?;
            return Ok(exchange.finish(&flight.words, &flight.bits));
        }
        let mut out = self.shuffle(model, site, layer).invert(&flight.words);
        add_assign(&mut out, &self.bundle.corrections.of_site(site, layer).returned);
        Ok(out)
    }

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
    ) -> Result<Flight> {
        if self.step.strict {
            let theirs: Vec<u64> = self.prepared.drain(..share.len()).collect();
            return self.begin_exchange(model, (site, layer), (share, &theirs), &mut |_| Vec::new());
        }
        // The scores' mask comes with the user's flight, all others were prepared.
        if site != Site::Softmax {
            self.add_prepared(&mut share);
        }
        let mut words = self.shuffle(model, site, layer).apply(&share);
        add_assign(&mut words, &self.bundle.corrections.of_site(site, layer).opened);
        self.due = (next, layer);
        Ok(Flight::words(kind, layer, &self.step, words))
    }

    fn ask_norm(&mut self, model: &ProviderModel, layer: usize) -> Result<Flight> {
        let share = self.stream.to_vec();
        let site = (Site::AttentionNorm, layer);
        self.open(model, site, share, FlightKind::AttentionNorm, FlightKind::AttentionNormed)
    }

    fn ask_final_norm(&mut self, model: &ProviderModel) -> Result<Flight> {
        let last = self.stream[self.stream.len() - self.step.outputs * model.shape.hidden..].to_vec();
        self.open(model, (Site::FinalNorm, 0), last, FlightKind::FinalNorm, FlightKind::FinalNormed)
    }

    fn ask_logits(&mut self, model: &ProviderModel, flight: &Flight) -> Result<Flight> {
        let normed = self.returned(model, (Site::FinalNorm, 0), flight)?;
        let logits = model.product(Matrix::Head, &normed, &self.bundle.corrections.head);
        self.open(model, (Site::Logits, 0), logits, FlightKind::Logits, FlightKind::Select)
    }

    /// For every output the table of token ids by permuted place, shifted by the user's number and masked: the user can
    /// read one entry of each.
    fn look_up(&mut self, model: &ProviderModel, flight: &Flight) -> Result<Flight> {
        let vocab = model.shape.vocab;
        if let Some(&shift) = flight.entries.iter().find(|&&shift| shift as usize >= vocab) {
            let need = format!("below {vocab}");
            return Err(Error::OutOfRange { what: "the place of a look-up", have: shift.into(), need });
        }
        let shuffle = self.shuffle(model, Site::Logits, 0);
        let rows = shuffle.sources().chunks_exact(vocab).zip(&flight.entries).enumerate();
        // Sources count through all rows; ids begin anew in each.
        let shifted = rows.flat_map(|(row, (sources, &shift))| {
            let (before, after) = sources.split_at(shift as usize);
            after.iter().chain(before).map(move |source| source - (row * vocab) as u32)
        });
        let masks = table_masks(&self.bundle.seed, &model.shape, self.step.outputs);
        let entries = shifted.zip(&*masks).map(|(id, mask)| id.wrapping_add(*mask)).collect();
        Ok(Flight { entries, ..Flight::words(FlightKind::Selected, 0, &self.step, Vec::new()) })
    }
}
