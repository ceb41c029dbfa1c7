//! Provider, dealer and user over real sockets: whole generations, and every fault that a line or a party can have.
//!
//! After each fault the parties that are left serve the next session, and no bundle was ever given out twice.

mod support;

use support::{Fault, Parties, Prompted};
use undertone_client::Error as ClientError;
use undertone_dealer::Settings;
use undertone_protocol::Error as ProtocolError;

/// Messages that a user sends, and reads that it makes, before a generation of `Prompted::short` is over.
fn messages(parties: &Parties) -> (usize, usize) {
    let (line, seen) = support::faulty(&parties.provider, Fault::None);
    parties.run_with(&Prompted::short(), &line).unwrap();
    let seen = *seen.lock().unwrap();
    (seen.sent, seen.read)
}

#[test]
fn drafted_tokens_change_nothing_and_save_rounds() {
    let parties = Parties::bundled(Settings::default());
    let prompted = Prompted::bundled(&parties);
    let plain = parties.run(&prompted).unwrap();
    assert!(plain.run.tokens.len() >= 4);
    assert!(plain.run.tokens.iter().all(|token| token.top1_agrees == Some(true)));
    for draft in [1, 3, 6] {
        let drafted = parties.run(&Prompted { draft, ..prompted.clone() }).unwrap();
        let ids = |report: &undertone_client::permuted::PermutedReport| -> Vec<u32> {
            report.run.tokens.iter().map(|token| token.id).collect()
        };
        assert_eq!(ids(&drafted), ids(&plain), "draft {draft}");
        assert!(drafted.run.rounds < plain.run.rounds && drafted.tokens_per_pass > 1.0, "draft {draft}");
    }
}

#[test]
fn strict_sessions_over_sockets_give_the_twins_tokens() {
    let settings = Settings { stock_prompts: vec![12], piece: 5, ..Settings::default() };
    let parties = Parties::synthetic(settings);
    for draft in [0, 2] {
        let prompted = Prompted { prompt: vec![3, 1, 4, 1, 5, 9, 2], new: 5, draft, strict: true };
        let strict = parties.run(&prompted).unwrap();
        assert!(strict.strict && strict.run.tokens.iter().all(|token| token.top1_agrees == Some(true)));
        // A session of its own, in pieces as long as the prompt, while one for the other evaluation is in stock.
        assert_eq!(strict.steps[..2].iter().map(|step| step.rows).collect::<Vec<_>>(), [5, 2]);
        let plain = parties.run(&Prompted { strict: false, ..prompted }).unwrap();
        assert!(strict.run.rounds > 2 * plain.run.rounds && strict.offline_bytes > 10 * plain.offline_bytes);
        assert!(!strict.bytes_by_message.contains_key("selected") && plain.bytes_by_message.contains_key("selected"));
        assert_ne!(strict.run.leakage, plain.run.leakage);
    }
    parties.assert_no_reuse();
}

