//! Shares of a secret word list at a secret place, and of zero at all others: all 256 places at once.
//!
//! Source: Boyle, Gilboa, Ishai (CCS 2016, "Function secret sharing: improvements and extensions"), with the last
//! two levels replaced by longer leaves. A key is a seed correction of two words for each of six levels, one word of
//! corrections of bits, and a correction for every payload word of a leaf of four places. Both parties get the
//! same key and roots of their own.

use super::blocks::{Blocks, LANES};
use super::{chosen, signed_sum};

/// Bits of a place.
pub(crate) const PLACE_BITS: u32 = 8;
/// Places.
pub(crate) const PLACES: usize = 1 << PLACE_BITS;
/// Levels of the tree, below which a leaf has [`GROUP`] places.
const LEVELS: usize = 6;
/// Places of a leaf.
const GROUP: usize = PLACES >> LEVELS;
/// Words of one block.
const BLOCK: usize = 8;

/// The payload words of points.
#[derive(Clone, Copy)]
pub(crate) struct Point {
    /// Words at every place.
    pub(crate) payload: usize,
}

impl Point {
    /// Words of a key.
    pub(crate) fn words(&self) -> usize {
        2 * LEVELS + 1 + GROUP * self.payload
    }

    /// The keys of at most [`LANES`] gates from number `first` on, appended.
    ///
    /// # Shapes
    /// `roots` has two words for every party and gate, `values` the payload of every gate.
    pub(crate) fn keys(&self, roots: [&[u64]; 2], (places, values): (&[u64], &[u64]), first: u64, out: &mut [u64]) {
        let (words, count) = (self.words(), places.len());
        let gates = std::array::from_fn(|lane| first + lane as u64);
        let mut seeds = roots.map(super::seeds);
        let mut bits = [[0u64; LANES], [1; LANES]];
        for level in 0..LEVELS {
            let children = seeds.each_ref().map(|seeds| seeds.expand(&gates, [0; LANES]));
            for lane in 0..count {
                let step = places[lane] >> (PLACE_BITS as usize - 1 - level) & 1;
                let child = |party: usize, side: u64| {
                    let [left, right] = [0, 5].map(|first| children[party].seeds(first).lane(lane));
                    [chosen(side, left[0], right[0]), chosen(side, left[1], right[1])]
                };
                let bit = |party: usize, side: usize| u64::from(children[party].bit(4 + 5 * side)[lane]);
                let key = &mut out[lane * words..(lane + 1) * words];
                let lost = [child(0, step ^ 1), child(1, step ^ 1)];
                let correction: [u64; 2] = std::array::from_fn(|i| lost[0][i] ^ lost[1][i]);
                key[2 * level..2 * level + 2].copy_from_slice(&correction);
                let sides = [0, 1].map(|side| bit(0, side) ^ bit(1, side) ^ step ^ (side as u64 ^ 1));
                key[2 * LEVELS] |= (sides[0] | sides[1] << 1) << (2 * level);
                let kept = chosen(step, sides[0], sides[1]);
                for party in 0..2 {
                    let (mut next, on) = (child(party, step), bits[party][lane].wrapping_neg());
                    next.iter_mut().zip(correction).for_each(|(word, correction)| *word ^= on & correction);
                    let own = chosen(step, bit(party, 0), bit(party, 1));
                    bits[party][lane] = own ^ (bits[party][lane] & kept);
                    seeds[party].set(lane, next);
                }
            }
        }
        let k = self.payload;
        let leaves = seeds.each_ref().map(|seeds| self.leaf(seeds, &gates));
        for lane in 0..count {
            for i in 0..GROUP * k {
                let here = u64::from(places[lane] % GROUP as u64 == (i / k) as u64);
                let [first, second] = leaves.each_ref().map(|blocks| word(blocks, i, lane));
                let due = (here.wrapping_neg() & values[lane * k + i % k]).wrapping_sub(first).wrapping_add(second);
                out[lane * words + 2 * LEVELS + 1 + i] = signed_sum(bits[1][lane], 0, due);
            }
        }
        zeroize::Zeroize::zeroize(&mut seeds);
    }

