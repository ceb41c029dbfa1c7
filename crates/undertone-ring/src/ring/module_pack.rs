//! Rows of a module product packed into one ciphertext of the ring, by one gadget sum.
//!
//! Row o of a product (see `module_product`) is b_o + sum_j V_o[class r-1-j] * s_j(X^r), with s = sum_j X^j s_j(X^r).
//! Put together at X^o, r rows are one b and r polynomials A_t = sum_o X^o V_o[class t](X^r), each of which multiplies
//! s_(r-1-t)(X^r). A gadget key whose digit t holds that secret turns all of them at once into a pair under s.

use crate::cpu::Buffer;
use crate::{Basis, Coeff, MATRIX_LANES, ModuleRows, Ntt, PackedPoly, Poly, Ring, Seed, expand_uniform};

/// Rows, classes and digits that move together: a cache line of each.
const TILE: usize = 8;

/// A gadget key in the order of packing.
pub struct PackKey {
    degree: usize,
    digits: usize,
    /// One per limb: [N/8][b, a][digits][8].
    limbs: Vec<Buffer>,
}

impl PackKey {
    /// Memory that the key takes.
    pub fn size_bytes(&self) -> usize {
        self.limbs.iter().map(|limb| 8 * limb.len()).sum()
    }
}

impl Ring {
    /// A key for [`Ring::pack_rows`]: digit t encrypts s_(r-1-t)(X^r) times P, at the first prime and all special ones.
    /// `b` holds the computed halves; the uniform half of digit t is stream t of the seed.
    ///
    /// # Panics
    /// When a digit is of another degree or basis.
    pub fn pack_key(&self, b: &[PackedPoly], seed: &Seed) -> PackKey {
        let (n, digits) = (self.degree(), b.len());
        let basis = Basis { q: 1, p: self.p_moduli().len() };
        let mut limbs: Vec<Buffer> = (0..basis.limb_count()).map(|_| Buffer::zeroed(2 * n * digits)).collect();
        let mut place = |poly: Poly<Ntt>, half: usize, digit: usize| {
            for (limb, out) in limbs.iter_mut().enumerate() {
                for (g, values) in poly.limb(limb).chunks_exact(MATRIX_LANES).enumerate() {
                    let at = ((2 * g + half) * digits + digit) * MATRIX_LANES;
                    out[at..at + MATRIX_LANES].copy_from_slice(values);
                }
            }
        };
        for (digit, b) in b.iter().enumerate() {
            assert!(b.degree() == n && b.basis() == basis, "a key of degree {} at {:?}", b.degree(), b.basis());
            place(self.unpack(b), 0, digit);
            place(expand_uniform(self, seed, digit as u64, basis), 1, digit);
        }
        PackKey { degree: n, digits, limbs }
    }

