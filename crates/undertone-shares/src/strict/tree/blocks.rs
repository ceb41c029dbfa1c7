//! ChaCha20 blocks under many short seeds at once: the generator of the trees.
//!
//! A seed of 128 bits is repeated to a key of 256, and the nonce names the gate, so that equal seeds of different gates
//! give different blocks. Lanes are plain arrays: the compiler makes vector instructions of them.

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Seeds that are expanded at a time.
pub(crate) const LANES: usize = 16;

/// One word of every lane.
pub(super) type Lane = [u32; LANES];

/// A seed of 128 bits for every lane.
#[derive(Default, Zeroize)]
pub(super) struct Seeds(pub(super) [Lane; 4]);

/// One block of every lane.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Blocks([Lane; 16]);

const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

impl Seeds {
    /// Puts a seed into a lane.
    pub(super) fn set(&mut self, lane: usize, seed: [u64; 2]) {
        for (i, word) in seed.into_iter().enumerate() {
            self.0[2 * i][lane] = word as u32;
            self.0[2 * i + 1][lane] = (word >> 32) as u32;
        }
    }

    /// The seed of a lane.
    pub(super) fn lane(&self, lane: usize) -> [u64; 2] {
        std::array::from_fn(|i| u64::from(self.0[2 * i][lane]) | u64::from(self.0[2 * i + 1][lane]) << 32)
    }

    /// A block of every lane, each at its own counter, for the gates whose numbers are given.
    pub(super) fn expand(&self, gates: &[u64; LANES], counters: Lane) -> Blocks {
        let mut start = [[0; LANES]; 16];
        start[..4].copy_from_slice(&CONSTANTS.map(|word| [word; LANES]));
        start[4..8].copy_from_slice(&self.0);
        start[8..12].copy_from_slice(&self.0);
        start[12] = counters;
        start[13] = gates.map(|gate| gate as u32);
        start[14] = gates.map(|gate| (gate >> 32) as u32);
        let mut state = start;
        for _ in 0..10 {
            quarter(&mut state, [0, 4, 8, 12]);
            quarter(&mut state, [1, 5, 9, 13]);
            quarter(&mut state, [2, 6, 10, 14]);
            quarter(&mut state, [3, 7, 11, 15]);
            quarter(&mut state, [0, 5, 10, 15]);
            quarter(&mut state, [1, 6, 11, 12]);
            quarter(&mut state, [2, 7, 8, 13]);
            quarter(&mut state, [3, 4, 9, 14]);
        }
        for (word, first) in state.iter_mut().zip(&start) {
            word.iter_mut().zip(first).for_each(|(word, first)| *word = word.wrapping_add(*first));
        }
        start.zeroize();
        Blocks(state)
    }
}

impl Blocks {
    /// Four words as seeds.
    pub(super) fn seeds(&self, first: usize) -> Seeds {
        Seeds(std::array::from_fn(|i| self.0[first + i]))
    }

    /// The lowest bit of a word of every lane.
    pub(super) fn bit(&self, word: usize) -> Lane {
        self.0[word].map(|word| word & 1)
    }

    /// Words `first` and `first + 1` of a lane.
    pub(super) fn word(&self, first: usize, lane: usize) -> u64 {
        u64::from(self.0[first][lane]) | u64::from(self.0[first + 1][lane]) << 32
    }
}

/// Sixteen lanes in one loop: shorter arrays, or a loop for every operation, are not made into vector instructions.
#[inline(always)]
fn quarter(state: &mut [Lane; 16], [a, b, c, d]: [usize; 4]) {
    let [mut p, mut q, mut r, mut s] = [state[a], state[b], state[c], state[d]];
    for lane in 0..LANES {
        p[lane] = p[lane].wrapping_add(q[lane]);
        s[lane] = (s[lane] ^ p[lane]).rotate_left(16);
        r[lane] = r[lane].wrapping_add(s[lane]);
        q[lane] = (q[lane] ^ r[lane]).rotate_left(12);
        p[lane] = p[lane].wrapping_add(q[lane]);
        s[lane] = (s[lane] ^ p[lane]).rotate_left(8);
        r[lane] = r[lane].wrapping_add(s[lane]);
        q[lane] = (q[lane] ^ r[lane]).rotate_left(7);
    }
    [state[a], state[b], state[c], state[d]] = [p, q, r, s];
}

#[cfg(test)]
mod tests {
    use super::*;
    use chacha20::ChaCha20;
    use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};

    #[test]
    fn lanes_are_the_cipher() {
        let mut seeds = Seeds::default();
        let seed = |lane: u64| [lane.wrapping_mul(0x9e37_79b9_7f4a_7c15), !lane];
        (0..LANES).for_each(|lane| seeds.set(lane, seed(lane as u64)));
        let gates = std::array::from_fn(|lane| (lane as u64) << 33 | 5);
        for counter in [0, 1, 7] {
            let blocks = seeds.expand(&gates, [counter; LANES]);
            for (lane, gate) in gates.iter().enumerate() {
                assert_eq!(seeds.lane(lane), seed(lane as u64));
                let half: Vec<u8> = seed(lane as u64).iter().flat_map(|word| word.to_le_bytes()).collect();
                let key: [u8; 32] = [&half[..], &half[..]].concat().try_into().unwrap();
                let mut nonce = [0u8; 12];
                nonce[..8].copy_from_slice(&gate.to_le_bytes());
                let mut cipher = ChaCha20::new((&key).into(), (&nonce).into());
                cipher.seek(64 * u64::from(counter));
                let mut need = [0u8; 64];
                cipher.apply_keystream(&mut need);
                for i in 0..8 {
                    assert_eq!(blocks.word(2 * i, lane).to_le_bytes(), need[8 * i..8 * i + 8]);
                }
            }
        }
    }
}
