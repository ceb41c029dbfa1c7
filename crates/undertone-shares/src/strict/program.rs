//! Programs: what is computed between two openings, written once for everybody who runs it.

use zeroize::Zeroizing;

use super::activation::Activation;
use super::argmax::Argmax;
use super::evaluator::{Evaluator, Share};
use super::norm::Norm;
use super::softmax::Softmax;
use super::wire::Wire;

/// Values that are opened together.
pub(crate) struct Part {
    /// A share of them.
    pub(crate) share: Zeroizing<Share>,
    /// Whether they count modulo 2^32, and travel so.
    pub(crate) narrow: bool,
}

impl Part {
    pub(crate) fn wide(share: Share) -> Self {
        Self { share: Zeroizing::new(share), narrow: false }
    }

    pub(crate) fn narrow(share: Share) -> Self {
        Self { share: Zeroizing::new(share), narrow: true }
    }
}

/// What a program wants next.
pub(crate) enum Stage {
    /// Open these; the next call gets a wire for each.
    Open(Vec<Part>),
    /// Multiply these probabilities with the cached values and call [`Program::mixed`].
    Mix(Wire),
    /// The result, less this many low bits, belongs to the provider under the user's mask.
    Return(Zeroizing<Share>, u32),
    /// The result, modulo 2^32, is for the user's eyes.
    Reveal(Zeroizing<Share>),
}

/// The program of a site.
pub(crate) enum Program {
    Norm(Norm),
    Softmax(Softmax),
    Activation(Activation),
    Argmax(Argmax),
}

impl Program {
    /// Goes on with what was opened: at first the site's input.
    pub(crate) fn next<E: Evaluator>(&mut self, evaluator: &mut E, opened: &[Wire]) -> Stage {
        match self {
            Self::Norm(norm) => norm.next(evaluator, opened),
            Self::Softmax(softmax) => softmax.next(evaluator, opened),
            Self::Activation(activation) => activation.next(evaluator, opened),
            Self::Argmax(argmax) => argmax.next(evaluator, opened),
        }
    }

    /// Goes on after [`Stage::Mix`].
    pub(crate) fn mixed<E: Evaluator>(&mut self, evaluator: &mut E, share: Share) -> Stage {
        match self {
            Self::Softmax(softmax) => softmax.mixed(evaluator, share),
            _ => unreachable!("only softmax mixes"),
        }
    }

    /// Runs to the end for somebody who needs nobody else: the dealer, the twin, a count. `see` gets the parts of every
    /// opening. The result of a [`Stage::Return`] is truncated.
    pub(crate) fn run<E: Evaluator>(
        mut self,
        evaluator: &mut E,
        input: Share,
        mut mix: impl FnMut(&mut E, &Wire) -> Share,
        mut see: impl FnMut(&[Part]),
    ) -> Share {
        let mut stage = Stage::Open(vec![Part::wide(input)]);
        loop {
            stage = match stage {
                Stage::Open(parts) => {
                    see(&parts);
                    let open = |part: Part| {
                        let mask = evaluator.masks(part.share.len());
                        Wire::new(part.share.to_vec(), mask)
                    };
                    let wires: Vec<Wire> = parts.into_iter().map(open).collect();
                    self.next(evaluator, &wires)
                }
                Stage::Mix(wire) => {
                    let share = mix(evaluator, &wire);
                    self.mixed(evaluator, share)
                }
                Stage::Return(share, drop) => {
                    let mask = evaluator.masks(share.len());
                    let wire = evaluator.truncated(&Wire::new(share.to_vec(), mask), drop);
                    return evaluator.share(&wire);
                }
                Stage::Reveal(share) => return share.to_vec(),
            };
        }
    }
}
