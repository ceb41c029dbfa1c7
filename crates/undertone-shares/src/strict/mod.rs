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

pub(crate) use clear::Clear;
pub(crate) use dealing::Dealing;
pub(crate) use exchange::{Contents, Exchange, Turn};
pub(crate) use extent::{flights, material};
pub(crate) use party::Party;
pub(crate) use program::Program;
pub(crate) use wire::Wire;

use crate::fixed::ACTIVATION_BITS;
use crate::shape::{Shape, Site, Step};
use crate::weights::PublicModel;

/// The program of a site. `alive` says which rows of the cache count; it decides nothing that a dealer makes.
pub(crate) fn program(public: &PublicModel, step: &Step, (site, layer): (Site, usize), alive: &[bool]) -> Program {
    let (shape, scales) = (Shape::new(&public.config), &public.layers);
    match site {
        Site::AttentionNorm | Site::MlpNorm | Site::FinalNorm => {
            let (bits, epsilon) = (public.residual_bits(), public.config.rms_norm_eps);
            Program::Norm(norm::Norm::new(shape.hidden, bits, epsilon))
        }
        Site::Softmax => Program::Softmax(softmax::Softmax::new(&shape, step, scales[layer].v, alive)),
        Site::Activation => {
            let bits = [scales[layer].gate, scales[layer].up].map(|bits| ACTIVATION_BITS + bits);
            Program::Activation(activation::Activation::new(bits))
        }
        Site::Logits => {
            let bits = ACTIVATION_BITS + public.head;
            Program::Argmax(argmax::Argmax::new(step.outputs, shape.vocab, bits))
        }
    }
}

#[cfg(test)]
mod tests;
