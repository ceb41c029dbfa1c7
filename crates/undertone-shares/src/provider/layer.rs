//! One layer at the provider: what it does with each of the user's six answers.

use zeroize::Zeroizing;

use super::{Active, ProviderModel};
use crate::attention::{HeadRows, add_mixed, add_scores};
use crate::columns::{columns, halves};
use crate::error::Result;
use crate::fixed::{add_assign, add_shifted, difference, sub_assign, sum};
use crate::flight::{Flight, FlightKind};
use crate::random::Draw;
use crate::shape::{Matrix, Shape, Site, Step};
use crate::strict::Wire;
use crate::truncation::{OFFSET, opened, pack, signed, unpacked};

/// What a layer keeps between flights and between steps.
pub(super) struct LayerState {
    /// Opened keys F = K - B, and F + B0 with the provider's half of B.
    keys: HeadRows,
    shifted_keys: HeadRows,
    /// The same of values.
    values: HeadRows,
    shifted_values: HeadRows,
    /// Its part of the opened queries and keys of the step, `[n, (H + K) d]`.
    rotated: Zeroizing<Vec<u64>>,
}

impl LayerState {
    pub(super) fn new(shape: &Shape) -> Self {
        let rows = || HeadRows::new(shape);
        Self {
            keys: rows(),
            shifted_keys: rows(),
            values: rows(),
            shifted_values: rows(),
            rotated: Zeroizing::default(),
        }
    }

    /// The question that follows an answer; none at the end of the layer.
    pub(super) fn answer(
        &mut self,
        model: &ProviderModel,
        active: &mut Active,
        layer: usize,
        flight: Flight,
    ) -> Result<Option<Flight>> {
        if let Some(site) = flight.kind.site() {
            let (step, corrections) = (active.step, std::mem::take(&mut active.bundle.corrections.layers[layer].mixed));
            let mut mix = |wire: &Wire| self.strictly_mixed(model, &step, &corrections, wire);
            let next = active.exchanged(&model.shape, (site, layer), &flight, &mut mix)?;
            active.bundle.corrections.layers[layer].mixed = corrections;
            if next.is_some() {
                return Ok(next);
            }
        }
        Ok(match flight.kind {
            FlightKind::AttentionNormed => Some(self.rotated(model, active, layer, &flight)?),
            FlightKind::Scores => Some(self.scores(model, active, layer, &flight.words)?),
            FlightKind::Probabilities if active.step.strict => Some(strictly_attended(model, active, layer, &flight)?),
            FlightKind::Probabilities => Some(self.mix(model, active, layer, &flight)?),
            FlightKind::Mixed => Some(attended(model, active, layer, &flight)?),
            FlightKind::MlpNormed => Some(gated(model, active, layer, &flight)?),
            _ => {
                activated(model, active, layer, &flight)?;
                None
            }
        })
    }

    /// Its share of opened probabilities times values, as in `mix`: what is open is E, and A0 the mask turned around.
    fn strictly_mixed(&self, model: &ProviderModel, step: &Step, correction: &[u64], opened: &Wire) -> Vec<u64> {
        let (shape, kernels) = (&model.shape, &*model.kernels);
        let mask = Zeroizing::new(opened.mask.iter().map(|mask| mask.wrapping_neg()).collect::<Vec<u64>>());
        let mut mixed = correction.to_vec();
        add_mixed(kernels, (shape, step), &mut mixed, &opened.open, &self.shifted_values);
        add_mixed(kernels, (shape, step), &mut mixed, &mask, &self.values);
        mixed
    }

    /// Queries, keys and values; opens queries and keys truncated, values as they are.
    fn rotated(&mut self, model: &ProviderModel, active: &mut Active, layer: usize, flight: &Flight) -> Result<Flight> {
        let (shape, step) = (&model.shape, active.step);
        let normed = active.returned(model, (Site::AttentionNorm, layer), flight)?;
        let qkv = model.product(Matrix::Qkv(layer), &normed, &active.bundle.corrections.layers[layer].qkv);
        let width = shape.rotated() + shape.key();
        let mut rotated = columns(&qkv, width, 0..shape.rotated());
        model.rotary.rotate(&mut rotated, shape.rotated(), &active.positions);
        active.add_prepared(&mut rotated);
        active.bundle.seed.add_to(Draw::ROTATED_OPENING, layer, &mut rotated);

        let correction = &active.bundle.corrections.layers[layer].rotated;
        let drops = model.model.public().rotated_drop(layer);
        let mut tops = Vec::with_capacity(rotated.len());
        for (i, word) in rotated.iter_mut().enumerate() {
            let drop = drops[usize::from(i % shape.rotated() >= shape.query())];
            let (public, top) = opened(word.wrapping_add(OFFSET), drop);
            *word = public.wrapping_add(signed(top, correction.top[i])).wrapping_sub(correction.pair[i]);
            tops.push(top);
        }

        let mut values = columns(&qkv, width, shape.rotated()..width);
        active.add_prepared(&mut values);
        let mask = active.bundle.seed.words(Draw::VALUE_MASK, layer, values.len());
        self.shifted_values.push(shape, &values);
        sub_assign(&mut values, &mask);
        self.values.push(shape, &values);

        let words = [&rotated[..], &values].concat();
        self.rotated = Zeroizing::new(rotated);
        active.due = (FlightKind::Scores, layer);
        Ok(Flight { bits: pack(&tops), ..Flight::words(FlightKind::Rotated, layer, &step, words) })
    }

