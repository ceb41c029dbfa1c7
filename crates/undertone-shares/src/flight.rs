//! Flights: what one party sends in one go, as numbers. `undertone-protocol` turns them into bytes.
//!
//! A step is `prepare` (ahead, independent of the prompt), `embed`, then per layer six questions of the provider and
//! their answers, then the final norm, the logits and the look-up. One flight up and one down make a round. A step
//! without outputs ends with the last answer of its last layer.

use crate::error::{Error, Result, expect_len};
use crate::shape::{Shape, Site, Step};
use crate::strict::{self, Contents};

/// Most bytes of contents of one flight: what a wire carries in one go.
pub const MAX_FLIGHT_BYTES: usize = 1 << 30;

macro_rules! flight_kinds {
    ($($(#[$doc:meta])* $name:ident = $byte:literal, $text:literal;)*) => {
        /// What a flight carries.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum FlightKind { $($(#[$doc])* $name = $byte,)* }

        impl FlightKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The kind of a byte.
            pub fn from_byte(byte: u8) -> Option<Self> {
                match byte { $($byte => Some(Self::$name),)* _ => None }
            }

            /// The name used in errors and ledgers.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

flight_kinds! {
    /// User to provider, ahead: the user's prompt-independent shares under fresh masks.
    Prepare = 0, "prepare";
    /// User to provider: one-hot tokens, masked.
    Embed = 1, "embed";
    /// Provider to user: the residual stream, permuted.
    AttentionNorm = 2, "attention_norm";
    /// User to provider: its norm, masked, still permuted.
    AttentionNormed = 3, "attention_normed";
    /// Provider to user: its part of opened queries and keys, opened values, top bits.
    Rotated = 4, "rotated";
    /// User to provider: its part of opened queries and keys, its masked share of scores.
    Scores = 5, "scores";
    /// Provider to user: scores, permuted.
    Softmax = 6, "softmax";
    /// User to provider: probabilities, masked, still permuted.
    Probabilities = 7, "probabilities";
    /// Provider to user: opened probabilities, its part of opened mixed values.
    Mix = 8, "mix";
    /// User to provider: truncated mixed values, masked, with top bits.
    Mixed = 9, "mixed";
    /// Provider to user: the residual stream, permuted.
    MlpNorm = 10, "mlp_norm";
    /// User to provider: its norm, masked, still permuted.
    MlpNormed = 11, "mlp_normed";
    /// Provider to user: gate and up, under one permutation.
    Gate = 12, "gate";
    /// User to provider: their activation, masked, still permuted.
    Activated = 13, "activated";
    /// Provider to user: the residual stream of the outputs, permuted.
    FinalNorm = 14, "final_norm";
    /// User to provider: its norm, masked, still permuted.
    FinalNormed = 15, "final_normed";
    /// Provider to user: logits, permuted.
    Logits = 16, "logits";
    /// User to provider: the shifted place of the chosen token of every output.
    Select = 17, "select";
    /// Provider to user: the shifted, masked table of token ids, one for every output.
    Selected = 18, "selected";
}

impl FlightKind {
    /// Whether the user sends it.
    pub fn from_user(self) -> bool {
        self == Self::Prepare || self as u8 % 2 == 1
    }

    /// Whether it belongs to one layer.
    pub fn in_layer(self) -> bool {
        (Self::AttentionNorm..=Self::Activated).contains(&self)
    }

    /// The site of a question or of its answer.
    pub(crate) fn site(self) -> Option<Site> {
        Some(match self {
            Self::AttentionNorm | Self::AttentionNormed => Site::AttentionNorm,
            Self::Softmax | Self::Probabilities => Site::Softmax,
            Self::MlpNorm | Self::MlpNormed => Site::MlpNorm,
            Self::Gate | Self::Activated => Site::Activation,
            Self::FinalNorm | Self::FinalNormed => Site::FinalNorm,
            Self::Logits | Self::Select => Site::Logits,
            _ => return None,
        })
    }

    /// The questions and answers of a site.
    pub(crate) fn of_site(site: Site) -> [Self; 2] {
        match site {
            Site::AttentionNorm => [Self::AttentionNorm, Self::AttentionNormed],
            Site::Softmax => [Self::Softmax, Self::Probabilities],
            Site::MlpNorm => [Self::MlpNorm, Self::MlpNormed],
            Site::Activation => [Self::Gate, Self::Activated],
            Site::FinalNorm => [Self::FinalNorm, Self::FinalNormed],
            Site::Logits => [Self::Logits, Self::Select],
        }
    }

    /// Counts of what it carries in a turn: 0 for flights that come once; under strict evaluation the place among the
    /// flights of its site.
    pub fn extent_in(self, shape: &Shape, step: &Step, turn: usize) -> Extent {
        match self.site().filter(|_| step.strict) {
            Some(site) => strict::flights(site, shape, step).get(turn).copied().unwrap_or_default(),
            None => self.extent(shape, step),
        }
    }

    /// Counts of the longest flight of this kind.
    pub fn longest(self, shape: &Shape, step: &Step) -> Extent {
        match self.site().filter(|_| step.strict) {
            Some(site) => {
                strict::flights(site, shape, step).into_iter().max_by_key(Extent::size_bytes).unwrap_or_default()
            }
            None => self.extent(shape, step),
        }
    }

    /// Counts of what it carries where it comes once.
    pub fn extent(self, shape: &Shape, step: &Step) -> Extent {
        let n = step.tokens;
        let (rotated, key, query) = (n * shape.rotated(), n * shape.key(), n * shape.query());
        let input = |site| Extent::words(step.site_input(shape, site));
        let output = |site| Extent::words(step.site_output(shape, site));
        match self {
            Self::Prepare => {
                let layer = 2 * n * shape.hidden + rotated + key + 2 * n * shape.intermediate;
                Extent::words(shape.layers * layer + step.outputs * (shape.hidden + shape.vocab))
            }
            Self::Embed => Extent::words(n * shape.vocab),
            Self::AttentionNorm => input(Site::AttentionNorm),
            Self::AttentionNormed => output(Site::AttentionNorm),
            Self::Rotated => Extent { words: rotated + key, bits: rotated, entries: 0 },
            Self::Scores => Extent::words(rotated + step.scores(shape)),
            Self::Softmax => input(Site::Softmax),
            Self::Probabilities => output(Site::Softmax),
            Self::Mix => Extent::words(step.scores(shape) + query),
            Self::Mixed => Extent { words: query, bits: query, entries: 0 },
            Self::MlpNorm => input(Site::MlpNorm),
            Self::MlpNormed => output(Site::MlpNorm),
            Self::Gate => input(Site::Activation),
            Self::Activated => output(Site::Activation),
            Self::FinalNorm => input(Site::FinalNorm),
            Self::FinalNormed => output(Site::FinalNorm),
            Self::Logits => input(Site::Logits),
            Self::Select => Extent { words: 0, bits: 0, entries: step.outputs },
            Self::Selected => Extent { words: 0, bits: 0, entries: step.outputs * shape.vocab },
        }
    }
}

/// The flight that comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlightDue {
    /// Its kind.
    pub kind: FlightKind,
    /// Its layer, 0 for kinds outside layers.
    pub layer: usize,
    /// Under strict evaluation its place among the flights of its site; else 0.
    pub turn: usize,
}

/// Counts of a flight's contents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// Words of 64 bits.
    pub words: usize,
    /// Single bits, packed eight to a byte.
    pub bits: usize,
    /// Numbers of 32 bits.
    pub entries: usize,
}

impl Extent {
    fn words(words: usize) -> Self {
        Self { words, bits: 0, entries: 0 }
    }

    /// Bytes of the contents. A step that was checked has no flight above [`MAX_FLIGHT_BYTES`].
    pub fn size_bytes(&self) -> usize {
        8 * self.words + self.bits.div_ceil(8) + 4 * self.entries
    }
}

/// What one party sends in one go.
#[derive(Clone, PartialEq, Eq)]
pub struct Flight {
    /// What it is.
    pub kind: FlightKind,
    /// The layer, 0 for kinds outside layers.
    pub layer: u32,
    /// Under strict evaluation its place among the flights of its site; else 0.
    pub turn: u32,
    /// Number of the step in its session.
    pub step: u64,
    /// Words of shares.
    pub words: Vec<u64>,
    /// Packed bits.
    pub bits: Vec<u8>,
    /// 32-bit numbers.
    pub entries: Vec<u32>,
}

impl std::fmt::Debug for Flight {
    /// The kind alone: contents are shares.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Flight({} {})", self.kind.name(), self.layer)
    }
}

impl Flight {
    pub(crate) fn words(kind: FlightKind, layer: usize, step: &Step, words: Vec<u64>) -> Self {
        Self { kind, layer: layer as u32, turn: 0, step: step.number, words, bits: Vec::new(), entries: Vec::new() }
    }

    /// A flight of a strictly evaluated site.
    pub(crate) fn contents(site: Site, layer: usize, turn: usize, step: &Step, contents: Contents) -> Self {
        let Contents { words, entries, bits } = contents;
        let flight = Self::words(Self::kind_of(site, turn), layer, step, words);
        Self { turn: turn as u32, bits, entries, ..flight }
    }

    /// The provider begins, and the parties take turns.
    pub(crate) fn kind_of(site: Site, turn: usize) -> FlightKind {
        FlightKind::of_site(site)[turn % 2]
    }

    /// Checks that this is the flight that is due, with the counts that are due.
    ///
    /// # Errors
    /// Another kind, layer or step, other counts, bits set beyond the last.
    pub(crate) fn expect(&self, due: &FlightDue, shape: &Shape, step: &Step) -> Result<()> {
        let FlightDue { kind, layer, turn } = *due;
        if self.kind != kind || (self.layer as usize, self.turn as usize) != (layer, turn) || self.step != step.number {
            return Err(Error::OutOfTurn { have: self.kind.name(), need: kind.name() });
        }
        let extent = kind.extent_in(shape, step, turn);
        expect_len("a flight's list of words", self.words.len(), extent.words)?;
        expect_len("a flight's list of bits", self.bits.len(), extent.bits.div_ceil(8))?;
        if !extent.bits.is_multiple_of(8) && self.bits.last().is_some_and(|last| last >> (extent.bits % 8) != 0) {
            return Err(Error::Malformed { what: "a flight", cause: "bits are set beyond the last" });
        }
        expect_len("a flight's list of entries", self.entries.len(), extent.entries)
    }
}
