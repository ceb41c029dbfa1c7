//! The hardware seam: what a backend must compute, one limb (or one set of limbs) per call.
//!
//! Contract for every method: input residues are reduced, output residues are reduced, results equal those of the
//! scalar backend bit for bit (`conformance::run` checks it). Slices of one call have equal length unless stated;
//! that of a transform is a power of two, others are any. A backend may panic on mismatched lengths; it never reads beyond them.

use crate::{FourierTable, Modulus, NttTable, Packed, Permutation};

/// One prime that a base conversion goes to. The y_i are below 2^50 and may exceed q.
pub struct LiftTarget<'a> {
    /// The prime.
    pub q: Modulus,
    /// Q/q_i mod q, one for each y_i.
    pub weights: &'a [u64],
    /// -Q mod q, which multiplies the quotients; these are at most the number of terms.
    pub correction: u64,
    /// Where the residues go.
    pub out: &'a mut [u64],
}

/// Matrix products that [`Backend::matrix_product`] computes side by side.
pub const MATRIX_LANES: usize = 8;

/// Kernels over residues modulo one prime below 2^50.
pub trait Backend: Send + Sync {
    /// A short name for reports.
    fn name(&self) -> &'static str;

    /// Negacyclic NTT in place, natural to bit-reversed order; the length may be any power of two up to N, and
    /// then the transform is that of the smaller ring with root psi^(N/length).
    fn ntt(&self, table: &NttTable, data: &mut [u64]);

    /// Inverse of [`Backend::ntt`], times the reduced constant `scale`.
    fn intt(&self, table: &NttTable, data: &mut [u64], scale: u64);

    /// As [`Backend::intt`], from `a` to `out`.
    fn intt_of(&self, table: &NttTable, out: &mut [u64], a: &[u64], scale: u64) {
        out.copy_from_slice(a);
        self.intt(table, out, scale);
    }

    /// acc += a.
    fn add(&self, q: Modulus, acc: &mut [u64], a: &[u64]);

    /// acc -= a.
    fn sub(&self, q: Modulus, acc: &mut [u64], a: &[u64]);

    /// acc = -acc.
    fn neg(&self, q: Modulus, acc: &mut [u64]);

    /// out = a * b.
    fn mul(&self, q: Modulus, out: &mut [u64], a: &[u64], b: &[u64]);

    /// acc *= a.
    fn mul_assign(&self, q: Modulus, acc: &mut [u64], a: &[u64]);

    /// acc += a * b.
    fn mul_add(&self, q: Modulus, acc: &mut [u64], a: &[u64], b: &[u64]);

    /// acc *= c.
    fn mul_scalar(&self, q: Modulus, acc: &mut [u64], c: u64);

    /// acc += c in every entry.
    fn add_scalar(&self, q: Modulus, acc: &mut [u64], c: u64);

    /// acc += c * a.
    fn mul_scalar_add(&self, q: Modulus, acc: &mut [u64], a: &[u64], c: u64);

    /// acc = (acc - a) * c.
    fn sub_mul_scalar(&self, q: Modulus, acc: &mut [u64], a: &[u64], c: u64);

    /// out = a in permuted order.
    fn permute(&self, out: &mut [u64], a: &[u64], permutation: &Permutation);

    /// acc += a in permuted order.
    fn permute_add(&self, q: Modulus, acc: &mut [u64], a: &[u64], permutation: &Permutation);

