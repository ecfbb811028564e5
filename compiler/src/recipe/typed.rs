//! Turns effective values into the typed parts of a build, and finds the values that contradict each other.

use super::build::{Generate, Model, QuantScheme, Shape, Sizes, Target};
use super::choice::{GROUPS, Numbers, TargetName};
use super::coreml::{Attention, Coreml, Deployment, Interface, Nibbles, Norm, Shapes};
use super::diagnostic::Diagnostic;
use super::inherit::Settings;
use super::mistake::{Mistake, shortened};
use super::qnn::{Qnn, RangeMethod};
use super::source::{Located, Origin};
use super::value::Value;
use crate::generation::{Algorithm, Family, Logits, Reuse, Strategy};
use crate::ir::Encoding;
use crate::quant::{Activations, GridType, Search};

/// What a checked value becomes. `None` would mean that the schema allows more than the type does.
pub(super) trait FromValue: Sized {
    fn from_value(value: &Value) -> Option<Self>;
}

pub(super) fn model(settings: &Settings, out: &mut Vec<Diagnostic>) -> Option<Model> {
    let checkpoint = settings.need("model.checkpoint", None, out);
    let (origin, license) = (settings.optional("model.origin"), settings.optional("model.license"));
    let Some(asked) = settings.under("model.sizes").next().map(|(_, value)| value.origin.clone()) else {
        let family = settings.optional("model.family");
        return Some(Model { family, checkpoint: checkpoint?, origin, license, sizes: None });
    };
    // Which tensors there are of these sizes is the family's to say.
    let family = settings.need::<Family>("model.family", Some(&asked), out);
    let sizes = sizes(settings, &asked, out);
    let (family, sizes) = (family?, sizes?);
    if let Err(what) = sizes.decoder(*family).check() {
        let place = &sizes.heads.origin;
        out.push(Diagnostic::refusal("recipe::sizes", what).label(place, "the sizes contradict each other"));
    }
    Some(Model { family: Some(family), checkpoint: checkpoint?, origin, license, sizes: Some(sizes) })
}

/// All sizes, because the one at `asked` is there.
fn sizes(settings: &Settings, asked: &Origin, out: &mut Vec<Diagnostic>) -> Option<Sizes> {
    let mut need = |key: &str| settings.need::<u32>(&format!("model.sizes.{key}"), Some(asked), out);
    let (vocab, hidden, layers, heads) = (need("vocab"), need("hidden"), need("layers"), need("heads"));
    let (kv_heads, head_dim, intermediate) = (need("kv_heads"), need("head_dim"), need("intermediate"));
    let tied = settings.need("model.sizes.tied", Some(asked), out);
    Some(Sizes {
        vocab: vocab?,
        hidden: hidden?,
        layers: layers?,
        heads: heads?,
        kv_heads: kv_heads?,
        head_dim: head_dim?,
        intermediate: intermediate?,
        tied: tied?,
    })
}

pub(super) fn shape(settings: &Settings, out: &mut Vec<Diagnostic>) -> Option<Shape> {
    let block = settings.need::<u32>("shape.block", None, out);
    let prefill = settings.need::<u32>("shape.prefill", None, out);
    let cache = settings.need::<u32>("shape.cache", None, out);
    let (block, prefill, cache) = (block?, prefill?, cache?);
    let before = out.len();
    for (key, length) in [("prefill", &prefill), ("cache", &cache)] {
        if !length.is_multiple_of(*block) {
            let mistake = Mistake::NotMultipleOfBlock { key, value: **length, block: *block };
            let text = format!("`block` is {block}");
            out.push(Diagnostic::new(mistake, &length.origin).note_at(text, &block.origin, "set here"));
        }
    }
    if out.len() == before && *prefill > *cache {
        let mistake = Mistake::PrefillExceedsCache { prefill: *prefill, cache: *cache };
        let text = format!("`cache` is {cache}");
        out.push(Diagnostic::new(mistake, &prefill.origin).note_at(text, &cache.origin, "set here"));
    }
    Some(Shape { block, prefill, cache })
}

