//! One folder per mode, each with the same files: `mod` (what it is, what it discloses), `message` (its own wire
//! types), `plan` (what both sides compute beforehand), `engine` (the computation), and where a mode adds something to
//! the common [`exchange`](crate::exchange) of steps, such as keys, `client` and `server`.

pub mod clear;
mod engine;
pub mod fhe;
pub mod permuted;
