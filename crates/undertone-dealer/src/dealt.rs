//! One dealt session: the pieces of its prompt, then steps of equal length, halves queued for both parties.

use crate::window::{Limits, mask_bytes, step_bytes, window};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use undertone_protocol::Error;
use undertone_protocol::modes::permuted::deal::{DealtBundle, Next};
use undertone_server::{Budget, Reservation};
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
    /// Bytes of all of these.
    waiting: u64,
    dealt: u64,
    taken: u64,
    /// The user asked for a step that was not dealt yet.
    asked: bool,
    /// No step follows: the limit or the end of the context is reached.
    complete: bool,
    /// Why no step follows, where that is a fault.
    failed: Option<Error>,
    /// Whether its user has left.
    closed: bool,
    /// Memory set aside for this session, until its user leaves.
    reservation: Option<Reservation>,
}

impl Queues {
    /// Whether no step follows, for whatever reason.
    fn ended(&self) -> bool {
        self.complete || self.failed.is_some() || self.closed
    }
}

/// One dealt session.
pub(crate) struct Dealt {
    pub(crate) id: SessionId,
    /// Tokens of the pieces of the prompt.
    pub(crate) pieces: Vec<usize>,
    draft: usize,
    strict: bool,
    shape: Shape,
    positions: usize,
    most_steps: u64,
    /// Bytes that it may hold.
    window: u64,
    /// None once the user has left or dealing has failed: the root of all its masks is wiped then.
    session: Mutex<Option<DealerSession>>,
    queues: Mutex<Queues>,
}

impl Dealt {
    /// A session whose prompt has at most the tokens of `pieces`; it holds nothing until [`Dealt::reserve`].
    ///
    /// # Errors
    /// A prompt or a piece of it that the model or the limits cannot take, no randomness.
    pub(crate) fn new(
        dealer: &Arc<Dealer>,
        pieces: Vec<usize>,
        (draft, strict): (usize, bool),
        limits: &Limits,
    ) -> Result<Self, Error> {
        let session = dealer.session()?.with_strict(strict);
        let queues = Queues {
            user: VecDeque::new(),
            provider: MemoryStore::default(),
            waiting: 0,
            dealt: 0,
            taken: 0,
            asked: false,
            complete: false,
            failed: None,
            closed: false,
            reservation: None,
        };
        let mut dealt = Self {
            id: session.id(),
            pieces,
            draft,
            strict,
            shape: dealer.shape(),
            positions: dealer.positions(),
            most_steps: limits.most_steps,
            window: 0,
            session: Mutex::new(Some(session)),
            queues: Mutex::new(queues),
        };
        let after = dealt.pieces.len() as u64;
        let mut prompt: Vec<Step> = (0..after).map(|number| dealt.step(number)).collect();
        if !dealt.is_full(&dealt.step(after)) {
            prompt.push(dealt.step(after));
        }
        prompt.iter().try_for_each(|step| step.check(&dealt.shape, dealt.positions))?;
        dealt.window = window(&dealt.shape, &prompt, &dealt.last(), limits)?;
        Ok(dealt)
    }

    /// Sets aside what the session may hold.
    ///
    /// # Errors
    /// `DealMemory` when that is not left.
    pub(crate) fn reserve(&self, budget: &Arc<Budget>) -> Result<(), Error> {
        let reservation = budget.reserve(self.window).map_err(|error| match error {
            Error::Memory { have, need } => Error::DealMemory { have, need },
            error => error,
        })?;
        self.queues().reservation = Some(reservation);
        Ok(())
    }

    /// A step where the context, or what is allowed, ends: no step takes more.
    fn last(&self) -> Step {
        let rows = self.draft + 1;
        let steps = usize::try_from(self.most_steps).unwrap_or(usize::MAX).saturating_sub(self.pieces.len());
        let end = self.room().saturating_add(steps.saturating_mul(rows)).min(self.positions);
        Step {
            number: self.most_steps,
            position: end.saturating_sub(rows),
            tokens: rows.min(end),
            outputs: rows.min(end),
            strict: self.strict,
        }
    }

