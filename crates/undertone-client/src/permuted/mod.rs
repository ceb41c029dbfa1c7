//! The user of mode `permuted`: a prompt, a masked model, bundles from a dealer, and a provider that sees shares.
//!
//! [`setup`] brings the masked model, once; [`generate`] runs a prompt and hands tokens out as they become known. All of
//! the prompt is private. Bundles are fetched, and the next step prepared, by threads while tokens stream.
//! Streams are opened by the caller, so nothing here knows sockets or TLS.

mod clear;
mod draft;
mod generate;
mod pump;
mod report;
mod setup;
mod supply;

pub use clear::{ClearSide, Measured, compare};
pub use generate::{Choice, Follower, Request, generate};
pub use report::{PermutedReport, StepReport};
pub use setup::{MaskedFolder, UserSide, setup};
