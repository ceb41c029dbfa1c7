//! Blobs: byte strings longer than a frame, cut into chunks and put together again.
//!
//! The receiver knows the exact length of every blob beforehand, from parameters, never from the peer alone. All
//! chunks of a blob but the last are full, so that there is one way to send it, and memory grows with what arrived.

use crate::Error;
use crate::frame::CHUNK_LEN;
use crate::message::Message;
use std::collections::VecDeque;
use zeroize::{Zeroize, Zeroizing};

/// Puts a list of blobs together from chunks.
#[derive(Debug)]
pub struct BlobReceiver {
    what: &'static str,
    lengths: VecDeque<usize>,
    current: Vec<u8>,
    done: Vec<Vec<u8>>,
    /// Whether no copy of the contents may stay behind.
    secret: bool,
}

impl BlobReceiver {
    /// Expects blobs of exactly these lengths, in order; `what` names one of them in errors.
    pub fn new(what: &'static str, lengths: impl IntoIterator<Item = usize>) -> Self {
        Self { what, lengths: lengths.into_iter().collect(), current: Vec::new(), done: Vec::new(), secret: false }
    }

    /// Expects one blob, to be put together in memory that an earlier one of its kind left behind.
    pub fn reusing(what: &'static str, len: usize, mut memory: Vec<u8>) -> Self {
        memory.clear();
        let mut receiver = Self::new(what, [len]);
        receiver.current = memory;
        receiver
    }

    /// Expects one secret blob; whatever of it is not handed out is wiped.
    pub fn secret(what: &'static str, len: usize) -> Self {
        let mut receiver = Self::new(what, [len]);
        receiver.secret = true;
        receiver
    }

    /// Takes a chunk.
    ///
    /// # Errors
    /// `Unexpected` when the chunk has not the size that is due, `Trailing` when no blob is due.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let Some(&len) = self.lengths.front() else {
            return Err(Error::Trailing { what: self.what, have: chunk.len() });
        };
        let due = (len - self.current.len()).min(CHUNK_LEN);
        if chunk.len() != due {
            return Err(Error::Unexpected { field: "chunk length", have: chunk.len() as u64, need: due as u64 });
        }
        // Grow in proportion to what has arrived: an announcement alone costs nothing.
        let room = (2 * (self.current.len() + chunk.len())).min(len) - self.current.len();
        if self.secret && self.current.capacity() < self.current.len() + chunk.len() {
            // Growing in place could leave a copy behind.
            let mut larger = Vec::with_capacity(self.current.len() + room);
            larger.extend_from_slice(&self.current);
            self.current.zeroize();
            self.current = larger;
        }
        self.current.reserve_exact(room);
        self.current.extend_from_slice(chunk);
        if self.current.len() == len {
            self.lengths.pop_front();
            self.done.push(std::mem::take(&mut self.current));
        }
        Ok(())
    }

    /// Whether every blob is complete.
    pub fn complete(&self) -> bool {
        self.lengths.is_empty()
    }

    /// The blobs, in order.
    pub fn into_blobs(mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.done)
    }
}

impl Drop for BlobReceiver {
    fn drop(&mut self) {
        if self.secret {
            self.current.zeroize();
            self.done.zeroize();
        }
    }
}

/// Messages waiting to be sent, with blobs cut on demand.
#[derive(Default)]
pub struct Outbox {
    queue: VecDeque<Item>,
    /// What the last blob lay in.
    spent: Vec<u8>,
}

enum Item {
    Message(Box<Message>),
    Blob { bytes: Vec<u8>, sent: usize },
    Secret { bytes: Zeroizing<Vec<u8>>, sent: usize },
}

impl Outbox {
    /// Queues a message.
    pub fn push(&mut self, message: Message) {
        self.queue.push_back(Item::Message(Box::new(message)));
    }

    /// Queues a blob; it leaves as chunks.
    pub fn push_blob(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.queue.push_back(Item::Blob { bytes, sent: 0 });
        }
    }

    /// Queues a secret blob, which is wiped once it has left as chunks; those are the driver's to wipe.
    pub fn push_secret(&mut self, bytes: Zeroizing<Vec<u8>>) {
        if !bytes.is_empty() {
            self.queue.push_back(Item::Secret { bytes, sent: 0 });
        }
    }

    /// The next message to send.
    pub fn pop(&mut self) -> Option<Message> {
        match self.queue.front_mut()? {
            Item::Blob { bytes, sent } => {
                let end = (*sent + CHUNK_LEN).min(bytes.len());
                let chunk = Message::Chunk(bytes[*sent..end].to_vec());
                *sent = end;
                if end == bytes.len() {
                    self.spent = std::mem::take(bytes);
                    self.queue.pop_front();
                }
                Some(chunk)
            }
            Item::Secret { bytes, sent } => {
                let end = (*sent + CHUNK_LEN).min(bytes.len());
                let chunk = Message::Chunk(bytes[*sent..end].to_vec());
                *sent = end;
                if end == bytes.len() {
                    self.queue.pop_front();
                }
                Some(chunk)
            }
            Item::Message(_) => match self.queue.pop_front() {
                Some(Item::Message(message)) => Some(*message),
                _ => None,
            },
        }
    }

    /// The memory of the last blob that left, with stale contents, for the next one: fresh memory is dear.
    pub fn take_spent(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.spent)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(blobs: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut outbox = Outbox::default();
        for blob in blobs {
            outbox.push_blob(blob.clone());
        }
        std::iter::from_fn(|| outbox.pop())
            .map(|message| match message {
                Message::Chunk(bytes) => bytes,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn blobs_of_all_sizes_survive_cutting() {
        for lengths in [vec![1], vec![CHUNK_LEN], vec![CHUNK_LEN + 1, 3], vec![3 * CHUNK_LEN - 1, CHUNK_LEN]] {
            let blobs: Vec<Vec<u8>> =
                lengths.iter().map(|&len| (0..len).map(|i| (i * 31 % 251) as u8).collect()).collect();
            let mut receiver = BlobReceiver::new("a blob", lengths);
            for chunk in chunks(&blobs) {
                assert!(!receiver.complete());
                receiver.push(&chunk).unwrap();
            }
            assert!(receiver.complete());
            assert_eq!(receiver.into_blobs(), blobs);
        }
    }

    #[test]
    fn secret_blobs_arrive_like_others() {
        let blob: Vec<u8> = (0..5 * CHUNK_LEN + 3).map(|i| (i * 31 % 251) as u8).collect();
        let (mut outbox, mut receiver) = (Outbox::default(), BlobReceiver::secret("a seed", blob.len()));
        outbox.push_secret(Zeroizing::new(blob.clone()));
        while let Some(Message::Chunk(bytes)) = outbox.pop() {
            receiver.push(&bytes).unwrap();
        }
        assert!(outbox.is_empty() && receiver.complete());
        assert_eq!(receiver.into_blobs(), [blob]);
    }

    #[test]
    fn short_long_and_surplus_chunks_are_refused() {
        let mut receiver = BlobReceiver::new("a blob", [CHUNK_LEN + 5]);
        assert!(matches!(receiver.push(&[0; 5]), Err(Error::Unexpected { have: 5, .. })));
        receiver.push(&vec![0; CHUNK_LEN]).unwrap();
        assert!(matches!(receiver.push(&[0; 6]), Err(Error::Unexpected { have: 6, need: 5, .. })));
        receiver.push(&[0; 5]).unwrap();
        assert!(matches!(receiver.push(&[0; 5]), Err(Error::Trailing { have: 5, .. })));
    }
}
