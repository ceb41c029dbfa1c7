//! Masks and permutations from seeds.
//!
//! A seed keys ChaCha20; the nonce names what is drawn (a `Draw` and a layer), so every mask is a function of seed
//! and name, never of the order in which things happen. A seed serves one step of one session and one party, or the
//! weight masks of one model. Seeds come from the operating system or from another seed that stays at the dealer.

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::{Error, Result};
use crate::shape::{Site, Step};

/// 32 secret bytes.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Seed([u8; 32]);

impl Seed {
    /// A seed from the operating system.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn from_os() -> Result<Self> {
        let mut seed = Self([0; 32]);
        getrandom::fill(&mut seed.0).map_err(|_| Error::NoEntropy)?;
        Ok(seed)
    }

    /// A seed that was drawn before: read from a store, or fixed by a test.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A public name of what these masks hide. Nothing about the seed follows from it.
    pub fn public_name(&self) -> [u8; 32] {
        self.child(Role::Name, 0).0
    }

    /// The bytes, for a store or a message to the party that the seed is for.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The seed of `role` in a step; nothing about this seed follows from it. A step that is dealt once more at
    /// another position, with another number of tokens or of outputs gets another seed.
    pub(crate) fn of_step(&self, role: Role, step: &Step) -> Self {
        // A step was checked, so all three fit 24 bits.
        let extent = step.position as u64 | (step.tokens as u64) << 32;
        self.child(role, step.number).child(Role::Extent, extent).child(Role::Outputs, step.outputs as u64)
    }

    /// The seed of `role` and a number.
    pub(crate) fn child(&self, role: Role, number: u64) -> Self {
        let mut nonce = [0u8; 12];
        nonce[..4].copy_from_slice(&(role as u32).to_le_bytes());
        nonce[4..].copy_from_slice(&number.to_le_bytes());
        let mut child = Self([0; 32]);
        ChaCha20::new((&self.0).into(), (&nonce).into()).apply_keystream(&mut child.0);
        child
    }

    /// A second handle on the same seed, for the dealer alone.
    pub(crate) fn duplicate(&self) -> Self {
        Self(self.0)
    }

    /// `len` uniform words.
    pub(crate) fn words(&self, draw: Draw, layer: usize, len: usize) -> Zeroizing<Vec<u64>> {
        let mut words = Zeroizing::new(vec![0u64; len]);
        self.stream(draw, layer).fill(&mut words);
        words
    }

    /// Words `first..first + len` of [`Seed::words`].
    pub(crate) fn words_from(&self, draw: Draw, layer: usize, first: usize, len: usize) -> Zeroizing<Vec<u64>> {
        let mut words = Zeroizing::new(vec![0u64; len]);
        let mut stream = self.stream(draw, layer);
        stream.cipher.seek(8 * first as u64);
        stream.fill(&mut words);
        words
    }

    /// Adds uniform words to `words`.
    pub(crate) fn add_to(&self, draw: Draw, layer: usize, words: &mut [u64]) {
        crate::fixed::add_assign(words, &self.words(draw, layer, words.len()));
    }

    /// Subtracts uniform words from `words`.
    pub(crate) fn subtract_from(&self, draw: Draw, layer: usize, words: &mut [u64]) {
        crate::fixed::sub_assign(words, &self.words(draw, layer, words.len()));
    }

    /// The stream of a name.
    pub(crate) fn stream(&self, draw: Draw, layer: usize) -> WordStream {
        let mut nonce = [0u8; 12];
        nonce[..4].copy_from_slice(&(draw.0).to_le_bytes());
        nonce[4..].copy_from_slice(&(layer as u64).to_le_bytes());
        WordStream::new(ChaCha20::new((&self.0).into(), (&nonce).into()))
    }
}

/// Added to every role and above every draw, so that a seed's children never meet its words, whatever it serves.
const ROLES: u32 = 1 << 31;

/// What a child seed is for.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Role {
    Provider = ROLES + 1,
    User = ROLES + 2,
    Session = ROLES + 3,
    /// Position and tokens of a step, below the seed of its number.
    Extent = ROLES + 4,
    /// Outputs of a step, below the seed of its extent.
    Outputs = ROLES + 5,
    /// A public name of the masked model, below the seed of the weight masks.
    Name = ROLES + 6,
}

/// What is drawn. The user's draws come from the user's seed of a step, the provider's from the provider's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Draw(pub(crate) u32);

