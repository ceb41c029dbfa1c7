//! A connection of either kind, plain or under TLS, with a limit for the whole of every read and write.

use crate::socket::Socket;
use crate::{ClientTls, Error, Pin, ServerTls};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long a parting word may take: an alert, or the farewell of TLS.
const PARTING: Duration = Duration::from_secs(1);
/// Time limit of a read or a write until another is set.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

/// An open connection. TLS, where it is asked for, is agreed before the first byte of the user is accepted.
#[derive(Debug)]
pub struct Connection {
    channel: Channel,
    peer: Option<Pin>,
    read_timeout: Duration,
    write_timeout: Duration,
    /// When the last byte of the peer was read.
    heard: Instant,
}

#[derive(Debug)]
enum Channel {
    Plain(Socket),
    Tls(Box<rustls::Connection>, Socket),
}

/// Ends a connection from another thread.
#[derive(Debug)]
pub struct Hangup(TcpStream);

impl Hangup {
    /// A handle to the connection over this socket.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn of(stream: &TcpStream) -> std::io::Result<Self> {
        stream.try_clone().map(Self)
    }

    /// Shuts one half or both. Without its reading half the owner notices the end, and can still say a last word.
    ///
    /// # Errors
    /// Those of the operating system; a connection that is gone already is one.
    pub fn shutdown(&self, half: Shutdown) -> std::io::Result<()> {
        self.0.shutdown(half)
    }
}

impl Connection {
    /// A connection without TLS over an open socket; for one machine only.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn plain(stream: TcpStream) -> std::io::Result<Self> {
        Ok(Self::new(Channel::Plain(Socket::new(stream)?), None))
    }

    /// The server's side of an accepted socket; agrees on TLS within `time` where `tls` is given.
    ///
    /// # Errors
    /// `Handshake`, `WrongPin`, `Incompatible`, `NotTls` or `Damaged`; the peer has been told, as far as it listens.
    pub fn accept(stream: TcpStream, tls: Option<&ServerTls>, time: Duration) -> Result<Self, Error> {
        let failed = |error: std::io::Error| Error::Handshake { kind: error.kind() };
        let Some(tls) = tls else { return Self::plain(stream).map_err(failed) };
        let session = ServerConnection::new(tls.config.clone()).map_err(|error| Error::of_tls(&error))?;
        Self::agree(session.into(), Socket::new(stream).map_err(failed)?, time)
    }

    /// The client's side of an open socket to `address`; agrees on TLS within `time` where `tls` is given.
    ///
    /// A server that does not accept this side's certificate says so after this, at the first read.
    ///
    /// # Errors
    /// As for [`Connection::accept`].
    pub fn begin(
        stream: TcpStream,
        address: SocketAddr,
        tls: Option<&ClientTls>,
        time: Duration,
    ) -> Result<Self, Error> {
        let failed = |error: std::io::Error| Error::Handshake { kind: error.kind() };
        let Some(tls) = tls else { return Self::plain(stream).map_err(failed) };
        // The pin decides, not the name; an address as name is never sent.
        let name = ServerName::IpAddress(address.ip().into());
        let session = ClientConnection::new(tls.config.clone(), name).map_err(|error| Error::of_tls(&error))?;
        Self::agree(session.into(), Socket::new(stream).map_err(failed)?, time)
    }

    fn new(channel: Channel, peer: Option<Pin>) -> Self {
        Self { channel, peer, read_timeout: DEFAULT_TIMEOUT, write_timeout: DEFAULT_TIMEOUT, heard: Instant::now() }
    }

    fn agree(mut session: rustls::Connection, mut socket: Socket, time: Duration) -> Result<Self, Error> {
        socket.allow_read(time);
        socket.allow_write(time);
        if let Err(error) = handshake(&mut session, &mut socket) {
            part(&mut socket);
            return Err(error);
        }
        let peer = session.peer_certificates().and_then(<[_]>::first).map(Pin::of);
        // Both sides demand a certificate, so that a handshake without one has failed above.
        let peer = peer.ok_or_else(|| Error::Incompatible { cause: "the peer presents no certificate".into() })?;
        Ok(Self::new(Channel::Tls(Box::new(session), socket), Some(peer)))
    }

    /// The pin of the peer's certificate; none without TLS.
    pub fn peer(&self) -> Option<Pin> {
        self.peer
    }

    /// The longest time for the whole of a read, from now on.
    pub fn set_read_timeout(&mut self, time: Duration) {
        self.read_timeout = time;
    }

    /// The longest time for the whole of a write, from now on.
    pub fn set_write_timeout(&mut self, time: Duration) {
        self.write_timeout = time;
    }

    /// Time since a byte of the peer was read.
    pub fn silence(&self) -> Duration {
        self.heard.elapsed()
    }

    /// Whether the peer has sent something that nobody has read, or has ended the connection; takes about a millisecond.
    pub fn stirred(&mut self) -> bool {
        match &mut self.channel {
            Channel::Plain(socket) => socket.stirred(),
            Channel::Tls(session, socket) => {
                let quiet = session
                    .process_new_packets()
                    .is_ok_and(|state| state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed());
                !quiet || socket.stirred()
            }
        }
    }

    /// Says farewell, where there is TLS, and that nothing more will be written. A peer that is gone need not hear it.
    pub fn close(&mut self) {
        match &mut self.channel {
            Channel::Plain(socket) => drop(socket.shutdown(Shutdown::Write)),
            Channel::Tls(session, socket) => {
                session.send_close_notify();
                say_last(session, socket);
                drop(socket.shutdown(Shutdown::Write));
            }
        }
    }

    /// Closes, and sees to it that what was written still arrives; takes about a second at most.
    pub fn finish(&mut self) {
        self.close();
        let (Channel::Plain(socket) | Channel::Tls(_, socket)) = &mut self.channel;
        part(socket);
    }
}

