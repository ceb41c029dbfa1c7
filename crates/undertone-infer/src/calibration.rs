//! The calibration of a model: the declared range of every nonlinear input and the degree of every polynomial.
//!
//! It is made by [`calibrate`](crate::calibrate::calibrate), stored as JSON beside the model, bound to it by a fingerprint, and
//! read by everything that builds a circuit. Ranges are a contract: polynomials explode outside, and the client is
//! told. Files are untrusted input: their size is capped and every number is checked before use.

use crate::Error;
use crate::preparation::{MAX_PREFIX, Preparation};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::path::Path;
use undertone_model::{Llama, LlamaConfig};

/// The name of the calibration file in a model directory.
pub const FILE_NAME: &str = "undertone-calibration.json";
/// The format that this build writes and reads.
pub const VERSION: u32 = 1;
/// Largest file that is read; that of a model of 80 layers and 64 heads has about 200 kB.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// Most rounds of a softmax.
pub const MAX_ROUNDS: usize = 6;
/// Most Newton steps of a last inverse.
pub const MAX_NEWTON_STEPS: usize = 2;
/// Highest degree of any polynomial.
const MAX_DEGREE: usize = 255;
/// Largest ratio of the ends of an interval. No supported degree reaches a bit on a wider one.
const LARGEST_RATIO: f64 = 1e9;

/// Least ratio of the ends of an interval; the map to [−1, 1] of a narrower one would only show rounding.
const LEAST_RATIO: f64 = 1.0 + 1e-6;
/// Magnitudes beyond this or below its inverse would overflow somewhere in a fit.
const LARGEST_MAGNITUDE: f64 = 1e30;

/// Whether a bound is positive and of a size that arithmetic can cope with.
fn is_magnitude(value: f64) -> bool {
    (1.0 / LARGEST_MAGNITUDE..=LARGEST_MAGNITUDE).contains(&value)
}

/// Whether a polynomial of this degree is supported.
pub(crate) fn degree_is_usable(degree: usize) -> bool {
    (1..=MAX_DEGREE).contains(&degree)
}

/// A closed interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Whether `x` lies inside.
    pub fn contains(&self, x: f64) -> bool {
        self.low <= x && x <= self.high
    }

    /// Whether both ends are positive, in order and within a factor that fits can be computed for.
    pub(crate) fn is_positive(&self) -> bool {
        let ratio = self.high / self.low;
        is_magnitude(self.low) && is_magnitude(self.high) && (LEAST_RATIO..=LARGEST_RATIO).contains(&ratio)
    }
}

/// Ranges and degrees of a whole model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Format of the file, [`VERSION`].
    pub version: u32,
    /// Hexadecimal fingerprint of the model.
    pub model_fingerprint: String,
    /// Hexadecimal hash of the calibration text.
    pub corpus_hash: String,
    /// Prompts of the calibration text, held-out ones included.
    pub prompts: usize,
    /// Rows observed: private, filler and generated tokens.
    pub tokens: usize,
    /// Escapes of held-out prompts that remained in the last scan. Always 0 in a usable file, and no estimate for new
    /// text: held-out prompts that escaped in an earlier scan have been fitted since.
    pub held_out_escapes: usize,
    /// Escapes of held-out prompts in the first scan, before any of them was fitted: how often text of this kind
    /// escaped what the other prompts showed. The final ranges are wider. Absent in files that do not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_scan_escapes: Option<usize>,
    /// Factor by which ranges exceed what was seen.
    pub margin: f64,
    /// The prefix and the rotation that ranges hold for; absent in files without either.
    #[serde(default, skip_serializing_if = "Preparation::is_plain")]
    pub preparation: Preparation,
    /// Largest |residual stream|: before both norms of every layer in turn and before the final norm, 2L + 1 values.
    pub residual_bound: Vec<f64>,
    /// One entry per layer.
    pub layers: Vec<LayerCalibration>,
    /// Mean square plus ε before the final norm.
    pub final_norm: Interval,
    /// Largest |logit|.
    pub logit_bound: f64,
}

