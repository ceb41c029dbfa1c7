//! Plaintext × ciphertext matrix products on coefficients at the bottom of the chain.
//!
//! A ciphertext of degree N holds N/T channels of T tokens: module component i (coefficients i, i + N/T, …) is one
//! channel. The steps, one file each: [`switch_down`] changes to the secret of a small ring and splits, the ring's
//! module product multiplies by integer weights ([`product`]) and divides by the product prime, [`pack`] puts rows
//! together, [`switch_up`] joins and returns to the main secret. Between `slots_to_coeffs` and `half_bootstrap` the
//! product costs one level, whose prime is exactly the scale of the weights, so the scale of the value stays. A power
//! of two by which a matrix exceeds its integer weights stays outside, as the gain that [`Product`] names.
//!
//! Sources: "Scaling up Privacy-Preserving ML" (arXiv 2601.18511) for the place in the cycle, Bae et al. (CRYPTO 2024)
//! for the module view, ring switching as in eprint 2012/240. Absent: the choice of when to call it.

mod component_order;
mod keys;
mod pack;
mod parameters;
mod product;
mod quantization;
mod switch_down;
mod switch_up;
mod weights;
mod wire;

pub use component_order::{ComponentOrder, join, split};
pub use keys::{ProductKeyId, ProductKeys, SeededProductKey};
pub use parameters::{PARTS_LOG2, ProductParameters};
pub use product::{PcMatmul, Product, ProductInput, SmallPair};
pub use quantization::{MAX_TURN_GAIN_LOG2, Quantization};
pub use weights::{MAX_CHANNELS, MAX_GAIN_LOG2, MAX_WEIGHT, ProductWeights, WeightShape};
