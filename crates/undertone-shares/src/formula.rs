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
            // One flight embeds, twelve per layer, five for final norm, logits and look-up.
            depth: 1 + 12 * layers + if m > 0 { 5 } else { 0 },
            published_elements: published,
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
        Traffic::new(&shape, &Step { number: 0, position: 127, tokens: 1, outputs: 1 })
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
