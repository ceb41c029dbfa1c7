//! One generation in mode `permuted`, from token ids to token ids.
//!
//! The prompt goes in pieces that were dealt before it was known, filler first where it is shorter; only the last piece
//! has an output. Then every step is one token, or one token and the drafted ones after it.

use super::draft::{agreeing, guesses};
use super::pump::Pump;
use super::report::{PermutedReport, StepReport};
use super::setup::{UserSide, dialled};
use super::supply::{Steps, Supply};
use crate::{Error, RunReport, TokenReport};
use std::time::{Duration, Instant};
use undertone_model::tokenizer::DecodeStream;
use undertone_model::{Sampler, Tokenizer};
use undertone_protocol::Dial;
use undertone_protocol::message::WireShape;
use undertone_protocol::modes::permuted::deal::{Opened, SessionCounts};
use undertone_protocol::modes::permuted::{Client, DealLink, leakage};
use undertone_shares::{
    Bundle, BundleStore, Placement, Prepared, ProviderBundle, Shape, Step, User, UserBundle, greedy_place,
};
use zeroize::Zeroizing;

/// How a token is chosen from logits in an order that nobody here knows.
pub enum Choice {
    /// The largest.
    Greedy,
    /// By draws.
    Sampled(Sampler),
}

/// Follows a generation, and may stop it between two steps.
pub trait Follower {
    /// `done` of `total` tokens of the prompt are in the caches.
    fn prompt(&mut self, done: usize, total: usize) {
        let _ = (done, total);
    }

    /// A token is known.
    fn token(&mut self, token: &TokenReport) {
        let _ = token;
    }

    /// A step is over.
    fn step(&mut self, step: &StepReport) {
        let _ = step;
    }

    /// Whether to stop.
    fn stopped(&self) -> bool {
        false
    }
}

/// Follows nothing.
impl Follower for () {}

/// What to generate, and with whom.
pub struct Request<'a> {
    /// The user's side of the model.
    pub side: &'a UserSide,
    /// The prompt, BOS included, and how many of its tokens are of the public text: all of them are hidden alike.
    pub prompt: (&'a [u32], usize),
    /// Most tokens to generate.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub choice: Choice,
    /// Tokens drafted in every step; only with greedy choice.
    pub draft: usize,
    /// Whether nonlinear steps are evaluated on shares; only with greedy choice.
    pub strict: bool,
    /// Opens connections to the provider.
    pub provider: &'a Dial,
    /// Opens connections to the dealer.
    pub dealer: &'a Dial,
    /// Where bundles wait for their use.
    pub store: Box<dyn BundleStore>,
    /// Turns tokens into text.
    pub tokenizer: Option<&'a Tokenizer>,
    /// The name of the emulated network, for the report.
    pub profile: String,
}

/// Runs a request to its end.
///
/// # Errors
/// Prompts that do not fit, a provider or a dealer that is gone or refuses, a dealer whose stock is exhausted.
pub fn generate(request: Request<'_>, follower: &mut dyn Follower) -> Result<PermutedReport, Error> {
    let started = Instant::now();
    let (mut generation, opened) = Generation::open(&request)?;
    let setup_seconds = started.elapsed().as_secs_f64();
    let Request { prompt: (prompt, public_tokens), choice, store, tokenizer, .. } = request;
    generation.choice = choice;
    let link = generation.link.take().ok_or(Error::Stopped)?;
    let places = Places::new(&opened, prompt.len());
    let steps = Steps { pieces: places.pieces.clone(), draft: generation.draft, strict: generation.strict };
    let mut supply = Supply::start(link, store, generation.side.model.clone(), steps);
    if generation.draft == 0 {
        supply.prepare_ahead(places.clone());
    }
    generation.decoder = tokenizer.map(|tokenizer| tokenizer.decode_stream());
    let spoken = generation.converse(&supply, places, prompt, follower);
    // The provider hears the same goodbye whether or not the tokens could be read.
    generation.pump.part();
    spoken?;
    Ok(generation.report(public_tokens, prompt.len() - public_tokens, setup_seconds, request.profile))
}

