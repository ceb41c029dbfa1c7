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