/// Ranges and degrees of one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerCalibration {
    /// The norm before attention.
    pub attention_norm: NormCalibration,
    /// The norm before the feed-forward network.
    pub mlp_norm: NormCalibration,
    /// Largest length of a rotary pair of a query, so |query| before and after any rotation.
    pub query_bound: f64,
    /// The same for keys of encrypted tokens.
    pub key_bound: f64,
    /// Largest |value| of encrypted tokens.
    pub value_bound: f64,
    /// The softmax.
    pub softmax: SoftmaxCalibration,
    /// Largest |attention output|, before and after its division by the last sum.
    pub attention_bound: f64,
    /// Largest |gate|; the SiLU polynomial lives on ± this.
    pub gate_bound: f64,
    /// Largest |up|.
    pub up_bound: f64,
    /// Degree of the SiLU polynomial.
    pub silu_degree: usize,
    /// Largest |SiLU(gate)·up|.
    pub product_bound: f64,
}

/// One RMSNorm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NormCalibration {
    /// Range of the mean square plus ε, the argument of 1/√x.
    pub mean_square: Interval,
    /// Degree of the 1/√x polynomial.
    pub degree: usize,
}

/// One softmax by squaring and normalising: y_0 = exp((score − shift)/2^rounds), y_i = y_(i−1)²/Σ y_(i−1)².
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SoftmaxCalibration {
    /// Number of rounds k.
    pub rounds: usize,
    /// Upper end of the scores, per head.
    pub shift: Vec<f64>,
    /// (score − shift)/2^rounds lies in [−2·half_span, 0]; masked columns sit at the lower end.
    pub half_span: f64,
    /// Degree of the exponential.
    pub exp_degree: usize,
    /// Range of Σ y² before each inverse, masked columns included.
    pub sums: Vec<Interval>,
    /// Degree of each inverse.
    pub inverse_degree: Vec<usize>,
    /// Newton steps that refine the last inverse with the sum as it was before its bootstrap, at most 2.
    #[serde(default)]
    pub newton_steps: usize,
}

impl Calibration {
    /// Reads the calibration of a model directory or of a file, and checks its numbers.
    ///
    /// # Errors
    /// `CalibrationMissing` when there is no file, `CalibrationFile` when it is too large or malformed.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let path = if path.is_dir() { path.join(FILE_NAME) } else { path.to_path_buf() };
        let name = path.display().to_string();
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::CalibrationMissing { file: name });
            }
            Err(error) => return Err(Error::CalibrationFile { file: name, cause: error.to_string() }),
        };
        let mut bytes = Vec::new();
        let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|error| Error::CalibrationFile { file: name.clone(), cause: error.to_string() })?;
        Self::from_json(&bytes, &name)
    }

    /// Writes the calibration into a model directory or a file, which holds the old or the new one at any time.
    ///
    /// # Errors
    /// `CalibrationFile` with the cause.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let path = if path.is_dir() { path.join(FILE_NAME) } else { path.to_path_buf() };
        replace(&path, &self.to_json())
            .map_err(|error| Error::CalibrationFile { file: path.display().to_string(), cause: error.to_string() })
    }

    /// Decodes JSON; `name` appears in errors.
    ///
    /// # Errors
    /// `CalibrationFile` when it is too large or malformed, `CalibrationRange` when a number makes no sense.
    pub fn from_json(bytes: &[u8], name: &str) -> Result<Self, Error> {
        let refuse = |cause: String| Error::CalibrationFile { file: name.to_string(), cause };
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(refuse(format!("it has more than {MAX_FILE_BYTES} bytes")));
        }
        let calibration: Self = serde_json::from_slice(bytes).map_err(|error| refuse(error.to_string()))?;
        if calibration.version != VERSION {
            return Err(refuse(format!("its version is {} and this build reads {VERSION}", calibration.version)));
        }
        let escapes = calibration.held_out_escapes;
        if escapes > 0 {
            return Err(refuse(format!("held-out text left its ranges {escapes} times in the last scan")));
        }
        calibration.check_numbers()?;
        Ok(calibration)
    }

    /// Encodes JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // The types have no map keys and no non-string keys, which are the only ways for serialisation to fail.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// Checks that the calibration was made for this model.
    ///
    /// # Errors
    /// `CalibrationForOtherModel`, or `Calibration` when counts differ from the configuration.
    pub fn check_model(&self, model: &Llama) -> Result<(), Error> {
        self.check_fingerprint(&model.fingerprint())?;
        self.check_shape(&model.config)
    }

    /// Checks the fingerprint alone.
    ///
    /// # Errors
    /// `CalibrationForOtherModel`.
    pub fn check_fingerprint(&self, fingerprint: &[u8; 32]) -> Result<(), Error> {
        let need = hex(fingerprint);
        if self.model_fingerprint == need {
            return Ok(());
        }
        let have = self.model_fingerprint.chars().take(need.len()).filter(char::is_ascii_hexdigit).collect();
        Err(Error::CalibrationForOtherModel { have, need })
    }

    /// Checks the numbers of layers and heads.
    ///
    /// # Errors
    /// `Calibration` naming the count that differs.
    pub fn check_shape(&self, config: &LlamaConfig) -> Result<(), Error> {
        let count = |what, have, need| {
            if have == need { Ok(()) } else { Err(Error::Calibration { what, have, need }) }
        };
        count("layers", self.layers.len(), config.num_hidden_layers)?;
        count("residual bounds", self.residual_bound.len(), 2 * config.num_hidden_layers + 1)?;
        for layer in &self.layers {
            count("heads", layer.softmax.shift.len(), config.num_attention_heads)?;
        }
        self.preparation.check_shape(config)
    }

    /// Every bound positive and finite, every interval ordered, every degree and round count sensible.
    fn check_numbers(&self) -> Result<(), Error> {
        let last = self.layers.len();
        if self.preparation.prefix.len() > MAX_PREFIX {
            return Err(Error::CalibrationRange { what: "the prefix", layer: 0 });
        }
        let bound = |what, layer, value: f64| {
            if is_magnitude(value) { Ok(()) } else { Err(Error::CalibrationRange { what, layer }) }
        };
        bound("the margin", last, self.margin)?;
        bound("the logits", last, self.logit_bound)?;
        for &value in &self.residual_bound {
            bound("the residual stream", last, value)?;
        }
        if !self.final_norm.is_positive() {
            return Err(Error::CalibrationRange { what: "the final norm", layer: last });
        }
        for (index, layer) in self.layers.iter().enumerate() {
            layer.check(index)?;
        }
        Ok(())
    }
}

