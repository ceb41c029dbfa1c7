//! Integer weights times module components: the arithmetic heart of a plaintext matrix product on ciphertexts.
//!
//! An element m of degree N is r components of degree T = N/r: m = sum_i X^i m_i(X^r). With W = sum_i w_i X^(r-1-i), class
//! r - 1 of W * m holds sum_i w_i m_i. For a pair (b, a) that class needs all of V = W * a, but of W * b only itself.
//! Source of the view: module decomposition as in the matrix products of CRYPTO 2024 (Bae, Cheon, Hanrot, Park, Stehlé).
//!
//! V costs no dense product. Cut a = sum_s X^(3rs) a_s(X) into blocks of 3r coefficients: W * a_s has degree below 4r, so
//! at each of 4r points it is a matrix product over the ciphertexts, with a column per block: 4/3 N products per weight
//! polynomial where the dense form takes r * N. Products of neighbouring blocks overlap in r coefficients and are added.
//! Absent: what the components mean, noise, keys.

use rayon::prelude::*;

use crate::cpu::Buffer;
use crate::{Basis, Coeff, MATRIX_LANES, Modulus, NttTable, Poly, Ring};

/// Rows of weights that go through all points together: their values stay in the second-level cache.
const ROWS: usize = 16;

/// Pairs of polynomials as the right operand of [`Ring::module_product`].
pub struct ModuleOperand {
    shape: ModuleShape,
    limbs: Vec<LimbOperand>,
}

/// Sizes of a product.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ModuleShape {
    /// T.
    degree: usize,
    /// r.
    rank: usize,
    /// Pairs.
    count: usize,
    /// Points at which a block times a weight polynomial is known: 4r, but no more than N.
    points: usize,
    /// Blocks that a polynomial is cut into.
    blocks: usize,
}

impl ModuleShape {
    fn new(ring_degree: usize, degree: usize, count: usize) -> Self {
        let rank = ring_degree / degree;
        let points = (4 * rank).min(ring_degree);
        Self { degree, rank, count, points, blocks: ring_degree.div_ceil(points - rank) }
    }

    /// Coefficients of a block; the last one may have fewer.
    fn block_len(self) -> usize {
        self.points - self.rank
    }
}

struct LimbOperand {
    /// Values of all a_s at all points: [points/8][blocks][count][8].
    a: Buffer,
    /// Class r - 1 - t of b for every t: [T/8, rounded up][count * r][8], tokens across lanes.
    b: Buffer,
}

/// Rows (b, V) of a product, limb after limb; see the module's doc.
pub struct ModuleRows {
    degree: usize,
    ring_degree: usize,
    rows: usize,
    limbs: usize,
    /// [limbs][rows][T].
    b: Buffer,
    /// [limbs][rows][N].
    a: Buffer,
}

impl ModuleOperand {
    /// Weights in one row: the number of pairs times r.
    pub fn width(&self) -> usize {
        self.shape.count * self.shape.rank
    }

    /// The component degree T.
    pub fn degree(&self) -> usize {
        self.shape.degree
    }

    /// Memory that the operand takes.
    pub fn size_bytes(&self) -> usize {
        self.limbs.iter().map(|limb| 8 * (limb.a.len() + limb.b.len())).sum()
    }
}

impl ModuleRows {
    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many limbs they have.
    pub fn limb_count(&self) -> usize {
        self.limbs
    }

    /// The T residues of b of one row.
    ///
    /// # Panics
    /// When there is no such limb or row.
    pub fn b(&self, limb: usize, row: usize) -> &[u64] {
        assert!(limb < self.limbs && row < self.rows, "row {row} of limb {limb}");
        &self.b[(limb * self.rows + row) * self.degree..][..self.degree]
    }

    /// The N residues of V of one row.
    ///
    /// # Panics
    /// When there is no such limb or row.
    pub fn a(&self, limb: usize, row: usize) -> &[u64] {
        assert!(limb < self.limbs && row < self.rows, "row {row} of limb {limb}");
        &self.a[(limb * self.rows + row) * self.ring_degree..][..self.ring_degree]
    }
}

