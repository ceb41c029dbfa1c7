//! Memory for sessions: reserved before the first key is accepted, given back when the session ends.

use std::sync::{Arc, Mutex, PoisonError};
use undertone_protocol::Error;

/// One part in this many of the free memory is kept from sessions when no limit is given.
const KEPT_PART: u64 = 10;

/// The memory of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemMemory {
    /// Physical memory, in bytes.
    pub total_bytes: u64,
    /// Memory that programs can still take, in bytes.
    pub available_bytes: u64,
}

impl SystemMemory {
    /// What the system says now; nothing where it does not say.
    pub fn read() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/meminfo").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let bytes = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            kib.checked_mul(1024)
        };
        Some(Self { total_bytes: bytes("MemTotal:")?, available_bytes: bytes("MemAvailable:")? })
    }

    /// Bytes that a server without a limit of its own gives to sessions once `beside` bytes more are taken: nine tenths
    /// of what is free then.
    pub fn for_sessions(&self, beside: u64) -> u64 {
        let free = self.available_bytes.saturating_sub(beside);
        free - free / KEPT_PART
    }
}

/// A limit shared by all sessions.
#[derive(Debug)]
pub struct Budget {
    total: u64,
    reserved: Mutex<u64>,
}

/// Bytes that a session holds; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    /// A limit of `bytes`, or of nine tenths of the memory that is free now, or none where that cannot be read.
    pub fn new(bytes: Option<u64>) -> Self {
        let free = || SystemMemory::read().map(|memory| memory.for_sessions(0));
        Self { total: bytes.or_else(free).unwrap_or(u64::MAX), reserved: Mutex::new(0) }
    }

    /// Bytes that are left now.
    pub fn free_bytes(&self) -> u64 {
        let reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        self.total.saturating_sub(*reserved)
    }

    /// Takes `bytes` if they are left.
    ///
    /// # Errors
    /// `Memory` with both figures.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, Error> {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.total.saturating_sub(*reserved);
        if bytes > free {
            return Err(Error::Memory { have: free, need: bytes });
        }
        *reserved += bytes;
        Ok(Reservation { budget: self.clone(), bytes })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut reserved = self.budget.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        *reserved = reserved.saturating_sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_sessions_is_that_of_the_free_memory() {
        let memory = SystemMemory::parse("MemTotal:  2000 kB\nMemFree: 1 kB\nMemAvailable:    1000 kB\n").unwrap();
        assert_eq!(memory, SystemMemory { total_bytes: 2000 << 10, available_bytes: 1000 << 10 });
        assert_eq!((memory.for_sessions(0), memory.for_sessions(500 << 10)), (900 << 10, 450 << 10));
        assert_eq!(memory.for_sessions(u64::MAX), 0);
        assert_eq!(SystemMemory::parse("MemTotal:  2000 kB\n"), None);
        assert_eq!(Budget::new(Some(7)).total, 7);
        assert_eq!(SystemMemory::read().is_some(), cfg!(target_os = "linux"));
    }

    #[test]
    fn reservations_are_bounded_and_given_back() {
        let budget = Arc::new(Budget::new(Some(100)));
        let first = budget.reserve(60).unwrap();
        assert_eq!(budget.reserve(41).unwrap_err(), Error::Memory { have: 40, need: 41 });
        assert_eq!(budget.free_bytes(), 40);
        let second = budget.reserve(40).unwrap();
        drop(first);
        assert_eq!(budget.free_bytes(), 60);
        assert!(budget.reserve(61).is_err());
        drop(second);
        assert!(budget.reserve(100).is_ok());
    }
}
