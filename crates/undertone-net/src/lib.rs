//! Connections between the programs: TCP, plain on this machine or under TLS 1.3 between machines.
//!
//! Stands at steps 5 and 8 of the pipe, below the frames of `undertone-protocol`, of which it knows nothing. Both
//! sides present a certificate and accept only those whose [`Pin`] they were given, so there is no authority to trust
//! and no name to spoof (TLS 1.3: RFC 8446; pins as in RFC 7469, but of whole certificates).
//! A [`Connection`] has a limit for the whole of every read and write, whatever trickles in below.
//! [`Network`] makes a connection as slow as one of four named networks, for measurements on one machine.
//! Absent on purpose: TLS 1.2, session resumption, early data, certificate authorities, revocation lists.
#![forbid(unsafe_code)]

mod certificate;
mod connection;
mod endpoint;
mod error;
mod identity;
mod network;
mod pin;
mod socket;
mod tls;
mod verifier;

pub use certificate::{NewCertificate, make_certificate};
pub use connection::{Connection, Hangup};
pub use endpoint::Endpoint;
pub use error::Error;
pub use identity::Identity;
pub use network::Network;
pub use pin::{Pin, Pins};
pub use tls::{ClientTls, ServerTls};
