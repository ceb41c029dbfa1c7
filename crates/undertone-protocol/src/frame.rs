//! Frames: the only thing that travels on a connection.
//!
//! Layout (little endian): magic 4, version 1, type 1, flags 2, session 8, sequence 8, length 4, payload checksum 8,
//! header checksum 4, then the payload. Both checksums are truncated BLAKE3; they detect damage, not malice.
//! The header is believed only after its checksum, and nothing is allocated before that. Each direction counts its
//! frames from 0, so a lost, repeated or moved frame is refused at once.
//! Builds with `insecure-test-parameters` use another magic and can only speak to each other.

use crate::Error;
use crate::message::MessageType;

/// Version of the frame layout and of the messages.
pub const PROTOCOL_VERSION: u8 = 1;
/// Bytes of a frame header.
pub const HEADER_LEN: usize = 40;
/// Most bytes that one frame carries.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// Bytes of a full chunk of a blob: few enough that allocators keep its memory, because fresh pages cost more than the
/// copies.
pub const CHUNK_LEN: usize = 64 << 10;

const MAGIC_SECURE: [u8; 4] = *b"UTN\x01";
const MAGIC_INSECURE: [u8; 4] = *b"UTX\x01";

/// The magic of this build and the one of the builds it must not speak to.
const fn magics() -> ([u8; 4], [u8; 4]) {
    if cfg!(feature = "insecure-test-parameters") {
        (MAGIC_INSECURE, MAGIC_SECURE)
    } else {
        (MAGIC_SECURE, MAGIC_INSECURE)
    }
}

/// A checked frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the payload is.
    pub message_type: MessageType,
    /// Session number given by the server; 0 before the server has given one.
    pub session: u64,
    /// Number of the frame in its direction, from 0.
    pub sequence: u64,
    /// Bytes of payload, at most the cap of the type.
    pub len: usize,
    payload_checksum: [u8; 8],
}

/// One frame: a checked header and its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The header.
    pub header: FrameHeader,
    /// The payload, `header.len` bytes.
    pub payload: Vec<u8>,
}

impl FrameHeader {
    fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0u8; HEADER_LEN];
        out[0..4].copy_from_slice(&magics().0);
        out[4] = PROTOCOL_VERSION;
        out[5] = self.message_type as u8;
        out[8..16].copy_from_slice(&self.session.to_le_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        out[24..28].copy_from_slice(&(self.len as u32).to_le_bytes());
        out[28..36].copy_from_slice(&self.payload_checksum);
        let check = checksum::<4>(&out[..36]);
        out[36..40].copy_from_slice(&check);
        out
    }

    /// Reads and checks a header.
    ///
    /// # Errors
    /// `Magic`, `TlsPeer`, `InsecurePeer`, `Version`, `HeaderChecksum`, `MessageType`, `Flags` or `TooLong`, in this order.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, Error> {
        let (ours, other) = magics();
        let magic: [u8; 4] = field(bytes, 0);
        // A build with other features is named only when the rest of the header is intact, so that damage to the
        // magic is not mistaken for it.
        let intact = checksum::<4>(&bytes[..36]) == field::<4>(bytes, 36);
        if magic == other && intact {
            return Err(Error::InsecurePeer);
        }
        if magic != ours {
            return Err(if is_tls(bytes) { Error::TlsPeer } else { Error::Magic });
        }
        if !intact {
            return Err(Error::HeaderChecksum);
        }
        if bytes[4] != PROTOCOL_VERSION {
            return Err(Error::Version { have: u16::from(bytes[4]), need: u16::from(PROTOCOL_VERSION) });
        }
        let message_type = MessageType::from_byte(bytes[5]).ok_or(Error::MessageType { have: bytes[5] })?;
        let flags = u16::from_le_bytes(field(bytes, 6));
        if flags != 0 {
            return Err(Error::Flags { have: flags });
        }
        let len = u32::from_le_bytes(field(bytes, 24)) as usize;
        let need = message_type.max_payload();
        if len > need {
            return Err(Error::TooLong { message: message_type.name(), have: len, need });
        }
        Ok(Self {
            message_type,
            session: u64::from_le_bytes(field(bytes, 8)),
            sequence: u64::from_le_bytes(field(bytes, 16)),
            len,
            payload_checksum: field(bytes, 28),
        })
    }

    fn check_payload(&self, payload: &[u8]) -> Result<(), Error> {
        if checksum::<8>(payload) != self.payload_checksum {
            return Err(Error::PayloadChecksum { message: self.message_type.name(), have: payload.len() });
        }
        Ok(())
    }
}

/// Whether these are the first bytes of a TLS record: a handshake or an alert of version 3.x (RFC 8446, section 5.1).
fn is_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [0x15 | 0x16, 0x03, 0x00..=0x04, ..])
}

fn field<const K: usize>(bytes: &[u8; HEADER_LEN], at: usize) -> [u8; K] {
    let mut out = [0u8; K];
    out.copy_from_slice(&bytes[at..at + K]);
    out
}

