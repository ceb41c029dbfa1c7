//! One connection to a dealer: what its party may ask, given what it asked before.

use crate::book::Book;
use crate::dealt::Dealt;
use std::sync::Arc;
use undertone_protocol::message::{Hello, Welcome};
use undertone_protocol::modes::permuted::DealServer;
use undertone_protocol::modes::permuted::deal::{Dealings, Next, Opened, Stock};
use undertone_protocol::{Error, Mode};
use undertone_server::{Host, Opening};
use undertone_shares::SessionId;
use zeroize::Zeroizing;

/// Memory that a session is counted with: bundles that wait are the book's.
const MEMORY: u64 = 64 << 20;

/// A dealer as the driver of connections sees it.
pub struct DealerHost(Arc<Book>);

impl DealerHost {
    /// A host over a book.
    pub fn new(book: Arc<Book>) -> Self {
        Self(book)
    }
}

impl Host for DealerHost {
    fn open(&self, hello: &Hello, welcome: Welcome) -> Result<Opening, Error> {
        if hello.mode != Mode::Deal {
            return Err(Error::DealRefused { cause: "this is a dealer; connect to the provider for a session" });
        }
        let desk = Desk { book: Arc::clone(&self.0), registered: false, session: None };
        let session = Box::new(DealServer::new(welcome, Box::new(desk)));
        Ok(Opening { session, memory_bytes: MEMORY, setup_bytes: 0 })
    }
}

struct Desk {
    book: Arc<Book>,
    registered: bool,
    session: Option<Arc<Dealt>>,
}

impl Dealings for Desk {
    fn register(
        &mut self,
        ticket: &[u8; 32],
        fingerprint: &[u8; 32],
        public: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, Error> {
        let seed = self.book.register(ticket, fingerprint, public)?;
        self.registered = true;
        Ok(seed)
    }

    fn pull(&mut self, session: &SessionId, step: u64) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        if !self.registered {
            return Err(Error::DealRefused { cause: "only its provider may pull; register first" });
        }
        let unknown = Error::DealRefused { cause: "it has no session of this name; begin a new one" };
        let pulled = self.book.session(session).ok_or(unknown)?.pull(step)?;
        if pulled.is_some() {
            self.book.taken();
        }
        Ok(pulled)
    }

    fn open(&mut self, model: &[u8; 32], prompt: usize, draft: usize) -> Result<Opened, Error> {
        if self.registered || self.session.is_some() {
            return Err(Error::DealRefused { cause: "a connection has one session; connect again for another" });
        }
        let dealt = self.book.open_session(model, prompt, draft)?;
        let pieces = dealt.pieces.iter().map(|&piece| piece as u32).collect();
        let session = dealt.id;
        self.session = Some(dealt);
        Ok(Opened { session, pieces })
    }

    fn next(&mut self) -> Result<Next, Error> {
        let Some(dealt) = &self.session else {
            return Err(Error::DealRefused { cause: "this connection has no session; open one first" });
        };
        let next = dealt.next()?;
        self.book.taken();
        Ok(next)
    }

    fn stock(&self) -> Stock {
        self.book.stock()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if let Some(dealt) = &self.session {
            self.book.close(dealt);
        }
    }
}
