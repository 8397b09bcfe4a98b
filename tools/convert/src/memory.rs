//! The memory that blocks under way may take.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use ccq_cli::interrupted;

/// How often a waiting reader looks for Ctrl-C.
const PATIENCE: Duration = Duration::from_millis(50);

/// Memory that is taken before a block is read and given back when it is written.
#[derive(Debug)]
pub struct Budget {
    state: Mutex<State>,
    changed: Condvar,
    limit: u64,
    /// Blocks at a time: more would not be faster.
    blocks: usize,
}

#[derive(Debug, Default)]
struct State {
    taken: u64,
    blocks: usize,
    /// The most that was taken at a time.
    peak: u64,
    stopped: bool,
}

impl Budget {
    /// `limit` bytes, and at most so many blocks.
    pub fn new(limit: u64, blocks: usize) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), limit, blocks: blocks.max(1) }
    }

    /// Waits until there is room for a block of so many bytes, and takes it; a block that is larger than all of
    /// the budget goes alone. False after [`Budget::stop`] or Ctrl-C.
    pub fn take(&self, bytes: u64) -> bool {
        let mut state = self.lock();
        loop {
            if state.stopped || interrupted() {
                return false;
            }
            let room = state.taken.saturating_add(bytes) <= self.limit && state.blocks < self.blocks;
            if room || state.blocks == 0 {
                state.taken = state.taken.saturating_add(bytes);
                state.peak = state.peak.max(state.taken);
                state.blocks = state.blocks.saturating_add(1);
                return true;
            }
            state = match self.changed.wait_timeout(state, PATIENCE) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Gives back some of what a block took.
    pub fn give(&self, bytes: u64) {
        let mut state = self.lock();
        state.taken = state.taken.saturating_sub(bytes);
        self.changed.notify_all();
    }

    /// Gives back the rest of what a block took.
    pub fn done(&self, bytes: u64) {
        let mut state = self.lock();
        state.taken = state.taken.saturating_sub(bytes);
        state.blocks = state.blocks.saturating_sub(1);
        self.changed.notify_all();
    }

    /// Ends all waiting: something failed.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Whether [`Budget::stop`] was called.
    pub fn stopped(&self) -> bool {
        self.lock().stopped
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_stays_within_the_limit() {
        let budget = Budget::new(100, 8);
        std::thread::scope(|scope| {
            let (send, receive) = std::sync::mpsc::channel();
            scope.spawn(|| {
                let send = send;
                for size in (1..=60).chain([500, 3]) {
                    assert!(budget.take(size));
                    send.send(size).unwrap();
                }
            });
            for size in receive {
                budget.give(size / 2);
                budget.done(size - size / 2);
            }
        });
        let state = budget.lock();
        assert_eq!((state.taken, state.blocks), (0, 0));
        // The one that is larger than the limit had it alone.
        assert_eq!(state.peak, 500);
    }

    #[test]
    fn stopping_ends_the_wait() {
        let budget = Budget::new(1, 1);
        assert!(budget.take(1));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| budget.take(1));
            budget.stop();
            assert!(!waiting.join().unwrap());
        });
        assert!(budget.stopped());
    }
}
