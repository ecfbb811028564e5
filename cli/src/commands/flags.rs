//! Flags over the defaults that travel with a model, each held against its range.

use diffulex_compiler::generation::{Algorithm, Attention, Generation, Reuse, Strategy};
use diffulex_edge::Error;
use diffulex_runtime::generate::{GenerateError, settings};

use crate::args::Sampling;

/// Changes what the flags name.
pub(super) fn apply(flags: &Sampling, generation: &mut Generation) -> Result<(), Error> {
    let count = |name: &str, flag: Option<u32>| match flag {
        Some(0) => Err(Error::Usage(format!("--{name} is at least 1"))),
        given => Ok(given),
    };
    let g = generation;
    if let Some(block) = count("block", flags.block)? {
        if g.attention == Attention::BlockCausal && block != g.block {
            let own = g.block;
            return Err(Error::Usage(format!("the model was trained for blocks of {own}; --block cannot change that")));
        }
        g.block = block;
    }
    g.algorithm = word("algorithm", &flags.algorithm, Algorithm::NAMES, Algorithm::from_name)?.unwrap_or(g.algorithm);
    refuse_unknown(flags, g.algorithm)?;
    g.strategy = word("strategy", &flags.strategy, Strategy::NAMES, Strategy::from_name)?.or(g.strategy);
    g.reuse = word("reuse", &flags.reuse, Reuse::NAMES, Reuse::from_name)?.unwrap_or(g.reuse);
    g.temperature = within("temperature", flags.temperature, 0.0, 2.0)?.unwrap_or(g.temperature);
    g.top_p = within("top-p", flags.top_p, 0.0, 1.0)?.unwrap_or(g.top_p);
    if let Some(threshold) = within("threshold", flags.threshold, 0.0, 1.0)? {
        if flags.steps.is_some() && g.algorithm.name().starts_with("llada.nv") {
            let both = "--steps and --threshold are two ways to choose what a pass fills; give one";
            return Err(Error::Usage(both.into()));
        }
        g.threshold = vec![threshold];
        g.steps = g.steps.filter(|_| !g.algorithm.name().starts_with("llada.nv"));
    }
    g.eps = within("eps", flags.eps, 0.0, 1.0)?.or(g.eps);
    g.alg_temp = within("alg-temp", flags.alg_temp, 0.0, 1000.0)?.or(g.alg_temp);
    g.guidance = within("guidance", flags.guidance, 0.0, 100.0)?.or(g.guidance);
    g.max_tokens = count("max-tokens", flags.max_tokens)?.unwrap_or(g.max_tokens);
    g.steps = count("steps", flags.steps)?.or(g.steps);
    g.small_block = count("small-block", flags.small_block)?.or(g.small_block);
    g.window = count("window", flags.window)?.or(g.window);
    g.top_k = flags.top_k.unwrap_or(g.top_k);
    g.seed = flags.seed.unwrap_or(g.seed);
    Ok(())
}

/// Makes the generation one that fills a gap of `length` tokens, where end tokens are tokens like others.
pub(super) fn gap(length: u32, generation: &mut Generation) -> Result<(), Error> {
    if generation.attention != Attention::Full {
        let family = generation.family;
        return Err(Error::Usage(format!(
            "{family} fills in block by block and sees nothing behind a gap; infill needs a model with full attention \
             (dream, llada)"
        )));
    }
    if length == 0 {
        return Err(Error::Usage("--length is at least 1".into()));
    }
    generation.max_tokens = length;
    generation.end_ids.clear();
    Ok(())
}

/// The originals' names of parameters that have a flag of another name.
const NAMES: [(&str, &str); 8] = [
    ("gen_length", "--max-tokens"),
    ("max_new_tokens", "--max-tokens"),
    ("block_length", "--block"),
    ("small_block_size", "--small-block"),
    ("denoising_steps", "--steps"),
    ("cfg_scale", "--guidance"),
    ("alg_temp", "--alg-temp"),
    ("steps", "--steps"),
];

/// Says which flags set the parameters that an algorithm complains of.
pub(super) fn named(error: Error) -> Error {
    let Error::Generate(GenerateError::Setting { .. }) = error else { return error };
    let text = error.to_string();
    let said = |name: &str| text.split(|c: char| c != '_' && !c.is_alphanumeric()).any(|word| word == name);
    let flags: Vec<String> =
        NAMES.iter().filter(|(name, _)| said(name)).map(|(name, flag)| format!("{name} is {flag}")).collect();
    if flags.is_empty() { error } else { Error::Usage(format!("{text} ({})", flags.join(", "))) }
}

/// Refuses a flag that the algorithm would not hear.
fn refuse_unknown(flags: &Sampling, algorithm: Algorithm) -> Result<(), Error> {
    let given = [
        ("strategy", flags.strategy.is_some()),
        ("steps", flags.steps.is_some()),
        ("block", flags.block.is_some()),
        ("small_block", flags.small_block.is_some()),
        ("reuse", flags.reuse.is_some()),
        ("window", flags.window.is_some()),
        ("threshold", flags.threshold.is_some()),
        ("eps", flags.eps.is_some()),
        ("alg_temp", flags.alg_temp.is_some()),
        ("guidance", flags.guidance.is_some()),
        ("top_k", flags.top_k.is_some()),
        ("top_p", flags.top_p.is_some()),
    ];
    let known = settings(algorithm);
    let flag = |name: &str| format!("--{}", name.replace('_', "-"));
    match given.iter().find(|(name, given)| *given && !known.contains(name)) {
        None => Ok(()),
        Some((name, _)) => {
            let known: Vec<String> = known.iter().map(|name| flag(name)).collect();
            let (name, known) = (flag(name), known.join(", "));
            Err(Error::Usage(format!("{name} has no meaning for {algorithm}, which takes {known}")))
        }
    }
}

/// A number within its range.
fn within<T: PartialOrd + Copy + std::fmt::Display>(
    name: &str,
    flag: Option<T>,
    low: T,
    high: T,
) -> Result<Option<T>, Error> {
    match flag {
        Some(value) if !(low..=high).contains(&value) => {
            Err(Error::Usage(format!("--{name} is {value}, which is not between {low} and {high}")))
        }
        given => Ok(given),
    }
}

/// The variant that a word names.
fn word<T>(
    flag: &str,
    name: &Option<String>,
    names: &[&str],
    from_name: fn(&str) -> Option<T>,
) -> Result<Option<T>, Error> {
    let Some(name) = name else { return Ok(None) };
    let unknown = || Error::Usage(format!("--{flag}: there is no `{name}`; there are {}", names.join(", ")));
    from_name(name).map(Some).ok_or_else(unknown)
}
