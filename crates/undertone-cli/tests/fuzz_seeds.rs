//! Writes the seeds of the fuzz corpora of ciphertexts, keys, frames and messages; run it after a change of a format:
//!
//! `cargo test --release -p undertone-cli --test fuzz_seeds -- --ignored`
//!
//! The corpora of files in a model directory start from files written by hand.

use std::path::PathBuf;
use undertone_he::circuits::pc_matmul::{ComponentOrder, ProductParameters, ProductWeights, WeightShape};
use undertone_he::{KeyId, KeyRequest, Parameters, Slots};
use undertone_protocol::message::{
    Blobs, ErrorClass, ErrorReport, Hello, Mode, Operations, Prefill, ProgressReport, StepResult, Welcome, WireShape,
};
use undertone_protocol::modes::fhe::message::{KeyBegin, KeyEnd, WireKeyId};
use undertone_protocol::{Message, encode_frame};
use undertone_secret::{Encryptor, KeyGenerator, ProductKeyGenerator, SecretKey, SecretRng};

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
}
