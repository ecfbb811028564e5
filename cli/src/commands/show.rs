//! `show`: what a recipe, an artifact or a checkpoint says.

use std::collections::BTreeMap;
use std::path::Path;

use diffulex_compiler::generation::{Generation, Reuse};
use diffulex_compiler::ir::{self, Module};
use diffulex_compiler::recipe;
use diffulex_edge::build::{self, Forecast, Network, forecast};
use diffulex_edge::subject::{self, Kind, Opened};
use diffulex_edge::{Error, report};
use diffulex_targets::artifact::{Manifest, Origin};
use diffulex_targets::{coreml, onnx};
use indicatif::{HumanBytes, HumanCount};

use super::{lints, plans, recipes_only, write_report};
use crate::args::Show;
use crate::terminal::print;

/// Runs the command.
pub(crate) fn run(args: &Show) -> Result<bool, Error> {
    let kind = subject::kind(&args.path)?;
    if kind != Kind::Recipe {
        recipes_only(&args.places)?;
    }
    if let Some(file) = &args.report {
        let folders = match kind {
            Kind::Recipe => plans(&args.path, &args.places)?.into_iter().map(|plan| plan.folder).collect(),
            _ => vec![args.path.clone()],
        };
        return write_report(file, &folders).map(|()| true);
    }
    build::lints::known(&args.deny)?;
    if !args.deny.is_empty() && matches!(kind, Kind::Recipe | Kind::Checkpoint) {
        let what = "`show --deny` looks at an artifact; `build --deny` looks at those of a recipe";
        return Err(Error::Usage(format!("{}: {what}", args.path.display())));
    }
    let path = match kind {
        Kind::Bundle => args.path.join(Manifest::read(&args.path)?.artifact),
        _ => args.path.clone(),
    };
    let lints = lints::of(&path)?;
    if args.mil {
        let packages = coreml::folders(&path).and_then(|all| all.iter().map(|folder| coreml::text(folder)).collect());
        let texts: Vec<String> = packages.map_err(|error| Error::Read { file: path, error: Box::new(error.into()) })?;
        print(&texts.join("\n"))?;
        return build::lints::allowed(&lints, &args.deny).map(|()| true);
    }
    if args.onnx {
        let text = onnx::text(&path).map_err(|error| Error::Read { file: path, error: Box::new(error.into()) })?;
        print(&text)?;
        return build::lints::allowed(&lints, &args.deny).map(|()| true);
    }
    let text = match (&kind, args.ir) {
        (Kind::Recipe, false) => {
            let recipe = recipe::load(&args.path, &args.places.overrides)?;
            values(&recipe) + &sizes(&recipe, args.places.models.as_deref())?
        }
        (Kind::Recipe, true) => {
            let planned = plans(&args.path, &args.places)?;
            let modules = planned.iter().map(|plan| build::compile(&plan.job, None, &mut |_| {}));
            modules.map(|m| Ok(ir::print(&m?.module))).collect::<Result<Vec<String>, Error>>()?.join("\n")
        }
        (_, true) => ir::print(&subject::open(&args.path, None)?.module),
        (_, false) => {
            let told: String = lints.iter().map(|lint| lints::line(lint) + "\n").collect();
            let break_before = if told.is_empty() { "" } else { "\n" };
            described(&kind, &args.path)? + break_before + &told
        }
    };
    print(&text)?;
    build::lints::allowed(&lints, &args.deny).map(|()| true)
}

/// Each effective value with the place it was written at.
fn values(recipe: &recipe::Recipe) -> String {
    let rows = recipe.values().iter().map(|v| (format!("{} = {}", v.key, v.value), v.origin.to_string()));
    let rows: Vec<(String, String)> = rows.collect();
    // A very long value does not push the places of all others out of sight.
    let width = rows.iter().map(|(value, _)| value.chars().count().min(120)).max().unwrap_or(0);
    let mut text: String = rows.iter().map(|(value, origin)| format!("{value:width$}  # {origin}\n")).collect();
    let names: Vec<&str> = recipe.builds.iter().map(|b| b.name.as_str()).collect();
    text.push_str(&format!("\n# builds: {}\n", names.join(", ")));
    text
}

