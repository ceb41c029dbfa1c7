//! Writes the seeds of the fuzz corpora of ciphertexts, keys, frames and messages; run it after a change of a format:
//!
//! `cargo test --release -p undertone-cli --test fuzz_seeds -- --ignored`
//!
//! The corpora of files in a model directory start from files written by hand.

mod fuzz_targets;

use fuzz_targets::permuted::{POSITIONS, config, parties};
use std::path::PathBuf;
use std::sync::Arc;
use undertone_he::circuits::pc_matmul::{ComponentOrder, ProductParameters, ProductWeights, WeightShape};
use undertone_he::{KeyId, KeyRequest, Parameters, Slots};
use undertone_protocol::message::{
    Blobs, ErrorClass, ErrorReport, Hello, Mode, Operations, Prefill, ProgressReport, StepResult, Welcome, WireShape,
};
use undertone_protocol::modes::fhe::message::{KeyBegin, KeyEnd, WireKeyId, WireProductKey};
use undertone_protocol::modes::permuted::deal::{DealReply, DealRequest, Opened};
use undertone_protocol::modes::permuted::message::{FlightBegin, StepBegin};
use undertone_protocol::modes::permuted::setup::Setup;
use undertone_protocol::modes::permuted::{Client, Digests, Server};
use undertone_protocol::{Message, Session, Turn, encode_frame};
use undertone_secret::{Encryptor, KeyGenerator, ProductKeyGenerator, SecretKey, SecretRng};
use undertone_shares::{
    Bundle, Dealer, LayerScales, Placement, Provider, ProviderModel, PublicModel, Seed, User, UserModel,
};

/// Ring degree 2^7, as in the fuzz targets.
const LOG_N: u32 = 7;

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    std::fs::write(folder.join(format!("seed-{name}")), bytes).unwrap();
}

fn with_first(first: u8, bytes: &[u8]) -> Vec<u8> {
    [&[first], bytes].concat()
}

#[test]
#[ignore = "it rewrites files of the repository"]
fn write_ciphertexts_and_keys() {
    let parameters = Parameters::insecure_test(LOG_N);
    let mut rng = SecretRng::from_os().unwrap();
    let secret = SecretKey::generate(&parameters, &mut rng);
    let slots = Slots::new(vec![0.5; 16], parameters.chain().slot_count()).unwrap();
    let encryptor = Encryptor::new(&parameters, &secret);
    for level in [0, 1] {
        let seeded = encryptor.encrypt(&slots, level, &mut rng).unwrap();
        write("ciphertexts", &format!("seeded-level-{level}"), &with_first(1, &seeded.to_bytes(&parameters)));
        let whole = seeded.expand(&parameters).to_bytes(&parameters).unwrap();
        write("ciphertexts", &format!("level-{level}"), &with_first(0, &whole));
    }
    let generator = KeyGenerator::new(&parameters, &secret);
    for (name, id) in
        [("to-sparse", KeyId::ToSparse), ("relinearization", KeyId::Relinearization), ("galois-5", KeyId::Galois(5))]
    {
        let key = generator.generate(&KeyRequest { id, level: 0 }, &mut rng).unwrap();
        write("keys", name, &key.to_bytes(&parameters));
    }
}

#[test]
#[ignore = "it rewrites files of the repository"]
fn write_product_keys_and_weights() {
    let parameters = Parameters::insecure_product_test(LOG_N);
    let mut rng = SecretRng::from_os().unwrap();
    let secret = SecretKey::generate(&parameters, &mut rng);
    let product = ProductParameters::new(&parameters, 5, 4).unwrap();
    let keys = ProductKeyGenerator::new(&product, &secret, &mut rng).generate_all(&mut rng).unwrap();
    for (name, key) in ["down", "pack", "up"].into_iter().zip(keys) {
        write("products", name, &with_first(0, &key.to_bytes(&product)));
    }
    let order = ComponentOrder::bit_reversed(product.components()).unwrap();
    let shape = WeightShape { outputs: 3, inputs: 5, output_order: order.clone(), input_order: order };
    let weights = ProductWeights::new(&product, &shape, -2, |o, i| o as i16 * 1000 - i as i16).unwrap();
    let mut bytes = weights.to_bytes();
    write("products", "weights", &with_first(1, &bytes));
    // A gain of 2^1000 under a checksum that is right.
    bytes[120..124].copy_from_slice(&1000i32.to_le_bytes());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[..128]).update(&bytes[160..]);
    let checksum = *hasher.finalize().as_bytes();
    bytes[128..160].copy_from_slice(&checksum);
    assert!(ProductWeights::from_bytes(&product, &bytes).is_err());
    write("products", "weights-beyond-gain", &with_first(1, &bytes));
}

