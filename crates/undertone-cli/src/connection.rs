//! The flags that say where a server is and how to reach it.

use crate::error::{Error, Result};
use clap::Args;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;
use undertone_net::{ClientTls, Endpoint, Network};

/// How long an address may take to answer while others are left to try.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// A server that runs already, and the TLS towards it.
#[derive(Debug, Clone, Args)]
pub struct ConnectionArguments {
    /// A running undertone-server; one is started for the time of this verb otherwise
    #[arg(long, value_name = "HOST:PORT")]
    pub server: Option<String>,

    /// Certificate of this client in PEM form, for TLS
    #[arg(long, value_name = "FILE", requires_all = ["server", "tls_key", "server_pin"])]
    pub tls_certificate: Option<PathBuf>,

    /// Private key of the certificate, readable by its owner only
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,

    /// Pin of the server, or a file with its pin or certificate; repeatable
    #[arg(long, value_name = "HEX|FILE", requires = "tls_certificate")]
    pub server_pin: Vec<String>,

    /// Make the connection as slow as a network: lan (0.2 ms there and back, 10 Gbit/s), metro (10 ms, 1 Gbit/s), metro-100
    /// (10 ms, 100 Mbit/s) or wan (80 ms, 100 Mbit/s)
    #[arg(long, value_name = "PROFILE", value_parser = profile)]
    pub network: Option<Network>,
}

/// The network of a name.
pub fn profile(name: &str) -> std::result::Result<Network, String> {
    let names = || Network::PROFILES.map(|profile| profile.name).join(", ");
    Network::named(name).ok_or_else(|| format!("there is no such network; choose one of {}", names()))
}

impl ConnectionArguments {
    /// The server that is named, if one is.
    ///
    /// # Errors
    /// `Usage` for an address that does not resolve, `Net` for a certificate, key or pin that is refused.
    pub fn endpoint(&self) -> Result<Option<Endpoint>> {
        let Some(name) = &self.server else { return Ok(None) };
        let tls = match (&self.tls_certificate, &self.tls_key) {
            (Some(certificate), Some(key)) => Some(ClientTls::load(certificate, key, &self.server_pin)?),
            _ => None,
        };
        Ok(Some(Endpoint { address: resolve(name, tls.is_some())?, tls, network: self.network }))
    }
}

/// The address of a name; without TLS, one of this machine where there is one.
///
/// # Errors
/// `Usage` for what is no address.
pub fn resolve(name: &str, anywhere: bool) -> Result<SocketAddr> {
    let found = name.to_socket_addrs().ok().and_then(|all| listening(&all.collect::<Vec<_>>(), anywhere));
    found.ok_or_else(|| Error::Usage(format!("{name} is no address; write HOST:PORT, for example 127.0.0.1:7411")))
}

/// Of all addresses that a name stands for, the first one where somebody listens: localhost is often ::1 before it is
/// 127.0.0.1, and a server listens at one of them.
///
/// Without TLS, addresses of other machines are not tried, because the client refuses to talk to them; the first address
/// is the answer when there is nothing better, so that the refusal names it.
fn listening(all: &[SocketAddr], anywhere: bool) -> Option<SocketAddr> {
    let tried: Vec<SocketAddr> = all.iter().copied().filter(|address| anywhere || address.ip().is_loopback()).collect();
    let answers = |address: &&SocketAddr| TcpStream::connect_timeout(address, ANSWER_TIME).is_ok();
    let found = if tried.len() > 1 { tried.iter().find(answers) } else { None };
    found.or(tried.first()).or(all.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn of_several_addresses_the_one_that_listens_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let closed: SocketAddr = format!("[::1]:{}", open.port()).parse().unwrap();
        let elsewhere: SocketAddr = "192.0.2.1:7411".parse().unwrap();
        assert_eq!(listening(&[closed, open], false), Some(open));
        assert_eq!(listening(&[elsewhere, closed, open], false), Some(open));
        assert_eq!(resolve(&format!("localhost:{}", open.port()), false).unwrap(), open);
        assert_eq!(listening(&[closed, open], true), Some(open));
        // Nobody else is asked, and what cannot be reached is still named.
        assert_eq!(listening(&[elsewhere], false), Some(elsewhere));
        drop(listener);
        assert_eq!(listening(&[closed, open], false), Some(closed));
        assert_eq!(listening(&[], false), None);
        assert!(profile("moon").unwrap_err().contains("lan, metro, metro-100, wan"));
        assert!(matches!(resolve("nonsense", false), Err(Error::Usage(_))));
    }
}
