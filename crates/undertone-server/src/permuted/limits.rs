//! What a session of the provider may do, from the counts of its hello: that much memory is reserved, and steps are held to it.
//!
//! In a hello of this mode all tokens are private: `private_tokens` counts the rows of the prompt's steps, filler included,
//! and of drafted tokens.

use undertone_protocol::Error;
use undertone_protocol::message::WireShape;
use undertone_protocol::modes::permuted::deal::MAX_DRAFT;
use undertone_protocol::modes::permuted::message::StepBegin;
use undertone_shares::{Bundle, FlightKind, MAX_BUNDLE_BYTES, MAX_FLIGHT_BYTES, ProviderBundle, Shape, Step};

/// Bundles pulled ahead of their use, at most.
const AHEAD: usize = 4;
/// Bytes of waiting bundles from which on no more are pulled, unless a single one has more.
const AHEAD_BYTES: u64 = 64 << 20;

/// The limits of one session.
#[derive(Debug, Clone, Copy)]
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

    /// The most that a step of this number can be that begins at `position`; none where no row is left. Bundles and flights
    /// grow with each of its counts.
    fn largest(&self, number: u64, position: usize) -> Option<Step> {
        let tokens = self.rows.checked_sub(position).filter(|&left| left > 0)?.min(self.longest);
        Some(Step { number, position, tokens, outputs: tokens.min(MAX_DRAFT as usize + 1), strict: self.strict })
    }

    /// Most bytes of the bundle of a step that begins at `position`; none where the session can have no such step.
    pub(super) fn bundle_bytes(&self, shape: &Shape, position: usize) -> Option<u64> {
        let bytes = |step| ProviderBundle::size_bytes(shape, &step).min(MAX_BUNDLE_BYTES) as u64;
        self.largest(0, position).map(bytes)
    }

    /// Whether no more bundles may be pulled while `stock` of them with `waiting` bytes wait and the next may have
    /// `next_bytes`.
    pub(super) fn is_full(&self, shape: &Shape, (stock, waiting): (usize, u64), next_bytes: u64) -> bool {
        stock >= AHEAD || (stock > 0 && waiting + next_bytes > self.waiting_bytes(shape))
    }

    /// Most bytes of all bundles that wait.
    pub(super) fn waiting_bytes(&self, shape: &Shape) -> u64 {
        let bundle = self.bundle_bytes(shape, self.rows - self.longest).unwrap_or(0);
        (AHEAD as u64 * bundle).min(AHEAD_BYTES + bundle)
    }

    /// Refuses a pulled bundle that is not for the step of this number at this position, or beyond these limits.
    ///
    /// # Errors
    /// `Unexpected`, `Cap`.
    pub(super) fn check_pulled(&self, step: &Step, number: u64, position: usize) -> Result<(), Error> {
        let places = [
            ("the step of a bundle", step.number, number),
            ("the position of a bundle", step.position as u64, position as u64),
        ];
        if let Some((field, have, need)) = places.into_iter().find(|&(_, have, need)| have != need) {
            return Err(Error::Unexpected { field, have, need });
        }
        let (have, need) = (step.tokens as u64, self.largest(number, position).map_or(0, |most| most.tokens as u64));
        if have > need {
            return Err(Error::Cap { field: "the number of tokens of a dealt step", have, need });
        }
        Ok(())
    }

    /// Memory that a session within them takes: four caches, the flights of its longest step, its bundle as bytes and as
    /// words, bundles that wait, and one that arrives, which is copied while it grows.
    pub(super) fn memory_bytes(&self, shape: &Shape) -> u64 {
        let caches = 4 * 8 * shape.layers as u64 * shape.key() as u64 * self.rows as u64;
        // There is a row at least, because a hello has a private token.
        let Some(step) = self.largest(0, self.rows - self.longest) else { return caches };
        let size = |kind: &FlightKind| kind.longest(shape, &step).size_bytes().min(MAX_FLIGHT_BYTES) as u64;
        // Two are here before a step is computed; later ones come and go, in bytes and in words, answered one by one.
        let first = size(&FlightKind::Prepare) + size(&FlightKind::Embed);
        let flights = 2 * first + 4 * FlightKind::ALL.iter().map(size).max().unwrap_or(0);
        let bundle = self.bundle_bytes(shape, step.position).unwrap_or(0);
        // What waits leaves room for one that arrives; its copy is beside that.
        caches + flights + 3 * bundle + self.waiting_bytes(shape)
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
    fn bundles_are_as_large_as_a_step_can_be_where_it_begins() {
        let shape =
            Shape { hidden: 64, intermediate: 176, layers: 2, heads: 4, key_heads: 2, head_dim: 16, vocab: 512 };
        for strict in [false, true] {
            let limits = Limits { rows: 20, longest: 8, strict };
            let step = |number, position, tokens, outputs| Step { number, position, tokens, outputs, strict };
            let bytes =
                |position, tokens| ProviderBundle::size_bytes(&shape, &step(0, position, tokens, tokens)) as u64;
            // Of all steps that are allowed, none is larger than the bound where it begins, and the bound is met.
            for position in 0..20 {
                let most = (1..=8.min(20 - position)).map(|tokens| bytes(position, tokens)).max();
                assert_eq!(limits.bundle_bytes(&shape, position), most);
                assert!(limits.waiting_bytes(&shape) >= most.unwrap());
            }
            assert!([20, 21, usize::MAX].iter().all(|&position| limits.bundle_bytes(&shape, position).is_none()));
            // One bundle may always be pulled; more only while what waits leaves room for the next.
            let (next, reserved) = (bytes(12, 8), limits.waiting_bytes(&shape));
            assert!(!limits.is_full(&shape, (0, 0), next) && !limits.is_full(&shape, (1, reserved - next), next));
            assert!(limits.is_full(&shape, (1, reserved - next + 1), next) && limits.is_full(&shape, (4, 0), 1));
            let pulled = |number, position, tokens| limits.check_pulled(&step(number, position, tokens, 1), 3, 14);
            assert!(pulled(3, 14, 6).is_ok() && pulled(3, 14, 7).is_err() && pulled(3, 13, 1).is_err());
            assert!(pulled(2, 14, 1).unwrap_err().to_string().contains("the step of a bundle is 2 where 3"));
        }
        // Keys of a step that no wire carries are neither waited for nor counted.
        let wide = Shape { intermediate: 1 << 17, ..shape };
        let (most, limits) = (MAX_BUNDLE_BYTES as u64, Limits { rows: 64, longest: 64, strict: true });
        assert_eq!(limits.bundle_bytes(&wide, 0), Some(most));
        assert!(limits.memory_bytes(&wide) < 5 * most + 8 * MAX_FLIGHT_BYTES as u64);
        assert!(Limits { strict: false, ..limits }.bundle_bytes(&wide, 0) < Some(most));
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