/// What the model weighs, and what each scheme makes of it on each target.
fn sizes(recipe: &recipe::Recipe, models: Option<&Path>) -> Result<String, Error> {
    let network = match Network::of(recipe, models) {
        Ok(network) => network,
        Err(why) => return Ok(format!("\n# sizes are not known: {why}\n")),
    };
    let (parameters, tensors) = network.parameters();
    let mut rows = vec![["target", "quant", "artifact", "memory to run, about"].map(String::from)];
    let mut last = None;
    for build in &recipe.builds {
        let target = build.target.value.name();
        if last.replace(target) == Some(target) {
            continue;
        }
        for scheme in &recipe.schemes {
            let mut build = build.clone();
            build.name = format!("{}-{target}-{}", recipe.name.value, scheme.name.value);
            build.quant = scheme.clone();
            let (artifact, memory) = match forecast(&build, &network)? {
                Forecast::Made { artifact, memory } => (exact(artifact), HumanBytes(memory).to_string()),
                Forecast::Refused(why) => (format!("refused: {why}"), String::new()),
            };
            rows.push([target.to_string(), scheme.name.value.clone(), artifact, memory]);
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (a, b, c) = (width(0), width(1), width(2));
    let line = |[target, quant, artifact, memory]: &[String; 4]| {
        format!("# {target:a$}  {quant:b$}  {artifact:c$}  {memory}").trim_end().to_string() + "\n"
    };
    Ok(format!(
        "\n# model: {} parameters in {tensors} tensors, {} in bf16\n\n{}",
        HumanCount(parameters),
        exact(network.published_bytes()),
        rows.iter().map(line).collect::<String>()
    ))
}

/// `4,063,479,808 bytes (3.78 GiB)`
fn exact(bytes: u64) -> String {
    format!("{} bytes ({})", HumanCount(bytes), HumanBytes(bytes))
}

fn described(kind: &Kind, path: &Path) -> Result<String, Error> {
    let opened = subject::open(path, None)?;
    let mut text = format!("{}\n\n", opened.name);
    if *kind == Kind::Bundle {
        let manifest = Manifest::read(path)?;
        text.push_str(&format!("made by    {} for target {}\n", manifest.tool, manifest.target));
        for (name, file) in &manifest.files {
            text.push_str(&format!("file       {name}, {}, sha256 {}…\n", HumanBytes(file.bytes), short(&file.sha256)));
        }
        text.push_str(&origin(&manifest.origin));
        for (name, digest) in &manifest.checkpoint {
            text.push_str(&format!("made from  {name}, sha256 {}…\n", short(digest)));
        }
    }
    text.push_str(&model(&opened));
    if let Ok(generation) = &opened.generation {
        text.push_str(&facts(generation));
    }
    if *kind == Kind::Bundle {
        text.push_str(&report::summary(&report::Reported::open(path)?));
    }
    Ok(text)
}

/// Where the checkpoint comes from, as far as that is known.
fn origin(origin: &Origin) -> String {
    let license = origin.license.as_ref().map(|license| format!("license {license}"));
    let bases = (!origin.base_models.is_empty()).then(|| format!("made from {}", origin.base_models.join(" and ")));
    let known: Vec<String> = [origin.name.clone(), license, bases].into_iter().flatten().collect();
    if known.is_empty() { String::new() } else { format!("origin     {}\n", known.join(", ")) }
}

/// The beginning of a digest, which may be any text in a damaged manifest.
fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

/// Sizes and encodings of a module.
fn model(opened: &Opened) -> String {
    let Module { bounds, cache, weights, nodes, stage, .. } = &opened.module;
    let mut by_encoding: BTreeMap<&str, (usize, u64, u64)> = BTreeMap::new();
    for weight in weights {
        let entry = by_encoding.entry(weight.ty.encoding.name()).or_default();
        let numbers = weight.ty.rows() as u64 * weight.ty.columns() as u64;
        *entry = (entry.0 + 1, entry.1 + numbers, entry.2 + weight.ty.bytes());
    }
    let mut text = format!(
        "module     stage {}, {} nodes, {} layers, {} key/value heads of {}\n",
        stage.name(),
        nodes.len(),
        cache.layers,
        cache.kv_heads,
        cache.head_dim
    );
    let rows = if bounds.r > 0 { ", logits of the rows that a step asks for" } else { "" };
    text.push_str(&format!("bounds     {} tokens a step, {} cached positions{rows}\n", bounds.t, bounds.c));
    for (encoding, (count, numbers, bytes)) in by_encoding {
        text.push_str(&format!("weights    {encoding}: {count} with {numbers} numbers, {}\n", HumanBytes(bytes)));
    }
    text
}

fn facts(g: &Generation) -> String {
    let own = [
        g.strategy.map(|s| s.to_string()),
        g.steps.map(|n| format!("{n} steps")),
        g.small_block.map(|n| format!("small blocks of {n}")),
        (g.reuse != Reuse::None).then(|| format!("reuse {}", g.reuse)),
        g.window.map(|n| format!("window {n}")),
        g.eps.map(|x| format!("eps {x}")),
        g.alg_temp.map(|x| format!("alg-temp {x}")),
        g.guidance.map(|x| format!("guidance {x}")),
    ];
    let own: String = own.into_iter().flatten().map(|text| text + ", ").collect();
    let threshold: Vec<String> = g.threshold.iter().map(f64::to_string).collect();
    format!(
        "generation {} of family {}, blocks of {}, mask token {}, end tokens {:?}\n\
         defaults   {}threshold {}, temperature {}, top-k {}, top-p {}, {} tokens, seed {}\n",
        g.algorithm,
        g.family,
        g.block,
        g.mask_id,
        g.end_ids,
        own,
        threshold.join(" "),
        g.temperature,
        g.top_k,
        g.top_p,
        g.max_tokens,
        g.seed
    )
}
