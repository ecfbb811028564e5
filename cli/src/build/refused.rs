//! What a target refuses, pointing into the recipe.

use diffulex_compiler::ir::{Encoding, Module};
use diffulex_compiler::quant;
use diffulex_compiler::recipe::{Diagnostic, Diagnostics, Origin, Target as RecipeTarget};
use diffulex_targets::Refusal;

use super::job::{Job, target};
use crate::Error;

/// A refusal, pointing at the values of the recipe that led to it.
pub(super) fn refused(job: &Job, module: &Module, reason: &Refusal) -> Error {
    let target = target(&job.build).name();
    let met = format!("first met at {} in build {}", described(module, reason.place()), job.build.name);
    let origin =
        |place: &str, role: &str| job.build.quant.encoding_of(place.trim_start_matches('@'), role == "table").origin;
    let asked = &job.build.target.origin;
    let diagnostic = match reason {
        Refusal::Encoding { place, encoding, role, nearest } => {
            let origin = origin(place, role);
            let message = format!("{target} cannot use {encoding} weights as a {role}");
            let mut names: Vec<String> = nearest.iter().map(|e| in_place(job, place, role, *e)).collect();
            names.dedup();
            let help = match *role == "filter" && encoding.group().is_some() {
                true => "write `activations = \"dynamic-int8\"`, or `group = 0` for a scale a row".into(),
                false => format!("write {}", names.join(" or ")),
            };
            let refusal =
                Diagnostic::refusal("quant::encoding", message).label(&origin, "not for this target").note(met);
            let refusal = match (&job.build.target.value, encoding) {
                (RecipeTarget::Coreml(_), Encoding::BF16) => refusal.note("ML Programs have no arithmetic in bf16"),
                (RecipeTarget::Coreml(_), Encoding::F32) => refusal.note("f32 would run on the CPU alone"),
                _ => refusal,
            };
            refusal.help(help)
        }
        Refusal::Group { place, role, columns, group } => {
            let message = format!("{target} cannot cut rows of {columns} into groups of {group}");
            Diagnostic::refusal("quant::group-size", message)
                .label(&origin(place, role), format!("groups of {group}"))
                .note(met)
                .help(match columns.is_multiple_of(2) {
                    true => format!("write `group = 0` for a scale a row, or `keep.int8 = [\"{}\"]`", pattern(place)),
                    false => format!("write `keep.int8 = [\"{}\"]`", pattern(place)),
                })
        }
        Refusal::Odd { place, columns, encoding, role } => {
            let message = format!("{target} cannot use {encoding} for a {role} with rows of {columns}, an odd number");
            Diagnostic::refusal("quant::odd-rows", message)
                .label(&origin(place, role), "two numbers share a byte")
                .note(met)
                .help(format!("write `keep.int8 = [\"{}\"]`", pattern(place)))
        }
        Refusal::Tokens { .. } => {
            let message = format!("{target} cannot round tokens to int8 while it runs");
            let origin = job.build.quant.activations.as_ref().map_or(asked, |given| &given.origin);
            Diagnostic::refusal("quant::activations", message)
                .label(origin, "needs scales that are found at run time")
                .note(met)
                .help("leave `activations` out: weights stay as they are, tokens are floats")
        }
        Refusal::Deployment { what, needs, deployment, place } => {
            let message = format!("{target}: {what} needs {needs}, and {deployment} is asked for");
            let older = match &job.build.target.value {
                RecipeTarget::Coreml(coreml) => &coreml.deployment.origin,
                _ => asked,
            };
            let diagnostic = Diagnostic::refusal("coreml::deployment", message).label(older, "older than that");
            let stored = place.starts_with('@').then(|| origin(place, "filter"));
            let diagnostic = match &stored {
                Some(stored) => diagnostic.label(stored, "stored like this"),
                None => diagnostic,
            };
            diagnostic.note(met).help(format!("write `deployment = \"{needs}\"`"))
        }
        other => {
            let diagnostic = Diagnostic::refusal("target::limit", format!("{target}: {other}"));
            let diagnostic = match setting(job, other.place()) {
                Some(setting) => diagnostic.label(setting, "set here"),
                None => diagnostic.note(met),
            };
            match other.nearest() {
                Some(nearest) => diagnostic.help(format!("the nearest thing that works: {nearest}")),
                None => diagnostic,
            }
        }
    };
    Error::Recipe(Diagnostics(vec![diagnostic.label(asked, "asked for here")]))
}

/// How a recipe says another encoding of a weight: where it says the one that is refused.
fn in_place(job: &Job, place: &str, role: &str, encoding: Encoding) -> String {
    let (quant, name) = (&job.build.quant, place.trim_start_matches('@'));
    let kept = quant.keep.iter().find(|(_, pattern)| quant::matches(&pattern.value, name));
    let numbers = encoding.name().split('.').next().unwrap_or_default();
    match kept {
        Some((_, pattern)) => format!("`keep.{numbers} = [\"{}\"]`", pattern.value),
        None if role == "table" && quant.table.is_some() => format!("`table = \"{numbers}\"`"),
        None => format!("`weights = {}`", in_recipe(encoding)),
    }
}

/// The value of the recipe that a refusal speaks of by name.
fn setting<'a>(job: &'a Job, place: &str) -> Option<&'a Origin> {
    match (&job.build.target.value, place) {
        (RecipeTarget::Coreml(asked), "parts") => Some(&asked.parts.origin),
        (RecipeTarget::Coreml(asked), "lengths") => asked.lengths.as_ref().map(|lengths| &lengths.origin),
        (RecipeTarget::Coreml(asked), "shapes") => Some(&asked.shapes.origin),
        (RecipeTarget::Coreml(asked), "cache") => Some(&asked.interface.origin),
        (RecipeTarget::Qnn(asked), "socs") => Some(&asked.socs.origin),
        (RecipeTarget::Qnn(asked), "lengths") => asked.lengths.as_ref().map(|lengths| &lengths.origin),
        (RecipeTarget::Qnn(_), "cache") => job.build.quant.cache.as_ref().map(|cache| &cache.origin),
        _ => None,
    }
}

/// `@layers.3.mlp.up_proj` → `*.mlp.up_proj`: the same matrix of every layer.
fn pattern(place: &str) -> String {
    let name = place.trim_start_matches('@');
    let local = name.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
    local.map_or(name.to_string(), |(_, local)| format!("*.{local}"))
}

/// `int4.g32` → `"int4", group = 32`.
fn in_recipe(encoding: Encoding) -> String {
    let numbers = encoding.name().split('.').next().unwrap_or_default();
    match encoding.group() {
        Some(group) => format!("\"{numbers}\", group = {group}"),
        None if encoding == Encoding::Int4Row => format!("\"{numbers}\", group = 0"),
        None => format!("\"{numbers}\""),
    }
}

/// `@lm_head` → `lm_head, bf16[384, 64]`.
fn described(module: &Module, place: &str) -> String {
    let weight = place.strip_prefix('@').and_then(|name| module.weight_id(name)).map(|id| module.weight(id));
    weight.map_or(place.to_string(), |w| format!("`{}`, {}", w.name, w.ty))
}
