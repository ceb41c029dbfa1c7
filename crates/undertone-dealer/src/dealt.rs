//! One dealt session: the pieces of its prompt, then steps of equal length, halves queued for both parties.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use undertone_protocol::Error;
use undertone_protocol::modes::permuted::deal::DealtBundle;
use undertone_shares::{
    Bundle, BundleStore, Dealer, DealerSession, Error as SharesError, MemoryStore, SessionId, Shape, Step,
};
use zeroize::Zeroizing;

/// What is heard of a session that is over.
const OVER: Error = Error::DealRefused { cause: "this session is over; begin a new one" };

/// Halves that wait, and how far the session is.
struct Queues {
    user: VecDeque<DealtBundle>,
    provider: MemoryStore,
    dealt: u64,
    taken: u64,
    /// No step follows: the limit or the end of the context is reached.
    complete: bool,
    /// Why no step follows, where that is a fault.
    failed: Option<Error>,
    /// When its user left.
    closed: Option<Instant>,
}

impl Queues {
    /// Whether no step follows, for whatever reason.
    fn ended(&self) -> bool {
        self.complete || self.failed.is_some() || self.closed.is_some()
    }
}

/// One dealt session.
pub(crate) struct Dealt {
    pub(crate) id: SessionId,
    /// Tokens of the pieces of the prompt.
    pub(crate) pieces: Vec<usize>,
    draft: usize,
    shape: Shape,
    positions: usize,
    most_steps: u64,
    /// None once the user has left or dealing has failed: the root of all its masks is wiped then.
    session: Mutex<Option<DealerSession>>,
    queues: Mutex<Queues>,
}

impl Dealt {
    /// A session whose prompt has at most the tokens of `pieces`.
    ///
    /// # Errors
    /// A prompt or a piece of it that the model cannot take, no randomness.
    pub(crate) fn new(dealer: &Arc<Dealer>, pieces: Vec<usize>, draft: usize, most_steps: u64) -> Result<Self, Error> {
        let session = dealer.session()?;
        let queues = Queues {
            user: VecDeque::new(),
            provider: MemoryStore::default(),
            dealt: 0,
            taken: 0,
            complete: false,
            failed: None,
            closed: None,
        };
        let dealt = Self {
            id: session.id(),
            pieces,
            draft,
            shape: dealer.shape(),
            positions: dealer.positions(),
            most_steps,
            session: Mutex::new(Some(session)),
            queues: Mutex::new(queues),
        };
        let after = dealt.pieces.len() as u64;
        for number in 0..after {
            dealt.step(number).check(&dealt.shape, dealt.positions)?;
        }
        if !dealt.is_full(&dealt.step(after)) {
            dealt.step(after).check(&dealt.shape, dealt.positions)?;
        }
        Ok(dealt)
    }

    /// The step of a number, whether or not there is room for it.
    fn step(&self, number: u64) -> Step {
        let (pieces, rows) = (self.pieces.len(), self.draft + 1);
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        match self.pieces.get(index) {
            Some(&tokens) => {
                let position = self.pieces[..index].iter().sum();
                Step { number, position, tokens, outputs: usize::from(index + 1 == pieces) }
            }
            None => {
                let position = self.room().saturating_add((index - pieces).saturating_mul(rows));
                Step { number, position, tokens: rows, outputs: rows }
            }
        }
    }

    /// Whether a step goes beyond the context.
    fn is_full(&self, step: &Step) -> bool {
        step.position.saturating_add(step.tokens) > self.positions
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
        queues.ended() || queues.dealt >= (queues.taken.max(pieces)) + ahead
    }

