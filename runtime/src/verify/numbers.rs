//! Two engines on the same tokens: how far apart are they, and from which layer on?

use super::{Limits, VerifyError, max_error};
use crate::sample::{argmax, softmax};
use crate::session::{Session, Store};

/// What a comparison is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// The source rounds as the other does: the two must be equal but for the order of sums.
    Exactness,
    /// The source rounds nothing: the difference is what the encoding costs.
    Cost,
    /// Two engines run the same artifact.
    Engine,
}

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Numbers {
    /// Name of the case.
    pub case: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Rows compared.
    pub rows: usize,
    /// Largest absolute error of a logit.
    pub max_error: f32,
    /// Mean absolute error.
    pub mean_error: f32,
    /// Largest absolute logit of the source.
    pub max_logit: f32,
    /// Smallest cosine between two rows.
    pub cosine: f32,
    /// Mean divergence (KL, in nats) from the source's distribution.
    pub kl: f32,
    /// Share of rows with the same best token.
    pub top1: f32,
    /// Share of rows with the same best token, or one that is as good within the error limit.
    pub as_good: f32,
    /// The first layer whose keys or values are further apart than the limit, when the check fails.
    pub departs: Option<usize>,
    /// The limits that counted.
    pub limits: Limits,
    /// Whether all were kept.
    pub passed: bool,
}

/// Feeds `tokens` to both, without a cache, and compares all rows.
///
/// # Errors
/// When a pass cannot be run.
pub fn compare(
    source: &mut Session,
    other: &mut Session,
    (case, purpose): (&str, Purpose),
    tokens: &[u32],
    limits: Limits,
) -> Result<Numbers, VerifyError> {
    let rows: Vec<u32> = (0..tokens.len() as u32).collect();
    source.clear();
    other.clear();
    let width = source.shape().vocab;
    let a = source.pass(tokens, 0, &rows, Store::Keep)?.to_vec();
    let b = other.pass(tokens, 0, &rows, Store::Keep)?.to_vec();
    let mut numbers = Numbers { case: case.into(), purpose, ..measure(&a, &b, width, limits) };
    if !numbers.passed {
        numbers.departs = departs(source, other, limits);
    }
    Ok(numbers)
}

/// All figures but the name, the purpose and the layer.
fn measure(a: &[f32], b: &[f32], width: usize, limits: Limits) -> Numbers {
    let rows = a.len() / width.max(1);
    let max_logit = a.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let (mut sum, mut cosine, mut kl) = (0.0f64, 1.0f64, 0.0f64);
    let (mut same, mut as_good) = (0usize, 0usize);
    for (a, b) in a.chunks(width.max(1)).zip(b.chunks(width.max(1))) {
        sum += a.iter().zip(b).map(|(x, y)| f64::from((x - y).abs())).sum::<f64>();
        cosine = cosine.min(cosine_of(a, b));
        kl += divergence(a, b);
        let (best, other) = (argmax(a), argmax(b));
        same += usize::from(best == other);
        as_good += usize::from(a[best] - a[other] <= limits.max_error * max_logit);
    }
    let error = max_error(a, b);
    let mut numbers = Numbers {
        case: String::new(),
        purpose: Purpose::Exactness,
        rows,
        max_error: error,
        mean_error: (sum / a.len().max(1) as f64) as f32,
        max_logit,
        cosine: cosine as f32,
        kl: (kl / rows.max(1) as f64) as f32,
        top1: same as f32 / rows.max(1) as f32,
        as_good: as_good as f32 / rows.max(1) as f32,
        departs: None,
        limits,
        passed: false,
    };
    let alike = numbers.kl <= limits.kl && numbers.as_good >= limits.as_good;
    numbers.passed = rows > 0 && error <= limits.max_error * max_logit && alike;
    numbers
}

/// The first layer whose committed keys or values are further apart than the limit, as a share of their largest.
fn departs(source: &Session, other: &Session, limits: Limits) -> Option<usize> {
    let apart = |a: &[f32], b: &[f32]| {
        let largest = a.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        max_error(a, b) > limits.max_error * largest
    };
    let pairs = source.layers().iter().zip(other.layers());
    pairs.enumerate().find(|(_, (a, b))| apart(&a.k, &b.k) || apart(&a.v, &b.v)).map(|(layer, _)| layer)
}

fn cosine_of(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths == 0.0 { f64::from(a == b) } else { dot(a, b) / lengths }
}

/// `Σ p ln(p / q)` for the distributions of two rows of logits.
fn divergence(a: &[f32], b: &[f32]) -> f64 {
    let (p, q) = (softmax(a), softmax(b));
    let tiny = f64::from(f32::MIN_POSITIVE);
    let part = |(p, q): (&f64, &f64)| p * libm::log(p.max(tiny) / q.max(tiny));
    p.iter().zip(&q).filter(|(p, _)| **p > 0.0).map(part).sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use diffulex_compiler::ir::Encoding;

    #[test]
    fn figures_of_small_rows() {
        let limits = Limits::of_encoding(Encoding::F32);
        let same = measure(&[1.0, 2.0, 3.0, 1.0], &[1.0, 2.0, 3.0, 1.0], 2, limits);
        assert!(same.passed && same.top1 == 1.0 && same.kl == 0.0 && same.max_error == 0.0);
        let other = measure(&[0.0, 2.0], &[2.0, 0.0], 2, limits);
        assert!(!other.passed && other.top1 == 0.0 && other.cosine == 0.0 && other.max_error == 2.0);
        // p = (1/(1+e²), e²/(1+e²)): KL = 2 · (p₁ − p₀) = 2 · tanh(1)
        assert!((other.kl - 2.0 * 0.761_594_2).abs() < 1e-6, "{}", other.kl);
        assert!(!measure(&[1.0, f32::NAN], &[1.0, 2.0], 2, limits).passed);
        assert!(!measure(&[], &[], 2, limits).passed, "nothing compared proves nothing");
    }
}
