//! Counts that both parties and the dealer compute alike: of a model, of one step, of every flight.

use undertone_model::LlamaConfig;

use crate::bundle::{Bundle, MAX_BUNDLE_BYTES, ProviderBundle};
use crate::error::{Error, Result};
use crate::flight::{FlightKind, MAX_FLIGHT_BYTES};

/// Most score entries of one step: more need more memory than one step should take.
const MAX_SCORES: usize = 1 << 28;

/// The dimensions of a model that determine what travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// `D`.
    pub hidden: usize,
    /// `F`.
    pub intermediate: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads `H`.
    pub heads: usize,
    /// Key heads `K`.
    pub key_heads: usize,
    /// Head size `d`.
    pub head_dim: usize,
    /// Vocabulary `V`.
    pub vocab: usize,
}

impl Shape {
    /// The dimensions of a configuration.
    pub fn new(config: &LlamaConfig) -> Self {
        Self {
            hidden: config.hidden_size,
            intermediate: config.intermediate_size,
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            key_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            vocab: config.vocab_size,
        }
    }

    /// Width `H d` of the queries of a token.
    pub fn query(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width `K d` of the keys, and of the values, of a token.
    pub fn key(&self) -> usize {
        self.key_heads * self.head_dim
    }

    /// Width of queries and keys together, which are rotated and truncated alike.
    pub fn rotated(&self) -> usize {
        self.query() + self.key()
    }

    /// Rows and columns of every fixed weight matrix, in the order of [`Matrix::index`].
    pub fn matrices(&self) -> Vec<(usize, usize)> {
        let mut all = vec![(self.hidden, self.vocab), (self.vocab, self.hidden)];
        for _ in 0..self.layers {
            all.extend([
                (self.query() + 2 * self.key(), self.hidden),
                (self.hidden, self.query()),
                (2 * self.intermediate, self.hidden),
                (self.hidden, self.intermediate),
            ]);
        }
        all
    }
}

/// A fixed weight matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matrix {
    /// The embedding, `[D, V]`.
    Embed,
    /// The output head with the final gains, `[V, D]`.
    Head,
    /// Queries, keys and values with the gains before them, `[(H + 2 K) d, D]`.
    Qkv(usize),
    /// The output of attention, `[D, H d]`.
    O(usize),
    /// Gate and up with the gains before them, `[2 F, D]`.
    GateUp(usize),
    /// Down, `[D, F]`.
    Down(usize),
}

impl Matrix {
    /// The place of the matrix in [`Shape::matrices`].
    pub fn index(self) -> usize {
        match self {
            Self::Embed => 0,
            Self::Head => 1,
            Self::Qkv(layer) => 2 + 4 * layer,
            Self::O(layer) => 3 + 4 * layer,
            Self::GateUp(layer) => 4 + 4 * layer,
            Self::Down(layer) => 5 + 4 * layer,
        }
    }
}

/// A place where the user evaluates a nonlinear function on permuted values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Site {
    /// The norm before attention.
    AttentionNorm = 0,
    /// Softmax over visible scores.
    Softmax,
    /// The norm before the feed-forward network.
    MlpNorm,
    /// SiLU of the gate times up.
    Activation,
    /// The norm before the head, of the outputs.
    FinalNorm,
    /// Logits of the outputs, which the user chooses from.
    Logits,
}

/// One pass: the tokens that enter together. They take the rows `position..position + tokens` of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Number of the step in its session, from 0.
    pub number: u64,
    /// Row of the first token.
    pub position: usize,
    /// Tokens `n`.
    pub tokens: usize,
    /// Of how many of them, the last ones, logits are opened and a token is chosen: none for a piece of a prompt with
    /// more to come, one for its end and for a generated token, all for drafted tokens.
    pub outputs: usize,
    /// Whether nonlinear functions are evaluated on shares (see `strict`) instead of on permuted values.
    pub strict: bool,
}

