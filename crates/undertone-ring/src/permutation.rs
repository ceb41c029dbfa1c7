//! Automorphisms X -> X^g as permutations of bit-reversed NTT values.
//!
//! Entry i holds the value at psi^(2k+1), k = bitrev(i); its image is the value at psi^(g(2k+1)). The low three bits
//! of i are the top three bits of k, so an aligned block of eight entries comes from one aligned block of eight:
//! with k' = (g(2k+1)-1)/2 for the block's first entry, offset t in k (units of N/8) becomes k' + g*t*N/8.
//! The order within the block depends only on g mod 8 and on the top three bits of k'.

use crate::table::bit_reverse;

/// The gather table of one automorphism in NTT order, for one ring degree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Permutation {
    galois: u64,
    /// Per block of eight outputs: source block * 8 + row of `lanes`.
    blocks: Vec<u32>,
    /// The eight orders within a block.
    lanes: [[u64; 8]; 8],
}

impl Permutation {
    pub(crate) fn new(galois: u64, log_n: u32) -> Self {
        assert!(galois % 2 == 1, "a Galois element must be odd, not {galois}");
        let n = 1u64 << log_n;
        let galois = galois % (2 * n);
        let blocks = (0..n / 8)
            .map(|block| {
                let k = bit_reverse(block as usize * 8, log_n) as u64;
                let image = (galois.wrapping_mul(2 * k + 1) % (2 * n) - 1) / 2;
                let source = bit_reverse(image as usize, log_n) as u64 / 8;
                (source * 8 + (image >> (log_n - 3))) as u32
            })
            .collect();
        let mut lanes = [[0; 8]; 8];
        for (top, row) in lanes.iter_mut().enumerate() {
            for (lane, source) in row.iter_mut().enumerate() {
                let offset = bit_reverse(lane, 3) as u64;
                *source = bit_reverse(((top as u64 + galois * offset) % 8) as usize, 3) as u64;
            }
        }
        Self { galois, blocks, lanes }
    }

    /// The Galois element g, reduced mod 2N.
    pub fn galois(&self) -> u64 {
        self.galois
    }

    /// The ring degree N.
    pub fn degree(&self) -> usize {
        self.blocks.len() * 8
    }

    /// The source index of every output entry, for backends that keep their own tables.
    pub fn source(&self, index: usize) -> usize {
        let (block, row) = self.block(index / 8);
        block * 8 + row[index % 8] as usize
    }

    /// Source block and lane order of one block of eight outputs.
    #[inline]
    pub(crate) fn block(&self, block: usize) -> (usize, &[u64; 8]) {
        let packed = self.blocks[block] as usize;
        (packed / 8, &self.lanes[packed % 8])
    }

    #[inline]
    pub(crate) fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    #[inline]
    pub(crate) fn lanes(&self) -> &[[u64; 8]; 8] {
        &self.lanes
    }
}
