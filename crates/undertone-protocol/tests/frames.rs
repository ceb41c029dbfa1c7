//! Every message type against damage: header bits, truncations, random flips, replays, reorders, splices.

use undertone_protocol::frame::{HEADER_LEN, MAX_PAYLOAD};
use undertone_protocol::message::{
    Blobs, ErrorClass, ErrorReport, Hello, MAX_OPERATIONS, MAX_STAGE, Operations, Prefill, ProgressReport, StepResult,
    Welcome, WireShape,
};
use undertone_protocol::modes::fhe::message::{KeyBegin, KeyEnd, WireKeyId, WireProductKey};
use undertone_protocol::modes::permuted::deal::{DealReply, DealRequest, Opened};
use undertone_protocol::modes::permuted::message::{FlightBegin, StepBegin};
use undertone_protocol::modes::permuted::setup::Setup;
use undertone_protocol::{
    Error, FrameDecoder, Message, MessageType, Mode, Wire, decode_frame, decode_message, encode_frame,
};

/// One message of each type. A new type does not compile until it is here.
fn sample(message_type: MessageType) -> Message {
    let shape = WireShape { public_tokens: 300, private_tokens: 17, max_new_tokens: 8 };
    match message_type {
        MessageType::Hello => Message::Hello(Hello {
            version: 1,
            mode: Mode::Fhe,
            parameters: [7; 32],
            model: [8; 32],
            calibration: [9; 32],
            shape,
        }),
        MessageType::Welcome => Message::Welcome(Welcome { session: 0, idle_timeout_seconds: 600, max_sessions: 4 }),
        MessageType::Progress => Message::Progress(ProgressReport {
            stage: "output projection".to_owned(),
            layer: 3,
            layers: 12,
            fraction: 0.25,
        }),
        MessageType::Bye => Message::Bye,
        MessageType::Error => Message::Error(ErrorReport {
            class: ErrorClass::TooLarge,
            sentence: "there is not enough memory; use a shorter prompt".to_owned(),
        }),
        MessageType::Chunk => Message::Chunk((0..2000u32).map(|i| (i * 7 % 256) as u8).collect()),
        MessageType::Prefill => Message::Prefill(Prefill {
            public_tokens: (0..300).collect(),
            private_tokens: 17,
            blobs: vec![1_000_000, 70_000],
        }),
        MessageType::Decode => Message::Decode(Blobs { blobs: vec![123_456] }),
        MessageType::Result => Message::Result(StepResult {
            blobs: vec![123_456, 1, 300],
            operations: Operations { bootstraps: 7, key_switches: 1 << 40 },
        }),
        MessageType::KeyBegin => {
            Message::KeyBegin(KeyBegin { id: WireKeyId::Galois(5 << 20), level: 21, len: 90_000_000 })
        }
        MessageType::KeyEnd => Message::KeyEnd(KeyEnd { digest: [3; 32] }),
        MessageType::KeysDone => Message::KeysDone,
        MessageType::StepBegin => Message::StepBegin(StepBegin {
            session: [5; 16],
            number: 3,
            position: 70_000,
            tokens: 128,
            outputs: 3,
            kept: 128,
            skipped: 9,
        }),
        MessageType::FlightBegin => Message::FlightBegin(FlightBegin { kind: 4, layer: 21, step: 3, len: 90_000_000 }),
        MessageType::Setup => {
            Message::Setup(Setup::Description { public_len: 700, masked_len: 53_000_000_000, name: [4; 32] })
        }
        MessageType::DealRequest => {
            Message::DealRequest(DealRequest::Register { ticket: [6; 32], fingerprint: [7; 32], public_len: 700 })
        }
        MessageType::DealReply => {
            Message::DealReply(DealReply::Opened(Opened { session: [5; 16], pieces: vec![64, 64, 17] }))
        }
    }
}

fn samples() -> impl Iterator<Item = Message> {
    MessageType::ALL.iter().map(|&message_type| sample(message_type))
}

fn frame(message: &Message) -> Vec<u8> {
    Wire::new().encode(message).unwrap()
}

/// xorshift64*: the flips are the same in every run.
struct Flips(u64);

impl Flips {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    }
}

#[test]
fn every_message_survives_whole_and_byte_by_byte() {
    for message in samples() {
        let bytes = frame(&message);
        assert!(decode_message(&bytes).unwrap() == message, "{message:?}");
        let mut wire = Wire::new();
        for (at, byte) in bytes.iter().enumerate() {
            let found = wire.feed(&mut std::slice::from_ref(byte)).unwrap();
            assert_eq!(found.is_some(), at + 1 == bytes.len(), "{message:?}");
            if let Some(found) = found {
                assert!(found == message);
            }
        }
        wire.finish().unwrap();
    }
}

