//! The complex Fourier transform of `fourier.rs`, once for all vectors: the same operations in the same order give results
//! that are equal bit for bit (no fused multiply-add).
//!
//! Columns first, then rows, eight side by side in a tile that fits the first-level cache; between the two the values are
//! transposed and multiplied by twiddles. Inside a tile two radix-2 layers of decimation in frequency are one pass.

use crate::fourier::{FOURIER_LANES, FourierTable};

/// Eight values in memory.
pub(super) type Lanes = [f64; FOURIER_LANES];

/// Eight values in registers.
///
/// # Safety
/// All methods need the instructions of the type; whoever calls [`fourier`] with it has them.
pub(super) trait Vector: Copy {
    unsafe fn load(from: &Lanes) -> Self;
    unsafe fn store(self, to: &mut Lanes);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn splat(x: f64) -> Self;
}

impl Vector for Lanes {
    #[inline(always)]
    unsafe fn load(from: &Lanes) -> Self {
        *from
    }

    #[inline(always)]
    unsafe fn store(self, to: &mut Lanes) {
        *to = self;
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] + other[lane])
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] - other[lane])
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] * other[lane])
    }

    #[inline(always)]
    unsafe fn splat(x: f64) -> Self {
        [x; FOURIER_LANES]
    }
}

/// Complex values of eight transforms of one length side by side.
struct Tile<'a> {
    re: &'a mut [Lanes],
    im: &'a mut [Lanes],
}

/// out[j] = sum over k of in[k] * w^(jk), in place; `scratch` holds [`FourierTable::scratch_len`] values.
///
/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
pub(super) unsafe fn fourier<L: Vector>(table: &FourierTable, re: &mut [f64], im: &mut [f64], scratch: &mut [f64]) {
    let (columns, rows) = (1usize << table.log_columns, 1usize << table.log_rows);
    let n = columns * rows;
    assert!(re.len() == n && im.len() == n && scratch.len() == table.scratch_len(), "a transform of {n} values");
    // All that holds values lies in the scratch memory, which a caller with secrets wipes.
    let (tiles, scratch) = scratch.split_at_mut(2 * FOURIER_LANES * columns);
    let (tile_re, tile_im) = tiles.as_chunks_mut().0.split_at_mut(columns);
    let mut tile = Tile { re: tile_re, im: tile_im };
    if rows == 1 {
        for (k, (re, im)) in re.iter().zip(&*im).enumerate() {
            (tile.re[k][0], tile.im[k][0]) = (*re, *im);
        }
        // SAFETY: by the contract of this function.
        unsafe { layers::<L>(&mut tile, table) };
        for k in 0..n {
            let at = reversed(k, table.log_columns);
            (re[k], im[k]) = (tile.re[at][0], tile.im[at][0]);
        }
        return;
    }
    let (mid_re, mid_im) = scratch.split_at_mut(n);
    for first in (0..rows).step_by(FOURIER_LANES) {
        for a in 0..columns {
            let at = a * rows + first;
            tile.re[a] = *lanes(re, at);
            tile.im[a] = *lanes(im, at);
        }
        // SAFETY: by the contract of this function.
        unsafe { layers::<L>(&mut tile, table) };
        for c in (0..columns).step_by(FOURIER_LANES) {
            // SAFETY: by the contract of this function.
            unsafe { turn_block::<L>(table, &tile, (first, c), mid_re, mid_im) };
        }
    }
    let mut tile = Tile { re: &mut tile.re[..rows], im: &mut tile.im[..rows] };
    for first in (0..columns).step_by(FOURIER_LANES) {
        for b in 0..rows {
            let at = b * columns + first;
            tile.re[b] = *lanes(mid_re, at);
            tile.im[b] = *lanes(mid_im, at);
        }
        // SAFETY: by the contract of this function.
        unsafe { layers::<L>(&mut tile, table) };
        for d in 0..rows {
            let (at, from) = (d * columns + first, reversed(d, table.log_rows));
            *lanes_mut(re, at) = tile.re[from];
            *lanes_mut(im, at) = tile.im[from];
        }
    }
}

/// Eight frequencies of eight columns, times their twiddles, to rows: the value of column b at frequency c goes to b·A + c.
///
/// # Safety
/// As [`fourier`].
#[inline(always)]
unsafe fn turn_block<L: Vector>(
    table: &FourierTable,
    tile: &Tile<'_>,
    (b, c): (usize, usize),
    mid_re: &mut [f64],
    mid_im: &mut [f64],
) {
    let [mut block_re, mut block_im] = [[[0.0; FOURIER_LANES]; FOURIER_LANES]; 2];
    for i in 0..FOURIER_LANES {
        let from = reversed(c + i, table.log_columns);
        let at = ((c + i) << table.log_rows) + b;
        // SAFETY: by the contract of this function.
        unsafe {
            let w = [L::load(lanes(&table.between[0], at)), L::load(lanes(&table.between[1], at))];
            let [re, im] = times([L::load(&tile.re[from]), L::load(&tile.im[from])], w);
            re.store(&mut block_re[i]);
            im.store(&mut block_im[i]);
        }
    }
    for lane in 0..FOURIER_LANES {
        let at = ((b + lane) << table.log_columns) + c;
        let (out_re, out_im) = (lanes_mut(mid_re, at), lanes_mut(mid_im, at));
        for i in 0..FOURIER_LANES {
            out_re[i] = block_re[i][lane];
            out_im[i] = block_im[i][lane];
        }
    }
}

