//! Three parties on this machine, lines with faults between them, and a record of every bundle that was taken.

use std::collections::BTreeSet;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use undertone_client::permuted::{Choice, Follower, PermutedReport, Request, UserSide, compare, generate, setup};
use undertone_client::{Error as ClientError, TokenReport};
use undertone_dealer::{Book, DealerHost, Settings, StateFolder};
use undertone_model::synthetic::{small_config, synthetic};
use undertone_model::{Llama, LlamaConfig, Tokenizer};
use undertone_protocol::{Dial, Duplex};
use undertone_ring::detect_word_kernels;
use undertone_server::{DealerAccess, Handle, Host, Options, PermutedHost, Server};
use undertone_shares::{BundleStore, MemoryStore};
use zeroize::Zeroizing;

/// What to generate.
#[derive(Clone)]
pub struct Prompted {
    pub prompt: Vec<u32>,
    pub new: usize,
    pub draft: usize,
    pub strict: bool,
}

impl Prompted {
    /// Two tokens of three.
    pub fn short() -> Self {
        Self { prompt: vec![3, 1, 4], new: 2, draft: 0, strict: false }
    }

    /// The demo's prompt.
    pub fn bundled(parties: &Parties) -> Self {
        let tokenizer = Tokenizer::load(&tiny(), &parties.model.config).unwrap();
        let text = |name: &str| std::fs::read_to_string(tiny().join("prompts").join(name)).unwrap();
        let mut prompt = tokenizer.encode(&text("demo.public.txt"), true).unwrap();
        prompt.extend(tokenizer.encode(&text("demo.private.txt"), false).unwrap());
        Self { prompt, new: 8, draft: 0, strict: false }
    }
}

fn tiny() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny")
}

/// Set-ups at a time.
pub const SETUPS: usize = 2;

struct Serving {
    address: SocketAddr,
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    fn start(host: Box<dyn Host>) -> Self {
        let options = Options { max_sessions: 64, max_sessions_per_client: 64, ..Options::default() };
        let server = Server::bind(options, host).unwrap();
        let (address, handle) = (server.address(), server.handle());
        Self { address, handle, thread: Some(std::thread::spawn(move || server.run().unwrap())) }
    }

    fn stop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The three parties.
pub struct Parties {
    pub model: Llama,
    pub book: Arc<Book>,
    pub provider: Dial,
    dealer: Dial,
    ticket: [u8; 32],
    /// Where the dealer listens now, and the folder that outlives it.
    dealing: (Arc<Mutex<SocketAddr>>, std::path::PathBuf),
    serving: [Serving; 2],
    /// The seeds of all bundles that users took.
    seeds: Arc<Mutex<Vec<[u8; 32]>>>,
    side: Arc<UserSide>,
}

fn dial(address: SocketAddr) -> Dial {
    Arc::new(move || {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Box::new(stream) as Box<dyn Duplex>)
    })
}

/// The same to an address that may change.
fn dial_moving(address: &Arc<Mutex<SocketAddr>>) -> Dial {
    let address = address.clone();
    Arc::new(move || {
        let address = *address.lock().unwrap();
        dial(address)()
    })
}

impl Parties {
    /// Over a small random model.
    pub fn synthetic(settings: Settings) -> Self {
        let config = LlamaConfig { num_hidden_layers: 2, ..small_config() };
        Self::over(synthetic(LlamaConfig { eos_token_ids: Vec::new(), ..config }, 5), settings)
    }

    /// Over the bundled model.
    pub fn bundled(settings: Settings) -> Self {
        Self::over(Llama::load(&tiny()).unwrap(), settings)
    }

