//! The transformer over encrypted activations, written once against [`undertone_he::Evaluator`].
//!
//! [`Program`] is the entry: it lays out tensors in slots, fits the polynomials that a [`Calibration`] asks for, packs
//! inputs, runs prefill and decoding steps and reads logits. [`Plan`] runs the same code on the evaluator that only
//! counts. There is no randomness and no cryptography here.
#![forbid(unsafe_code)]

pub mod approximation;
mod attention;
mod cache;
pub mod calibrate;
pub mod calibration;
mod cycle;
mod decode;
mod error;
mod guard;
mod head;
mod lanes;
mod layer;
mod levels;
pub mod matmul;
mod mlp;
mod norm;
pub mod packing;
mod plan;
mod prefill;
mod preparation;
mod program;
mod progress;
mod public_prefill;
mod refresh;
mod rope;
mod scores;
mod softmax;
mod values;

pub use calibration::{Calibration, Interval, LayerCalibration, NormCalibration, SoftmaxCalibration};
pub use cycle::{LayerMatrices, Pairs};
pub use error::Error;
pub use packing::{Layout, Shape};
pub use plan::{Plan, StageCost, StepCost, plan_layer_in_turns};
pub use preparation::{MAX_PREFIX, Preparation};
pub use program::{Program, ServerState, StepOutput};
pub use progress::Progress;
pub use public_prefill::PublicCache;
