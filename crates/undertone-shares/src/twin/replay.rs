//! The rounding of a dealer's session, drawn once more: for tests, and for demonstrations in one process.
//!
//! It holds the root of the session's seeds, so it exists with the feature `replay` only, and of every mask it gives
//! away no more than the bits that the truncation drops.

use zeroize::Zeroizing;

use super::{Rounding, SiteMasks, Truncation};
use crate::fixed::add_assign;
use crate::random::{Draw, Role, Seed, SiteDraws};
use crate::shape::{Site, Step};

/// As a dealer's session does.
pub struct Replay {
    root: Seed,
}

impl Replay {
    pub(crate) fn new(root: Seed) -> Self {
        Self { root }
    }
}

impl Rounding for Replay {
    fn low_bits(
        &self,
        truncation: Truncation,
        step: &Step,
        layer: usize,
        drops: &[u32],
    ) -> Option<Zeroizing<Vec<u64>>> {
        let draw = match truncation {
            Truncation::Rotated => Draw::ROTATED_OPENING,
            Truncation::Mix => Draw::MIX_OPENING,
        };
        let half = |role| self.root.of_step(role, step).words(draw, layer, drops.len());
        let mut masks = half(Role::User);
        add_assign(&mut masks, &half(Role::Provider));
        masks.iter_mut().zip(drops).for_each(|(mask, bits)| *mask &= (1u64 << bits) - 1);
        Some(masks)
    }

    fn site_masks(&self, site: Site, step: &Step, layer: usize) -> Option<SiteMasks> {
        let masks = |role| SiteDraws::new(&self.root.of_step(role, step), site, layer).masks;
        Some(SiteMasks([masks(Role::User), masks(Role::Provider)]))
    }
}
