//! Between the halves of a turn and the block frame of attention, encrypted; the rotary embedding rides along.
//!
//! Either way every output is a masked sum of values that moved by T/2 slots or not at all, so that the exchange takes
//! one level, and what else multiplies slot by slot (cosines, sines, the rows of the prompt) is in the masks.

use super::halves::Halves;
use crate::Error;
use crate::lanes::all_slots;
use crate::matmul::masked_sum;
use crate::packing::Layout;
use crate::rope::Angles;
use rayon::prelude::*;
use undertone_he::Evaluator;

/// How much larger than after the rotary embedding a coordinate may be before it, which turns a pair of them: queries and
/// keys leave their turn divided by this times their bound.
pub(super) const UNROTATED: f64 = std::f64::consts::SQRT_2;

/// What the rows of a per-head tensor are multiplied by on their way to the block frame.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// All by 1, those past the prompt by 0.
    Live,
    /// Rotated by the angles of each row, and times [`UNROTATED`].
    Rotary(&'a [Angles]),
    /// The same, those past the prompt zero.
    LiveRotary(&'a [Angles]),
}

impl Rows<'_> {
    /// The factors of coordinate `j` itself and of its partner half a head away, in row `token`.
    fn factors(self, layout: &Layout, token: usize, j: usize) -> [f64; 2] {
        let live = f64::from(token < layout.shape.private_tokens);
        match self {
            Rows::Live => [live, 0.0],
            Rows::Rotary(angles) => rotary(&angles[token], j, layout.head_dim),
            Rows::LiveRotary(angles) => rotary(&angles[token], j, layout.head_dim).map(|factor| live * factor),
        }
    }
}

/// The factors of coordinate `j` and of its partner in what the rotary embedding makes of a turn's output.
pub(super) fn rotary(angles: &Angles, j: usize, head_dim: usize) -> [f64; 2] {
    angles.factors(j, head_dim).map(|factor| UNROTATED * factor)
}

/// Two values for one of the block frame: what its first T/2 rows and what its other rows hold.
type Sources<V> = [V; 2];

/// A per-head tensor in the block frame, with `shared` query heads to each of the heads that come in. Depth 1.
///
/// # Shapes
/// `head_count / shared` halves of pairs become `head_count` values.
pub(crate) fn to_block<E: Evaluator>(
    ev: &E,
    layout: &Layout,
    pairs: &[[E::Value; 2]],
    shared: usize,
    rows: Rows<'_>,
) -> Result<Vec<E::Value>, Error> {
    let sources = sources(ev, layout, pairs, shared)?;
    let partners = match rows {
        Rows::Live => Vec::new(),
        Rows::Rotary(_) | Rows::LiveRotary(_) => partners(ev, layout, &sources)?,
    };
    let half = Halves::new(layout).tokens();
    let values = (0..layout.head_count).into_par_iter().map(|count| {
        let terms: Vec<E::Value> =
            sources[count].iter().chain(partners.get(count).into_iter().flatten()).cloned().collect();
        let mask = |term: usize| {
            all_slots(layout, |slot| {
                let (token, place) = (slot % layout.block, slot / layout.block);
                // Of heads that are served together the last one is filled, the others copy it.
                let filled = token / half == term % 2 && place % layout.heads_padded % shared == shared - 1;
                let coordinate = layout.head_channel(count, place).filter(|_| filled);
                coordinate.map_or(0.0, |(_, j)| rows.factors(layout, token, j)[term / 2])
            })
        };
        let value = masked_sum(ev, &terms, &mask)?;
        Ok(ev.rotate_sum(&value, layout.block as i32, shared)?)
    });
    values.collect()
}

/// For every value of the block frame, its rows where they belong and its last heads filled.
fn sources<E: Evaluator>(
    ev: &E,
    layout: &Layout,
    pairs: &[[E::Value; 2]],
    shared: usize,
) -> Result<Vec<Sources<E::Value>>, Error> {
    let half = Halves::new(layout).tokens() as i32;
    let mut sources = Vec::with_capacity(layout.head_count);
    for count in 0..layout.head_count / shared {
        let [lo, hi] = &pairs[count / 2];
        let [lo, hi] = match count % 2 {
            0 => [lo.clone(), ev.rotate(hi, -half)?],
            _ => [ev.rotate(lo, half)?, hi.clone()],
        };
        // Value `shared · count + digit` takes what digit `digit` of the heads holds.
        let by: Vec<i32> =
            (0..shared).map(|digit| ((digit + 1) as i32 - shared as i32) * layout.block as i32).collect();
        let moved = ev.rotate_many(&lo, &by)?.into_iter().zip(ev.rotate_many(&hi, &by)?);
        sources.extend(moved.map(|(lo, hi)| [lo, hi]));
    }
    Ok(sources)
}

/// For every value of the block frame, the sources of the coordinates half a head away.
fn partners<E: Evaluator>(
    ev: &E,
    layout: &Layout,
    sources: &[Sources<E::Value>],
) -> Result<Vec<Sources<E::Value>>, Error> {
    let counts = layout.head_count;
    if let ([[lo, hi]], 1) = (sources, counts) {
        // They are in the same value, half of all slots away.
        let by = (layout.slot_count / 2) as i32;
        return Ok(vec![[ev.rotate(lo, by)?, ev.rotate(hi, by)?]]);
    }
    Ok((0..counts).map(|count| sources[(count + counts / 2) % counts].clone()).collect())
}

/// The halves of a per-head tensor in the block frame. Depth 1.
pub(crate) fn to_halves<E: Evaluator>(
    ev: &E,
    layout: &Layout,
    values: &[E::Value],
) -> Result<Vec<[E::Value; 2]>, Error> {
    let half = Halves::new(layout).tokens();
    let by = half as i32;
    let mask = |term: usize| all_slots(layout, |slot| f64::from((slot % layout.block < half) == (term == 0)));
    values
        .par_chunks(2)
        .map(|values| {
            let even = &values[0];
            // An odd value out leaves every second channel empty.
            let Some(odd) = values.get(1) else {
                let one = |value: &E::Value| masked_sum(ev, std::slice::from_ref(value), &mask);
                return Ok([one(even)?, one(&ev.rotate(even, by)?)?]);
            };
            let lo = [even.clone(), ev.rotate(odd, -by)?];
            let hi = [ev.rotate(even, by)?, odd.clone()];
            Ok([masked_sum(ev, &lo, &mask)?, masked_sum(ev, &hi, &mask)?])
        })
        .collect()
}