#[test]
#[ignore = "it rewrites files of the repository"]
fn write_frames_and_messages() {
    let shape = WireShape { public_tokens: 256, private_tokens: 64, max_new_tokens: 8 };
    let operations = Operations { bootstraps: 120, key_switches: 20_000 };
    let messages = [
        Message::Hello(Hello::new(Mode::Fhe, [1; 32], [2; 32], [3; 32], shape)),
        Message::Welcome(Welcome { session: 7, idle_timeout_seconds: 600, max_sessions: 4 }),
        Message::KeyBegin(KeyBegin { id: WireKeyId::Galois(5), level: 3, len: 1000 }),
        Message::Chunk(vec![1, 2, 3]),
        Message::KeyEnd(KeyEnd { digest: [9; 32] }),
        Message::KeysDone,
        Message::Prefill(Prefill { public_tokens: vec![0, 5, 300], private_tokens: 2, blobs: vec![100, 200] }),
        Message::Progress(ProgressReport { stage: "softmax".into(), layer: 1, layers: 2, fraction: 0.5 }),
        Message::Result(StepResult { blobs: vec![9, 10], operations }),
        Message::Decode(Blobs { blobs: vec![9] }),
        Message::StepBegin(StepBegin {
            session: [5; 16],
            number: 3,
            position: 70,
            tokens: 9,
            outputs: 3,
            kept: 2,
            skipped: 1,
        }),
        Message::FlightBegin(FlightBegin { kind: 4, layer: 1, step: 3, len: 90_000 }),
        Message::Setup(Setup::Description { public_len: 700, masked_len: 53_000_000_000, name: [4; 32] }),
        Message::DealRequest(DealRequest::Register { ticket: [6; 32], fingerprint: [7; 32], public_len: 700 }),
        Message::DealReply(DealReply::Opened(Opened { session: [5; 16], pieces: vec![64, 17] })),
        Message::Error(ErrorReport { class: ErrorClass::Busy, sentence: "the server is busy".into() }),
        Message::Bye,
    ];
    // The first byte is the size of the pieces in which the decoder gets the stream.
    let mut stream = vec![16];
    for (sequence, message) in messages.iter().enumerate() {
        let (kind, payload) = (message.message_type(), message.encode().unwrap());
        write("messages", kind.name(), &with_first(kind as u8, &payload));
        write("frames", kind.name(), &with_first(255, &encode_frame(kind, 0, 0, &payload).unwrap()));
        stream.extend(encode_frame(kind, 0, sequence as u64, &payload).unwrap());
    }
    write("frames", "stream", &stream);
    // The other kind of key, at its largest number of tokens and one beyond.
    for (name, tokens) in [("product", 128), ("product-beyond", 129u8)] {
        let id = WireKeyId::Product(WireProductKey::Pack(128));
        let message = Message::KeyBegin(KeyBegin { id, level: 0, len: 9_830_488 });
        let (kind, mut payload) = (message.message_type(), message.encode().unwrap());
        // A varint of two bytes after the two numbers of the variants.
        assert_eq!(payload[2..4], [0x80, 1]);
        payload[2] = tokens;
        write("messages", &format!("{}-{name}", kind.name()), &with_first(kind as u8, &payload));
        write(
            "frames",
            &format!("{}-{name}", kind.name()),
            &with_first(255, &encode_frame(kind, 0, 0, &payload).unwrap()),
        );
    }
}

