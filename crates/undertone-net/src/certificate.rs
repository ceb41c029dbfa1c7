//! Development certificates: self-signed, made offline, useful through their pins only.

use crate::{Error, Identity, Pin};
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::Path;
use zeroize::{Zeroize, Zeroizing};

/// Longest name in a certificate.
const MAX_NAME: usize = 64;

/// A certificate that was just made.
pub struct NewCertificate {
    /// The certificate in PEM form; public.
    pub certificate: String,
    /// Its private key (ECDSA, P-256) in PEM form (PKCS #8); wiped when dropped.
    pub key: Zeroizing<String>,
    /// The pin for the other side.
    pub pin: Pin,
}

impl NewCertificate {
    /// The identity, for a program that needs no file.
    ///
    /// # Errors
    /// `Setup`, which a certificate that was just made does not cause.
    pub fn identity(&self) -> Result<Identity, Error> {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes());
        let certificate = certificate.map_err(|error| Error::Setup { cause: error.to_string() })?;
        Identity::of(certificate, self.key.as_bytes(), Path::new("the new key"))
    }
}

/// Makes a key and a self-signed certificate for either side, with randomness of the operating system.
///
/// The name is a note for people: pins decide, so neither it nor the dates, which are centuries apart, are ever checked.
///
/// # Errors
/// `CertificateName`, or `Setup` when the system has no randomness.
pub fn make_certificate(name: &str) -> Result<NewCertificate, Error> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(fits) {
        return Err(Error::CertificateName {
            name: name.chars().take(MAX_NAME).flat_map(char::escape_debug).collect(),
        });
    }
    let failed = |error: rcgen::Error| Error::Setup { cause: error.to_string() };
    // Other tools read this kind; the form in which the library writes Ed25519 keys (RFC 5958) some do not.
    let mut pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut parameters = CertificateParams::default();
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    parameters.distinguished_name = distinguished;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let made = parameters.self_signed(&pair);
    let key = Zeroizing::new(pair.serialize_pem());
    pair.zeroize();
    let made = made.map_err(failed)?;
    Ok(NewCertificate { certificate: made.pem(), key, pin: Pin::of(made.der()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_differ_and_are_their_own_pins() {
        let (one, two) = (make_certificate("server").unwrap(), make_certificate("server").unwrap());
        assert!(one.pin != two.pin && one.certificate != two.certificate && *one.key != *two.key);
        assert!(one.certificate.starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(one.key.starts_with("-----BEGIN PRIVATE KEY-----"));
        assert_eq!(one.identity().unwrap().pin(), one.pin);
    }

    #[test]
    fn names_that_could_be_paths_are_refused() {
        for name in ["", "a/b", "..", "a b", "\n", "ä", &"x".repeat(65)] {
            assert!(matches!(make_certificate(name), Err(Error::CertificateName { .. })), "{name}");
        }
    }
}
