//! The map between tensors and slots: every layout of the encrypted pipe, as index arithmetic in the clear.
//!
//! Three frames occur. In the *block* frame slot = t + T·c holds channel c of private token t, tokens fastest. In the
//! *dense* frame slot = c holds one token; the vector repeats over all slots. In the *lane* frame, used for attention
//! inside a block, the channel axis is h + H_p·(ρ + R·j): R lanes per head work on interleaved positions at once.
//!
//! T is a power of two, so are all padded lengths; padding channels are zero. A tensor whose padded axis is longer than
//! the ciphertext is split over several ciphertexts along its slowest index. All functions here are total on the
//! index ranges that they document.

use crate::Error;
use undertone_he::Slots;
use undertone_model::LlamaConfig;

/// Shortest block: below it the channel axis would hold more replicas than any circuit uses.
const SHORTEST_BLOCK: usize = 16;
/// Longest block.
const LONGEST_BLOCK: usize = 128;

/// How many tokens a session handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Leading tokens that the server reads; at least the one that starts the sequence.
    pub public_tokens: usize,
    /// Tokens of the prompt that only the client reads, 1 to 128.
    pub private_tokens: usize,
    /// Most tokens that the session generates; the prefill yields the first.
    pub max_new_tokens: usize,
}

/// How a tensor lies along one axis of the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axis {
    /// Slots per unit of the axis.
    pub stride: usize,
    /// Ciphertexts.
    pub count: usize,
    /// Axis units per ciphertext, a power of two; values repeat with `stride · len` slots.
    pub len: usize,
}

impl Axis {
    /// Slots after which a ciphertext repeats.
    pub fn period(&self) -> usize {
        self.stride * self.len
    }

    /// The ciphertexts of `parts` tensors on this axis, one after the other.
    pub(crate) fn times(self, parts: usize) -> Self {
        Self { count: parts * self.count, ..self }
    }
}

/// All dimensions of the layouts of one model and shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Slots n of a ciphertext.
    pub slot_count: usize,
    /// Block length T.
    pub block: usize,
    /// The shape that the layout serves.
    pub shape: Shape,
    /// Hidden width D.
    pub hidden: usize,
    /// Intermediate width F.
    pub ffn: usize,
    /// Query heads H.
    pub heads: usize,
    /// H padded to a power of two.
    pub heads_padded: usize,
    /// Query heads per key head.
    pub heads_per_key: usize,
    /// Head width d.
    pub head_dim: usize,
    /// Vocabulary V.
    pub vocab: usize,
    /// Lanes R per head in the lane frame.
    pub lanes: usize,
    /// Ciphertexts of a per-head tensor.
    pub head_count: usize,
    /// Head coordinates per ciphertext of a per-head tensor.
    pub head_len: usize,
    /// Most private groups Q that one product of queries and keys serves: group i in the coordinates j ≡ i mod Q.
    pub parts: usize,
    /// Groups of R positions that hold the public tokens, a multiple of `parts`; the private ones follow.
    pub public_groups: usize,
}

impl Layout {
    /// Derives all layouts.
    ///
    /// # Errors
    /// `Shape` when a count is out of range or the slots cannot hold one token.
    pub fn new(config: &LlamaConfig, shape: Shape, slot_count: usize) -> Result<Self, Error> {
        check("the number of public tokens", shape.public_tokens, 1, 1 << 24)?;
        check("the number of private tokens", shape.private_tokens, 1, LONGEST_BLOCK)?;
        check("the number of new tokens", shape.max_new_tokens, 1, 1 << 20)?;
        let last = shape.public_tokens + shape.private_tokens + shape.max_new_tokens - 1;
        check("the number of positions", last, 1, config.max_position_embeddings)?;
        let block = shape.private_tokens.next_power_of_two().max(SHORTEST_BLOCK);
        let heads_padded = config.num_attention_heads.next_power_of_two();
        let dim_padded = config.head_dim.next_power_of_two();
        check("the block times the number of heads", block * heads_padded, 1, slot_count)?;
        let widest = [config.hidden_size, config.intermediate_size, heads_padded * dim_padded];
        for width in widest {
            check("the padded width of a token", width.next_power_of_two(), 1, slot_count)?;
        }
        let per_head = slot_count / (block * heads_padded);
        let head_len = dim_padded.min(per_head);
        let mut layout = Self {
            slot_count,
            block,
            shape,
            hidden: config.hidden_size,
            ffn: config.intermediate_size,
            heads: config.num_attention_heads,
            heads_padded,
            heads_per_key: config.heads_per_key(),
            head_dim: config.head_dim,
            vocab: config.vocab_size,
            lanes: (per_head / head_len).min(block),
            head_count: dim_padded / head_len,
            head_len,
            parts: 1,
            public_groups: 0,
        };
        layout.parts = layout.cheapest_parts();
        layout.public_groups = shape.public_tokens.div_ceil(layout.lanes).next_multiple_of(layout.parts);
        Ok(layout)
    }

