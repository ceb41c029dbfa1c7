//! The TLS settings of each side: 1.3 only, a certificate on both, no resumption and no early data.
//!
//! Resumption would admit a client whose pin has been removed, and early data can be replayed.

use crate::verifier::PinVerifier;
use crate::{Error, Identity, Pin, Pins};
use rustls::client::Resumption;
use rustls::crypto::ring::default_provider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// What both sides say they speak inside TLS (RFC 7301); a server of something else is refused before the first frame.
const PROTOCOL: &[u8] = b"undertone/1";

/// How a client proves itself, and which servers it accepts.
#[derive(Clone)]
pub struct ClientTls {
    pub(crate) config: Arc<ClientConfig>,
    pin: Pin,
}

/// How a server proves itself, and which clients it accepts.
#[derive(Clone)]
pub struct ServerTls {
    pub(crate) config: Arc<ServerConfig>,
    pin: Pin,
}

fn setup(error: rustls::Error) -> Error {
    Error::Setup { cause: error.to_string() }
}

impl ClientTls {
    /// The settings of a client that accepts exactly the servers with these pins.
    ///
    /// # Errors
    /// `Setup`.
    pub fn new(identity: &Identity, servers: Pins) -> Result<Self, Error> {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(&[&TLS13]).map_err(setup)?;
        // "Dangerous" is a verifier of one's own; this one accepts pinned certificates only.
        let builder = builder.dangerous().with_custom_certificate_verifier(PinVerifier::new(servers));
        let mut config = builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.key.clone())));
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self { config: Arc::new(config), pin: identity.pin() })
    }

    /// Reads the certificate, the key and the pins that a user named.
    ///
    /// # Errors
    /// Those of [`Identity::load`] and [`Pins::read`].
    pub fn load<T: AsRef<str>>(certificate: &Path, key: &Path, servers: &[T]) -> Result<Self, Error> {
        Self::new(&Identity::load(certificate, key)?, Pins::read(servers)?)
    }

    /// The pin of this side's own certificate.
    pub fn pin(&self) -> Pin {
        self.pin
    }
}

impl ServerTls {
    /// The settings of a server that accepts exactly the clients with these pins.
    ///
    /// # Errors
    /// `Setup`.
    pub fn new(identity: &Identity, clients: Pins) -> Result<Self, Error> {
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(&[&TLS13]).map_err(setup)?;
        let builder = builder.with_client_cert_verifier(PinVerifier::new(clients));
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.key.clone())));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self { config: Arc::new(config), pin: identity.pin() })
    }

    /// Reads the certificate, the key and the pins that a user named.
    ///
    /// # Errors
    /// Those of [`Identity::load`] and [`Pins::read`].
    pub fn load<T: AsRef<str>>(certificate: &Path, key: &Path, clients: &[T]) -> Result<Self, Error> {
        Self::new(&Identity::load(certificate, key)?, Pins::read(clients)?)
    }

    /// The pin of this side's own certificate.
    pub fn pin(&self) -> Pin {
        self.pin
    }
}

/// Shows the public part only.
impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("pin", &self.pin).finish_non_exhaustive()
    }
}

/// Shows the public part only.
impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("pin", &self.pin).finish_non_exhaustive()
    }
}
