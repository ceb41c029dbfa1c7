//! Offline bundles: what the dealer hands out for one step.
//!
//! The user's is a seed and one number for every output. The provider's is a seed and the corrections that make the two parties'
//! masks fit each other. Encoding, little endian: magic 4, version 1, party 1, zero 2, session 16, step 8, position 8,
//! tokens 4, outputs 4, seed 32, then the contents, whose length follows from model and step alone and is checked before
//! anything is allocated. Under strict evaluation the first of the two zeros is one; the provider's lists of a site are
//! corrections and keys, and the user's contents the keys of all sites.

use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::random::Seed;
use crate::shape::{Shape, Site, Step};
use crate::strict;

const MAGIC: [u8; 4] = *b"UTB\x01";
const HEADER_LEN: usize = 80;

/// Most bytes of an encoded bundle; a step that needs a longer one is refused. Wires rely on it.
pub const MAX_BUNDLE_BYTES: usize = 1 << 30;

/// A random name for a session, given by its dealer.
pub type SessionId = [u8; 16];

/// δ = π(a) - b on the way to the user, and δ' = π^-1(a') - b' on the way back. Under strict evaluation: corrections of
/// the exchange in the first list, and its keys in the second.
#[derive(Default)]
pub(crate) struct SiteCorrection {
    pub(crate) opened: Vec<u64>,
    pub(crate) returned: Vec<u64>,
}

/// The provider's shares of T and of the pair (see `truncation`).
#[derive(Default)]
pub(crate) struct TruncationCorrection {
    pub(crate) top: Vec<u64>,
    pub(crate) pair: Vec<u64>,
}

/// The provider's corrections of one layer.
#[derive(Default)]
pub(crate) struct LayerCorrections {
    pub(crate) attention_norm: SiteCorrection,
    pub(crate) qkv: Vec<u64>,
    pub(crate) rotated: TruncationCorrection,
    pub(crate) scores: Vec<u64>,
    pub(crate) softmax: SiteCorrection,
    pub(crate) mixed: Vec<u64>,
    pub(crate) mix: TruncationCorrection,
    pub(crate) o: Vec<u64>,
    pub(crate) mlp_norm: SiteCorrection,
    pub(crate) gate_up: Vec<u64>,
    pub(crate) activation: SiteCorrection,
    pub(crate) down: Vec<u64>,
}

/// The provider's corrections of one step.
#[derive(Default)]
pub(crate) struct Corrections {
    pub(crate) embed: Vec<u64>,
    pub(crate) layers: Vec<LayerCorrections>,
    pub(crate) final_norm: SiteCorrection,
    pub(crate) head: Vec<u64>,
    pub(crate) logits: SiteCorrection,
}

impl Corrections {
    /// Every list with the length that it must have, in the order of the encoding.
    fn lists(&mut self, shape: &Shape, step: &Step) -> Vec<(&mut Vec<u64>, usize)> {
        let n = step.tokens;
        let site = |site| match step.strict {
            false => (step.site_input(shape, site), step.site_output(shape, site)),
            true => strict::material(site, shape, step),
        };
        // Strictly, what is mixed is truncated in the exchange of its site.
        let mix = if step.strict { 0 } else { n * shape.query() };
        let mut all = vec![(&mut self.embed, n * shape.hidden)];
        for layer in &mut self.layers {
            let (norm, softmax, activation) = (site(Site::AttentionNorm), site(Site::Softmax), site(Site::Activation));
            all.extend([
                (&mut layer.attention_norm.opened, norm.0),
                (&mut layer.attention_norm.returned, norm.1),
                (&mut layer.qkv, n * (shape.rotated() + shape.key())),
                (&mut layer.rotated.top, n * shape.rotated()),
                (&mut layer.rotated.pair, n * shape.rotated()),
                (&mut layer.scores, step.scores(shape)),
                (&mut layer.softmax.opened, softmax.0),
                (&mut layer.softmax.returned, softmax.1),
                (&mut layer.mixed, n * shape.query()),
                (&mut layer.mix.top, mix),
                (&mut layer.mix.pair, mix),
                (&mut layer.o, n * shape.hidden),
                (&mut layer.mlp_norm.opened, norm.0),
                (&mut layer.mlp_norm.returned, norm.1),
                (&mut layer.gate_up, 2 * n * shape.intermediate),
                (&mut layer.activation.opened, activation.0),
                (&mut layer.activation.returned, activation.1),
                (&mut layer.down, n * shape.hidden),
            ]);
        }
        let (final_norm, logits) = (site(Site::FinalNorm), site(Site::Logits));
        all.extend([
            (&mut self.final_norm.opened, final_norm.0),
            (&mut self.final_norm.returned, final_norm.1),
            (&mut self.head, step.outputs * shape.vocab),
            (&mut self.logits.opened, logits.0),
            (&mut self.logits.returned, logits.1),
        ]);
        all
    }

