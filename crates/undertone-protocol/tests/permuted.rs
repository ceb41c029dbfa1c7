//! Both sessions of mode permuted against each other, through real frames: tokens, what travelled, what is refused.

use std::sync::Arc;
use undertone_model::LlamaConfig;
use undertone_model::synthetic::{small_config, synthetic};
use undertone_protocol::message::{Hello, ProgressReport, Welcome, WireShape};
use undertone_protocol::modes::permuted::message::{FlightBegin, StepBegin};
use undertone_protocol::modes::permuted::{Client, Server};
use undertone_protocol::{Error, Message, MessageType, Mode, Session, Turn, Wire};
use undertone_ring::scalar_word_kernels;
use undertone_shares::formula::Traffic;
use undertone_shares::*;

const POSITIONS: usize = 128;

fn hello() -> Hello {
    let shape = WireShape { public_tokens: 0, private_tokens: 9, max_new_tokens: 4 };
    Hello::new(Mode::Permuted, [1; 32], [2; 32], [3; 32], shape)
}

/// Both ends of a connection and a dealer.
struct Connection {
    client: Client,
    server: Server,
    wires: [Wire; 2],
    dealer: DealerSession,
    user: Arc<UserModel>,
    provider_bundle: Option<ProviderBundle>,
    shape: Shape,
    /// Tokens of the step before, and of all steps.
    tokens: (usize, usize),
}

impl Connection {
    fn new(config: &LlamaConfig, root: u8) -> Self {
        Self::evaluating(config, root, false)
    }

    fn evaluating(config: &LlamaConfig, root: u8, strict: bool) -> Self {
        let model = Arc::new(QuantizedModel::new(&synthetic(config.clone(), 5)).unwrap());
        let setup = PairModel::new(model, POSITIONS, scalar_word_kernels(), Seed::from_bytes([3; 32])).unwrap();
        let shape = Shape::new(config);
        let welcome = Welcome { session: 9, idle_timeout_seconds: 60, max_sessions: 2 };
        let mut connection = Self {
            client: Client::new(hello(), shape, User::new(Arc::clone(&setup.user)).with_strict(strict)),
            server: Server::new(welcome, shape, Provider::new(Arc::clone(&setup.provider)).with_strict(strict)),
            wires: [Wire::new(), Wire::new()],
            dealer: setup.dealer.session_with_seed(Seed::from_bytes([root; 32])).with_strict(strict),
            user: Arc::clone(&setup.user),
            provider_bundle: None,
            shape,
            tokens: (0, 0),
        };
        // The driver of the server has read the hello when it makes the session.
        let frame = connection.wires[0].encode(&connection.client.next_message().unwrap()).unwrap();
        assert!(matches!(connection.wires[1].feed(&mut &frame[..]).unwrap(), Some(Message::Hello(_))));
        connection.run();
        connection
    }

    /// Moves messages and works until both wait for the application.
    fn run(&mut self) {
        loop {
            let mut idle = true;
            while let Some(message) = self.client.next_message() {
                let frame = self.wires[0].encode(&message).unwrap();
                let message = self.wires[1].feed(&mut &frame[..]).unwrap().unwrap();
                self.server.receive(message).unwrap();
                self.serve();
                idle = false;
            }
            self.serve();
            while let Some(message) = self.server.next_message() {
                let frame = self.wires[1].encode(&message).unwrap();
                let message = self.wires[0].feed(&mut &frame[..]).unwrap().unwrap();
                self.client.receive(message).unwrap();
                idle = false;
            }
            if self.client.turn() == Turn::Work {
                self.client.work(&()).unwrap();
                idle = false;
            }
            if idle {
                return;
            }
        }
    }

    fn serve(&mut self) {
        if self.server.turn() == Turn::Application && self.provider_bundle.is_some() {
            assert!(self.server.wanted().is_some());
            self.server.supply(self.provider_bundle.take().unwrap()).unwrap();
        }
        while self.server.turn() == Turn::Work {
            self.server.work(&()).unwrap();
        }
    }

    fn deal(&mut self, tokens: usize, outputs: usize) -> UserBundle {
        let (for_user, for_provider) = self.dealer.deal(tokens, outputs).unwrap();
        // Through bytes, as stores keep them.
        let (user, provider) = (for_user.encode(&self.shape), for_provider.encode(&self.shape));
        self.provider_bundle = Some(ProviderBundle::decode(&provider, &self.shape, POSITIONS).unwrap());
        UserBundle::decode(&user, &self.shape, POSITIONS).unwrap()
    }