impl Ring {
    /// Prepares pairs (b, a) of one basis without p limbs for products with components of degree T = `degree`.
    ///
    /// # Panics
    /// When T is not a power of two from 2 to N/4, there are no pairs, or their bases or degrees differ.
    pub fn module_operand(&self, pairs: &[[Poly<Coeff>; 2]], degree: usize) -> ModuleOperand {
        let allowed = degree.is_power_of_two() && (2..=self.degree() / 4).contains(&degree);
        assert!(allowed, "components of degree {degree} in a ring of degree {}", self.degree());
        let basis = pairs.first().expect("a product needs a pair")[0].basis();
        pairs.iter().flatten().for_each(|poly| {
            self.check_degree(poly);
            assert!(poly.basis() == basis && basis.p == 0, "bases {:?} and {basis:?}", poly.basis());
        });
        let shape = ModuleShape::new(self.degree(), degree, pairs.len());
        let limbs = (0..basis.q).into_par_iter().map(|limb| LimbOperand {
            a: self.block_values(shape, pairs.iter().map(|[_, a]| a.limb(limb)), self.table(basis, limb)),
            b: self.component_columns(shape, pairs.iter().map(|[b, _]| b.limb(limb))),
        });
        ModuleOperand { shape, limbs: limbs.collect() }
    }

