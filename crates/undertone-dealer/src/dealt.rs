//! One dealt session: the pieces of its prompt, then steps of equal length, halves queued for both parties.

use crate::window::{Limits, mask_bytes, step_bytes, window};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
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
    /// Steps that it may have: what its user announced, if not the end of the context comes before.
    limit: u64,
    /// Why no step follows, where that is a fault.
    failed: Option<Error>,
    /// Whether its user has left.
    closed: bool,
    /// Memory set aside for this session, until its user leaves.
    reservation: Option<Reservation>,
}

impl Queues {
    /// Whether the user has asked and there was nothing to give.
    fn awaited(&self) -> bool {
        self.asked && self.user.is_empty()
    }
}

/// One dealt session.
pub(crate) struct Dealt {
    pub(crate) id: SessionId,
    /// Tokens of the pieces of the prompt.
    pub(crate) pieces: Vec<usize>,
    /// Tokens that may follow the prompt, where nothing is drafted.
    answer: usize,
    draft: usize,
    strict: bool,
    shape: Shape,
    positions: usize,
    /// Bytes that it may hold.
    window: u64,
    /// When it was dealt for last, among all sessions.
    turn: AtomicU64,
    /// None once the user has left or dealing has failed: the root of all its masks is wiped then.
    session: Mutex<Option<DealerSession>>,
    queues: Mutex<Queues>,
}

