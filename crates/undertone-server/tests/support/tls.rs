//! Certificates for a server and its clients.

use undertone_net::{ClientTls, Identity, Pins, ServerTls, make_certificate};

pub fn identity(name: &str) -> Identity {
    make_certificate(name).unwrap().identity().unwrap()
}

/// Settings of a server, and of `clients` clients that it accepts.
pub fn settings(clients: usize) -> (ServerTls, Vec<ClientTls>) {
    let server = identity("server");
    let clients: Vec<Identity> = (0..clients).map(|index| identity(&format!("client-{index}"))).collect();
    let accepted: Pins = clients.iter().map(Identity::pin).collect();
    let tls = clients.iter().map(|client| ClientTls::new(client, Pins::from(server.pin())).unwrap()).collect();
    (ServerTls::new(&server, accepted).unwrap(), tls)
}