    /// The lists of a site.
    pub(crate) fn of_site(&mut self, site: Site, layer: usize) -> &mut SiteCorrection {
        match site {
            Site::FinalNorm => &mut self.final_norm,
            Site::Logits => &mut self.logits,
            Site::AttentionNorm => &mut self.layers[layer].attention_norm,
            Site::Softmax => &mut self.layers[layer].softmax,
            Site::MlpNorm => &mut self.layers[layer].mlp_norm,
            Site::Activation => &mut self.layers[layer].activation,
        }
    }

    fn empty(shape: &Shape) -> Self {
        let layers = (0..shape.layers).map(|_| LayerCorrections::default()).collect();
        Self { layers, ..Self::default() }
    }

    /// Words of the corrections of a step.
    pub(crate) fn words(shape: &Shape, step: &Step) -> usize {
        // All layers are alike, so that one says what the others take.
        let of = |layers| {
            let shape = Shape { layers, ..*shape };
            Self::empty(&shape).lists(&shape, step).iter().map(|(_, len)| len).sum::<usize>()
        };
        let outside = of(0);
        outside + shape.layers * (of(1) - outside)
    }
}

/// What the user needs for one step. It must be used once.
pub struct UserBundle {
    pub(crate) session: SessionId,
    pub(crate) step: Step,
    pub(crate) seed: Seed,
    /// The mask of the one entry that the user may read, of the look-up table of every output.
    pub(crate) table_masks: Zeroizing<Vec<u32>>,
    /// Under strict evaluation the keys of every site, as in the provider's bundle.
    pub(crate) keys: Vec<Vec<u64>>,
}

/// Sites in the order of a step, each with its layer.
pub(crate) fn sites(shape: &Shape) -> impl Iterator<Item = (Site, usize)> {
    let of_layer = [Site::AttentionNorm, Site::Softmax, Site::MlpNorm, Site::Activation];
    let layers = (0..shape.layers).flat_map(move |layer| of_layer.map(|site| (site, layer)));
    layers.chain([(Site::FinalNorm, 0), (Site::Logits, 0)])
}

/// The place of a site in that order.
pub(crate) fn site_index(shape: &Shape, site: Site, layer: usize) -> usize {
    match site {
        Site::FinalNorm => 4 * shape.layers,
        Site::Logits => 4 * shape.layers + 1,
        inner => 4 * layer + inner as usize,
    }
}

/// What the provider needs for one step. It must be used once.
pub struct ProviderBundle {
    pub(crate) session: SessionId,
    pub(crate) step: Step,
    pub(crate) seed: Seed,
    pub(crate) corrections: Corrections,
}

/// A bundle as stores and messages see it.
pub trait Bundle: Sized {
    /// The name of the party, for errors.
    const PARTY: &'static str;

    /// The step that it is for.
    fn step(&self) -> Step;

    /// The session that it is for.
    fn session(&self) -> SessionId;

    /// Bytes of its encoding.
    fn size_bytes(shape: &Shape, step: &Step) -> usize;

    /// Its encoding. The bundle is used up, so that it is not used beside it.
    fn encode(self, shape: &Shape) -> Zeroizing<Vec<u8>>;

    /// Reads an encoding.
    ///
    /// # Errors
    /// Anything but the exact encoding of a bundle of this party for this model.
    fn decode(bytes: &[u8], shape: &Shape, max_positions: usize) -> Result<Self>;
}

struct Header {
    session: SessionId,
    step: Step,
    seed: Seed,
}

fn header(party: u8, session: &SessionId, step: &Step, seed: &Seed, capacity: usize) -> Zeroizing<Vec<u8>> {
    // The whole size at once: growing would leave copies behind.
    let mut out = Zeroizing::new(Vec::with_capacity(capacity));
    out.extend(MAGIC);
    out.extend([1, party, u8::from(step.strict), 0]);
    out.extend(session);
    // A step was checked, so its counts fit 24 bits.
    let extent = step.tokens as u64 | (step.outputs as u64) << 32;
    for number in [step.number, step.position as u64, extent] {
        out.extend(number.to_le_bytes());
    }
    out.extend(seed.bytes());
    out
}

fn read_header<B: Bundle>(bytes: &[u8], party: u8, shape: &Shape, max_positions: usize) -> Result<Header> {
    let malformed = |cause| Error::Malformed { what: B::PARTY, cause };
    let Some((head, _)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Err(malformed("it is shorter than its header"));
    };
    if head[..4] != MAGIC || head[4..6] != [1, party] || head[6] > 1 || head[7] != 0 {
        return Err(malformed("it is not a bundle of this party and version"));
    }
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| head[at + i]));
    let position = usize::try_from(number(32)).map_err(|_| malformed("its position is out of range"))?;
    let count = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| head[at + i])) as usize;
    let step = Step { number: number(24), position, tokens: count(40), outputs: count(44), strict: head[6] == 1 };
    step.check(shape, max_positions)?;
    if bytes.len() != B::size_bytes(shape, &step) {
        return Err(malformed("its length is not that of its step"));
    }
    let session = std::array::from_fn(|i| head[8 + i]);
    Ok(Header { session, step, seed: Seed::from_bytes(std::array::from_fn(|i| head[48 + i])) })
}

