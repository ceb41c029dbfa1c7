//! Keeps a provider known to its dealer: one that is started again knows no provider, and refuses users until one comes.

use super::Shared;
use std::sync::Weak;
use std::time::Duration;
use undertone_protocol::Duplex;
use undertone_protocol::modes::permuted::DealLink;

/// Between two looks at the dealer.
const PAUSE: Duration = Duration::from_secs(1);

/// What was said last: why the dealer does not know the provider, if it does not.
#[derive(Default)]
struct Said(Option<String>);

impl Said {
    /// What there is to say of a registration that failed for this reason, or that succeeded.
    fn news(&mut self, failed: Option<String>) -> Option<String> {
        let before = std::mem::replace(&mut self.0, failed);
        match (&before, &self.0) {
            (_, Some(now)) if before.as_ref() != Some(now) => {
                Some(format!("the dealer cannot be told of this provider, and new sessions fail until it is: {now}"))
            }
            (Some(_), None) => Some("the dealer knows this provider again".to_owned()),
            _ => None,
        }
    }
}

/// Looks at the dealer now and then for as long as the provider is there, and introduces the provider again to one that does not
/// answer on the old connection. What keeps it from that is said once, until it is something else or over.
pub(super) fn keep_known(shared: &Weak<Shared>) {
    let mut link: Option<DealLink<Box<dyn Duplex>>> = None;
    let mut said = Said::default();
    while let Some(shared) = shared.upgrade() {
        link = match link {
            // A question that costs the dealer next to nothing.
            Some(mut known) => known.stock().is_ok().then_some(known),
            None => {
                let registered = shared.access.register(shared.fingerprint, &shared.public);
                if let Some(sentence) = said.news(registered.as_ref().err().map(ToString::to_string)) {
                    (shared.access.notice)(&sentence);
                }
                registered.ok().map(|(link, _)| link)
            }
        };
        drop(shared);
        std::thread::sleep(PAUSE);
    }
    if let Some(link) = link {
        link.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_said_once_and_so_is_its_end() {
        let mut said = Said::default();
        assert_eq!(said.news(None), None);
        let refused = said.news(Some("the ticket is another".into())).unwrap();
        assert!(refused.contains("new sessions fail") && refused.ends_with("the ticket is another"), "{refused}");
        assert_eq!(said.news(Some("the ticket is another".into())), None);
        assert!(said.news(Some("nobody is there".into())).unwrap().ends_with("nobody is there"));
        assert!(said.news(None).unwrap().contains("knows this provider again"));
        assert_eq!(said.news(None), None);
    }
}