    /// Prepares a step and begins it at the client.
    fn begin(&mut self, bundle: UserBundle) {
        let (kept, first) = self.tokens;
        let tokens = bundle.step().tokens;
        let prepared = self.user.prepare(bundle, first, Placement { kept, skipped: 0 }).unwrap();
        self.client.begin(prepared).unwrap();
        self.tokens = (tokens, first + tokens);
    }

    /// One step to its tokens, the largest logits of its outputs.
    fn step(&mut self, tokens: &[u32], outputs: usize) -> Vec<u32> {
        let bundle = self.deal(tokens.len(), outputs);
        self.begin(bundle);
        self.run();
        self.client.tokens(tokens).unwrap();
        self.run();
        if let Some((logits, _)) = self.client.logits() {
            let places: Vec<usize> = logits.chunks(self.shape.vocab).map(greedy_place).collect();
            self.client.select(&places).unwrap();
            self.run();
        }
        self.client.take_tokens().unwrap().to_vec()
    }
}

/// Heads of their own, grouped heads, a tied head with one key head.
fn shapes() -> [LlamaConfig; 3] {
    [
        LlamaConfig { num_key_value_heads: 4, ..small_config() },
        LlamaConfig { head_dim: 6, num_hidden_layers: 3, ..small_config() },
        LlamaConfig { num_key_value_heads: 1, tie_word_embeddings: true, vocab_size: 77, ..small_config() },
    ]
}

/// Bytes of the chunks that a wire carried, both directions, without headers.
fn chunk_bytes(wire: &Wire) -> u64 {
    let ledger = wire.ledger();
    let sides =
        [ledger.sent(), ledger.received()].map(|side| side.get(&MessageType::Chunk).copied().unwrap_or_default());
    sides.iter().map(|traffic| traffic.bytes - 40 * traffic.messages).sum()
}

#[test]
fn what_travels_is_what_the_formulas_say() {
    for (number, config) in shapes().into_iter().enumerate() {
        let mut connection = Connection::new(&config, number as u8);
        let shape = connection.shape;
        let mut need = (0, 0, 0);
        let mut position = 0;
        let mut outputs_so_far = 0;
        let mut depth = 0;
        // Two pieces of a prompt, a single token, drafted tokens, a single token.
        for (number, (tokens, outputs)) in [(7usize, 0), (2, 1), (1, 1), (3, 3), (1, 1)].into_iter().enumerate() {
            let step = Step { number: number as u64, position, tokens, outputs, strict: false };
            let traffic = Traffic::new(&shape, &step);
            let ids: Vec<u32> = (0..tokens as u32).map(|i| (i * 5 + 3) % 50).collect();
            connection.step(&ids, outputs);
            position += tokens;
            outputs_so_far += outputs as u64;
            need = (need.0 + traffic.online_bytes, need.1 + traffic.ahead_bytes, need.2 + traffic.depth);
            for ledger in [connection.client.ledger(), connection.server.ledger()] {
                assert_eq!((ledger.online_bytes(), ledger.ahead_bytes(), ledger.depth()), need, "{config:?} {step:?}");
                let lookup = [FlightKind::Select, FlightKind::Selected];
                let lookup = lookup.map(|kind| ledger.kinds().get(&kind).map_or(0, |traffic| traffic.bytes));
                assert_eq!(lookup.iter().sum::<u64>(), outputs_so_far * (4 + 4 * shape.vocab as u64));
            }
            let layers = shape.layers as u64;
            depth += 6 * layers + if outputs > 0 { 3 } else { 0 };
            assert_eq!(connection.client.ledger().rounds(), depth);
            assert_eq!(traffic.rounds(), 6 * layers + if outputs > 0 { 3 } else { 0 });
            // What the frames carried, counted by the wires and not by the sessions.
            for wire in &connection.wires {
                assert_eq!(chunk_bytes(wire), need.0 + need.1);
                assert_eq!(chunk_bytes(wire), connection.client.ledger().total_bytes());
            }
            // What the dealer gave: the bundle without its header.
            assert_eq!(ProviderBundle::size_bytes(&shape, &step) as u64 - 80, traffic.offline_bytes);
            assert_eq!(UserBundle::size_bytes(&shape, &step), 80 + 4 * outputs);
        }
        connection.client.close();
        connection.run();
        assert_eq!([connection.client.turn(), connection.server.turn()], [Turn::Closed; 2]);
    }
}

