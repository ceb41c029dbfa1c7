//! Hybrid key switching and rotations (source: eprint 2020/1203, section 3; hoisting as in eprint 2020/1203, section 4).

use super::CkksEvaluator;
use crate::keys::{GaloisKey, KeySwitchingKey, rotation_element};
use crate::{Ciphertext, Error};
use undertone_ring::{Ntt, Poly};

impl CkksEvaluator {
    /// The gadget digits of a polynomial, each lifted to all limbs of its level and the special primes.
    pub(crate) fn decompose(&self, poly: &Poly<Ntt>) -> Vec<Poly<Ntt>> {
        let digits = self.parameters.digits(poly.basis().q - 1);
        self.parameters.ring().decompose(poly, &digits)
    }

    /// Digits times key, still modulo QP.
    pub(crate) fn apply_key(&self, digits: &[Poly<Ntt>], key: &KeySwitchingKey) -> (Poly<Ntt>, Poly<Ntt>) {
        let b: Vec<&Poly<Ntt>> = key.b.iter().take(digits.len()).collect();
        let a: Vec<&Poly<Ntt>> = key.a.iter().take(digits.len()).collect();
        self.parameters.ring().inner_product_pair(digits, &b, &a)
    }

    /// The pair under the target secret that decrypts to `poly` times the source secret.
    pub(crate) fn switch(&self, poly: &Poly<Ntt>, key: &KeySwitchingKey) -> (Poly<Ntt>, Poly<Ntt>) {
        let (k0, k1) = self.apply_key(&self.decompose(poly), key);
        let ring = self.parameters.ring();
        (ring.mod_down(k0), ring.mod_down(k1))
    }

    /// The automorphism of `key` applied to `a`, whose c1 has the given digits.
    pub(crate) fn automorphism(&self, a: &Ciphertext, digits: &[Poly<Ntt>], key: &GaloisKey) -> Ciphertext {
        let ring = self.parameters.ring();
        let (k0, k1) = self.apply_key(digits, &key.key);
        let mut c0 = ring.mod_down(k0);
        ring.add_assign(&mut c0, &a.c0);
        let c1 = ring.mod_down(k1);
        self.count(|c| {
            c.rotations += 1;
            c.key_switch(a.level(), 1);
        });
        Ciphertext {
            c0: ring.automorphism(&c0, &key.permutation),
            c1: ring.automorphism(&c1, &key.permutation),
            scale: a.scale,
        }
    }

    /// The key of a rotation, or `None` for the identity.
    pub(crate) fn rotation_key(&self, by: i32, level: usize) -> Result<Option<&GaloisKey>, Error> {
        match rotation_element(self.parameters.chain(), by) {
            1 => Ok(None),
            element => self.keys.galois(element, level).map(Some).map_err(|error| match error {
                Error::MissingKey { need, .. } => Error::MissingKey { key: format!("rotation by {by}"), need },
                other => other,
            }),
        }
    }

    pub(crate) fn rotated(&self, a: &Ciphertext, by: i32) -> Result<Ciphertext, Error> {
        match self.rotation_key(by, a.level())? {
            None => Ok(a.clone()),
            Some(key) => Ok(self.automorphism(a, &self.decompose(&a.c1), key)),
        }
    }

    pub(super) fn rotated_many(&self, a: &Ciphertext, by: &[i32]) -> Result<Vec<Ciphertext>, Error> {
        let keys: Vec<_> = by.iter().map(|&k| self.rotation_key(k, a.level())).collect::<Result<_, _>>()?;
        if keys.iter().all(Option::is_none) {
            return Ok(vec![a.clone(); by.len()]);
        }
        let digits = self.decompose(&a.c1);
        let one = |key: Option<&GaloisKey>| key.map_or_else(|| a.clone(), |k| self.automorphism(a, &digits, k));
        Ok(keys.into_iter().map(one).collect())
    }
}
