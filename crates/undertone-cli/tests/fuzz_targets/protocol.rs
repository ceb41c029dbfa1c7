//! What a peer sends.

use undertone_protocol::frame::HEADER_LEN;
use undertone_protocol::{FrameDecoder, Message, MessageType, decode_frame, decode_message, encode_frame};

/// A stream of frames, cut into pieces.
///
/// The first byte is the size of the pieces; when it is odd, the checksums of the first frame are repaired, because
/// no search finds them by chance.
pub fn frames(data: &[u8]) -> bool {
    let Some((&first, stream)) = data.split_first() else { return false };
    let mut stream = stream.to_vec();
    if first % 2 == 1 {
        repair(&mut stream);
    }
    let whole = decode_frame(&stream).map(|(header, payload)| (header, payload.to_vec()));
    if let Ok((header, payload)) = &whole {
        let again = encode_frame(header.message_type, header.session, header.sequence, payload);
        assert_eq!(again.as_deref(), Ok(stream.as_slice()), "a frame has one encoding");
        let _ = decode_message(&stream);
    }
    let mut decoder = FrameDecoder::new();
    let mut received = 0;
    'stream: for piece in stream.chunks(usize::from(first) + 1) {
        let mut input = piece;
        while !input.is_empty() {
            match decoder.feed(&mut input) {
                Ok(Some(frame)) => received += HEADER_LEN + frame.payload.len(),
                Ok(None) => {}
                Err(_) => break 'stream,
            }
        }
    }
    assert!(received <= stream.len(), "more payload than bytes");
    // A stream that ends within a frame is refused.
    received > 0 && decoder.finish().is_ok()
}

/// One message: a type byte and its payload.
pub fn messages(data: &[u8]) -> bool {
    let Some((&byte, payload)) = data.split_first() else { return false };
    let Some(message_type) = MessageType::from_byte(byte) else { return false };
    let Ok(message) = Message::decode(message_type, payload) else { return false };
    assert_eq!(message.encode().as_deref(), Ok(payload), "a message has one encoding");
    true
}

/// Makes both checksums of the first frame right.
fn repair(stream: &mut [u8]) {
    if stream.len() < HEADER_LEN {
        return;
    }
    let length = [24, 25, 26, 27].map(|at| stream[at]);
    let end = HEADER_LEN.saturating_add(u32::from_le_bytes(length) as usize).min(stream.len());
    let payload = *blake3::hash(&stream[HEADER_LEN..end]).as_bytes();
    stream[28..36].copy_from_slice(&payload[..8]);
    let header = *blake3::hash(&stream[..36]).as_bytes();
    stream[36..40].copy_from_slice(&header[..4]);
}
