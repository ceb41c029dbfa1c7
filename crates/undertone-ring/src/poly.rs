//! Polynomials as plain data: one run of N residues per limb.

use std::marker::PhantomData;

use crate::cpu::Buffer;
use crate::{Basis, Form};

/// A polynomial of the ring in form `F`, limb after limb; every residue is below its prime.
pub struct Poly<F: Form> {
    degree: usize,
    basis: Basis,
    data: Buffer,
    form: PhantomData<F>,
}

impl<F: Form> Poly<F> {
    pub(crate) fn new(degree: usize, basis: Basis, data: Buffer) -> Self {
        debug_assert_eq!(data.len(), degree * basis.limb_count());
        Self { degree, basis, data, form: PhantomData }
    }

    /// Which limbs the polynomial has.
    pub fn basis(&self) -> Basis {
        self.basis
    }

    /// The ring degree N.
    pub fn degree(&self) -> usize {
        self.degree
    }

    /// Residues modulo the prime of limb `i`: N words.
    ///
    /// # Panics
    /// When there is no such limb.
    pub fn limb(&self, i: usize) -> &[u64] {
        &self.data[i * self.degree..][..self.degree]
    }

    /// Residues of limb `i` for writing; the caller keeps them below the prime.
    ///
    /// # Panics
    /// When there is no such limb.
    pub fn limb_mut(&mut self, i: usize) -> &mut [u64] {
        &mut self.data[i * self.degree..][..self.degree]
    }

    /// All limbs, one after the other.
    pub fn data(&self) -> &[u64] {
        &self.data
    }

    /// All limbs for writing; the caller keeps every residue below its prime.
    pub fn data_mut(&mut self) -> &mut [u64] {
        &mut self.data
    }

    pub(crate) fn cast<G: Form>(self) -> Poly<G> {
        Poly::new(self.degree, self.basis, self.data)
    }

    pub(crate) fn shrink(mut self, basis: Basis) -> Self {
        self.data.truncate(self.degree * basis.limb_count());
        self.basis = basis;
        self
    }
}

impl<F: Form> Clone for Poly<F> {
    fn clone(&self) -> Self {
        Self::new(self.degree, self.basis, self.data.clone())
    }
}

impl<F: Form> PartialEq for Poly<F> {
    fn eq(&self, other: &Self) -> bool {
        self.basis == other.basis && self.data[..] == other.data[..]
    }
}

impl<F: Form> Eq for Poly<F> {}

impl<F: Form> std::fmt::Debug for Poly<F> {
    /// Shows the shape only: a polynomial may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poly").field("degree", &self.degree).field("basis", &self.basis).finish_non_exhaustive()
    }
}

impl<F: Form> zeroize::Zeroize for Poly<F> {
    /// Overwrites all residues; for secrets, call it before the polynomial is dropped.
    fn zeroize(&mut self) {
        self.data.zeroize();
    }
}

/// NTT values of a polynomial in X^(2^log_gap): each of the N >> log_gap stored values stands for a run of 2^log_gap.
#[derive(Clone)]
pub struct CompactPoly {
    pub(crate) log_gap: u32,
    pub(crate) basis: Basis,
    pub(crate) stored: usize,
    pub(crate) data: Buffer,
}

impl zeroize::Zeroize for CompactPoly {
    /// Overwrites all residues; for plaintexts of a client, call it before the polynomial is dropped.
    fn zeroize(&mut self) {
        self.data.zeroize();
    }
}

impl CompactPoly {
    /// log2 of the run length.
    pub fn log_gap(&self) -> u32 {
        self.log_gap
    }

    /// Which limbs are present.
    pub fn basis(&self) -> Basis {
        self.basis
    }

    /// Memory taken by the values.
    pub fn size_bytes(&self) -> usize {
        self.data.len() * 8
    }

    /// The N >> log_gap stored values of limb `i`.
    ///
    /// # Panics
    /// When there is no such limb.
    pub fn limb(&self, i: usize) -> &[u64] {
        &self.data[i * self.stored..][..self.stored]
    }
}

impl std::fmt::Debug for CompactPoly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompactPoly")
            .field("log_gap", &self.log_gap)
            .field("basis", &self.basis)
            .finish_non_exhaustive()
    }
}
