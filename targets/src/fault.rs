//! What can be wrong with a part of an artifact. Where, each target's reader says in its own terms.

use std::fmt;

/// What is wrong there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It cannot be opened, mapped or read.
    Unreadable(String),
    /// It is not what it should be at all.
    Damaged(String),
    /// Something is absent.
    Missing(String),
    /// A number, offset or size exceeds what it may be.
    Exceeds {
        /// What it counts.
        what: Box<str>,
        /// Its value.
        value: u64,
        /// The largest value allowed.
        limit: u64,
    },
    /// Two things that must agree do not.
    Mismatch {
        /// The fact in question.
        what: Box<str>,
        /// What stands there.
        found: String,
        /// What should.
        expected: String,
    },
    /// Something occurs a second time.
    Twice(String),
    /// It may be fine, but this reader does not know what it uses.
    Unsupported(String),
    /// The graph breaks a rule of the IR.
    Broken(String),
}

impl Fault {
    /// `value` as a size, which must not exceed `limit`.
    ///
    /// # Errors
    /// When it does, with what `what` gives.
    pub(crate) fn at_most(what: impl FnOnce() -> Box<str>, value: u64, limit: u64) -> Result<usize, Fault> {
        match usize::try_from(value) {
            Ok(n) if value <= limit => Ok(n),
            _ => Err(Fault::Exceeds { what: what(), value, limit }),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unreadable(what) | Fault::Broken(what) => f.write_str(what),
            Fault::Damaged(what) => write!(f, "damaged: {what}"),
            Fault::Missing(what) => write!(f, "has no {what}"),
            Fault::Exceeds { what, value, limit } => write!(f, "{what} is {value}, beyond {limit}"),
            Fault::Mismatch { what, found, expected } => write!(f, "{what} is {found}, not {expected}"),
            Fault::Twice(what) => write!(f, "{what} occurs twice"),
            Fault::Unsupported(what) => write!(f, "this reader does not know {what}"),
        }
    }
}
