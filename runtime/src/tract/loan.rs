//! How ops see the host's caches: lent for the duration of a step, never copied.

use std::sync::{PoisonError, RwLock};

use crate::engine::LayerRows;

/// Where the caches of the running step can be read; empty between steps.
#[derive(Debug, Default)]
pub(super) struct Loan(RwLock<Option<Lent>>);

/// The caches of a step.
#[derive(Clone, Copy, Debug)]
struct Lent {
    caches: *const [LayerRows],
    cached: usize,
}

// SAFETY: the pointer stands for a shared reference, and `LayerRows` is `Sync`; `Loan` sees to its lifetime.
unsafe impl Send for Lent {}
// SAFETY: as above.
unsafe impl Sync for Lent {}

impl Loan {
    /// Lends `caches` of `cached` positions while `f` runs.
    pub(super) fn during<R>(&self, caches: &[LayerRows], cached: usize, f: impl FnOnce() -> R) -> R {
        /// Takes the caches back when `f` is over, also when it panics.
        struct Return<'a>(&'a Loan);
        impl Drop for Return<'_> {
            fn drop(&mut self) {
                // Waits for every reader: none can keep the reference longer than `read` holds the lock.
                *self.0.0.write().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
        let guard = Return(self);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Lent { caches, cached });
        let result = f();
        drop(guard);
        result
    }

    /// Calls `f` with the caches and the number of their positions; `None` outside a step.
    pub(super) fn read<R>(&self, f: impl FnOnce(&[LayerRows], usize) -> R) -> Option<R> {
        let lent = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Lent { caches, cached } = (*lent)?;
        // SAFETY: `during` has not returned, since it first takes the lock to clear the loan; so the slice that it
        // borrows is alive and not changed until `lent` is dropped.
        Some(f(unsafe { &*caches }, cached))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_there_during_the_step_only() {
        let loan = Loan::default();
        let caches = vec![LayerRows { k: vec![1.0], v: vec![2.0] }];
        assert_eq!(loan.read(|_, _| ()), None);
        let seen = loan.during(&caches, 7, || loan.read(|caches, cached| (caches[0].v[0], cached)));
        assert_eq!(seen, Some((2.0, 7)));
        assert_eq!(loan.read(|_, _| ()), None);
    }

    #[test]
    fn a_panic_ends_the_loan() {
        let loan = Loan::default();
        let panicked = std::panic::catch_unwind(|| loan.during(&[], 1, || panic!("as asked")));
        assert!(panicked.is_err());
        assert_eq!(loan.read(|_, _| ()), None);
    }
}
