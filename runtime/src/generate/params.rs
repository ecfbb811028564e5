//! Pieces of the algorithms' parameters: values that are written as one or as a list, and the checks they share.

use super::GenerateError;
use diffulex_compiler::generation::Strategy;
use serde::{Deserialize, Serialize};

/// One threshold for each decoded block, the first one first; the last repeats. A single number stands for a list of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "OneOrMany<f64>", into = "OneOrMany<f64>")]
pub struct Thresholds(pub Vec<f64>);

/// Token ids, written as one or as a list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "OneOrMany<u32>", into = "OneOrMany<u32>")]
pub struct Ids(pub Vec<u32>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> From<OneOrMany<T>> for Vec<T> {
    fn from(value: OneOrMany<T>) -> Self {
        match value {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

impl<T: Copy> From<Vec<T>> for OneOrMany<T> {
    fn from(values: Vec<T>) -> Self {
        match values[..] {
            [one] => OneOrMany::One(one),
            _ => OneOrMany::Many(values),
        }
    }
}

impl Thresholds {
    /// The threshold of a block, counted from the first decoded one.
    #[must_use]
    pub fn of_block(&self, block: usize) -> f64 {
        self.0.get(block).or(self.0.last()).copied().unwrap_or(1.0)
    }

    /// Refuses what no probability can be compared with.
    pub(super) fn check(&self, name: &'static str) -> Result<(), GenerateError> {
        let fine = !self.0.is_empty() && self.0.iter().all(|t| (0.0..=1.0).contains(t));
        if fine { Ok(()) } else { wrong(name, format!("must be 0 to 1, not {:?}", self.0)) }
    }
}

impl From<f64> for Thresholds {
    fn from(threshold: f64) -> Self {
        Self(vec![threshold])
    }
}

impl From<OneOrMany<f64>> for Thresholds {
    fn from(value: OneOrMany<f64>) -> Self {
        Self(value.into())
    }
}

impl From<Thresholds> for OneOrMany<f64> {
    fn from(value: Thresholds) -> Self {
        value.0.into()
    }
}

impl From<OneOrMany<u32>> for Ids {
    fn from(value: OneOrMany<u32>) -> Self {
        Self(value.into())
    }
}

impl From<Ids> for OneOrMany<u32> {
    fn from(value: Ids) -> Self {
        value.0.into()
    }
}

/// A refusal of one parameter.
pub(super) fn wrong<T>(name: &'static str, problem: impl Into<String>) -> Result<T, GenerateError> {
    Err(GenerateError::Setting { name, problem: problem.into() })
}

/// Refuses a word that the algorithm does not know.
pub(super) fn strategy(name: &'static str, given: Strategy, known: &[Strategy]) -> Result<(), GenerateError> {
    let words: Vec<&str> = known.iter().map(|word| word.name()).collect();
    match known.contains(&given) {
        true => Ok(()),
        false => wrong(name, format!("is {given}, which this algorithm does not know; it knows {}", words.join(", "))),
    }
}

/// More passes than any run could want; it bounds what a recording can ask for.
const MOST_STEPS: usize = 1 << 20;

/// Refuses a number of passes that is 0 or beyond all reason.
pub(super) fn steps(name: &'static str, steps: usize) -> Result<(), GenerateError> {
    if (1..=MOST_STEPS).contains(&steps) {
        Ok(())
    } else {
        wrong(name, format!("must be 1 to {MOST_STEPS}, not {steps}"))
    }
}

/// Refuses the first of these that is 0.
pub(super) fn at_least_one(values: &[(&'static str, usize)]) -> Result<(), GenerateError> {
    match values.iter().find(|(_, value)| *value == 0) {
        Some((name, _)) => wrong(name, "must be at least 1"),
        None => Ok(()),
    }
}

/// Refuses a whole that cannot be cut into parts of this length.
pub(super) fn divides(part: (&'static str, usize), whole: (&'static str, usize)) -> Result<(), GenerateError> {
    match part.1 != 0 && whole.1.is_multiple_of(part.1) {
        true => Ok(()),
        false => wrong(part.0, format!("{} must divide {} {}", part.1, whole.0, whole.1)),
    }
}