/// First position and placement of every step, where nothing is drafted.
#[derive(Clone)]
struct Places {
    /// Tokens of the pieces of the prompt.
    pieces: Vec<usize>,
    filler: usize,
    next: usize,
    first: usize,
    kept: usize,
}

impl Places {
    fn new(opened: &Opened, prompt: usize) -> Self {
        let pieces: Vec<usize> = opened.pieces.iter().map(|&piece| piece as usize).collect();
        let filler = pieces.iter().sum::<usize>() - prompt;
        Self { pieces, filler, next: 0, first: 0, kept: 0 }
    }
}

impl Iterator for Places {
    type Item = (usize, Placement);

    fn next(&mut self) -> Option<Self::Item> {
        let tokens = self.pieces.get(self.next).copied().unwrap_or(1);
        let skipped = self.filler.min(tokens);
        let place = (self.first, Placement { kept: self.kept, skipped });
        self.filler -= skipped;
        self.first += tokens - skipped;
        self.kept = tokens;
        self.next += 1;
        Some(place)
    }
}

struct Generation<'a> {
    side: &'a UserSide,
    shape: Shape,
    pump: Pump,
    link: Option<DealLink<Box<dyn undertone_protocol::Duplex>>>,
    choice: Choice,
    draft: usize,
    strict: bool,
    max_new_tokens: usize,
    decoder: Option<DecodeStream<'a>>,
    tokens: Vec<TokenReport>,
    steps: Vec<StepReport>,
    offline_bytes: u64,
    /// Time that a step waited for its bundle and preparation.
    waited: Duration,
    since: Instant,
}

impl<'a> Generation<'a> {
    /// Checks the request, and opens the sessions with dealer and provider.
    fn open(request: &Request<'a>) -> Result<(Self, Opened), Error> {
        let (prompt, public_tokens) = request.prompt;
        let config = &request.side.model.public().config;
        check(request, prompt.len(), config.max_position_embeddings)?;
        let mut link = DealLink::open(dialled(request.dealer)?)?;
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let counts = SessionCounts {
            prompt: number(prompt.len()),
            max_new_tokens: number(request.max_new_tokens),
            draft: number(request.draft),
        };
        let opened = link.session(request.side.masked_digest, counts, request.strict)?;
        let room: usize = opened.pieces.iter().map(|&piece| piece as usize).sum();
        if room < prompt.len() {
            let (have, need) = (room as u64, prompt.len() as u64);
            return Err(undertone_protocol::Error::Unexpected { field: "tokens of the pieces", have, need }.into());
        }
        // The provider holds every step to these rows: of the prompt with its filler, of drafted tokens, of new ones.
        let after = request.max_new_tokens - 1;
        let rows = room.saturating_add(after.saturating_mul(request.draft));
        let shape = WireShape {
            public_tokens: 0,
            private_tokens: number(rows.min(config.max_position_embeddings - after)),
            max_new_tokens: number(request.max_new_tokens),
        };
        shape.check_for(undertone_protocol::Mode::Permuted)?;
        debug_assert!(public_tokens <= prompt.len());
        let dimensions = request.side.model.public().shape();
        let user = User::new(request.side.model.clone()).with_strict(request.strict);
        let client = Client::new(request.side.digests.hello(shape, request.strict), dimensions, user);
        let mut pump = Pump::new(client, dialled(request.provider)?);
        pump.run()?;
        let generation = Self {
            side: request.side,
            shape: dimensions,
            pump,
            link: Some(link),
            choice: Choice::Greedy,
            draft: request.draft,
            strict: request.strict,
            max_new_tokens: request.max_new_tokens,
            decoder: None,
            tokens: Vec::new(),
            steps: Vec::new(),
            offline_bytes: 0,
            waited: Duration::ZERO,
            since: Instant::now(),
        };
        Ok((generation, opened))
    }

