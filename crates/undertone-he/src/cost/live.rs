//! Memory that a circuit's values take at one time: each value of the cost evaluator counts its limbs from when it is made
//! until it is dropped, so that running a program plans its memory as it plans its key switches.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A value reduced to its level.
#[derive(Debug)]
pub struct CostValue {
    level: usize,
    live: Arc<Live>,
}

/// Limbs of all values that exist, and the most that ever did.
#[derive(Debug, Default)]
pub(super) struct Live {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Live {
    /// Limbs that an operation needs beside all values, while it runs.
    pub(super) fn working(&self, limbs: usize) {
        self.peak.fetch_max(self.now.load(Ordering::Relaxed).saturating_add(limbs), Ordering::Relaxed);
    }

    /// The most limbs at one time so far.
    pub(super) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, limbs: usize) {
        self.now.fetch_add(limbs, Ordering::Relaxed);
        self.working(0);
    }

    pub(super) fn remove(&self, limbs: usize) {
        self.now.fetch_sub(limbs, Ordering::Relaxed);
    }
}

impl CostValue {
    pub(super) fn new(level: usize, live: &Arc<Live>) -> Self {
        live.add(limbs(level));
        Self { level, live: live.clone() }
    }

    /// The level of the value.
    pub fn level(&self) -> usize {
        self.level
    }
}

/// Limbs of a ciphertext.
pub(super) fn limbs(level: usize) -> usize {
    2 * (level + 1)
}

impl Clone for CostValue {
    fn clone(&self) -> Self {
        Self::new(self.level, &self.live)
    }
}

impl Drop for CostValue {
    fn drop(&mut self) {
        self.live.remove(limbs(self.level));
    }
}

impl PartialEq for CostValue {
    fn eq(&self, other: &Self) -> bool {
        self.level == other.level
    }
}

impl Eq for CostValue {}