impl Read for Connection {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let read = match &mut self.channel {
            Channel::Plain(socket) => {
                socket.allow_read(self.read_timeout);
                socket.read_direct(out)
            }
            Channel::Tls(session, socket) => {
                socket.allow_read(self.read_timeout);
                read_tls(session, socket, out)
            }
        };
        if let Ok(1..) = read {
            self.heard = Instant::now();
        }
        read
    }
}

impl Write for Connection {
    /// Writes some of `bytes` through to the operating system. After an error, what was taken may have left in part.
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &mut self.channel {
            Channel::Plain(socket) => {
                socket.allow_write(self.write_timeout);
                socket.write(bytes)
            }
            Channel::Tls(session, socket) => {
                socket.allow_write(self.write_timeout);
                // Taken up to the bounded buffer of the library, which is empty again afterwards.
                let taken = session.writer().write(bytes)?;
                drain(session, socket)?;
                Ok(taken)
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match &mut self.channel {
            Channel::Plain(socket) => socket.flush(),
            Channel::Tls(session, socket) => {
                socket.allow_write(self.write_timeout);
                drain(session, socket)
            }
        }
    }
}

/// Moves the messages of the handshake.
fn handshake(session: &mut rustls::Connection, socket: &mut Socket) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::Handshake { kind: error.kind() };
    while session.is_handshaking() || session.wants_write() {
        drain(session, socket).map_err(failed)?;
        if !session.is_handshaking() {
            break;
        }
        match session.read_tls(socket) {
            Ok(0) => return Err(Error::Handshake { kind: ErrorKind::UnexpectedEof }),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        }
        if let Err(error) = session.process_new_packets() {
            say_last(session, socket);
            return Err(Error::of_tls(&error));
        }
    }
    Ok(())
}

fn read_tls(session: &mut rustls::Connection, socket: &mut Socket, out: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match session.reader().read(out) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(std::io::Error::new(ErrorKind::UnexpectedEof, Error::Cut));
            }
            read => return read,
        }
        session.read_tls(socket)?;
        if let Err(error) = session.process_new_packets() {
            say_last(session, socket);
            return Err(std::io::Error::new(ErrorKind::InvalidData, Error::of_tls(&error)));
        }
    }
}

/// Writes what the library holds. An interrupted call is repeated here: the caller would repeat bytes that were taken.
fn drain(session: &mut rustls::Connection, socket: &mut Socket) -> std::io::Result<()> {
    while session.wants_write() {
        match session.write_tls(socket) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Tells the peer why this side ends; a peer that does not listen any more is not worth an error.
fn say_last(session: &mut rustls::Connection, socket: &mut Socket) {
    socket.allow_write(PARTING);
    let _ = drain(session, socket);
}

/// Closes the writing half and takes a bounded amount of input, because a socket that is closed with unread input is
/// reset, which can destroy what was just sent.
fn part(socket: &mut Socket) {
    const MOST: usize = 8 << 20;
    // A half that is closed already is as good; one whose peer has gone shows at the first read.
    let _ = socket.shutdown(Shutdown::Write);
    let mut sink = [0u8; 16 << 10];
    let mut seen = 0;
    let patience = Instant::now() + PARTING;
    while seen < MOST && Instant::now() < patience {
        socket.allow_read(Duration::from_millis(200));
        match socket.read_direct(&mut sink) {
            Ok(0) | Err(_) => break,
            Ok(len) => seen += len,
        }
    }
}
