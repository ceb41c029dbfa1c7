//! Ciphertexts, keys and key files, under the small test parameters so that whole objects fit a fuzzer's input.

use std::sync::LazyLock;
use undertone_he::{Ciphertext, Parameters, SeededCiphertext, SeededKey};

/// Ring degree 2^7: the levels and digits of the shipped set with a 512th of its bytes.
static PARAMETERS: LazyLock<Parameters> = LazyLock::new(|| Parameters::insecure_test(7));

/// A ciphertext (even first byte) or a seeded one (odd).
pub fn ciphertexts(data: &[u8]) {
    let Some((&first, bytes)) = data.split_first() else { return };
    if first % 2 == 0 {
        if let Ok(ciphertext) = Ciphertext::from_bytes(&PARAMETERS, bytes) {
            assert_eq!(ciphertext.to_bytes(&PARAMETERS), bytes, "a ciphertext has one encoding");
        }
    } else if let Ok(ciphertext) = SeededCiphertext::from_bytes(&PARAMETERS, bytes) {
        assert_eq!(ciphertext.to_bytes(&PARAMETERS), bytes, "a seeded ciphertext has one encoding");
    }
}

/// A seeded evaluation key.
pub fn keys(data: &[u8]) {
    if let Ok(key) = SeededKey::from_bytes(&PARAMETERS, data) {
        assert_eq!(key.to_bytes(&PARAMETERS), data, "a key has one encoding");
    }
}

/// A sealed key file; files that ask for more than 64 KiB or one pass are left to the unit tests of the cap.
pub fn sealed(data: &[u8]) {
    let number = |at: usize| {
        data.get(at..at + 4).map_or(u32::MAX, |four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
    };
    if number(8) <= 64 && number(12) <= 1 {
        let _ = undertone_secret::sealed::open(data, b"passphrase");
    }
}
