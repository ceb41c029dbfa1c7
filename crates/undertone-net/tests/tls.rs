//! TLS between two ends of a real socket: what is accepted, what is refused, and with which words.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};
use support::{Folder, TIME, pair, private, serve};
use undertone_net::{ClientTls, Connection, Endpoint, Error, Identity, Pins, ServerTls};

/// The error of this crate inside an I/O error.
fn inner(error: &std::io::Error) -> &Error {
    error.get_ref().and_then(|inner| inner.downcast_ref()).unwrap_or_else(|| panic!("{error:?}"))
}

fn connect(address: SocketAddr, tls: Option<ClientTls>) -> Result<Connection, Error> {
    Endpoint { tls, ..address.into() }.connect(TIME)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

/// Sends everything back until the end.
fn echo(connection: Result<Connection, Error>) -> usize {
    let mut connection = connection.unwrap();
    let (mut buffer, mut total) = (vec![0; 100_000], 0);
    loop {
        match connection.read(&mut buffer).unwrap() {
            0 => break,
            len => {
                connection.write_all(&buffer[..len]).unwrap();
                total += len;
            }
        }
    }
    connection.finish();
    total
}

#[test]
fn bytes_travel_both_ways_and_the_end_is_known() {
    let folder = Folder::new("both-ways");
    let (client, server) = pair(&folder);
    let pins = (client.pin(), server.pin());
    for tls in [true, false] {
        let (address, thread) = serve(tls.then(|| server.clone()), echo);
        let mut connection = connect(address, tls.then(|| client.clone())).unwrap();
        assert_eq!(connection.peer(), tls.then_some(pins.1));
        for len in [1, 16 << 10, (16 << 10) + 1, 300_000] {
            let sent = pattern(len);
            connection.write_all(&sent).unwrap();
            connection.flush().unwrap();
            let mut got = vec![0; len];
            connection.read_exact(&mut got).unwrap();
            assert!(got == sent);
        }
        connection.close();
        assert_eq!(connection.read(&mut [0; 8]).unwrap(), 0);
        assert_eq!(thread.join().unwrap(), 1 + (16 << 10) + (16 << 10) + 1 + 300_000);
    }
}

#[test]
fn a_server_with_another_certificate_is_refused_and_named() {
    let folder = Folder::new("wrong-server");
    let (_, server) = pair(&folder);
    let (client, other) = (folder.identity("lone"), folder.identity("other"));
    let stranger = ClientTls::new(&client, Pins::from(other.pin())).unwrap();
    let have = server.pin();
    let (address, thread) = serve(Some(server), Result::err);
    let error = connect(address, Some(stranger)).err().unwrap();
    assert!(matches!(error, Error::WrongPin { have: found } if found == have), "{error}");
    assert!(error.to_string().contains(&have.to_string()), "{error}");
    let told = thread.join().unwrap().unwrap();
    assert!(matches!(told, Error::Refused { .. }), "{told}");
}

#[test]
fn a_client_with_another_certificate_is_refused_and_told() {
    let folder = Folder::new("wrong-client");
    let (known, server) = pair(&folder);
    let lone = folder.identity("lone");
    let stranger = ClientTls::new(&lone, Pins::from(server.pin())).unwrap();
    let (address, thread) = serve(Some(server.clone()), Result::err);
    // The client's part of the handshake is over before the server has looked at the certificate.
    let mut connection = connect(address, Some(stranger)).unwrap();
    connection.write_all(b"hello").unwrap();
    let error = connection.read(&mut [0; 8]).unwrap_err();
    assert!(matches!(inner(&error), Error::Refused { alert } if alert == "CertificateUnknown"), "{error}");
    let found = thread.join().unwrap().unwrap();
    assert!(matches!(found, Error::WrongPin { have } if have == lone.pin()), "{found}");
    // Equal settings but for the certificate are accepted.
    let (address, thread) = serve(Some(server), |found| found.map(|found| found.peer()).unwrap());
    let connection = connect(address, Some(known.clone())).unwrap();
    assert_eq!(thread.join().unwrap(), Some(known.pin()));
    drop(connection);
}

/// A client that speaks TLS 1.3 and has no certificate.
#[test]
fn a_client_without_a_certificate_is_refused_and_told() {
    let folder = Folder::new("no-certificate");
    let (_, server) = pair(&folder);
    let (address, thread) = serve(Some(server), Result::err);
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config =
        builder.dangerous().with_custom_certificate_verifier(std::sync::Arc::new(Anyone)).with_no_client_auth();
    config.alpn_protocols = vec![b"undertone/1".to_vec()];
    let name = rustls::pki_types::ServerName::IpAddress(address.ip().into());
    let session = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut stream = rustls::StreamOwned::new(session, TcpStream::connect(address).unwrap());
    stream.write_all(b"hello").unwrap();
    let error = stream.read(&mut [0; 8]).unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    let found = thread.join().unwrap().unwrap();
    assert!(matches!(&found, Error::Incompatible { cause } if cause.contains("no certificate")), "{found}");
}

/// Trusts every certificate, to show that the server does not.
#[derive(Debug)]
struct Anyone;

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        panic!("TLS 1.2 was agreed on")
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A pinned certificate is public: whoever presents it without its key must fail.
#[test]
fn a_pinned_certificate_without_its_key_is_worth_nothing() {
    let folder = Folder::new("stolen");
    let (_, server) = pair(&folder);
    let (certificate, _, pin) = folder.certificate("victim");
    let (_, other_key, _) = folder.certificate("thief");
    let error = Identity::load(&certificate, &other_key).err().unwrap();
    assert!(matches!(&error, Error::Key { cause, .. } if cause.contains("belong")), "{error}");

    // Past that check of our own, with the library alone.
    use rustls::pki_types::pem::PemObject;
    let shown = rustls::pki_types::CertificateDer::from_pem_file(&certificate).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(&other_key).unwrap();
    let signing = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let forged = std::sync::Arc::new(rustls::sign::CertifiedKey::new(vec![shown], signing));
    let resolver = std::sync::Arc::new(rustls::sign::SingleCertAndKey::from(forged));
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(std::sync::Arc::new(Anyone));
    let mut config = builder.with_client_cert_resolver(resolver);
    config.alpn_protocols = vec![b"undertone/1".to_vec()];

    let identity = folder.identity("again");
    let server = ServerTls::new(&identity, [server.pin(), pin].into_iter().collect()).unwrap();
    let (address, thread) = serve(Some(server), Result::err);
    let name = rustls::pki_types::ServerName::IpAddress(address.ip().into());
    let session = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut stream = rustls::StreamOwned::new(session, TcpStream::connect(address).unwrap());
    let refused = stream.write_all(b"hello").and_then(|()| stream.read(&mut [0; 8])).unwrap_err();
    assert!(refused.to_string().contains("DecryptError"), "{refused}");
    let found = thread.join().unwrap().unwrap();
    assert!(matches!(&found, Error::Damaged { cause } if cause.contains("BadSignature")), "{found}");
}

/// A ClientHello of TLS 1.2 (RFC 5246, section 7.4.1.2): no supported_versions, one suite, no extension.
fn client_hello_of_tls12() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([0x5A; 32]);
    body.extend([0, 0, 2, 0xC0, 0x2B, 1, 0]);
    let signatures = [0, 13, 0, 4, 0, 2, 4, 3];
    let groups = [0, 10, 0, 4, 0, 2, 0, 23];
    body.extend([0, 16]);
    body.extend(signatures);
    body.extend(groups);
    let mut hello = vec![1, 0, 0, body.len() as u8];
    hello.extend(body);
    let mut record = vec![22, 3, 1, 0, hello.len() as u8];
    record.extend(hello);
    record
}

