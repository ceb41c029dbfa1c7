//! The user's side of strictly evaluated sites: exchanges with the provider instead of opened permutations.

use zeroize::Zeroizing;

use super::{Active, Due, LayerCache, UserModel};
use crate::attention::add_mixed;
use crate::bundle::site_index;
use crate::error::{Error, Result};
use crate::flight::{Flight, FlightDue, FlightKind};
use crate::random::{Draw, SiteDraws};
use crate::shape::Site;
use crate::strict::{self, Exchange, Party, Turn, Wire};

/// What a flight of an exchange led to.
pub(super) enum Exchanged {
    /// A flight to send, and the exchange goes on.
    Send(Flight),
    /// Its last flight.
    Last(Flight),
    /// Its results, for the user alone.
    Revealed(Zeroizing<Vec<u64>>),
}

impl Active {
    /// The turn of the flight that is due.
    pub(super) fn turn(&self) -> usize {
        self.exchange.as_ref().map_or(0, |(_, turn)| *turn)
    }

    /// The flight that is due.
    pub(super) fn flight_due(&self) -> Option<FlightDue> {
        match self.due {
            Due::Peer(kind, layer) => Some(FlightDue { kind, layer, turn: self.turn() }),
            _ => None,
        }
    }

    /// An exchange with this share of its input, of which the provider hears under the first masks of the site.
    pub(super) fn begin_exchange(
        &mut self,
        model: &UserModel,
        (site, layer): (Site, usize),
        input: Vec<u64>,
    ) -> Exchange {
        let program = strict::program(&model.public, &self.step, (site, layer), &self.alive);
        let keys = std::mem::take(&mut self.bundle.keys[site_index(&model.shape, site, layer)]);
        let party = Party::user(SiteDraws::new(&self.bundle.seed, site, layer), keys);
        Exchange::new(program, party, input)
    }

    /// Goes on with the exchange of the site whose flight this is.
    pub(super) fn exchanged(
        &mut self,
        model: &UserModel,
        caches: &[LayerCache],
        layer: usize,
        flight: &Flight,
    ) -> Result<Exchanged> {
        let (shape, step) = (&model.shape, self.step);
        let out_of_turn = || Error::OutOfTurn { have: flight.kind.name(), need: "a flight of an exchange" };
        let site = flight.kind.site().ok_or_else(out_of_turn)?;
        let (mut exchange, turn) = match self.exchange.take() {
            Some(exchange) => exchange,
            // The scores begin theirs when they are sent.
            None if site == Site::Softmax => return Err(out_of_turn()),
            // Its share of the input was sent ahead, and only the masks of it are needed now.
            None => (self.begin_exchange(model, (site, layer), vec![0; step.site_input(shape, site)]), 0),
        };
        let seed = &self.bundle.seed;
        let mut mix = |opened: &Wire| mixed(model, &caches[layer], seed, layer, &step, opened);
        let draw = if site == Site::Softmax { Draw::O_INPUT } else { Draw::output(site) };
        let hidden = |len| seed.words(draw, layer, len);
        Ok(match exchange.turn((&flight.words, &flight.entries), hidden, &mut mix)? {
            Turn::Send(contents) => {
                self.exchange = Some((exchange, turn + 2));
                Exchanged::Send(Flight::contents(site, layer, turn + 1, &step, contents))
            }
            Turn::Last(contents) => {
                self.due = Due::Peer(after(site, layer, shape.layers), layer_after(site, layer, shape.layers));
                Exchanged::Last(Flight::contents(site, layer, turn + 1, &step, contents))
            }
            Turn::Revealed(places) => Exchanged::Revealed(places),
        })
    }
}

/// The flight that follows a site.
fn after(site: Site, layer: usize, layers: usize) -> FlightKind {
    match site {
        Site::AttentionNorm => FlightKind::Rotated,
        Site::Softmax => FlightKind::MlpNorm,
        Site::MlpNorm => FlightKind::Gate,
        Site::Activation if layer + 1 < layers => FlightKind::AttentionNorm,
        Site::Activation => FlightKind::FinalNorm,
        Site::FinalNorm | Site::Logits => FlightKind::Logits,
    }
}

/// Its layer.
fn layer_after(site: Site, layer: usize, layers: usize) -> usize {
    match site {
        Site::Activation if layer + 1 < layers => layer + 1,
        Site::Activation => 0,
        _ => layer,
    }
}

/// The user's share of opened probabilities times values: E B1 + A1 F and a share of A B, where A is the mask turned around.
fn mixed(
    model: &UserModel,
    cache: &LayerCache,
    seed: &crate::Seed,
    layer: usize,
    step: &crate::Step,
    opened: &Wire,
) -> Vec<u64> {
    let (shape, kernels) = (&model.shape, &*model.kernels);
    let mask = Zeroizing::new(opened.mask.iter().map(|mask| mask.wrapping_neg()).collect::<Vec<u64>>());
    let mut mixed = seed.words(Draw::MIX_PRODUCT, layer, step.tokens * shape.query());
    add_mixed(kernels, (shape, step), &mut mixed, &opened.open, &cache.value_masks);
    add_mixed(kernels, (shape, step), &mut mixed, &mask, &cache.values);
    std::mem::take(&mut *mixed)
}
