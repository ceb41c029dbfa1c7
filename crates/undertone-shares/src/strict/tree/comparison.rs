//! Shares of a secret word list on one side of a secret threshold, of another on the other side.
//!
//! For a threshold α of `levels` bits the two parties' results at a point y add up to `below` where y < α and to `above`
//! elsewhere. Source: Boyle, Chandran, Gilboa, Gupta, Ishai, Kumar, Rathee (eprint 2020/1392, figure 1), where values
//! of the other side are 0: here the sum along the path of α starts at -`above` instead. A key is, for every level,
//! a seed of two words and a correction for each payload word; then the corrections of the bits of all levels,
//! packed; then the last correction. Both parties get the same key and roots of their own.

use rayon::prelude::*;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::blocks::{Blocks, LANES, Seeds};
use super::{chosen, signed_sum};

/// Payload words that one block has room for beside the seed and the bit.
pub(crate) const MAX_PAYLOAD: usize = 5;

/// The dimensions of comparisons.
#[derive(Clone, Copy)]
pub(crate) struct Comparison {
    /// Bits of thresholds and points, at most 64.
    pub(crate) levels: u32,
    /// Words of the payload, at most [`MAX_PAYLOAD`].
    pub(crate) payload: usize,
}

/// What the dealer makes keys from, gate after gate; `payload` words each of the last two.
pub(crate) struct Thresholds<'a> {
    pub(crate) at: &'a [u64],
    pub(crate) below: &'a [u64],
    pub(crate) above: &'a [u64],
}

impl Comparison {
    /// Words of a key.
    pub(crate) fn words(&self) -> usize {
        let levels = self.levels as usize;
        levels * (2 + self.payload) + levels.div_ceil(32) + self.payload
    }

    /// Where the packed bits begin.
    fn bits_at(&self) -> usize {
        self.levels as usize * (2 + self.payload)
    }

    /// The keys of gates `first..`, one after the other.
    ///
    /// # Shapes
    /// `roots` has two words for every party and gate.
    pub(crate) fn keys(&self, roots: [&[u64]; 2], thresholds: &Thresholds<'_>, first: u64) -> Vec<u64> {
        let (words, k) = (self.words(), self.payload);
        let mut out = vec![0u64; thresholds.at.len() * words];
        out.par_chunks_mut(LANES * words).enumerate().for_each(|(chunk, out)| {
            let start = chunk * LANES;
            let count = out.len() / words;
            let range = start..start + count;
            let part = Thresholds {
                at: &thresholds.at[range.clone()],
                below: &thresholds.below[start * k..range.end * k],
                above: &thresholds.above[start * k..range.end * k],
            };
            let roots = roots.map(|roots| &roots[2 * start..2 * range.end]);
            self.chunk_keys(roots, &part, first + start as u64, out);
        });
        out
    }

    /// The keys of at most [`LANES`] gates.
    fn chunk_keys(&self, roots: [&[u64]; 2], thresholds: &Thresholds<'_>, first: u64, out: &mut [u64]) {
        let words = self.words();
        let gates = std::array::from_fn(|lane| first + lane as u64);
        let mut paths = Paths::new(roots, thresholds, self.payload);
        for level in 0..self.levels as usize {
            let sides = [0, 1].map(|side| paths.seeds.each_ref().map(|seeds| seeds.expand(&gates, [side; LANES])));
            for (lane, key) in out.chunks_exact_mut(words).enumerate() {
                self.correct_level(level, thresholds, &Children { sides: &sides, lane }, &mut paths, key);
            }
        }
        let last = paths.seeds.each_ref().map(|seeds| seeds.expand(&gates, [2; LANES]));
        for (lane, key) in out.chunks_exact_mut(words).enumerate() {
            self.correct_last(&last, &paths, lane, &mut key[words - self.payload..]);
        }
    }