#[test]
fn a_session_in_stock_takes_a_shorter_prompt_and_gives_the_same_tokens() {
    let settings = Settings { stock_prompts: vec![12], piece: 5, ..Settings::default() };
    let parties = Parties::synthetic(settings);
    while parties.book.stock().waiting.is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    // Seven tokens in room for twelve: a piece of filler alone, then some filler before the prompt.
    let prompted = Prompted { prompt: vec![3, 1, 4, 1, 5, 9, 2], new: 5, draft: 0, strict: false };
    let report = parties.run(&prompted).unwrap();
    assert_eq!(report.steps.iter().map(|step| step.rows).collect::<Vec<_>>()[..3], [5, 5, 2]);
    assert!(report.run.tokens.iter().all(|token| token.top1_agrees == Some(true)));
    // Replenished while it ran, and shown.
    while parties.book.stock().waiting != [(12, 1)] {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(parties.book.stock().taken >= 7);
    // A longer prompt is dealt for on the spot.
    assert_eq!(parties.run(&Prompted { prompt: vec![5; 14], ..prompted }).unwrap().steps[0].rows, 5);
}

#[test]
fn a_line_cut_at_any_message_is_a_clear_error_and_the_provider_serves_the_next_user() {
    let parties = Parties::synthetic(Settings::default());
    let (sent, read) = messages(&parties);
    assert!(sent > 40 && read > 20, "{sent} and {read}");
    // The last message is the goodbye, after which nobody waits for anything.
    let faults = (0..sent - 1).map(Fault::CutWrite).chain((0..read).map(Fault::CutRead));
    let mut fired = 0;
    for fault in faults {
        let (line, seen) = support::faulty(&parties.provider, fault);
        match parties.run_with(&Prompted::short(), &line) {
            Err(error) => {
                let said = error.to_string();
                assert!(matches!(error, ClientError::Protocol(_)) && said.contains("connection"), "{fault:?}: {said}");
            }
            // How many reads there are depends on how bytes arrive.
            Ok(_) => assert!(!seen.lock().unwrap().fired, "{fault:?}"),
        }
        fired += usize::from(seen.lock().unwrap().fired);
        parties.run(&Prompted::short()).unwrap();
    }
    assert!(fired > sent + read / 2, "{fired} faults");
    parties.assert_no_reuse();
    parties.assert_idle();
}

#[test]
fn repeated_and_exchanged_messages_are_refused_and_the_provider_serves_the_next_user() {
    let parties = Parties::synthetic(Settings::default());
    let (sent, _) = messages(&parties);
    let mut fired = 0;
    for fault in (0..sent - 1).flat_map(|at| [Fault::Repeat(at), Fault::Exchange(at)]) {
        let (line, seen) = support::faulty(&parties.provider, fault);
        let ended = parties.run_with(&Prompted::short(), &line);
        let happened = seen.lock().unwrap().fired;
        fired += usize::from(happened);
        match (ended.map(|_| ()), fault) {
            (Err(ClientError::Protocol(_)), _) => {}
            (Ok(()), _) if !happened => {}
            // All was over, except for the goodbye.
            (Ok(()), Fault::Repeat(at) | Fault::Exchange(at)) if at + 3 >= sent => {}
            (other, _) => panic!("{fault:?}: {:?}", other.map_err(|error| error.to_string())),
        }
        parties.run(&Prompted::short()).unwrap();
    }
    assert!(fired > sent, "{fired} faults");
    parties.assert_no_reuse();
    parties.assert_idle();
}

#[test]
fn a_provider_that_ends_at_any_token_leaves_a_clear_error_and_the_next_one_serves() {
    let mut parties = Parties::synthetic(Settings::default());
    for token in 0..3 {
        let handle = parties.provider_handle();
        let error = parties.run_until(&Prompted::short(), token, move || handle.stop()).err().unwrap();
        assert!(matches!(error, ClientError::Protocol(_)), "{error}");
        parties.restart_provider();
        parties.run(&Prompted::short()).unwrap();
    }
    parties.assert_no_reuse();
}

#[test]
fn answers_beyond_the_steps_are_refused_and_an_exhausted_stock_is_named_with_its_remedy() {
    let parties = Parties::synthetic(Settings { most_steps: 3, ..Settings::default() });
    // What is announced is refused before anything is dealt; the dealer's sentence reaches the user.
    let said =
        parties.run(&Prompted { prompt: vec![1, 2], new: 6, draft: 0, strict: false }).err().unwrap().to_string();
    assert!(said.contains("steps of a session is 6 where at most 3") && said.contains("ask for less"), "{said}");
    // Drafted tokens may use up the context before the answer is complete.
    let long = Prompted { prompt: vec![1; 124], new: 2, draft: 5, strict: false };
    let error = parties.run(&long).err().unwrap();
    assert!(matches!(error, ClientError::Protocol(ProtocolError::Exhausted { .. })), "{error}");
    let said = error.to_string();
    assert!(said.contains("exhausted after") && said.contains("begin a new session"), "{said}");
    // The next session has its own steps.
    assert_eq!(
        parties.run(&Prompted { prompt: vec![1, 2], new: 3, draft: 0, strict: false }).unwrap().run.tokens.len(),
        3
    );
    parties.assert_no_reuse();
    parties.assert_idle();
}

#[test]
fn a_dealer_that_is_gone_is_a_clear_error_for_user_and_provider() {
    let mut parties = Parties::synthetic(Settings::default());
    parties.stop_dealer();
    let error = parties.run(&Prompted::short()).err().unwrap().to_string();
    assert!(error.contains("connect"), "{error}");
    assert!(parties.another_provider([0; 32]).is_err());
}

#[test]
fn users_at_once_get_their_own_tokens() {
    let parties = Parties::synthetic(Settings::default());
    let prompts: Vec<Vec<u32>> = (0..3).map(|user| (0..9).map(|i| (7 * i + 11 * user + 1) % 50).collect()).collect();
    std::thread::scope(|scope| {
        let parties = &parties;
        let runs: Vec<_> = prompts
            .iter()
            .map(|prompt| {
                let prompted = Prompted { prompt: prompt.clone(), new: 12, draft: 0, strict: false };
                scope.spawn(move || parties.run(&prompted).unwrap())
            })
            .collect();
        for run in runs {
            let report = run.join().unwrap();
            assert!(report.run.tokens.iter().all(|token| token.top1_agrees == Some(true)));
            assert_eq!(report.run.tokens.len(), 12);
        }
    });
    parties.assert_no_reuse();
    parties.assert_idle();
}

#[test]
fn parties_that_differ_are_told_in_what() {
    let parties = Parties::synthetic(Settings::default());
    let mut side = parties.side();
    let run = |side: &undertone_client::permuted::UserSide| {
        parties.run_as(side, &Prompted::short(), &parties.provider).err().unwrap().to_string()
    };
    side.digests.tokenizer = [1; 32];
    assert!(run(&side).contains("the tokenizer of client and server differ"), "{}", run(&side));
    side.digests.rotary = [1; 32];
    assert!(run(&side).contains("rotary tables"));
    let mut side = parties.side();
    side.digests.model = [1; 32];
    assert!(run(&side).contains("public model and masked weights"));
    side.masked_digest = [1; 32];
    assert!(run(&side).contains("public model"));
    // A party that does not know the ticket is no provider.
    let error = parties.another_provider([9; 32]).map(|_| ()).err().unwrap().to_string();
    assert!(error.contains("ticket"), "{error}");
}

#[test]
fn a_dealer_that_is_started_again_serves_without_a_word_to_the_provider() {
    let mut parties = Parties::synthetic(Settings::default());
    parties.run(&Prompted::short()).unwrap();
    parties.restart_dealer();
    let begun = std::time::Instant::now();
    while let Err(error) = parties.run(&Prompted::short()) {
        assert!(error.to_string().contains("no provider has come yet"), "{error}");
        assert!(begun.elapsed().as_secs() < 20);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    parties.assert_no_reuse();
    parties.assert_idle();
}

#[test]
fn masks_of_another_seed_are_noticed_by_user_and_provider() {
    let mut parties = Parties::synthetic(Settings::default());
    let old = parties.side();
    parties.forget_seeds();
    parties.restart_dealer();
    let new = parties.side_of_another_provider();
    let run = |side: &undertone_client::permuted::UserSide| {
        parties.run_as(side, &Prompted::short(), &parties.provider).err().unwrap().to_string()
    };
    assert!(run(&old).contains("public model and masked weights"), "{}", run(&old));
    // A user that has set up anew, and a provider that has not: the dealer and both hellos agree, the bundles would not.
    let mixed = undertone_client::permuted::UserSide { masked_digest: new.masked_digest, ..old };
    assert!(run(&mixed).contains("start the provider again"), "{}", run(&mixed));
    parties.assert_idle();
}

#[test]
fn set_ups_leave_places_to_those_who_chat() {
    use undertone_protocol::modes::permuted::SetupLink;
    let parties = Parties::synthetic(Settings::default());
    // The set-up of the parties themselves is over.
    parties.assert_idle();
    let open = || SetupLink::open((parties.provider)().unwrap());
    let links: Vec<_> = (0..support::SETUPS).map(|_| open().unwrap()).collect();
    let error = open().err().unwrap().to_string();
    assert!(error.contains("busy") && error.contains("try again"), "{error}");
    parties.run(&Prompted::short()).unwrap();
    links.into_iter().for_each(SetupLink::close);
    parties.assert_idle();
    open().unwrap().close();
}
