//! Scalar NTT: radix-2 Cooley-Tukey forward and Gentleman-Sande inverse with merged powers of psi.
//!
//! Lazy values as in Harvey (arXiv 1205.2926): forward keeps values below 4q, inverse below 2q; q < 2^50 leaves
//! both below 2^52, the range of the 52-bit Shoup quotients.

use crate::NttTable;

pub(super) fn forward(table: &NttTable, data: &mut [u64]) {
    let q = table.modulus;
    let two_q = 2 * q.value();
    let (twiddles, quotients) = table.forward();
    let n = data.len();
    assert!(n.is_power_of_two() && n <= 1 << table.log_n);
    let (mut blocks, mut half) = (1, n / 2);
    while half > 0 {
        for (block, values) in data.chunks_exact_mut(2 * half).enumerate() {
            let (w, shoup) = (twiddles[blocks + block], quotients[blocks + block]);
            let (low, high) = values.split_at_mut(half);
            for (x, y) in low.iter_mut().zip(high) {
                let a = (*x).min(x.wrapping_sub(two_q));
                let t = q.mul_shoup_lazy(*y, w, shoup);
                (*x, *y) = (a + t, a + two_q - t);
            }
        }
        (blocks, half) = (2 * blocks, half / 2);
    }
    for x in data {
        let a = (*x).min(x.wrapping_sub(two_q));
        *x = a.min(a.wrapping_sub(q.value()));
    }
}

pub(super) fn inverse(table: &NttTable, data: &mut [u64], scale: u64) {
    let q = table.modulus;
    let two_q = 2 * q.value();
    let (twiddles, quotients) = table.inverse();
    let n = data.len();
    assert!(n.is_power_of_two() && n <= 1 << table.log_n);
    let (mut blocks, mut half) = (n / 2, 1);
    while blocks > 0 {
        for (block, values) in data.chunks_exact_mut(2 * half).enumerate() {
            let (w, shoup) = (twiddles[blocks + block], quotients[blocks + block]);
            let (low, high) = values.split_at_mut(half);
            for (x, y) in low.iter_mut().zip(high) {
                let sum = *x + *y;
                let difference = *x + two_q - *y;
                *x = sum.min(sum.wrapping_sub(two_q));
                *y = q.mul_shoup_lazy(difference, w, shoup);
            }
        }
        (blocks, half) = (blocks / 2, 2 * half);
    }
    let factor = q.mul(scale, q.inverse(q.reduce(n as u64)));
    let shoup = q.shoup(factor);
    data.iter_mut().for_each(|x| *x = q.mul_shoup(*x, factor, shoup));
}