    fn over(model: Llama, settings: Settings) -> Self {
        // A folder of its own, because the ticket must stay the same for every request.
        static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("dealer-{}-{number}", std::process::id()));
        let folder = StateFolder::open(Some(&path)).unwrap();
        let ticket = *folder.ticket().unwrap();
        let book = Book::open(settings, folder, detect_word_kernels()).unwrap();
        let at_dealer = Serving::start(Box::new(DealerHost::new(book.clone())));
        let address = Arc::new(Mutex::new(at_dealer.address));
        let dealer = dial_moving(&address);
        let at_provider = Serving::start(Box::new(host(&model, &dealer, ticket).unwrap()));
        let provider = dial(at_provider.address);
        let side = Arc::new(setup(&provider, None, None, detect_word_kernels(), &mut |_, _| {}).unwrap());
        let seeds = Arc::default();
        let dealing = (address, path);
        Self { model, book, provider, dealer, ticket, dealing, serving: [at_dealer, at_provider], seeds, side }
    }

    /// A user's side of its own.
    pub fn side(&self) -> UserSide {
        setup(&self.provider, None, None, detect_word_kernels(), &mut |_, _| {}).unwrap()
    }

    /// What a second provider hears that shows this ticket; zeros mean the right one.
    pub fn another_provider(&self, ticket: [u8; 32]) -> std::result::Result<PermutedHost, undertone_server::Error> {
        host(&self.model, &self.dealer, if ticket == [0; 32] { self.ticket } else { ticket })
    }

    pub fn provider_handle(&self) -> Handle {
        self.serving[1].handle.clone()
    }

    /// A new process of the provider, as far as a test can have one.
    pub fn restart_provider(&mut self) {
        self.serving[1].stop();
        self.serving[1] = Serving::start(Box::new(host(&self.model, &self.dealer, self.ticket).unwrap()));
        self.provider = dial(self.serving[1].address);
    }

    /// A new process of the dealer, with its folder as it is.
    pub fn restart_dealer(&mut self) {
        // The old one holds its folder until it is gone, as a process is; another stands in for it here meanwhile.
        self.book = Book::open(Settings::default(), StateFolder::open(None).unwrap(), detect_word_kernels()).unwrap();
        self.serving[0] = Serving::start(Box::new(DealerHost::new(self.book.clone())));
        let until = Instant::now() + Duration::from_secs(10);
        let folder = loop {
            match StateFolder::open(Some(&self.dealing.1)) {
                Ok(folder) => break folder,
                Err(error) => {
                    assert!(Instant::now() < until && error.to_string().contains("another process"), "{error}")
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.book = Book::open(Settings::default(), folder, detect_word_kernels()).unwrap();
        self.serving[0] = Serving::start(Box::new(DealerHost::new(self.book.clone())));
        *self.dealing.0.lock().unwrap() = self.serving[0].address;
    }

    /// What somebody does who removes the seeds of weight masks.
    pub fn forget_seeds(&self) {
        let files = std::fs::read_dir(&self.dealing.1).unwrap().map(|entry| entry.unwrap().path());
        let seeds: Vec<_> = files.filter(|path| path.extension().is_some_and(|ending| ending == "seed")).collect();
        assert_eq!(seeds.len(), 1);
        seeds.iter().for_each(|seed| std::fs::remove_file(seed).unwrap());
    }

    /// A user's side of a provider of its own, at the same dealer.
    pub fn side_of_another_provider(&self) -> UserSide {
        let serving = Serving::start(Box::new(host(&self.model, &self.dealer, self.ticket).unwrap()));
        setup(&dial(serving.address), None, None, detect_word_kernels(), &mut |_, _| {}).unwrap()
    }

    pub fn stop_dealer(&mut self) {
        self.serving[0].stop();
    }

    /// A whole generation with the twin beside it.
    pub fn run(&self, prompted: &Prompted) -> std::result::Result<PermutedReport, ClientError> {
        self.run_with(prompted, &self.provider)
    }

    /// The same over another line to the provider.
    pub fn run_with(&self, prompted: &Prompted, provider: &Dial) -> std::result::Result<PermutedReport, ClientError> {
        self.run_as(&self.side, prompted, provider)
    }

    /// The same with another user's side.
    pub fn run_as(
        &self,
        side: &UserSide,
        prompted: &Prompted,
        provider: &Dial,
    ) -> std::result::Result<PermutedReport, ClientError> {
        let mut report = self.generated(side, prompted, provider, &mut ())?;
        compare(&mut report, &prompted.prompt, &self.model, detect_word_kernels())?;
        Ok(report)
    }

    /// A generation during which `end` is called when `token` tokens are known.
    pub fn run_until(
        &self,
        prompted: &Prompted,
        token: usize,
        end: impl FnOnce() + 'static,
    ) -> std::result::Result<PermutedReport, ClientError> {
        struct Until(usize, Option<Box<dyn FnOnce()>>);
        impl Follower for Until {
            fn token(&mut self, _: &TokenReport) {
                self.0 = self.0.saturating_sub(1);
                self.call();
            }
        }
        impl Until {
            fn call(&mut self) {
                if self.0 == 0
                    && let Some(end) = self.1.take()
                {
                    end();
                }
            }
        }
        let mut until = Until(token, Some(Box::new(end)));
        until.call();
        let prompted = Prompted { new: 6, ..prompted.clone() };
        self.generated(&self.side, &prompted, &self.provider, &mut until)
    }

    fn generated(
        &self,
        side: &UserSide,
        prompted: &Prompted,
        provider: &Dial,
        follower: &mut dyn Follower,
    ) -> std::result::Result<PermutedReport, ClientError> {
        let request = Request {
            side,
            prompt: (&prompted.prompt, 0),
            max_new_tokens: prompted.new,
            choice: Choice::Greedy,
            draft: prompted.draft,
            strict: prompted.strict,
            provider,
            dealer: &self.dealer,
            store: Box::new(Recorded { inner: MemoryStore::default(), seeds: self.seeds.clone() }),
            tokenizer: None,
            profile: "none".into(),
        };
        generate(request, follower)
    }

    /// No seed of a bundle was ever taken twice.
    pub fn assert_no_reuse(&self) {
        let seeds = self.seeds.lock().unwrap();
        assert!(seeds.len() > 3);
        assert_eq!(seeds.iter().collect::<BTreeSet<_>>().len(), seeds.len(), "a bundle was taken twice");
    }

    /// Every session at the provider ends soon.
    pub fn assert_idle(&self) {
        let until = Instant::now() + Duration::from_secs(10);
        while self.serving[1].handle.session_count() > 0 {
            assert!(Instant::now() < until, "a session stays open");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn host(model: &Llama, dealer: &Dial, ticket: [u8; 32]) -> std::result::Result<PermutedHost, undertone_server::Error> {
    let access =
        DealerAccess { dial: dealer.clone(), ticket: Arc::new(Zeroizing::new(ticket)), notice: Arc::new(|_| {}) };
    Ok(PermutedHost::new(model, None, access, None, detect_word_kernels())?.with_setups(SETUPS))
}

/// Notes the seeds of what it gives out.
struct Recorded {
    inner: MemoryStore,
    seeds: Arc<Mutex<Vec<[u8; 32]>>>,
}

impl BundleStore for Recorded {
    fn put(&mut self, step: u64, bundle: Zeroizing<Vec<u8>>) -> undertone_shares::Result<()> {
        self.inner.put(step, bundle)
    }

    fn take(&mut self, step: u64) -> undertone_shares::Result<Zeroizing<Vec<u8>>> {
        let bundle = self.inner.take(step)?;
        self.seeds.lock().unwrap().push(bundle[48..80].try_into().unwrap());
        Ok(bundle)
    }

    fn stock(&self) -> usize {
        self.inner.stock()
    }
}

/// What happens on a line, at the message of a number.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    None,
    /// Half a message is sent, then the line is gone.
    CutWrite(usize),
    /// The line is gone before a read.
    CutRead(usize),
    /// A message is sent twice.
    Repeat(usize),
    /// A message is sent after the one that follows it.
    Exchange(usize),
}

/// What a line has seen.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    pub sent: usize,
    pub read: usize,
    /// Whether the fault has happened.
    pub fired: bool,
}

/// A line that counts and fails. A message is written in one call, so calls are messages.
struct Line {
    inner: Option<Box<dyn Duplex>>,
    fault: Fault,
    seen: Arc<Mutex<Seen>>,
    held: Option<Vec<u8>>,
}

/// A line with a fault, and what it has seen.
pub fn faulty(dial: &Dial, fault: Fault) -> (Dial, Arc<Mutex<Seen>>) {
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let (inner, noted) = (dial.clone(), seen.clone());
    let line: Dial = Arc::new(move || {
        Ok(Box::new(Line { inner: Some(inner()?), fault, seen: noted.clone(), held: None }) as Box<dyn Duplex>)
    });
    (line, seen)
}

fn reset() -> Error {
    ErrorKind::ConnectionReset.into()
}

impl Read for Line {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        let mut seen = self.seen.lock().unwrap();
        let number = seen.read;
        seen.read += 1;
        if matches!(self.fault, Fault::CutRead(at) if at == number) {
            seen.fired = true;
            self.inner = None;
        }
        drop(seen);
        let inner = self.inner.as_mut().ok_or_else(reset)?;
        if let Some(held) = self.held.take() {
            // The one that should follow waits for an answer to this one, so there is nothing to exchange it with.
            inner.write_all(&held)?;
        }
        inner.read(out)
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut seen = self.seen.lock().unwrap();
        let number = seen.sent;
        seen.sent += 1;
        let at = match self.fault {
            Fault::CutWrite(at) | Fault::Repeat(at) | Fault::Exchange(at) => Some(at),
            Fault::None | Fault::CutRead(_) => None,
        };
        let due = at == Some(number);
        seen.fired |= (due && !matches!(self.fault, Fault::Exchange(_))) || self.held.is_some();
        drop(seen);
        let inner = self.inner.as_mut().ok_or_else(reset)?;
        match self.fault {
            Fault::CutWrite(_) if due => {
                inner.write_all(&bytes[..bytes.len() / 2])?;
                self.inner = None;
                return Err(reset());
            }
            Fault::Repeat(_) if due => inner.write_all(&[bytes, bytes].concat())?,
            Fault::Exchange(_) if due => self.held = Some(bytes.to_vec()),
            _ => inner.write_all(bytes)?,
        }
        if !due && let Some(held) = self.held.take() {
            inner.write_all(&held)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        self.inner.as_mut().ok_or_else(reset)?.flush()
    }
}
