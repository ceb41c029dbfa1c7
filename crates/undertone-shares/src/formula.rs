//! What travels, as formulas in the dimensions of a model, written out independently of the lists that produce it.
//!
//! n new tokens, t positions before them, h query heads, g key heads, d head size, D hidden, F feed-forward, V
//! vocabulary, L layers, S = h (n t + n (n + 1) / 2) visible scores; counts are elements of 8 bytes.
//!
//! | | published protocol | here |
//! | --- | --- | --- |
//! | online, layer | 8nD + nd(4g + 3h) + 5S + 6nF | 4nD + nd(4h + 3g) + 4S + 3nF, and nd(2h + g) bits |
//! | online, model | nV + 3D + D + 2V | nV + m (2D + V) |
//! | ahead, user to provider, layer | – | 2nD + nd(h + 2g) + 2nF; model m (D + V) |
//! | offline, dealer to provider, layer | n[(h + 2g)d + hd + 6D + 5F] + 3S | that and nd(4h + 2g) for truncation |
//!
//! The published count has m = 1 output; a step without outputs also has five flights fewer, one with several chooses a
//! token for each. Fewer online, because the user's shares are known before the prompt and their masks are chosen to be the next
//! ones. What goes ahead must be added to compare: it travels between two tokens as well.

use crate::shape::{Shape, Step};

/// Counts of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of contents that travel once the prompt is known, both directions, the look-up included.
    pub online_bytes: u64,
    /// Bytes of the look-up alone: a place up, a table down.
    pub lookup_bytes: u64,
    /// Bytes of contents that the user sends ahead of the prompt; see [`Traffic::token_bytes`] for when.
    pub ahead_bytes: u64,
    /// Bytes of contents that the dealer gives the provider, without the header of the bundle.
    pub offline_bytes: u64,
    /// Bytes of contents that the dealer gives the user: keys of strict evaluation, or a number for every output.
    pub user_offline_bytes: u64,
    /// Flights once the prompt is known: each depends on the one before, so this is twice the number of rounds.
    pub depth: u64,
    /// Elements that the published protocol would send online, without its look-up and without truncation.
    pub published_elements: u64,
}

impl Traffic {
    /// The counts of one step.
    pub fn new(shape: &Shape, step: &Step) -> Self {
        let [n, m, t, layers, vocab] =
            [step.tokens, step.outputs, step.position, shape.layers, shape.vocab].map(|x| x as u64);
        let [hidden, wide, h, g, d] =
            [shape.hidden, shape.intermediate, shape.heads, shape.key_heads, shape.head_dim].map(|x| x as u64);
        let scores = h * (n * t + n * (n + 1) / 2);

        let layer = 4 * n * hidden + n * d * (4 * h + 3 * g) + 4 * scores + 3 * n * wide;
        // Top bits, packed: of queries and keys in one flight, of mixed values in another.
        let layer_bits = (n * d * (h + g)).div_ceil(8) + (n * d * h).div_ceil(8);
        if step.strict {
            return Self::strictly(shape, step);
        }
        let lookup = m * (4 + 4 * vocab);
        let online = 8 * (layers * layer + n * vocab + m * (2 * hidden + vocab)) + layers * layer_bits + lookup;

        let ahead = layers * (2 * n * hidden + n * d * (h + 2 * g) + 2 * n * wide) + m * (hidden + vocab);

        let site_and_products = n * ((h + 2 * g) * d + h * d + 6 * hidden + 5 * wide) + 3 * scores;
        let truncation = n * d * (4 * h + 2 * g);
        // The embedding's product, and for each output the final norm's two, the head's product, the permuted logits.
        let offline = layers * (site_and_products + truncation) + n * hidden + m * (2 * hidden + 2 * vocab);

        let published = layers * (8 * n * hidden + n * d * (4 * g + 3 * h) + 5 * scores + 6 * n * wide)
            + n * vocab
            + 4 * hidden
            + 2 * vocab;
        Self {
            online_bytes: online,
            lookup_bytes: lookup,
            ahead_bytes: 8 * ahead,
            offline_bytes: 8 * offline,
            user_offline_bytes: 4 * m,
            // One flight embeds, twelve per layer, five for final norm, logits and look-up.
            depth: 1 + 12 * layers + if m > 0 { 5 } else { 0 },
            published_elements: published,
        }
    }

