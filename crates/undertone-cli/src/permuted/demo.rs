//! `undertone demo --mode permuted`: provider, dealer and user in this process, joined by sockets.

use super::report::{Streaming, disagreement, print};
use super::{check_draft, dial};
use crate::bundled;
use crate::context::Context;
use crate::demo::DemoArguments;
use crate::error::{Error, Result};
use crate::files::ScratchFolder;
use crate::memory::peak_rss_bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use undertone_client::Prompt;
use undertone_client::permuted::{Choice, Request, compare, generate, setup};
use undertone_dealer::{Book, DealerHost, Settings, StateFolder};
use undertone_model::{Llama, Tokenizer};
use undertone_net::Endpoint;
use undertone_protocol::Dial;
use undertone_ring::detect_word_kernels;
use undertone_server::{DealerAccess, Handle, Host, Options, PermutedHost, Server};
use undertone_shares::MemoryStore;
use zeroize::Zeroizing;

/// Connections to the dealer: the provider's and the user's.
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

/// Runs the verb.
///
/// # Errors
/// Whatever the run gives rise to, and `Disagreement`, after the report, for a token that differs from the clear twin's.
pub fn demo(arguments: &DemoArguments, context: &Context) -> Result<()> {
    check_draft(arguments.draft)?;
    context.progress.begin("setting up", 1);
    let folder = bundled::unpack(&context.cleanup)?;
    let weights = Llama::load(folder.path())?;
    let tokenizer = Tokenizer::load(folder.path(), &weights.config)?;
    let file = std::fs::read(folder.path().join("tokenizer.json")).ok();
    let prompt = Prompt::tokenize_with(&tokenizer, bundled::PUBLIC_TEXT, bundled::PRIVATE_TEXT)?;
    let ids: Zeroizing<Vec<u32>> = Zeroizing::new(prompt.public.iter().chain(&*prompt.private).copied().collect());
    let kernels = detect_word_kernels();

    // The dealer's ticket and seeds must outlive single requests, not the demo.
    let scratch = ScratchFolder::new(&context.cleanup, "dealer")?;
    let state = StateFolder::open(Some(scratch.path()))?;
    let ticket = Arc::new(state.ticket()?);
    let book = Book::open(Settings::default(), state, kernels.clone())?;
    let dealer = Party::start(Box::new(DealerHost::new(book)))?;
    let near = |address: SocketAddr| -> Dial { dial(address.into()) };
    let access = DealerAccess { dial: near(dealer.address), ticket };
    let host = PermutedHost::new(&weights, file.as_deref(), access, None, kernels.clone())?;
    let provider = Party::start(Box::new(host))?;

    let network = arguments.network;
    let far = |address: SocketAddr| dial(Endpoint { network, ..address.into() });
    let (to_provider, to_dealer) = (far(provider.address), far(dealer.address));
    let side = setup(&to_provider, None, file.as_deref(), kernels.clone(), &mut |_, _| {})?;
    let request = Request {
        side: &side,
        prompt: (&ids, prompt.public.len()),
        max_new_tokens: arguments.max_new_tokens,
        choice: Choice::Greedy,
        draft: arguments.draft,
        strict: arguments.strict,
        provider: &to_provider,
        dealer: &to_dealer,
        store: Box::new(MemoryStore::default()),
        tokenizer: Some(&tokenizer),
        profile: network.map_or("none", |network| network.name).to_owned(),
    };
    let conversation = context.cleanup.conversing();
    let report = generate(request, &mut Streaming::new(context, arguments.max_new_tokens));
    drop(conversation);
    let ended = provider.end("the provider").and(dealer.end("the dealer"));
    let mut report = report?;
    ended?;
    compare(&mut report, &ids, &weights, kernels)?;
    print(context, &mut report, peak_rss_bytes())?;
    match disagreement(&report) {
        // Only the bundled prompt is run here, so that its tokens may be named.
        Some((number, token)) => Err(Error::Disagreement {
            number,
            count: report.run.tokens.len(),
            have: token.id,
            need: token.clear_id.unwrap_or(token.id),
        }),
        None => Ok(()),
    }
}