    /// Deals the next step, unless there is to be none.
    ///
    /// # Errors
    /// A session that is over or that cannot go on; it stays so.
    pub(crate) fn deal(&self) -> Result<(), Error> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let queues = self.queues();
        if let Some(error) = &queues.failed {
            return Err(error.clone());
        }
        let step = self.step(queues.dealt);
        drop(queues);
        let Some(dealing) = session.as_mut() else { return Err(OVER) };
        if step.number >= self.most_steps || (step.number > 0 && self.is_full(&step)) {
            self.queues().complete = true;
            return Ok(());
        }
        let dealt = dealing.deal(step.tokens, step.outputs).map_err(Error::from).and_then(|(user, provider)| {
            self.push(step.number, user.encode(&self.shape), provider.encode(&self.shape))
        });
        dealt.map_err(|error| {
            *session = None;
            self.queues().failed.insert(error).clone()
        })
    }

    fn push(&self, number: u64, user: Zeroizing<Vec<u8>>, provider: Zeroizing<Vec<u8>>) -> Result<(), Error> {
        let mut queues = self.queues();
        // The provider's half first, so that it is there when the user comes with its own.
        queues.provider.put(number, provider)?;
        queues.user.push_back((number, user));
        queues.dealt += 1;
        Ok(())
    }

    /// The user's next half, or the number of steps when there are no more; deals one when none waits.
    ///
    /// # Errors
    /// As [`Dealt::deal`], once what was dealt before is taken.
    pub(crate) fn next(&self) -> Result<Result<DealtBundle, u64>, Error> {
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
            // Every turn deals a step, ends the session or fails, so that this ends.
            self.deal()?;
        }
    }

    /// The provider's half of a step, once; none while it is not dealt.
    ///
    /// # Errors
    /// A half that was given away, one that is not there and never will be.
    pub(crate) fn pull(&self, step: u64) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let mut queues = self.queues();
        match queues.provider.take(step) {
            Ok(bundle) => Ok(Some(bundle)),
            Err(SharesError::NoBundle { .. }) => match &queues.failed {
                Some(error) => Err(error.clone()),
                None => Ok(None),
            },
            Err(error) => Err(error.into()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use undertone_model::synthetic::{small_config, synthetic};
    use undertone_ring::scalar_word_kernels;
    use undertone_shares::QuantizedModel;

    fn dealer() -> Arc<Dealer> {
        let public = QuantizedModel::new(&synthetic(small_config(), 1)).unwrap().public().clone();
        Arc::new(Dealer::new(public, scalar_word_kernels()).unwrap())
    }

    /// What the user hears, unless it waits for ever.
    fn heard(dealt: &Arc<Dealt>) -> Result<Result<DealtBundle, u64>, Error> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let dealt = Arc::clone(dealt);
        std::thread::spawn(move || sender.send(dealt.next()));
        receiver.recv_timeout(std::time::Duration::from_secs(20)).expect("an answer")
    }

    #[test]
    fn a_prompt_that_the_model_cannot_take_is_refused_before_anything_is_dealt() {
        let dealer = dealer();
        let positions = dealer.positions();
        assert!(Dealt::new(&dealer, vec![1, positions - 1], 0, 9).is_ok());
        for pieces in [vec![positions + 1], vec![1, positions], vec![0], vec![2, 0]] {
            let error = Dealt::new(&dealer, pieces, 0, 9).err().unwrap().to_string();
            assert!(error.contains("the last position of a step"), "{error}");
        }
    }

    #[test]
    fn a_step_that_is_refused_ends_the_session_with_its_reason() {
        let mut dealt = Dealt::new(&dealer(), vec![2, 3], 0, 9).unwrap();
        dealt.pieces[1] = dealt.positions + 1;
        // A context that is full ends a session in order; here a step is refused for another reason.
        dealt.positions *= 2;
        let dealt = Arc::new(dealt);
        assert_eq!(heard(&dealt).unwrap().unwrap().0, 0);
        for _ in 0..2 {
            let said = heard(&dealt).unwrap_err().to_string();
            assert!(said.contains("the last position of a step"), "{said}");
        }
        assert!(dealt.is_ahead(8) && dealt.session.lock().unwrap().is_none());
        // What the provider was promised is still there, and the rest is named instead of waited for.
        assert!(dealt.pull(0).unwrap().is_some() && dealt.pull(1).is_err());
    }

    #[test]
    fn nobody_waits_for_a_session_that_is_closed() {
        let dealt = Arc::new(Dealt::new(&dealer(), vec![2], 0, 9).unwrap());
        dealt.deal().unwrap();
        dealt.close();
        assert!(heard(&dealt).unwrap_err().to_string().contains("over"));
        assert!(dealt.deal().is_err() && dealt.is_ahead(8));
    }
}
