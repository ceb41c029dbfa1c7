//! A network on one machine: makes a connection as slow as one of four named profiles.
//!
//! A link carries bytes one after the other at its bandwidth and delivers them after its delay, in order and unchanged;
//! the two directions are independent. Bytes on the way are bounded by what the link holds at once plus [`QUEUE`], so
//! that a receiver that does not read stops the sender, as on a real path. The link sits below TLS, between two
//! sockets of this machine, so that timeouts, looks and ends behave as they do without it.
//! Absent on purpose: loss, jitter, reordering and congestion control, which TCP turns into delay and bandwidth.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that wait for a link beside those on the way.
const QUEUE: usize = 1 << 20;
/// Most bytes carried at a time; fewer on slow links.
const MAX_PIECE: usize = 256 << 10;
/// The longest that one piece occupies a link, so that bandwidth is even down to this.
const PIECE_TIME: Duration = Duration::from_millis(1);

/// What connects the two programs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Network {
    /// The name of the profile.
    pub name: &'static str,
    /// How long a byte is on the way, in one direction.
    pub delay: Duration,
    /// Bits a second, in each direction.
    pub bits_per_second: u64,
}

impl Network {
    /// The profiles, from the fastest to the slowest: machines of one rack, of one city, of one city over an ordinary
    /// line, and of two continents.
    pub const PROFILES: [Self; 4] = [
        Self::profile("lan", 200, 10_000),
        Self::profile("metro", 10_000, 1_000),
        Self::profile("metro-100", 10_000, 100),
        Self::profile("wan", 80_000, 100),
    ];

    const fn profile(name: &'static str, round_trip_us: u64, megabits_per_second: u64) -> Self {
        let delay = Duration::from_micros(round_trip_us / 2);
        Self { name, delay, bits_per_second: megabits_per_second * 1_000_000 }
    }

    /// The shortest time from a byte to its answer, by which profiles are known.
    pub fn round_trip(&self) -> Duration {
        2 * self.delay
    }

    /// The profile of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::PROFILES.into_iter().find(|profile| profile.name == name)
    }

    /// Puts this network between `far` and the socket that is returned. It ends when either side does.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn before(self, far: TcpStream) -> std::io::Result<TcpStream> {
        let (near, inside) = socket_pair()?;
        for socket in [&near, &inside, &far] {
            socket.set_nodelay(true)?;
        }
        self.carry(inside.try_clone()?, far.try_clone()?)?;
        self.carry(far, inside)?;
        Ok(near)
    }

    /// Carries one direction in two threads of its own.
    fn carry(self, from: TcpStream, to: TcpStream) -> std::io::Result<()> {
        let link = Arc::new(Link::new(self));
        let (entry, exit) = (link.clone(), link);
        let ended = from.try_clone()?;
        let spawn = |name: &str| std::thread::Builder::new().name(format!("network-{name}"));
        spawn("entry").spawn(move || entry.take_from(from))?;
        spawn("exit").spawn(move || exit.give_to(to, &ended))?;
        Ok(())
    }

    fn time_of(&self, len: usize) -> Duration {
        Duration::from_secs_f64(len as f64 * 8.0 / self.bits_per_second as f64)
    }

    fn bytes_in(&self, time: Duration) -> usize {
        (self.bits_per_second as f64 / 8.0 * time.as_secs_f64()) as usize
    }
}

/// One direction.
struct Link {
    network: Network,
    piece: usize,
    capacity: usize,
    state: Mutex<Way>,
    changed: Condvar,
}

struct Way {
    /// Pieces with the instant at which they arrive; an empty one is the end.
    pieces: VecDeque<(Instant, Vec<u8>)>,
    /// Bytes in `pieces`.
    len: usize,
    /// When the link has carried what was put on it.
    free: Instant,
    /// Whether nobody takes pieces any more.
    closed: bool,
}

impl Link {
    fn new(network: Network) -> Self {
        let way = Way { pieces: VecDeque::new(), len: 0, free: Instant::now(), closed: false };
        Self {
            network,
            piece: network.bytes_in(PIECE_TIME).clamp(1, MAX_PIECE),
            capacity: network.bytes_in(network.delay) + QUEUE,
            state: Mutex::new(way),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Way> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready` says so.
    fn wait(&self, ready: impl Fn(&Way) -> bool) -> MutexGuard<'_, Way> {
        let blocked = |way: &mut Way| !ready(way);
        self.changed.wait_while(self.lock(), blocked).unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts bytes on the link until the sender ends, fails, or nobody takes them.
    fn take_from(&self, mut from: TcpStream) {
        let mut buffer = vec![0; self.piece];
        loop {
            // Room first: what is not read yet stays in the sender's socket, which stops the sender in turn.
            if self.wait(|way| way.closed || way.len < self.capacity).closed {
                return;
            }
            let len = match from.read(&mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                read => read.unwrap_or(0),
            };
            let mut way = self.lock();
            way.free = way.free.max(Instant::now()) + self.network.time_of(len);
            let arrival = way.free + self.network.delay;
            way.pieces.push_back((arrival, buffer[..len].to_vec()));
            way.len += len;
            self.changed.notify_all();
            if len == 0 {
                return;
            }
        }
    }

    /// Delivers each piece when it arrives.
    fn give_to(&self, mut to: TcpStream, from: &TcpStream) {
        loop {
            let (arrival, piece) = {
                let mut way = self.wait(|way| !way.pieces.is_empty());
                let Some((arrival, piece)) = way.pieces.pop_front() else { continue };
                (arrival, piece)
            };
            std::thread::sleep(arrival.saturating_duration_since(Instant::now()));
            if piece.is_empty() {
                // The end travels as far as the bytes before it.
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            let given = to.write_all(&piece);
            let mut way = self.lock();
            way.len -= piece.len();
            way.closed = given.is_err();
            self.changed.notify_all();
            if way.closed {
                // The sender hears of it as of any connection that fails.
                let _ = from.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

/// Two sockets of this machine that are connected with each other.
fn socket_pair() -> std::io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let own = near.local_addr()?;
    loop {
        // Whoever else connects to the port in between is not ours.
        let (inside, peer) = listener.accept()?;
        if peer == own {
            return Ok((near, inside));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_found_by_name_and_differ() {
        for profile in Network::PROFILES {
            assert_eq!(Network::named(profile.name), Some(profile));
        }
        assert_eq!(Network::named("moon"), None);
        let wan = Network::named("wan").unwrap();
        assert_eq!((wan.round_trip(), wan.bits_per_second), (Duration::from_millis(80), 100_000_000));
        // One second of the slowest line, and what it holds: 40 ms at 12.5 MB a second.
        assert_eq!(wan.time_of(12_500_000), Duration::from_secs(1));
        assert_eq!(wan.bytes_in(wan.delay), 500_000);
    }
}
