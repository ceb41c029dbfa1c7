//! Where the levels of a softmax go: which sums are bootstrapped, and from which level attention has to start.
//!
//! Attention runs scores, exponential, k rounds of y ← y² / Σ y², values and output projection between two bootstraps
//! of the residual stream. The inverse of each sum takes more levels than the main track has to spare, so a sum is
//! either bootstrapped alone (it is small) or, where levels are left, inverted as it stands. The search below tries
//! every combination and prefers, in this order: fewer bootstraps of the scores, fewer of the sums, a lower start.

use undertone_he::Chain;

/// Most rounds that are searched.
pub(crate) const MOST_ROUNDS: usize = 8;

/// The depths of the parts of one attention circuit.
#[derive(Debug, Clone)]
pub(crate) struct AttentionDepths {
    /// From queries and keys to scores.
    pub scores: usize,
    /// The exponential.
    pub exponential: usize,
    /// Per round, from a sum that was not bootstrapped to its inverse.
    pub direct: Vec<usize>,
    /// Per round, from a bootstrapped sum to its inverse.
    pub bootstrapped: Vec<usize>,
    /// From squared weights to the weighted sum of values.
    pub values: usize,
    /// Newton steps after the last inverse, which then needs a bootstrapped sum.
    pub newton_steps: usize,
    /// Levels between the last squares and the sum that the Newton steps use, and back.
    pub newton_detour: usize,
}

/// The levels of one attention circuit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttentionLevels {
    /// Level of queries and keys.
    pub start: usize,
    /// Per round, whether the sum is inverted without a bootstrap.
    pub direct: Vec<bool>,
    /// Per round, whether the weights are bootstrapped before it.
    pub refresh: Vec<bool>,
    /// Level of the squared weights of the last round, which the values meet.
    pub last_square: usize,
}

impl AttentionLevels {
    /// Bootstraps of weights and of sums, the dear ones first.
    pub(crate) fn bootstraps(&self) -> (usize, usize) {
        let set = |flags: &[bool]| flags.iter().filter(|&&flag| flag).count();
        (set(&self.refresh), self.direct.len() - set(&self.direct))
    }
}

/// The best schedule, if any exists.
pub(crate) fn schedule(chain: Chain, depths: &AttentionDepths) -> Option<AttentionLevels> {
    let rounds = depths.direct.len();
    if rounds == 0 || rounds > MOST_ROUNDS {
        return None;
    }
    let mut best: Option<((usize, usize, usize), AttentionLevels)> = None;
    for mask in 0..1u32 << rounds {
        let direct: Vec<bool> = (0..rounds).map(|i| mask >> i & 1 == 1).collect();
        for start in chain.boot_level..=chain.top_level {
            let Some(found) = simulate(chain, depths, start, &direct) else { continue };
            let (refreshes, sums) = found.bootstraps();
            let key = (refreshes, sums, start);
            if best.as_ref().is_none_or(|(least, _)| key < *least) {
                best = Some((key, found));
            }
        }
    }
    best.map(|(_, levels)| levels)
}

/// The levels when attention starts at `start`, or nothing when they do not suffice.
fn simulate(chain: Chain, depths: &AttentionDepths, start: usize, direct: &[bool]) -> Option<AttentionLevels> {
    let rounds = direct.len();
    let mut level = start.checked_sub(depths.scores + depths.exponential)?;
    let mut refresh = vec![false; rounds];
    let mut last_square = 0;
    for round in 0..rounds {
        let next = |level| step(chain, depths, round, direct[round], level);
        let (square, after) = match next(level) {
            Some(found) => found,
            // Scaling into the range of a bootstrap and back takes a level on either side.
            None if level > chain.boot_level => {
                refresh[round] = true;
                next(chain.top_level - 1)?
            }
            None => return None,
        };
        (last_square, level) = (square, after);
    }
    Some(AttentionLevels { start, direct: direct.to_vec(), refresh, last_square })
}

/// One round from weights at `level`: the level of the squares, and that of the next weights or of the residual sum.
fn step(chain: Chain, depths: &AttentionDepths, round: usize, direct: bool, level: usize) -> Option<(usize, usize)> {
    let square = level.checked_sub(1)?;
    let inverse = if direct {
        square.checked_sub(depths.direct[round])?
    } else if square > chain.boot_level {
        chain.top_level.checked_sub(depths.bootstrapped[round])?
    } else {
        return None;
    };
    let last = round + 1 == depths.direct.len();
    let inverse = if last && depths.newton_steps > 0 {
        if direct {
            return None;
        }
        inverse.min(square).checked_sub(2 * depths.newton_steps + depths.newton_detour)?
    } else {
        inverse
    };
    let after = if last {
        square.checked_sub(depths.values)?.min(inverse).checked_sub(2)?
    } else {
        square.min(inverse).checked_sub(1)?
    };
    (after >= chain.boot_level).then_some((square, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: Chain = Chain { log_n: 12, top_level: 21, boot_level: 3, max_level: 32, product_prime: None };

    fn depths(rounds: usize, exponential: usize) -> AttentionDepths {
        AttentionDepths {
            scores: 3,
            exponential,
            direct: vec![6; rounds],
            bootstrapped: vec![5; rounds],
            values: 2,
            newton_steps: 0,
            newton_detour: 0,
        }
    }

    #[test]
    fn one_round_needs_no_bootstrap_of_its_sum() {
        let found = schedule(CHAIN, &depths(1, 4)).unwrap();
        // 3 scores, 4 exponential, 1 square, 6 inverse, 1 product, 1 projection above level 3.
        assert_eq!(found, AttentionLevels { start: 19, direct: vec![true], refresh: vec![false], last_square: 11 });
    }

    #[test]
    fn newton_steps_lower_the_last_inverse_and_need_its_bootstrap() {
        let refined = AttentionDepths { newton_steps: 1, ..depths(1, 4) };
        let found = schedule(CHAIN, &refined).unwrap();
        // 3 scores, 4 exponential, 1 square, 2 for the step, 1 product, 1 projection above level 3.
        assert_eq!((found.start, found.direct), (15, vec![false]));
    }

    #[test]
    fn four_rounds_fit_with_bootstrapped_sums() {
        let found = schedule(CHAIN, &depths(4, 4)).unwrap();
        // 3 + 4 + 3·2 + 1 + 2 + 1 + 1 = 18 levels.
        assert_eq!((found.start, found.last_square), (21, 7));
        assert!(found.direct.iter().chain(&found.refresh).all(|&flag| !flag));
    }

    #[test]
    fn more_rounds_bootstrap_the_weights_once() {
        let found = schedule(CHAIN, &depths(6, 5)).unwrap();
        assert_eq!(found.refresh.iter().filter(|&&r| r).count(), 1);
        assert!(schedule(CHAIN, &depths(MOST_ROUNDS + 1, 4)).is_none());
        assert!(schedule(CHAIN, &depths(1, 19)).is_none());
    }
}