    /// The counts of one step under strict evaluation. With t + n visible columns of the last token, l the levels of a tree over
    /// them, P pairs that all trees compare, and likewise for logits:
    ///
    /// | | words of 8 bytes |
    /// | --- | --- |
    /// | a norm of n rows | 3nD + 8n, and nD bits; 6 flights |
    /// | an activation | 6nF + 2nF (narrow, 4 bytes each), which is 7nF, and nF bits; 4 flights |
    /// | softmax and mixing | 7S + 2P (narrow) + 4nhd + 6nh, and nhd bits; l + 6 flights, one more where l is odd |
    /// | logits | 8mV + 4 for every narrow word, of which a pair has four, but for the last; m (narrow) for the places |
    fn strictly(shape: &Shape, step: &Step) -> Self {
        let [n, m, t, layers, vocab] =
            [step.tokens, step.outputs, step.position, shape.layers, shape.vocab].map(|x| x as u64);
        let [hidden, wide, h, g, d] =
            [shape.hidden, shape.intermediate, shape.heads, shape.key_heads, shape.head_dim].map(|x| x as u64);
        let scores = h * (n * t + n * (n + 1) / 2);
        let levels = |length: u64| u64::from(length.next_power_of_two().ilog2());
        let bits = |count: u64| count.div_ceil(8);

        // Every opening travels twice, as a share and as a value; the first share was sent ahead, or with the scores.
        let norm = |rows: u64| 8 * (3 * rows * hidden + 8 * rows) + bits(rows * hidden);
        let activation = 8 * (6 * n * wide) + 8 * n * wide + bits(n * wide);
        let pairs = scores - n * h;
        let softmax = 8 * (7 * scores) + 8 * pairs + 8 * (4 * n * h * d + 6 * n * h) + bits(n * h * d);
        let rotated = 8 * n * d * (h + 2 * g) + bits(n * d * (h + g)) + 8 * (n * d * (h + g) + scores);
        // All pairs but the last are opened, the larger one and its place.
        let logits = 8 * m * vocab + 2 * 2 * 4 * m * (vocab - 1 - u64::from(vocab > 1)) + 4 * m;
        let layer = 2 * norm(n) + activation + softmax + rotated;
        let online = layers * layer + 8 * n * vocab + norm(m) + logits;
        let flights = {
            let softmax = levels(t + n) + 6;
            let tree = levels(vocab).max(1);
            let layer = 6 + 2 + softmax + softmax % 2 + 6 + 4;
            1 + layers * layer + if m > 0 { 6 + tree + (1 - tree % 2) } else { 0 }
        };

        let compare = |levels: u64, payload: u64| levels * (2 + payload) + levels.div_ceil(32) + payload;
        let point = |payload: u64| 13 + 4 * payload;
        let norm_keys = |rows: u64| rows * (compare(63, 2) + point(6));
        let softmax_keys = scores * (compare(31, 1) + point(3)) + pairs * compare(31, 2) + norm_keys(n * h);
        let layer_keys = 2 * norm_keys(n) + n * wide * (compare(31, 3) + point(3)) + softmax_keys;
        let keys = layers * layer_keys + norm_keys(m) + m * (vocab - 1) * compare(31, 3);
        let norm_corrections = |rows: u64| 7 * rows * hidden + 3 * rows;
        let softmax_corrections = 5 * scores + 7 * n * h * d + 2 * n * h;
        // Products with weights, with masks of keys and values, and the truncation of queries and keys.
        let linear = n * d * (h + 2 * g) + 2 * n * d * (h + g) + scores + n * h * d + n * (2 * hidden + 2 * wide);
        let layer_corrections = 2 * norm_corrections(n) + 11 * n * wide + softmax_corrections + linear;
        let corrections = layers * layer_corrections + n * hidden + norm_corrections(m) + 2 * m * vocab;

        let default = Self::new(shape, &Step { strict: false, ..*step });
        Self {
            online_bytes: online,
            lookup_bytes: 0,
            offline_bytes: 8 * (keys + corrections),
            user_offline_bytes: 8 * keys,
            depth: flights,
            ..default
        }
    }

    /// Bytes of contents between one token and the next, to set beside the published formula. What is called ahead
    /// needs no token, but a session begins a step only when the one before is complete, so today it is on the way.
    pub fn token_bytes(&self) -> u64 {
        self.online_bytes + self.ahead_bytes
    }

    /// Rounds: a flight up and the answer to it.
    pub fn rounds(&self) -> u64 {
        self.depth / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The models of the design, at one new token after 128.
    fn traffic(dimensions: [usize; 7]) -> Traffic {
        let [hidden, intermediate, layers, heads, key_heads, head_dim, vocab] = dimensions;
        let shape = Shape { hidden, intermediate, layers, heads, key_heads, head_dim, vocab };
        // The published counts take t as the columns that the new token sees, itself included.
        Traffic::new(&shape, &Step { number: 0, position: 127, tokens: 1, outputs: 1, strict: false })
    }

    #[test]
    fn check_values_of_the_published_formulas() {
        for (dimensions, rounds, megabytes) in [
            ([2048, 5632, 22, 32, 4, 64, 32_000], 135, 14.5),
            ([4096, 11_008, 32, 32, 32, 128, 32_000], 195, 38.8),
            ([4096, 14_336, 32, 32, 8, 128, 128_256], 195, 43.1),
        ] {
            let traffic = traffic(dimensions);
            assert_eq!(traffic.rounds(), rounds);
            assert_eq!(traffic.rounds(), 6 * dimensions[2] as u64 + 3);
            let published = 8.0 * traffic.published_elements as f64 / 1e6;
            // The check values are rounded to a tenth.
            assert!((published - megabytes).abs() <= 0.05, "{published} for {megabytes}");
            // The whole, although it has truncation and the look-up, which the published counts leave out.
            assert!(traffic.token_bytes() < 8 * traffic.published_elements);
            let [online, ahead, token] =
                [traffic.online_bytes, traffic.ahead_bytes, traffic.token_bytes()].map(|bytes| bytes as f64 / 1e6);
            println!("{online:.2} online + {ahead:.2} ahead = {token:.2} MB a token; published {published:.2} MB");
        }
    }
}