/// Under strict evaluation: bytes by frames, by the ledgers and by the formulas, rounds of a layer and of a token, bundles.
#[test]
fn what_travels_strictly_is_what_the_formulas_say() {
    for (number, config) in shapes().into_iter().enumerate() {
        let mut connection = Connection::evaluating(&config, number as u8, true);
        let shape = connection.shape;
        let mut need = (0, 0, 0);
        let mut position = 0;
        for (number, (tokens, outputs)) in [(7usize, 0), (2, 1), (1, 1), (3, 3), (1, 1)].into_iter().enumerate() {
            let step = Step { number: number as u64, position, tokens, outputs, strict: true };
            let traffic = Traffic::new(&shape, &step);
            let ids: Vec<u32> = (0..tokens as u32).map(|i| (i * 5 + 3) % 50).collect();
            let before = connection.client.ledger().rounds();
            assert_eq!(connection.step(&ids, outputs).len(), outputs);
            position += tokens;
            need = (need.0 + traffic.online_bytes, need.1 + traffic.ahead_bytes, need.2 + traffic.depth);
            for ledger in [connection.client.ledger(), connection.server.ledger()] {
                assert_eq!((ledger.online_bytes(), ledger.ahead_bytes(), ledger.depth()), need, "{config:?} {step:?}");
                assert!(
                    [FlightKind::Mix, FlightKind::Mixed, FlightKind::Selected]
                        .iter()
                        .all(|kind| { !ledger.kinds().contains_key(kind) })
                );
            }
            assert_eq!(connection.client.ledger().rounds() - before, traffic.rounds());
            for wire in &connection.wires {
                assert_eq!(chunk_bytes(wire), need.0 + need.1);
            }
            assert_eq!(ProviderBundle::size_bytes(&shape, &step) as u64 - 80, traffic.offline_bytes);
            assert_eq!(UserBundle::size_bytes(&shape, &step) as u64 - 80, traffic.user_offline_bytes);
        }
        connection.client.close();
        connection.run();
        assert_eq!([connection.client.turn(), connection.server.turn()], [Turn::Closed; 2]);
    }
}

/// A dealer, a user and a provider that do not agree on the evaluation get one clear error.
#[test]
fn bundles_of_the_other_evaluation_are_refused() {
    for strict in [false, true] {
        let mut connection = Connection::evaluating(&small_config(), 62, strict);
        let other = Connection::evaluating(&small_config(), 62, !strict);
        connection.dealer = other.dealer;
        let bundle = connection.deal(2, 1);
        let prepared = connection.user.prepare(bundle, 0, Placement { kept: 0, skipped: 0 }).unwrap();
        let error = connection.client.begin(prepared).unwrap_err().to_string();
        let (dealt, due) = if strict { ("permuted", "strict") } else { ("strict", "permuted") };
        let need =
            format!("dealt a bundle for {dealt} evaluation to a session with {due} evaluation; start the run again");
        assert!(error.contains(&need), "{error}");
    }
}

#[test]
fn strict_sessions_over_frames_give_the_twins_tokens() {
    let config = small_config();
    let model = Arc::new(QuantizedModel::new(&synthetic(config.clone(), 5)).unwrap());
    let mut connection = Connection::evaluating(&config, 41, true);
    let rotary = Arc::new(RotaryTable::new(&config, POSITIONS));
    let replay = connection.dealer.replay();
    let mut twin = Twin::new(model, rotary, scalar_word_kernels(), replay).with_strict(true);
    let mut input = vec![3, 1, 4, 1, 5];
    for _ in 0..5 {
        let logits = twin.forward_last(&input).unwrap();
        let need = twin.choose(&logits);
        assert_eq!(connection.step(&input, 1), need);
        input = need;
    }
}

#[test]
fn sessions_over_frames_give_the_twins_tokens() {
    let config = small_config();
    let model = Arc::new(QuantizedModel::new(&synthetic(config.clone(), 5)).unwrap());
    let mut connection = Connection::new(&config, 40);
    let rotary = Arc::new(RotaryTable::new(&config, POSITIONS));
    let mut twin = Twin::new(model, rotary, scalar_word_kernels(), connection.dealer.replay());
    let mut input = vec![3, 1, 4, 1, 5];
    for _ in 0..5 {
        let need = greedy_place(&twin.forward_last(&input).unwrap()) as u32;
        assert_eq!(connection.step(&input, 1), [need]);
        input = vec![need];
    }
}

/// A server that has accepted a step of two tokens and waits for `prepare`.
fn waiting() -> Connection {
    let mut connection = Connection::new(&small_config(), 50);
    let bundle = connection.deal(2, 1);
    connection.begin(bundle);
    connection.server.receive(connection.client.next_message().unwrap()).unwrap();
    connection.serve();
    assert_eq!(connection.server.turn(), Turn::Peer);
    connection
}

