//! The frame of a turn, in the clear: halves of the tokens in two values, and how they become a block and back.
//!
//! A turn takes and gives pairs: with T tokens, slot t + (T/2)·c of the first value is token t of channel c and of the
//! second token T/2 + t, for N/T channels. Attention wants all tokens of a row in one value: slot t + T·y. Channel
//! c = x + 2·y of pair p therefore goes to place y of value 2p + x of the block frame, which moves no slot further than
//! T/2. The same exchange leads back. Per-head tensors lie in the block frame as [`Layout::head_channel`] says.

use crate::Error;
use crate::packing::{Axis, Layout, check};
use undertone_he::{MatrixShape, Slots};

/// The frame of the halves for one layout.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Halves<'a> {
    layout: &'a Layout,
}

impl<'a> Halves<'a> {
    pub(crate) fn new(layout: &'a Layout) -> Self {
        Self { layout }
    }

    /// Whether per-head tensors fill whole values of the block frame, as the exchange needs.
    ///
    /// # Errors
    /// `Shape` when the heads are too few or too narrow for that.
    pub(crate) fn require(layout: &Layout) -> Result<(), Error> {
        let width = layout.heads_padded * layout.head_len * layout.head_count;
        check("the padded width of all heads, in turns", width, layout.channel_slots(), usize::MAX)?;
        // The rotary embedding pairs coordinates half a head apart, which must be as far apart in the padded head.
        check("the width of a head, in turns", layout.head_dim, layout.head_dim.next_power_of_two(), usize::MAX)
    }

    /// Tokens of each of the two values, T/2.
    pub(crate) fn tokens(&self) -> usize {
        self.layout.block / 2
    }

    /// Channels of one pair.
    pub(crate) fn channels(&self) -> usize {
        2 * self.layout.channel_slots()
    }

    /// Pairs that hold `width` channels.
    pub(crate) fn pairs(&self, width: usize) -> usize {
        width.div_ceil(self.channels())
    }

    /// Pairs that hold a per-head tensor.
    pub(crate) fn head_pairs(&self) -> usize {
        self.layout.head_count.div_ceil(2)
    }

    /// Query heads that one key head serves where keys and values are made once for all of them, else 1.
    ///
    /// Then digit u of place u + G·g + H_p·a of value m stands for coordinate a of value G·m + u of the block frame, which
    /// needs whole groups of values on either side of half a head.
    pub(crate) fn shared(&self) -> usize {
        let (group, counts) = (self.layout.heads_per_key, self.layout.head_count);
        if group.is_power_of_two() && counts.is_multiple_of(2 * group) { group } else { 1 }
    }

    /// Pairs that hold keys or values.
    pub(crate) fn key_pairs(&self) -> usize {
        (self.layout.head_count / self.shared()).div_ceil(2)
    }

    /// A query head that channel `c` of keys or values serves, and the coordinate.
    pub(crate) fn key_channel(&self, c: usize) -> Option<(usize, usize)> {
        let group = self.shared();
        let (pair, c) = (c / self.channels(), c % self.channels());
        let (count, place) = (2 * pair + c % 2, c / 2);
        if group * count >= self.layout.head_count {
            return None;
        }
        let digit = place % self.layout.heads_padded % group;
        self.layout.head_channel(group * count + digit, place)
    }

    /// `width` channels of either half.
    pub(crate) fn axis(&self, width: usize) -> Axis {
        Axis { stride: self.tokens(), count: self.pairs(width), len: self.channels() }
    }

    /// The shape of a matrix from `inputs` to `outputs` channels.
    pub(crate) fn matrix(&self, outputs: usize, inputs: usize) -> MatrixShape {
        MatrixShape { outputs, inputs, tokens: self.layout.block }
    }

    /// Query head and coordinate of channel `c` of a per-head tensor.
    pub(crate) fn head_channel(&self, c: usize) -> Option<(usize, usize)> {
        let (pair, c) = (c / self.channels(), c % self.channels());
        let count = 2 * pair + c % 2;
        if count < self.layout.head_count { self.layout.head_channel(count, c / 2) } else { None }
    }

    /// Packs rows, those past the last one repeating it, times `factor`.
    ///
    /// # Shapes
    /// `rows` is `[private_tokens, width]`.
    ///
    /// # Errors
    /// `Shape` for any other shape.
    pub(crate) fn pack(&self, rows: &[Vec<f32>], width: usize, factor: f64) -> Result<Vec<[Slots; 2]>, Error> {
        let need = self.layout.shape.private_tokens;
        check("the number of rows", rows.len(), need, need)?;
        for row in rows {
            check("the width of a row", row.len(), width, width)?;
        }
        let half = |pair: usize, first: usize| {
            let value = |slot: usize| {
                let row = &rows[(first + slot % self.tokens()).min(need - 1)];
                row.get(pair * self.channels() + slot / self.tokens()).map_or(0.0, |&x| f64::from(x) * factor)
            };
            Slots::new((0..self.layout.slot_count).map(value).collect(), self.layout.slot_count)
        };
        (0..self.pairs(width)).map(|pair| Ok([half(pair, 0)?, half(pair, self.tokens())?])).collect()
    }

