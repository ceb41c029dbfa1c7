//! Ring switch up: N/N' pairs of the small ring join to one of the large ring under s'(X^(N/N')), and one key switch
//! leads back to the main secret.

use super::{PcMatmul, SmallPair, join};
use crate::{Ciphertext, Error};
use undertone_ring::{Basis, Coeff, Ntt, Poly};

impl PcMatmul {
    /// The ciphertext at level 0 whose coefficient u + (N/N')·k is coefficient k of pair u.
    ///
    /// # Errors
    /// `ProductShape` unless there are N/N' pairs of the small ring.
    pub fn switch_up(&self, pairs: &[SmallPair], scale: f64) -> Result<Ciphertext, Error> {
        let (ring, parts) = (self.parameters.switch_ring(), self.parameters.parts());
        if pairs.len() != parts {
            return Err(Error::ProductShape { what: "pairs", have: pairs.len(), need: parts });
        }
        let degree = self.parameters.small_ring().degree();
        if let Some(half) = pairs.iter().flatten().find(|half| half.degree() != degree) {
            let (have, need) = (half.degree(), degree);
            return Err(Error::ProductShape { what: "coefficients in every half of a pair", have, need });
        }
        let [c0, c1] = [0, 1].map(|half| -> Poly<Ntt> {
            let views: Vec<&[u64]> = pairs.iter().map(|pair| pair[half].limb(0)).collect();
            let mut joined = ring.zero::<Coeff>(Basis { q: 1, p: 0 });
            joined.limb_mut(0).copy_from_slice(&join(&views));
            ring.ntt(joined)
        });
        let digits = ring.digits(&c1, std::slice::from_ref(&(0..1)));
        let [c0, c1] = ring.switch(&digits, self.keys.up.gadget(), [Some(&c0), None]);
        Ok(Ciphertext { c0, c1, scale })
    }
}
