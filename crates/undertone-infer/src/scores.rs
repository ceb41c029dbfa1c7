//! Attention scores against public keys (plaintext) and private keys (encrypted), as the input u of the exponential.
//!
//! u = 1 + (score − shift) / (2^rounds half_span) lies in [−1, 1] for every key that the query sees and is [`HIDDEN`]
//! in every other slot; the exponential there is a known constant, which is subtracted.
//!
//! Inside a block private scores are in relative form: S[t, r] = q[t]·k[t − r], many values of r at once as
//! [`crate::lanes`] describes. For one token, slot t of a block meets the key cached at t. Scores are laid out as
//! [`Layout::score_at`] says inside a block, and as t + T·(h + H_p·block) for one token.

use crate::Error;
use crate::lanes::{Shear, bundle_mask, bundle_place, for_each_bundle, sheared, spread};
use crate::layer::SoftmaxPlan;
use crate::matmul::{AxisProduct, masked_sum};
use crate::packing::{Axis, Key, Layout};
use crate::program::Pass;
use crate::public_prefill::PublicCache;
use undertone_he::{Evaluator, Slots};

/// u where there is no key: near the end where the exponential vanishes, but inside by more than the noise.
const HIDDEN: f64 = -0.98;
/// Scores that become weights at the same time.
const SCORES: usize = 4;

impl<E: Evaluator> Pass<'_, E> {
    /// The first weights of all queries of the block, exp(half_span (u − 1)), per score ciphertext.
    ///
    /// Each score becomes a weight as soon as it is known: with thousands of public keys the scores, which are at a
    /// higher level, would not all fit into memory.
    ///
    /// # Levels
    /// The exponential's depth and two below `queries` and `keys`, one more with several lanes and one more with several
    /// parts.
    pub(crate) fn block_weights(
        &mut self,
        layer: usize,
        queries: Vec<E::Value>,
        keys: Vec<E::Value>,
    ) -> Result<Vec<E::Value>, Error> {
        let (ev, program) = (self.ev, self.program);
        let (layout, plan) = (&program.layout, &program.layers[layer].softmax);
        let queries = spread(ev, layout, queries)?;
        let mut private: Vec<Option<E::Value>> = vec![None; layout.score_count()];
        let keys = sheared(ev, layout, plan.parts, keys, Shear::Keys)?;
        self.private_block_scores(plan, &queries, keys, &mut private)?;
        let mut weights = Vec::with_capacity(private.len());
        let mut scored = Vec::with_capacity(SCORES);
        let mut next = private.into_iter().enumerate();
        let (input, output) = (layout.lane_coordinate_axis(), public_score_axis(layout));
        let entry = public_keys(layout, self.public, layer, plan.query_scale);
        let product = AxisProduct::new(layout.slot_count, input, output, &entry).in_runs(layout.block);
        let mut weigh = |scored: &mut Vec<Scored<E>>, weights: &mut Vec<E::Value>| {
            weights.extend(self.weigh(plan, scored)?);
            scored.clear();
            self.steps.poll()
        };
        product.apply_each::<E, Error>(ev, &queries, &mut |public| {
            let Some((count, private)) = next.next() else { return Ok(()) };
            let score = match private {
                Some(private) => ev.add(&public, &private)?,
                None => public,
            };
            scored.push(block_scored(ev, layout, plan, count, &score)?);
            if scored.len() == SCORES { weigh(&mut scored, &mut weights) } else { Ok(()) }
        })?;
        for (count, private) in next {
            let score = private.ok_or(undertone_he::Error::Arity { op: "block_scores", have: 0, need: 1 })?;
            scored.push(block_scored(ev, layout, plan, count, &score)?);
        }
        weigh(&mut scored, &mut weights)?;
        Ok(weights)
    }

    fn private_block_scores(
        &self,
        plan: &SoftmaxPlan,
        queries: &[E::Value],
        keys: Vec<Vec<E::Value>>,
        scores: &mut [Option<E::Value>],
    ) -> Result<(), Error> {
        let (ev, layout) = (self.ev, &self.program.layout);
        let parts = plan.parts;
        let stride = layout.lane_stride() as i32;
        let by: Vec<i32> = (0..parts as i32).map(|m| m * stride).collect();
        let queries = queries.iter().map(|q| ev.rotate_many(q, &by)).collect::<Result<Vec<_>, _>>()?;
        let bundles = layout.private_groups() / parts;
        let mut waiting: Vec<E::Value> = Vec::new();
        let mut first = 0;
        for_each_bundle(ev, layout, parts, keys, |bundle, keys| {
            self.steps.poll()?;
            let pairs: Vec<_> = (0..parts)
                .flat_map(|m| queries.iter().zip(&keys[m]).map(move |(query, key)| (&query[m], key)))
                .collect();
            let products = ev.multiply_sum(&pairs)?;
            // Cyclic, so every coordinate of a part receives the whole inner product of its group.
            waiting.push(ev.rotate_sum(&products, stride * parts as i32, layout.head_len / parts)?);
            let (count, _) = bundle_place(layout, parts, bundle);
            if bundle + 1 < bundles && bundle_place(layout, parts, bundle + 1).0 == count {
                return Ok(());
            }
            let packed = masked_sum(ev, &waiting, &|i| bundle_mask(layout, parts, first + i, plan.product_scale))?;
            waiting.clear();
            first = bundle + 1;
            scores[count] = Some(match scores[count].take() {
                Some(public) => ev.add(&public, &packed)?,
                None => packed,
            });
            Ok(())
        })
    }

    /// u for one query against all cached keys: the ciphertexts of public scores, then one per cached block.
    ///
    /// `query` is in the block frame, the same in every row; `cached` private tokens are in `keys`.
    ///
    /// # Levels
    /// One below `query` and `keys`.
    pub(crate) fn token_scores(
        &self,
        layer: usize,
        query: &[E::Value],
        keys: &[Vec<E::Value>],
        cached: usize,
    ) -> Result<TokenScores<E>, Error> {
        let (ev, layout) = (self.ev, &self.program.layout);
        let plan = &self.program.layers[layer].softmax;
        let output = layout.public_block_axis();
        let tokens = layout.shape.public_tokens;
        let place = |low: usize, count: usize, p: usize| {
            let position = low % layout.block + layout.block * (count * output.len + p);
            let head = low / layout.block;
            (position < tokens && head < layout.heads).then_some((position, head))
        };
        // Cached keys are divided by their bound and public ones are not, which `product_scale` in the query undoes.
        let key_bound = self.program.layers[layer].key_bound;
        let entry = |low: usize, (count, p): (usize, usize), (i, b): (usize, usize)| match (
            place(low, count, p),
            self.public,
        ) {
            (Some((position, head)), Some(cache)) => {
                cache.key(layer, position, head, i * layout.head_len + b) / key_bound
            }
            _ => 0.0,
        };
        let product = AxisProduct::new(layout.slot_count, layout.coordinate_axis(), output, &entry);
        let mut public = Vec::with_capacity(output.count);
        for (count, score) in product.apply(ev, query)?.into_iter().enumerate() {
            let heads = (0..output.period())
                .map(|slot| place(slot % output.stride, count, slot / output.stride).map(|(_, head)| head));
            public.push(scored(ev, plan, &score, heads.collect())?);
        }
        let mut private = Vec::with_capacity(keys.len());
        for (block, keys) in keys.iter().enumerate() {
            self.steps.poll()?;
            let pairs: Vec<_> = query.iter().zip(keys).collect();
            let products = ev.multiply_sum(&pairs)?;
            let score = ev.rotate_sum(&products, output.stride as i32, layout.head_len)?;
            let heads = (0..output.stride).map(|slot| {
                let (row, head) = (slot % layout.block, slot / layout.block);
                (head < layout.heads && block * layout.block + row < cached).then_some(head)
            });
            private.push(scored(ev, plan, &score, heads.collect())?);
        }
        Ok(TokenScores { public, private })
    }
}

