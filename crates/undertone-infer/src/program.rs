//! The encrypted forward pass as one object: what client, server and planner share.
//!
//! A [`Program`] follows from configuration, calibration and shape alone and holds no weights. The client packs with it
//! and reads the logits; the server runs it; the planner runs it on the evaluator that only counts. All three must
//! build it from the same inputs, which the protocol ensures by fingerprints.

use crate::Error;
use crate::calibration::Calibration;
use crate::cycle::{self, CyclePlan, Halves, LayerMatrices, Pairs};
use crate::decode;
use crate::guard::Guard;
use crate::layer::{HeadPlan, LayerPlan};
use crate::packing::{Axis, Layout, Shape, check};
use crate::prefill;
use crate::preparation::Preparation;
use crate::progress::{Progress, Steps};
use crate::public_prefill::PublicCache;
use undertone_he::{Chain, Evaluator, Slots};
use undertone_model::{Llama, LlamaConfig};

/// How far the guard may exceed 1, and a logit its bound, by noise. [`crate::guard`] says which escapes show.
const GUARD_TOLERANCE: f64 = 0.05;
/// How far slots that must be zero may differ from it, in units of the logit bound.
const ZERO_TOLERANCE: f64 = 0.02;

/// Layouts, polynomials and levels of one model, calibration and shape.
#[derive(Debug, Clone)]
pub struct Program {
    pub(crate) config: LlamaConfig,
    pub(crate) chain: Chain,
    pub(crate) layout: Layout,
    pub(crate) layers: Vec<LayerPlan>,
    /// Scales of layers in turns, where the chain has a product prime.
    pub(crate) cycle: Option<CyclePlan>,
    pub(crate) head: HeadPlan,
    pub(crate) preparation: Preparation,
}

/// The encrypted key and value caches of one session.
pub struct ServerState<E: Evaluator> {
    pub(crate) layers: Vec<LayerCache<E>>,
    /// Private and generated tokens in the caches.
    pub(crate) cached: usize,
}

/// Keys and values of one layer, per block of T positions the ciphertexts of one per-head tensor in the block frame.
pub(crate) struct LayerCache<E: Evaluator> {
    pub keys: Vec<Vec<E::Value>>,
    pub values: Vec<Vec<E::Value>>,
}

// Derived implementations would ask the evaluator itself to be clonable.
impl<E: Evaluator> Clone for ServerState<E> {
    fn clone(&self) -> Self {
        Self { layers: self.layers.clone(), cached: self.cached }
    }
}

impl<E: Evaluator> Clone for LayerCache<E> {
    fn clone(&self) -> Self {
        Self { keys: self.keys.clone(), values: self.values.clone() }
    }
}

/// What one step sends to the client.
pub struct StepOutput<E: Evaluator> {
    /// Logits divided by their bound: vocabulary entry v is slot v mod n of ciphertext v / n.
    pub logits: Vec<E::Value>,
    /// The guard: the mean of squares that are at most 1 inside the calibrated ranges, in every slot, at level 1. A
    /// single escape by a factor of 1.2 (1.6) at a bootstrap shows among 25 (1000) contributions.
    pub guard: E::Value,
}

/// Everything that the stages of one step need.
pub(crate) struct Pass<'a, E: Evaluator> {
    pub ev: &'a E,
    pub program: &'a Program,
    /// Absent when only costs are counted.
    pub model: Option<&'a Llama>,
    /// Absent when only costs are counted.
    pub public: Option<&'a PublicCache>,
    pub guard: Guard<E>,
    pub steps: Steps<'a>,
}

impl<'a, E: Evaluator> Pass<'a, E> {
    pub(crate) fn new(
        ev: &'a E,
        program: &'a Program,
        source: Option<(&'a Llama, &'a PublicCache)>,
        progress: &'a dyn Progress,
    ) -> Result<Self, Error> {
        if let Some((_, public)) = source {
            let tokens = program.layout.shape.public_tokens;
            check("the number of cached public tokens", public.len(), tokens, tokens)?;
        }
        let pass = Self::for_weights(ev, program, source.map(|s| s.0))?;
        Ok(Self { public: source.map(|s| s.1), steps: Steps::new(progress, program.layers.len()), ..pass })
    }

