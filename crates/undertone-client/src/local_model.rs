//! What the client holds of a model: tokenizer, embedding, calibration, and the weights if it has them.

use crate::Error;
use std::path::Path;
use std::sync::Arc;
use undertone_infer::Calibration;
use undertone_model::reference::embed;
use undertone_model::{Llama, LlamaConfig, Matrix, Tokenizer, load_client_half};
use zeroize::Zeroizing;

/// The client's side of a model.
pub struct LocalModel {
    /// Shape and constants.
    pub config: LlamaConfig,
    /// Absent when prompts come as token ids.
    pub tokenizer: Option<Tokenizer>,
    /// Token embedding that the private part is encrypted with, `[V, D]`: rotated where the calibration says so.
    pub embed: Arc<Matrix>,
    /// All weights as they are stored, for comparing results with the clear model; absent when only the server has them.
    pub weights: Option<Arc<Llama>>,
    /// Ranges of the model's values.
    pub calibration: Calibration,
    /// Name of the model, which the server must share.
    pub fingerprint: [u8; 32],
}

impl LocalModel {
    /// Loads a model directory; with `compare`, all weights as well.
    ///
    /// # Errors
    /// Files that are missing or damaged, and a calibration of another model.
    pub fn load(dir: &Path, compare: bool) -> Result<Self, Error> {
        let calibration = Calibration::load(dir)?;
        if compare {
            let weights = Arc::new(Llama::load(dir)?);
            let tokenizer = Tokenizer::load(dir, &weights.config)?;
            return Self::new(weights, Some(tokenizer), calibration);
        }
        let half = load_client_half(dir)?;
        calibration.check_shape(&half.config)?;
        let fingerprint =
            from_hex(&calibration.model_fingerprint).ok_or_else(|| undertone_infer::Error::CalibrationFile {
                file: dir.display().to_string(),
                cause: "its model fingerprint is not 64 hexadecimal digits".to_owned(),
            })?;
        let tokenizer = Some(Tokenizer::load(dir, &half.config)?);
        let embed = calibration.preparation.embedding(half.embed);
        Ok(Self { config: half.config, tokenizer, embed, weights: None, calibration, fingerprint })
    }

    /// Takes a model that is in memory already.
    ///
    /// # Errors
    /// A calibration of another model.
    pub fn new(weights: Arc<Llama>, tokenizer: Option<Tokenizer>, calibration: Calibration) -> Result<Self, Error> {
        calibration.check_model(&weights)?;
        Ok(Self {
            config: weights.config.clone(),
            tokenizer,
            embed: calibration.preparation.embedding(weights.embed.clone()),
            fingerprint: weights.fingerprint(),
            weights: Some(weights),
            calibration,
        })
    }

    /// The embeddings of token ids, one row `[D]` each.
    ///
    /// # Errors
    /// Ids outside the vocabulary.
    pub fn embed_rows(&self, ids: &[u32]) -> Result<Zeroizing<Vec<Vec<f32>>>, Error> {
        let flat = Zeroizing::new(embed(&self.embed, ids)?);
        Ok(Zeroizing::new(flat.chunks(self.config.hidden_size).map(<[f32]>::to_vec).collect()))
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0u8; 32];
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_from_hexadecimal() {
        let text: String = (0..32).map(|i| format!("{:02x}", i * 7)).collect();
        assert_eq!(from_hex(&text).unwrap()[31], 217);
        assert!(from_hex(&text[1..]).is_none());
        assert!(from_hex(&text.replace("07", "0g")).is_none());
    }
}
