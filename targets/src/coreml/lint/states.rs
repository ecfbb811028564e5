//! States: their shapes, and how they are updated.

use std::collections::HashSet;

use super::facts::{Facts, is_flexible, shape, sizes, tensor};
use super::{Found, rules};
use crate::coreml::read::Place;
use crate::coreml::schema::program::{Operation, ValueKind};

/// What concerns the states themselves.
pub(super) fn check(facts: &Facts<'_>, found: &mut Found) {
    for input in facts.inputs {
        let kind = input.r#type.as_ref().and_then(|ty| ty.kind.as_ref());
        let (Some(ValueKind::State(_)), Some(ty)) = (kind, tensor(input.r#type.as_ref())) else { continue };
        let place = || facts.inside(&Place::Feature(input.name.clone()));
        if is_flexible(ty) {
            found.add(&rules::FLEXIBLE_STATE, place, || format!("a state of {}", shape(ty)));
        }
        if let Some(Some(width)) = sizes(ty).last()
            && !width.is_multiple_of(32)
        {
            found.add(&rules::STATE_WIDTH, place, || format!("a state of {}", shape(ty)));
        }
    }
}

/// What concerns the updates: of what was read from a state, maybe after other updates.
pub(super) fn check_updates<'a>(facts: &Facts<'a>, found: &mut Found) {
    let mut states: HashSet<&'a str> = HashSet::new();
    for (i, operation) in facts.operations.iter().enumerate() {
        let updated =
            operation.r#type == "slice_update" && facts.name(operation, "x").is_some_and(|name| states.contains(name));
        if updated || operation.r#type == "read_state" {
            states.extend(operation.outputs.iter().map(|result| result.name.as_str()));
        }
        if updated {
            check_update(facts, operation, || facts.place(i), found);
        }
    }
}

fn check_update<'a>(facts: &Facts<'a>, operation: &'a Operation, place: impl Fn() -> String + Copy, found: &mut Found) {
    if let Some(ty) = facts.operand(operation, "update") {
        let rows = sizes(ty).into_iter().rev().nth(1).flatten();
        if !matches!(rows, Some(16 | 32)) {
            found.add(&rules::UPDATE_LENGTH, place, || format!("an update of {}", shape(ty)));
        }
    }
    if !facts.is_constant(operation, "begin") || !facts.is_constant(operation, "end") {
        let begin = facts.name(operation, "begin").unwrap_or("nothing");
        found.add(&rules::RUN_TIME_OFFSET, place, || format!("the place is {begin:?}"));
    }
}
