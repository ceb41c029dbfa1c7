//! Memory for sessions: reserved before the first key is accepted, given back when the session ends.

use std::sync::{Arc, Mutex, PoisonError};
use undertone_protocol::Error;

/// Part of the free memory that sessions may take when no limit is given.
const SHARE: f64 = 0.9;

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
        let free = || available_bytes().map(|bytes| (bytes as f64 * SHARE) as u64);
        Self { total: bytes.or_else(free).unwrap_or(u64::MAX), reserved: Mutex::new(0) }
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

/// Memory that programs can still take, where the system tells.
fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_are_bounded_and_given_back() {
        let budget = Arc::new(Budget::new(Some(100)));
        let first = budget.reserve(60).unwrap();
        assert_eq!(budget.reserve(41).unwrap_err(), Error::Memory { have: 40, need: 41 });
        let second = budget.reserve(40).unwrap();
        drop(first);
        assert!(budget.reserve(61).is_err());
        drop(second);
        assert!(budget.reserve(100).is_ok());
    }
}
