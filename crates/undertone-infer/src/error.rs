//! The one error type of this crate.

/// What can go wrong between a model, a shape and the evaluator; every message names the numbers and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The evaluator refused an operation.
    #[error(transparent)]
    Evaluator(#[from] undertone_he::Error),
    /// The clear model refused an operation.
    #[error(transparent)]
    Model(#[from] undertone_model::Error),
    /// A shape does not fit the layout.
    #[error("{what} is {have} but {need} is needed; choose another shape or ring degree")]
    Shape {
        /// The quantity.
        what: &'static str,
        /// Its value.
        have: usize,
        /// The condition.
        need: String,
    },
    /// A calibration does not belong to the model.
    #[error("the calibration has {have} {what} where the model needs {need}; calibrate this model again")]
    Calibration {
        /// The entry.
        what: &'static str,
        /// What was found.
        have: usize,
        /// What the model needs.
        need: usize,
    },
    /// A model has no calibration.
    #[error("{file} does not exist; calibrate the model with `undertone calibrate` first")]
    CalibrationMissing {
        /// The file that was looked for.
        file: String,
    },
    /// A calibration was made for another model.
    #[error("the calibration belongs to model {have} but the model is {need}; calibrate this model again")]
    CalibrationForOtherModel {
        /// Fingerprint in the calibration, hexadecimal.
        have: String,
        /// Fingerprint of the model, hexadecimal.
        need: String,
    },
    /// A prompt does not start with the public prefix that the calibration was made with.
    #[error(
        "the public tokens do not start with the {need} prefix tokens of the calibration; let the client that knows this calibration put them there"
    )]
    PrefixMissing {
        /// Tokens of the prefix.
        need: usize,
    },
    /// A calibration file cannot be read, written or decoded.
    #[error("the calibration {file} is not usable: {cause}; calibrate the model again or check the path")]
    CalibrationFile {
        /// The file.
        file: String,
        /// What went wrong.
        cause: String,
    },
    /// The calibration text does not serve.
    #[error("the calibration text has {have} {what} but needs {need}; supply other text")]
    CalibrationText {
        /// The quantity.
        what: &'static str,
        /// What there is.
        have: usize,
        /// What is needed.
        need: String,
    },
    /// No polynomial of supported degree covers what the calibration text shows.
    #[error(
        "{what} of layer {layer} spreads too widely for any supported polynomial at {target_bits} bits; lower the target or the margin, or move more of the prompt into the public part"
    )]
    RangeTooWide {
        /// The operator.
        what: &'static str,
        /// The layer, or the number of layers for the final norm.
        layer: usize,
        /// The precision asked for.
        target_bits: f64,
    },
    /// A calibrated range is empty, not finite or not positive.
    #[error("the calibrated range of {what} in layer {layer} is not usable; calibrate this model again")]
    CalibrationRange {
        /// The entry.
        what: &'static str,
        /// The layer, or the number of layers for the final norm and the head.
        layer: usize,
    },
    /// The result shows that a value left the range that calibration declared.
    #[error(
        "the {what} reads {have:.4} where at most {need:.4} is possible inside the calibrated ranges; calibrate the model on text like this"
    )]
    OutOfCalibratedRange {
        /// What was checked.
        what: &'static str,
        /// The largest magnitude found.
        have: f64,
        /// The largest magnitude allowed.
        need: f64,
    },
    /// All positions that were planned are used.
    #[error("{have} new tokens were decoded but the session was opened for {need}; open it with a larger maximum")]
    SequenceFull {
        /// Tokens asked for, counting this one.
        have: usize,
        /// Tokens planned.
        need: usize,
    },
    /// The caller asked to stop.
    #[error("the computation was cancelled after stage {stage} was done; start it again")]
    Cancelled {
        /// The last stage that ran.
        stage: &'static str,
    },
    /// A circuit does not fit between two bootstraps.
    #[error(
        "{what} of layer {layer} needs {need} levels but a bootstrap returns {have}; use lower polynomial degrees or a longer chain"
    )]
    Depth {
        /// The circuit.
        what: &'static str,
        /// The layer, or the number of layers for the head.
        layer: usize,
        /// Levels available.
        have: usize,
        /// Levels needed.
        need: usize,
    },
}
