//! Aligned word buffers and the pool that recycles them.
//!
//! Fresh memory costs a page fault per page, which for a polynomial of 20 MiB is as dear as the arithmetic on it;
//! so a ring keeps released buffers and hands them out again. Large buffers (`pages`) ask for huge pages, which spare
//! the strided passes of the NTT most address translations. A recycled buffer holds stale words until overwritten.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use super::pages;

/// Buffers of at least this size are aligned to it and ask for huge pages.
const HUGE_BYTES: usize = 2 << 20;
/// The alignment of smaller buffers: a cache line.
const LINE_BYTES: usize = 64;

/// Initialised words on the heap, aligned to a cache line or a huge page.
struct Block {
    start: NonNull<u64>,
    words: usize,
}

// SAFETY: a block owns its words exclusively, as a `Vec<u64>` does.
unsafe impl Send for Block {}
// SAFETY: shared access only reads words.
unsafe impl Sync for Block {}

impl Block {
    fn layout(words: usize) -> Layout {
        let size = words.max(1).checked_mul(8).expect("a buffer fits the address space");
        let align = if size >= HUGE_BYTES { HUGE_BYTES } else { LINE_BYTES };
        Layout::from_size_align(size, align).expect("a buffer fits the address space")
    }

    /// Zeroed words.
    fn new(words: usize) -> Self {
        let layout = Self::layout(words);
        let start = if layout.align() == HUGE_BYTES {
            pages::map(layout)
        } else {
            // SAFETY: the layout is not empty.
            NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
        };
        // Zeros are valid words.
        Self { start: start.cast(), words }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let (start, layout) = (self.start.cast(), Self::layout(self.words));
        // SAFETY: allocated in `new` in the same way, with the layout of the same number of words.
        unsafe {
            if layout.align() == HUGE_BYTES {
                pages::unmap(start, layout);
            } else {
                dealloc(start.as_ptr(), layout);
            }
        }
    }
}

/// Words that start at an aligned address; dropped, they go back to their pool.
pub(crate) struct Buffer {
    /// `None` only while being dropped.
    block: Option<Block>,
    len: usize,
    pool: Option<Arc<BufferPool>>,
}

/// Released buffers of a ring, oldest first, at most `limit_bytes` in total.
pub(crate) struct BufferPool {
    state: Mutex<PoolState>,
    limit_bytes: usize,
}

#[derive(Default)]
struct PoolState {
    free: Vec<Block>,
    size_bytes: usize,
}

impl BufferPool {
    /// An empty pool that retains at most `limit_bytes`.
    pub(crate) fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), limit_bytes })
    }

    /// A buffer of `len` words with unspecified contents: the tightest free one that wastes at most half of itself, the
    /// latest among equals, because it is likeliest to be in a cache.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let fits = |(_, block): &(usize, &Block)| (len..=2 * len).contains(&block.words);
        let best = state.free.iter().enumerate().rev().filter(fits).min_by_key(|(_, block)| block.words);
        let recycled = best.map(|(at, _)| at).map(|at| state.free.remove(at));
        state.size_bytes -= recycled.as_ref().map_or(0, |block| 8 * block.words);
        drop(state);
        let block = recycled.unwrap_or_else(|| Block::new(len));
        Buffer { block: Some(block), len, pool: Some(self.clone()) }
    }

    /// The words of all free buffers.
    pub(crate) fn released_words(&self) -> Vec<u64> {
        let state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        // SAFETY: a block holds `words` initialised words, and a free one has no other owner.
        let words = |block: &Block| unsafe { std::slice::from_raw_parts(block.start.as_ptr(), block.words) }.to_vec();
        state.free.iter().flat_map(words).collect()
    }

    fn give(&self, block: Block) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        state.size_bytes += 8 * block.words;
        state.free.push(block);
        let mut evicted = Vec::new();
        while state.size_bytes > self.limit_bytes {
            let oldest = state.free.remove(0);
            state.size_bytes -= 8 * oldest.words;
            evicted.push(oldest);
        }
        // The lock is released before the evicted memory goes back to the system.
        drop(state);
    }
}

impl Buffer {
    /// A zeroed buffer of `len` words that belongs to no pool.
    pub(crate) fn zeroed(len: usize) -> Self {
        Self { block: Some(Block::new(len)), len, pool: None }
    }

    /// Forgets the words from `len` on; the memory stays with the buffer.
    pub(crate) fn truncate(&mut self, len: usize) {
        assert!(len <= self.len);
        self.len = len;
    }

    /// Whether its memory goes back to a pool, and may be larger than its words.
    pub(crate) fn pooled(&self) -> bool {
        self.pool.is_some()
    }

    fn block(&self) -> &Block {
        self.block.as_ref().expect("a live buffer has its block")
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u64];
    #[inline]
    fn deref(&self) -> &[u64] {
        // SAFETY: the block holds at least `len` initialised words.
        unsafe { std::slice::from_raw_parts(self.block().start.as_ptr(), self.len) }
    }
}

impl std::ops::DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u64] {
        // SAFETY: as for `deref`; the exclusive borrow of `self` makes the slice unique.
        unsafe { std::slice::from_raw_parts_mut(self.block().start.as_ptr(), self.len) }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let mut copy = match &self.pool {
            Some(pool) => pool.take(self.len),
            None => Self::zeroed(self.len),
        };
        copy.copy_from_slice(self);
        copy
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let (Some(pool), Some(block)) = (self.pool.take(), self.block.take()) {
            pool.give(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_recycled_within_the_limit() {
        let pool = BufferPool::new(1 << 20);
        let mut first = pool.take(1000);
        first.fill(7);
        assert!((first.as_ptr() as usize).is_multiple_of(64));
        drop(first);
        let again = pool.take(900);
        assert!(again.len() == 900 && again.iter().all(|&w| w == 7));
        // Too small a request does not tie up a large buffer, and a large one beyond the limit is given up.
        drop(again);
        assert!(pool.take(100).iter().all(|&w| w == 0));
        drop(pool.take(1 << 18));
        assert!(pool.state.lock().unwrap().size_bytes <= 1 << 20);
        let copy = pool.take(10).clone();
        assert_eq!(copy.len(), 10);
    }

    #[test]
    fn empty_and_huge_buffers_are_valid() {
        assert!(Buffer::zeroed(0).is_empty());
        let huge = Buffer::zeroed((3 << 20) / 8);
        assert!((huge.as_ptr() as usize).is_multiple_of(HUGE_BYTES) && huge.iter().all(|&w| w == 0));
    }
}
