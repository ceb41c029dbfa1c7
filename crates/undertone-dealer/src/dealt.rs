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
        (answer, draft): (usize, usize),
        limits: &Limits,
    ) -> Result<Self, Error> {
        let session = dealer.session()?;
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
        Step { number: limit, position: end.saturating_sub(rows), tokens: rows.min(end), outputs: rows.min(end) }
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
mod tests {
    use super::*;
    use undertone_model::synthetic::{small_config, synthetic};
    use undertone_ring::scalar_word_kernels;
    use undertone_shares::QuantizedModel;

    fn dealer() -> Arc<Dealer> {
        let public = QuantizedModel::new(&synthetic(small_config(), 1)).unwrap().public().clone();
        Arc::new(Dealer::new(public, scalar_word_kernels()).unwrap())
    }

    const LIMITS: Limits = Limits { all_bytes: 1 << 30, session_bytes: 1 << 30, most_steps: 9, ahead: 8 };

    /// A session with as long an answer as the limits and the context allow.
    fn dealt(pieces: Vec<usize>) -> Result<Dealt, Error> {
        let dealer = dealer();
        let left = (dealer.positions() + 1).saturating_sub(pieces.iter().sum()).max(1);
        let answer = (LIMITS.most_steps as usize + 1 - pieces.len()).min(left);
        Dealt::new(&dealer, pieces, (answer, 0), &LIMITS)
    }

    fn has_bundle(next: Result<Next, Error>) -> bool {
        matches!(next.unwrap(), Next::Bundle(_))
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
        assert!(has_bundle(dealt.pull(0)) && dealt.pull(1).is_err());
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
        let limits = Limits { session_bytes, most_steps: 100, ..LIMITS };
        let dealt = Dealt::new(&dealer(), vec![2], (99, 0), &limits).unwrap();
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
        assert!(has_bundle(dealt.pull(0)) && !dealt.is_ahead(8));
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
        let refused = Dealt::new(&dealer(), vec![2], (9, 0), &Limits { session_bytes: 100, ..limits }).err().unwrap();
        assert!(matches!(refused, Error::DealMemory { have: 100, .. }), "{refused}");
    }

    /// Everything that waits for the user, and then what it hears.
    fn drain(dealt: &Dealt) -> (u64, Next) {
        let mut taken = 0;
        loop {
            match heard(dealt).unwrap() {
                Next::Bundle(_) => taken += 1,
                end => return (taken, end),
            }
        }
    }

    #[test]
    fn a_session_has_the_steps_that_its_user_announced_and_both_parties_hear_of_the_end() {
        let dealer = dealer();
        let new = |answer, draft| Dealt::new(&dealer, vec![2, 1], (answer, draft), &LIMITS);
        for (answer, draft, steps) in [(1, 0, 2), (4, 0, 5), (3, 2, 4)] {
            let dealt = new(answer, draft).unwrap();
            assert!(matches!(dealt.pull(steps), Ok(Next::NotYet)), "it may come");
            assert!(
                matches!(drain(&dealt), (taken, Next::Exhausted { steps: said }) if (taken, said) == (steps, steps))
            );
            assert!(dealt.is_ahead(8) && dealt.counts() == (steps, steps));
            assert!((0..steps).all(|step| has_bundle(dealt.pull(step))));
            for beyond in [steps, steps + 1, u64::MAX] {
                assert!(matches!(dealt.pull(beyond), Ok(Next::Exhausted { steps: said }) if said == steps));
            }
            assert!(dealt.pull(0).is_err(), "what was given away is no end");
        }
        // Long answers are refused at once, by steps and by positions.
        let refused = |answer| new(answer, 0).err().unwrap().to_string();
        assert!(refused(9).contains("steps of a session is 10 where at most 9"), "{}", refused(9));
        assert!(refused(200).contains("prompt with its continuation is 202"), "{}", refused(200));
        // Memory is set aside for what was announced.
        let windows = [1, 2, 4, 8].map(|answer| new(answer, 0).unwrap().window());
        assert!(windows.windows(2).all(|pair| pair[0] < pair[1]), "{windows:?}");
    }

    #[test]
    fn a_session_of_the_stock_is_held_to_a_shorter_answer() {
        let dealt = dealt(vec![2, 1]).unwrap();
        (0..7).for_each(|_| dealt.deal().unwrap());
        let before = dealt.queues().waiting;
        dealt.hold_to(3);
        let spent = (4..7).map(|number| step_bytes(&dealt.shape, &dealt.step(number))).sum::<u64>();
        assert_eq!(dealt.queues().waiting, before - spent);
        assert_eq!((dealt.ahead(), dealt.is_ahead(8)), (2, true));
        assert!(matches!(drain(&dealt), (4, Next::Exhausted { steps: 4 })));
        assert!(has_bundle(dealt.pull(3)) && matches!(dealt.pull(4), Ok(Next::Exhausted { steps: 4 })));
        assert!(dealt.serves(3, 8) && !dealt.serves(4, 1) && !dealt.serves(1, 9));
    }
}
