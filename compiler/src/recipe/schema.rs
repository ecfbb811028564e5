//! Every key a recipe may hold: its path, what it takes, an example and its meaning.
//!
//! The table has no defaults: those are values of `recipes/base.toml` and `recipes/families/`, where a reader sees them.

use std::fmt;

use super::choice::{Numbers, TargetName};
use super::coreml::{Attention, Deployment, Interface, Nibbles, Norm, Shapes};
use super::qnn::RangeMethod;
use crate::generation::{Algorithm, Family, Logits, Reuse, Strategy};
use crate::quant::{Activations, GridType, Search};

/// One row of [`KEYS`].
pub(super) struct Key {
    /// The dotted path. `NAME` stands for any scheme name, `ENCODING` for one of [`Numbers::NAMES`].
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    /// A usual value, offered when the key is missing.
    pub(super) example: &'static str,
    /// What the value means.
    pub(super) doc: &'static str,
}

/// What a key takes.
pub(super) enum Kind {
    Text,
    /// `[a-z0-9][a-z0-9._-]*`
    Name,
    Choice(&'static [&'static str]),
    Integer {
        min: u64,
        max: u64,
    },
    PowerOfTwo {
        min: u64,
        max: u64,
    },
    Boolean,
    /// Both ends included.
    Float {
        min: f64,
        max: f64,
    },
    /// Above 0, at most 1.
    Probability,
    /// One to [`LONGEST_LIST`] elements.
    List(&'static Kind),
    /// A list, or one element that stands for a list of one.
    OneOrMore(&'static Kind),
    /// `{ target = …, quant = … }`, either may be left out.
    Cells,
}

/// No list is longer: it bounds the builds of one recipe and the work of checking it.
pub(super) const LONGEST_LIST: usize = 256;

const fn key(path: &'static str, kind: Kind, example: &'static str, doc: &'static str) -> Key {
    Key { path, kind, example, doc }
}

/// The schema, in the order `show` prints.
#[rustfmt::skip]
pub(super) const KEYS: &[Key] = &[
    key("extends",             Kind::Text,                             "\"families/sdar.toml\"", "the recipe this one builds on, relative to this file"),
    key("name",                Kind::Name,                             "\"demo\"",               "the product; each build is named after it"),

    key("model.family",        Kind::Choice(Family::NAMES),            "\"sdar\"",               "the model family; left out, config.json tells"),
    key("model.checkpoint",    Kind::Text,                             "\"SDAR-1.7B-Chat\"",     "the checkpoint's folder, beside this file or under --models"),
    key("model.origin",        Kind::Text,                             "\"JetLM/SDAR-1.7B-Chat\"", "where the checkpoint comes from, for the manifest"),
    key("model.license",       Kind::Text,                             "\"apache-2.0\"",         "the terms it may be passed on under, for the manifest; left out, those of its model card"),

    key("model.sizes.vocab",        Kind::Integer { min: 1, max: 1 << 24 }, "151936",            "rows of the token table; with the other sizes, what config.json says"),
    key("model.sizes.hidden",       Kind::Integer { min: 1, max: 1 << 20 }, "2048",              "width of the residual stream"),
    key("model.sizes.layers",       Kind::Integer { min: 1, max: 1024 },    "28",                "how many layers there are"),
    key("model.sizes.heads",        Kind::Integer { min: 1, max: 4096 },    "16",                "query heads"),
    key("model.sizes.kv_heads",     Kind::Integer { min: 1, max: 4096 },    "8",                 "key/value heads"),
    key("model.sizes.head_dim",     Kind::Integer { min: 1, max: 1 << 16 }, "128",               "width of a head"),
    key("model.sizes.intermediate", Kind::Integer { min: 1, max: 1 << 20 }, "6144",              "width of the MLP"),
    key("model.sizes.tied",         Kind::Boolean,                          "false",             "whether the head is the token table"),

    key("shape.block",         Kind::Integer { min: 1, max: 256 },     "4",                      "tokens refined together; with block-causal attention, that see each other"),
    key("shape.prefill",       Kind::Integer { min: 1, max: 4096 },    "128",                    "tokens one prefill pass feeds at most"),
    key("shape.cache",         Kind::Integer { min: 1, max: 131_072 }, "2048",                   "tokens the KV cache can hold"),

    key("generate.algorithm",  Kind::Choice(Algorithm::NAMES),         "\"sdar.block_diffusion_generate\"", "the generation loop"),
    key("generate.strategy",   Kind::Choice(Strategy::NAMES),          "\"low_confidence_dynamic\"", "which masks are filled in a pass, where the algorithm leaves the choice"),
    key("generate.steps",      Kind::Integer { min: 1, max: 4096 },    "4",                      "passes a block, or the whole answer, is spread over"),
    key("generate.small_block", Kind::Integer { min: 1, max: 256 },    "8",                      "tokens of a small block inside a block"),
    key("generate.reuse",      Kind::Choice(Reuse::NAMES),             "\"dual\"",               "keys and values that are not computed anew within a block"),
    key("generate.window",     Kind::Integer { min: 1, max: 131_072 }, "128",                    "masks kept in view from the beginning of the block on"),
    key("generate.eps",        Kind::Float { min: 0.0, max: 1.0 },     "0.001",                  "where the schedule of passes ends"),
    key("generate.alg_temp",   Kind::Float { min: 0.0, max: 2.0 },     "0.1",                    "temperature of the choice of positions; 0 takes the most confident"),
    key("generate.guidance",   Kind::Float { min: 0.0, max: 100.0 },   "1.5",                    "scale of classifier-free guidance; 0 is none"),
    key("generate.sampler",    Kind::Choice(Logits::NAMES),           "\"aligned\"",            "which token the logits at i name: i, or i + 1"),
    key("generate.threshold",  Kind::OneOrMore(&Kind::Float { min: 0.0, max: 1.0 }), "[0.9]",    "accept above this probability; one per block, the last repeats"),
    key("generate.temperature", Kind::Float { min: 0.0, max: 2.0 },    "0.0",                    "0 is greedy"),
    key("generate.top_k",      Kind::Integer { min: 0, max: 1 << 20 }, "0",                      "sample among this many tokens; 0 is off"),
    key("generate.top_p",      Kind::Probability,                      "1.0",                    "sample among the tokens that make up this probability"),
    key("generate.max_tokens", Kind::Integer { min: 1, max: 1 << 20 }, "256",                    "tokens generated at most"),
    key("generate.seed",       Kind::Integer { min: 0, max: u64::MAX }, "0",                     "seed of the sampler's random numbers"),

    key("quant.NAME.weights",  Kind::Choice(Numbers::NAMES),           "\"f16\"",               "how filters are stored"),
    key("quant.NAME.group",    Kind::Integer { min: 0, max: 128 },     "32",                     "inputs that share a scale of int4: 32, 64, 128, or 0 for a whole row"),
    key("quant.NAME.activations", Kind::Choice(Activations::NAMES),    "\"float\"",              "what filters are given: tokens in floats, in f16, or for quantized filters in int8; uint16 or uint8 round every value, with ends found by calibration"),
    key("quant.NAME.cache",    Kind::Choice(GridType::NAMES),          "\"uint8\"",              "what committed rows are rounded to where every value is rounded"),
    key("quant.NAME.search",   Kind::Choice(Search::IN_RECIPES),       "\"mse\"",                "how scales are found: from the largest magnitude, or for the least squared error"),
    key("quant.NAME.table",    Kind::Choice(Numbers::NAMES),           "\"f16\"",                "how the table of tokens is stored; left out, as weights are, or f16 beside int8 and int4"),
    key("quant.NAME.keep.ENCODING", Kind::List(&Kind::Text),           "[\"embed_tokens\"]",     "weights stored this way instead; * matches any run of characters"),

    key("matrix.target",       Kind::List(&Kind::Choice(TargetName::NAMES)), "[\"xnnpack\"]",    "what to build for"),
    key("matrix.quant",        Kind::List(&Kind::Text),                "[\"f16\"]",              "the schemes to build"),
    key("matrix.except",       Kind::Cells,                            "[{ target = \"xnnpack\", quant = \"f32\" }]", "combinations to leave out"),

    key("target.xnnpack.alignment", Kind::PowerOfTwo { min: 16, max: 65_536 }, "128",            "bytes the weights' segments are aligned to"),
    key("target.xnnpack.select_rows", Kind::Boolean,                     "true",                 "whether a step is told which rows need logits, by an input of its own"),

    key("target.onnx.dynamic", Kind::Boolean,                          "true",                   "whether a step can have any number of tokens up to shape.prefill, and any number of cached ones"),

    key("target.qnn.socs",     Kind::List(&Kind::Text),                "[\"SM8650\"]",          "the chips that context binaries are made for where Qualcomm's libraries are installed"),
    key("target.qnn.contexts", Kind::Boolean,                          "true",                   "whether context binaries are made for them"),
    key("target.qnn.lengths",  Kind::List(&Kind::Integer { min: 1, max: 4096 }), "[4]",          "numbers of tokens that a step can have beside shape.prefill, each with a graph of its own; left out, shape.block"),
    key("calibration.method",  Kind::Choice(RangeMethod::NAMES),       "\"min-max\"",            "how the ends of a value are found among those that were seen"),
    key("calibration.percentile", Kind::Float { min: 50.0, max: 100.0 }, "99.99",               "the share of numbers between the ends, in percent, for method percentile"),
    key("calibration.texts",   Kind::List(&Kind::Text),                "[\"Hello!\"]",            "what the model reads meanwhile: a question, its answer, a question, its answer"),
    key("calibration.file",    Kind::Text,                             "\"calibration.txt\"",    "a file of such lines, beside this one, instead of the texts"),

    key("target.coreml.deployment", Kind::Choice(Deployment::NAMES),     "\"ios18\"",            "the oldest system that must run the package"),
    key("target.coreml.interface",  Kind::Choice(Interface::NAMES),      "\"explicit\"",         "who keeps the committed rows: the host, or the package as states"),
    key("target.coreml.norm",       Kind::Choice(Norm::NAMES),           "\"half\"",             "how the mean of squares of a norm is computed"),
    key("target.coreml.attention",  Kind::Choice(Attention::NAMES),      "\"decomposed\"",       "how attention is written"),
    key("target.coreml.nibbles",    Kind::Choice(Nibbles::NAMES),        "\"signed\"",           "the numbers of int4 weights: from -8 on, or from 0 on with an offset"),
    key("target.coreml.shapes",     Kind::Choice(Shapes::NAMES),         "\"static\"",           "how many tokens a step can have: one number, a range, several numbers, several functions"),
    key("target.coreml.lengths",    Kind::List(&Kind::Integer { min: 1, max: 4096 }), "[4]",  "the numbers of tokens beside shape.prefill, where there are several; left out, shape.block"),
    key("target.coreml.split_rows", Kind::Integer { min: 0, max: 1 << 24 }, "65536",           "filters of more rows than this are split; 0 splits none"),
    key("target.coreml.parts",      Kind::Integer { min: 1, max: 1024 }, "2",                    "packages that the layers are shared out to, each of which feeds the next"),
    key("target.coreml.select_rows", Kind::Boolean,                      "true",                 "whether a step is told which rows need logits, by an input of its own"),
    key("target.coreml.check",      Kind::Boolean,                       "true",                 "whether a script and reference tensors for a Mac stand beside the package"),
];

/// What the schema says about a path.
pub(super) enum Place {
    Value(&'static Key),
    Table,
    Unknown,
}

/// Looks a path up. Any word stands for `NAME` here; [`is_name`] judges it.
pub(super) fn place(path: &[&str]) -> Place {
    match KEYS.iter().find(|key| begins(key.path, path)) {
        Some(key) if key.path.split('.').count() == path.len() => Place::Value(key),
        Some(_) => Place::Table,
        None => Place::Unknown,
    }
}

/// The keys a table may hold, in schema order; `None` where the user chooses the names.
pub(super) fn keys_of(table: &[&str]) -> Option<Vec<&'static str>> {
    let mut keys = Vec::new();
    for row in KEYS.iter().filter(|row| begins(row.path, table)) {
        match row.path.split('.').nth(table.len()) {
            Some("NAME") => return None,
            Some("ENCODING") => keys.extend(Numbers::NAMES),
            Some(key) if !keys.contains(&key) => keys.push(key),
            _ => {}
        }
    }
    Some(keys)
}

/// The table that does hold `key`, for one written in the wrong place.
pub(super) fn home_of(key: &str) -> Option<&'static str> {
    KEYS.iter().find_map(|row| row.path.rsplit_once('.').filter(|&(_, last)| last == key)).map(|(table, _)| table)
}

