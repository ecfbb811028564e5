//! Everything that can be wrong with a recipe, as facts, and the words for it.
//!
//! Tests compare variants. The sentence of a variant is its `#[error]`, what stands at the marked spot is
//! [`Mistake::label`], what to type is [`Mistake::help`].

use thiserror::Error;

use super::schema::alternatives;

/// What is wrong. `key` is a dotted path, `subject` a key or a part of its value as a sentence names it.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum Mistake {
    #[error("there is no recipe `{name}`")]
    MissingFile { name: String, near: Option<String>, others: Vec<String> },
    #[error("{name} {why}")]
    Unreadable { name: String, why: String },
    #[error("recipes extend each other in a circle: {}", chain.join(" → "))]
    ExtendsCycle { chain: Vec<String> },
    #[error("more than {limit} recipes extend each other")]
    ExtendsTooDeep { limit: usize },
    #[error("this is not TOML: {problem}")]
    Syntax { problem: String },
    #[error("`{key}` is set twice")]
    DuplicateKey { key: String },
    #[error("`--set` takes key=value, not `{text}`")]
    Override { text: String },
    #[error("`--set` cannot change `extends`")]
    OverrideExtends,

    #[error("{} has no key `{key}`", table_name(table))]
    UnknownKey { table: String, key: String, near: Option<String>, home: Option<&'static str>, keys: Vec<&'static str> },
    #[error("{subject} must be {expected}")]
    WrongType { subject: String, expected: String, found: &'static str, instead: Option<String> },
    #[error("{subject} must be {expected}")]
    OutOfRange { subject: String, expected: String, why: String },
    #[error("{subject} must be {expected}")]
    BadName { subject: String, expected: String },
    #[error("{subject} cannot be \"{found}\"")]
    UnknownChoice { subject: String, found: String, near: Option<String>, choices: &'static [&'static str] },
    #[error("`{key}` is missing")]
    MissingKey { key: String, example: &'static str, doc: &'static str },

    #[error("`shape.{key}` must be a multiple of `shape.block`")]
    NotMultipleOfBlock { key: &'static str, value: u32, block: u32 },
    #[error("a prefill of {prefill} tokens does not fit a cache of {cache}")]
    PrefillExceedsCache { prefill: u32, cache: u32 },
    #[error("`{pattern}` is kept in two encodings")]
    KeptTwice { pattern: String },
    #[error("`{key}` has no effect")]
    NoEffect { key: String, why: &'static str },
    #[error("{subject} names {value} twice")]
    Repeated { subject: String, value: String },
    #[error("there is no quantization scheme `{name}`")]
    UnknownScheme { name: String, near: Option<String>, schemes: Vec<String> },
    #[error("this exception matches no combination of the matrix")]
    ExceptMatchesNothing { targets: Vec<String>, schemes: Vec<String> },
    #[error("the exceptions leave nothing to build")]
    NothingToBuild,
    #[error("there is no checkpoint folder `{checkpoint}`")]
    MissingCheckpoint { checkpoint: String, models: bool },

    /// What another part of the product refuses; `code` is its own, such as `quant::group-size`.
    #[error("{message}")]
    Refusal { code: &'static str, message: String },
}

impl Mistake {
    /// The stable name in the brackets of `error[…]`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingFile { .. } => "recipe::missing-file",
            Self::Unreadable { .. } => "recipe::unreadable",
            Self::ExtendsCycle { .. } => "recipe::extends-cycle",
            Self::ExtendsTooDeep { .. } => "recipe::extends-depth",
            Self::Syntax { .. } => "recipe::syntax",
            Self::DuplicateKey { .. } => "recipe::duplicate-key",
            Self::Override { .. } | Self::OverrideExtends => "recipe::override",
            Self::UnknownKey { .. } => "recipe::unknown-key",
            Self::WrongType { .. } => "recipe::wrong-type",
            Self::OutOfRange { .. } => "recipe::out-of-range",
            Self::BadName { .. } => "recipe::bad-name",
            Self::UnknownChoice { .. } => "recipe::unknown-value",
            Self::MissingKey { .. } => "recipe::missing-key",
            Self::NotMultipleOfBlock { .. } | Self::PrefillExceedsCache { .. } => "recipe::shape",
            Self::KeptTwice { .. } => "recipe::kept-twice",
            Self::NoEffect { .. } => "recipe::no-effect",
            Self::Repeated { .. } => "recipe::repeated",
            Self::UnknownScheme { .. } => "recipe::unknown-scheme",
            Self::ExceptMatchesNothing { .. } => "recipe::except",
            Self::NothingToBuild => "recipe::empty-matrix",
            Self::MissingCheckpoint { .. } => "recipe::missing-checkpoint",
            Self::Refusal { code, .. } => code,
        }
    }

    /// What is wrong at the marked spot.
    pub(super) fn label(&self) -> String {
        match self {
            Self::UnknownKey { near: Some(near), .. } | Self::UnknownScheme { near: Some(near), .. } => {
                format!("did you mean `{near}`?")
            }
            Self::UnknownChoice { near: Some(near), .. } => format!("did you mean \"{near}\"?"),
            Self::MissingFile { .. } => "no such file".into(),
            Self::Unreadable { why, .. } => why.clone(),
            Self::ExtendsCycle { .. } => "leads back here".into(),
            Self::ExtendsTooDeep { .. } => "one too many".into(),
            Self::Syntax { .. } => String::new(),
            Self::DuplicateKey { .. } => "set again here".into(),
            Self::Override { .. } | Self::OverrideExtends => String::new(),
            Self::UnknownKey { .. } => "unknown key".into(),
            Self::WrongType { found, .. } => format!("this is {found}"),
            Self::OutOfRange { why, .. } => why.clone(),
            Self::BadName { .. } => "not such a name".into(),
            Self::UnknownChoice { choices, .. } => format!("must be {}", alternatives(choices)),
            Self::MissingKey { .. } => "not set".into(),
            Self::NotMultipleOfBlock { block, .. } => format!("not a multiple of {block}"),
            Self::PrefillExceedsCache { cache, .. } => format!("more than {cache}"),
            Self::KeptTwice { .. } | Self::Repeated { .. } => "again here".into(),
            Self::NoEffect { why, .. } => (*why).into(),
            Self::UnknownScheme { .. } => "not a scheme of this recipe".into(),
            Self::ExceptMatchesNothing { .. } => "matches nothing".into(),
            Self::NothingToBuild => "these cover every combination".into(),
            Self::MissingCheckpoint { .. } => "no such folder".into(),
            Self::Refusal { .. } => String::new(),
        }
    }

    /// What to type, where there is something to say beyond the label.
    pub(super) fn help(&self) -> Option<String> {
        match self {
            Self::MissingFile { near: Some(near), .. } => Some(format!("did you mean `{near}`?")),
            Self::MissingFile { others, .. } if !others.is_empty() => {
                Some(format!("that folder holds {}", code_list(others)))
            }
            Self::ExtendsCycle { .. } => Some("remove one of these `extends`".into()),
            Self::DuplicateKey { .. } => Some("keep one of the two".into()),
            Self::Override { .. } => Some("write for example `--set shape.cache=1024`".into()),
            Self::OverrideExtends => Some("name the other recipe instead of this one".into()),
            Self::UnknownKey { near: None, home: Some(home), key, .. } => {
                Some(format!("`{key}` belongs under `[{home}]`"))
            }
            Self::UnknownKey { near: None, keys, table, .. } if !keys.is_empty() => {
                Some(format!("{} has {}", table_name(table), code_list(keys)))
            }
            Self::WrongType { instead: Some(instead), .. } => Some(format!("write `{instead}`")),
            Self::UnknownChoice { near: Some(_), choices, .. } if choices.len() > 1 => {
                Some(format!("write {}", alternatives(choices)))
            }
            Self::MissingKey { key, example, doc } => Some(match key.rsplit_once('.') {
                Some((table, key)) => format!("write `{key} = {example}` under `[{table}]`: {doc}"),
                None => format!("write `{key} = {example}`: {doc}"),
            }),
            Self::NotMultipleOfBlock { key, value, block } => {
                let (below, above) = (value / block * block, value.div_ceil(*block) * block);
                let below = if below > 0 { format!("`{key} = {below}` or ") } else { String::new() };
                Some(format!("write {below}`{key} = {above}`"))
            }
            Self::PrefillExceedsCache { cache, .. } => Some(format!("write `prefill = {cache}`")),
            Self::UnknownScheme { schemes, .. } if !schemes.is_empty() => {
                Some(format!("the schemes are {}", code_list(schemes)))
            }
            Self::ExceptMatchesNothing { targets, schemes } => Some(format!(
                "the matrix has the targets {} and the schemes {}",
                code_list(targets),
                code_list(schemes)
            )),
            Self::NothingToBuild => Some("remove an exception".into()),
            Self::MissingCheckpoint { models: false, .. } => {
                Some("pass `--models DIR`, the folder that holds the checkpoints".into())
            }
            _ => None,
        }
    }
}

/// The beginning of a text that may be long, as a message shows it.
pub(super) fn shortened(text: &str) -> String {
    const SHOWN: usize = 64;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn table_name(table: &str) -> String {
    if table.is_empty() { "a recipe".into() } else { format!("`{table}`") }
}

/// `a`, `b` and, where there are more, how many.
fn code_list<T: AsRef<str>>(words: &[T]) -> String {
    const SHOWN: usize = 12;
    let shown: Vec<String> = words.iter().take(SHOWN).map(|word| format!("`{}`", word.as_ref())).collect();
    let more = if words.len() > SHOWN { format!(" and {} more", words.len() - SHOWN) } else { String::new() };
    shown.join(", ") + &more
}