    /// The corrections of a level in a lane's key, and the step of its path to the next.
    fn correct_level(
        &self,
        level: usize,
        thresholds: &Thresholds<'_>,
        children: &Children<'_>,
        paths: &mut Paths,
        key: &mut [u64],
    ) {
        let (k, lane) = (self.payload, children.lane);
        let step = thresholds.at[lane] >> (self.levels as usize - 1 - level) & 1;
        let (keep, lose) = (step, step ^ 1);
        let (negative, sums) = (paths.bits[1][lane], &mut paths.sums[lane]);
        let lost = [0, 1].map(|party| children.seed(lose, party));
        let correction: [u64; 2] = std::array::from_fn(|i| lost[0][i] ^ lost[1][i]);
        let (seed_words, values) = key[level * (2 + k)..][..2 + k].split_at_mut(2);
        seed_words.copy_from_slice(&correction);
        for (j, (word, sum)) in values.iter_mut().zip(sums).enumerate() {
            let beta = thresholds.below[lane * k + j].wrapping_sub(thresholds.above[lane * k + j]);
            // Whoever leaves the path to the left is below the threshold.
            let gain = chosen(lose, beta, 0);
            let [first, second] = [0, 1].map(|party| children.value(lose, party, j));
            *word = signed_sum(negative, 0, second.wrapping_sub(first).wrapping_sub(*sum).wrapping_add(gain));
            let [first, second] = [0, 1].map(|party| children.value(keep, party, j));
            *sum = signed_sum(negative, sum.wrapping_add(first).wrapping_sub(second), *word);
        }
        let bits = [0, 1].map(|side| children.bit(side, 0) ^ children.bit(side, 1) ^ step ^ (side ^ 1));
        key[self.bits_at() + level / 32] |= (bits[0] | bits[1] << 1) << (2 * (level % 32));
        paths.follow(children, keep, correction, chosen(keep, bits[0], bits[1]));
    }

    /// The last correction of a lane's key, from both parties' blocks below the last level.
    fn correct_last(&self, last: &[Blocks; 2], paths: &Paths, lane: usize, key: &mut [u64]) {
        for (j, (word, sum)) in key.iter_mut().zip(&paths.sums[lane]).enumerate() {
            let [first, second] = [0, 1].map(|party: usize| last[party].word(6 + 2 * j, lane));
            *word = signed_sum(paths.bits[1][lane], 0, second.wrapping_sub(first).wrapping_sub(*sum));
        }
    }

    /// A party's results at points, `payload` words each: point `i` belongs to the gate `i / points_per_gate`.
    ///
    /// # Shapes
    /// `roots` has two words for every gate, `keys` all keys.
    pub(crate) fn evaluate(
        &self,
        party: u64,
        (roots, keys, first): (&[u64], &[u64], u64),
        points: &[u64],
        points_per_gate: usize,
    ) -> Vec<u64> {
        let k = self.payload;
        let mut out = vec![0u64; points.len() * k];
        let chunks = out.par_chunks_mut(LANES * k).zip(points.par_chunks(LANES)).enumerate();
        chunks.for_each(|(chunk, (out, points))| {
            let gate = |lane: usize| (chunk * LANES + lane.min(points.len() - 1)) / points_per_gate;
            let gates: [usize; LANES] = std::array::from_fn(gate);
            self.chunk(party, (roots, keys, first), &gates, points, out);
        });
        out
    }

    fn chunk(
        &self,
        party: u64,
        (roots, keys, first): (&[u64], &[u64], u64),
        gates: &[usize; LANES],
        points: &[u64],
        out: &mut [u64],
    ) {
        let (words, k) = (self.words(), self.payload);
        let numbers = gates.map(|gate| first + gate as u64);
        let key = |lane: usize| &keys[gates[lane] * words..(gates[lane] + 1) * words];
        let mut seeds = Seeds::default();
        (0..LANES).for_each(|lane| seeds.set(lane, [roots[2 * gates[lane]], roots[2 * gates[lane] + 1]]));
        let mut bits = [party; LANES];
        let mut add = |lane: usize, bit: u64, blocks: &Blocks, corrections: &[u64]| {
            for (j, (out, correction)) in out[lane * k..(lane + 1) * k].iter_mut().zip(corrections).enumerate() {
                let value = blocks.word(6 + 2 * j, lane).wrapping_add(bit.wrapping_neg() & correction);
                *out = signed_sum(party, *out, value);
            }
        };
        for level in 0..self.levels as usize {
            // The point is opened to both parties, so which child is taken is no secret.
            let shift = self.levels as usize - 1 - level;
            let steps: [u64; LANES] =
                std::array::from_fn(|lane| points.get(lane).map_or(0, |point| point >> shift & 1));
            let blocks = seeds.expand(&numbers, steps.map(|step| step as u32));
            for (lane, step) in steps.into_iter().enumerate().take(points.len()) {
                let key = key(lane);
                let at = level * (2 + k);
                add(lane, bits[lane], &blocks, &key[at + 2..at + 2 + k]);
                let on = bits[lane].wrapping_neg();
                let mut next = blocks.seeds(0).lane(lane);
                next.iter_mut().zip(&key[at..at + 2]).for_each(|(word, correction)| *word ^= on & correction);
                let packed = key[self.bits_at() + level / 32] >> (2 * (level % 32));
                bits[lane] = u64::from(blocks.bit(4)[lane]) ^ (bits[lane] & (packed >> step & 1));
                seeds.set(lane, next);
            }
        }
        let last = seeds.expand(&numbers, [2; LANES]);
        for (lane, bit) in bits.into_iter().enumerate().take(points.len()) {
            add(lane, bit, &last, &key(lane)[words - k..]);
        }
        seeds.zeroize();
    }
}

