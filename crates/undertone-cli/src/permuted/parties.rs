//! Provider and dealer of mode permuted in this process, joined to the user here by sockets: it shows and measures the mode,
//! and protects nothing.

use super::dial;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files::ScratchFolder;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use undertone_dealer::{Book, DealerHost, Settings, StateFolder};
use undertone_model::Llama;
use undertone_net::{Endpoint, Network};
use undertone_protocol::Dial;
use undertone_ring::detect_word_kernels;
use undertone_server::{DealerAccess, Handle, Host, Options, PermutedHost, Server};

/// Connections to each of them: the provider's and the user's.
const CONNECTIONS: usize = 16;

/// A party that serves connections on a thread of its own.
struct Party {
    address: SocketAddr,
    handle: Handle,
    thread: JoinHandle<std::result::Result<(), undertone_server::Error>>,
}

impl Party {
    fn start(host: Box<dyn Host>) -> Result<Self> {
        let options = Options { max_sessions: CONNECTIONS, max_sessions_per_client: CONNECTIONS, ..Options::default() };
        let server = Server::bind(options, host)?;
        let (address, handle) = (server.address(), server.handle());
        Ok(Self { address, handle, thread: std::thread::spawn(move || server.run()) })
    }

    fn end(self, what: &'static str) -> Result<()> {
        self.handle.stop();
        match self.thread.join() {
            Ok(ended) => Ok(ended?),
            Err(_) => Err(Error::System { what, source: std::io::Error::other("it did not end in order") }),
        }
    }
}

/// The two parties beside the user.
pub struct Parties {
    dealer: Party,
    provider: Party,
    /// The dealer's ticket and seeds must outlive single requests, not this.
    _state: ScratchFolder,
    /// Opens connections of the user to the provider, over the emulated network.
    pub to_provider: Dial,
    /// Opens connections of the user to the dealer, over the emulated network.
    pub to_dealer: Dial,
}

impl Parties {
    /// Starts both over `weights`; `tokenizer` is the file, and `network` lies between them and the user.
    ///
    /// # Errors
    /// Weights that the mode cannot hold, no randomness, no socket.
    pub fn start(
        weights: &Llama,
        tokenizer: Option<&[u8]>,
        network: Option<Network>,
        context: &Context,
    ) -> Result<Self> {
        let kernels = detect_word_kernels();
        let scratch = ScratchFolder::new(&context.cleanup, "dealer")?;
        let state = StateFolder::open(Some(scratch.path()))?;
        let ticket = Arc::new(state.ticket()?);
        let book = Book::open(Settings::default(), state, kernels.clone())?;
        let dealer = Party::start(Box::new(DealerHost::new(book)))?;
        // Both end together, so there is nothing to tell anybody about.
        let access = DealerAccess { dial: dial(dealer.address.into()), ticket, notice: Arc::new(|_| {}) };
        let host = PermutedHost::new(weights, tokenizer, access, None, kernels)?;
        let provider = Party::start(Box::new(host))?;
        let far = |address: SocketAddr| dial(Endpoint { network, ..address.into() });
        let (to_provider, to_dealer) = (far(provider.address), far(dealer.address));
        Ok(Self { dealer, provider, _state: scratch, to_provider, to_dealer })
    }

    /// Ends both and waits for them.
    ///
    /// # Errors
    /// What one of them reports.
    pub fn end(self) -> Result<()> {
        self.provider.end("the provider").and(self.dealer.end("the dealer"))
    }
}
