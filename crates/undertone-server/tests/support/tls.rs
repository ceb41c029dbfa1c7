//! Certificates for a server and its clients.

use std::path::PathBuf;
use undertone_net::{ClientTls, Identity, Pins, ServerTls, make_certificate};

/// An identity that was just made; its files are gone again.
pub fn identity(name: &str) -> Identity {
    let made = make_certificate(name).unwrap();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{}", &made.pin.to_string()[..16], name));
    std::fs::create_dir_all(&folder).unwrap();
    let (certificate, key) = (folder.join("certificate"), folder.join("key"));
    std::fs::write(&certificate, made.certificate).unwrap();
    std::fs::write(&key, made.key.as_bytes()).unwrap();
    #[cfg(unix)]
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let identity = Identity::load(&certificate, &key).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    identity
}

/// Settings of a server, and of `clients` clients that it accepts.
pub fn settings(clients: usize) -> (ServerTls, Vec<ClientTls>) {
    let server = identity("server");
    let clients: Vec<Identity> = (0..clients).map(|index| identity(&format!("client-{index}"))).collect();
    let accepted: Pins = clients.iter().map(Identity::pin).collect();
    let tls = clients.iter().map(|client| ClientTls::new(client, Pins::from(server.pin())).unwrap()).collect();
    (ServerTls::new(&server, accepted).unwrap(), tls)
}
