//! `--explain`: why builds are stale, what a pass did.

use std::collections::BTreeMap;

use diffulex_compiler::passes::{self, Note};
use diffulex_edge::build::{Freshness, Plan};

/// Everything that changed since the last build, a line each.
pub(super) fn freshness(plan: &Plan) -> String {
    let name = &plan.job.build.name;
    match &plan.freshness {
        Freshness::Stale(reasons) => {
            let reasons: String = reasons.iter().map(|reason| format!("  {reason}\n")).collect();
            format!("{name}: stale\n{reasons}")
        }
        other => format!("{name}: {other}\n"),
    }
}

/// What a pass did, equal notes of neighbouring layers joined.
pub(super) fn pass(build: &str, pass: &str, notes: &[Note]) -> String {
    let about = match pass {
        "import" => "the model as its family builds it; no pass",
        _ => passes::find(pass).map_or("the model in the words of the target; no pass", |p| p.about),
    };
    let mut text = format!("{build}: {pass}: {about}\n");
    if notes.is_empty() {
        text.push_str("  found no place to look at\n");
    }
    let mut groups: BTreeMap<(usize, String), Vec<u32>> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    for Note { place, changed, what } in notes {
        let (layer, local) = split(place);
        let what = layer.map_or(what.clone(), |layer| what.replace(&format!("layers.{layer}."), "layers.{i}."));
        let said = format!("{} {local}: {what}", if *changed { "done    " } else { "not done" });
        let index = order.iter().position(|o| *o == said).unwrap_or_else(|| {
            order.push(said.clone());
            order.len() - 1
        });
        groups.entry((index, said)).or_default().extend(layer);
    }
    for ((_, said), layers) in groups {
        let layers = match (layers.first(), layers.last()) {
            (Some(first), Some(last)) if first == last => format!(" (layer {first})"),
            (Some(first), Some(last)) => format!(" ({} layers, {first} to {last})", layers.len()),
            _ => String::new(),
        };
        text.push_str(&format!("  {said}{layers}\n"));
    }
    text
}

/// `layers.3 %q` → (3, `%q`); `@layers.3.self_attn.q_proj` → (3, `@self_attn.q_proj`).
fn split(place: &str) -> (Option<u32>, String) {
    let (sign, rest) = if let Some(rest) = place.strip_prefix('@') { ("@", rest) } else { ("", place) };
    let parts = rest.strip_prefix("layers.").and_then(|rest| rest.split_once(['.', ' ']));
    match parts.and_then(|(layer, local)| Some((layer.parse().ok()?, local))) {
        Some((layer, local)) => (Some(layer), format!("{sign}{local}")),
        None => (None, place.to_string()),
    }
}
