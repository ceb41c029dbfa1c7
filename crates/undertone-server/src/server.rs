//! The listening loop, and one session from connection to end.

use crate::compute::Compute;
use crate::connection::{TimedConnection, send};
use crate::memory::{Budget, Reservation};
use crate::pace::Pace;
use crate::sessions::{MAX_STRANGERS, Sessions};
use crate::watch::Watch;
use crate::{Error, Host, Opening, Options};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use undertone_net::{Connection, Pin};
use undertone_protocol::message::{ErrorReport, Hello, MAX_SENTENCE, Welcome};
use undertone_protocol::{Error as ProtocolError, Message, MessageStream, Mode, Turn};

/// How long the connection that wakes the listening loop may take.
const WAKE_UP: Duration = Duration::from_millis(200);
/// How long sessions may take to end at shutdown before their connections are cut.
const GRACE: Duration = Duration::from_secs(3);
/// How long the listening loop rests when the system is short of something.
const SHORTAGE: Duration = Duration::from_millis(20);
/// How long a client may take to hear why its session has ended; its place is free already.
const LAST_WORDS: Duration = Duration::from_secs(2);

struct Shared {
    options: Options,
    host: Box<dyn Host>,
    sessions: Arc<Sessions>,
    budget: Arc<Budget>,
    compute: Compute,
    /// Plans are made one at a time, apart from the jobs: a client waits in silence for its welcome, so that it must
    /// not wait behind a step of minutes.
    planning: Compute,
    pool: rayon::ThreadPool,
    /// Decodes keys when the pool has a single thread, which a step of another session may hold for minutes.
    key_pool: Option<rayon::ThreadPool>,
    stopping: AtomicBool,
}

/// A bound server; [`Server::run`] serves until its [`Handle`] stops it.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// Stops a server and watches it, from any thread.
#[derive(Clone)]
pub struct Handle {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Server {
    /// Binds the address.
    ///
    /// # Errors
    /// `NotLoopback`, `Listen` or `Threads`.
    pub fn bind(options: Options, host: Box<dyn Host>) -> Result<Self, Error> {
        options.check()?;
        let refused = |source| Error::Listen { address: options.listen, source };
        let listener = TcpListener::bind(options.listen).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let have = options.threads.unwrap_or(0);
        let build = |name: &'static str, threads| {
            let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let named = builder.thread_name(move |index| format!("{name}-{index}"));
            named.build().map_err(|_| Error::Threads { have })
        };
        let pool = build("compute", have)?;
        let key_pool = if pool.current_num_threads() == 1 { Some(build("keys", 1)?) } else { None };
        let shared = Shared {
            sessions: Arc::new(Sessions::new(options.max_sessions)),
            budget: Arc::new(Budget::new(options.memory_bytes)),
            compute: Compute::default(),
            planning: Compute::default(),
            pool,
            key_pool,
            stopping: AtomicBool::new(false),
            options,
            host,
        };
        Ok(Self { listener, address, shared: Arc::new(shared) })
    }

    /// The bound address, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A handle to this server.
    pub fn handle(&self) -> Handle {
        Handle { address: self.address, shared: self.shared.clone() }
    }

    /// Serves until stopped, then ends every session and waits for it; what a peer does not take within some seconds
    /// is cut off.
    ///
    /// # Errors
    /// `Accept` when the listening socket fails.
    pub fn run(self) -> Result<(), Error> {
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        let result = loop {
            let accepted = self.listener.accept();
            if self.shared.stopping.load(Ordering::SeqCst) {
                break Ok(());
            }
            threads.retain(|thread| !thread.is_finished());
            match accepted {
                // Refused and ended connections occupy a thread as well, for a moment; far beyond what may be open they
                // are dropped.
                Ok(_) if threads.len() >= 2 * (self.shared.options.max_sessions + MAX_STRANGERS) + 2 => {}
                Ok((stream, _)) => {
                    let shared = self.shared.clone();
                    match std::thread::Builder::new().spawn(move || serve(&shared, stream)) {
                        Ok(thread) => threads.push(thread),
                        // The system has no thread to give; this connection is gone with the closure.
                        Err(_) => std::thread::sleep(SHORTAGE),
                    }
                }
                Err(error) if passing(&error) => std::thread::sleep(SHORTAGE),
                Err(error) => break Err(Error::Accept(error)),
            }
        };
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.sessions.disconnect(Shutdown::Read);
        let end = Instant::now() + GRACE;
        while Instant::now() < end && !threads.iter().all(JoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.shared.sessions.disconnect(Shutdown::Both);
        for thread in threads {
            // A session that panicked has freed its place already; there is nothing to add.
            let _ = thread.join();
        }
        result
    }
}

impl Handle {
    /// Sessions open now.
    pub fn session_count(&self) -> usize {
        self.shared.sessions.count()
    }

    /// Stops the server: running jobs are cancelled, sessions told and ended.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // The listening loop waits in `accept`; a connection wakes it. If none can be made, it has ended already.
        let _ = TcpStream::connect_timeout(&reachable(self.address), WAKE_UP);
    }
}

/// Where this machine reaches a listener that was bound to all of its addresses.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    address
}