#[test]
fn every_flipped_header_bit_is_a_typed_error() {
    for message in samples() {
        let bytes = frame(&message);
        for bit in 0..8 * HEADER_LEN {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = decode_frame(&damaged).unwrap_err();
            let expected = if bit < 32 { Error::Magic } else { Error::HeaderChecksum };
            assert_eq!(error, expected, "{message:?} bit {bit}");
        }
    }
}

#[test]
fn every_truncation_is_a_typed_error() {
    for message in samples() {
        let bytes = frame(&message);
        for len in 0..bytes.len() {
            assert!(matches!(decode_frame(&bytes[..len]), Err(Error::Truncated { .. })), "{message:?} length {len}");
            let mut decoder = FrameDecoder::new();
            assert_eq!(decoder.feed(&mut &bytes[..len]), Ok(None));
            assert_eq!(decoder.finish().is_ok(), len == 0);
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(matches!(decode_frame(&longer), Err(Error::Trailing { have: 1, .. })));
    }
}

#[test]
fn every_truncation_of_a_payload_is_a_typed_error() {
    // The frame is intact here and only the message inside is cut, as a faulty peer would.
    for message in samples() {
        let message_type = message.message_type();
        let payload = message.encode().unwrap();
        for len in 0..payload.len() {
            let cut = Message::decode(message_type, &payload[..len]);
            if message_type == MessageType::Chunk && len > 0 {
                assert!(cut.is_ok());
            } else {
                assert!(cut.is_err(), "{message:?} length {len}");
            }
        }
        if message_type != MessageType::Chunk {
            let mut longer = payload;
            longer.push(0);
            assert!(Message::decode(message_type, &longer).is_err(), "{message:?} with a byte more");
        }
    }
}

#[test]
fn ten_thousand_random_flips_are_typed_errors() {
    let frames: Vec<Vec<u8>> = samples().map(|message| frame(&message)).collect();
    let mut flips = Flips(0x5eed);
    for round in 0..10_000 {
        let mut damaged = frames[round % frames.len()].clone();
        let bit = flips.next(8 * damaged.len());
        damaged[bit / 8] ^= 1 << (bit % 8);
        let error = decode_message(&damaged).unwrap_err();
        let expected = match bit {
            0..32 => matches!(error, Error::Magic),
            32..320 => matches!(error, Error::HeaderChecksum),
            _ => matches!(error, Error::PayloadChecksum { .. }),
        };
        assert!(expected, "bit {bit}: {error}");
    }
}

#[test]
fn ten_thousand_flips_inside_intact_frames_never_panic_and_stay_canonical() {
    let mut flips = Flips(0xface);
    let all: Vec<Message> = samples().collect();
    let mut refused = 0;
    for round in 0..10_000 {
        let message = &all[round % all.len()];
        let mut payload = message.encode().unwrap();
        if payload.is_empty() {
            payload.push(flips.next(256) as u8);
        }
        for _ in 0..=flips.next(3) {
            let bit = flips.next(8 * payload.len());
            payload[bit / 8] ^= 1 << (bit % 8);
        }
        match Message::decode(message.message_type(), &payload) {
            // What is accepted must be exactly what this side would have written.
            Ok(found) => assert_eq!(found.encode().unwrap(), payload),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 1_000, "{refused}");
}

#[test]
fn replayed_reordered_and_spliced_frames_are_refused() {
    let mut sender = Wire::new();
    let frames: Vec<Vec<u8>> = samples().map(|message| sender.encode(&message).unwrap()).collect();

    let mut wire = Wire::new();
    wire.feed(&mut frames[0].as_slice()).unwrap().unwrap();
    let replayed = wire.feed(&mut frames[0].as_slice());
    assert_eq!(replayed.unwrap_err(), Error::Replayed { have: 0, need: 1 });
    // The decoder stays in error: the right frame does not heal a damaged stream.
    assert_eq!(wire.feed(&mut frames[1].as_slice()).unwrap_err(), Error::Replayed { have: 0, need: 1 });

    let mut wire = Wire::new();
    assert_eq!(wire.feed(&mut frames[2].as_slice()).unwrap_err(), Error::Reordered { have: 2, need: 0 });

    let mut wire = Wire::new();
    let other = encode_frame(MessageType::Bye, 99, 0, &[]).unwrap();
    assert_eq!(wire.feed(&mut other.as_slice()).unwrap_err(), Error::WrongSession);

    // Header of one frame, payload of another of the same length.
    let one = frame(&Message::Chunk(vec![1; 500]));
    let two = frame(&Message::Chunk(vec![2; 500]));
    let spliced = [&one[..HEADER_LEN], &two[HEADER_LEN..]].concat();
    assert!(matches!(decode_frame(&spliced), Err(Error::PayloadChecksum { have: 500, .. })));
}

#[test]
fn after_the_welcome_frames_carry_the_session() {
    let (mut server, mut client) = (Wire::new(), Wire::new());
    let welcome = Message::Welcome(Welcome { session: 41, idle_timeout_seconds: 1, max_sessions: 1 });
    let bytes = server.encode(&welcome).unwrap();
    client.feed(&mut bytes.as_slice()).unwrap().unwrap();
    let bytes = client.encode(&Message::KeysDone).unwrap();
    assert_eq!(decode_frame(&bytes).unwrap().0.session, 41);
    assert!(server.feed(&mut bytes.as_slice()).unwrap().is_some());
    assert_eq!(client.ledger().bytes_sent(), HEADER_LEN as u64);
}

#[test]
fn oversized_frames_are_refused_on_both_sides() {
    for &message_type in MessageType::ALL {
        let cap = message_type.max_payload();
        assert!(cap <= MAX_PAYLOAD);
        let refused = encode_frame(message_type, 0, 0, &vec![0; cap + 1]);
        assert!(matches!(refused, Err(Error::TooLong { need, .. }) if need == cap));
        assert!(encode_frame(message_type, 0, 0, &vec![0; cap]).is_ok());
    }
    // A forged header with a right checksum: a chunk frame relabelled as a type with a small cap.
    let mut forged = encode_frame(MessageType::Chunk, 0, 0, &[0; 1000]).unwrap();
    forged[5] = MessageType::Welcome as u8;
    let check = blake3::hash(&forged[..36]);
    forged[36..40].copy_from_slice(&check.as_bytes()[..4]);
    assert!(matches!(decode_frame(&forged), Err(Error::TooLong { have: 1000, need: 64, .. })));
    // Unknown type, flags and version, each with a right checksum.
    for (at, value) in [(5, 200u8), (6, 1), (4, 2)] {
        let mut forged = encode_frame(MessageType::Bye, 0, 0, &[]).unwrap();
        forged[at] = value;
        let check = blake3::hash(&forged[..36]);
        forged[36..40].copy_from_slice(&check.as_bytes()[..4]);
        let error = decode_frame(&forged).unwrap_err();
        assert!(
            matches!(
                error,
                Error::MessageType { have: 200 } | Error::Flags { have: 1 } | Error::Version { have: 2, .. }
            ),
            "{error}"
        );
    }
}

#[test]
fn the_magic_of_the_other_build_is_named() {
    let mut other = frame(&Message::Bye);
    other[2] = if other[2] == b'N' { b'X' } else { b'N' };
    let check = blake3::hash(&other[..36]);
    other[36..40].copy_from_slice(&check.as_bytes()[..4]);
    assert_eq!(decode_frame(&other).unwrap_err(), Error::InsecurePeer);
}

#[test]
fn fields_out_of_range_are_refused_when_written_and_when_read() {
    let shape = WireShape { public_tokens: 1, private_tokens: 129, max_new_tokens: 1 };
    assert!(matches!(shape.check(), Err(Error::Cap { field: "private_tokens", have: 129, need: 128 })));
    let report = |stage: &str, fraction| {
        Message::Progress(ProgressReport { stage: stage.to_owned(), layer: 0, layers: 1, fraction }).encode()
    };
    assert!(report("mlp", 1.0).is_ok());
    assert!(report("mlp", f32::NAN).is_err());
    assert!(report("mlp", 1.5).is_err());
    assert!(report("\u{1b}[2j", 0.5).is_err());
    assert!(report(&"a".repeat(MAX_STAGE + 1), 0.5).is_err());
    assert!(Message::Decode(Blobs { blobs: vec![] }).encode().is_err());
    assert!(Message::Decode(Blobs { blobs: vec![0] }).encode().is_err());
    assert!(Message::Decode(Blobs { blobs: vec![u32::MAX] }).encode().is_err());
    let operations = Operations { bootstraps: 0, key_switches: MAX_OPERATIONS + 1 };
    let result = Message::Result(StepResult { blobs: vec![1], operations });
    assert!(matches!(result.encode(), Err(Error::Cap { field: "key_switches", .. })));
    assert!(Message::Chunk(Vec::new()).encode().is_err());
    let begin = KeyBegin { id: WireKeyId::ToSparse, level: 65, len: 1 };
    assert!(Message::KeyBegin(begin).encode().is_err());
    let product = |tokens| {
        let id = WireKeyId::Product(WireProductKey::Pack(tokens));
        Message::KeyBegin(KeyBegin { id, level: 0, len: 1 }).encode()
    };
    assert!(product(128).is_ok() && product(129).is_err() && product(u32::MAX).is_err());
}

#[test]
fn debug_output_shows_no_payload() {
    let chunk = Message::Chunk(b"secret".to_vec());
    assert_eq!(format!("{chunk:?}"), "Message(chunk)");
}
