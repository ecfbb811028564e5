//! Several builds at once, within a budget of memory.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How much may be done at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most builds at once, at least one.
    pub jobs: usize,
    /// Most bytes that all builds at work need together.
    pub memory: u64,
    /// Whether builds begin after another has failed.
    pub keep_going: bool,
}

/// What became of a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It failed.
    Failed,
    /// It never began, since another had failed.
    Skipped,
}

/// Does all the work that `costs` lists in bytes of memory: `work` is given the place of each in the list, and tells whether
/// it succeeded. The first that fits begins first; one that needs more than the budget runs alone.
pub fn run(costs: &[u64], limits: Limits, work: &(dyn Fn(usize) -> bool + Sync)) -> Vec<Outcome> {
    let state = State { waiting: (0..costs.len()).collect(), used: 0, working: 0, failed: false };
    let schedule = Schedule { costs, limits, state: Mutex::new(state), changed: Condvar::new() };
    let outcomes = Mutex::new(vec![Outcome::Skipped; costs.len()]);
    std::thread::scope(|scope| {
        for _ in 0..limits.jobs.clamp(1, costs.len().max(1)) {
            scope.spawn(|| {
                while let Some(place) = schedule.next() {
                    let done = schedule.guarded(place, work);
                    let outcome = if done { Outcome::Done } else { Outcome::Failed };
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner)[place] = outcome;
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
}

struct Schedule<'a> {
    costs: &'a [u64],
    limits: Limits,
    state: Mutex<State>,
    /// Something ended.
    changed: Condvar,
}

struct State {
    waiting: Vec<usize>,
    used: u64,
    working: usize,
    failed: bool,
}

impl Schedule<'_> {
    /// What to do next; waits until something fits.
    fn next(&self) -> Option<usize> {
        let mut state = self.state();
        loop {
            if state.waiting.is_empty() || state.failed && !self.limits.keep_going {
                return None;
            }
            let left = self.limits.memory.saturating_sub(state.used);
            let fits = |place: &usize| state.working == 0 || self.costs[*place] <= left;
            if let Some(at) = state.waiting.iter().position(fits) {
                let place = state.waiting.remove(at);
                state.used = state.used.saturating_add(self.costs[place]);
                state.working += 1;
                return Some(place);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Does one piece of work, and gives back what it used even if it panics.
    fn guarded(&self, place: usize, work: &(dyn Fn(usize) -> bool + Sync)) -> bool {
        struct Ended<'a>(&'a Schedule<'a>, usize, bool);
        impl Drop for Ended<'_> {
            fn drop(&mut self) {
                let mut state = self.0.state();
                state.used = state.used.saturating_sub(self.0.costs[self.1]);
                state.working -= 1;
                state.failed |= !self.2;
                self.0.changed.notify_all();
            }
        }
        let mut ended = Ended(self, place, false);
        ended.2 = work(place);
        ended.2
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
    use std::sync::{Barrier, atomic::AtomicBool};

    const MUCH: Limits = Limits { jobs: 4, memory: 100, keep_going: false };

    #[test]
    fn no_more_runs_than_fits() {
        let costs = [40, 70, 30, 200, 10, 60, 60, 5];
        for limits in [MUCH, Limits { jobs: 1, ..MUCH }, Limits { jobs: 2, ..MUCH }] {
            let (used, working) = (AtomicU64::new(0), AtomicUsize::new(0));
            let outcomes = run(&costs, limits, &|place| {
                let now = used.fetch_add(costs[place], SeqCst) + costs[place];
                let others = working.fetch_add(1, SeqCst);
                assert!(others < limits.jobs && (now <= 100 || others == 0), "{now} bytes, {others} others");
                std::thread::yield_now();
                working.fetch_sub(1, SeqCst);
                used.fetch_sub(costs[place], SeqCst);
                true
            });
            assert_eq!(outcomes, [Outcome::Done; 8]);
        }
    }

    #[test]
    fn what_fits_runs_at_once() {
        // Each waits for the others: three at a time, or never.
        let together = Barrier::new(3);
        let outcomes = run(&[30; 6], Limits { jobs: 3, ..MUCH }, &|_| {
            together.wait();
            true
        });
        assert_eq!(outcomes, [Outcome::Done; 6]);
    }

    #[test]
    fn after_a_failure_nothing_begins_unless_asked() {
        let limits = Limits { jobs: 1, ..MUCH };
        let order = [Outcome::Done, Outcome::Failed, Outcome::Skipped];
        assert_eq!(run(&[1; 3], limits, &|place| place != 1), order);
        let order = [Outcome::Done, Outcome::Failed, Outcome::Done];
        assert_eq!(run(&[1; 3], Limits { keep_going: true, ..limits }, &|place| place != 1), order);
        let began = AtomicBool::new(false);
        assert_eq!(run(&[], limits, &|_| began.swap(true, SeqCst)), []);
        assert!(!began.load(SeqCst));
    }
}
