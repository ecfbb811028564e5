//! What a recipe says of its model must be what the checkpoint says.

use diffulex_compiler::checkpoint::Checkpoint;
use diffulex_compiler::generation::{Generation, Logits};
use diffulex_compiler::models::Decoder;
use diffulex_compiler::recipe::{self, Diagnostic, Diagnostics, Origin};
use diffulex_runtime::generate::{Algorithm, GenerateError};

use crate::Error;

/// Holds a recipe against its checkpoint.
///
/// # Errors
/// Everything that disagrees, pointing into the recipe.
pub(super) fn check(build: &recipe::Build, checkpoint: &Checkpoint) -> Result<(), Diagnostics> {
    let config = checkpoint.config();
    let mut wrong = Vec::new();
    let refuse = |code, message: String| Diagnostic::refusal(code, message);
    if let Some(family) = build.model.family.as_ref().filter(|f| f.value != config.family) {
        let message = format!("the checkpoint is of family `{}`", config.family.name());
        wrong.push(refuse("model::family", message).label(&family.origin, "the recipe says otherwise"));
    }
    let block = &build.shape.block;
    if let Some(own) = config.block.filter(|own| *own != block.value) {
        let message = format!("the checkpoint was trained for blocks of {own} tokens");
        let label = "its config.json says otherwise";
        wrong.push(refuse("shape::block", message).label(&block.origin, label).help(format!("write `block = {own}`")));
    }
    let cache = &build.shape.cache;
    if cache.value > config.max_positions {
        let message = format!("the model knows {} positions", config.max_positions);
        wrong.push(refuse("shape::cache", message).label(&cache.origin, "longer than that"));
    }
    let sampler = &build.generate.sampler;
    let logits = config.family.facts().logits;
    if sampler.value != logits {
        let named = match logits {
            Logits::Aligned => "token i",
            Logits::Shifted => "token i + 1",
        };
        let message = format!("row i of family `{}` names {named}", config.family);
        wrong.push(refuse("generate::sampler", message).label(&sampler.origin, "would shift every token by one"));
    }
    let algorithm = &build.generate.algorithm;
    let own = config.family.facts().algorithms;
    if !own.contains(&algorithm.value) {
        let message = format!("`{algorithm}` does not generate with family `{}`", config.family);
        let words: Vec<String> = own.iter().map(|a| format!("`algorithm = \"{a}\"`")).collect();
        let help = format!("write {}", words.join(" or "));
        wrong.push(refuse("generate::algorithm", message).label(&algorithm.origin, "not of this family").help(help));
    }
    if let Some(sizes) = &build.model.sizes {
        wrong.extend(disagreements(sizes, &config.decoder));
    }
    if wrong.is_empty() { Ok(()) } else { Err(Diagnostics(wrong)) }
}

/// Holds what a recipe says of generation against its algorithm, so that it is told now and not where the artifact runs.
///
/// # Errors
/// The first value that the algorithm cannot take.
pub(super) fn check_generation(build: &recipe::Build, generation: &Generation) -> Result<(), Error> {
    let (name, problem) = match Algorithm::try_from(generation) {
        Ok(_) => return Ok(()),
        Err(GenerateError::Setting { name, problem }) => (name, problem),
        Err(other) => return Err(other.into()),
    };
    let g = &build.generate;
    let origin = match name {
        "strategy" => g.strategy.as_ref().map(|v| &v.origin),
        "top_k" => Some(&g.top_k.origin),
        "top_p" => Some(&g.top_p.origin),
        _ => None,
    };
    let refusal = Diagnostic::refusal("generate::setting", format!("`{name}` {problem}"));
    let refusal = match origin {
        Some(origin) => refusal.label(origin, "not with this algorithm").label(&g.algorithm.origin, "asked for here"),
        None => refusal.label(&g.algorithm.origin, "by this algorithm"),
    };
    Err(Diagnostics(vec![refusal]).into())
}

/// The sizes of the recipe that are not those of config.json.
fn disagreements(sizes: &recipe::Sizes, config: &Decoder) -> Vec<Diagnostic> {
    let numbers = [
        ("vocab", &sizes.vocab, config.vocab),
        ("hidden", &sizes.hidden, config.hidden),
        ("layers", &sizes.layers, config.layers),
        ("heads", &sizes.heads, config.heads),
        ("kv_heads", &sizes.kv_heads, config.kv_heads),
        ("head_dim", &sizes.head_dim, config.head_dim),
        ("intermediate", &sizes.intermediate, config.intermediate),
    ];
    let differing = numbers.into_iter().filter(|(_, said, own)| said.value != *own);
    let mut found: Vec<(String, &Origin)> =
        differing.map(|(key, said, own)| (format!("{key} = {own}"), &said.origin)).collect();
    if sizes.tied.value != config.tied {
        found.push((format!("tied = {}", config.tied), &sizes.tied.origin));
    }
    let diagnostic = |(own, origin): (String, &Origin)| {
        Diagnostic::refusal("model::sizes", format!("the checkpoint's config.json makes it `{own}`"))
            .label(origin, "the recipe says otherwise")
            .help(format!("write `{own}`"))
    };
    found.into_iter().map(diagnostic).collect()
}