    /// For each set of r rows of one limb, the pair under s whose coefficient o + r*k is coefficient k of row o.
    /// Several sets share one reading of the key.
    ///
    /// # Panics
    /// When a set does not have r rows of one limb, or the key is of another ring or number of digits.
    pub fn pack_rows(&self, sets: &[ModuleRows], key: &PackKey) -> Vec<[Poly<Ntt>; 2]> {
        let (n, rank) = (self.degree(), key.digits);
        let basis = Basis { q: 1, p: self.p_moduli().len() };
        assert!(key.degree == n && key.limbs.len() == basis.limb_count(), "a key of degree {}", key.degree);
        for rows in sets {
            let (have, limbs) = (rows.rows(), rows.limb_count());
            assert!(have == rank && limbs == 1, "{have} rows of {limbs} limbs for {rank} digits");
            assert!(rank * rows.b(0, 0).len() == n && rows.a(0, 0).len() == n, "rows of another ring");
        }
        let gathered: Vec<Buffer> = sets.iter().map(|rows| self.gather_classes(rows)).collect();
        let mut halves: Vec<[Poly<Ntt>; 2]> = sets.iter().map(|_| [(); 2].map(|()| self.stale(basis))).collect();
        let mut lifted = self.scratch(sets.len() * rank * n);
        let mut sums = self.scratch(2 * sets.len() * MATRIX_LANES);
        for (limb, key) in key.limbs.iter().enumerate() {
            self.lift_classes((basis, limb), &gathered, &mut lifted);
            let groups = lifted.chunks_exact(sets.len() * rank * MATRIX_LANES);
            for (g, (left, right)) in groups.zip(key.chunks_exact(2 * rank * MATRIX_LANES)).enumerate() {
                self.backend().matrix_product(self.modulus(basis, limb), &mut sums, left, right, rank, false);
                let places = halves.iter_mut().flatten().zip(sums.chunks_exact(MATRIX_LANES));
                places.for_each(|(half, sums)| {
                    half.limb_mut(limb)[g * MATRIX_LANES..][..MATRIX_LANES].copy_from_slice(sums)
                });
            }
        }
        let finished = halves.into_iter().zip(sets).map(|(halves, rows)| {
            let [mut b, a] = halves.map(|half| self.mod_down(half));
            self.add_assign(&mut b, &self.ntt(self.interleaved_rows(rows)));
            [b, a]
        });
        finished.collect()
    }

    /// NTT values, modulo one prime, of the centred representatives of all A_t of all sets: [N/8][sets][r][8].
    fn lift_classes(&self, (basis, limb): (Basis, usize), sets: &[Buffer], out: &mut [u64]) {
        let (n, from, table) = (self.degree(), self.modulus(basis, 0), self.table(basis, limb));
        let step = out.len() / (n / MATRIX_LANES);
        let mut room = self.scratch(TILE * n);
        for (set, classes) in sets.iter().enumerate() {
            for (tile, classes) in classes.chunks(TILE * n).enumerate() {
                let room = &mut room[..classes.len()];
                for (values, coefficients) in room.chunks_exact_mut(n).zip(classes.chunks_exact(n)) {
                    if limb == 0 {
                        values.copy_from_slice(coefficients);
                    } else {
                        self.backend().switch_modulus(from, table.modulus(), values, coefficients);
                    }
                    self.backend().ntt(table, values);
                }
                let first = set * (step / sets.len()) + tile * TILE * MATRIX_LANES;
                for (g, out) in out.chunks_exact_mut(step).enumerate() {
                    let entries = out[first..].chunks_exact_mut(MATRIX_LANES).zip(room.chunks_exact(n));
                    entries.for_each(|(x, values)| x.copy_from_slice(&values[g * MATRIX_LANES..][..MATRIX_LANES]));
                }
            }
        }
    }

    /// sum_o X^o b_o(X^r).
    fn interleaved_rows(&self, rows: &ModuleRows) -> Poly<Coeff> {
        let mut poly = self.stale(Basis { q: 1, p: 0 });
        for o in 0..rows.rows() {
            for (block, &x) in poly.limb_mut(0).chunks_exact_mut(rows.rows()).zip(rows.b(0, o)) {
                block[o] = x;
            }
        }
        poly
    }

    /// A_t for every t: coefficient o + r*k of A_t is coefficient t + r*k of row o.
    fn gather_classes(&self, rows: &ModuleRows) -> Buffer {
        let (n, rank) = (self.degree(), rows.rows());
        let mut out = self.scratch(rank * n);
        for first in (0..rank).step_by(TILE) {
            let tile = first..rank.min(first + TILE);
            let sources: Vec<&[u64]> = tile.clone().map(|o| rows.a(0, o)).collect();
            for start in (0..n).step_by(rank) {
                for t in 0..rank {
                    let to = &mut out[t * n + start..][tile.clone()];
                    to.iter_mut().zip(&sources).for_each(|(x, source)| *x = source[start + t]);
                }
            }
        }
        out
    }
}