#[test]
#[ignore = "it rewrites files of the repository"]
fn write_bundles_flights_and_public_models() {
    let (provider, dealer) = parties();
    let shape = dealer.shape();
    write("public_models", "small", &provider.public().encode());
    for name in ["llama-100m", "llama-3-8b"] {
        let config = undertone_model::preset(name).unwrap();
        let scales = LayerScales { q: 14, k: 15, v: 16, o: 17, gate: 18, up: 1, down: 0 };
        let layers = vec![scales; config.num_hidden_layers];
        write("public_models", name, &PublicModel { config, embed: 12, head: 13, layers }.encode());
    }
    let mut session = dealer.session_with_seed(Seed::from_bytes([7; 32]));
    for (number, (tokens, outputs)) in [(2, 0), (1, 1), (2, 2)].into_iter().enumerate() {
        let (user, provider) = session.deal(tokens, outputs).unwrap();
        write("bundles", &format!("user-{number}"), &with_first(0, &user.encode(&shape)));
        write("bundles", &format!("provider-{number}"), &with_first(1, &provider.encode(&shape)));
    }
    for (name, steps) in [("prompt", vec![(2, 0), (1, 1)]), ("token", vec![(3, 1)]), ("drafted", vec![(2, 2)])] {
        write("flights", name, &conversation(&provider, &dealer, &steps));
    }
}

/// A user's messages of some steps, as the target reads them.
fn conversation(provider: &Arc<ProviderModel>, dealer: &Arc<Dealer>, steps: &[(usize, usize)]) -> Vec<u8> {
    let shape = dealer.shape();
    let public = provider.public().clone();
    let masked = provider.masked(&dealer.weight_seed());
    let model = UserModel::new(public, masked, POSITIONS, undertone_ring::scalar_word_kernels()).unwrap();
    let model = Arc::new(model);
    let digests = Digests::new(provider.public(), &[0; 32], provider.rotary(), None);
    let lengths = WireShape { public_tokens: 0, private_tokens: 3, max_new_tokens: 2 };
    let mut client = Client::new(digests.hello(lengths, false), shape, User::new(model.clone()));
    let welcome = Welcome { session: 1, idle_timeout_seconds: 1, max_sessions: 1 };
    let mut server = Server::new(welcome, shape, Provider::new(provider.clone()));
    let mut session = dealer.session_with_seed(Seed::from_bytes([7; 32]));
    let mut out = Vec::new();
    client.next_message().unwrap();
    client.receive(server.next_message().unwrap()).unwrap();
    let (mut kept, mut first) = (0, 0);
    for &(tokens, outputs) in steps {
        let (user, at_provider) = session.deal(tokens, outputs).unwrap();
        let mut at_provider = Some(at_provider);
        client.begin(model.prepare(user, first, Placement { kept, skipped: 0 }).unwrap()).unwrap();
        (kept, first) = (tokens, first + tokens);
        client.tokens(&vec![5; tokens]).unwrap();
        loop {
            while let Some(message) = client.next_message() {
                let payload = message.encode().unwrap();
                out.push(message.message_type() as u8);
                out.extend((payload.len() as u16).to_le_bytes());
                out.extend(&payload);
                server.receive(message).unwrap();
                if server.wanted().is_some() {
                    server.supply(at_provider.take().unwrap()).unwrap();
                }
                while server.turn() == Turn::Work {
                    server.work(&()).unwrap();
                }
            }
            while let Some(message) = server.next_message() {
                client.receive(message).unwrap();
                while client.turn() == Turn::Work {
                    client.work(&()).unwrap();
                }
            }
            if client.logits().is_some() {
                client.select(&vec![1; outputs]).unwrap();
            } else if client.take_tokens().is_some() {
                break;
            }
        }
        while let Some(message) = client.next_message() {
            out.push(message.message_type() as u8);
            let payload = message.encode().unwrap();
            out.extend((payload.len() as u16).to_le_bytes());
            out.extend(&payload);
            server.receive(message).unwrap();
        }
    }
    let largest = config().vocab_size * 8 * 3;
    assert!(largest < usize::from(u16::MAX), "a payload has two bytes for its length");
    out
}