impl Dealt {
    /// A session whose prompt has at most the tokens of `pieces` and whose answer at most `answer`, with `draft` drafted
    /// tokens in every step of it; it holds nothing until [`Dealt::reserve`].
    ///
    /// # Errors
    /// A prompt, a piece of it or an answer that the model or the limits cannot take, no randomness.
    pub(crate) fn new(
        dealer: &Arc<Dealer>,
        pieces: Vec<usize>,
        (answer, draft, strict): (usize, usize, bool),
        limits: &Limits,
    ) -> Result<Self, Error> {
        let session = dealer.session()?.with_strict(strict);
        // The prompt's last step has the first token.
        let limit = (pieces.len() as u64).saturating_add(answer as u64).saturating_sub(1);
        let queues = Queues {
            user: VecDeque::new(),
            provider: MemoryStore::default(),
            waiting: 0,
            dealt: 0,
            taken: 0,
            asked: false,
            limit,
            failed: None,
            closed: false,
            reservation: None,
        };
        let mut dealt = Self {
            id: session.id(),
            pieces,
            answer,
            draft,
            strict,
            shape: dealer.shape(),
            positions: dealer.positions(),
            window: 0,
            turn: AtomicU64::new(0),
            session: Mutex::new(Some(session)),
            queues: Mutex::new(queues),
        };
        let after = dealt.pieces.len() as u64;
        let mut prompt: Vec<Step> = (0..after).map(|number| dealt.step(number)).collect();
        if answer > 1 && !dealt.is_full(&dealt.step(after)) {
            prompt.push(dealt.step(after));
        }
        prompt.iter().try_for_each(|step| step.check(&dealt.shape, dealt.positions))?;
        let rows = (dealt.room() + answer).saturating_sub(1);
        let caps = [
            ("prompt with its continuation", rows as u64, dealt.positions as u64),
            ("the number of steps of a session", limit, limits.most_steps),
        ];
        if let Some((field, have, need)) = caps.into_iter().find(|&(_, have, need)| have > need) {
            return Err(Error::Cap { field, have, need });
        }
        dealt.window = window(&dealt.shape, &prompt, &dealt.last(limit), limit - after, limits)?;
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

    /// Bytes that it may hold.
    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    /// Gives what is set aside to others; whoever calls this closes the session before they use it.
    pub(crate) fn release(&self) {
        self.queues().reservation = None;
    }

    /// A step where the context, or the session, ends: none after the prompt takes more.
    fn last(&self, limit: u64) -> Step {
        let rows = self.draft + 1;
        let steps = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(self.pieces.len());
        let end = self.room().saturating_add(steps.saturating_mul(rows)).min(self.positions);
        Step {
            number: limit,
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

    /// Whether it serves a prompt of `prompt` tokens with an answer of `answer`, nothing being drafted.
    pub(crate) fn serves(&self, prompt: usize, answer: usize) -> bool {
        self.draft == 0 && self.room() >= prompt && self.answer >= answer
    }

    /// Holds a session that was in stock to an answer of `answer` tokens. Steps beyond it that are dealt already are wiped.
    pub(crate) fn hold_to(&self, answer: usize) {
        let mut queues = self.queues();
        queues.limit = queues.limit.min((self.pieces.len() + answer) as u64 - 1);
        while queues.user.back().is_some_and(|(number, _)| *number >= queues.limit) {
            let Some((number, user)) = queues.user.pop_back() else { break };
            // The provider has not heard of the session yet.
            let provider = queues.provider.take(number).map_or(0, |bundle| bundle.len());
            queues.waiting -= (user.len() + provider) as u64;
        }
    }

    /// Steps dealt that the user has not taken, those of the prompt not counted.
    pub(crate) fn ahead(&self) -> u64 {
        let queues = self.queues();
        let dealt = queues.dealt.min(queues.limit);
        dealt - queues.taken.max((self.pieces.len() as u64).min(dealt))
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
        let ended = queues.failed.is_some() || queues.closed || self.is_complete(&queues);
        ended || !(behind || queues.awaited()) || self.is_filled(&queues)
    }

    /// Whether its user has asked and there was nothing to give.
    pub(crate) fn is_awaited(&self) -> bool {
        self.queues().awaited()
    }

    /// The turn that it had last; 0 before its first.
    pub(crate) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Relaxed)
    }

    /// Notes that it has this turn.
    pub(crate) fn take_turn(&self, turn: u64) {
        self.turn.store(turn, Ordering::Relaxed);
    }

    /// Whether the next step has to wait until a party takes what waits.
    fn is_filled(&self, queues: &Queues) -> bool {
        let step = self.step(queues.dealt);
        queues.waiting > 0 && self.alone(&step).saturating_add(queues.waiting) > self.window
    }

    /// Bytes held when only this step waits.
    fn alone(&self, step: &Step) -> u64 {
        let rows = step.position.saturating_add(step.tokens);
        mask_bytes(&self.shape, rows).saturating_add(step_bytes(&self.shape, step))
    }

    /// Whether no step follows: what its user announced, or the context, is used up.
    fn is_complete(&self, queues: &Queues) -> bool {
        let step = self.step(queues.dealt);
        step.number >= queues.limit || (step.number > 0 && self.is_full(&step))
    }

    /// Deals the next step, unless there is to be none or it has to wait.
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
        let Some(dealing) = session.as_mut() else { return Err(OVER) };
        if self.is_complete(&queues) || self.is_filled(&queues) {
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
        if number >= queues.limit {
            // The session was given to a user, and held to its answer, while the step was dealt.
            return Ok(());
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
            Some(error) => Err(error.clone()),
            None if queues.closed => Err(OVER),
            None if self.is_complete(&queues) => Ok(Next::Exhausted { steps: queues.dealt.min(queues.limit) }),
            None => {
                queues.asked = true;
                Ok(Next::NotYet)
            }
        }
    }

    /// The provider's half of a step, once, the number of steps when there is none of this number and never will be, or
    /// word that it is not dealt yet.
    ///
    /// # Errors
    /// A half that was given away, a session that is over or cannot go on.
    pub(crate) fn pull(&self, step: u64) -> Result<Next, Error> {
        let mut queues = self.queues();
        let dealt = queues.dealt.min(queues.limit);
        let beyond = step >= dealt && self.is_complete(&queues) && !queues.closed;
        if beyond {
            return Ok(Next::Exhausted { steps: dealt });
        }
        match queues.provider.take(step) {
            Ok(bundle) => {
                queues.waiting -= bundle.len() as u64;
                Ok(Next::Bundle((step, bundle)))
            }
            Err(SharesError::NoBundle { .. }) => match &queues.failed {
                Some(error) => Err(error.clone()),
                None if queues.closed => Err(OVER),
                None => Ok(Next::NotYet),
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
mod tests;