#[rustfmt::skip]
impl Draw {
    /// U of one fixed weight matrix; `layer` numbers the matrices.
    pub(crate) const WEIGHTS: Self = Self(1);
    /// v of the products whose input no site returns, and w1 of every product (user).
    pub(crate) const EMBED_INPUT: Self = Self(16);
    pub(crate) const O_INPUT: Self = Self(17);
    pub(crate) const EMBED: Self = Self(18);
    pub(crate) const QKV: Self = Self(19);
    pub(crate) const O: Self = Self(20);
    pub(crate) const GATE_UP: Self = Self(21);
    pub(crate) const DOWN: Self = Self(22);
    pub(crate) const HEAD: Self = Self(23);
    /// Halves of the masks of queries and keys, of values and of probabilities (each party its own).
    pub(crate) const ROTATED_MASK: Self = Self(32);
    pub(crate) const VALUE_MASK: Self = Self(33);
    pub(crate) const PROBABILITY_MASK: Self = Self(34);
    /// The user's halves of the products of masks.
    pub(crate) const SCORE_PRODUCT: Self = Self(35);
    pub(crate) const MIX_PRODUCT: Self = Self(36);
    /// Halves of the opening mask of a truncation (each party its own); the user's halves of its corrections.
    pub(crate) const ROTATED_OPENING: Self = Self(48);
    pub(crate) const ROTATED_TOP: Self = Self(49);
    pub(crate) const ROTATED_PAIR: Self = Self(50);
    pub(crate) const MIX_OPENING: Self = Self(51);
    pub(crate) const MIX_TOP: Self = Self(52);
    pub(crate) const MIX_PAIR: Self = Self(53);
    /// The place that the look-up reveals (user), and the masks of its table (provider).
    pub(crate) const LOOKUP_PLACE: Self = Self(64);
    pub(crate) const LOOKUP_TABLE: Self = Self(65);

    /// The permutation of a site (provider).
    pub(crate) fn permutation(site: Site) -> Self { Self(128 + site as u32) }
    /// a: masks what goes into a site (user).
    pub(crate) fn input(site: Site) -> Self { Self(144 + site as u32) }
    /// b: masks what the site opens (user).
    pub(crate) fn opened(site: Site) -> Self { Self(160 + site as u32) }
    /// a': masks what the user returns (user).
    pub(crate) fn returned(site: Site) -> Self { Self(176 + site as u32) }
    /// b': the user's share of what comes out (user).
    pub(crate) fn output(site: Site) -> Self { Self(192 + site as u32) }
}

/// What one party draws in the exchange of one site, layer and step of strict evaluation, in the order of its program.
pub(crate) struct SiteDraws {
    /// Halves of the masks of what is opened.
    pub(crate) masks: WordStream,
    /// Roots of trees.
    pub(crate) roots: WordStream,
    /// The user's halves of corrections; the provider gets its own from the dealer.
    pub(crate) corrections: WordStream,
}

impl SiteDraws {
    pub(crate) fn new(seed: &Seed, site: Site, layer: usize) -> Self {
        let stream = |kind: u32| seed.stream(Draw(256 + 16 * kind + site as u32), layer);
        Self { masks: stream(0), roots: stream(1), corrections: stream(2) }
    }
}

/// Words that a stream draws ahead.
const AHEAD: usize = 512;

/// Uniform words in order.
pub(crate) struct WordStream {
    cipher: ChaCha20,
    ahead: Zeroizing<[u64; AHEAD]>,
    /// Words of `ahead` that are used up.
    used: usize,
}

impl WordStream {
    fn new(cipher: ChaCha20) -> Self {
        Self { cipher, ahead: Zeroizing::new([0; AHEAD]), used: AHEAD }
    }

    /// Overwrites `out`; drawn before any single word.
    fn fill(&mut self, out: &mut [u64]) {
        debug_assert_eq!(self.used, AHEAD);
        fill(&mut self.cipher, out);
    }

    /// The next `len` words; drawn before any single word.
    pub(crate) fn take(&mut self, len: usize) -> Vec<u64> {
        let mut words = vec![0; len];
        self.fill(&mut words);
        words
    }

    fn next(&mut self) -> u64 {
        if self.used == AHEAD {
            fill(&mut self.cipher, &mut self.ahead[..]);
            self.used = 0;
        }
        self.used += 1;
        self.ahead[self.used - 1]
    }

