//! Strict evaluation: nonlinear steps on shares, with keys of the dealer; nothing permuted is opened.
//!
//! A value that both parties know under a mask that neither knows is a [`wire::Wire`]. From wires each party computes
//! shares of comparisons, of tables and of products on its own (see `evaluator`); those are opened under fresh masks, and so
//! on. Every function is one program (`norm`, `softmax`, `activation`, `argmax`) that the dealer, both parties, the
//! clear twin and a count of what travels run alike. Where masks decide how a bit is rounded, the twin draws the same.
//! Source: function secret sharing with preprocessing (Boyle, Gilboa, Ishai, eprint 2019/1095); programs are our own.
//! Absent on purpose: protection from a party that departs from the protocol.

mod activation;
mod argmax;
mod clear;
#[cfg(test)]
mod count;
mod dealing;
mod evaluator;
mod exchange;
mod extent;

mod norm;
mod party;
mod program;
mod softmax;
mod table;
mod tree;
mod wire;

#[cfg(test)]
mod tests;