    /// Scores: E (F + B0) + A0 F + its share of A B.
    fn scores(&mut self, model: &ProviderModel, active: &mut Active, layer: usize, words: &[u64]) -> Result<Flight> {
        let (shape, step, kernels) = (&model.shape, active.step, &*model.kernels);
        let (theirs, share) = words.split_at(step.tokens * shape.rotated());
        let open = sum(&std::mem::take(&mut *self.rotated), theirs);
        let mask = active.bundle.seed.words(Draw::ROTATED_MASK, layer, open.len());
        let queries = |values: &[u64]| columns(values, shape.rotated(), 0..shape.query());
        let keys = |values: &[u64]| columns(values, shape.rotated(), shape.query()..shape.rotated());
        self.keys.push(shape, &keys(&open));
        self.shifted_keys.push(shape, &keys(&sum(&open, &mask)));

        let mut scores = active.bundle.corrections.layers[layer].scores.clone();
        add_scores(kernels, (shape, &step), &mut scores, &queries(&open), &self.shifted_keys);
        add_scores(kernels, (shape, &step), &mut scores, &queries(&mask), &self.keys);
        if step.strict {
            return active.begin_exchange(model, (Site::Softmax, layer), (scores, share), &mut |_| Vec::new());
        }
        add_assign(&mut scores, share);
        active.rows.hide(shape, &step, &mut scores);
        active.open(model, (Site::Softmax, layer), scores, FlightKind::Softmax, FlightKind::Probabilities)
    }

    /// Mixed values: E' (F' + B0') + A0' F' + its share of A' B', where opening E' takes nothing from the user,
    /// whose share of the probabilities is its half of the mask.
    fn mix(&mut self, model: &ProviderModel, active: &mut Active, layer: usize, flight: &Flight) -> Result<Flight> {
        let (shape, step, kernels) = (&model.shape, active.step, &*model.kernels);
        let share = active.returned(model, (Site::Softmax, layer), flight)?;
        let mask = active.bundle.seed.words(Draw::PROBABILITY_MASK, layer, share.len());
        let open = difference(&share, &mask);
        let mut mixed = active.bundle.corrections.layers[layer].mixed.clone();
        add_mixed(kernels, (shape, &step), &mut mixed, &open, &self.shifted_values);
        add_mixed(kernels, (shape, &step), &mut mixed, &mask, &self.values);
        active.bundle.seed.add_to(Draw::MIX_OPENING, layer, &mut mixed);
        active.due = (FlightKind::Mixed, layer);
        Ok(Flight::words(FlightKind::Mix, layer, &step, [open, mixed].concat()))
    }
}

/// The output projection, and the question of the second norm.
fn attended(model: &ProviderModel, active: &mut Active, layer: usize, flight: &Flight) -> Result<Flight> {
    let correction = &active.bundle.corrections.layers[layer];
    let input: Vec<u64> = (0..flight.words.len())
        .map(|i| {
            let top = signed(unpacked(&flight.bits, i), correction.mix.top[i]);
            flight.words[i].wrapping_add(top).wrapping_sub(correction.mix.pair[i])
        })
        .collect();
    projected(model, active, layer, &input)
}

/// The same where the exchange of softmax has mixed the values.
fn strictly_attended(model: &ProviderModel, active: &mut Active, layer: usize, flight: &Flight) -> Result<Flight> {
    let input = active.returned(model, (Site::Softmax, layer), flight)?;
    projected(model, active, layer, &input)
}

fn projected(model: &ProviderModel, active: &mut Active, layer: usize, input: &[u64]) -> Result<Flight> {
    let out = model.product(Matrix::O(layer), input, &active.bundle.corrections.layers[layer].o);
    add_shifted(&mut active.stream, &out, model.model.public().shift(Matrix::O(layer)));
    let share = active.stream.to_vec();
    active.open(model, (Site::MlpNorm, layer), share, FlightKind::MlpNorm, FlightKind::MlpNormed)
}

/// Gate and up, and the question of the activation.
fn gated(model: &ProviderModel, active: &mut Active, layer: usize, flight: &Flight) -> Result<Flight> {
    let normed = active.returned(model, (Site::MlpNorm, layer), flight)?;
    let both = model.product(Matrix::GateUp(layer), &normed, &active.bundle.corrections.layers[layer].gate_up);
    let share = halves(&both, 2 * model.shape.intermediate);
    active.open(model, (Site::Activation, layer), share, FlightKind::Gate, FlightKind::Activated)
}

/// Down, which ends the layer.
fn activated(model: &ProviderModel, active: &mut Active, layer: usize, flight: &Flight) -> Result<()> {
    let input = active.returned(model, (Site::Activation, layer), flight)?;
    let out = model.product(Matrix::Down(layer), &input, &active.bundle.corrections.layers[layer].down);
    add_shifted(&mut active.stream, &out, model.model.public().shift(Matrix::Down(layer)));
    Ok(())
}