    /// [points/8][blocks][count][8]: the values of every block of every polynomial.
    fn block_values<'p>(&self, shape: ModuleShape, polys: impl Iterator<Item = &'p [u64]>, table: &NttTable) -> Buffer {
        let ModuleShape { count, points, blocks, .. } = shape;
        let mut out = self.scratch(points * blocks * count);
        let mut block = self.scratch(points);
        for (c, poly) in polys.enumerate() {
            for (s, coefficients) in poly.chunks(shape.block_len()).enumerate() {
                self.values_at_points(table, coefficients, &mut block);
                for (g, values) in block.chunks_exact(MATRIX_LANES).enumerate() {
                    let at = ((g * blocks + s) * count + c) * MATRIX_LANES;
                    out[at..at + MATRIX_LANES].copy_from_slice(values);
                }
            }
        }
        out
    }

    /// The values of a polynomial at as many points as `out` has places.
    fn values_at_points(&self, table: &NttTable, coefficients: &[u64], out: &mut [u64]) {
        let (low, high) = out.split_at_mut(coefficients.len());
        low.copy_from_slice(coefficients);
        high.fill(0);
        self.backend().ntt(table, out);
    }

    /// [T/8, rounded up][count * r][8]; lanes beyond T hold zeros.
    fn component_columns<'p>(&self, shape: ModuleShape, polys: impl Iterator<Item = &'p [u64]>) -> Buffer {
        let ModuleShape { degree, rank, count, .. } = shape;
        let groups = degree.div_ceil(MATRIX_LANES);
        let mut out = self.scratch(groups * count * rank * MATRIX_LANES);
        out.fill(0);
        for (c, poly) in polys.enumerate() {
            for (s, block) in poly.chunks_exact(rank).enumerate() {
                let (group, lane) = (s / MATRIX_LANES, s % MATRIX_LANES);
                let column = &mut out[(group * count + c) * rank * MATRIX_LANES..][..rank * MATRIX_LANES];
                for (entry, &x) in column.chunks_exact_mut(MATRIX_LANES).zip(block.iter().rev()) {
                    entry[lane] = x;
                }
            }
        }
        out
    }

    /// The rows of `weights` times the operand: for weights w[c][t] of pair c and t from 0 to r - 1, and W_c = sum_t w[c][t]
    /// X^t, row b is class r - 1 of sum_c W_c * b_c, and V is sum_c W_c * a_c.
    ///
    /// # Shapes
    /// `weights`: [rows][count][r], row after row.
    ///
    /// # Panics
    /// When the weights are no whole rows, or the operand is of another ring.
    pub fn module_product(&self, operand: &ModuleOperand, weights: &[i16]) -> ModuleRows {
        let (degree, n, width) = (operand.shape.degree, self.degree(), operand.width());
        assert!(weights.len().is_multiple_of(width), "{} weights are no rows of {width}", weights.len());
        assert!(operand.shape.rank * degree == n, "an operand of another ring degree than {n}");
        let (rows, limbs) = (weights.len() / width, operand.limbs.len());
        let (mut b, mut a) = (self.scratch(limbs * rows * degree), self.scratch(limbs * rows * n));
        let places = b.chunks_exact_mut(rows * degree).zip(a.chunks_exact_mut(rows * n));
        for (limb, (b, a)) in places.enumerate() {
            let table = self.table(Basis { q: limbs, p: 0 }, limb);
            let chunks = b.chunks_mut(ROWS * degree).zip(a.chunks_mut(ROWS * n));
            for ((b, a), weights) in chunks.zip(weights.chunks(ROWS * width)) {
                self.limb_product(table, operand.shape, &operand.limbs[limb], weights, [b, a]);
            }
        }
        ModuleRows { degree, ring_degree: n, rows, limbs, b, a }
    }

    /// A few rows of one limb.
    fn limb_product(
        &self,
        table: &NttTable,
        shape: ModuleShape,
        operand: &LimbOperand,
        weights: &[i16],
        [out_b, out_a]: [&mut [u64]; 2],
    ) {
        let (q, width) = (table.modulus(), shape.count * shape.rank);
        let mut residues = self.scratch(weights.len());
        residues.iter_mut().zip(weights).for_each(|(x, &w)| *x = weight_residue(q, w));
        let groups = shape.degree.div_ceil(MATRIX_LANES);
        let mut tokens = self.scratch(weights.len() / width * groups * MATRIX_LANES);
        self.backend().matrix_product(q, &mut tokens, &residues, &operand.b, width, true);
        let rows = out_b.chunks_exact_mut(shape.degree);
        rows.zip(tokens.chunks_exact(groups * MATRIX_LANES)).for_each(|(b, t)| b.copy_from_slice(&t[..shape.degree]));
        let products = self.point_products(table, shape, operand, &residues);
        self.overlap_add(table, shape, &products, out_a);
    }

    /// [points/8][rows][blocks][8]: the values of W * a_s, summed over the pairs.
    fn point_products(&self, table: &NttTable, shape: ModuleShape, operand: &LimbOperand, residues: &[u64]) -> Buffer {
        let ModuleShape { rank, count, points, blocks, .. } = shape;
        let rows = residues.len() / (count * rank);
        let mut values = self.scratch(points * rows * count);
        let mut block = self.scratch(points);
        for (at, weights) in residues.chunks_exact(rank).enumerate() {
            self.values_at_points(table, weights, &mut block);
            for (g, entry) in block.chunks_exact(MATRIX_LANES).enumerate() {
                let at = (g * rows * count + at) * MATRIX_LANES;
                values[at..at + MATRIX_LANES].copy_from_slice(entry);
            }
        }
        let mut products = self.scratch(points * rows * blocks);
        let left = values.chunks_exact(rows * count * MATRIX_LANES);
        let right = operand.a.chunks_exact(blocks * count * MATRIX_LANES);
        let places = products.chunks_exact_mut(rows * blocks * MATRIX_LANES);
        for ((out, left), right) in places.zip(left).zip(right) {
            self.backend().matrix_product(table.modulus(), out, left, right, count, false);
        }
        products
    }

    /// Back to coefficients: the r highest ones of each product belong to the next block, those of the last one come
    /// round with their sign changed.
    fn overlap_add(&self, table: &NttTable, shape: ModuleShape, products: &[u64], out: &mut [u64]) {
        let ModuleShape { degree, rank, points, blocks, .. } = shape;
        let (q, rows) = (table.modulus(), out.len() / (degree * rank));
        let (mut block, mut upper) = (self.scratch(points), self.scratch(rank));
        for (o, row) in out.chunks_exact_mut(degree * rank).enumerate() {
            upper.fill(0);
            for (s, out) in row.chunks_mut(shape.block_len()).enumerate() {
                for (g, entry) in block.chunks_exact_mut(MATRIX_LANES).enumerate() {
                    let at = ((g * rows + o) * blocks + s) * MATRIX_LANES;
                    entry.copy_from_slice(&products[at..at + MATRIX_LANES]);
                }
                self.backend().intt(table, &mut block, 1);
                out.copy_from_slice(&block[..out.len()]);
                self.backend().add(q, &mut out[..rank], &upper);
                upper.copy_from_slice(&block[out.len()..][..rank]);
            }
            self.backend().sub(q, &mut row[..rank], &upper);
        }
    }

    /// Divides rows by the last prime with centred rounding and drops its limb.
    ///
    /// # Panics
    /// When the rows have a single limb.
    pub fn rescale_rows(&self, rows: ModuleRows) -> ModuleRows {
        assert!(rows.limbs >= 2, "a rescale needs two limbs, not {}", rows.limbs);
        let (basis, keep) = (Basis { q: rows.limbs, p: 0 }, rows.limbs - 1);
        let last = self.modulus(basis, keep);
        let ModuleRows { mut b, mut a, .. } = rows;
        for half in [&mut b, &mut a] {
            let len = half.len() / rows.limbs;
            let mut remainder = self.scratch(len);
            let (kept, gone) = half.split_at_mut(keep * len);
            for (limb, values) in kept.chunks_exact_mut(len).enumerate() {
                let q = self.modulus(basis, limb);
                self.backend().switch_modulus(last, q, &mut remainder, gone);
                self.backend().sub_mul_scalar(q, values, &remainder, q.inverse(q.reduce(last.value())));
            }
            half.truncate(keep * len);
        }
        ModuleRows { limbs: keep, b, a, ..rows }
    }
}

/// A weight modulo a prime above 2^15.
#[inline]
fn weight_residue(q: Modulus, weight: i16) -> u64 {
    let weight = i64::from(weight);
    debug_assert!(q.value() > 1 << 15);
    (weight + (q.value() as i64 & (weight >> 63))) as u64
}