    /// Channel slots M = n / T of a ciphertext in the block frame.
    pub fn channel_slots(&self) -> usize {
        self.slot_count / self.block
    }

    /// `width` channels in the block frame.
    pub fn block_axis(&self, width: usize) -> Axis {
        let padded = width.next_power_of_two();
        let len = padded.min(self.channel_slots());
        Axis { stride: self.block, count: padded / len, len }
    }

    /// `width` channels of one token in the dense frame.
    pub fn dense_axis(&self, width: usize) -> Axis {
        Axis { stride: 1, count: 1, len: width.next_power_of_two() }
    }

    /// A per-head tensor in the block frame, over its channels h + H_p·j.
    pub fn head_axis(&self) -> Axis {
        Axis { stride: self.block, count: self.head_count, len: self.heads_padded * self.head_len }
    }

    /// A per-head tensor of one token in the dense frame, over its channels h + H_p·j.
    pub fn dense_head_axis(&self) -> Axis {
        Axis { stride: 1, count: 1, len: self.heads_padded * self.head_len * self.head_count }
    }

    /// The head coordinate axis of a per-head tensor in the block frame.
    pub fn coordinate_axis(&self) -> Axis {
        Axis { stride: self.block * self.heads_padded, count: self.head_count, len: self.head_len }
    }

    /// The head coordinate axis of a per-head tensor in the lane frame.
    pub fn lane_coordinate_axis(&self) -> Axis {
        Axis { stride: self.lane_stride(), count: self.head_count, len: self.head_len }
    }

    /// Slots per unit of the slowest axis of the lane frame, T·H_p·R.
    pub fn lane_stride(&self) -> usize {
        self.block * self.heads_padded * self.lanes
    }

    /// Positions of one lane that a score ciphertext holds.
    pub fn lane_positions(&self) -> usize {
        self.slot_count / self.lane_stride()
    }

    /// More parts mean fewer sums over coordinates and more masks and rotations of keys; the cheapest number wins.
    fn cheapest_parts(&self) -> usize {
        let groups = self.private_groups();
        let cost = |q: usize| {
            let bundles = groups / q;
            let sums = bundles * (1 + (self.head_len / q).ilog2() as usize);
            let masks = if q > 1 { q * q } else { 0 };
            // In fifths of a rotation; a mask is about three of them.
            self.head_count * (5 * (3 * (q - 1) + q * (bundles - 1)) + 3 * masks) + 5 * sums
        };
        let most = self.head_len.min(groups);
        (0..=most.ilog2()).map(|log| 1 << log).min_by_key(|&q| cost(q)).unwrap_or(1)
    }

    /// Groups of R relative positions r = 0..T of the private block.
    pub fn private_groups(&self) -> usize {
        self.block / self.lanes
    }

    /// Score ciphertexts of a block.
    pub fn score_count(&self) -> usize {
        (self.public_groups + self.private_groups()).div_ceil(self.lane_positions())
    }

    /// What slot `slot` of score ciphertext `count` means in the lane frame.
    pub fn score_at(&self, count: usize, slot: usize) -> Score {
        let token = slot % self.block;
        let head = slot / self.block % self.heads_padded;
        let lane = slot / (self.block * self.heads_padded) % self.lanes;
        let group = count * self.lane_positions() + slot / self.lane_stride();
        let key = if group < self.public_groups {
            let position = group * self.lanes + lane;
            if position < self.shape.public_tokens { Key::Public(position) } else { Key::None }
        } else {
            let back = (group - self.public_groups) * self.lanes + lane;
            if back <= token && token - back < self.shape.private_tokens { Key::Private { back } } else { Key::None }
        };
        let key = if head < self.heads { key } else { Key::None };
        Score { token, head, key }
    }

    /// Per slot of score ciphertext `count` the head, where its query sees a key.
    pub(crate) fn visible_heads(&self, count: usize) -> Vec<Option<usize>> {
        let visible = |slot| {
            let at = self.score_at(count, slot);
            (at.key != Key::None).then_some(at.head)
        };
        let mut heads = Vec::with_capacity(self.slot_count);
        for first in (0..self.slot_count).step_by(self.block) {
            let at = self.score_at(count, first);
            match at.key {
                // All queries see the same public keys.
                Key::Public(_) => heads.extend(std::iter::repeat_n(Some(at.head), self.block)),
                Key::Private { .. } | Key::None => heads.extend((first..first + self.block).map(visible)),
            }
        }
        heads
    }

