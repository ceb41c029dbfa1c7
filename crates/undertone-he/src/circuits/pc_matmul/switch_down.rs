//! Ring switch down: one key switch to the secret s'(X^(N/N')), then every polynomial falls apart into N/N' of the
//! small ring, because such a secret multiplies each class of coefficients apart.

use super::product::LIMBS;
use super::{PcMatmul, SmallPair, split};
use crate::{Ciphertext, Error};
use undertone_ring::{Basis, Coeff, Ntt, Poly};

impl PcMatmul {
    /// The N/N' pairs (b, a) under the small secret that one ciphertext at level 1 splits into, in coefficient form.
    ///
    /// # Errors
    /// `LevelTooLow` at level 0, `ProductShape` above level 1 or for a ciphertext of another degree.
    pub fn switch_down(&self, input: &Ciphertext) -> Result<Vec<SmallPair>, Error> {
        let (ring, small) = (self.parameters.switch_ring(), self.parameters.small_ring());
        if input.level() == 0 {
            return Err(Error::LevelTooLow { op: "pc_matmul", have: 0, need: LIMBS - 1 });
        }
        if input.level() + 1 != LIMBS {
            let (have, need) = (input.level() + 1, LIMBS);
            return Err(Error::ProductShape { what: "limbs of every input", have, need });
        }
        if input.c0.degree() != ring.degree() {
            let (have, need) = (input.c0.degree(), ring.degree());
            return Err(Error::ProductShape { what: "coefficients of every input", have, need });
        }
        let digits = ring.digits(&input.c1, std::slice::from_ref(&(0..LIMBS)));
        let halves = ring.switch(&digits, self.keys.down.gadget(), [Some(&input.c0), None]);
        let [b, a] = halves.map(|half: Poly<Ntt>| {
            let half = ring.intt(half);
            let mut parts: Vec<Poly<Coeff>> =
                (0..self.parameters.parts()).map(|_| small.zero(Basis { q: LIMBS, p: 0 })).collect();
            for limb in 0..LIMBS {
                let pieces = split(half.limb(limb), parts.len());
                parts.iter_mut().zip(pieces).for_each(|(part, piece)| part.limb_mut(limb).copy_from_slice(&piece));
            }
            parts
        });
        Ok(b.into_iter().zip(a).map(|(b, a)| [b, a]).collect())
    }
}
