//! Canonical bytes of ciphertexts and keys; the format is specified in `docs/formats.md`.
//!
//! A fixed header (magic, kind, version, degree, parameter digest, level, key id), an optional 32-byte seed, then every
//! limb as N residues of bitlen(q) bits each, little-endian, without gaps. The exact length follows from parameters,
//! kind and level, and is checked before anything is allocated; every residue is checked against its modulus; unused
//! header bytes must be zero. So one object has exactly one encoding.

mod ciphertext;
mod header;
mod key;
mod pack;
#[cfg(test)]
mod tests;

pub use key::KEY_PREFIX_BYTES;