fn checksum<const K: usize>(bytes: &[u8]) -> [u8; K] {
    let mut out = [0u8; K];
    out.copy_from_slice(&blake3::hash(bytes).as_bytes()[..K]);
    out
}

/// Writes one frame.
///
/// # Errors
/// `TooLong` when the payload exceeds the cap of its type.
pub fn encode_frame(message_type: MessageType, session: u64, sequence: u64, payload: &[u8]) -> Result<Vec<u8>, Error> {
    let need = message_type.max_payload();
    if payload.len() > need {
        return Err(Error::TooLong { message: message_type.name(), have: payload.len(), need });
    }
    let header =
        FrameHeader { message_type, session, sequence, len: payload.len(), payload_checksum: checksum(payload) };
    let mut out = Vec::with_capacity(HEADER_LEN + payload.len());
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(payload);
    Ok(out)
}

/// Reads exactly one frame from a buffer; a pure function without session state.
///
/// # Errors
/// `Truncated`, `Trailing`, those of [`FrameHeader::decode`], or `PayloadChecksum`.
pub fn decode_frame(bytes: &[u8]) -> Result<(FrameHeader, &[u8]), Error> {
    let Some((head, payload)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Err(Error::Truncated { what: "a frame header", have: bytes.len(), need: HEADER_LEN });
    };
    let header = FrameHeader::decode(head)?;
    if payload.len() < header.len {
        return Err(Error::Truncated { what: "a frame", have: bytes.len(), need: HEADER_LEN + header.len });
    }
    if payload.len() > header.len {
        return Err(Error::Trailing { what: "a frame", have: payload.len() - header.len });
    }
    header.check_payload(payload)?;
    Ok((header, payload))
}

/// Reads the frames of one direction from bytes that arrive in pieces of any size.
///
/// After an error the decoder stays in error: a damaged stream has no next frame.
#[derive(Debug)]
pub struct FrameDecoder {
    session: u64,
    sequence: u64,
    head: [u8; HEADER_LEN],
    filled: usize,
    current: Option<(FrameHeader, Vec<u8>)>,
    failed: Option<Error>,
}

impl FrameDecoder {
    /// A decoder for a direction that starts with frame 0 of session 0.
    pub fn new() -> Self {
        Self { session: 0, sequence: 0, head: [0; HEADER_LEN], filled: 0, current: None, failed: None }
    }

    /// From the next frame on, only frames of this session are accepted.
    pub fn set_session(&mut self, session: u64) {
        self.session = session;
    }

    /// Consumes bytes from the front of `input` until a frame is complete or the input is used up.
    ///
    /// # Errors
    /// Those of [`FrameHeader::decode`], `WrongSession`, `Replayed`, `Reordered` or `PayloadChecksum`; the same error
    /// again on every later call.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.advance(input);
        if let Err(error) = &result {
            self.failed = Some(error.clone());
            self.current = None;
        }
        result
    }

    /// Whether the stream may end here, that is, between two frames.
    ///
    /// # Errors
    /// `Truncated` inside a frame, `TlsPeer` after the beginning of a TLS record, or the error found before.
    pub fn finish(&self) -> Result<(), Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let (have, need) = match &self.current {
            Some((header, payload)) => (HEADER_LEN + payload.len(), HEADER_LEN + header.len),
            None if self.filled == 0 => return Ok(()),
            // An alert of a TLS server is shorter than a header, and all that it says to one who does not speak TLS.
            None if is_tls(&self.head[..self.filled]) => return Err(Error::TlsPeer),
            None => (self.filled, HEADER_LEN),
        };
        Err(Error::Truncated { what: "a frame", have, need })
    }

    fn advance(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, Error> {
        if self.current.is_none() {
            let take = (HEADER_LEN - self.filled).min(input.len());
            let (now, rest) = input.split_at(take);
            self.head[self.filled..self.filled + take].copy_from_slice(now);
            self.filled += take;
            *input = rest;
            if self.filled < HEADER_LEN {
                return Ok(None);
            }
            let header = FrameHeader::decode(&self.head)?;
            self.check_place(&header)?;
            self.filled = 0;
            self.current = Some((header, Vec::with_capacity(header.len)));
        }
        let Some((header, payload)) = &mut self.current else { return Ok(None) };
        let take = (header.len - payload.len()).min(input.len());
        let (now, rest) = input.split_at(take);
        payload.extend_from_slice(now);
        *input = rest;
        if payload.len() < header.len {
            return Ok(None);
        }
        header.check_payload(payload)?;
        self.sequence += 1;
        Ok(self.current.take().map(|(header, payload)| Frame { header, payload }))
    }

    fn check_place(&self, header: &FrameHeader) -> Result<(), Error> {
        if header.session != self.session {
            return Err(Error::WrongSession);
        }
        let (have, need) = (header.sequence, self.sequence);
        match have.cmp(&need) {
            std::cmp::Ordering::Less => Err(Error::Replayed { have, need }),
            std::cmp::Ordering::Greater => Err(Error::Reordered { have, need }),
            std::cmp::Ordering::Equal => Ok(()),
        }
    }
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self::new()
    }
}
