//! Pins: the fingerprints of the certificates that a side accepts.
//!
//! A pin is the SHA-256 of the certificate in DER form, the figure that other tools print as its fingerprint. It is
//! public; it must reach the other side over a way that nobody alters.

use crate::Error;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use subtle::{Choice, ConstantTimeEq};

/// Bytes of a pin.
const PIN_LEN: usize = 32;
/// Largest file of pins or certificates that is read.
pub(crate) const MAX_FILE: u64 = 1 << 20;
/// Characters of a refused text that an error repeats.
const SHOWN: usize = 80;

/// The SHA-256 fingerprint of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin([u8; PIN_LEN]);

impl Pin {
    /// The pin of a certificate.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
        let mut pin = [0; PIN_LEN];
        pin.copy_from_slice(digest.as_ref());
        Self(pin)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8; PIN_LEN] {
        &self.0
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Pin {
    type Err = Error;

    /// Reads 64 hexadecimal digits of either case; colons between pairs are allowed, as other tools print them.
    fn from_str(text: &str) -> Result<Self, Error> {
        let refused = || Error::PinText { text: text.chars().take(SHOWN).flat_map(char::escape_debug).collect() };
        let text = text.trim();
        // Bounded before anything is built from it.
        if text.len() != 2 * PIN_LEN && text.len() != 3 * PIN_LEN - 1 {
            return Err(refused());
        }
        let step = if text.len() == 2 * PIN_LEN { 2 } else { 3 };
        let bytes = text.as_bytes();
        let mut pin = [0; PIN_LEN];
        for (index, byte) in pin.iter_mut().enumerate() {
            let pair = &bytes[index * step..index * step + 2];
            let digit = |at: usize| char::from(pair[at]).to_digit(16).ok_or_else(refused);
            *byte = (digit(0)? * 16 + digit(1)?) as u8;
            if step == 3 && index + 1 < PIN_LEN && bytes[index * step + 2] != b':' {
                return Err(refused());
            }
        }
        Ok(Self(pin))
    }
}

/// The certificates that a side accepts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pins(Vec<Pin>);

impl Pins {
    /// Reads what a user wrote: each text is a pin, or names a file with pins, one a line (`#` begins a comment), or
    /// with certificates in PEM form, whose pins are taken.
    ///
    /// # Errors
    /// `PinText`, `NoPin`, `Certificate`, `File` or `TooLong`.
    pub fn read<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, Error> {
        let mut pins = Self::default();
        for text in texts {
            let text = text.as_ref();
            match text.parse() {
                Ok(pin) => pins.0.push(pin),
                Err(_) if Path::new(text).is_file() => pins.0.extend(of_file(Path::new(text))?),
                Err(error) => return Err(error),
            }
        }
        Ok(pins)
    }

    /// The pins, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = &Pin> {
        self.0.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this pin is among them. All are compared in full, so that the time says nothing about which differ where.
    pub fn contain(&self, pin: &Pin) -> bool {
        self.0.iter().fold(Choice::from(0), |found, known| found | known.0.ct_eq(&pin.0)).into()
    }
}

impl From<Pin> for Pins {
    fn from(pin: Pin) -> Self {
        Self(vec![pin])
    }
}

impl FromIterator<Pin> for Pins {
    fn from_iter<I: IntoIterator<Item = Pin>>(pins: I) -> Self {
        Self(pins.into_iter().collect())
    }
}

fn of_file(path: &Path) -> Result<Vec<Pin>, Error> {
    let text = crate::identity::read_file(path)?;
    let text = String::from_utf8_lossy(&text);
    let pins: Vec<Pin> = if text.contains("-----BEGIN") {
        let refused = |error: rustls::pki_types::pem::Error| Error::Certificate {
            path: path.to_path_buf(),
            cause: error.to_string(),
        };
        let certificates = CertificateDer::pem_slice_iter(text.as_bytes());
        certificates.map(|found| found.map(|found| Pin::of(&found)).map_err(refused)).collect::<Result<_, _>>()?
    } else {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        lines.filter(|line| !line.is_empty()).map(str::parse).collect::<Result<_, _>>()?
    };
    if pins.is_empty() { Err(Error::NoPin { path: path.to_path_buf() }) } else { Ok(pins) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(last: u8) -> Pin {
        let mut pin = [7; PIN_LEN];
        pin[PIN_LEN - 1] = last;
        Pin(pin)
    }

    #[test]
    fn pins_are_read_as_they_are_written_and_as_other_tools_write_them() {
        let text = pin(0xAB).to_string();
        assert_eq!((text.len(), text.parse::<Pin>().unwrap()), (64, pin(0xAB)));
        let pairs: Vec<String> = text.as_bytes().chunks(2).map(|p| String::from_utf8_lossy(p).to_uppercase()).collect();
        assert_eq!(format!(" {}\n", pairs.join(":")).parse::<Pin>().unwrap(), pin(0xAB));
        let crooked = pairs.join(":").replacen(':', "-", 1);
        let foreign = format!("{}é", &text[..62]);
        for wrong in ["", "07", &text[1..], &format!("{text}0"), &format!("g{}", &text[1..]), &crooked, &foreign] {
            let error = wrong.parse::<Pin>().unwrap_err();
            assert!(matches!(&error, Error::PinText { .. }) && error.to_string().contains("64"), "{error}");
        }
    }

    #[test]
    fn only_exact_pins_are_contained() {
        let pins: Pins = [pin(1), pin(2)].into_iter().collect();
        assert!(pins.contain(&pin(1)) && pins.contain(&pin(2)) && !pins.contain(&pin(3)));
        assert!(!Pins::default().contain(&pin(1)));
    }

    #[test]
    fn the_pin_is_the_sha_256_of_the_bytes() {
        // FIPS 180-2, appendix B.1: the digest of "abc".
        let need = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Pin::of(&CertificateDer::from(b"abc".to_vec())).to_string(), need);
    }
}
