//! Named key files: made once, opened with the passphrase only, private to their owner.

use undertone_client::{Error, KeyStore};
use undertone_he::Parameters;

#[test]
fn keys_are_stored_opened_listed_and_removed() {
    let folder = std::env::temp_dir().join(format!("undertone-keys-{}", std::process::id()));
    let store = KeyStore::at(&folder).unwrap();
    let parameters = Parameters::insecure_test(10);
    let key = store.create("clinic-1", &parameters, b"long passphrase").unwrap();
    assert!(matches!(store.create("clinic-1", &parameters, b"x").err(), Some(Error::KeyExists { .. })));

    let opened = store.open("clinic-1", &parameters, b"long passphrase").unwrap();
    assert_eq!(*opened.to_payload(), *key.to_payload());
    let wrong = store.open("clinic-1", &parameters, b"wrong").err().unwrap().to_string();
    let other = store.open("clinic-1", &Parameters::insecure_test(11), b"long passphrase").err().unwrap();
    // A wrong passphrase and other parameters read alike.
    assert_eq!(wrong, other.to_string());

    // Of several sets a key finds its own.
    let sets = [Parameters::insecure_test(11), Parameters::insecure_turn_test(10), parameters.clone()];
    let (set, opened) = store.open_any("clinic-1", &sets, b"long passphrase").unwrap();
    assert_eq!((set.digest(), &*opened.to_payload()), (parameters.digest(), &*key.to_payload()));
    assert!(store.open_any("clinic-1", &sets[..2], b"long passphrase").is_err());

    let listed = store.list().unwrap();
    assert_eq!(listed, [store.show("clinic-1").unwrap()]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&listed[0].path)), (0o700, 0o600));
    }
    let file = std::fs::read(&listed[0].path).unwrap();
    assert!(!file.windows(64).any(|window| key.to_payload().starts_with(window)));

    for name in ["", "../x", "a/b", "a.b", "ä", &"a".repeat(65)] {
        assert!(matches!(store.show(name), Err(Error::KeyName { .. })), "{name}");
    }
    assert!(matches!(store.remove("absent"), Err(Error::KeyMissing { .. })));
    store.remove("clinic-1").unwrap();
    assert!(store.list().unwrap().is_empty());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn of_many_who_create_one_name_exactly_one_succeeds() {
    let folder = std::env::temp_dir().join(format!("undertone-key-race-{}", std::process::id()));
    let store = KeyStore::at(&folder).unwrap();
    let parameters = Parameters::insecure_test(10);
    for round in 0..3 {
        let name = format!("race-{round}");
        let start = std::sync::Barrier::new(4);
        let create = || {
            start.wait();
            store.create(&name, &parameters, b"passphrase")
        };
        let made: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(create)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
        assert!(won.len() == 1 && lost.iter().all(|made| matches!(made, Err(Error::KeyExists { .. }))));
        // The file holds the key of the one who was told so.
        let winner = won.into_iter().next().unwrap().unwrap();
        let stored = store.open(&name, &parameters, b"passphrase").unwrap();
        assert_eq!(*stored.to_payload(), *winner.to_payload());
    }
    // Nothing but the keys is left behind.
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3);
    std::fs::remove_dir_all(&folder).unwrap();
}