impl LayerCalibration {
    fn check(&self, layer: usize) -> Result<(), Error> {
        let bounds = [
            ("the queries", self.query_bound),
            ("the keys", self.key_bound),
            ("the values", self.value_bound),
            ("the attention output", self.attention_bound),
            ("the gate", self.gate_bound),
            ("the up projection", self.up_bound),
            ("the feed-forward product", self.product_bound),
            ("the softmax half-span", self.softmax.half_span),
        ];
        let softmax = &self.softmax;
        let degree = degree_is_usable;
        let checks = bounds
            .map(|(what, value)| (what, is_magnitude(value)))
            .into_iter()
            .chain(
                [self.attention_norm, self.mlp_norm]
                    .map(|norm| ("a norm", norm.mean_square.is_positive() && degree(norm.degree))),
            )
            .chain([
                ("the SiLU degree", degree(self.silu_degree)),
                ("the exponential degree", degree(softmax.exp_degree)),
                ("the softmax rounds", (1..=MAX_ROUNDS).contains(&softmax.rounds)),
                ("the softmax shifts", softmax.shift.iter().all(|s| s.abs() <= LARGEST_MAGNITUDE)),
                ("the softmax sums", softmax.sums.len() == softmax.rounds),
                ("the softmax sums", softmax.sums.iter().all(Interval::is_positive)),
                ("the Newton steps", softmax.newton_steps <= MAX_NEWTON_STEPS),
                ("the inverse degrees", softmax.inverse_degree.len() == softmax.rounds),
                ("the inverse degrees", softmax.inverse_degree.iter().all(|&d| degree(d))),
            ]);
        for (what, good) in checks {
            if !good {
                return Err(Error::CalibrationRange { what, layer });
            }
        }
        Ok(())
    }
}

/// Writes a file beside `path`, makes sure that it is on the disk and renames it.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    // Whatever was written is of no use when a later step failed.
    write().inspect_err(|_| drop(std::fs::remove_file(&temporary)))
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
