//! The public model as bytes: what a provider tells a dealer and its users before anything else.
//!
//! Little endian: magic 4, length of the configuration 4, the configuration as `config.json`, then the fractional bits
//! as one byte each: embedding, head, and for every layer q, k, v, o, gate, up, down.

use undertone_model::LlamaConfig;

use crate::error::{Error, Result};
use crate::weights::{LayerScales, PublicModel};

const MAGIC: [u8; 4] = *b"UTP\x01";

/// Most bytes of an encoding.
pub const MAX_PUBLIC_BYTES: usize = 1 << 20;

impl PublicModel {
    /// Its encoding.
    pub fn encode(&self) -> Vec<u8> {
        let config = self.config.to_json();
        let mut out = MAGIC.to_vec();
        out.extend((config.len() as u32).to_le_bytes());
        out.extend(config.as_bytes());
        // Bits of a model that was checked are at most 18.
        out.extend([self.embed as u8, self.head as u8]);
        for l in &self.layers {
            out.extend([l.q, l.k, l.v, l.o, l.gate, l.up, l.down].map(|bits| bits as u8));
        }
        out
    }

    /// Reads an encoding.
    ///
    /// # Errors
    /// Anything but the exact encoding of a model that [`PublicModel::check`] accepts.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let malformed = |cause| Error::Malformed { what: "a public model", cause };
        if bytes.len() > MAX_PUBLIC_BYTES {
            return Err(malformed("it is longer than any public model"));
        }
        let Some((head, rest)) = bytes.split_first_chunk::<8>().filter(|(head, _)| head[..4] == MAGIC) else {
            return Err(malformed("it does not begin as one"));
        };
        let len = u32::from_le_bytes(std::array::from_fn(|i| head[4 + i])) as usize;
        let Some((config, scales)) = rest.split_at_checked(len) else {
            return Err(malformed("its configuration is longer than it"));
        };
        let config = LlamaConfig::from_json(config, None)?;
        if scales.len() != 2 + 7 * config.num_hidden_layers {
            return Err(malformed("it has not seven scales for every layer"));
        }
        let scale = |bits: &u8| u32::from(*bits);
        let layer = |l: &[u8]| LayerScales {
            q: scale(&l[0]),
            k: scale(&l[1]),
            v: scale(&l[2]),
            o: scale(&l[3]),
            gate: scale(&l[4]),
            up: scale(&l[5]),
            down: scale(&l[6]),
        };
        let layers = scales[2..].chunks_exact(7).map(layer).collect();
        let public = Self { config, embed: scale(&scales[0]), head: scale(&scales[1]), layers };
        public.check()?;
        // One model has one encoding, so that digests of it can be compared.
        if public.encode() != bytes { Err(malformed("it is not in its one form")) } else { Ok(public) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use undertone_model::presets::{PRESET_NAMES, preset};

    #[test]
    fn encodings_come_back_and_damage_is_refused() {
        for name in PRESET_NAMES {
            let config = preset(name).unwrap();
            let scales = LayerScales { q: 14, k: 15, v: 16, o: 17, gate: 18, up: 1, down: 0 };
            let public = PublicModel { layers: vec![scales; config.num_hidden_layers], config, embed: 12, head: 13 };
            let bytes = public.encode();
            assert_eq!(PublicModel::decode(&bytes).unwrap(), public);
            for cut in [0, 3, 7, 8, 100, bytes.len() - 1] {
                assert!(PublicModel::decode(&bytes[..cut]).is_err());
            }
            let mut spaced = bytes.clone();
            spaced.insert(9, b' ');
            spaced[4..8]
                .copy_from_slice(&(u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) + 1).to_le_bytes());
            assert!(PublicModel::decode(&spaced).is_err());
            let last = bytes.len() - 1;
            assert!(PublicModel::decode(&[&bytes[..last], &[19]].concat()).is_err());
        }
    }
}
