//! The secret side of CKKS: keys, encryption, decryption, sealed key files.
//!
//! A server never links this crate. Secrets are erased when dropped and appear in no error, log or `Debug` output.
#![forbid(unsafe_code)]

mod decryptor;
mod encryptor;
mod error;
mod key_generator;
mod product_keys;
pub mod sealed;
mod secret_key;
#[cfg(test)]
mod tests;

pub use decryptor::{DECLARED_PRECISION_BITS, Decrypted, Decryptor};
pub use encryptor::Encryptor;
pub use error::Error;
pub use key_generator::KeyGenerator;
pub use product_keys::ProductKeyGenerator;
pub use secret_key::SecretKey;
pub use undertone_ring::SecretRng;
