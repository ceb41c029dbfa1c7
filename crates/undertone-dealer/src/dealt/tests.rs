//! One dealt session: its end, its memory, what its parties hear.

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
    Dealt::new(&dealer, pieces, (answer, 0, false), &LIMITS)
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
    let dealt = Dealt::new(&dealer(), vec![2], (99, 0, false), &limits).unwrap();
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
    let refused =
        Dealt::new(&dealer(), vec![2], (9, 0, false), &Limits { session_bytes: 100, ..limits }).err().unwrap();
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
    let new = |answer, draft| Dealt::new(&dealer, vec![2, 1], (answer, draft, false), &LIMITS);
    for (answer, draft, steps) in [(1, 0, 2), (4, 0, 5), (3, 2, 4)] {
        let dealt = new(answer, draft).unwrap();
        assert!(matches!(dealt.pull(steps), Ok(Next::NotYet)), "it may come");
        assert!(matches!(drain(&dealt), (taken, Next::Exhausted { steps: said }) if (taken, said) == (steps, steps)));
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
    // A step that was being dealt meanwhile.
    dealt.push(7, vec![1].into(), vec![2].into()).unwrap();
    assert!(matches!(drain(&dealt), (4, Next::Exhausted { steps: 4 })));
    assert!(has_bundle(dealt.pull(3)) && matches!(dealt.pull(4), Ok(Next::Exhausted { steps: 4 })));
    assert!(dealt.serves(3, 8) && !dealt.serves(4, 1) && !dealt.serves(1, 9));
}
