//! What a session holds at a dealer: halves that wait, and the masks of every row that it has cached.
//!
//! All of it follows from model and step, so it is known before anything is dealt. A dealer sets the most that one session needs
//! aside when it opens, at most a limit, and deals no further while what waits fills that. On top come one step in the making for
//! all sessions together, up to three times its bundle, and a bundle on its way for each connection of the provider.

use crate::Settings;
use undertone_protocol::Error;
use undertone_shares::{Bundle, ProviderBundle, Shape, Step, UserBundle};

/// Memory for bundles where nothing is said and the system does not say what is free.
const MEMORY: u64 = 4 << 30;
/// Sessions that share this memory at least.
const SHARES: u64 = 4;
/// Bundles that both parties fetch ahead of their use, beside what is dealt ahead.
const FETCHED: u64 = 8;

/// What sessions may hold, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// All sessions.
    pub(crate) all_bytes: u64,
    /// One session.
    pub(crate) session_bytes: u64,
    /// Most steps of one session.
    pub(crate) most_steps: u64,
    /// Steps dealt ahead of a user.
    pub(crate) ahead: u64,
}

impl Limits {
    /// Those of a dealer that holds masks of `masks` bytes where the system has `free` bytes: what its settings say, or half
    /// of what is free beside the masks, which are counted before they are held.
    ///
    /// # Errors
    /// `DealMasks`.
    pub(crate) fn new(settings: &Settings, free: Option<u64>, masks: u64) -> Result<Self, Error> {
        let beside = match free {
            Some(have) => Some(have.checked_sub(masks).ok_or(Error::DealMasks { have, need: masks })?),
            None => None,
        };
        let all_bytes = settings.memory_bytes.or(beside.map(|bytes| bytes / 2)).unwrap_or(MEMORY);
        let session_bytes = settings.session_bytes.unwrap_or(all_bytes / SHARES).min(all_bytes);
        Ok(Self { all_bytes, session_bytes, most_steps: settings.most_steps, ahead: settings.ahead })
    }
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

/// What to set aside for a session: the steps of its prompt, and of the `steps` after it, of which `last` is the last, as
/// many as may wait. Strict keys grow with positions, so that the last step must fit as well.
///
/// # Errors
/// `DealMemory` for a session of which a single step exceeds the limit.
pub(crate) fn window(shape: &Shape, prompt: &[Step], last: &Step, steps: u64, limits: &Limits) -> Result<u64, Error> {
    let end = |step: &Step| step.position.saturating_add(step.tokens);
    let alone = |step: &Step| mask_bytes(shape, end(step)).saturating_add(step_bytes(shape, step));
    let steps_alone = prompt.iter().chain(last.strict.then_some(last));
    let (have, need) = (limits.session_bytes, steps_alone.map(alone).max().unwrap_or(0));
    if need > have {
        return Err(Error::DealMemory { have, need });
    }
    let waiting = prompt.iter().map(|step| step_bytes(shape, step)).fold(0, u64::saturating_add);
    let after = step_bytes(shape, last).saturating_mul(limits.ahead.saturating_add(FETCHED).min(steps));
    let most = mask_bytes(shape, end(last)).saturating_add(waiting).saturating_add(after);
    Ok(most.min(have))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_counted_before_bundles_get_their_share() {
        let shares = |settings: &Settings, free, masks| {
            let limits = Limits::new(settings, free, masks).unwrap();
            (limits.all_bytes, limits.session_bytes)
        };
        let unset = Settings::default();
        assert_eq!(shares(&unset, Some(1000), 200), (400, 100));
        assert_eq!(shares(&unset, Some(1000), 1000), (0, 0));
        assert_eq!(shares(&unset, None, 1 << 40), (MEMORY, MEMORY / 4));
        let set = Settings { memory_bytes: Some(80), session_bytes: Some(100), ..unset };
        assert_eq!((shares(&set, Some(1000), 200), shares(&set, None, 200)), ((80, 80), (80, 80)));
        // What is said for bundles makes no room for masks.
        let said = Limits::new(&set, Some(1000), 1001).unwrap_err().to_string();
        assert!(said.contains("1000 bytes") && said.contains("1001") && said.contains("--draw-masks"), "{said}");
    }
}
