//! Filters over one row of logits, and the softmax that turns it into a distribution.

use super::SampleError;

/// The logit of a dropped entry: the lowest finite number. Its probability is 0.
pub const DROPPED: f32 = f32::MIN;

/// Which filter comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Top-k, then top-p (SDAR).
    #[default]
    TopKFirst,
    /// Top-p, then top-k (Dream).
    TopPFirst,
}

/// How a token is drawn at a temperature above 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// By its share of the distribution.
    #[default]
    Share,
    /// As the largest of all logits with Gumbel noise, scaled by the temperature; the distribution stays that of the
    /// logits as they are, unfiltered (LLaDA).
    Gumbel,
}

/// How logits become a distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 means 1 and no draws.
    pub temperature: f32,
    /// Keeps the k largest logits and what equals the last of them; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most probable entries up to the one that carries the sum past p; 1 keeps all.
    pub top_p: f32,
    /// Which filter comes first.
    pub order: Order,
    /// How a token is drawn.
    pub choice: Choice,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, order: Order::default(), choice: Choice::default() }
    }
}

impl Sampling {
    /// Refuses what the formulas have no meaning for. Temperatures below 0.001 would overflow.
    ///
    /// # Errors
    /// Names the setting.
    pub fn check(&self) -> Result<(), SampleError> {
        let wrong = |name, allowed, value| Err(SampleError::Setting { name, allowed, value });
        if self.temperature != 0.0 && !(0.001..=1000.0).contains(&self.temperature) {
            return wrong("temperature", "0 (greedy) or 0.001 to 1000", self.temperature);
        }
        if self.top_p <= 0.0 || self.top_p.is_nan() {
            return wrong("top_p", "above 0 (1 switches it off)", self.top_p);
        }
        Ok(())
    }

    /// The distribution that tokens are chosen from.
    #[must_use]
    pub fn distribution(&self, logits: &[f32]) -> Vec<f64> {
        if self.choice == Choice::Gumbel {
            return softmax(logits);
        }
        let mut row = logits.to_vec();
        let row = &mut row[..];
        if self.temperature > 0.0 {
            row.iter_mut().for_each(|l| *l /= self.temperature);
        }
        match self.order {
            Order::TopKFirst => {
                top_k(row, self.top_k);
                top_p(row, self.top_p);
            }
            Order::TopPFirst => {
                top_p(row, self.top_p);
                top_k(row, self.top_k);
            }
        }
        softmax(row)
    }
}

/// The index of the largest entry, the lowest of equals; 0 for an empty row. NaN never wins.
#[must_use]
pub fn argmax<T: PartialOrd + Copy>(row: &[T]) -> usize {
    let mut best = 0;
    for (i, &value) in row.iter().enumerate() {
        // Only NaN has no place beside itself.
        if value > row[best] || row[best].partial_cmp(&row[best]).is_none() {
            best = i;
        }
    }
    best
}

/// Logits to probabilities.
#[must_use]
pub fn softmax(logits: &[f32]) -> Vec<f64> {
    let mut row = logits.to_vec();
    let total = exponentials(&mut row);
    row.iter().map(|&e| f64::from(e) / total).collect()
}

/// Drops everything below the k-th largest entry; what equals it stays. `k = 0` and a k beyond the row keep all.
pub fn top_k(row: &mut [f32], k: usize) {
    if k == 0 || k >= row.len() {
        return;
    }
    let mut sorted = row.to_vec();
    let (_, &mut least, _) = sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    row.iter_mut().filter(|l| **l < least).for_each(|l| *l = DROPPED);
}

/// Drops an entry when those more probable than it (the lower index first among equals) sum to more than `p`; the most
/// probable one stays. `p >= 1` keeps all.
pub fn top_p(row: &mut [f32], p: f32) {
    if p >= 1.0 || row.is_empty() {
        return;
    }
    let mut probabilities = row.to_vec();
    let total = exponentials(&mut probabilities);
    let mut order: Vec<u32> = (0..row.len() as u32).collect();
    let before = |a: &u32, b: &u32| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));

    // A vocabulary is long and what is kept of it short: sort the front, and more of it only when needed.
    let (mut sorted, mut kept, mut sum) = (0, 0, 0.0);
    while kept == sorted && kept < order.len() {
        let front = (sorted * 8).max(64).min(order.len());
        let rest = &mut order[sorted..];
        if front - sorted < rest.len() {
            rest.select_nth_unstable_by(front - sorted, before);
        }
        rest[..front - sorted].sort_unstable_by(before);
        sorted = front;
        while kept < sorted && sum <= f64::from(p) {
            sum += f64::from(probabilities[order[kept] as usize]) / total;
            kept += 1;
        }
    }
    for &i in &order[kept..] {
        row[i as usize] = DROPPED;
    }
}

/// Replaces each entry by `exp(entry - largest)`; returns their sum.
fn exponentials(row: &mut [f32]) -> f64 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|l| *l = libm::expf(*l - largest));
    row.iter().map(|&e| f64::from(e)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of top-p, in full.
    fn top_p_by_sorting(row: &mut [f32], p: f32) {
        let mut probabilities = row.to_vec();
        let total = exponentials(&mut probabilities);
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        let mut before = 0.0;
        for i in order {
            if before > f64::from(p) {
                row[i] = DROPPED;
            }
            before += f64::from(probabilities[i]) / total;
        }
    }

    #[test]
    fn top_p_of_long_rows_equals_its_definition() {
        for width in [1, 2, 63, 64, 65, 512, 513, 5000] {
            for (scale, p) in [(0.01, 0.9), (0.01, 0.99999), (1.0, 0.5), (3.0, 0.95), (40.0, 0.1)] {
                let mut row: Vec<f32> = (0..width).map(|i| ((i * 7919) % 613) as f32 / 613.0 * scale).collect();
                let mut want = row.clone();
                top_p(&mut row, p);
                top_p_by_sorting(&mut want, p);
                assert_eq!(row, want, "{width} wide, scale {scale}, p {p}");
            }
        }
    }

    #[test]
    fn a_dropped_entry_has_no_probability() {
        let row = softmax(&[1.0, DROPPED, f32::NEG_INFINITY, 1.0]);
        assert_eq!(row, [0.5, 0.0, 0.0, 0.5]);
        assert_eq!((argmax(&row), argmax(&[f32::NAN, 2.0, 2.0])), (0, 1));
    }

    #[test]
    fn nearly_certain_is_not_certain() {
        let (near, nearer) = (softmax(&[20.0, 0.0])[0], softmax(&[22.0, 0.0])[0]);
        assert!(near < nearer && nearer < 1.0 && near as f32 == 1.0);
    }
}
