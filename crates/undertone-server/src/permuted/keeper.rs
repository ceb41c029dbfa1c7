//! Keeps a provider known to its dealer: one that is started again knows no provider, and refuses users until one comes.

use super::Shared;
use std::sync::Weak;
use std::time::Duration;
use undertone_protocol::Duplex;
use undertone_protocol::modes::permuted::DealLink;

/// Between two looks at the dealer.
const PAUSE: Duration = Duration::from_secs(1);

/// Looks at the dealer now and then for as long as the provider is there, and introduces the provider again to one that does not
/// answer on the old connection. What is wrong with a dealer that refuses, users hear when they begin a session.
pub(super) fn keep_known(shared: &Weak<Shared>) {
    let mut link: Option<DealLink<Box<dyn Duplex>>> = None;
    while let Some(shared) = shared.upgrade() {
        link = match link {
            // A question that costs the dealer next to nothing.
            Some(mut known) => known.stock().is_ok().then_some(known),
            None => shared.access.register(shared.fingerprint, &shared.public).ok().map(|(link, _)| link),
        };
        drop(shared);
        std::thread::sleep(PAUSE);
    }
    if let Some(link) = link {
        link.close();
    }
}
