//! What a verification found, as data.

use std::fmt;

use diffulex_runtime::verify::Check;
use diffulex_runtime::verify::numbers::Numbers;

use super::describe;
use crate::report::Distance;

/// All checks of a verification, in the order in which they were made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// The checks.
    pub checks: Vec<Check>,
}

impl Verdict {
    /// Whether there were checks and all were passed.
    pub fn passed(&self) -> bool {
        !self.checks.is_empty() && self.failed().next().is_none()
    }

    /// The checks that were not passed; the first says where to look.
    pub fn failed(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| !check.passed())
    }

    /// The comparisons of logits.
    pub fn numbers(&self) -> impl Iterator<Item = &Numbers> + Clone {
        self.checks.iter().filter_map(|check| if let Check::Numbers(numbers) = check { Some(numbers) } else { None })
    }

    /// How far the logits are from those of the checkpoint as it is, over all cases.
    pub fn distance(&self) -> Option<Distance> {
        Distance::of(self.numbers())
    }

    /// The last line of a verification: `verified: 30 checks passed`.
    pub fn summary(&self) -> String {
        let (checks, failed) = (self.checks.len(), self.failed().count());
        match self.passed() {
            true => format!("verified: {checks} checks passed"),
            false => format!("not verified: {failed} of {checks} checks failed"),
        }
    }
}

/// A line for each check that failed, then the summary.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failed().try_for_each(|check| writeln!(f, "{}", describe(check, false)))?;
        f.write_str(&self.summary())
    }
}