    /// A party's share at every place, `payload` words each, of gate number `gate`.
    pub(crate) fn evaluate(&self, party: u64, root: [u64; 2], key: &[u64], gate: u64, out: &mut [u64]) {
        let mut nodes = vec![(root, party)];
        let mut next = Vec::with_capacity(PLACES / GROUP);
        for level in 0..LEVELS {
            next.clear();
            let correction = [key[2 * level], key[2 * level + 1]];
            let packed = key[2 * LEVELS] >> (2 * level);
            for nodes in nodes.chunks(LANES) {
                let children = lanes(nodes).expand(&[gate; LANES], [0; LANES]);
                for (lane, (_, on)) in nodes.iter().enumerate() {
                    for side in 0..2 {
                        let mut seed = children.seeds(5 * side).lane(lane);
                        seed.iter_mut().zip(correction).for_each(|(word, c)| *word ^= on.wrapping_neg() & c);
                        let bit = u64::from(children.bit(4 + 5 * side)[lane]) ^ (on & (packed >> side & 1));
                        next.push((seed, bit));
                    }
                }
            }
            std::mem::swap(&mut nodes, &mut next);
        }
        let size = GROUP * self.payload;
        for (nodes, out) in nodes.chunks(LANES).zip(out.chunks_mut(LANES * size)) {
            let blocks = self.leaf(&lanes(nodes), &[gate; LANES]);
            for (lane, (_, on)) in nodes.iter().enumerate() {
                for i in 0..size {
                    let correction = on.wrapping_neg() & key[2 * LEVELS + 1 + i];
                    out[lane * size + i] = signed_sum(party, 0, word(&blocks, i, lane).wrapping_add(correction));
                }
            }
        }
        zeroize::Zeroize::zeroize(&mut nodes);
        zeroize::Zeroize::zeroize(&mut next);
    }

    /// The blocks of leaves.
    fn leaf(&self, seeds: &super::Seeds, gates: &[u64; LANES]) -> Vec<Blocks> {
        let count = (GROUP * self.payload).div_ceil(BLOCK) as u32;
        (1..=count).map(|counter| seeds.expand(gates, [counter; LANES])).collect()
    }
}

fn word(blocks: &[Blocks], i: usize, lane: usize) -> u64 {
    blocks[i / BLOCK].word(2 * (i % BLOCK), lane)
}

fn lanes(nodes: &[([u64; 2], u64)]) -> super::Seeds {
    let mut seeds = super::Seeds::default();
    nodes.iter().enumerate().for_each(|(lane, (seed, _))| seeds.set(lane, *seed));
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Draw, Seed};

    #[test]
    fn shares_add_up_to_the_payload_at_its_place_and_to_zero_elsewhere() {
        for payload in [1, 3, 6] {
            let point = Point { payload };
            let seed = Seed::from_bytes([payload as u8; 32]);
            for places in [[0, 255, 1, 254, 3, 4, 128, 127], [77, 78, 79, 80, 81, 82, 83, 84]] {
                let values = seed.words(Draw(1), 0, LANES * payload);
                let roots = [seed.words(Draw(2), 0, 2 * LANES), seed.words(Draw(3), 0, 2 * LANES)];
                let mut keys = vec![0; LANES * point.words()];
                point.keys([&roots[0], &roots[1]], (&places, &values), 9, &mut keys);
                for (gate, place) in places.into_iter().enumerate() {
                    let key = &keys[gate * point.words()..][..point.words()];
                    let shares = [0, 1].map(|party: usize| {
                        let mut out = vec![0; PLACES * payload];
                        let root = [roots[party][2 * gate], roots[party][2 * gate + 1]];
                        point.evaluate(party as u64, root, key, 9 + gate as u64, &mut out);
                        out
                    });
                    for i in 0..PLACES * payload {
                        let need = if i / payload == place as usize { values[gate * payload + i % payload] } else { 0 };
                        assert_eq!(shares[0][i].wrapping_add(shares[1][i]), need);
                    }
                }
            }
        }
    }
}