    /// Without a prompt: what weights become. Nobody hears of its progress.
    fn for_weights(ev: &'a E, program: &'a Program, model: Option<&'a Llama>) -> Result<Self, Error> {
        if let Some(model) = model {
            check("the number of layers", model.layers.len(), program.layers.len(), program.layers.len())?;
        }
        let chain = ev.chain();
        check("the number of slots", chain.slot_count(), program.layout.slot_count, program.layout.slot_count)?;
        check("the top level", chain.top_level, program.chain.top_level, program.chain.top_level)?;
        check("the bootstrapping level", chain.boot_level, program.chain.boot_level, program.chain.boot_level)?;
        Ok(Self {
            ev,
            program,
            model,
            public: None,
            guard: Guard::default(),
            steps: Steps::new(&(), program.layers.len()),
        })
    }
}

impl Program {
    /// Fits all polynomials and lays out all tensors.
    ///
    /// # Errors
    /// A calibration of another model, unusable ranges, shapes that do not fit, circuits deeper than the chain.
    pub fn new(config: &LlamaConfig, calibration: &Calibration, shape: Shape, chain: Chain) -> Result<Self, Error> {
        config.validate()?;
        let layers = config.num_hidden_layers;
        for (what, have, need) in [
            ("layers", calibration.layers.len(), layers),
            ("residual bounds", calibration.residual_bound.len(), 2 * layers + 1),
        ] {
            if have != need {
                return Err(Error::Calibration { what, have, need });
            }
        }
        let preparation = calibration.preparation.clone();
        preparation.check_shape(config)?;
        check("the number of public tokens", shape.public_tokens, preparation.prefix.len(), usize::MAX)?;
        let layout = Layout::new(config, shape, chain.slot_count())?;
        let plans = (0..layers)
            .map(|layer| LayerPlan::new(config, calibration, &layout, chain, layer))
            .collect::<Result<Vec<_>, _>>()?;
        let head = HeadPlan::new(config, calibration, chain)?;
        let cycle =
            chain.product_prime.map(|_| CyclePlan::new(config, calibration, &layout, &plans, chain)).transpose()?;
        Ok(Self { config: config.clone(), chain, layout, layers: plans, cycle, head, preparation })
    }

    /// Packs rows of the residual stream, `[private_tokens, D]`, for [`Program::layer_in_turns`].
    ///
    /// # Errors
    /// `Shape` for any other shape, and for a chain without a product prime.
    pub fn pack_halves(&self, rows: &[Vec<f32>]) -> Result<Vec<[Slots; 2]>, Error> {
        Halves::new(&self.layout).pack(rows, self.layout.hidden, 1.0 / self.cycle()?.unit)
    }

    /// Pairs of [`Program::pack_halves`].
    pub fn halves_count(&self) -> usize {
        Halves::new(&self.layout).pairs(self.layout.hidden)
    }

    /// Row `token` of the residual stream, `[D]`, from the decrypted slots of [`Program::layer_in_turns`].
    ///
    /// # Errors
    /// `Shape` for missing slots, and for a chain without a product prime.
    pub fn unpack_halves(&self, slots: &[[Vec<f64>; 2]], token: usize) -> Result<Vec<f64>, Error> {
        let unit = self.cycle()?.unit;
        let row = Halves::new(&self.layout).unpack(slots, self.layout.hidden, token)?;
        Ok(row.into_iter().map(|x| x * unit).collect())
    }

    pub(crate) fn cycle(&self) -> Result<&CyclePlan, Error> {
        let need = || "a chain with a product prime".to_owned();
        self.cycle.as_ref().ok_or_else(|| Error::Shape { what: "layers in turns", have: 0, need: need() })
    }

