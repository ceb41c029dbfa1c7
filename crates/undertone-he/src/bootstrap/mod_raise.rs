//! ModRaise under an ephemeral sparse secret, the trace to a sub-ring, and the split into real and imaginary parts.

use crate::ckks::key_switch::after_decomposition;
use crate::keys::{GaloisKey, conjugation_element};
use crate::{Ciphertext, CkksEvaluator, Error, Evaluator, LevelCounts};
use undertone_ring::{Basis, Ntt, Poly, Step};

/// The rotations of a trace to `period` slots, by rounds: each round adds the rotations of its input to it. Rounds of three
/// share a decomposition and a division, which takes a quarter less than two rounds of one.
pub(super) fn trace_rotations(period: usize, slot_count: usize) -> Vec<Vec<i32>> {
    let (mut rounds, mut step) = (Vec::new(), slot_count);
    while step > period {
        let terms = (step / period).min(4);
        step /= terms;
        rounds.push((1..terms).map(|k| (k * step) as i32).collect());
    }
    rounds
}

/// What a round of so many rotations is.
pub(super) fn hoisted(rotations: u64) -> LevelCounts {
    LevelCounts { key_switches: rotations, decompositions: 1, divisions: 2, ..LevelCounts::default() }
}

impl CkksEvaluator {
    /// A ciphertext modulo q0 re-read modulo the primes of `level`: the message becomes message + q0·I with small I.
    ///
    /// The value is in units of q0 afterwards. Encapsulation (eprint 2022/024): switch to the sparse secret modulo
    /// q0 only, raise, switch back at full size, so that the sparse secret never meets a large modulus.
    pub(super) fn mod_raise(&self, a: &Ciphertext, level: usize) -> Result<Ciphertext, Error> {
        let parameters = self.parameters();
        let (ring, small) = (parameters.ring(), parameters.sparse_ring());
        let one_limb = |poly: &Poly<Ntt>| {
            let mut out = small.zero::<Ntt>(Basis { q: 1, p: 0 });
            out.limb_mut(0).copy_from_slice(poly.limb(0));
            out
        };
        let key = self.keys.main_to_ephemeral()?;
        let (c0, c1) = (one_limb(&a.c0), one_limb(&a.c1));
        let digits = small.digits(&c1, std::slice::from_ref(&(0..1)));
        let [c0, c1] = small.switch(&digits, key.gadget(), [Some(&c0), None]);
        self.keys.intact()?;
        self.count(|c| c.key_switch(0, 1));

        let basis = parameters.basis(level);
        let [c0, c1] = [c0, c1].map(|half| ring.mod_raise(&small.intt(half), basis));
        let [c0, c1] = self.switch(&c1, self.keys.ephemeral_to_main(level)?, [Some(&c0), None])?;
        self.count(|c| c.at_level(level, &after_decomposition()));
        let q0 = ring.q_moduli()[0].value() as f64;
        Ok(Ciphertext { c0, c1, scale: q0 })
    }

    /// Sum over the automorphisms that fix slots of period `period`; multiplies by slot_count / period.
    pub(super) fn trace(&self, a: Ciphertext, period: usize) -> Result<Ciphertext, Error> {
        let mut sum = a;
        for rotations in trace_rotations(period, self.chain().slot_count()) {
            let level = sum.level();
            let keys = rotations.iter().map(|&by| self.rotation_key(by, level)).collect::<Result<Vec<_>, Error>>()?;
            let steps: Vec<Step<'_>> = keys.into_iter().flatten().map(GaloisKey::step).collect();
            self.count(|c| {
                c.rotations += steps.len() as u64;
                c.at_level(level, &hoisted(steps.len() as u64));
            });
            let ranges = self.parameters().digits(level);
            let [c0, c1] = self.parameters().ring().rotation_sum([&sum.c0, &sum.c1], &ranges, &steps);
            self.keys.intact()?;
            sum = Ciphertext { c0, c1, scale: sum.scale };
        }
        Ok(sum)
    }

    /// Twice the real part and, if asked for, twice the imaginary part of every slot.
    pub(super) fn split(&self, a: &Ciphertext, both: bool) -> Result<(Ciphertext, Option<Ciphertext>), Error> {
        let key = self.keys.galois(conjugation_element(self.chain()), a.level())?;
        let conjugate = self.automorphism(a, &self.digits(&a.c1), key)?;
        let real = self.add(a, &conjugate)?;
        if !both {
            return Ok((real, None));
        }
        let mut imaginary = self.sub(a, &conjugate)?;
        // Multiplying by −i is multiplying by X^(3N/2).
        let ring = self.parameters().ring();
        ring.mul_monomial_assign(&mut imaginary.c0, 3 * ring.degree() / 2);
        ring.mul_monomial_assign(&mut imaginary.c1, 3 * ring.degree() / 2);
        Ok((real, Some(imaginary)))
    }
}

#[cfg(test)]
mod tests {
    use super::trace_rotations;

    #[test]
    fn the_rounds_of_a_trace_add_up_every_multiple_of_the_period_once() {
        for (period, slot_count) in [(2, 2), (2, 4), (2, 16), (64, 2048), (16, 1 << 15), (8, 8)] {
            let mut reached = vec![0];
            for round in trace_rotations(period, slot_count) {
                let moved = |&by: &i32| reached.iter().map(move |at| at + by).collect::<Vec<_>>();
                let more: Vec<i32> = round.iter().flat_map(moved).collect();
                reached.extend(more);
            }
            reached.sort_unstable();
            let multiples: Vec<i32> = (0..slot_count as i32).step_by(period).collect();
            assert_eq!(reached, multiples, "{period} of {slot_count}");
        }
    }
}
