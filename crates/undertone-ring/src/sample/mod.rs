//! Randomness: public expansion of seeds, and secret samplers.

pub(crate) mod public;
pub(crate) mod secret;