#[test]
fn tls_of_an_older_version_is_refused() {
    let folder = Folder::new("tls12");
    let (_, server) = pair(&folder);
    let (address, thread) = serve(Some(server), Result::err);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&client_hello_of_tls12()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    // A fatal alert, 70: protocol_version.
    assert!(answer.len() == 7 && answer[0] == 21 && answer[5..] == [2, 70], "{answer:?}");
    let found = thread.join().unwrap().unwrap();
    assert!(matches!(&found, Error::Incompatible { .. }) && found.to_string().contains("1.3"), "{found}");
}

#[test]
fn a_plain_client_is_answered_with_an_alert_and_a_plain_server_is_named() {
    let folder = Folder::new("plain");
    let (client, server) = pair(&folder);
    let (address, thread) = serve(Some(server), Result::err);
    let mut plain = connect(address, None).unwrap();
    plain.write_all(b"UTN\x01 and more that is no record of TLS at all").unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(&[21, 3]), "{answer:?}");
    assert!(matches!(thread.join().unwrap().unwrap(), Error::NotTls));

    let (address, thread) = serve(None, |found| {
        let mut connection = found.unwrap();
        let mut first = [0; 3];
        connection.read_exact(&mut first).unwrap();
        connection.write_all(b"UTN\x01 and more that is no record of TLS at all").unwrap();
        connection.finish();
        first
    });
    let error = connect(address, Some(client)).err().unwrap();
    assert!(matches!(error, Error::NotTls), "{error}");
    assert_eq!(thread.join().unwrap()[..2], [22, 3]);
}