/// The eight values from `at` on.
#[inline(always)]
fn lanes(values: &[f64], at: usize) -> &Lanes {
    let (blocks, _) = values[at..].as_chunks();
    &blocks[0]
}

/// [`lanes`] to write to.
#[inline(always)]
fn lanes_mut(values: &mut [f64], at: usize) -> &mut Lanes {
    let (blocks, _) = values[at..].as_chunks_mut();
    &mut blocks[0]
}

/// `k` with its lowest `bits` bits in reverse order.
#[inline(always)]
fn reversed(k: usize, bits: u32) -> usize {
    if bits == 0 { 0 } else { k.reverse_bits() >> (usize::BITS - bits) }
}

/// All transforms of a tile, in place; frequency j ends at the reversal of its bits.
///
/// # Safety
/// As [`fourier`].
#[inline(always)]
unsafe fn layers<L: Vector>(tile: &mut Tile<'_>, table: &FourierTable) {
    let n = tile.re.len();
    let stride = table.roots[0].len();
    let mut len = n;
    while len >= 4 {
        let quarter = len / 4;
        let (step, [cos, sin]) = (stride / len, &table.roots);
        for j in 0..quarter {
            // SAFETY: by the contract of this function.
            unsafe {
                let w = [
                    [L::splat(cos[j * step]), L::splat(sin[j * step])],
                    [L::splat(cos[2 * j * step]), L::splat(sin[2 * j * step])],
                    [L::splat(cos[3 * j * step]), L::splat(sin[3 * j * step])],
                ];
                for start in (j..n).step_by(len) {
                    radix_4(tile, start, quarter, w);
                }
            }
        }
        len /= 4;
    }
    if len == 2 {
        for start in (0..n).step_by(2) {
            for part in [&mut *tile.re, &mut *tile.im] {
                // SAFETY: by the contract of this function.
                unsafe {
                    let (x, y) = (L::load(&part[start]), L::load(&part[start + 1]));
                    x.add(y).store(&mut part[start]);
                    x.sub(y).store(&mut part[start + 1]);
                }
            }
        }
    }
}

/// Two layers on the entries at, at + step, at + 2·step and at + 3·step; `w` holds w^j, w^2j and w^3j.
///
/// # Safety
/// As [`fourier`].
#[inline(always)]
unsafe fn radix_4<L: Vector>(tile: &mut Tile<'_>, at: usize, step: usize, w: [[L; 2]; 3]) {
    let (re, im) = (&mut tile.re[at..=at + 3 * step], &mut tile.im[at..=at + 3 * step]);
    // SAFETY: by the contract of this function.
    unsafe {
        let (x0, x1) = (L::load(&re[0]), L::load(&re[step]));
        let (x2, x3) = (L::load(&re[2 * step]), L::load(&re[3 * step]));
        let (y0, y1) = (L::load(&im[0]), L::load(&im[step]));
        let (y2, y3) = (L::load(&im[2 * step]), L::load(&im[3 * step]));
        let (even, difference) = ([x0.add(x2), y0.add(y2)], [x0.sub(x2), y0.sub(y2)]);
        // The difference of the odd entries is multiplied by -i.
        let (odd, turned) = ([x1.add(x3), y1.add(y3)], [y1.sub(y3), x3.sub(x1)]);
        even[0].add(odd[0]).store(&mut re[0]);
        even[1].add(odd[1]).store(&mut im[0]);
        let second = times([even[0].sub(odd[0]), even[1].sub(odd[1])], w[1]);
        second[0].store(&mut re[step]);
        second[1].store(&mut im[step]);
        let third = times([difference[0].add(turned[0]), difference[1].add(turned[1])], w[0]);
        third[0].store(&mut re[2 * step]);
        third[1].store(&mut im[2 * step]);
        let fourth = times([difference[0].sub(turned[0]), difference[1].sub(turned[1])], w[2]);
        fourth[0].store(&mut re[3 * step]);
        fourth[1].store(&mut im[3 * step]);
    }
}

/// # Safety
/// As [`fourier`].
#[inline(always)]
unsafe fn times<L: Vector>([re, im]: [L; 2], w: [L; 2]) -> [L; 2] {
    // SAFETY: by the contract of this function.
    unsafe { [re.mul(w[0]).sub(im.mul(w[1])), re.mul(w[1]).add(im.mul(w[0]))] }
}