/// Errors of `accept` that concern one connection or a passing shortage.
fn passing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable, OutOfMemory,
        PermissionDenied, TimedOut, WouldBlock,
    };
    // On Linux what went wrong with a connection before it was accepted is reported here. 23 and 24 (ENFILE, EMFILE): out of
    // file descriptors until a session ends; 105 (ENOBUFS): out of buffers; 71 (EPROTO), 92, 95, 64, 112: the connection's.
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | WouldBlock | TimedOut)
        || matches!(error.kind(), HostUnreachable | NetworkDown | NetworkUnreachable | OutOfMemory | PermissionDenied)
        || matches!(error.raw_os_error(), Some(23 | 24 | 64 | 71 | 92 | 95 | 105 | 112))
}

/// One connection from beginning to end.
fn serve(shared: &Shared, stream: TcpStream) {
    let options = &shared.options;
    // A peer that cannot be noted, or does not prove who it is, has no session to tell anything about.
    let Ok(place) = shared.sessions.arrive(&stream) else { return };
    if shared.stopping.load(Ordering::SeqCst) && options.tls.is_some() {
        // It may have arrived after the last look at the open connections; nobody else would end its handshake.
        return;
    }
    let Ok(connection) = Connection::accept(stream, options.tls.as_ref(), options.hello_timeout) else { return };
    let peer = connection.peer();
    let share = shared.host.share(peer).unwrap_or(options.max_sessions_per_client);
    let entered = place.enter(peer, share, shared.host.kept(peer));
    let mut stream = MessageStream::new(TimedConnection::new(connection, options));
    let ended = entered.and_then(|()| converse(shared, &mut stream, (place.number, peer)));
    if let Err(error) = &ended {
        // Free before the last words, which may take a while.
        place.leave();
        let error = if shared.stopping.load(Ordering::SeqCst) { &ProtocolError::ShuttingDown } else { error };
        stream.inner_mut().allow_write(LAST_WORDS);
        // The peer may be gone; then nobody is left to tell.
        let _ = stream.send(&Message::Error(report(error)));
    }
    stream.inner_mut().finish();
}

fn converse(
    shared: &Shared,
    stream: &mut MessageStream<TimedConnection>,
    (number, peer): (u64, Option<Pin>),
) -> Result<(), ProtocolError> {
    if shared.stopping.load(Ordering::SeqCst) {
        // This session may have entered after the last look at the open ones; nobody else would end it.
        return Err(ProtocolError::ShuttingDown);
    }
    let Message::Hello(hello) = stream.receive()? else {
        return Err(ProtocolError::OutOfTurn { message: "another", state: "waiting for hello" });
    };
    let options = &shared.options;
    let (opening, _reservation) = open(shared, &hello, number, peer)?;
    let mut session = opening.session;
    let secret = session.mode() == Mode::Deal;
    if secret {
        stream.keep_nothing();
    }
    let mut pace = Pace::new(options, opening.setup_bytes, stream.inner().waited());
    loop {
        while let Some(mut message) = session.next_message() {
            let sent = send(stream, &message, options);
            if secret {
                message.wipe();
            }
            sent?;
        }
        match session.turn() {
            Turn::Peer => {
                let due = pace.due(stream.inner().waited());
                stream.inner_mut().expect_by(due);
                let message = stream.receive()?;
                pace.received(&message, stream.inner().waited());
                if matches!(message, Message::KeyEnd(_) | Message::KeysDone) {
                    // The last part of a key has it decoded and expanded, which is parallel work.
                    let pool = shared.key_pool.as_ref().unwrap_or(&shared.pool);
                    pool.install(|| session.receive(message))?;
                } else {
                    session.receive(message)?;
                }
            }
            Turn::Work => {
                pace.complete();
                let watch = Watch::new(&shared.stopping);
                watch.run(stream, options, |watch| {
                    if session.waits() {
                        return session.work(watch);
                    }
                    let _slot = shared.compute.enter(watch)?;
                    shared.pool.install(|| session.work(watch))
                })?;
            }
            Turn::Application | Turn::Closed => return Ok(()),
        }
    }
}

fn open(
    shared: &Shared,
    hello: &Hello,
    number: u64,
    peer: Option<Pin>,
) -> Result<(Opening, Reservation), ProtocolError> {
    let (have, need) = (hello.shape.max_new_tokens, shared.options.max_new_tokens);
    if have > need {
        return Err(ProtocolError::Cap { field: "max_new_tokens", have: have.into(), need: need.into() });
    }
    let welcome = Welcome {
        session: number,
        idle_timeout_seconds: u32::try_from(shared.options.idle_timeout.as_secs()).unwrap_or(u32::MAX),
        max_sessions: u32::try_from(shared.sessions.max()).unwrap_or(u32::MAX),
    };
    let planning = shared.planning.enter(&Watch::new(&shared.stopping))?;
    let opening = shared.host.open_to(peer, hello, welcome)?;
    drop(planning);
    let reservation = shared.budget.reserve(opening.memory_bytes)?;
    Ok((opening, reservation))
}

/// What a client is told; the sentences name public things only.
fn report(error: &ProtocolError) -> ErrorReport {
    let mut sentence = error.to_string();
    let mut end = sentence.len().min(MAX_SENTENCE);
    while !sentence.is_char_boundary(end) {
        end -= 1;
    }
    sentence.truncate(end);
    ErrorReport { class: error.class(), sentence }
}