#[test]
fn a_silent_peer_does_not_hold_the_handshake() {
    let folder = Folder::new("silent");
    let (client, server) = pair(&folder);
    let start = Instant::now();
    let time = Duration::from_millis(300);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let error = Endpoint { tls: Some(client), ..address.into() }.connect(time).err().unwrap();
    assert!(matches!(error, Error::Handshake { kind: ErrorKind::TimedOut }), "{error}");
    // A byte now and then does not prolong it.
    let (accepted, mut dribbling) = (listener.accept().unwrap().0, TcpStream::connect(address).unwrap());
    drop(accepted);
    let stream = listener.accept().unwrap().0;
    let server = std::thread::spawn(move || Connection::accept(stream, Some(&server), time).err().unwrap());
    for byte in client_hello_of_tls12() {
        std::thread::sleep(Duration::from_millis(50));
        if dribbling.write_all(&[byte]).is_err() {
            break;
        }
        assert!(start.elapsed() < TIME);
    }
    let error = server.join().unwrap();
    assert!(matches!(error, Error::Handshake { kind: ErrorKind::TimedOut }), "{error}");
}

#[test]
fn a_cut_connection_is_no_farewell() {
    let folder = Folder::new("cut");
    let (client, server) = pair(&folder);
    let (address, thread) = serve(Some(server), |found| {
        let mut connection = found.unwrap();
        let read = connection.read(&mut [0; 8]);
        inner(&read.unwrap_err()).to_string()
    });
    let connection = connect(address, Some(client)).unwrap();
    // Dropped without `close`, as when the process is killed.
    drop(connection);
    assert!(thread.join().unwrap().contains("without a farewell"));
}

#[test]
fn a_read_ends_in_time_and_can_be_repeated() {
    let folder = Folder::new("timeout");
    let (client, server) = pair(&folder);
    for tls in [true, false] {
        let (address, thread) = serve(tls.then(|| server.clone()), |found| {
            let mut connection = found.unwrap();
            std::thread::sleep(Duration::from_millis(300));
            assert!(!connection.stirred());
            connection.write_all(b"late").unwrap();
            connection.finish();
        });
        let mut connection = connect(address, tls.then(|| client.clone())).unwrap();
        connection.set_read_timeout(Duration::from_millis(50));
        let error = connection.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        connection.set_read_timeout(TIME);
        let mut late = [0; 4];
        connection.read_exact(&mut late).unwrap();
        assert_eq!(&late, b"late");
        drop(connection);
        thread.join().unwrap();
    }
}

