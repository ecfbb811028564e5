//! What the tests across the crates share.
#![allow(clippy::unwrap_used, reason = "a test may")]

pub mod engines;
pub mod reference;
