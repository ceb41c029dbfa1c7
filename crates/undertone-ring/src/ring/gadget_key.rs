//! Keys of key switching as the ring takes them: halves in memory, made again from a seed, or read limb by limb.
//!
//! A key switch uses each limb of a key once, limbs outermost, so a half that lies elsewhere needs room for one limb of
//! its digits per thread, however large the key is.

use crate::cpu::Buffer;
use crate::packed::residue_bits;
use crate::{Basis, Packed, PackedPoly, Ring, Seed};

/// A gadget key; its halves may have more q limbs than the digits that meet it.
#[derive(Clone, Copy)]
pub struct GadgetKey<'a> {
    /// The half that holds the message.
    pub b: ComputedHalf<'a>,
    /// The uniform half.
    pub a: UniformHalf<'a>,
}

/// The half of a gadget key that cannot be made again.
#[derive(Clone, Copy)]
pub enum ComputedHalf<'a> {
    /// One polynomial per digit.
    Held(&'a [PackedPoly]),
    /// Read from where it lies, whenever it is used.
    Stored(&'a dyn StoredHalf),
}

/// The uniform half of a gadget key.
#[derive(Clone, Copy)]
pub enum UniformHalf<'a> {
    /// One polynomial per digit.
    Expanded(&'a [PackedPoly]),
    /// Made again whenever it is used: digit d is [`expand_uniform`](crate::expand_uniform) with counter d.
    Seeded(&'a Seed),
}

/// A computed half outside of memory; several threads read it at a time.
pub trait StoredHalf: Sync {
    /// The ring degree N.
    fn degree(&self) -> usize;

    /// Which limbs there are.
    fn basis(&self) -> Basis;

    /// How many digits there are.
    fn digit_count(&self) -> usize;

    /// Puts limb `limb` of the first digits, packed, one digit after the other; `out` is as long as some whole digits.
    ///
    /// A half that cannot be read puts zeros and remembers it: the owner has to look before a result is used.
    fn read(&self, limb: usize, out: &mut [u8]);
}

impl ComputedHalf<'_> {
    /// Number of digits, and degree and basis of each.
    fn shapes(self) -> Vec<(usize, Basis)> {
        match self {
            Self::Held(polys) => shapes(polys),
            Self::Stored(half) => vec![(half.degree(), half.basis()); half.digit_count()],
        }
    }
}

fn shapes(polys: &[PackedPoly]) -> Vec<(usize, Basis)> {
    polys.iter().map(|poly| (poly.degree(), poly.basis())).collect()
}

impl GadgetKey<'_> {
    /// Whether `digits` digits of a polynomial with this degree and basis can meet the key.
    ///
    /// # Panics
    /// When they cannot.
    pub(super) fn check(self, degree: usize, basis: Basis, digits: usize) {
        let uniform = match self.a {
            UniformHalf::Expanded(polys) => Some(shapes(polys)),
            UniformHalf::Seeded(_) => None,
        };
        for half in [Some(self.b.shapes()), uniform].into_iter().flatten() {
            assert!(half.len() >= digits, "{} key polynomials for {digits} digits", half.len());
            for (have_degree, have) in half {
                assert!(have_degree == degree, "a key of degree {have_degree}");
                assert!(have.q >= basis.q && have.p == basis.p, "a key of basis {have:?} does not cover {basis:?}");
            }
        }
    }
}

impl Ring {
    /// The limb of the first `digits` digits of a half that belongs to limb `limb` of `basis`; what is read is in `room`.
    pub(super) fn computed_limbs<'k>(
        &self,
        half: ComputedHalf<'k>,
        (basis, limb): (Basis, usize),
        digits: usize,
        room: &'k mut Option<Buffer>,
    ) -> Vec<Packed<'k>> {
        match half {
            ComputedHalf::Held(polys) => polys[..digits].iter().map(|k| key_limb(k, basis, limb)).collect(),
            ComputedHalf::Stored(half) => {
                let bits = residue_bits(self.table(basis, limb).modulus);
                let len = self.degree() / 8 * bits as usize;
                let room = room.insert(self.scratch((digits * len).div_ceil(8)));
                let bytes = &mut bytemuck::cast_slice_mut(room)[..digits * len];
                half.read(stored_limb(half.basis(), basis, limb), bytes);
                bytes.chunks_exact(len).map(|digit| Packed::new(digit, bits)).collect()
            }
        }
    }
}

/// The limb of a key that has the same prime as limb `limb` of `basis`.
pub(super) fn key_limb(key: &PackedPoly, basis: Basis, limb: usize) -> Packed<'_> {
    key.limb(stored_limb(key.basis(), basis, limb))
}

fn stored_limb(key: Basis, basis: Basis, limb: usize) -> usize {
    if limb < basis.q { limb } else { key.q + limb - basis.q }
}
