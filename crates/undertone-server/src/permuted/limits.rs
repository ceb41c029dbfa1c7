//! What a session of the provider may do, from the counts of its hello: that much memory is reserved, and steps are held to it.
//!
//! In a hello of this mode all tokens are private: `private_tokens` counts the rows of the prompt's steps, filler included,
//! and of drafted tokens.

use super::bundles::{AHEAD, AHEAD_BYTES};
use undertone_protocol::Error;
use undertone_protocol::message::WireShape;
use undertone_protocol::modes::permuted::deal::MAX_DRAFT;
use undertone_protocol::modes::permuted::message::StepBegin;
use undertone_shares::{Bundle, FlightKind, ProviderBundle, Shape, Step};

/// The limits of one session.
pub(super) struct Limits {
    /// Rows of the caches.
    rows: usize,
    /// Most tokens of a step.
    longest: usize,
    /// Whether nonlinear steps are evaluated on shares.
    pub(super) strict: bool,
}

impl Limits {
    /// Those of a hello, where a step has at most `longest` tokens.
    ///
    /// # Errors
    /// `Cap` for more rows than the model has positions.
    pub(super) fn new(counts: &WireShape, positions: usize, longest: usize) -> Result<Self, Error> {
        let have = u64::from(counts.public_tokens)
            + u64::from(counts.private_tokens)
            + u64::from(counts.max_new_tokens).saturating_sub(1);
        let need = positions as u64;
        if have > need {
            return Err(Error::Cap { field: "prompt with its continuation", have, need });
        }
        let rows = have as usize;
        Ok(Self { rows, longest: longest.min(rows), strict: false })
    }

    /// The same for strict evaluation or not.
    pub(super) fn with_strict(self, strict: bool) -> Self {
        Self { strict, ..self }
    }

    /// Refuses a step beyond them.
    ///
    /// # Errors
    /// `Cap`.
    pub(super) fn check(&self, begin: &StepBegin) -> Result<(), Error> {
        let end = u64::from(begin.position) + u64::from(begin.tokens);
        let checks = [
            ("the last row of a step", end, self.rows),
            ("the number of tokens of a step", begin.tokens.into(), self.longest),
            ("the number of outputs of a step", begin.outputs.into(), MAX_DRAFT as usize + 1),
        ];
        match checks.into_iter().find(|&(_, have, need)| have > need as u64) {
            Some((field, have, need)) => Err(Error::Cap { field, have, need: need as u64 }),
            None => Ok(()),
        }
    }

    /// Memory that a session within them takes: four caches, the flights of its longest step, its bundle as bytes and as
    /// words, and bundles that wait.
    pub(super) fn memory_bytes(&self, shape: &Shape) -> u64 {
        let caches = 4 * 8 * shape.layers as u64 * shape.key() as u64 * self.rows as u64;
        let step = Step {
            number: 0,
            position: self.rows - self.longest,
            tokens: self.longest,
            outputs: self.longest.min(MAX_DRAFT as usize + 1),
            strict: self.strict,
        };
        let size = |kind: &FlightKind| kind.longest(shape, &step).size_bytes() as u64;
        // Two are here before a step is computed; later ones come and go, in bytes and in words, answered one by one.
        let first = size(&FlightKind::Prepare) + size(&FlightKind::Embed);
        let flights = 2 * first + 4 * FlightKind::ALL.iter().map(size).max().unwrap_or(0);
        let bundle = ProviderBundle::size_bytes(shape, &step) as u64;
        let waiting = (AHEAD as u64 * bundle).min(AHEAD_BYTES + bundle);
        caches + flights + 2 * bundle + waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(position: u32, tokens: u32, outputs: u32) -> StepBegin {
        StepBegin { session: [0; 16], number: 0, position, tokens, outputs, kept: 0, skipped: 0 }
    }

    #[test]
    fn steps_are_held_to_the_hello() {
        let counts = WireShape { public_tokens: 0, private_tokens: 90, max_new_tokens: 11 };
        let limits = Limits::new(&counts, 100, 64).unwrap();
        for allowed in [begin(0, 64, 0), begin(36, 64, 1), begin(99, 1, 1), begin(67, 33, 33)] {
            limits.check(&allowed).unwrap();
        }
        let refused = |begin: StepBegin| limits.check(&begin).unwrap_err().to_string();
        assert!(refused(begin(100, 1, 1)).contains("the last row of a step is 101 where at most 100"));
        assert!(refused(begin(u32::MAX, u32::MAX, 1)).contains("the last row"));
        assert!(refused(begin(0, 65, 1)).contains("tokens of a step is 65 where at most 64"));
        assert!(refused(begin(0, 40, 34)).contains("outputs of a step is 34 where at most 33"));
        assert!(Limits::new(&counts, 99, 64).is_err());
        // A short session has short steps.
        let short = WireShape { private_tokens: 2, max_new_tokens: 2, ..counts };
        assert!(Limits::new(&short, 100, 64).unwrap().check(&begin(0, 4, 1)).is_err());
    }

    #[test]
    fn more_rows_and_longer_steps_take_more_memory() {
        let shape =
            Shape { hidden: 64, intermediate: 176, layers: 2, heads: 4, key_heads: 2, head_dim: 16, vocab: 512 };
        let bytes = |rows, longest| Limits { rows, longest, strict: false }.memory_bytes(&shape);
        assert!(bytes(200, 8) > bytes(100, 8) && bytes(100, 16) > bytes(100, 8));
        assert!(bytes(100, 8) >= 4 * 8 * 2 * 32 * 100);
        assert!(Limits { rows: 100, longest: 8, strict: true }.memory_bytes(&shape) > bytes(100, 8));
    }
}