/// Sorts paths as the table does, schemes by name.
pub(super) fn order(path: &str) -> Vec<(usize, String)> {
    let words: Vec<&str> = path.split('.').collect();
    let rank = |depth: usize| KEYS.iter().position(|key| begins(key.path, &words[..depth])).unwrap_or(KEYS.len());
    (1..=words.len()).map(|depth| (rank(depth), words[depth - 1].to_owned())).collect()
}

fn begins(pattern: &str, path: &[&str]) -> bool {
    let mut pattern = pattern.split('.');
    path.iter().all(|&word| match pattern.next() {
        Some("NAME") => true,
        Some("ENCODING") => Numbers::from_name(word).is_some(),
        other => other == Some(word),
    })
}

/// `[a-z0-9-]+`, and with `more` also `.` and `_` after the first character.
pub(super) fn is_name(name: &str, more: bool) -> bool {
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let later = |c: char| lower(c) || c == '-' || (more && (c == '.' || c == '_'));
    name.starts_with(|c| lower(c) || (!more && c == '-'))
        && name.chars().all(later)
        && !name.contains("..")
        && name.len() <= 64
}

/// Says what a kind takes, after "must be".
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("a string"),
            Self::Name => f.write_str("a name of a-z, 0-9, `.`, `_` and `-`, at most 64 long"),
            Self::Choice(names) => f.write_str(&alternatives(names)),
            Self::Integer { min, max: u64::MAX } => write!(f, "an integer from {min} up"),
            Self::Integer { min, max } => write!(f, "an integer from {min} to {max}"),
            Self::Boolean => f.write_str("true or false"),
            Self::PowerOfTwo { min, max } => write!(f, "a power of two from {min} to {max}"),
            Self::Float { min, max } => write!(f, "a number from {min} to {max}"),
            Self::Probability => f.write_str("a number above 0 and at most 1"),
            Self::List(kind) => write!(f, "an array, each element {kind}"),
            Self::OneOrMore(kind) => write!(f, "{kind}, or an array of such"),
            Self::Cells => f.write_str("an array of `{ target = …, quant = … }`"),
        }
    }
}

