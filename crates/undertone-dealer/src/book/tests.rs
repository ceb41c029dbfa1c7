//! What a dealer does for many: turns, memory, stock and its eviction.

use super::*;
use crate::window::step_bytes;
use undertone_model::LlamaConfig;
use undertone_model::synthetic::{small_config, synthetic};
use undertone_protocol::modes::permuted::deal::Next;
use undertone_ring::scalar_word_kernels;
use undertone_shares::{QuantizedModel, Step};

/// A book that nobody fills, whose provider has come, and the digest that users show.
fn book(settings: Settings) -> (Book, [u8; 32]) {
    let book = Book::new(settings, StateFolder::open(None).unwrap(), scalar_word_kernels()).unwrap();
    // Without a folder, every look at a ticket makes another.
    let book = Book { ticket: blake3::hash(&[1; 32]), ..book };
    let config = LlamaConfig { num_hidden_layers: 1, ..small_config() };
    let public = QuantizedModel::new(&synthetic(config, 1)).unwrap().public().clone();
    book.register(&[1; 32], &[2; 32], &public.encode()).unwrap();
    let digest = book.lock().registered.as_ref().unwrap().digest;
    (book, digest)
}

fn counts(prompt: u32, max_new_tokens: u32, draft: u32) -> SessionCounts {
    SessionCounts { prompt, max_new_tokens, draft }
}

/// Deals once, and says for whom.
fn deal(book: &Book) -> Option<SessionId> {
    let dealt = book.due(&mut book.lock())?;
    dealt.deal().unwrap();
    Some(dealt.id)
}

#[test]
fn a_long_prompt_takes_turns_with_others_and_whoever_waits_comes_first() {
    let (book, digest) = book(Settings { piece: 1, ahead: 2, ..Settings::default() });
    let long = book.open_session(&digest, &counts(40, 60, 0), false).unwrap();
    let asks = |dealt: &Dealt| matches!(dealt.next().unwrap(), Next::Bundle(_));
    assert!(!asks(&long));
    (0..5).for_each(|_| assert_eq!(deal(&book), Some(long.id)));
    // Another comes while forty pieces are being dealt, and waits for its first step.
    let short = book.open_session(&digest, &counts(1, 60, 0), false).unwrap();
    assert!(!asks(&short) && asks(&long));
    assert_eq!(deal(&book), Some(short.id));
    // Neither waits: they take turns until the short one has what it may have ahead.
    assert_eq!([deal(&book), deal(&book), deal(&book)].map(Option::unwrap), [long.id, short.id, long.id]);
    assert!(asks(&short) && asks(&short) && !asks(&short));
    assert_eq!(deal(&book), Some(short.id));
    // Both wait: whose last turn is longest ago.
    while asks(&long) {}
    assert!(asks(&short) && !asks(&short));
    assert_eq!([deal(&book), deal(&book)].map(Option::unwrap), [long.id, short.id]);
    // Whoever comes anew does not get ahead of those who wait already.
    while asks(&long) {}
    let newcomers: Vec<_> = (0..3).map(|_| book.open_session(&digest, &counts(1, 60, 0), false).unwrap()).collect();
    newcomers.iter().for_each(|dealt| assert!(!asks(dealt)));
    assert_eq!(deal(&book), Some(long.id));
}

/// What is set aside for a session of this prompt with one drafted token, so that none in stock serves.
fn need(settings: &Settings, prompt: u32) -> u64 {
    let (book, digest) = book(Settings { stock_sessions: 0, ..settings.clone() });
    book.open_session(&digest, &counts(prompt, 20, 1), false).unwrap().window()
}

#[test]
fn stock_makes_room_for_a_user_only_where_that_is_enough_and_no_more_than_needed() {
    let roomy = Settings { memory_bytes: Some(1 << 40), session_bytes: Some(1 << 30), ..Settings::default() };
    let (stocked, user) = (need(&roomy, 4), need(&roomy, 8));
    let of_stock = {
        let (book, digest) = book(roomy.clone());
        book.open_session(&digest, &counts(4, 60, 0), false).unwrap().window()
    };
    assert!(of_stock < user && user < 2 * of_stock && of_stock < stocked, "{of_stock} {stocked} {user}");
    let memory = 2 * of_stock + (user - of_stock);
    let (book, digest) = book(Settings {
        stock_prompts: vec![4],
        stock_sessions: 2,
        stock_new_tokens: 60,
        memory_bytes: Some(memory),
        ..roomy
    });
    while deal(&book).is_some() {}
    assert_eq!(book.stock().waiting, [(4, 2)]);
    let budget = Arc::clone(&book.lock().registered.as_ref().unwrap().budget);
    let first = book.open_session(&digest, &counts(8, 20, 1), false).unwrap();
    assert_eq!((book.stock().waiting, budget.free_bytes()), (vec![(4, 1)], 0));
    assert_eq!(book.stock().dealt, 2 * (1 + 8), "steps of a session that made room are counted");
    // One more does not fit, even if all of the stock made room: it stays.
    let refused = book.open_session(&digest, &counts(8, 20, 1), false).err().unwrap();
    assert!(matches!(refused, Error::DealMemory { have, need } if (have, need) == (of_stock, user)), "{refused}");
    assert_eq!(book.stock().waiting, [(4, 1)]);
    book.close(&first);
    assert!(book.open_session(&digest, &counts(8, 20, 1), false).is_ok());
}

