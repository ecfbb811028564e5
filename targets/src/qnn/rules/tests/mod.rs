//! For each rule a graph that breaks it and one that does not: mostly one op with its grids, and one place changed.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod hostile;
mod net;
mod ops;
mod pairs;
mod products;
mod whole;

use super::RULES;

#[test]
fn the_table_is_the_list() {
    let table: Vec<&str> = include_str!("../mod.rs").lines().filter(|line| line.starts_with("//! | `")).collect();
    let row = |rule: &super::Rule| format!("//! | `{}` | {} | {} |", rule.name, rule.effect.name(), rule.meaning);
    assert_eq!(table, RULES.iter().map(row).collect::<Vec<_>>());
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    assert!(RULES.iter().all(|rule| rule.name.chars().all(word)));
}

/// A name that no test asserts belongs to a rule that nobody has seen broken.
#[test]
fn every_rule_is_tested() {
    let tests =
        [include_str!("whole.rs"), include_str!("pairs.rs"), include_str!("products.rs"), include_str!("ops.rs")]
            .concat();
    let untested: Vec<_> = RULES.iter().filter(|rule| !tests.contains(&format!("\"{}\"", rule.name))).collect();
    assert!(untested.is_empty(), "{untested:?}");
}
