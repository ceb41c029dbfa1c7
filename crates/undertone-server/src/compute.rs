//! One job at a time, in the order of arrival: a job uses every core, and two at once would only slow each other.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;
use undertone_infer::Progress;
use undertone_protocol::Error;

/// How often a waiting job looks whether anybody still waits for it.
const POLL: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    waiting: VecDeque<u64>,
    busy: bool,
}

/// The queue of jobs.
#[derive(Debug, Default)]
pub struct Compute {
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// The right to compute; passed on when dropped.
#[derive(Debug)]
pub struct Slot<'a>(&'a Compute);

impl Compute {
    /// Waits for the turn of this job, reporting its place in the queue as stage `queued`.
    ///
    /// # Errors
    /// `Cancelled` when `progress` says so while waiting.
    pub fn enter(&self, progress: &dyn Progress) -> Result<Slot<'_>, Error> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = queue.next;
        queue.next += 1;
        queue.waiting.push_back(ticket);
        loop {
            let place = queue.waiting.iter().position(|&other| other == ticket).unwrap_or(0);
            if place == 0 && !queue.busy {
                queue.waiting.pop_front();
                queue.busy = true;
                return Ok(Slot(self));
            }
            if progress.cancelled() {
                queue.waiting.retain(|&other| other != ticket);
                self.changed.notify_all();
                return Err(Error::Cancelled);
            }
            progress.step("queued", place + 1, queue.waiting.len(), 0.0);
            let waited = self.changed.wait_timeout(queue, POLL).unwrap_or_else(PoisonError::into_inner);
            queue = waited.0;
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner).busy = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Gone;

    impl Progress for Gone {
        fn step(&self, _: &'static str, _: usize, _: usize, _: f64) {}

        fn cancelled(&self) -> bool {
            true
        }
    }

    #[test]
    fn jobs_run_one_at_a_time_and_cancelled_ones_leave_the_queue() {
        let compute = Compute::default();
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let _slot = compute.enter(&()).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    std::thread::sleep(Duration::from_millis(2));
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        let held = compute.enter(&()).unwrap();
        assert_eq!(compute.enter(&Gone).unwrap_err(), Error::Cancelled);
        drop(held);
        assert!(compute.enter(&Gone).is_ok());
    }
}