    /// The matrices of layer `layer` for [`Program::layer_in_turns`]; without a model, those of one whose weights are zero,
    /// to count with.
    ///
    /// # Errors
    /// `Shape` for a chain without a product prime, another model and a layer that is not there; `Range` for weights too
    /// large for their bounds.
    pub fn layer_matrices<E: Evaluator>(
        &self,
        ev: &E,
        model: Option<&Llama>,
        layer: usize,
    ) -> Result<LayerMatrices<E>, Error> {
        Pass::for_weights(ev, self, model)?.matrices(layer)
    }

    /// All private tokens through one layer in turns: the residual stream that [`Program::pack_halves`] packed,
    /// encrypted at the top level, becomes the next, and comes with the guard.
    ///
    /// # Errors
    /// As [`Program::prefill`]; `Shape` for a chain without a product prime.
    pub fn layer_in_turns<E: Evaluator>(
        &self,
        ev: &E,
        source: Option<(&Llama, &PublicCache)>,
        matrices: &LayerMatrices<E>,
        input: Pairs<E>,
        progress: &dyn Progress,
    ) -> Result<(Pairs<E>, E::Value), Error> {
        self.cycle()?;
        check("the number of input pairs", input.len(), self.halves_count(), self.halves_count())?;
        let mut pass = Pass::new(ev, self, source, progress)?;
        let (output, _) = pass.turns(matrices, input)?;
        Ok((output, pass.guard.finish(ev)?))
    }

    /// The layouts.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Runs the public tokens through the prepared `model` in the clear.
    ///
    /// # Errors
    /// `PrefixMissing` when they do not start with the prefix of the calibration; as [`PublicCache::new`].
    pub fn public_cache(&self, model: &Llama, public_ids: &[u32]) -> Result<PublicCache, Error> {
        self.preparation.check_public(public_ids)?;
        PublicCache::new(model, public_ids)
    }

    /// Level at which the client encrypts its input: turns keep the residual stream at the top.
    pub fn input_level(&self) -> usize {
        if self.cycle.is_some() { self.chain.top_level } else { self.layers[0].attention_start + 1 }
    }

    /// The slots of a packed prompt: ciphertexts, and the period with which they repeat.
    pub fn prompt_axis(&self) -> Axis {
        match self.cycle {
            Some(_) => Axis { stride: 1, count: 2 * self.halves_count(), len: self.layout.slot_count },
            None => self.layout.block_axis(self.layout.hidden),
        }
    }

    /// The slots of a packed token: one ciphertext, and the period with which it repeats.
    pub fn token_axis(&self) -> Axis {
        self.layout.dense_axis(self.layout.hidden)
    }

    /// Ciphertexts of a packed prompt.
    pub fn input_count(&self) -> usize {
        self.prompt_axis().count
    }

    /// Slots after which a packed prompt repeats.
    pub fn input_period(&self) -> usize {
        self.prompt_axis().period()
    }

    /// Ciphertexts of logits that a step returns.
    pub fn logit_count(&self) -> usize {
        self.logit_axis().count
    }

    /// Packs the embedded private tokens, `[private_tokens, D]`, for [`Program::prefill`].
    ///
    /// # Errors
    /// `Shape` for any other shape.
    pub fn pack_prompt(&self, embeddings: &[Vec<f32>]) -> Result<Vec<Slots>, Error> {
        match self.cycle {
            Some(_) => Ok(self.pack_halves(embeddings)?.into_iter().flatten().collect()),
            None => self.layout.pack_block(embeddings, 1.0 / self.layers[0].residual[0]),
        }
    }

    /// Packs one embedded token, `[D]`, for [`Program::decode`].
    ///
    /// # Errors
    /// `Shape` for any other shape.
    pub fn pack_token(&self, embedding: &[f32]) -> Result<Vec<Slots>, Error> {
        Ok(vec![self.layout.pack_dense(embedding, 1.0 / self.layers[0].residual[0])?])
    }

