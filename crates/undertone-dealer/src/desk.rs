//! One connection to a dealer: what its party may ask, given what it asked before.

use crate::book::Book;
use crate::dealt::Dealt;
use std::sync::Arc;
use undertone_net::{Pin, Pins};
use undertone_protocol::message::{Hello, Welcome};
use undertone_protocol::modes::permuted::DealServer;
use undertone_protocol::modes::permuted::deal::{Dealings, Next, Opened, SessionCounts, Stock};
use undertone_protocol::{Error, Mode};
use undertone_server::{Host, Opening};
use undertone_shares::SessionId;
use zeroize::Zeroizing;

/// Memory that a session is counted with: bundles that wait are the book's.
const MEMORY: u64 = 64 << 20;

/// A dealer as the driver of connections sees it.
pub struct DealerHost {
    book: Arc<Book>,
    /// Who is the provider under TLS, how many connections it may have, and how many users leave to it; everybody else is a
    /// user.
    providers: Option<(Pins, usize, usize)>,
}

impl DealerHost {
    /// A host over a book, which knows the provider by its ticket alone: for one machine.
    pub fn new(book: Arc<Book>) -> Self {
        Self { book, providers: None }
    }

    /// The same where parties are told apart by their certificates: those of `providers` are the provider's, who may have
    /// `share` connections, and nobody else's; users leave the last `kept` places to it. A provider is no user.
    #[must_use]
    pub fn with_providers(self, providers: Pins, share: usize, kept: usize) -> Self {
        Self { providers: Some((providers, share, kept)), ..self }
    }

    fn role(&self, client: Option<Pin>) -> Role {
        match (&self.providers, client) {
            (Some((providers, ..)), Some(pin)) if providers.contain(&pin) => Role::Provider,
            (Some(_), _) => Role::User,
            (None, _) => Role::Either,
        }
    }
}

impl Host for DealerHost {
    fn open(&self, hello: &Hello, welcome: Welcome) -> Result<Opening, Error> {
        self.open_to(None, hello, welcome)
    }

    fn open_to(&self, client: Option<Pin>, hello: &Hello, welcome: Welcome) -> Result<Opening, Error> {
        if hello.mode != Mode::Deal {
            return Err(Error::DealRefused { cause: "this is a dealer; connect to the provider for a session" });
        }
        let role = self.role(client);
        let desk = Desk { book: Arc::clone(&self.book), role, registered: false, session: None };
        let session = Box::new(DealServer::new(welcome, Box::new(desk)));
        Ok(Opening { session, memory_bytes: MEMORY, setup_bytes: 0 })
    }

    fn share(&self, client: Option<Pin>) -> Option<usize> {
        let (_, share, _) = self.providers.as_ref()?;
        (self.role(client) == Role::Provider).then_some(*share)
    }

    fn kept(&self, client: Option<Pin>) -> usize {
        match &self.providers {
            Some((_, _, kept)) if self.role(client) == Role::User => *kept,
            _ => 0,
        }
    }
}

/// What a party may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Provider,
    User,
    /// There are no certificates to tell by.
    Either,
}

struct Desk {
    book: Arc<Book>,
    role: Role,
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
        if self.role == Role::User {
            return Err(Error::DealRefused {
                cause: "its provider has another certificate; pin it with --provider-pin",
            });
        }
        let seed = self.book.register(ticket, fingerprint, public)?;
        self.registered = true;
        Ok(seed)
    }

    fn pull(&mut self, session: &SessionId, step: u64) -> Result<Next, Error> {
        if !self.registered {
            return Err(Error::DealRefused { cause: "only its provider may pull; register first" });
        }
        let unknown = Error::DealRefused { cause: "it has no session of this name; begin a new one" };
        let pulled = self.book.session(session).ok_or(unknown)?.pull(step)?;
        if matches!(pulled, Next::Bundle(_)) {
            self.book.taken();
        }
        Ok(pulled)
    }

    fn open(&mut self, model: &[u8; 32], counts: &SessionCounts, strict: bool) -> Result<Opened, Error> {
        if self.role == Role::Provider {
            return Err(Error::DealRefused {
                cause: "this certificate is its provider's; a user needs one of its own",
            });
        }
        if self.registered || self.session.is_some() {
            return Err(Error::DealRefused { cause: "a connection has one session; connect again for another" });
        }
        let dealt = self.book.open_session(model, counts, strict)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Settings, StateFolder};
    use undertone_protocol::message::WireShape;
    use undertone_protocol::modes::permuted::deal::DealRequest;
    use undertone_protocol::{Message, Session};
    use undertone_ring::scalar_word_kernels;

    /// What a party with this certificate hears when it asks this.
    fn heard(host: &DealerHost, client: Option<Pin>, request: DealRequest) -> String {
        let shape = WireShape { public_tokens: 0, private_tokens: 1, max_new_tokens: 1 };
        let hello = Hello::new(Mode::Deal, [0; 32], [0; 32], [0; 32], shape);
        let welcome = Welcome { session: 1, idle_timeout_seconds: 1, max_sessions: 1 };
        let mut session: Box<dyn Session> = host.open_to(client, &hello, welcome).unwrap().session;
        session.receive(Message::DealRequest(request)).unwrap();
        if matches!(request, DealRequest::Register { .. }) {
            session.receive(Message::Chunk(vec![0])).unwrap();
        }
        session.work(&()).unwrap_err().to_string()
    }

    #[test]
    fn a_user_cannot_pose_as_the_provider_nor_the_provider_as_a_user() {
        let book = Book::open(Settings::default(), StateFolder::open(None).unwrap(), scalar_word_kernels()).unwrap();
        let pin = |byte: u8| -> Pin { format!("{byte:02x}").repeat(32).parse().unwrap() };
        let host = DealerHost::new(Arc::clone(&book)).with_providers(Pins::from(pin(1)), 9, 4);
        let register = DealRequest::Register { ticket: [0; 32], fingerprint: [0; 32], public_len: 1 };
        let pull = DealRequest::Pull { session: [0; 16], step: 0 };
        let counts = SessionCounts { prompt: 1, max_new_tokens: 1, draft: 0 };
        let open = DealRequest::Open { model: [0; 32], counts, strict: false };
        for user in [Some(pin(2)), None] {
            assert!(heard(&host, user, register).contains("another certificate"));
            assert!(heard(&host, user, pull).contains("only its provider"));
            assert!(heard(&host, user, open).contains("no provider has come yet"));
            assert_eq!((host.share(user), host.kept(user)), (None, 4));
        }
        // The certificate is the right one, and the ticket is still asked for.
        assert!(heard(&host, Some(pin(1)), register).contains("ticket"));
        assert!(heard(&host, Some(pin(1)), open).contains("a user needs one of its own"));
        assert_eq!((host.share(Some(pin(1))), host.kept(Some(pin(1)))), (Some(9), 0));
        // On one machine there are no certificates, and the ticket decides.
        let host = DealerHost::new(book);
        assert_eq!(host.kept(None), 0);
        assert!(heard(&host, None, register).contains("ticket"));
        assert!(heard(&host, None, open).contains("no provider has come yet"));
    }
}