    /// out = the packed residues; as many as `out` has entries.
    fn unpack(&self, out: &mut [u64], packed: Packed<'_>);

    /// Two inner products that share the left operands: out_h = sum of a_d * b_h,d; at most 2^10 terms. The operands of
    /// one half are packed alike.
    fn inner_product_pair(&self, q: Modulus, out: [&mut [u64]; 2], a: &[&[u64]], b: [&[Packed<'_>]; 2]);

    /// Two inner products that share the right operands: out_h = sum of a_t,h * c_t, with runs as in
    /// [`Backend::mul_runs`]; at most 2^10 terms.
    fn inner_product_runs(&self, q: Modulus, out: [&mut [u64]; 2], a: &[[&[u64]; 2]], c: &[&[u64]], log_gap: u32);

    /// The sums over all pairs of a_0 * b_0, a_0 * b_1 + a_1 * b_0 and a_1 * b_1; at most 2^9 pairs.
    fn tensor(&self, q: Modulus, out: [&mut [u64]; 3], a: &[[&[u64]; 2]], b: &[[&[u64]; 2]]);

    /// out = round(sum of y_i * reciprocals_i), summed in order of i in f64, each product rounded before its sum,
    /// ties to even: the multiple of Q that a centred base conversion takes away.
    fn lift_quotients(&self, out: &mut [u64], y: &[&[u64]], reciprocals: &[f64]);

    /// For every target: out = sum of y_i * weights_i + quotients * correction mod q; at most 2^10 - 1 of the y_i. Several
    /// targets per call let a backend read y once for all of them.
    fn lift_combine(&self, y: &[&[u64]], quotients: &[u64], targets: &mut [LiftTarget<'_>]);

    /// Matrix products of residues, eight of them side by side: out[i][j] = sum over k of left[i][k] * right[j][k], k from
    /// 0 to `inner` - 1 and at most 2^20 of them. Entries of `right` and `out` are runs of [`MATRIX_LANES`] words that
    /// meet lane by lane. Entries of `left` are such runs too, or, when `shared`, single words that meet all lanes.
    fn matrix_product(&self, q: Modulus, out: &mut [u64], left: &[u64], right: &[u64], inner: usize, shared: bool);

    /// out = the centred representative of a mod `from`, reduced mod `to`.
    fn switch_modulus(&self, from: Modulus, to: Modulus, out: &mut [u64], a: &[u64]);

    /// acc *= c, where c holds one value per run of 2^log_gap entries of acc.
    fn mul_runs(&self, q: Modulus, acc: &mut [u64], c: &[u64], log_gap: u32);

    /// acc += a * c, with runs as in [`Backend::mul_runs`].
    fn mul_add_runs(&self, q: Modulus, acc: &mut [u64], a: &[u64], c: &[u64], log_gap: u32);

    /// acc += c, or acc -= c when `subtract`, with runs as in [`Backend::mul_runs`].
    fn add_runs(&self, q: Modulus, acc: &mut [u64], c: &[u64], log_gap: u32, subtract: bool);

    /// out = a mod q for signed values.
    fn reduce_signed(&self, q: Modulus, out: &mut [u64], a: &[i64]);

    /// Takes two polynomials apart that equal themselves under X -> 1/X: from the NTT values of x + X^(N/2) * y in `first`
    /// to those of x in `first` and of y in `second`. `half` is 1/2, and `quarter` 1/(2i) for i the first half's value of
    /// X^(N/2); the length is that of any ring.
    fn split_symmetric(&self, q: Modulus, first: &mut [u64], second: &mut [u64], half: u64, quarter: u64);

    /// The complex Fourier transform of a table in place, in f64; `scratch` holds [`FourierTable::scratch_len`] values. The
    /// operations are those of `cpu/fourier.rs` in their order, and every product is rounded before it is added.
    fn fourier(&self, table: &FourierTable, re: &mut [f64], im: &mut [f64], scratch: &mut [f64]);

    /// The keystream of ChaCha with 8 rounds in the layout of RFC 8439 from block `first` on, as little-endian words;
    /// the length is a multiple of 8 words, and the block counter stays below 2^32.
    fn chacha8(&self, key: &[u8; 32], nonce: &[u8; 12], first: u32, out: &mut [u64]);

    /// Uniform residues from uniform words: x = low 52 bits of a word; floor(x*q / 2^52) is kept, in order, unless
    /// x*q mod 2^52 < 2^52 mod q. Stops when `out` is full or the words are used up; returns (words used, outputs).
    fn sample_uniform(&self, q: Modulus, out: &mut [u64], words: &[u64]) -> (usize, usize);
}
