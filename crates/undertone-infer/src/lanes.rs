//! From the block frame to the lane frame, where R · Q relative positions are worked on at once.
//!
//! The R lanes hold R consecutive relative positions, a group. Besides, the coordinates j of a head are split into Q
//! parts j ≡ c mod Q, and part i of a product serves group i of a bundle of Q groups. For that keys are sheared:
//! C_m holds, at coordinate x, the key of group (x − m) mod Q, so that Σ_m rot(q, m) ⊙ rot(C_m, m) has in part i the
//! sum of Q coordinates for group i, and log2(d_p / Q) rotations finish all Q inner products together. Values are
//! sheared the other way round. A shear costs a level, so a layer that has none to spare uses Q = 1.

use crate::Error;
use crate::matmul::{AxisProduct, masked_sum};
use crate::packing::{Axis, Key, Layout};
use rayon::prelude::*;
use undertone_he::{Evaluator, Slots};

/// Most rotations by multiples of one bundle that are made from one hoisted value; also bounds the keys that they need.
const HOISTED: usize = 8;
/// Most limbs of rotated values that exist at one time, unless one bundle has more: at N = 2^16 one takes 2^20 bytes.
const ROTATED_LIMBS: usize = 1 << 11;

/// The direction of a shear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shear {
    /// Part c of C_m holds group c − m, rotated left by m: for keys.
    Keys,
    /// Part c of C_m holds group c + m, rotated right by m: for values.
    Values,
}

/// Puts the same head coordinates into every lane. Depth 1, or 0 with a single lane.
pub(crate) fn spread<E: Evaluator>(ev: &E, layout: &Layout, x: Vec<E::Value>) -> Result<Vec<E::Value>, Error> {
    if layout.lanes == 1 {
        return Ok(x);
    }
    let entry = |_: usize, (_, p): (usize, usize), (_, a): (usize, usize)| f64::from(p / layout.lanes == a);
    Ok(AxisProduct::new(layout.slot_count, layout.coordinate_axis(), lane_axis(layout), &entry).apply(ev, &x)?)
}

/// Keys or values in the lane frame, lane ρ moved back by ρ rows, sheared over `parts` groups: `[m][ciphertext]`.
///
/// The rows t < r of a bundle that starts r rows back hold rows of a neighbouring channel; whoever uses them masks.
///
/// # Levels
/// Depth 1 for several lanes and 1 for several parts.
pub(crate) fn sheared<E: Evaluator>(
    ev: &E,
    layout: &Layout,
    parts: usize,
    x: Vec<E::Value>,
    shear: Shear,
) -> Result<Vec<Vec<E::Value>>, Error> {
    let staggered = stagger(ev, layout, x)?;
    if parts == 1 {
        return Ok(vec![staggered]);
    }
    let by: Vec<i32> = (0..parts).map(|group| -((group * layout.lanes) as i32)).collect();
    let moved = staggered.into_iter().map(|x| ev.rotate_many(&x, &by)).collect::<Result<Vec<_>, _>>()?;
    let stride = layout.lane_stride();
    (0..parts)
        .map(|m| {
            let offset = if shear == Shear::Keys { m } else { parts - m };
            // Rows that wrapped around come from another part and must not mix with this one.
            let mask = |group: usize| {
                let values = (0..stride * parts).map(|slot| {
                    let live = slot % layout.block >= group * layout.lanes;
                    f64::from(live && slot / stride == (group + offset) % parts)
                });
                Slots::new(values.collect(), layout.slot_count).expect("strides and parts are powers of two")
            };
            let by = if shear == Shear::Keys { (m * stride) as i32 } else { -((m * stride) as i32) };
            moved.iter().map(|moved| Ok(ev.rotate(&masked_sum(ev, moved, &mask)?, by)?)).collect()
        })
        .collect()
}

