//! One folder per mode, each with the same files: `mod` (what it is, what it discloses), `client`, `server`,
//! `message` (its own wire types), `plan` (what both sides compute beforehand) and `engine` (the computation).

pub mod clear;
pub mod fhe;