#[test]
fn a_model_whose_masks_do_not_fit_is_refused_before_they_are_made() {
    let public = QuantizedModel::new(&synthetic(small_config(), 1)).unwrap().public().clone();
    let masks = MaskedModel::size_bytes(&public.shape());
    let register = |book: &Book| book.register(&[1; 32], &[2; 32], &public.encode()).map(drop);
    let with = |hold_masks, free_bytes: fn() -> Option<u64>| {
        let settings = Settings { hold_masks, ..Settings::default() };
        let book = Book::new(settings, StateFolder::open(None).unwrap(), scalar_word_kernels()).unwrap();
        Book { ticket: blake3::hash(&[1; 32]), free_bytes, ..book }
    };
    let tight = with(true, || Some(1000));
    let error = register(&tight).unwrap_err();
    assert!(matches!(error, Error::DealMasks { have: 1000, need } if need == masks), "{error}");
    assert!(tight.lock().registered.is_none());
    // Masks that are drawn take none, and what is left is shared out.
    let drawing = with(false, || Some(1000));
    register(&drawing).unwrap();
    let total = |book: &Book| book.lock().registered.as_ref().unwrap().budget.free_bytes();
    assert_eq!(total(&drawing), 500);
    let roomy = with(true, || Some(1 << 30));
    std::thread::scope(|scope| {
        (0..3).for_each(|_| drop(scope.spawn(|| register(&roomy).unwrap())));
    });
    assert_eq!(total(&roomy), ((1 << 30) - masks) / 2);
}

#[test]
fn sessions_in_stock_serve_the_answers_that_they_have_room_for() {
    let settings = Settings { stock_prompts: vec![4, 1000, 128], stock_new_tokens: 6, ..Settings::default() };
    let (book, digest) = book(settings);
    while deal(&book).is_some() {}
    // A prompt of the whole context has room for one token of the answer; a longer one is not there.
    assert_eq!(book.stock().waiting, [(4, 1), (128, 1)]);
    let open = |prompt, answer| book.open_session(&digest, &counts(prompt, answer, 0), false).unwrap();
    assert_eq!(open(4, 7).room(), 4);
    assert_eq!(book.stock().waiting, [(4, 1), (128, 1)], "a longer answer is dealt for on the spot");
    let short = open(3, 2);
    assert_eq!((short.room(), book.stock().waiting), (4, vec![(128, 1)]));
    assert!(matches!(short.next().unwrap(), Next::Bundle((0, _))) && matches!(short.next().unwrap(), Next::Bundle(_)));
    assert!(matches!(short.next().unwrap(), Next::Exhausted { steps: 2 }), "it is held to what was announced");
    assert_eq!(open(100, 1).room(), 128);
    // Users that are too many are told to come again, and there is room when one has left.
    let crowded = Book { settings: Settings { most_sessions: 3, ..book.settings.clone() }, ..book };
    let open = || crowded.open_session(&digest, &counts(1, 1, 0), false);
    assert!(matches!(open(), Err(Error::Busy { have: 3 })));
    crowded.close(&short);
    assert!(open().is_ok());
    let book = crowded;
    // Prompts in too many pieces are refused.
    let tiny = Settings { piece: 1, ..Settings::default() };
    let registered = book.lock().registered.clone().unwrap();
    assert_eq!(registered.pieces(128, tiny.piece, false).unwrap().len(), 128);
}

#[test]
fn strict_sessions_are_dealt_for_on_the_spot_and_are_held_to_the_same_memory() {
    let settings = Settings { stock_prompts: vec![8], stock_new_tokens: 6, ..Settings::default() };
    let (book, digest) =
        book(Settings { memory_bytes: Some(1 << 40), session_bytes: Some(1 << 30), ..settings.clone() });
    while deal(&book).is_some() {}
    let strict = book.open_session(&digest, &counts(8, 6, 0), true).unwrap();
    assert_eq!(book.stock().waiting, [(8, 1)], "keys of one evaluation are of no use to the other");
    let plain = book.open_session(&digest, &counts(8, 6, 1), false).unwrap();
    assert!(strict.window() > 10 * plain.window());
    // Both halves of a step are half of what a session may hold, as elsewhere: pieces are shorter.
    let registered = book.lock().registered.clone().unwrap();
    let shape = registered.dealer.shape();
    let step = |position, tokens, outputs| Step { number: 0, position, tokens, outputs, strict: true };
    let held = 4 * step_bytes(&shape, &step(6, 2, 1));
    let tight = Settings { memory_bytes: Some(8 * held), session_bytes: Some(held), ..settings };
    let (book, digest) = self::book(tight);
    let pieces = |strict| book.open_session(&digest, &counts(8, 6, 1), strict).unwrap().pieces.clone();
    assert_eq!(pieces(false), [8]);
    let (shorter, mut position) = (pieces(true), 0);
    assert!(shorter.len() > 1);
    for tokens in shorter {
        assert!(2 * step_bytes(&shape, &step(position, tokens, usize::from(position + tokens == 8))) <= held);
        position += tokens;
    }
    let dealt = book.open_session(&digest, &counts(8, 6, 0), true).unwrap();
    assert!(dealt.window() <= held);
    let mut taken = 0;
    while let Next::Bundle((step, _)) = {
        while deal(&book).is_some() {}
        dealt.next().unwrap()
    } {
        assert!(matches!(dealt.pull(step).unwrap(), Next::Bundle(_)));
        taken += 1;
    }
    assert_eq!(taken, dealt.pieces.len() + 5);
}
