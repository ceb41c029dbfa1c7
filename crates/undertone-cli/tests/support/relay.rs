//! Relays between processes: they pass whole messages on, count them, kill a process at one, and note bundles.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Child;
use std::sync::{Arc, Mutex};
use undertone_protocol::MessageType;
use undertone_protocol::frame::{FrameHeader, HEADER_LEN};

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    User,
    Dealer,
    Provider,
}

/// Party, session and step of a bundle.
type Name = (u8, [u8; 16], [u8; 8]);

#[derive(Default)]
struct Seen {
    messages: usize,
    /// The number of a message, and who is killed at it.
    due: Option<(usize, Arc<Mutex<Child>>)>,
    /// Seeds of the bundles that passed.
    bundles: BTreeMap<Name, Vec<[u8; 32]>>,
}

impl Seen {
    fn message(&mut self, header: &FrameHeader, payload: &[u8]) {
        if self.due.as_ref().is_some_and(|(number, _)| *number == self.messages)
            && let Some((_, victim)) = self.due.take()
        {
            victim.lock().unwrap().kill().unwrap();
        }
        self.messages += 1;
        // The first chunk of a bundle begins with its magic.
        if header.message_type == MessageType::Chunk && payload.len() >= 80 && payload.starts_with(b"UTB\x01") {
            let name = (payload[5], payload[8..24].try_into().unwrap(), payload[24..32].try_into().unwrap());
            self.bundles.entry(name).or_default().push(payload[48..80].try_into().unwrap());
        }
    }
}

/// A relay in front of one party.
pub struct Relay {
    pub address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
}

impl Relay {
    fn start(seen: &Arc<Mutex<Seen>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let target: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
        let (led, seen) = (target.clone(), seen.clone());
        // It ends with the test program.
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let led = *led.lock().unwrap();
                // A party that is gone: the connection ends at once.
                let Some(Ok(far)) = led.map(TcpStream::connect) else { continue };
                for stream in [&near, &far] {
                    stream.set_nodelay(true).unwrap();
                }
                for (from, to) in [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))] {
                    let (from, to, seen) = (from.unwrap(), to.unwrap(), seen.clone());
                    std::thread::spawn(move || carry(from, to, &seen));
                }
            }
        });
        Self { address, target }
    }

    /// Connections go there from now on.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = Some(target);
    }
}

/// Passes messages on until one side ends.
fn carry(mut from: TcpStream, mut to: TcpStream, seen: &Mutex<Seen>) {
    let mut head = [0; HEADER_LEN];
    while from.read_exact(&mut head).is_ok() {
        let header = FrameHeader::decode(&head).unwrap();
        let mut message = vec![0; HEADER_LEN + header.len];
        message[..HEADER_LEN].copy_from_slice(&head);
        if from.read_exact(&mut message[HEADER_LEN..]).is_err() {
            break;
        }
        seen.lock().unwrap().message(&header, &message[HEADER_LEN..]);
        if to.write_all(&message).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

/// The relays in front of dealer and provider.
pub struct Relays {
    pub dealer: Relay,
    pub provider: Relay,
    seen: Arc<Mutex<Seen>>,
}

impl Relays {
    pub fn new() -> Self {
        let seen = Arc::default();
        Self { dealer: Relay::start(&seen), provider: Relay::start(&seen), seen }
    }

    /// Kills a process when the message of this number, from now on, passes.
    pub fn arm(&self, number: usize, victim: Arc<Mutex<Child>>) {
        let mut seen = self.seen.lock().unwrap();
        seen.messages = 0;
        seen.due = Some((number, victim));
    }

    /// Whether it was killed; nobody is from now on.
    pub fn disarm(&self) -> bool {
        self.seen.lock().unwrap().due.take().is_none()
    }

    pub fn count_anew(&self) {
        self.seen.lock().unwrap().messages = 0;
    }

    pub fn counted(&self) -> usize {
        self.seen.lock().unwrap().messages
    }

    /// No bundle passed twice, and no two had the same seed.
    pub fn assert_no_reuse(&self) {
        let seen = self.seen.lock().unwrap();
        assert!(seen.bundles.len() > 3 && seen.bundles.keys().any(|name| name.0 == 1));
        let mut seeds: Vec<&[u8; 32]> = seen.bundles.values().flatten().collect();
        assert_eq!(seeds.len(), seen.bundles.len(), "a bundle was handed out twice");
        seeds.sort();
        seeds.dedup();
        assert_eq!(seeds.len(), seen.bundles.len(), "two bundles have one seed");
    }
}