/// `"a", "b" or "c"`
pub(super) fn alternatives(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_through_placeholders() {
        let found = |path: &str| match place(&path.split('.').collect::<Vec<_>>()) {
            Place::Value(key) => key.path,
            Place::Table => "a table",
            Place::Unknown => "unknown",
        };
        assert_eq!(found("shape.block"), "shape.block");
        assert_eq!(found("quant.int4.keep.bf16"), "quant.NAME.keep.ENCODING");
        assert_eq!(found("quant.int4"), "a table");
        assert_eq!(found("quant.int4.keep.int3"), "unknown");
        assert_eq!(found("shape.block.size"), "unknown");
    }

    #[test]
    fn a_table_lists_its_keys_in_schema_order() {
        assert_eq!(keys_of(&["shape"]), Some(vec!["block", "prefill", "cache"]));
        assert_eq!(
            keys_of(&["quant", "x"]),
            Some(vec!["weights", "group", "activations", "cache", "search", "table", "keep"])
        );
        assert_eq!(keys_of(&["quant", "x", "keep"]), Some(Numbers::NAMES.to_vec()));
        assert_eq!(keys_of(&["quant"]), None);
        assert_eq!(home_of("cache"), Some("shape"));
    }

    #[test]
    fn paths_sort_as_the_table_does() {
        let mut paths = [
            "target.xnnpack.alignment",
            "quant.b.weights",
            "quant.a.keep.f16",
            "quant.a.weights",
            "name",
            "shape.cache",
        ];
        paths.sort_by_key(|path| order(path));
        let sorted = [
            "name",
            "shape.cache",
            "quant.a.weights",
            "quant.a.keep.f16",
            "quant.b.weights",
            "target.xnnpack.alignment",
        ];
        assert_eq!(paths, sorted);
    }

    #[test]
    fn names_keep_to_their_alphabet() {
        for (name, scheme, product) in [
            ("int4", true, true),
            ("sdar-1.7b", false, true),
            ("-x", true, false),
            (".x", false, false),
            ("a/b", false, false),
            ("A", false, false),
            ("", false, false),
        ] {
            assert_eq!((is_name(name, false), is_name(name, true)), (scheme, product), "{name}");
        }
    }
}