#[test]
fn a_peer_that_stirs_is_noticed_under_tls_too() {
    let folder = Folder::new("stir");
    let (client, server) = pair(&folder);
    for farewell in [true, false] {
        let (send, told) = std::sync::mpsc::channel();
        let (address, thread) = serve(Some(server.clone()), move |found| {
            let mut connection = found.unwrap();
            let mut first = [0; 2];
            connection.read_exact(&mut first).unwrap();
            let before = connection.stirred();
            send.send(()).unwrap();
            let start = Instant::now();
            while !connection.stirred() && start.elapsed() < TIME {}
            (before, start.elapsed() < TIME)
        });
        let mut connection = connect(address, Some(client.clone())).unwrap();
        connection.write_all(b"ab").unwrap();
        told.recv().unwrap();
        if farewell {
            connection.close();
        } else {
            connection.write_all(b"c").unwrap();
        }
        assert_eq!(thread.join().unwrap(), (false, true));
    }
}

/// What a peer that never reads can make this side hold: the buffers of two sockets and one record, no matter how much
/// is offered.
#[test]
fn a_slow_reader_stops_the_writer() {
    let folder = Folder::new("slow");
    let (client, server) = pair(&folder);
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let (address, thread) = serve(Some(server), move |found| {
        let connection = found.unwrap();
        let _ = wait.recv();
        drop(connection);
    });
    let mut connection = connect(address, Some(client)).unwrap();
    connection.set_write_timeout(Duration::from_millis(300));
    let block = vec![0; 1 << 20];
    let mut taken = 0;
    let error = loop {
        match connection.write(&block) {
            Ok(len) => taken += len,
            Err(error) => break error,
        }
        assert!(taken < 64 << 20, "{taken} bytes are held");
    };
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    done.send(()).unwrap();
    thread.join().unwrap();
}

#[test]
fn files_that_are_no_identity_are_refused_with_a_reason() {
    let folder = Folder::new("files");
    let (certificate, key, pin) = folder.certificate("good");
    let text = |error: Error| error.to_string();
    let load = |certificate: &_, key: &_| text(Identity::load(certificate, key).err().unwrap());
    let absent = folder.0.join("absent");
    assert!(load(&absent, &key).contains("reading") && load(&certificate, &absent).contains("reading"));
    assert!(load(&key, &key).contains("there is none"));
    private(&certificate, 0o600);
    assert!(load(&certificate, &certificate).contains("no private key"));
    let (twice, long) = (folder.0.join("twice"), folder.0.join("long"));
    let good = std::fs::read_to_string(&certificate).unwrap();
    std::fs::write(&twice, format!("{good}{good}")).unwrap();
    assert!(load(&twice, &key).contains("several"));
    std::fs::write(&long, vec![b'x'; (1 << 20) + 1]).unwrap();
    assert!(load(&long, &key).contains("1048577"));
    #[cfg(unix)]
    {
        private(&key, 0o640);
        assert!(load(&certificate, &key).contains("640"));
    }

    let list = folder.0.join("pins");
    std::fs::write(&list, format!("# two clients\n{pin}\n\n {pin} # again\n")).unwrap();
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let pins = Pins::read([path(&list), path(&twice), pin.to_string()]).unwrap();
    assert_eq!(pins.iter().filter(|found| **found == pin).count(), 5);
    for (content, word) in [("", "holds no pin"), ("zz", "is no pin"), (good[..80].trim(), "PEM")] {
        std::fs::write(&list, content).unwrap();
        assert!(text(Pins::read([path(&list)]).unwrap_err()).contains(word), "{word}");
    }
    assert!(text(Pins::read(["neither"]).unwrap_err()).contains("is no pin"));
}