    /// The position of row `token` of the block in the sequence; padding rows repeat the last token.
    pub fn position(&self, token: usize) -> usize {
        self.shape.public_tokens + token.min(self.shape.private_tokens - 1)
    }

    /// The row of a weight matrix of `heads` query heads for channel h + H_p·j of ciphertext `count`, as (h, j).
    pub fn head_channel(&self, count: usize, channel: usize) -> Option<(usize, usize)> {
        let head = channel % self.heads_padded;
        let coordinate = count * self.head_len + channel / self.heads_padded;
        (head < self.heads && coordinate < self.head_dim).then_some((head, coordinate))
    }

    /// Positions of one ciphertext of public scores of one token, in blocks of T: the axis of those blocks.
    pub fn public_block_axis(&self) -> Axis {
        let stride = self.block * self.heads_padded;
        let blocks = self.shape.public_tokens.div_ceil(self.block);
        let len = blocks.next_power_of_two().min(self.slot_count / stride);
        Axis { stride, count: blocks.div_ceil(len), len }
    }

    /// Packs the rows of a prompt into the block frame, the rows past the last one repeating it, times `factor`.
    ///
    /// # Shapes
    /// `rows` is `[private_tokens, D]`.
    ///
    /// # Errors
    /// `Shape` for any other shape.
    pub fn pack_block(&self, rows: &[Vec<f32>], factor: f64) -> Result<Vec<Slots>, Error> {
        let need = self.shape.private_tokens;
        check("the number of embedded tokens", rows.len(), need, need)?;
        for row in rows {
            check("the width of an embedding", row.len(), self.hidden, self.hidden)?;
        }
        let axis = self.block_axis(self.hidden);
        (0..axis.count)
            .map(|count| {
                let values = (0..axis.period()).map(|slot| {
                    let row = &rows[(slot % self.block).min(need - 1)];
                    let channel = count * axis.len + slot / self.block;
                    row.get(channel).map_or(0.0, |&x| f64::from(x) * factor)
                });
                Ok(Slots::new(values.collect(), self.slot_count)?)
            })
            .collect()
    }

    /// Packs one token into the dense frame, times `factor`.
    ///
    /// # Shapes
    /// `row` is `[D]`.
    ///
    /// # Errors
    /// `Shape` for any other shape.
    pub fn pack_dense(&self, row: &[f32], factor: f64) -> Result<Slots, Error> {
        check("the width of an embedding", row.len(), self.hidden, self.hidden)?;
        let mut values: Vec<f64> = row.iter().map(|&x| f64::from(x) * factor).collect();
        values.resize(self.hidden.next_power_of_two(), 0.0);
        Ok(Slots::new(values, self.slot_count)?)
    }

    /// Reads `width` channels of row `token` from ciphertexts in the block frame.
    ///
    /// # Errors
    /// `Shape` when there are too few ciphertexts or slots.
    pub fn unpack_block(&self, slots: &[Vec<f64>], width: usize, token: usize) -> Result<Vec<f64>, Error> {
        let axis = self.block_axis(width);
        check("the number of ciphertexts", slots.len(), axis.count, axis.count)?;
        for values in slots {
            check("the number of slots", values.len(), axis.period(), self.slot_count)?;
        }
        Ok((0..width).map(|c| slots[c / axis.len][token + self.block * (c % axis.len)]).collect())
    }
}

/// The meaning of one slot of a score ciphertext in the lane frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Score {
    /// The row of the query in the block.
    pub token: usize,
    /// The query head, possibly padding.
    pub head: usize,
    /// The key that the query meets.
    pub key: Key,
}

/// The key of a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// The public token at this position.
    Public(usize),
    /// The private token `back` rows before the query.
    Private {
        /// Distance in rows.
        back: usize,
    },
    /// No key: padding, or a key that the query must not see.
    None,
}

pub(crate) fn check(what: &'static str, have: usize, least: usize, most: usize) -> Result<(), Error> {
    if (least..=most).contains(&have) {
        return Ok(());
    }
    let need = match most {
        _ if least == most => format!("{most}"),
        usize::MAX => format!("at least {least}"),
        _ => format!("from {least} to {most}"),
    };
    Err(Error::Shape { what, have, need })
}

#[cfg(test)]
mod tests;
