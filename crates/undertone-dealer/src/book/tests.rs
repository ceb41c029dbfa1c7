//! What a dealer does for many: turns, memory, stock and its eviction.

use super::*;
use undertone_model::LlamaConfig;
use undertone_model::synthetic::{small_config, synthetic};
use undertone_protocol::modes::permuted::deal::Next;
use undertone_ring::scalar_word_kernels;
use undertone_shares::QuantizedModel;

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
    let long = book.open_session(&digest, &counts(40, 60, 0)).unwrap();
    let asks = |dealt: &Dealt| matches!(dealt.next().unwrap(), Next::Bundle(_));
    assert!(!asks(&long));
    (0..5).for_each(|_| assert_eq!(deal(&book), Some(long.id)));
    // Another comes while forty pieces are being dealt, and waits for its first step.
    let short = book.open_session(&digest, &counts(1, 60, 0)).unwrap();
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
    let newcomers: Vec<_> = (0..3).map(|_| book.open_session(&digest, &counts(1, 60, 0)).unwrap()).collect();
    newcomers.iter().for_each(|dealt| assert!(!asks(dealt)));
    assert_eq!(deal(&book), Some(long.id));
}

/// What is set aside for a session of this prompt with one drafted token, so that none in stock serves.
fn need(settings: &Settings, prompt: u32) -> u64 {
    let (book, digest) = book(Settings { stock_sessions: 0, ..settings.clone() });
    book.open_session(&digest, &counts(prompt, 20, 1)).unwrap().window()
}

#[test]
fn stock_makes_room_for_a_user_only_where_that_is_enough_and_no_more_than_needed() {
    let roomy = Settings { memory_bytes: Some(1 << 40), session_bytes: Some(1 << 30), ..Settings::default() };
    let (stocked, user) = (need(&roomy, 4), need(&roomy, 8));
    let of_stock = {
        let (book, digest) = book(roomy.clone());
        book.open_session(&digest, &counts(4, 60, 0)).unwrap().window()
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
    let first = book.open_session(&digest, &counts(8, 20, 1)).unwrap();
    assert_eq!((book.stock().waiting, budget.free_bytes()), (vec![(4, 1)], 0));
    assert_eq!(book.stock().dealt, 2 * (1 + 8), "steps of a session that made room are counted");
    // One more does not fit, even if all of the stock made room: it stays.
    let refused = book.open_session(&digest, &counts(8, 20, 1)).err().unwrap();
    assert!(matches!(refused, Error::DealMemory { have, need } if (have, need) == (of_stock, user)), "{refused}");
    assert_eq!(book.stock().waiting, [(4, 1)]);
    book.close(&first);
    assert!(book.open_session(&digest, &counts(8, 20, 1)).is_ok());
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
    let open = |prompt, answer| book.open_session(&digest, &counts(prompt, answer, 0)).unwrap();
    assert_eq!(open(4, 7).room(), 4);
    assert_eq!(book.stock().waiting, [(4, 1), (128, 1)], "a longer answer is dealt for on the spot");
    let short = open(3, 2);
    assert_eq!((short.room(), book.stock().waiting), (4, vec![(128, 1)]));
    assert!(matches!(short.next().unwrap(), Next::Bundle((0, _))) && matches!(short.next().unwrap(), Next::Bundle(_)));
    assert!(matches!(short.next().unwrap(), Next::Exhausted { steps: 2 }), "it is held to what was announced");
    assert_eq!(open(100, 1).room(), 128);
    // Users that are too many are told to come again, and there is room when one has left.
    let crowded = Book { settings: Settings { most_sessions: 3, ..book.settings.clone() }, ..book };
    let open = || crowded.open_session(&digest, &counts(1, 1, 0));
    assert!(matches!(open(), Err(Error::Busy { have: 3 })));
    crowded.close(&short);
    assert!(open().is_ok());
    let book = crowded;
    // Prompts in too many pieces are refused.
    let tiny = Settings { piece: 1, ..Settings::default() };
    let registered = book.lock().registered.clone().unwrap();
    assert_eq!(registered.pieces(128, tiny.piece).unwrap().len(), 128);
}
