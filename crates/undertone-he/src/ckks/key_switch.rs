//! Hybrid key switching and rotations (source: eprint 2020/1203, section 3; hoisting as in eprint 2020/1203, section 4).

use super::CkksEvaluator;
use crate::keys::{GaloisKey, KeySwitchingKey, rotation_element};
use crate::{Ciphertext, Error, LevelCounts};
use undertone_ring::{Digits, Ntt, Poly};

/// A key switch but for its decomposition.
pub(crate) fn after_decomposition() -> LevelCounts {
    LevelCounts { key_switches: 1, divisions: 2, ..LevelCounts::default() }
}

impl CkksEvaluator {
    /// The gadget digits of a polynomial.
    pub(crate) fn digits<'a>(&self, poly: &'a Poly<Ntt>) -> Digits<'a> {
        let level = poly.basis().q - 1;
        self.count(|c| c.at_level(level, &LevelCounts { decompositions: 1, ..LevelCounts::default() }));
        self.parameters.ring().digits(poly, &self.parameters.digits(level))
    }

    /// The pair under the target secret that decrypts to `poly` times the source secret, plus `plus`.
    ///
    /// # Errors
    /// `KeySpool` when the key did not come back from disk as it was.
    pub(crate) fn switch(
        &self,
        poly: &Poly<Ntt>,
        key: &KeySwitchingKey,
        plus: [Option<&Poly<Ntt>>; 2],
    ) -> Result<[Poly<Ntt>; 2], Error> {
        let switched = self.parameters.ring().switch(&self.digits(poly), key.gadget(), plus);
        self.keys.intact()?;
        Ok(switched)
    }

    /// The automorphism of `key` applied to `a`, whose c1 has the given digits.
    ///
    /// # Errors
    /// `KeySpool` when the key did not come back from disk as it was.
    pub(crate) fn automorphism(
        &self,
        a: &Ciphertext,
        digits: &Digits<'_>,
        key: &GaloisKey,
    ) -> Result<Ciphertext, Error> {
        let ring = self.parameters.ring();
        let switched = ring.switch(digits, key.key.gadget(), [Some(&a.c0), None]);
        self.keys.intact()?;
        self.count(|c| {
            c.rotations += 1;
            c.at_level(a.level(), &after_decomposition());
        });
        let [c0, c1] = switched.map(|half| ring.automorphism(&half, &key.permutation));
        Ok(Ciphertext { c0, c1, scale: a.scale })
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
            Some(key) => self.automorphism(a, &self.digits(&a.c1), key),
        }
    }

    pub(super) fn rotated_many(&self, a: &Ciphertext, by: &[i32]) -> Result<Vec<Ciphertext>, Error> {
        let keys: Vec<_> = by.iter().map(|&k| self.rotation_key(k, a.level())).collect::<Result<_, _>>()?;
        if keys.iter().all(Option::is_none) {
            return Ok(vec![a.clone(); by.len()]);
        }
        let digits = self.digits(&a.c1);
        let one = |key: Option<&GaloisKey>| key.map_or_else(|| Ok(a.clone()), |k| self.automorphism(a, &digits, k));
        keys.into_iter().map(one).collect()
    }
}