#[test]
fn signs_of_life_are_heard_while_a_flight_is_due_and_nowhere_else() {
    let mut connection = waiting();
    let news = || {
        let stage = "starting".to_owned();
        Message::Progress(ProgressReport { stage, layer: 0, layers: 1, fraction: 0.0 })
    };
    connection.client.tokens(&[1, 2]).unwrap();
    connection.client.receive(news()).unwrap();
    assert_eq!(connection.client.turn(), Turn::Peer);
    connection.run();
    assert!(connection.client.logits().is_some());
    assert!(matches!(connection.client.receive(news()), Err(Error::OutOfTurn { .. })));
    assert_eq!(connection.client.turn(), Turn::Closed);
}

fn begin_of(message: Message) -> FlightBegin {
    match message {
        Message::FlightBegin(begin) => begin,
        other => panic!("{other:?}"),
    }
}

#[test]
fn flights_out_of_turn_or_of_other_lengths_are_refused_before_their_contents() {
    for name in ["longer", "another kind", "another layer", "another step"] {
        let mut connection = waiting();
        let mut begin = begin_of(connection.client.next_message().unwrap());
        match name {
            "longer" => begin.len += 8,
            "another kind" => begin.kind = FlightKind::Embed as u8,
            "another layer" => begin.layer = 1,
            _ => begin.step = 1,
        }
        let error = connection.server.receive(Message::FlightBegin(begin)).unwrap_err();
        assert!(matches!(error, Error::OutOfTurn { .. } | Error::Unexpected { .. }), "{name}: {error}");
        assert_eq!(connection.server.turn(), Turn::Closed);
        // After an error nothing is taken any more.
        assert!(connection.server.receive(Message::FlightBegin(begin)).is_err());
    }
    // The right announcement is accepted, a second one in its place is not.
    let mut connection = waiting();
    let begin = connection.client.next_message().unwrap();
    connection.server.receive(begin.clone()).unwrap();
    assert!(matches!(connection.server.receive(begin), Err(Error::OutOfTurn { .. })));
}

#[test]
fn bundles_of_other_steps_are_refused() {
    let mut connection = Connection::new(&small_config(), 60);
    let first = connection.deal(2, 1);
    let _lost = connection.provider_bundle.take();
    let _second = connection.deal(2, 1);
    connection.begin(first);
    connection.client.tokens(&[1, 2]).unwrap();
    while let Some(message) = connection.client.next_message() {
        connection.server.receive(message).unwrap();
    }
    assert_eq!(connection.server.wanted().unwrap().number, 0);
    let wrong = connection.provider_bundle.take().unwrap();
    assert!(matches!(connection.server.supply(wrong), Err(Error::Mismatch { what: "bundle" })));
    assert_eq!(connection.server.turn(), Turn::Closed);
}

#[test]
fn damaged_messages_give_errors_and_no_panic() {
    let step_begin = StepBegin { session: [7; 16], number: 1, position: 5, tokens: 3, outputs: 1, kept: 1, skipped: 0 };
    let begin = Message::StepBegin(step_begin);
    let payload = begin.encode().unwrap();
    for len in 0..payload.len() {
        assert!(Message::decode(MessageType::StepBegin, &payload[..len]).is_err());
    }
    for wrong in [
        StepBegin { tokens: 0, ..step_begin },
        StepBegin { outputs: 4, ..step_begin },
        StepBegin { skipped: 4, ..step_begin },
        StepBegin { kept: u32::MAX, ..step_begin },
    ] {
        assert!(Message::StepBegin(wrong).encode().is_err());
    }
    let flight = Message::FlightBegin(FlightBegin { kind: 200, layer: 0, step: 0, len: 8 });
    assert!(flight.encode().is_err());

    let shape = Shape::new(&small_config());
    let mut connection = Connection::new(&small_config(), 61);
    let (user, provider) = connection.dealer.deal(3, 1).unwrap();
    let (user, provider) = (user.encode(&shape), provider.encode(&shape));
    for cut in [0, 4, 79, 80, user.len() - 1] {
        assert!(UserBundle::decode(&user[..cut], &shape, POSITIONS).is_err());
        assert!(ProviderBundle::decode(&provider[..cut], &shape, POSITIONS).is_err());
    }
    // A bundle that claims more tokens than it has room for, or than the model has positions.
    for tokens in [4u32, 1 << 20, u32::MAX] {
        let mut claimed = provider.clone();
        claimed[40..44].copy_from_slice(&tokens.to_le_bytes());
        assert!(ProviderBundle::decode(&claimed, &shape, POSITIONS).is_err());
    }
    assert!(UserBundle::decode(&provider, &shape, POSITIONS).is_err());
}