impl Step {
    /// Checks a step against a model before anything is allocated for it.
    ///
    /// # Errors
    /// No tokens, more outputs than tokens, more positions than the model has, more scores than a step may have, a
    /// flight above [`MAX_FLIGHT_BYTES`], a bundle above [`MAX_BUNDLE_BYTES`].
    pub fn check(&self, shape: &Shape, max_positions: usize) -> Result<()> {
        let refuse = |what, have: usize, need: String| Err(Error::OutOfRange { what, have: have as u64, need });
        let end = self.position.saturating_add(self.tokens);
        if self.tokens == 0 || end > max_positions {
            return refuse("the last position of a step", end, format!("from 1 to {max_positions}, with a token"));
        }
        if self.outputs > self.tokens {
            return refuse("the number of outputs of a step", self.outputs, format!("at most {}", self.tokens));
        }
        // Positions are at most 2^24 and heads 2^10, so this product cannot overflow.
        let scores = self.tokens.saturating_mul(end).saturating_mul(shape.heads);
        let widest = shape.hidden.max(2 * shape.intermediate).max(shape.vocab);
        if scores > MAX_SCORES || self.tokens.saturating_mul(widest) > MAX_SCORES {
            return refuse(
                "the number of values of a step",
                scores,
                format!("at most {MAX_SCORES}; use shorter chunks"),
            );
        }
        // Every product above is below 2^28 now and layers are at most 2^10, so no extent overflows.
        let size = |kind: &FlightKind| kind.longest(shape, self).size_bytes();
        if let Some(kind) = FlightKind::ALL.iter().find(|kind| size(kind) > MAX_FLIGHT_BYTES) {
            return refuse(
                "the number of bytes of a flight",
                size(kind),
                format!("at most {MAX_FLIGHT_BYTES} ({}); use shorter chunks", kind.name()),
            );
        }
        // The user's bundle is a part of it: its seed, and under strict evaluation the keys.
        let bundle = ProviderBundle::size_bytes(shape, self);
        if bundle > MAX_BUNDLE_BYTES {
            let need = format!("at most {MAX_BUNDLE_BYTES}; use shorter chunks");
            return refuse("the number of bytes of a bundle", bundle, need);
        }
        Ok(())
    }

    /// Positions that token `i` of the step sees, itself included.
    pub fn visible(&self, i: usize) -> usize {
        self.position + i + 1
    }

    /// Entries of the visible scores of all tokens and heads: `H (n t + n (n + 1) / 2)` with `t` positions before.
    pub fn scores(&self, shape: &Shape) -> usize {
        shape.heads * (self.tokens * self.position + self.tokens * (self.tokens + 1) / 2)
    }

    /// Entries that go into a site; gate and up count both.
    pub fn site_input(&self, shape: &Shape, site: Site) -> usize {
        match site {
            Site::Activation => 2 * self.tokens * shape.intermediate,
            Site::Logits => self.outputs * shape.vocab,
            _ => self.site_output(shape, site),
        }
    }

    /// Entries that come out of a site; the logits return none.
    pub fn site_output(&self, shape: &Shape, site: Site) -> usize {
        match site {
            Site::AttentionNorm | Site::MlpNorm => self.tokens * shape.hidden,
            Site::Softmax => self.scores(shape),
            Site::Activation => self.tokens * shape.intermediate,
            Site::FinalNorm => self.outputs * shape.hidden,
            Site::Logits => 0,
        }
    }
}