/// Where both parties are on the paths of the thresholds.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Paths {
    seeds: [Seeds; 2],
    bits: [[u64; LANES]; 2],
    /// The sums along the paths so far, less what they are to be beyond.
    sums: [[u64; MAX_PAYLOAD]; LANES],
}

impl Paths {
    fn new(roots: [&[u64]; 2], thresholds: &Thresholds<'_>, payload: usize) -> Self {
        let mut sums = [[0u64; MAX_PAYLOAD]; LANES];
        for (sums, above) in sums.iter_mut().zip(thresholds.above.chunks_exact(payload)) {
            sums.iter_mut().zip(above).for_each(|(sum, above)| *sum = above.wrapping_neg());
        }
        let paths = Self { seeds: roots.map(super::seeds), bits: [[0; LANES], [1; LANES]], sums };
        // The paths have a copy.
        sums.zeroize();
        paths
    }

    /// Takes a lane to the children that are kept, under the corrections of their seeds and of their bits.
    fn follow(&mut self, children: &Children<'_>, keep: u64, correction: [u64; 2], bit_correction: u64) {
        let lane = children.lane;
        for (party, (seeds, bits)) in self.seeds.iter_mut().zip(&mut self.bits).enumerate() {
            let (mut next, on) = (children.seed(keep, party), bits[lane].wrapping_neg());
            next.iter_mut().zip(correction).for_each(|(word, correction)| *word ^= on & correction);
            bits[lane] = children.bit(keep, party) ^ (bits[lane] & bit_correction);
            seeds.set(lane, next);
        }
    }
}

/// What both parties find in a lane on either side of a level; the side is secret, the party is not.
struct Children<'a> {
    sides: &'a [[Blocks; 2]; 2],
    lane: usize,
}

impl Children<'_> {
    fn seed(&self, side: u64, party: usize) -> [u64; 2] {
        let [left, right] = [0, 1].map(|side: usize| self.sides[side][party].seeds(0).lane(self.lane));
        [chosen(side, left[0], right[0]), chosen(side, left[1], right[1])]
    }

    fn bit(&self, side: u64, party: usize) -> u64 {
        let [left, right] = [0, 1].map(|side: usize| self.sides[side][party].bit(4)[self.lane].into());
        chosen(side, left, right)
    }

    fn value(&self, side: u64, party: usize, j: usize) -> u64 {
        let [left, right] = [0, 1].map(|side: usize| self.sides[side][party].word(6 + 2 * j, self.lane));
        chosen(side, left, right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Draw, Seed};

    /// All points where the result changes, and some between, for thresholds at both ends and inside.
    #[test]
    fn results_add_up_to_the_side_of_the_threshold() {
        for (levels, payload) in [(1, 1), (8, 3), (31, 2), (33, 5), (63, 2), (64, 1)] {
            let comparison = Comparison { levels, payload };
            let most = u64::MAX >> (64 - levels);
            let random = |draw, len| Seed::from_bytes([levels as u8; 32]).words(Draw(draw), 0, len);
            let mut at: Vec<u64> = random(1, 11).iter().map(|word| word & most).collect();
            at.extend([0, most, 1 & most]);
            let [below, above] = [2, 3].map(|draw| random(draw, at.len() * payload));
            let roots = [random(4, 2 * at.len()), random(5, 2 * at.len())];
            let thresholds = Thresholds { at: &at, below: &below, above: &above };
            let keys = comparison.keys([&roots[0], &roots[1]], &thresholds, 77);
            assert_eq!(keys.len(), at.len() * comparison.words());
            let points: Vec<u64> = at
                .iter()
                .zip(random(6, at.len()).iter())
                .flat_map(|(at, word)| [at.wrapping_sub(1) & most, *at, at.wrapping_add(1) & most, word & most])
                .collect();
            let results =
                [0, 1].map(|party| comparison.evaluate(party, (&roots[party as usize], &keys, 77), &points, 4));
            for (i, point) in points.iter().enumerate() {
                for j in 0..payload {
                    let have = results[0][i * payload + j].wrapping_add(results[1][i * payload + j]);
                    let side = if *point < at[i / 4] { &below } else { &above };
                    assert_eq!(have, side[i / 4 * payload + j], "{levels} {point:x}");
                }
            }
        }
    }
}
