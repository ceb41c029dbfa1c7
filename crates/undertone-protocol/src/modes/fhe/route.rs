//! Through slots or in turns: which of several parameter sets serves a session with the least work.
//!
//! The set decides how layers run, because a chain either has a product prime or not. Work is counted in transforms of a
//! limb, as the time estimate counts it, so the choice is the same on every machine.

use crate::Error;
use crate::message::WireShape;
use undertone_he::{CostEvaluator, Parameters, bootstrap_model, work};
use undertone_infer::{Calibration, Plan};
use undertone_model::LlamaConfig;

/// How the layers of a prompt run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Every projection is a linear transform of slots.
    Slots,
    /// Every projection of all layers but the last is a product on coefficients, between the halves of a bootstrap.
    Turns,
}

impl Route {
    /// The route of sessions under these parameters.
    pub fn of(parameters: &Parameters) -> Self {
        if parameters.chain().product_prime.is_some() { Self::Turns } else { Self::Slots }
    }

    /// Its name in outputs and flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Slots => "slots",
            Self::Turns => "turns",
        }
    }
}

/// A parameter set, and what a session costs under it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The set.
    pub parameters: Parameters,
    /// Counts per step and levels.
    pub costs: Plan,
    /// All steps, in forward transforms of a limb.
    pub work: f64,
}

impl Candidate {
    /// Plans a session, with assumed ranges where there is no calibration.
    ///
    /// # Errors
    /// As `Plan::new`.
    pub fn new(
        parameters: &Parameters,
        config: &LlamaConfig,
        calibration: Option<&Calibration>,
        shape: WireShape,
    ) -> Result<Self, Error> {
        let evaluator = CostEvaluator::new(parameters.chain()).with_bootstrap_model(bootstrap_model(parameters));
        let costs = Plan::new(config, calibration, shape.into(), &evaluator)?;
        let work = costs.steps.iter().map(|step| work(parameters, &step.counts)).sum();
        Ok(Self { parameters: parameters.clone(), costs, work })
    }

    /// How the layers run.
    pub fn route(&self) -> Route {
        Route::of(&self.parameters)
    }
}

/// What a session takes, and what else there was.
#[derive(Debug)]
pub struct Choice {
    /// The set to use.
    pub taken: Candidate,
    /// The other sets, in the order of the offer, or why a session cannot run under them; none when the route was given.
    pub others: Vec<(Route, Result<Candidate, Error>)>,
}

/// Takes the set under which a session of `shape` is least work; of equal ones the first. With `only`, the first set of
/// that route.
///
/// # Errors
/// The reason of the first set when a session can run under none; `Cap` for lengths that no session may have; `Route` when
/// no set is of the route that was asked for.
pub fn choose(
    sets: &[Parameters],
    config: &LlamaConfig,
    calibration: Option<&Calibration>,
    shape: WireShape,
    only: Option<Route>,
) -> Result<Choice, Error> {
    shape.check()?;
    let candidate = |parameters| Candidate::new(parameters, config, calibration, shape);
    if let Some(route) = only {
        let set = sets.iter().find(|set| Route::of(set) == route).ok_or(Error::Route { route: route.name() })?;
        return Ok(Choice { taken: candidate(set)?, others: Vec::new() });
    }
    let mut candidates: Vec<_> = sets.iter().map(|set| (Route::of(set), candidate(set))).collect();
    let least = candidates
        .iter()
        .enumerate()
        .filter_map(|(index, (_, candidate))| Some((index, candidate.as_ref().ok()?.work)))
        .min_by(|a, b| a.1.total_cmp(&b.1));
    if candidates.is_empty() {
        return Err(Error::Route { route: "any" });
    }
    // Without a candidate the first error is the one to tell.
    let (_, taken) = candidates.remove(least.map_or(0, |(index, _)| index));
    Ok(Choice { taken: taken?, others: candidates })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use undertone_model::{RopeKind, RopeScaling};

    const SHAPE: WireShape = WireShape { public_tokens: 3967, private_tokens: 128, max_new_tokens: 2 };

    /// The shape of Llama-2-7B with so many layers.
    pub(in super::super) fn llama_2_7b(layers: usize) -> LlamaConfig {
        LlamaConfig {
            hidden_size: 4096,
            intermediate_size: 11_008,
            num_hidden_layers: layers,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            head_dim: 128,
            vocab_size: 32_000,
            max_position_embeddings: 4096,
            rms_norm_eps: 1e-5,
            rope: RopeScaling { theta: 10_000.0, kind: RopeKind::Default },
            tie_word_embeddings: false,
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
        }
    }

    #[test]
    fn turns_are_taken_where_they_are_less_work_whatever_the_order_of_the_offer() {
        let (mut sets, config) = (Parameters::presets(), llama_2_7b(2));
        for _ in 0..2 {
            let choice = choose(&sets, &config, None, SHAPE, None).unwrap();
            assert_eq!(choice.taken.route(), Route::Turns);
            let [(Route::Slots, Ok(other))] = &choice.others[..] else { panic!("{:?}", choice.others.len()) };
            assert!(choice.taken.work < other.work, "{} and {}", choice.taken.work, other.work);
            sets.reverse();
        }
        let told = choose(&sets, &config, None, SHAPE, Some(Route::Slots)).unwrap();
        assert!(told.taken.route() == Route::Slots && told.others.is_empty());
    }

    #[test]
    fn a_route_that_no_set_offers_is_refused() {
        let config = llama_2_7b(2);
        let refused = |sets: &[Parameters], only| choose(sets, &config, None, SHAPE, only).err().unwrap();
        let (slots, turns) = ([Parameters::default_preset()], [Parameters::product_preset()]);
        assert!(matches!(refused(&slots, Some(Route::Turns)), Error::Route { route: "turns" }));
        assert!(matches!(refused(&turns, Some(Route::Slots)), Error::Route { route: "slots" }));
        assert!(matches!(refused(&[], None), Error::Route { route: "any" }));
        assert!(matches!(refused(&[], Some(Route::Slots)), Error::Route { route: "slots" }));
    }

    #[test]
    fn where_no_set_can_run_the_first_says_why() {
        // Heads of 96 do not fill values in turns.
        let config = LlamaConfig { head_dim: 96, ..llama_2_7b(2) };
        let sets = [Parameters::product_preset(), Parameters::product_preset()];
        let alone = Candidate::new(&sets[0], &config, None, SHAPE).err().unwrap();
        let error = choose(&sets, &config, None, SHAPE, None).err().unwrap();
        assert!(!matches!(error, Error::Route { .. }) && error.to_string() == alone.to_string(), "{error}");
    }
}
