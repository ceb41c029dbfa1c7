//! Two-party inference on secret shares in Z_2^64 with permuted nonlinear steps: the mathematics of mode `permuted`.
//!
//! A [`Dealer`] makes correlated randomness ahead of time. The [`Provider`] holds weights and, of every activation x,
//! x minus a uniform mask; the [`User`] holds the prompt and the masks, which it knows before the prompt. Where a
//! function is not linear, the user opens the values in an order that only the provider knows. [`Twin`] computes the
//! same integers in the clear.
//!
//! Shares hide the prompt from the provider cryptographically. Permutations obfuscate the weights from the user, no
//! more. Source: PermLLM (arXiv 2405.18744), over a ring instead of floats, with less to send (see [`formula`]).
//! Absent on purpose: bytes on a wire (`undertone-protocol`), sockets, clocks.
#![forbid(unsafe_code)]

mod attention;
mod bundle;
mod columns;
mod dealer;
mod error;
mod fixed;
mod flight;
pub mod formula;
mod masked;
mod nonlinear;
mod pair;
mod provider;
mod public;
mod random;
mod rotary;
mod rows;
mod shape;
mod shuffle;
pub mod store;
mod strict;
mod truncation;
mod twin;
mod user;
mod weights;

pub use bundle::{Bundle, MAX_BUNDLE_BYTES, ProviderBundle, SessionId, UserBundle};
pub use dealer::{Dealer, DealerSession};
pub use error::{Error, Result};
pub use fixed::{ACTIVATION_BITS, MAX_WEIGHT_BITS, PROBABILITY_BITS, ROTARY_BITS, SCORE_BITS};
pub use flight::{Extent, Flight, FlightDue, FlightKind, MAX_FLIGHT_BYTES};
pub use masked::MaskedModel;
pub use pair::{Pair, PairModel};
pub use provider::{Provider, ProviderModel};
pub use public::MAX_PUBLIC_BYTES;
pub use random::Seed;
pub use rotary::RotaryTable;
pub use rows::Placement;
pub use shape::{Matrix, Shape, Site, Step, pieces};
pub use store::{BundleStore, DirectoryStore, FolderLock, MemoryStore, StoreFolder};
#[cfg(any(test, feature = "replay"))]
pub use twin::Replay;
pub use twin::{Nearest, Rounding, SiteMasks, Truncation, Twin};
pub use user::{Prepared, Reply, User, UserModel, greedy_place};
pub use weights::{LayerScales, PublicModel, QuantizedModel};