pub(super) fn generate(settings: &Settings, out: &mut Vec<Diagnostic>) -> Option<Generate> {
    let algorithm = settings.need("generate.algorithm", None, out);
    let sampler = settings.need("generate.sampler", None, out);
    let threshold = settings.need("generate.threshold", None, out);
    let temperature = settings.need("generate.temperature", None, out);
    let top_k = settings.need("generate.top_k", None, out);
    let top_p = settings.need("generate.top_p", None, out);
    let max_tokens = settings.need("generate.max_tokens", None, out);
    let seed = settings.need("generate.seed", None, out);
    Some(Generate {
        algorithm: algorithm?,
        strategy: settings.optional("generate.strategy"),
        steps: settings.optional("generate.steps"),
        small_block: settings.optional("generate.small_block"),
        reuse: settings.optional("generate.reuse"),
        window: settings.optional("generate.window"),
        eps: settings.optional("generate.eps"),
        alg_temp: settings.optional("generate.alg_temp"),
        guidance: settings.optional("generate.guidance"),
        sampler: sampler?,
        threshold: threshold?,
        temperature: temperature?,
        top_k: top_k?,
        top_p: top_p?,
        max_tokens: max_tokens?,
        seed: seed?,
    })
}

/// The scheme of this name, which `mentioned` introduces. Every scheme is read, also those the matrix leaves out.
pub(super) fn scheme(
    settings: &Settings,
    name: &str,
    mentioned: &Origin,
    out: &mut Vec<Diagnostic>,
) -> Option<QuantScheme> {
    let table = format!("quant.{name}");
    let mut keep: Vec<(Encoding, Located<String>)> = Vec::new();
    let group = settings.optional::<u32>(&format!("{table}.group"));
    if let Some(wrong) = group.as_ref().filter(|group| !GROUPS.contains(group)) {
        let (subject, expected) = (format!("`{table}.group`"), "32, 64, 128, or 0 for a whole row".into());
        let why = format!("{wrong} is none of these");
        out.push(Diagnostic::new(Mistake::OutOfRange { subject, expected, why }, &wrong.origin));
    }
    let extent = group.as_ref().map_or(0, |group| group.value);
    for numbers in Numbers::ALL {
        let encoding = numbers.encoding(extent);
        let patterns = settings.optional::<Vec<Located<String>>>(&format!("{table}.keep.{numbers}"));
        for pattern in patterns.into_iter().flat_map(|patterns| patterns.value) {
            if let Some((first, earlier)) = keep.iter().find(|(_, earlier)| *earlier == pattern) {
                let mistake = Mistake::KeptTwice { pattern: shortened(&pattern) };
                let text = format!("`{}` is kept in {first} too", shortened(&pattern));
                out.push(Diagnostic::new(mistake, &pattern.origin).note_at(text, &earlier.origin, "first here"));
            } else {
                keep.push((encoding, pattern));
            }
        }
    }
    let activations = settings.optional::<Activations>(&format!("{table}.activations"));
    let tables = settings.optional::<Numbers>(&format!("{table}.table"));
    let weights = settings.need::<Numbers>(&format!("{table}.weights"), Some(mentioned), out)?;
    let encoded = |numbers: Located<Numbers>| Located::new(numbers.value.encoding(extent), numbers.origin);
    let weights = encoded(weights);
    let stored =
        |e: Encoding| [Some(weights.value), tables.as_ref().map(|t| t.value.encoding(extent))].contains(&Some(e));
    let any = |wanted: &dyn Fn(Encoding) -> bool| {
        Encoding::ALL.iter().any(|&e| wanted(e) && (stored(e) || keep.iter().any(|(kept, _)| *kept == e)))
    };
    let mut idle = |key: &str, origin: &Origin, why| {
        out.push(Diagnostic::new(Mistake::NoEffect { key: format!("{table}.{key}"), why }, origin));
    };
    if let Some(group) =
        group.filter(|group| group.value > 0 && GROUPS.contains(group) && !any(&|e| e.group().is_some()))
    {
        idle("group", &group.origin, "nothing is stored as int4");
    }
    let filters =
        |wanted: &dyn Fn(Encoding) -> bool| wanted(weights.value) || keep.iter().any(|(kept, _)| wanted(*kept));
    match &activations {
        Some(asked) if asked.value == Activations::DynamicInt8 && !filters(&|e| !e.is_float()) => {
            idle("activations", &asked.origin, "no filter is stored as int8 or int4");
        }
        Some(asked) if asked.value == Activations::F16 && !filters(&|e| e == Encoding::F16) => {
            idle("activations", &asked.origin, "no filter is stored as f16");
        }
        _ => {}
    }
    let cache = settings.optional::<GridType>(&format!("{table}.cache"));
    let rounded = activations.as_ref().is_some_and(|asked| asked.value.grid().is_some());
    if let Some(cache) = cache.as_ref().filter(|_| !rounded) {
        idle("cache", &cache.origin, "values are not rounded");
    }
    if let Some(tables) = tables.as_ref().filter(|_| rounded) {
        idle("table", &tables.origin, "tables are rounded as values are");
    }
    let quantized = any(&|e| !e.is_float());
    let search = settings.optional::<Search>(&format!("{table}.search"));
    if let Some(asked) = search.as_ref().filter(|asked| asked.value != Search::Max && !quantized) {
        idle("search", &asked.origin, "nothing is stored as int8 or int4");
    }
    Some(QuantScheme {
        name: Located::new(name.to_owned(), mentioned.clone()),
        table: tables.map(encoded),
        activations,
        cache,
        search: search.map_or(Search::Max, |asked| asked.value),
        weights,
        keep,
    })
}

