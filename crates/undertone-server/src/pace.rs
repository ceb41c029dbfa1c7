//! How long a client may take. All times are totals, so that a byte now and then buys nothing.
//!
//! A client that owes nothing may be idle for a while. What it has begun or announced must arrive at the slowest pace
//! that is waited for, and so must everything before the prompt together. Only waiting counts: what the server spends
//! on a key or a step is not the client's time. `now` is the time that this session has waited so far.

use crate::Options;
use std::time::Duration;
use undertone_protocol::Message;
use undertone_protocol::modes::permuted::deal::DealReply;
use undertone_protocol::modes::permuted::setup::Setup;

/// The time limits of one session.
pub(crate) struct Pace<'a> {
    options: &'a Options,
    /// When everything before the prompt must have arrived, until it has.
    setup_until: Option<Duration>,
    /// When what was announced must have arrived, until it has.
    transfer_until: Option<Duration>,
}

impl<'a> Pace<'a> {
    /// The limits of a session whose client sends `setup_bytes` before the prompt. One idle wait is granted to all of
    /// them together: the client makes keys while the server waits.
    pub(crate) fn new(options: &'a Options, setup_bytes: u64, now: Duration) -> Self {
        let setup_until = now + options.idle_timeout + options.transfer_time(setup_bytes);
        Self { options, setup_until: Some(setup_until), transfer_until: None }
    }

    /// When the next message must be complete.
    pub(crate) fn due(&self, now: Duration) -> Duration {
        let due = self.transfer_until.unwrap_or(now + self.options.idle_timeout);
        self.setup_until.map_or(due, |until| until.min(due))
    }

    /// A message has arrived.
    pub(crate) fn received(&mut self, message: &Message, now: Duration) {
        if !matches!(message, Message::Chunk(_)) {
            self.transfer_until = announced(message).map(|bytes| now + self.options.transfer_time(bytes));
        }
        if matches!(message, Message::KeysDone | Message::Prefill(_) | Message::StepBegin(_) | Message::DealRequest(_))
        {
            self.setup_until = None;
        }
    }

    /// All that was announced has arrived.
    pub(crate) fn complete(&mut self) {
        self.transfer_until = None;
    }
}

/// Bytes that a message says will follow it.
pub(crate) fn announced(message: &Message) -> Option<u64> {
    let sum = |blobs: &[u32]| Some(blobs.iter().copied().map(u64::from).sum());
    match message {
        Message::KeyBegin(begin) => Some(begin.len.into()),
        Message::Prefill(prefill) => sum(&prefill.blobs),
        Message::Decode(step) => sum(&step.blobs),
        Message::Result(result) => sum(&result.blobs),
        Message::FlightBegin(begin) => Some(begin.len.into()),
        Message::Setup(Setup::Masked { len }) => Some(*len),
        Message::DealReply(DealReply::Bundle { len, .. }) => Some((*len).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use undertone_protocol::message::Blobs;
    use undertone_protocol::modes::fhe::message::{KeyBegin, KeyEnd, WireKeyId};

    const SECOND: Duration = Duration::from_secs(1);

    fn options() -> Options {
        Options {
            idle_timeout: 100 * SECOND,
            message_timeout: 10 * SECOND,
            slowest_bytes_per_second: 1000,
            ..Options::default()
        }
    }

    #[test]
    fn chunks_do_not_prolong_what_was_announced() {
        let options = options();
        let mut pace = Pace::new(&options, 0, 5 * SECOND);
        pace.received(&Message::KeysDone, 5 * SECOND);
        assert_eq!(pace.due(5 * SECOND), 105 * SECOND);
        // 3000 bytes at 1000 bytes a second, and ten seconds for the rest.
        pace.received(&Message::Decode(Blobs { blobs: vec![1000, 2000] }), 50 * SECOND);
        for now in [50, 55, 62] {
            assert_eq!(pace.due(now * SECOND), 63 * SECOND);
            pace.received(&Message::Chunk(vec![0; 10]), now * SECOND);
        }
        pace.complete();
        assert_eq!(pace.due(62 * SECOND), 162 * SECOND);
    }

    #[test]
    fn all_keys_together_have_one_idle_wait() {
        let options = options();
        let mut pace = Pace::new(&options, 20_000, Duration::ZERO);
        let begin = KeyBegin { id: WireKeyId::Relinearization, level: 1, len: 10_000 };
        pace.received(&Message::KeyBegin(begin), 90 * SECOND);
        assert_eq!(pace.due(90 * SECOND), 110 * SECOND);
        pace.received(&Message::KeyEnd(KeyEnd { digest: [0; 32] }), 100 * SECOND);
        // 100 seconds of idleness, 20 for the bytes, 10 for the rest: less than another wait.
        assert_eq!(pace.due(100 * SECOND), 130 * SECOND);
        pace.received(&Message::KeyBegin(begin), 125 * SECOND);
        assert_eq!(pace.due(125 * SECOND), 130 * SECOND);
        pace.received(&Message::KeysDone, 129 * SECOND);
        assert_eq!(pace.due(129 * SECOND), 229 * SECOND);
    }
}
