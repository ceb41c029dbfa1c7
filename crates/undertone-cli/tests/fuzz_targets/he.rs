//! Ciphertexts, keys and key files, under the small test parameters so that whole objects fit a fuzzer's input.

use std::sync::LazyLock;
use undertone_he::circuits::pc_matmul::{ProductParameters, ProductWeights, SeededProductKey};
use undertone_he::{Ciphertext, Parameters, SeededCiphertext, SeededKey};

/// Ring degree 2^7: the levels and digits of the shipped set with a 512th of its bytes.
static PARAMETERS: LazyLock<Parameters> = LazyLock::new(|| Parameters::insecure_test(7));

/// The same for matrix products: a small ring of degree 2^5 and 4 tokens.
static PRODUCT: LazyLock<ProductParameters> = LazyLock::new(|| {
    ProductParameters::new(&Parameters::insecure_product_test(7), 5, 4).expect("the test set has a product prime")
});

/// A key of a matrix product (even first byte) or converted weights (odd).
pub fn products(data: &[u8]) -> bool {
    let Some((&first, bytes)) = data.split_first() else { return false };
    let again = if first % 2 == 0 {
        SeededProductKey::from_bytes(&PRODUCT, bytes).map(|key| key.to_bytes(&PRODUCT))
    } else {
        ProductWeights::from_bytes(&PRODUCT, bytes).map(|weights| weights.to_bytes())
    };
    let Ok(again) = again else { return false };
    assert_eq!(again, bytes, "a product key and weights have one encoding");
    true
}

/// A ciphertext (even first byte) or a seeded one (odd).
pub fn ciphertexts(data: &[u8]) -> bool {
    let Some((&first, bytes)) = data.split_first() else { return false };
    let again = if first % 2 == 0 {
        let encode = |ciphertext: Ciphertext| ciphertext.to_bytes(&PARAMETERS).expect("it has its level's scale");
        Ciphertext::from_bytes(&PARAMETERS, bytes).map(encode)
    } else {
        SeededCiphertext::from_bytes(&PARAMETERS, bytes).map(|ciphertext| ciphertext.to_bytes(&PARAMETERS))
    };
    let Ok(again) = again else { return false };
    assert_eq!(again, bytes, "a ciphertext has one encoding");
    true
}

/// A seeded evaluation key.
pub fn keys(data: &[u8]) -> bool {
    let Ok(key) = SeededKey::from_bytes(&PARAMETERS, data) else { return false };
    assert_eq!(key.to_bytes(&PARAMETERS), data, "a key has one encoding");
    true
}

/// A sealed key file; files that ask for more than 64 KiB or one pass are left to the unit tests of the cap.
pub fn sealed(data: &[u8]) -> bool {
    let number = |at: usize| {
        data.get(at..at + 4).map_or(u32::MAX, |four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
    };
    number(8) <= 64 && number(12) <= 1 && undertone_secret::sealed::open(data, b"passphrase").is_ok()
}