    /// The exchange of steps, to the last token or the first error.
    fn converse(
        &mut self,
        supply: &Supply,
        mut places: Places,
        prompt: &[u32],
        follower: &mut dyn Follower,
    ) -> Result<(), Error> {
        self.since = Instant::now();
        // Room for all that can come, because a list that grows leaves copies of its beginning behind.
        let mut all = Zeroizing::new(Vec::with_capacity(prompt.len() + self.max_new_tokens + self.draft + 1));
        all.extend_from_slice(prompt);
        let pieces = places.pieces.clone();
        let mut taken = 0;
        for (number, &rows) in pieces.iter().enumerate() {
            let (first, placement) = places.next().ok_or(Error::Stopped)?;
            let real = rows - placement.skipped;
            let mut tokens = Zeroizing::new(vec![0; placement.skipped]);
            tokens.extend_from_slice(&prompt[taken..taken + real]);
            taken += real;
            let last = number + 1 == pieces.len();
            let due = usize::from(last);
            let chosen = self.step(supply, number as u64, (first, placement), (&tokens, due), follower)?;
            follower.prompt(taken, prompt.len());
            if last && self.emit(&chosen, &mut all, follower)? {
                return Ok(());
            }
        }
        let (mut live, mut kept) = (prompt.len(), pieces.last().copied().unwrap_or(0));
        for number in pieces.len() as u64.. {
            let last = all[all.len() - 1];
            let mut tokens = Zeroizing::new(vec![last]);
            tokens.extend(guesses(&all, self.draft));
            let place = (live, Placement { kept, skipped: 0 });
            let chosen = self.step(supply, number, place, (&tokens, tokens.len()), follower)?;
            kept = 1 + agreeing(&tokens[1..], &chosen);
            live += kept;
            if self.emit(&chosen[..kept], &mut all, follower)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// One step: its tokens in, the chosen tokens of its outputs out, as many as are due.
    fn step(
        &mut self,
        supply: &Supply,
        number: u64,
        (first, placement): (usize, Placement),
        (tokens, due): (&[u32], usize),
        follower: &mut dyn Follower,
    ) -> Result<Zeroizing<Vec<u32>>, Error> {
        if follower.stopped() {
            return Err(Error::Stopped);
        }
        let (started, computed) = (Instant::now(), self.pump.computing);
        let prepared = if self.draft == 0 { supply.next()? } else { supply.take(number, first, placement)? };
        self.waited += started.elapsed();
        let step = prepared.step();
        // The dealer says how many outputs a bundle serves; what follows relies on it.
        if step.outputs != due {
            let (have, need) = (step.outputs as u64, due as u64);
            return Err(undertone_protocol::Error::Unexpected { field: "outputs of a dealt step", have, need }.into());
        }
        self.count_offline(&step);
        let chosen = self.exchange(prepared, tokens)?;
        let report = StepReport {
            rows: tokens.len(),
            tokens: chosen.len(),
            seconds: started.elapsed().as_secs_f64(),
            user_seconds: (self.pump.computing - computed).as_secs_f64(),
            stock: supply.stock(),
        };
        self.steps.push(report);
        follower.step(&report);
        Ok(chosen)
    }

    fn exchange(&mut self, prepared: Prepared, tokens: &[u32]) -> Result<Zeroizing<Vec<u32>>, Error> {
        let started = Instant::now();
        self.pump.client.begin(prepared)?;
        self.pump.client.tokens(tokens)?;
        self.pump.computing += started.elapsed();
        self.pump.run()?;
        if let Some((logits, bits)) = self.pump.client.logits() {
            let places: Vec<usize> = choose(&mut self.choice, logits, bits, self.shape.vocab)?;
            self.pump.client.select(&places)?;
            self.pump.run()?;
        }
        Ok(self.pump.client.take_tokens().unwrap_or_default())
    }

    fn count_offline(&mut self, step: &Step) {
        let bytes = UserBundle::size_bytes(&self.shape, step) + ProviderBundle::size_bytes(&self.shape, step);
        self.offline_bytes += bytes as u64;
    }

    /// Hands tokens out; whether the generation is over with them.
    fn emit(
        &mut self,
        chosen: &[u32],
        all: &mut Zeroizing<Vec<u32>>,
        follower: &mut dyn Follower,
    ) -> Result<bool, Error> {
        let seconds = self.since.elapsed().as_secs_f64() / chosen.len().max(1) as f64;
        self.since = Instant::now();
        for &id in chosen {
            let ends = self.side.model.public().config.eos_token_ids.contains(&id);
            let ended = ends || self.tokens.len() + 1 == self.max_new_tokens;
            let text = self.detokenize(id, ended)?;
            let token = TokenReport { id, text, seconds, ..TokenReport::default() };
            follower.token(&token);
            self.tokens.push(token);
            all.push(id);
            if ended {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn detokenize(&mut self, id: u32, ended: bool) -> Result<String, Error> {
        let Some(stream) = self.decoder.as_mut() else { return Ok(String::new()) };
        let mut piece = stream.push(id)?;
        if ended && let Some(stream) = self.decoder.take() {
            piece.push_str(&stream.finish()?);
        }
        Ok(piece)
    }

    fn report(self, public: usize, private: usize, setup_seconds: f64, profile: String) -> PermutedReport {
        let (ledger, flights) = (self.pump.ledger(), self.pump.client.ledger());
        let passes = self.steps.iter().filter(|step| step.tokens > 0).count();
        let run = RunReport {
            mode: "permuted",
            route: None,
            security_bits: 0,
            ring_degree: 0,
            log_qp: 0.0,
            failure_log2: 0.0,
            public_tokens: public,
            private_tokens: private,
            prefill_seconds: self.tokens.first().map_or(0.0, |token| token.seconds),
            text: self.tokens.iter().map(|token| token.text.as_str()).collect(),
            setup_seconds,
            bootstraps: 0,
            key_switches: 0,
            bytes_up: ledger.bytes_sent(),
            bytes_down: ledger.bytes_received(),
            key_bytes: 0,
            rounds: flights.rounds(),
            peak_rss_bytes: None,
            leakage: leakage(self.strict).into_iter().map(|leak| leak.sentence).collect(),
            tokens: self.tokens,
        };
        let after = run.tokens.len().saturating_sub(1) as f64 / passes.saturating_sub(1).max(1) as f64;
        PermutedReport {
            bytes_by_message: flights.kinds().iter().map(|(kind, traffic)| (kind.name(), traffic.bytes)).collect(),
            offline_bytes: self.offline_bytes,
            offline_seconds: self.waited.as_secs_f64(),
            setup_bytes: self.side.fetched_bytes,
            profile,
            strict: self.strict,
            steps: self.steps,
            tokens_per_pass: after,
            run,
        }
    }
}

fn check(request: &Request<'_>, prompt: usize, positions: usize) -> Result<(), Error> {
    if prompt == 0 {
        return Err(Error::Empty { what: "prompt", remedy: "give it with --private-file" });
    }
    if request.max_new_tokens == 0 {
        return Err(Error::Empty { what: "continuation", remedy: "ask for at least one new token" });
    }
    if request.draft > 0 && !matches!(request.choice, Choice::Greedy) {
        return Err(Error::DraftNeedsGreedy);
    }
    if request.strict && !matches!(request.choice, Choice::Greedy) {
        return Err(Error::StrictNeedsGreedy);
    }
    let have = prompt.saturating_add(request.max_new_tokens - 1);
    if have > positions {
        let remedy = "shorten the prompt or ask for fewer new tokens";
        return Err(Error::TooLong { what: "prompt with its continuation", have, need: positions, remedy });
    }
    Ok(())
}

/// The place of the token of every row of logits.
fn choose(choice: &mut Choice, logits: &[u64], bits: u32, vocab: usize) -> Result<Vec<usize>, Error> {
    let rows = logits.chunks_exact(vocab);
    match choice {
        Choice::Greedy => Ok(rows.map(greedy_place).collect()),
        Choice::Sampled(sampler) => {
            let unit = 1.0 / (1u64 << bits) as f64;
            let sample = |row: &[u64]| {
                let values: Zeroizing<Vec<f32>> =
                    Zeroizing::new(row.iter().map(|&word| (word as i64 as f64 * unit) as f32).collect());
                Ok(sampler.sample(&values)? as usize)
            };
            rows.map(sample).collect()
        }
    }
}
