//! What a blob is in mode clear: one period of slots as little-endian f64.

use crate::Error;

/// The blob of a slot vector.
pub fn encode_slots(slots: &[f64]) -> Vec<u8> {
    slots.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The slot vector of a blob.
///
/// # Errors
/// `Malformed` unless the blob is a whole number of finite values.
pub fn decode_slots(bytes: &[u8]) -> Result<Vec<f64>, Error> {
    let (values, rest) = bytes.as_chunks::<8>();
    let values: Vec<f64> = values.iter().map(|value| f64::from_le_bytes(*value)).collect();
    if !rest.is_empty() || !values.iter().all(|value| value.is_finite()) {
        return Err(Error::Malformed { message: "chunk", cause: "the blob is not a list of finite f64 values" });
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_survive_and_nonsense_is_refused() {
        let slots = [0.5, -1.25, 1e-300];
        assert_eq!(decode_slots(&encode_slots(&slots)), Ok(slots.to_vec()));
        assert!(decode_slots(&[0; 9]).is_err());
        assert!(decode_slots(&encode_slots(&[f64::NAN])).is_err());
    }
}
