//! One dealt session: the pieces of its prompt, then steps of equal length, halves queued for both parties.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use undertone_protocol::modes::permuted::deal::DealtBundle;
use undertone_shares::{Bundle, BundleStore, Dealer, DealerSession, Error, MemoryStore, Result, SessionId, Shape};
use zeroize::Zeroizing;

/// Halves that wait, and how far the session is.
struct Queues {
    user: VecDeque<DealtBundle>,
    provider: MemoryStore,
    dealt: u64,
    taken: u64,
    /// No step follows: the limit or the end of the context is reached.
    complete: bool,
    /// When its user left.
    closed: Option<Instant>,
}

/// One dealt session.
pub(crate) struct Dealt {
    pub(crate) id: SessionId,
    /// Tokens of the pieces of the prompt.
    pub(crate) pieces: Vec<usize>,
    draft: usize,
    shape: Shape,
    most_steps: u64,
    /// None once the user has left: the root of all its masks is wiped then.
    session: Mutex<Option<DealerSession>>,
    queues: Mutex<Queues>,
}

impl Dealt {
    /// A session whose prompt has at most the tokens of `pieces`.
    pub(crate) fn new(dealer: &Arc<Dealer>, pieces: Vec<usize>, draft: usize, most_steps: u64) -> Result<Self> {
        let session = dealer.session()?;
        let queues = Queues {
            user: VecDeque::new(),
            provider: MemoryStore::default(),
            dealt: 0,
            taken: 0,
            complete: false,
            closed: None,
        };
        Ok(Self {
            id: session.id(),
            pieces,
            draft,
            shape: dealer.shape(),
            most_steps,
            session: Mutex::new(Some(session)),
            queues: Mutex::new(queues),
        })
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tokens that its prompt has room for.
    pub(crate) fn room(&self) -> usize {
        self.pieces.iter().sum()
    }

    /// Steps dealt that the user has not taken, those of the prompt not counted.
    pub(crate) fn ahead(&self) -> u64 {
        let queues = self.queues();
        queues.dealt - queues.taken.max((self.pieces.len() as u64).min(queues.dealt))
    }

    /// Steps dealt, and steps taken by the user.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let queues = self.queues();
        (queues.dealt, queues.taken)
    }

    /// Whether all of the prompt, and `ahead` steps more than the user took, are dealt.
    pub(crate) fn is_ahead(&self, ahead: u64) -> bool {
        let queues = self.queues();
        let pieces = self.pieces.len() as u64;
        queues.complete || queues.closed.is_some() || queues.dealt >= (queues.taken.max(pieces)) + ahead
    }

    /// Deals the next step, unless the user has left or there is to be none.
    pub(crate) fn deal(&self) -> Result<()> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(session) = session.as_mut() else { return Ok(()) };
        let number = self.queues().dealt;
        let (tokens, outputs) = match self.pieces.get(number as usize) {
            Some(&tokens) => (tokens, usize::from(number as usize + 1 == self.pieces.len())),
            None => (self.draft + 1, self.draft + 1),
        };
        if number >= self.most_steps {
            self.queues().complete = true;
            return Ok(());
        }
        match session.deal(tokens, outputs) {
            Ok((user, provider)) => {
                let (user, provider) = (user.encode(&self.shape), provider.encode(&self.shape));
                let mut queues = self.queues();
                // The provider's half first, so that it is there when the user comes with its own.
                queues.provider.put(number, provider)?;
                queues.user.push_back((number, user));
                queues.dealt += 1;
                Ok(())
            }
            // The context is full.
            Err(Error::OutOfRange { .. }) if number > 0 => {
                self.queues().complete = true;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The user's next half, or the number of steps when there are no more; deals one when none waits.
    pub(crate) fn next(&self) -> Result<std::result::Result<DealtBundle, u64>> {
        loop {
            let mut queues = self.queues();
            if let Some(bundle) = queues.user.pop_front() {
                queues.taken += 1;
                return Ok(Ok(bundle));
            }
            if queues.complete {
                return Ok(Err(queues.dealt));
            }
            drop(queues);
            self.deal()?;
        }
    }

    /// The provider's half of a step, once; none while it is not dealt.
    pub(crate) fn pull(&self, step: u64) -> Result<Option<Zeroizing<Vec<u8>>>> {
        match self.queues().provider.take(step) {
            Ok(bundle) => Ok(Some(bundle)),
            Err(Error::NoBundle { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The user has left: what it did not take is wiped, and so is the root.
    pub(crate) fn close(&self) {
        let mut queues = self.queues();
        queues.user.clear();
        queues.closed = Some(Instant::now());
        drop(queues);
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// When the user left.
    pub(crate) fn closed(&self) -> Option<Instant> {
        self.queues().closed
    }
}
