//! How many masks each step of a run fills.

/// The points from 1 down to `eps` that a run goes through, one more than there are steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Number of steps.
    pub steps: usize,
    /// The last point.
    pub eps: f32,
}

impl Schedule {
    /// The point before a step. They are equally spaced in float32: the first half counted from 1, the second back from
    /// `eps`, each rounded once, as PyTorch's `linspace` does.
    #[must_use]
    pub fn point(&self, step: usize) -> f32 {
        let width = (self.eps - 1.0) / self.steps as f32;
        match step < self.steps.div_ceil(2) {
            true => (step as f32).mul_add(width, 1.0),
            false => (self.steps.saturating_sub(step) as f32).mul_add(-width, self.eps),
        }
    }

    /// The share of its masks that a step fills; all in the last step.
    #[must_use]
    pub fn share(&self, step: usize) -> f32 {
        if step + 1 < self.steps { 1.0 - self.point(step + 1) / self.point(step) } else { 1.0 }
    }

    /// How many of `masks` a step fills, truncated.
    #[must_use]
    pub fn quota(&self, step: usize, masks: usize) -> usize {
        if step + 1 < self.steps { (masks as f32 * self.share(step)) as usize } else { masks }
    }
}
