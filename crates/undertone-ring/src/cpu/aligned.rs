//! Cache-line aligned word buffers and the pool that recycles them.
//!
//! Fresh memory costs a page fault per 4 KiB, which for a polynomial of 20 MiB is as dear as the arithmetic on it;
//! so a ring keeps released buffers and hands them out again. A recycled buffer holds stale words until overwritten.

use std::sync::{Arc, Mutex};

/// One cache line of words.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u64; 8]);

/// A word buffer whose start is aligned to 64 bytes.
pub(crate) struct Buffer {
    lines: Vec<Line>,
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
    free: Vec<Vec<Line>>,
    size_bytes: usize,
}

impl BufferPool {
    /// An empty pool that retains at most `limit_bytes`.
    pub(crate) fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), limit_bytes })
    }

    /// A buffer of `len` words with unspecified contents.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let need = len.div_ceil(8);
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let lines = state.free.iter().rposition(|lines| lines.len() == need).map(|at| state.free.remove(at));
        state.size_bytes -= lines.as_ref().map_or(0, |lines| lines.len() * size_of::<Line>());
        drop(state);
        let lines = lines.unwrap_or_else(|| vec![Line([0; 8]); need]);
        Buffer { lines, len, pool: Some(self.clone()) }
    }

    fn give(&self, lines: Vec<Line>) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        state.size_bytes += lines.len() * size_of::<Line>();
        state.free.push(lines);
        let mut evicted = Vec::new();
        while state.size_bytes > self.limit_bytes {
            let oldest = state.free.remove(0);
            state.size_bytes -= oldest.len() * size_of::<Line>();
            evicted.push(oldest);
        }
        // The lock is released before the evicted memory goes back to the system.
        drop(state);
    }
}

impl Buffer {
    /// A zeroed buffer of `len` words that belongs to no pool.
    pub(crate) fn zeroed(len: usize) -> Self {
        Self { lines: vec![Line([0; 8]); len.div_ceil(8)], len, pool: None }
    }

    /// Shortens the buffer; the memory of the tail is released when it is a good part of the whole.
    pub(crate) fn truncate(&mut self, len: usize) {
        assert!(len <= self.len);
        self.len = len;
        self.lines.truncate(len.div_ceil(8));
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u64];
    #[inline]
    fn deref(&self) -> &[u64] {
        // SAFETY: `lines` holds at least len/8 rounded up lines of eight initialised words, without padding.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl std::ops::DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u64] {
        // SAFETY: as for `deref`; the exclusive borrow of `self` makes the slice unique.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
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
        if let Some(pool) = self.pool.take() {
            pool.give(std::mem::take(&mut self.lines));
        }
    }
}