    /// A uniform number below `bound`, without bias.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        // The product of a uniform word and the bound is uniform in its upper half, once the words that would make
        // some results likelier by one are drawn again; they lie below the bound, which spares most divisions.
        loop {
            let product = u128::from(self.next()) * u128::from(bound);
            let low = product as u64;
            if low >= bound || low >= bound.wrapping_neg() % bound {
                return (product >> 64) as u64;
            }
        }
    }
}

fn fill(cipher: &mut ChaCha20, out: &mut [u64]) {
    let mut bytes = Zeroizing::new([0u8; 4096]);
    for words in out.chunks_mut(512) {
        let bytes = &mut bytes[..8 * words.len()];
        bytes.fill(0);
        cipher.apply_keystream(bytes);
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_determines_the_words_and_names_differ() {
        let seed = Seed::from_bytes([3; 32]);
        let words = seed.words(Draw::QKV, 5, 1000);
        assert_eq!(words[..700], seed.words(Draw::QKV, 5, 700)[..]);
        assert_eq!(words[333..900], seed.words_from(Draw::QKV, 5, 333, 567)[..]);
        assert_ne!(words[..8], seed.words(Draw::QKV, 6, 8)[..]);
        assert_ne!(words[..8], seed.words(Draw::O, 5, 8)[..]);
        let children = [seed.child(Role::User, 1), seed.child(Role::User, 2), seed.child(Role::Provider, 1)];
        let firsts: std::collections::BTreeSet<u64> =
            children.iter().chain([&seed]).map(|child| child.words(Draw::QKV, 5, 1)[0]).collect();
        assert_eq!(firsts.len(), 4);
    }

    #[test]
    fn children_meet_no_words_and_steps_of_other_extents_have_other_seeds() {
        let seed = Seed::from_bytes([3; 32]);
        let word = |seed: &Seed| u64::from_le_bytes(std::array::from_fn(|i| seed.0[i]));
        let step = |number, position, tokens, outputs| {
            seed.of_step(Role::User, &Step { number, position, tokens, outputs, strict: false })
        };
        let seeds = [
            step(1, 5, 2, 1),
            step(1, 5, 2, 2),
            step(1, 5, 3, 1),
            step(1, 6, 2, 1),
            step(2, 5, 2, 1),
            seed.child(Role::Provider, 1),
        ];
        let mut firsts: std::collections::BTreeSet<u64> = seeds.iter().map(word).collect();
        // What the weight masks begin with; 1 was the tag of both.
        firsts.insert(seed.words(Draw::WEIGHTS, 1, 1)[0]);
        assert_eq!(firsts.len(), 7);
        assert_eq!(word(&step(1, 5, 2, 1)), word(&seeds[0]));
        let sites =
            [Site::AttentionNorm, Site::Softmax, Site::MlpNorm, Site::Activation, Site::FinalNorm, Site::Logits];
        assert!(sites.iter().all(|&site| Draw::output(site).0 < ROLES));
    }

    #[test]
    fn no_two_streams_of_strict_exchanges_are_equal() {
        let sites =
            [Site::AttentionNorm, Site::Softmax, Site::MlpNorm, Site::Activation, Site::FinalNorm, Site::Logits];
        let (session, mut drawn, mut count) = (Seed::from_bytes([5; 32]), std::collections::BTreeSet::new(), 0);
        for number in 0..2 {
            let step = Step { number, position: 3 * number as usize, tokens: 3, outputs: 1, strict: true };
            for seed in [Role::User, Role::Provider].map(|role| session.of_step(role, &step)) {
                for (site, layer) in sites.into_iter().flat_map(|site| (0..3).map(move |layer| (site, layer))) {
                    let SiteDraws { masks, roots, corrections } = SiteDraws::new(&seed, site, layer);
                    drawn.extend([masks, roots, corrections].into_iter().flat_map(|mut stream| stream.take(8)));
                    count += 3 * 8;
                }
            }
        }
        assert_eq!(drawn.len(), count);
    }

    #[test]
    fn bounded_numbers_are_uniform() {
        let mut stream = Seed::from_bytes([4; 32]).stream(Draw::O, 0);
        let mut counts = [0u32; 6];
        (0..60_000).for_each(|_| counts[stream.below(6) as usize] += 1);
        // Five standard deviations of a count of mean 10000: 5 sqrt(10000 * 5/6) = 457.
        assert!(counts.iter().all(|&count| count.abs_diff(10_000) < 457), "{counts:?}");
    }
}
