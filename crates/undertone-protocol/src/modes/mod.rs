//! One folder per mode, each with the same files: `mod` (what it is, what it discloses), `client`, `server`,
//! `message` (its own wire types) and `plan` (what both sides compute beforehand).

pub mod clear;
pub mod fhe;
