//! The one error type of this crate. Pins are public; no key appears in a message.

use crate::Pin;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a connection, a certificate or a pin was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody listens at the address.
    #[error("cannot connect to {address} ({kind}); start undertone-server there or check the address")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// What the operating system reports.
        kind: std::io::ErrorKind,
    },
    /// The address is on another machine, and the connection would not be encrypted.
    #[error(
        "{address} is not a loopback address and no TLS was asked for; give --tls-certificate, --tls-key and \
         --server-pin, or connect through a tunnel to 127.0.0.1"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The connection failed or was silent during the TLS handshake.
    #[error("the TLS handshake broke off ({kind}); check the address and the network and connect again")]
    Handshake {
        /// What happened.
        kind: std::io::ErrorKind,
    },
    /// The peer's certificate is none of those that were pinned.
    #[error(
        "the peer's certificate has the pin {have}, which is none of the pins given; ask its owner for the pin, and do \
         not connect if it differs"
    )]
    WrongPin {
        /// The pin of the certificate that the peer presented.
        have: Pin,
    },
    /// The peer did not accept the certificate of this side.
    #[error(
        "the peer refused the certificate of this side ({alert}); give the pin of this certificate to the peer's owner"
    )]
    Refused {
        /// The name of the TLS alert.
        alert: String,
    },
    /// The bytes of the peer are no TLS.
    #[error("the peer does not speak TLS; start it with a certificate, or connect without TLS on one machine")]
    NotTls,
    /// The peer speaks a TLS that is not accepted here.
    #[error("the peer and this side have no TLS in common ({cause}); both must speak TLS 1.3 and be of this release")]
    Incompatible {
        /// What is missing.
        cause: String,
    },
    /// What arrived is not what the peer sent.
    #[error("the TLS connection is damaged ({cause}); connect again")]
    Damaged {
        /// What was found.
        cause: String,
    },
    /// The connection ended without the farewell of TLS, so that what came before may be incomplete.
    #[error("the connection was cut without a farewell; the peer has ended or the network failed, so connect again")]
    Cut,
    /// A text that is no pin.
    #[error("\"{text}\" is no pin and no file with pins; a pin has 64 hexadecimal digits")]
    PinText {
        /// The text, escaped and shortened.
        text: String,
    },
    /// A file without a single pin or certificate.
    #[error("{} holds no pin; write one per line, or give a certificate in PEM form", path.display())]
    NoPin {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be read.
    #[error("reading {} failed: {source}; check the path and its permissions", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file is too long for what it should be.
    #[error("{} has {have} bytes where at most {need} are read; check the path", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        have: u64,
        /// The limit in bytes.
        need: u64,
    },
    /// A file is no certificate, or holds several.
    #[error("{} is no single certificate in PEM form ({cause}); make one with `undertone keys certificate`", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What was found.
        cause: String,
    },
    /// A file holds no private key that can be used, or one of another certificate. The sentence is about the kind of
    /// fault only.
    #[error("{} is not the private key of the certificate ({cause}); make both with `undertone keys certificate`", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The fault, without content.
        cause: &'static str,
    },
    /// Others can read a private key.
    #[error("{} can be read by other users (mode {mode:o}); make it private with chmod 600", path.display())]
    KeyExposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A name that cannot stand in a certificate or name a file.
    #[error("\"{name}\" is no certificate name; use 1 to 64 letters, digits, - and _")]
    CertificateName {
        /// The name, escaped.
        name: String,
    },
    /// The library could not make a certificate or set itself up.
    #[error("TLS cannot be set up: {cause}; report this with the platform")]
    Setup {
        /// The cause.
        cause: String,
    },
}

impl Error {
    /// What a failure of the TLS library means.
    pub(crate) fn of_tls(error: &rustls::Error) -> Self {
        use rustls::{AlertDescription as Alert, CertificateError, Error as Tls};
        match error {
            Tls::InvalidCertificate(CertificateError::Other(other)) => match other.0.downcast_ref::<Unpinned>() {
                Some(Unpinned(have)) => Self::WrongPin { have: *have },
                None => Self::Damaged { cause: error.to_string() },
            },
            Tls::AlertReceived(
                alert @ (Alert::CertificateUnknown
                | Alert::CertificateRequired
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::UnknownCA
                | Alert::AccessDenied),
            ) => Self::Refused { alert: format!("{alert:?}") },
            Tls::AlertReceived(
                alert @ (Alert::ProtocolVersion | Alert::HandshakeFailure | Alert::NoApplicationProtocol),
            ) => Self::Incompatible { cause: format!("{alert:?}") },
            Tls::InvalidMessage(_) => Self::NotTls,
            Tls::PeerIncompatible(what) => Self::Incompatible { cause: format!("{what:?}") },
            Tls::NoApplicationProtocol => Self::Incompatible { cause: "no application protocol".into() },
            Tls::NoCertificatesPresented => Self::Incompatible { cause: "the peer presents no certificate".into() },
            other => Self::Damaged { cause: other.to_string() },
        }
    }
}

/// The verifier's finding, which travels through the TLS library.
#[derive(Debug, thiserror::Error)]
#[error("the certificate with pin {0} is not pinned")]
pub(crate) struct Unpinned(pub(crate) Pin);