    /// Reads `width` channels of row `token`.
    ///
    /// # Errors
    /// `Shape` when there are too few pairs or slots.
    pub(crate) fn unpack(&self, pairs: &[[Vec<f64>; 2]], width: usize, token: usize) -> Result<Vec<f64>, Error> {
        check("the number of pairs", pairs.len(), self.pairs(width), self.pairs(width))?;
        for values in pairs.iter().flatten() {
            check("the number of slots", values.len(), self.layout.slot_count, self.layout.slot_count)?;
        }
        let (half, row) = (token / self.tokens(), token % self.tokens());
        let at = |c: usize| pairs[c / self.channels()][half][row + self.tokens() * (c % self.channels())];
        Ok((0..width).map(at).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cycle::tests::config;
    use crate::packing::Shape;
    use undertone_model::LlamaConfig;

    const SHAPE: Shape = Shape { public_tokens: 4, private_tokens: 13, max_new_tokens: 1 };

    fn layout(heads: usize, head_dim: usize) -> Layout {
        Layout::new(&config(heads, head_dim), SHAPE, 256).unwrap()
    }

    #[test]
    fn rows_survive_packing_and_padding_repeats_the_last() {
        let layout = layout(4, 8);
        let halves = Halves::new(&layout);
        assert_eq!((halves.tokens(), halves.channels(), halves.pairs(24), halves.pairs(33)), (8, 32, 1, 2));
        let rows: Vec<Vec<f32>> = (0..13).map(|t| (0..40).map(|c| (100 * t + c) as f32).collect()).collect();
        let packed = halves.pack(&rows, 40, 0.5).unwrap();
        let slots: Vec<[Vec<f64>; 2]> =
            packed.iter().map(|pair| pair.each_ref().map(|s| s.period().to_vec())).collect();
        for token in 0..16 {
            let row: Vec<f64> = rows[token.min(12)].iter().map(|&x| 0.5 * f64::from(x)).collect();
            assert_eq!(halves.unpack(&slots, 40, token).unwrap(), row);
        }
        assert!(halves.pack(&rows[..12], 40, 1.0).is_err() && halves.pack(&rows, 41, 1.0).is_err());
        assert!(halves.unpack(&slots[..1], 40, 0).is_err());
    }

    #[test]
    fn every_head_coordinate_has_one_channel() {
        for (heads, head_dim) in [(4, 8), (3, 8), (16, 4), (2, 8)] {
            let layout = layout(heads, head_dim);
            let halves = Halves::new(&layout);
            let width = halves.head_pairs() * halves.channels();
            let mut found: Vec<(usize, usize)> = (0..width).filter_map(|c| halves.head_channel(c)).collect();
            found.sort_unstable();
            let all: Vec<(usize, usize)> = (0..heads).flat_map(|h| (0..head_dim).map(move |j| (h, j))).collect();
            assert_eq!(found, all, "{heads} heads of {head_dim}");
        }
    }

    #[test]
    fn every_key_coordinate_has_one_channel_when_heads_share_it() {
        // 32 places per value: 16 values of 4 heads × 8 coordinates … 4 values of 8 × 4.
        let config =
            |heads, key_heads, head_dim| LlamaConfig { num_key_value_heads: key_heads, ..config(heads, head_dim) };
        for (heads, key_heads, head_dim, group) in [(4, 2, 32, 2), (8, 2, 32, 4), (8, 8, 16, 1), (4, 1, 8, 1)] {
            let layout = Layout::new(&config(heads, key_heads, head_dim), SHAPE, 256).unwrap();
            let halves = Halves::new(&layout);
            assert_eq!(halves.shared(), group, "{heads} heads on {key_heads} of {head_dim}");
            let width = halves.key_pairs() * halves.channels();
            let found: Vec<(usize, usize)> = (0..width).filter_map(|c| halves.key_channel(c)).collect();
            let mut keys: Vec<(usize, usize)> = found.iter().map(|&(head, j)| (head / group, j)).collect();
            keys.sort_unstable();
            let all: Vec<_> = (0..heads / group).flat_map(|g| (0..head_dim).map(move |j| (g, j))).collect();
            assert_eq!(keys, all, "{heads} heads on {key_heads} of {head_dim}");
        }
    }

    #[test]
    fn heads_that_do_not_fill_a_value_are_refused() {
        assert!(Halves::require(&layout(4, 8)).is_ok());
        assert!(Halves::require(&layout(1, 8)).is_err());
        assert!(Halves::require(&layout(4, 6)).is_err());
    }
}