impl Bundle for UserBundle {
    const PARTY: &'static str = "the user's bundle";

    fn step(&self) -> Step {
        self.step
    }

    fn session(&self) -> SessionId {
        self.session
    }

    fn size_bytes(shape: &Shape, step: &Step) -> usize {
        if !step.strict {
            return HEADER_LEN + 4 * step.outputs;
        }
        // All layers are alike.
        let keys = |site| 8 * strict::material(site, shape, step).1;
        let layer = [Site::AttentionNorm, Site::Softmax, Site::MlpNorm, Site::Activation].map(keys);
        HEADER_LEN + shape.layers * layer.iter().sum::<usize>() + keys(Site::FinalNorm) + keys(Site::Logits)
    }

    fn encode(self, shape: &Shape) -> Zeroizing<Vec<u8>> {
        let mut out = header(1, &self.session, &self.step, &self.seed, Self::size_bytes(shape, &self.step));
        out.extend(self.table_masks.iter().flat_map(|mask| mask.to_le_bytes()));
        out.extend(self.keys.iter().flatten().flat_map(|word| word.to_le_bytes()));
        out
    }

    fn decode(bytes: &[u8], shape: &Shape, max_positions: usize) -> Result<Self> {
        let Header { session, step, seed } = read_header::<Self>(bytes, 1, shape, max_positions)?;
        let (mut table_masks, mut keys) = (Zeroizing::default(), Vec::new());
        if step.strict {
            let mut words = bytes[HEADER_LEN..].as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
            let list = |(site, _)| words.by_ref().take(strict::material(site, shape, &step).1).collect();
            keys = sites(shape).map(list).collect();
        } else {
            let masks = bytes[HEADER_LEN..].as_chunks::<4>().0.iter().map(|mask| u32::from_le_bytes(*mask));
            table_masks = Zeroizing::new(masks.collect());
        }
        Ok(Self { session, step, seed, table_masks, keys })
    }
}

impl ProviderBundle {
    /// The session and the step that an encoding is for; the rest of it is not looked at, except for its length.
    ///
    /// # Errors
    /// As [`Bundle::decode`].
    pub fn place(bytes: &[u8], shape: &Shape, max_positions: usize) -> Result<(SessionId, Step)> {
        let Header { session, step, .. } = read_header::<Self>(bytes, 2, shape, max_positions)?;
        Ok((session, step))
    }
}

impl Bundle for ProviderBundle {
    const PARTY: &'static str = "the provider's bundle";

    fn step(&self) -> Step {
        self.step
    }

    fn session(&self) -> SessionId {
        self.session
    }

    fn size_bytes(shape: &Shape, step: &Step) -> usize {
        HEADER_LEN + 8 * Corrections::words(shape, step)
    }

    fn encode(mut self, shape: &Shape) -> Zeroizing<Vec<u8>> {
        let step = self.step;
        let mut out = header(2, &self.session, &step, &self.seed, Self::size_bytes(shape, &step));
        for (list, len) in self.corrections.lists(shape, &step) {
            assert_eq!(list.len(), len, "a dealer makes corrections of the lengths of the step");
            out.extend(list.iter().flat_map(|word| word.to_le_bytes()));
        }
        out
    }

    fn decode(bytes: &[u8], shape: &Shape, max_positions: usize) -> Result<Self> {
        let Header { session, step, seed } = read_header::<Self>(bytes, 2, shape, max_positions)?;
        let mut corrections = Corrections::empty(shape);
        let mut words = bytes[HEADER_LEN..].as_chunks::<8>().0.iter();
        for (list, len) in corrections.lists(shape, &step) {
            list.extend(words.by_ref().take(len).map(|word| u64::from_le_bytes(*word)));
        }
        Ok(Self { session, step, seed, corrections })
    }
}

/// The name of a way to evaluate nonlinear functions.
fn evaluation(strict: bool) -> &'static str {
    if strict { "strict" } else { "permuted" }
}

/// Checks that a bundle is the next of its session; the first bundle names the session.
pub(crate) fn check_place(
    session: &mut Option<SessionId>,
    of_bundle: SessionId,
    step: &Step,
    due: &Step,
) -> Result<()> {
    if step.strict != due.strict {
        return Err(Error::OtherEvaluation { have: evaluation(step.strict), need: evaluation(due.strict) });
    }
    let (next, position) = (due.number, due.position);
    let wrong = |what, have, need| Err(Error::WrongBundle { what, have, need });
    if step.number != next {
        return wrong("step", step.number, next);
    }
    if step.position != position {
        return wrong("position", step.position as u64, position as u64);
    }
    if *session.get_or_insert(of_bundle) != of_bundle {
        let number = |id: &SessionId| u64::from_le_bytes(std::array::from_fn(|i| id[i]));
        return wrong("session", number(&of_bundle), session.as_ref().map_or(0, number));
    }
    Ok(())
}