/// Tokens of the steps in which a prompt enters, evaluated strictly or not: `most` each, fewer where the model could not
/// take the step or the provider's bundle of it would exceed `most_bytes`. Later pieces are shorter then, because scores
/// grow with positions.
///
/// # Errors
/// A prompt beyond the model's positions, a single token whose bundle is too large, more than `most_pieces` pieces.
pub fn pieces(
    shape: &Shape,
    max_positions: usize,
    prompt: usize,
    (most, strict): (usize, bool),
    most_bytes: usize,
    most_pieces: usize,
) -> Result<Vec<usize>> {
    if prompt == 0 || prompt > max_positions {
        let need = format!("from 1 to {max_positions}, with a token");
        return Err(Error::OutOfRange { what: "the last position of a step", have: prompt as u64, need });
    }
    let (mut pieces, mut position) = (Vec::new(), 0);
    while position < prompt {
        let left = prompt - position;
        // As soon as it is certain, so that this takes no longer than the pieces that are allowed.
        let least = pieces.len().saturating_add(left.div_ceil(most.max(1)));
        if least > most_pieces {
            let need = format!("at most {most_pieces}; use a shorter prompt or longer pieces");
            return Err(Error::OutOfRange { what: "the number of pieces of a prompt", have: least as u64, need });
        }
        let step = |tokens| Step { number: 0, position, tokens, outputs: usize::from(tokens == left), strict };
        let check = |tokens: usize| {
            let step = step(tokens);
            step.check(shape, max_positions)?;
            let have = ProviderBundle::size_bytes(shape, &step);
            let need = || format!("at most {most_bytes} for one token");
            let what = "the number of bytes of a bundle";
            if have > most_bytes { Err(Error::OutOfRange { what, have: have as u64, need: need() }) } else { Ok(()) }
        };
        check(1)?;
        // Whatever is checked grows with the tokens.
        let (mut fits, mut beyond) = (1, most.clamp(1, left) + 1);
        if check(beyond - 1).is_ok() {
            fits = beyond - 1;
        }
        while beyond - fits > 1 {
            let middle = (fits + beyond) / 2;
            if check(middle).is_ok() { fits = middle } else { beyond = middle }
        }
        pieces.push(fits);
        position += fits;
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_whose_flights_no_wire_carries_are_refused_before_they_are_dealt() {
        let shape = Shape {
            hidden: 2048,
            intermediate: 5632,
            layers: 22,
            heads: 32,
            key_heads: 4,
            head_dim: 64,
            vocab: 32_000,
        };
        let check = |tokens| Step { number: 0, position: 0, tokens, outputs: 1, strict: false }.check(&shape, 2048);
        let step = |tokens| Step { number: 0, position: 0, tokens, outputs: 1, strict: false };
        let bundle = |tokens| ProviderBundle::size_bytes(&shape, &step(tokens));
        let flight = |tokens| FlightKind::ALL.iter().map(|kind| kind.extent(&shape, &step(tokens)).size_bytes()).max();
        let most = (1..2048).find(|&tokens| bundle(tokens) > MAX_BUNDLE_BYTES).unwrap() - 1;
        assert!(check(most).is_ok());
        let error = check(most + 1).unwrap_err().to_string();
        assert!(error.contains("of a bundle") && error.contains("shorter chunks"), "{error}");
        let most = (1..2048).find(|&tokens| flight(tokens).unwrap() > MAX_FLIGHT_BYTES).unwrap();
        let error = check(most).unwrap_err().to_string();
        assert!(error.contains("prepare") && error.contains("shorter chunks"), "{error}");
        let outputs = |outputs| Step { number: 0, position: 0, tokens: 2, outputs, strict: false }.check(&shape, 2048);
        assert!(outputs(0).is_ok() && outputs(2).is_ok() && outputs(3).is_err());
        assert!(check(0).is_err() && check(2049).is_err() && check(usize::MAX).is_err());
    }

    #[test]
    fn a_long_prompt_of_a_large_model_enters_in_pieces_whose_bundles_a_wire_carries() {
        let shape = Shape {
            hidden: 4096,
            intermediate: 14_336,
            layers: 32,
            heads: 32,
            key_heads: 8,
            head_dim: 128,
            vocab: 128_256,
        };
        let all = pieces(&shape, 8192, 6000, (64, false), MAX_BUNDLE_BYTES, 2048).unwrap();
        assert_eq!(all.iter().sum::<usize>(), 6000);
        assert!(all[0] < 64 && all.windows(2).take(all.len() - 2).all(|pair| pair[0] >= pair[1]), "{all:?}");
        let mut position = 0;
        for (i, &tokens) in all.iter().enumerate() {
            let step =
                |tokens| Step { number: 0, position, tokens, outputs: usize::from(i + 1 == all.len()), strict: false };
            step(tokens).check(&shape, 8192).unwrap();
            // None is shorter than it must be.
            assert!(tokens == 64 || i + 1 == all.len() || step(tokens + 1).check(&shape, 8192).is_err());
            position += tokens;
        }
        let small = Shape { layers: 2, hidden: 64, intermediate: 64, vocab: 64, ..shape };
        assert_eq!(pieces(&small, 8192, 200, (64, false), MAX_BUNDLE_BYTES, 4).unwrap(), [64, 64, 64, 8]);
        assert!(
            pieces(&small, 100, 101, (64, false), MAX_BUNDLE_BYTES, 4).is_err()
                && pieces(&small, 100, 0, (64, false), 1 << 30, 4).is_err()
        );
        let error = pieces(&shape, 8192, 8, (64, false), 1 << 20, 4).unwrap_err().to_string();
        assert!(error.contains("of a bundle") && error.contains("1048576"), "{error}");
        // Too many pieces are refused when it is certain: at once, or when bundles have made the pieces short.
        let error = pieces(&small, 8192, 200, (64, false), MAX_BUNDLE_BYTES, 3).unwrap_err().to_string();
        assert!(error.contains("pieces of a prompt is 4 and must be at most 3"), "{error}");
        let error = pieces(&shape, 8192, 6000, (64, false), MAX_BUNDLE_BYTES, all.len() - 1).unwrap_err().to_string();
        assert!(error.contains("pieces of a prompt"), "{error}");
        assert_eq!(pieces(&shape, 8192, 6000, (64, false), MAX_BUNDLE_BYTES, all.len()).unwrap(), all);
    }
}