    /// Runs the private tokens of the prompt and returns the logits of the last one.
    ///
    /// `input` is what [`Program::pack_prompt`] packed, encrypted at [`Program::input_level`].
    ///
    /// # Errors
    /// Inputs of the wrong number or level, another model, a cancelled run, missing keys.
    pub fn prefill<E: Evaluator>(
        &self,
        ev: &E,
        model: &Llama,
        public: &PublicCache,
        input: Vec<E::Value>,
        progress: &dyn Progress,
    ) -> Result<(StepOutput<E>, ServerState<E>), Error> {
        self.prefill_pass(Pass::new(ev, self, Some((model, public)), progress)?, input)
    }

    /// The prefill, in turns where the chain has products and through slots alone elsewhere.
    pub(crate) fn prefill_pass<E: Evaluator>(
        &self,
        pass: Pass<'_, E>,
        input: Vec<E::Value>,
    ) -> Result<(StepOutput<E>, ServerState<E>), Error> {
        check("the number of input ciphertexts", input.len(), self.input_count(), self.input_count())?;
        if self.cycle.is_some() { cycle::prefill(pass, input) } else { prefill::prefill(pass, input) }
    }

    /// Runs one generated token, whose embedding [`Program::pack_token`] packed, and returns the next logits.
    ///
    /// # Errors
    /// As [`Program::prefill`], and `SequenceFull` after the planned number of tokens.
    pub fn decode<E: Evaluator>(
        &self,
        ev: &E,
        model: &Llama,
        public: &PublicCache,
        state: &mut ServerState<E>,
        input: Vec<E::Value>,
        progress: &dyn Progress,
    ) -> Result<StepOutput<E>, Error> {
        decode::decode(Pass::new(ev, self, Some((model, public)), progress)?, state, input)
    }

    /// Logits `[V]` from the decrypted slots of a step, after checking that nothing left its calibrated range
    /// as far as the guard, the logits and the unused slots can tell.
    ///
    /// # Errors
    /// `OutOfCalibratedRange` when the guard, a logit or a slot that must be zero says so; `Shape` for missing slots.
    pub fn read_logits(&self, logit_slots: &[Vec<f64>], guard: &[f64]) -> Result<Vec<f32>, Error> {
        let axis = self.logit_axis();
        check("the number of logit ciphertexts", logit_slots.len(), axis.count, axis.count)?;
        check("the number of guard slots", guard.len(), 1, self.layout.slot_count)?;
        within("guard", largest(guard), 1.0 + GUARD_TOLERANCE)?;
        let mut logits = Vec::with_capacity(self.layout.vocab);
        for (count, slots) in logit_slots.iter().enumerate() {
            check("the number of logit slots", slots.len(), axis.len, self.layout.slot_count)?;
            within("logits relative to their bound", largest(slots), 1.0 + GUARD_TOLERANCE)?;
            let live = (self.layout.vocab - count * axis.len).min(axis.len);
            for period in slots.chunks(axis.len) {
                within("slots that hold no logit", largest(&period[live.min(period.len())..]), ZERO_TOLERANCE)?;
            }
            logits.extend(slots[..live].iter().map(|&x| (x * self.head.logit_bound) as f32));
        }
        Ok(logits)
    }

    /// Vocabulary entries over the slots.
    pub(crate) fn logit_axis(&self) -> Axis {
        let len = self.layout.vocab.next_power_of_two().min(self.layout.slot_count);
        Axis { stride: 1, count: self.layout.vocab.div_ceil(len), len }
    }
}

/// The largest magnitude; anything that is not a number counts as infinite.
fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |m: f64, v| if v.is_nan() { f64::INFINITY } else { m.max(v.abs()) })
}

fn within(what: &'static str, have: f64, need: f64) -> Result<(), Error> {
    if have <= need { Ok(()) } else { Err(Error::OutOfCalibratedRange { what, have, need }) }
}
