//! The one error type of this crate.

/// What can go wrong on the public side; every message names the numbers and the remedy.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation needs more levels than the value has left.
    #[error("{op} needs a value at level {need} or above but it is at level {have}; bootstrap it earlier")]
    LevelTooLow {
        /// The operation.
        op: &'static str,
        /// The level of the operand.
        have: usize,
        /// The lowest level that works.
        need: usize,
    },
    /// Two scales differ although the levels agree.
    #[error(
        "{op} needs equal scales but has 2^{have_log2:.6} and 2^{need_log2:.6}; bring both to the canonical scale first"
    )]
    ScaleMismatch {
        /// The operation.
        op: &'static str,
        /// log2 of the first scale.
        have_log2: f64,
        /// log2 of the second scale.
        need_log2: f64,
    },
    /// A slot vector has a length that does not divide the slot count.
    #[error("{op} needs a slot vector whose length is a power of two up to {need} but has {have} values; pad it")]
    SlotLength {
        /// The operation.
        op: &'static str,
        /// The length given.
        have: usize,
        /// The slot count.
        need: usize,
    },
    /// A key that the circuit needs was not supplied, or stops at too low a level.
    #[error("the {key} key is missing at level {need}; upload the key set that the plan of this model and shape lists")]
    MissingKey {
        /// Which key.
        key: String,
        /// The level needed.
        need: usize,
    },
    /// A parameter set or key is outside the 128-bit security table.
    #[error(
        "log2(QP) = {have} bits exceeds the {need} bits allowed at ring degree 2^{log_n} for 128-bit security; \
         use fewer or smaller primes"
    )]
    Insecure {
        /// log2 of the ring degree.
        log_n: u32,
        /// Bits of the modulus, rounded up.
        have: u32,
        /// Bits allowed.
        need: u32,
    },
    /// Parameters are inconsistent.
    #[error("parameters are not usable: {cause}; use one of the shipped presets")]
    Parameters {
        /// What is wrong.
        cause: String,
    },
    /// Bytes from a peer or a file do not decode.
    #[error("{what} does not decode: {cause}; it was truncated, altered or made for other parameters")]
    Decode {
        /// The kind of object.
        what: &'static str,
        /// The first thing found wrong.
        cause: &'static str,
    },
    /// Keys that wait on disk could not be written, or do not come back as they were written.
    #[error(
        "the evaluation keys on disk could not be {op}: {cause}; \
         make room on a sound disk and begin a new session, or keep keys in memory"
    )]
    KeySpool {
        /// What was tried: made, written or read.
        op: &'static str,
        /// What the system says; no path, because a peer may hear of it.
        cause: String,
    },
    /// A value exceeds the range declared for it.
    #[error(
        "{op} got a value of magnitude {have:.4} where at most {need:.4} is declared; \
         calibrate the model on text like this"
    )]
    Range {
        /// The operation.
        op: &'static str,
        /// The magnitude seen.
        have: f64,
        /// The bound.
        need: f64,
    },
    /// A value does not repeat with the period declared for it.
    #[error(
        "{op} was told that its value repeats every {period} slots but it does not; \
         this is a defect of the calling circuit"
    )]
    NotPeriodic {
        /// The operation.
        op: &'static str,
        /// The period declared.
        period: usize,
    },
    /// The wrong number of inputs was given to an operation.
    #[error("{op} needs {need} inputs but got {have}; this is a defect of the calling circuit")]
    Arity {
        /// The operation.
        op: &'static str,
        /// Inputs given.
        have: usize,
        /// Inputs needed.
        need: usize,
    },
    /// The parts of a matrix product do not fit each other.
    #[error(
        "a matrix product needs {need} {what} but got {have}; \
         convert weights and inputs for one layout and these parameters"
    )]
    ProductShape {
        /// What is counted.
        what: &'static str,
        /// The number given.
        have: usize,
        /// The number needed.
        need: usize,
    },
    /// A number of a matrix product is outside what is allowed.
    #[error(
        "a matrix product takes {least} to {most} {what} but got {have}; split the matrix or choose another layout"
    )]
    ProductLimit {
        /// What is counted.
        what: &'static str,
        /// The number given; the largest number where it does not fit a machine word.
        have: usize,
        /// The least that is allowed.
        least: usize,
        /// The most that is allowed.
        most: usize,
    },
    /// A part of a matrix product does not exist.
    #[error("there is no {what} {index} among {count} of a matrix product; they are counted from 0")]
    ProductIndex {
        /// What is counted.
        what: &'static str,
        /// The index given.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// A channel stands twice in a component order.
    #[error("channel {channel} occurs twice in a component order; an order names each channel exactly once")]
    ProductDuplicate {
        /// The channel.
        channel: usize,
    },
    /// Two parts of a matrix product lay out channels in different orders.
    #[error("{what} and weights have different component orders; convert the weights for the order of the ciphertexts")]
    ProductOrder {
        /// The part that the weights meet.
        what: &'static str,
    },
}