/// Puts row t − ρ into row t of lane ρ. Depth 1, or 0 with a single lane.
fn stagger<E: Evaluator>(ev: &E, layout: &Layout, x: Vec<E::Value>) -> Result<Vec<E::Value>, Error> {
    if layout.lanes == 1 {
        return Ok(x);
    }
    // More than one lane means that one ciphertext holds all head coordinates.
    let by: Vec<i32> = (0..layout.lanes as i32).map(|lane| -lane).collect();
    let moved = ev.rotate_many(&x[0], &by)?;
    let entry = |_: usize, (_, p): (usize, usize), (lane, a): (usize, usize)| {
        f64::from(p % layout.lanes == lane && p / layout.lanes == a)
    };
    let input = Axis { count: layout.lanes, ..layout.coordinate_axis() };
    Ok(AxisProduct::new(layout.slot_count, input, lane_axis(layout), &entry).apply(ev, &moved)?)
}

/// Calls `visit(bundle, rotated)` for every bundle of `parts` private groups with `sheared` moved back to it.
pub(crate) fn for_each_bundle<E: Evaluator>(
    ev: &E,
    layout: &Layout,
    parts: usize,
    mut sheared: Vec<Vec<E::Value>>,
    mut visit: impl FnMut(usize, Vec<Vec<E::Value>>) -> Result<(), Error>,
) -> Result<(), Error> {
    let bundles = layout.private_groups() / parts;
    let back = |count: usize| -((count * parts * layout.lanes) as i32);
    let hoisted = bundles_at_a_time(ev, &sheared, HOISTED);
    for first in (0..bundles).step_by(hoisted) {
        if first > 0 {
            sheared.par_iter_mut().flatten().try_for_each(|x| {
                *x = ev.rotate(x, back(hoisted))?;
                Ok::<(), Error>(())
            })?;
        }
        let by: Vec<i32> = (0..hoisted.min(bundles - first)).map(back).collect();
        let all = sheared.par_iter().flatten();
        let rotated = all.map(|x| ev.rotate_many(x, &by)).collect::<Result<Vec<_>, _>>()?;
        let mut moved = vec![vec![Vec::new(); sheared.len()]; by.len()];
        let owners = sheared.iter().enumerate().flat_map(|(m, tensor)| std::iter::repeat_n(m, tensor.len()));
        for (m, values) in owners.zip(rotated) {
            for (bundle, x) in moved.iter_mut().zip(values) {
                bundle[m].push(x);
            }
        }
        for (offset, moved) in moved.into_iter().enumerate() {
            visit(first + offset, moved)?;
        }
    }
    Ok(())
}

/// How many times the values of one bundle may exist at one time, at most `most`.
pub(crate) fn bundles_at_a_time<E: Evaluator>(ev: &E, bundle: &[Vec<E::Value>], most: usize) -> usize {
    let limbs: usize = bundle.iter().flatten().map(|x| ev.level(x) + 1).sum();
    (ROTATED_LIMBS / limbs.max(1)).clamp(1, most)
}

/// A plaintext over all slots from a function of the slot.
pub(crate) fn all_slots(layout: &Layout, value: impl Fn(usize) -> f64) -> Slots {
    Slots::new((0..layout.slot_count).map(value).collect(), layout.slot_count)
        .expect("the slot count is a power of two")
}

/// Score ciphertext and first position in it of a bundle of private groups.
pub(crate) fn bundle_place(layout: &Layout, parts: usize, bundle: usize) -> (usize, usize) {
    let group = layout.public_groups + bundle * parts;
    (group / layout.lane_positions(), group % layout.lane_positions())
}

/// `factor` at the visible keys of a bundle in its score ciphertext, zero elsewhere.
pub(crate) fn bundle_mask(layout: &Layout, parts: usize, bundle: usize, factor: f64) -> Slots {
    let (count, first) = bundle_place(layout, parts, bundle);
    let places = first..first + parts;
    all_slots(layout, |slot| {
        let own = places.contains(&(slot / layout.lane_stride()));
        if own && matches!(layout.score_at(count, slot).key, Key::Private { .. }) { factor } else { 0.0 }
    })
}

/// The axis ρ + R·j of a per-head tensor.
fn lane_axis(layout: &Layout) -> Axis {
    let axis = layout.coordinate_axis();
    Axis { len: axis.len * layout.lanes, ..axis }
}

#[cfg(test)]
mod tests;
