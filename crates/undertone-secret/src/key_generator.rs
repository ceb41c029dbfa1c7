//! Generates evaluation keys one at a time, each at its own level and through the security gate.

use crate::secret_key::{SecretPoly, restrict};
use crate::{Error, SecretKey};
use std::borrow::Borrow;
use std::ops::Range;
use undertone_he::{KeyId, KeyRequest, Parameters, SecretKind, SeededKey};
use undertone_ring::{Basis, Modulus, PackedPoly, Ring, SecretRng, Seed, expand_uniform};
use zeroize::Zeroizing;

/// Makes the keys of one secret.
pub struct KeyGenerator<'a> {
    parameters: &'a Parameters,
    secret: &'a SecretKey,
}

impl<'a> KeyGenerator<'a> {
    /// A generator for `secret`.
    pub fn new(parameters: &'a Parameters, secret: &'a SecretKey) -> Self {
        Self { parameters, secret }
    }

    /// Generates one key.
    ///
    /// # Errors
    /// `Scheme(Insecure)` when the key's own modulus is too large for its secret, `Request` when the request makes no
    /// sense under these parameters.
    pub fn generate(&self, request: &KeyRequest, rng: &mut SecretRng) -> Result<SeededKey, Error> {
        let chain = self.parameters.chain();
        if request.level > chain.max_level {
            return Err(Error::Request { have: request.level, need: chain.max_level });
        }
        let ring = self.parameters.ring();
        let basis = self.parameters.key_basis(request.level);
        let main = || restrict(&self.secret.main, ring, basis);
        let (from, to) = match request.id {
            KeyId::ToSparse => return self.to_sparse(request, rng),
            KeyId::Relinearization => {
                let secret = main();
                (SecretPoly(ring.mul(&secret.0, &secret.0)), secret)
            }
            KeyId::FromSparse => (restrict(&self.secret.ephemeral, ring, basis), main()),
            KeyId::Galois(element) => {
                let inverse = inverse_mod_power_of_two(element, chain.log_n + 1);
                let secret = main();
                let moved = SecretPoly(ring.automorphism(&secret.0, &ring.permutation(inverse)));
                (secret, moved)
            }
        };
        self.gate(ring, basis, self.parameters.secret_kind())?;
        let digits = self.parameters.digits(request.level);
        Ok(encrypt_gadget(ring, basis, *request, &digits, &from, &to, rng))
    }

    fn to_sparse(&self, request: &KeyRequest, rng: &mut SecretRng) -> Result<SeededKey, Error> {
        if request.level != 0 {
            return Err(Error::Request { have: request.level, need: 0 });
        }
        let ring = self.parameters.sparse_ring();
        let basis = Basis { q: 1, p: 1 };
        self.gate(ring, basis, SecretKind::Sparse { weight: self.parameters.literal().sparse_weight })?;
        let (from, to) = (&self.secret.small_main, &self.secret.small_ephemeral);
        Ok(encrypt_gadget(ring, basis, *request, std::slice::from_ref(&(0..1)), from, to, rng))
    }

    fn gate(&self, ring: &Ring, basis: Basis, kind: SecretKind) -> Result<(), Error> {
        let limbs = ring.q_moduli()[..basis.q].iter().chain(&ring.p_moduli()[..basis.p]);
        let log_qp = limbs.map(|m| (m.value() as f64).log2()).sum();
        Ok(self.parameters.gate_key(log_qp, kind)?)
    }
}

/// b_d = −a_d·to + e_d + P·g_d·from for every digit.
fn encrypt_gadget(
    ring: &Ring,
    basis: Basis,
    request: KeyRequest,
    digits: &[Range<usize>],
    from: &SecretPoly,
    to: &SecretPoly,
    rng: &mut SecretRng,
) -> SeededKey {
    let seed = rng.public_seed();
    let b = encrypt_digits(ring, basis, &seed, to, digits.len(), |d| (digits[d].clone(), from), rng);
    SeededKey::from_parts(request, b, seed)
}

/// b_d = −a_d·to + e_d + P·g_d·from_d for `count` digits, where `digit` gives the limbs of g_d and the secret from_d.
pub(crate) fn encrypt_digits<S: Borrow<SecretPoly>>(
    ring: &Ring,
    basis: Basis,
    seed: &Seed,
    to: &SecretPoly,
    count: usize,
    digit: impl Fn(usize) -> (Range<usize>, S),
    rng: &mut SecretRng,
) -> Vec<PackedPoly> {
    let special = |modulus: Modulus| {
        let product = |acc, p: &Modulus| modulus.mul(acc, modulus.reduce(p.value()));
        ring.p_moduli()[..basis.p].iter().fold(1, product)
    };
    let mut one = |index: usize| {
        let (own, from) = digit(index);
        let errors = Zeroizing::new(rng.cbd21(ring.degree()));
        let mut b = ring.ntt(ring.from_signed(&errors, basis));
        // a·s gives the secret away, so its buffer must not go back to the ring's pool as it is.
        let mut masked = SecretPoly(expand_uniform(ring, seed, index as u64, basis));
        ring.mul_assign(&mut masked.0, &to.0);
        ring.sub_assign(&mut b, &masked.0);
        // The gadget factor is P on the digit's own limbs and 0 elsewhere.
        let limbs = basis.q + basis.p;
        let factor = |limb: usize| if own.contains(&limb) { special(ring.modulus(basis, limb)) } else { 0 };
        let residues: Vec<u64> = (0..limbs).map(factor).collect();
        ring.mul_scalar_add_assign(&mut b, &from.borrow().0, &residues);
        ring.pack_briefly(&b)
    };
    (0..count).map(&mut one).collect()
}

/// The inverse of an odd number modulo 2^bits, by Newton's iteration.
fn inverse_mod_power_of_two(odd: u64, bits: u32) -> u64 {
    let mut inverse = odd;
    for _ in 0..6 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
    }
    inverse & ((1 << bits) - 1)
}
