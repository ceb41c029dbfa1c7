//! Fourier transforms with AVX2: eight values are two registers.

use std::arch::x86_64::*;

use super::fourier::{self, Lanes, Vector};
use crate::FourierTable;

#[derive(Clone, Copy)]
struct Registers(__m256d, __m256d);

impl Vector for Registers {
    #[inline(always)]
    unsafe fn load(from: &Lanes) -> Self {
        // SAFETY: by the contract of the trait; eight values are there.
        unsafe { Self(_mm256_loadu_pd(from.as_ptr()), _mm256_loadu_pd(from.as_ptr().add(4))) }
    }

    #[inline(always)]
    unsafe fn splat(x: f64) -> Self {
        // SAFETY: by the contract of the trait.
        unsafe { Self(_mm256_set1_pd(x), _mm256_set1_pd(x)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: &mut Lanes) {
        // SAFETY: by the contract of the trait; eight values fit.
        unsafe {
            _mm256_storeu_pd(to.as_mut_ptr(), self.0);
            _mm256_storeu_pd(to.as_mut_ptr().add(4), self.1);
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: by the contract of the trait.
        unsafe { Self(_mm256_add_pd(self.0, other.0), _mm256_add_pd(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: by the contract of the trait.
        unsafe { Self(_mm256_sub_pd(self.0, other.0), _mm256_sub_pd(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: by the contract of the trait.
        unsafe { Self(_mm256_mul_pd(self.0, other.0), _mm256_mul_pd(self.1, other.1)) }
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn fourier(table: &FourierTable, re: &mut [f64], im: &mut [f64], scratch: &mut [f64]) {
    // SAFETY: the features of this function are those of the registers.
    unsafe { fourier::fourier::<Registers>(table, re, im, scratch) }
}