/// Matrix entries that multiply queries in the lane frame by public keys.
fn public_keys<'a>(
    layout: &'a Layout,
    public: Option<&'a PublicCache>,
    layer: usize,
    scale: f64,
) -> impl Fn(usize, (usize, usize), (usize, usize)) -> f64 + Sync + 'a {
    move |low, (count, p), (i, b)| {
        let at = layout.score_at(count, low + layout.lane_stride() * p);
        match (at.key, public) {
            (Key::Public(position), Some(cache)) => {
                scale * cache.key(layer, position, at.head, i * layout.head_len + b)
            }
            _ => 0.0,
        }
    }
}

/// Adds the offset of the head where one period of `heads` names one, and marks the other slots.
fn scored<E: Evaluator>(
    ev: &E,
    plan: &SoftmaxPlan,
    score: &E::Value,
    heads: Vec<Option<usize>>,
) -> Result<Scored<E>, Error> {
    let slot_count = ev.chain().slot_count();
    let offsets = heads.iter().map(|head| head.map_or(HIDDEN, |head| plan.offsets[head])).collect();
    let hidden = -plan.exponential.eval_unit(HIDDEN);
    let correction = heads.iter().map(|head| if head.is_some() { 0.0 } else { hidden }).collect();
    Ok(Scored {
        u: ev.add_slots(score, &Slots::new(offsets, slot_count)?)?,
        correction: Slots::new(correction, slot_count)?,
    })
}

/// [`scored`] for score ciphertext `count` of a block.
fn block_scored<E: Evaluator>(
    ev: &E,
    layout: &Layout,
    plan: &SoftmaxPlan,
    count: usize,
    score: &E::Value,
) -> Result<Scored<E>, Error> {
    scored(ev, plan, score, layout.visible_heads(count))
}

/// The scores of one ciphertext.
pub(crate) struct Scored<E: Evaluator> {
    /// The input of the exponential.
    pub u: E::Value,
    /// What brings the exponential to zero where there is no key; zero elsewhere.
    pub correction: Slots,
}

/// The scores of one query.
pub(crate) struct TokenScores<E: Evaluator> {
    /// Per ciphertext of public positions.
    pub public: Vec<Scored<E>>,
    /// Per cached block.
    pub private: Vec<Scored<E>>,
}

/// The position axis of the score ciphertexts that hold public positions, in the lane frame.
pub(crate) fn public_score_axis(layout: &Layout) -> Axis {
    let len = layout.lane_positions();
    Axis { stride: layout.lane_stride(), count: layout.public_groups.div_ceil(len), len }
}
