//! Fourier transforms with AVX-512: eight values are one register.

use std::arch::x86_64::*;

use super::fourier::{self, Lanes, Vector};
use crate::FourierTable;

#[derive(Clone, Copy)]
struct Register(__m512d);

impl Vector for Register {
    #[inline(always)]
    unsafe fn load(from: &Lanes) -> Self {
        // SAFETY: by the contract of the trait; eight values are there.
        Self(unsafe { _mm512_loadu_pd(from.as_ptr()) })
    }

    #[inline(always)]
    unsafe fn splat(x: f64) -> Self {
        // SAFETY: by the contract of the trait.
        Self(unsafe { _mm512_set1_pd(x) })
    }

    #[inline(always)]
    unsafe fn store(self, to: &mut Lanes) {
        // SAFETY: by the contract of the trait; eight values fit.
        unsafe { _mm512_storeu_pd(to.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: by the contract of the trait.
        Self(unsafe { _mm512_add_pd(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: by the contract of the trait.
        Self(unsafe { _mm512_sub_pd(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: by the contract of the trait.
        Self(unsafe { _mm512_mul_pd(self.0, other.0) })
    }
}

#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw")]
pub(super) fn fourier(table: &FourierTable, re: &mut [f64], im: &mut [f64], scratch: &mut [f64]) {
    // SAFETY: the features of this function are those of the register.
    unsafe { fourier::fourier::<Register>(table, re, im, scratch) }
}