    /// The step of a number, whether or not there is room for it.
    fn step(&self, number: u64) -> Step {
        let (pieces, rows) = (self.pieces.len(), self.draft + 1);
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        match self.pieces.get(index) {
            Some(&tokens) => {
                let position = self.pieces[..index].iter().sum();
                Step { number, position, tokens, outputs: usize::from(index + 1 == pieces), strict: self.strict }
            }
            None => {
                let position = self.room().saturating_add((index - pieces).saturating_mul(rows));
                Step { number, position, tokens: rows, outputs: rows, strict: self.strict }
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

    /// Whether all of the prompt, and `ahead` steps more than the user took, are dealt, or as much as may wait.
    pub(crate) fn is_ahead(&self, ahead: u64) -> bool {
        let queues = self.queues();
        let pieces = self.pieces.len() as u64;
        let behind = queues.dealt < queues.taken.max(pieces).saturating_add(ahead);
        let awaited = queues.asked && queues.user.is_empty();
        queues.ended() || !(behind || awaited) || self.is_filled(&queues)
    }

    /// Whether the next step has to wait until a party takes what waits.
    fn is_filled(&self, queues: &Queues) -> bool {
        let step = self.step(queues.dealt);
        queues.waiting > 0 && !self.is_over(&step) && self.alone(&step).saturating_add(queues.waiting) > self.window
    }

    /// Bytes held when only this step waits.
    fn alone(&self, step: &Step) -> u64 {
        let rows = step.position.saturating_add(step.tokens);
        mask_bytes(&self.shape, rows).saturating_add(step_bytes(&self.shape, step))
    }

    /// Whether there is no such step.
    fn is_over(&self, step: &Step) -> bool {
        step.number >= self.most_steps || (step.number > 0 && self.is_full(step))
    }

    /// Deals the next step, unless there is to be none or it has to wait.
    ///
    /// # Errors
    /// A session that is over or that cannot go on; it stays so.
    pub(crate) fn deal(&self) -> Result<(), Error> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let mut queues = self.queues();
        if let Some(error) = &queues.failed {
            return Err(error.clone());
        }
        let step = self.step(queues.dealt);
        let Some(dealing) = session.as_mut() else { return Err(OVER) };
        if self.is_over(&step) {
            queues.complete = true;
            return Ok(());
        }
        if self.is_filled(&queues) {
            return Ok(());
        }
        drop(queues);
        let (have, need) = (self.window, self.alone(&step));
        let dealt = if need > have {
            Err(Error::DealMemory { have, need })
        } else {
            dealing.deal(step.tokens, step.outputs).map_err(Error::from).and_then(|(user, provider)| {
                self.push(step.number, user.encode(&self.shape), provider.encode(&self.shape))
            })
        };
        dealt.map_err(|error| {
            *session = None;
            self.queues().failed.insert(error).clone()
        })
    }

    fn push(&self, number: u64, user: Zeroizing<Vec<u8>>, provider: Zeroizing<Vec<u8>>) -> Result<(), Error> {
        let mut queues = self.queues();
        if queues.closed {
            // The user left while the step was dealt: nobody can use either half.
            return Err(OVER);
        }
        let bytes = (user.len() + provider.len()) as u64;
        // The provider's half first, so that it is there when the user comes with its own.
        queues.provider.put(number, provider)?;
        queues.user.push_back((number, user));
        queues.waiting += bytes;
        queues.dealt += 1;
        Ok(())
    }

    /// The user's next half, the number of steps when there are no more, or word that it is not dealt yet.
    ///
    /// # Errors
    /// As [`Dealt::deal`], once what was dealt before is taken.
    pub(crate) fn next(&self) -> Result<Next, Error> {
        let mut queues = self.queues();
        if let Some((number, bundle)) = queues.user.pop_front() {
            queues.taken += 1;
            queues.asked = false;
            queues.waiting -= bundle.len() as u64;
            return Ok(Next::Bundle((number, bundle)));
        }
        match &queues.failed {
            _ if queues.complete => Ok(Next::Exhausted { steps: queues.dealt }),
            Some(error) => Err(error.clone()),
            None if queues.closed => Err(OVER),
            None => {
                queues.asked = true;
                Ok(Next::NotYet)
            }
        }
    }

    /// The provider's half of a step, once; none while it is not dealt.
    ///
    /// # Errors
    /// A half that was given away, one that is not there and never will be.
    pub(crate) fn pull(&self, step: u64) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let mut queues = self.queues();
        match queues.provider.take(step) {
            Ok(bundle) => {
                queues.waiting -= bundle.len() as u64;
                Ok(Some(bundle))
            }
            Err(SharesError::NoBundle { .. }) => match &queues.failed {
                Some(error) => Err(error.clone()),
                None if queues.closed => Err(OVER),
                None => Ok(None),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// The user has left, and with it whoever could use a half: all of them are wiped, and so is the root.
    pub(crate) fn close(&self) {
        let mut queues = self.queues();
        queues.closed = true;
        queues.user.clear();
        queues.provider = MemoryStore::default();
        queues.waiting = 0;
        drop(queues);
        // A step that is being dealt is waited for here; it is not kept.
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.queues().reservation = None;
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

    const LIMITS: Limits = Limits { session_bytes: 1 << 30, most_steps: 9, ahead: 8 };

    fn dealt(pieces: Vec<usize>) -> Result<Dealt, Error> {
        Dealt::new(&dealer(), pieces, (0, false), &LIMITS)
    }

    /// What the user hears when it asks until there is something to hear.
    fn heard(dealt: &Dealt) -> Result<Next, Error> {
        for _ in 0..2 {
            match dealt.next() {
                // The dealing thread notices that the user waits.
                Ok(Next::NotYet) => drop((!dealt.is_ahead(0)).then(|| dealt.deal())),
                heard => return heard,
            }
        }
        panic!("nothing was dealt for a user that asks")
    }

    #[test]
    fn a_prompt_that_the_model_cannot_take_is_refused_before_anything_is_dealt() {
        let positions = dealer().positions();
        assert!(dealt(vec![1, positions - 1]).is_ok());
        for pieces in [vec![positions + 1], vec![1, positions], vec![0], vec![2, 0]] {
            let error = dealt(pieces).err().unwrap().to_string();
            assert!(error.contains("the last position of a step"), "{error}");
        }
    }

    #[test]
    fn a_step_that_is_refused_ends_the_session_with_its_reason() {
        let mut dealt = dealt(vec![2, 3]).unwrap();
        dealt.pieces[1] = dealt.positions + 1;
        // A context that is full ends a session in order; here a step is refused for another reason.
        dealt.positions *= 2;
        dealt.window = u64::MAX;
        assert!(matches!(heard(&dealt), Ok(Next::Bundle((0, _)))));
        for _ in 0..2 {
            let said = heard(&dealt).err().unwrap().to_string();
            assert!(said.contains("the last position of a step"), "{said}");
        }
        assert!(dealt.is_ahead(8) && dealt.session.lock().unwrap().is_none());
        // What the provider was promised is still there, and the rest is named instead of waited for.
        assert!(dealt.pull(0).unwrap().is_some() && dealt.pull(1).is_err());
    }

    #[test]
    fn a_closed_session_keeps_nothing_and_nobody_waits_for_it() {
        let dealt = dealt(vec![2, 1]).unwrap();
        let budget = Arc::new(Budget::new(Some(dealt.window)));
        dealt.reserve(&budget).unwrap();
        assert!(matches!(dealt.reserve(&budget), Err(Error::DealMemory { have: 0, .. })));
        (0..3).for_each(|_| dealt.deal().unwrap());
        assert!(matches!(heard(&dealt), Ok(Next::Bundle(_))));
        dealt.close();
        // A step that was being dealt meanwhile.
        assert!(dealt.push(3, vec![1].into(), vec![2].into()).is_err());
        let queues = dealt.queues();
        assert_eq!((queues.provider.stock(), queues.user.len(), queues.waiting), (0, 0, 0));
        drop(queues);
        assert!(budget.reserve(dealt.window).is_ok());
        assert!(heard(&dealt).err().unwrap().to_string().contains("over"));
        assert!(dealt.deal().is_err() && dealt.pull(0).is_err() && dealt.is_ahead(8));
    }

    #[test]
    fn halves_that_nobody_takes_stop_the_dealing_at_the_limit() {
        let free = dealt(vec![2]).unwrap();
        let session_bytes = free.alone(&free.step(0)) + 2 * step_bytes(&free.shape, &free.step(1));
        let limits = Limits { session_bytes, most_steps: 100, ahead: 8 };
        let dealt = Dealt::new(&dealer(), vec![2], (0, false), &limits).unwrap();
        // A user that asks and asks while its provider pulls nothing.
        let mut got = 0;
        for _ in 0..100 {
            match dealt.next().unwrap() {
                Next::Bundle(_) => got += 1,
                _ if dealt.is_ahead(8) => break,
                _ => dealt.deal().unwrap(),
            }
            let queues = dealt.queues();
            assert!(queues.waiting + mask_bytes(&dealt.shape, dealt.step(queues.dealt).position) <= session_bytes);
        }
        assert!((2..9).contains(&got) && dealt.deal().is_ok() && dealt.counts() == (got, got));
        // It goes on where the provider does.
        assert!(dealt.pull(0).unwrap().is_some() && !dealt.is_ahead(8));
        assert!(matches!(heard(&dealt), Ok(Next::Bundle(_))));
        // Masks of cached rows stay: a long session comes to its end, with a reason.
        let ended = loop {
            match heard(&dealt) {
                Ok(Next::Bundle((step, _))) => (0..=step).for_each(|step| drop(dealt.pull(step))),
                Ok(_) => panic!("a session beyond its memory goes on"),
                Err(error) => break error,
            }
        };
        assert!(matches!(ended, Error::DealMemory { have, .. } if have == dealt.window), "{ended}");
        let refused =
            Dealt::new(&dealer(), vec![2], (0, false), &Limits { session_bytes: 100, ..limits }).err().unwrap();
        assert!(matches!(refused, Error::DealMemory { have: 100, .. }), "{refused}");
    }
}
