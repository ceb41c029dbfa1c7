//! Two identities and a listener.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;
use undertone_net::{ClientTls, Connection, Error, Identity, Pin, Pins, ServerTls, make_certificate};

pub const TIME: Duration = Duration::from_secs(10);

/// A folder of certificates, removed when dropped.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("net-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Writes a new certificate and its key, and returns both paths and the pin.
    pub fn certificate(&self, name: &str) -> (PathBuf, PathBuf, Pin) {
        let made = make_certificate(name).unwrap();
        let (certificate, key) = (self.0.join(format!("{name}.crt")), self.0.join(format!("{name}.key")));
        std::fs::write(&certificate, made.certificate).unwrap();
        std::fs::write(&key, made.key.as_bytes()).unwrap();
        private(&key, 0o600);
        (certificate, key, made.pin)
    }

    pub fn identity(&self, name: &str) -> Identity {
        let (certificate, key, pin) = self.certificate(name);
        let identity = Identity::load(&certificate, &key).unwrap();
        assert_eq!(identity.pin(), pin);
        identity
    }
}

#[cfg(unix)]
pub fn private(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[cfg(not(unix))]
pub fn private(_: &std::path::Path, _: u32) {}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left in the folder of build outputs does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A pair of settings that accept each other.
pub fn pair(folder: &Folder) -> (ClientTls, ServerTls) {
    let (client, server) = (folder.identity("client"), folder.identity("server"));
    let to_server = ClientTls::new(&client, Pins::from(server.pin())).unwrap();
    (to_server, ServerTls::new(&server, Pins::from(client.pin())).unwrap())
}

/// Accepts one connection, and gives it to `then`.
pub fn serve<T: Send + 'static>(
    tls: Option<ServerTls>,
    then: impl FnOnce(Result<Connection, Error>) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let stream = listener.accept().unwrap().0;
        then(Connection::accept(stream, tls.as_ref(), TIME))
    });
    (address, thread)
}
