//! The open sessions: a bounded number, in all and of each client, each with a handle to end its connection.
//!
//! A connection first arrives, which costs a thread and a handle, and enters when it is known whose it is: a peer that
//! never finishes its handshake takes no place from anybody. Of connections that have not proved whose they are there is a
//! bounded number too: one more ends the oldest of the address that has most of them.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use undertone_net::{Hangup, Pin};
use undertone_protocol::Error;

/// Most connections that have not proved whose they are.
pub(crate) const MAX_STRANGERS: usize = 32;

#[derive(Debug, Default)]
struct Live {
    /// Number of the last connection; 0 is never given, it means "no session yet" on the wire.
    last: u64,
    hangups: HashMap<u64, Hangup>,
    /// Those of them that hold a place, with the client where it is known.
    entered: HashMap<u64, Option<Pin>>,
    /// Those that have not proved whose they are, the oldest first, and where they come from.
    strangers: VecDeque<(u64, Option<IpAddr>)>,
}

impl Live {
    /// Notes a stranger; where there are too many, ends the oldest one of the address with most of them.
    fn note_stranger(&mut self, number: u64, from: Option<IpAddr>) {
        self.strangers.push_back((number, from));
        if self.strangers.len() <= MAX_STRANGERS {
            return;
        }
        let of = |address| self.strangers.iter().filter(|(_, other)| *other == address).count();
        // The last of equals is taken: where all come from different addresses, that must be the oldest.
        let most =
            self.strangers.iter().rev().map(|&(_, address)| (of(address), address)).max_by_key(|&(count, _)| count);
        let crowd = most.and_then(|(_, address)| address);
        let Some(index) = self.strangers.iter().position(|&(_, address)| address == crowd) else { return };
        if let Some((oldest, _)) = self.strangers.remove(index)
            && let Some(hangup) = self.hangups.get(&oldest)
        {
            // One that is gone already needs no ending.
            let _ = hangup.shutdown(Shutdown::Both);
        }
    }
}

/// The open sessions.
#[derive(Debug)]
pub(crate) struct Sessions {
    max: usize,
    live: Mutex<Live>,
}

/// One connection, and its place once it has one; both freed when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    sessions: Arc<Sessions>,
    pub(crate) number: u64,
}

impl Sessions {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, live: Mutex::default() }
    }

    /// Takes note of a connection, so that it can be ended.
    ///
    /// # Errors
    /// `Connection` when the stream cannot be duplicated.
    pub(crate) fn arrive(self: &Arc<Self>, stream: &TcpStream) -> Result<Place, Error> {
        let hangup = Hangup::of(stream).map_err(|error| Error::Connection { kind: error.kind() })?;
        let mut live = self.lock();
        live.last += 1;
        let number = live.last;
        live.hangups.insert(number, hangup);
        live.note_stranger(number, stream.peer_addr().ok().map(|address| address.ip()));
        Ok(Place { sessions: self.clone(), number })
    }

    /// Sessions that hold a place.
    pub(crate) fn count(&self) -> usize {
        self.lock().entered.len()
    }

    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Shuts every connection. Without its reading half a session ends, and can still write its last message.
    pub(crate) fn disconnect(&self, half: Shutdown) {
        for hangup in self.lock().hangups.values() {
            // A connection that is already gone needs no ending.
            let _ = hangup.shutdown(half);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Takes a place for this connection of `client`, which may have `share` of them and leaves the last `kept` to others.
    ///
    /// # Errors
    /// `Busy` when all other places are taken, `ClientBusy` when this client has its share.
    pub(crate) fn enter(&self, client: Option<Pin>, share: usize, kept: usize) -> Result<(), Error> {
        let mut live = self.sessions.lock();
        live.strangers.retain(|&(number, _)| number != self.number);
        let have = live.entered.len();
        if have.saturating_add(kept) >= self.sessions.max {
            return Err(Error::Busy { have });
        }
        let same = live.entered.values().filter(|other| client.is_some() && **other == client).count();
        if same >= share {
            return Err(Error::ClientBusy { have: same });
        }
        live.entered.insert(self.number, client);
        Ok(())
    }

    /// Gives the place up; the connection can still be ended until this is dropped.
    pub(crate) fn leave(&self) {
        self.sessions.lock().entered.remove(&self.number);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut live = self.sessions.lock();
        live.entered.remove(&self.number);
        live.hangups.remove(&self.number);
        live.strangers.retain(|&(number, _)| number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn a_crowd_of_strangers_makes_room_for_others() {
        let (mut live, listener) = (Live::default(), TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let mut lines = Vec::new();
        let [crowd, other] = [1, 2].map(|last| Some(IpAddr::from([10, 0, 0, last])));
        for number in 1..=3 * MAX_STRANGERS as u64 {
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            live.hangups.insert(number, Hangup::of(&stream).unwrap());
            lines.push(stream);
            live.note_stranger(number, if number == 2 { other } else { crowd });
        }
        // The one from elsewhere is still there, and so are the latest of the crowd.
        let numbers: Vec<u64> = live.strangers.iter().map(|&(number, _)| number).collect();
        let latest = 3 * MAX_STRANGERS as u64 - (MAX_STRANGERS as u64 - 2)..=3 * MAX_STRANGERS as u64;
        assert_eq!(numbers, [2].into_iter().chain(latest).collect::<Vec<_>>());
        let ended = |line: &TcpStream| std::io::Write::write(&mut &*line, &[1]).is_err();
        assert!(ended(&lines[0]) && !ended(&lines[1]) && ended(&lines[2]) && !ended(&lines[3 * MAX_STRANGERS - 1]));
    }

    #[test]
    fn the_last_places_are_for_those_for_whom_they_are_kept() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (sessions, stream) =
            (Arc::new(Sessions::new(5)), TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let enter = |kept| {
            let place = sessions.arrive(&stream).unwrap();
            place.enter(None, 9, kept).map(|()| place)
        };
        let users: Vec<_> = (0..3).map(|_| enter(2).unwrap()).collect();
        assert!(matches!(enter(2), Err(Error::Busy { have: 3 })));
        let others = [enter(0).unwrap(), enter(0).unwrap()];
        assert!(matches!(enter(0), Err(Error::Busy { have: 5 })));
        // Whoever has a kept place takes none of the others.
        drop(users);
        assert!(enter(2).is_ok());
        drop(others);
        assert!(sessions.count() == 0 && enter(4).is_ok() && enter(5).is_err());
    }

    #[test]
    fn of_strangers_from_everywhere_the_oldest_goes_and_the_newcomer_stays() {
        let mut live = Live::default();
        let newest = 2 * MAX_STRANGERS as u64;
        for number in 1..=newest {
            live.note_stranger(number, Some(IpAddr::from([10, 0, 1, number as u8])));
        }
        let numbers: Vec<u64> = live.strangers.iter().map(|&(number, _)| number).collect();
        assert_eq!(numbers, (newest - MAX_STRANGERS as u64 + 1..=newest).collect::<Vec<_>>());
    }
}