/// The target of this name, which `asked` puts into the matrix.
pub(super) fn target(
    settings: &Settings,
    name: TargetName,
    asked: &Origin,
    out: &mut Vec<Diagnostic>,
) -> Option<Target> {
    match name {
        TargetName::Xnnpack => {
            let alignment = settings.need("target.xnnpack.alignment", Some(asked), out);
            let select_rows = settings.need("target.xnnpack.select_rows", Some(asked), out);
            Some(Target::Xnnpack { alignment: alignment?, select_rows: select_rows? })
        }
        TargetName::Coreml => Coreml::read(settings, asked, out).map(|coreml| Target::Coreml(Box::new(coreml))),
        TargetName::Onnx => Some(Target::Onnx { dynamic: settings.need("target.onnx.dynamic", Some(asked), out)? }),
        TargetName::Qnn => Qnn::read(settings, asked, out).map(|qnn| Target::Qnn(Box::new(qnn))),
    }
}

impl FromValue for String {
    fn from_value(value: &Value) -> Option<Self> {
        if let Value::Text(text) = value { Some(text.clone()) } else { None }
    }
}

impl FromValue for u64 {
    fn from_value(value: &Value) -> Option<Self> {
        if let Value::Integer(number) = value { Self::try_from(*number).ok() } else { None }
    }
}

impl FromValue for u32 {
    fn from_value(value: &Value) -> Option<Self> {
        Self::try_from(u64::from_value(value)?).ok()
    }
}

impl FromValue for bool {
    fn from_value(value: &Value) -> Option<Self> {
        if let Value::Boolean(value) = value { Some(*value) } else { None }
    }
}

impl FromValue for f64 {
    fn from_value(value: &Value) -> Option<Self> {
        if let Value::Float(number) = value { Some(*number) } else { None }
    }
}

impl FromValue for Vec<f64> {
    fn from_value(value: &Value) -> Option<Self> {
        if let Value::List(items) = value { items.iter().map(|item| f64::from_value(item)).collect() } else { None }
    }
}

impl<T: FromValue> FromValue for Vec<Located<T>> {
    fn from_value(value: &Value) -> Option<Self> {
        let Value::List(items) = value else { return None };
        let located = |item: &Located<Value>| Some(Located::new(T::from_value(item)?, item.origin.clone()));
        items.iter().map(located).collect()
    }
}

macro_rules! from_word {
    ($($choice:ident)+) => {
        $(impl FromValue for $choice {
            fn from_value(value: &Value) -> Option<Self> {
                Self::from_name(&String::from_value(value)?)
            }
        })+
    };
}

from_word! {
    Family Algorithm Strategy Reuse Logits Encoding Numbers Activations Search TargetName
    GridType RangeMethod Deployment Interface Norm Attention Nibbles Shapes
}
