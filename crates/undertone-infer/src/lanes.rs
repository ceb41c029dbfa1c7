//! From the block frame to the lane frame, where R relative positions are worked on at once.

use crate::Error;
use crate::matmul::AxisProduct;
use crate::packing::{Axis, Layout};
use undertone_he::{Evaluator, Slots};

/// Rotations by multiples of one group that are made from one hoisted value; also bounds the keys that they need.
const HOISTED: usize = 8;

/// Puts the same head coordinates into every lane. Depth 1, or 0 with a single lane.
pub(crate) fn spread<E: Evaluator>(ev: &E, layout: &Layout, x: &[E::Value]) -> Result<Vec<E::Value>, Error> {
    if layout.lanes == 1 {
        return Ok(x.to_vec());
    }
    let entry = |_: usize, (_, p): (usize, usize), (_, a): (usize, usize)| f64::from(p / layout.lanes == a);
    Ok(AxisProduct::new(layout.slot_count, layout.coordinate_axis(), lane_axis(layout), &entry).apply(ev, x)?)
}

/// Puts the row ρ tokens back into lane ρ: row t of lane ρ holds token t − ρ. Depth 1, or 0 with a single lane.
///
/// Rows t < ρ hold rows of a neighbouring channel; whoever uses the result masks them.
pub(crate) fn stagger<E: Evaluator>(ev: &E, layout: &Layout, x: &[E::Value]) -> Result<Vec<E::Value>, Error> {
    if layout.lanes == 1 {
        return Ok(x.to_vec());
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

/// Calls `visit(group, rotated)` for every private group with the staggered tensor moved back by `group` groups.
pub(crate) fn for_each_group<E: Evaluator>(
    ev: &E,
    layout: &Layout,
    staggered: &[E::Value],
    mut visit: impl FnMut(usize, Vec<E::Value>) -> Result<(), Error>,
) -> Result<(), Error> {
    let groups = layout.private_groups();
    let back = |count: usize| -((count * layout.lanes) as i32);
    let mut base = staggered.to_vec();
    for first in (0..groups).step_by(HOISTED) {
        if first > 0 {
            base = base.iter().map(|x| ev.rotate(x, back(HOISTED))).collect::<Result<_, _>>()?;
        }
        let by: Vec<i32> = (0..HOISTED.min(groups - first)).map(back).collect();
        let moved = base.iter().map(|x| ev.rotate_many(x, &by)).collect::<Result<Vec<_>, _>>()?;
        for offset in 0..by.len() {
            visit(first + offset, moved.iter().map(|m| m[offset].clone()).collect())?;
        }
    }
    Ok(())
}

/// A plaintext over one score ciphertext from a function of the slot.
pub(crate) fn score_slots(layout: &Layout, value: impl Fn(usize) -> f64) -> Slots {
    Slots::new((0..layout.slot_count).map(value).collect(), layout.slot_count)
        .expect("the slot count is a power of two")
}

/// The axis ρ + R·j of a per-head tensor.
fn lane_axis(layout: &Layout) -> Axis {
    let axis = layout.coordinate_axis();
    Axis { len: axis.len * layout.lanes, ..axis }
}
