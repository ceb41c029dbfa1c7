//! What a session holds at a dealer: halves that wait, and the masks of every row that it has cached.
//!
//! All of it follows from model and step, so it is known before anything is dealt. A dealer sets the most that one session needs
//! aside when it opens, at most a limit, and deals no further while what waits fills that. On top come one step in the making for
//! all sessions together, up to three times its bundle, and a bundle on its way for each connection of the provider.

use undertone_protocol::Error;
use undertone_shares::{Bundle, ProviderBundle, Shape, Step, UserBundle};

/// Bundles that both parties fetch ahead of their use, beside what is dealt ahead.
const FETCHED: u64 = 8;

/// What sessions may hold, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// One session.
    pub(crate) session_bytes: u64,
    /// Most steps of one session.
    pub(crate) most_steps: u64,
    /// Steps dealt ahead of a user.
    pub(crate) ahead: u64,
}

/// Bytes of both halves of a step.
pub(crate) fn step_bytes(shape: &Shape, step: &Step) -> u64 {
    (UserBundle::size_bytes(shape, step) + ProviderBundle::size_bytes(shape, step)) as u64
}

/// Bytes of the masks of `rows` cached rows: keys and values, in lists that grow by doubling.
pub(crate) fn mask_bytes(shape: &Shape, rows: usize) -> u64 {
    let row = 2 * 2 * 8 * shape.layers as u64 * shape.key() as u64;
    row.saturating_mul(rows as u64)
}

/// What to set aside for a session: the steps of its prompt, and the step after it that is the last it may have.
///
/// # Errors
/// `DealMemory` for a session of which a single step exceeds the limit.
pub(crate) fn window(shape: &Shape, prompt: &[Step], last: &Step, limits: &Limits) -> Result<u64, Error> {
    let end = |step: &Step| step.position.saturating_add(step.tokens);
    let alone = |step: &Step| mask_bytes(shape, end(step)).saturating_add(step_bytes(shape, step));
    let (have, need) = (limits.session_bytes, prompt.iter().map(alone).max().unwrap_or(0));
    if need > have {
        return Err(Error::DealMemory { have, need });
    }
    let waiting = prompt.iter().map(|step| step_bytes(shape, step)).fold(0, u64::saturating_add);
    let after = step_bytes(shape, last).saturating_mul(limits.ahead.saturating_add(FETCHED));
    let most = mask_bytes(shape, end(last)).saturating_add(waiting).saturating_add(after);
    Ok(most.min(have))
}
