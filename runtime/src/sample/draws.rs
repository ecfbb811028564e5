//! Random numbers that are the same on every machine.

use std::collections::VecDeque;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Uniform numbers: those of a recording, where there is one, then those that follow from a seed.
#[derive(Clone, Debug)]
pub struct Draws {
    recorded: VecDeque<f64>,
    seeded: ChaCha8Rng,
}

impl Draws {
    /// Numbers that follow from `seed` alone.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { recorded: VecDeque::new(), seeded: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Puts recorded numbers before those to come.
    pub fn replay(&mut self, recorded: impl IntoIterator<Item = f64>) {
        self.recorded.extend(recorded);
    }

    /// A uniform number in `[0, 1)`, 53 bits of it.
    pub fn uniform(&mut self) -> f64 {
        let seeded = &mut self.seeded;
        self.recorded.pop_front().unwrap_or_else(|| (seeded.next_u64() >> 11) as f64 / (1u64 << 53) as f64)
    }

    /// An index drawn in proportion to `weights`, by inverting their cumulative sum; 0 when all are 0.
    pub fn index(&mut self, weights: &[f64]) -> usize {
        let total: f64 = weights.iter().sum();
        let mut left = self.uniform() * total;
        let mut last = 0;
        for (i, &weight) in weights.iter().enumerate().filter(|&(_, &w)| w > 0.0) {
            last = i;
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
        last
    }
}
