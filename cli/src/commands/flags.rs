//! Flags, and settings of the chat, over the defaults that travel with a model, each held against its range.

use diffulex_compiler::generation::{Algorithm, Attention, Generation, Reuse, Strategy};
use diffulex_edge::Error;
use diffulex_runtime::generate::{GenerateError, settings};

use crate::args::Sampling;

/// How the user writes a setting, given by its name in recipes.
pub(super) type Spelling = fn(&str) -> String;

/// A setting as a flag.
pub(super) fn as_flag(name: &str) -> String {
    format!("--{}", name.replace('_', "-"))
}

/// Changes what is given. After a refusal `generation` is to be thrown away.
pub(super) fn apply(given: &Sampling, generation: &mut Generation, spelled: Spelling) -> Result<(), Error> {
    let g = generation;
    if let Some(block) = given.block {
        if g.attention == Attention::BlockCausal && block != g.block {
            let (own, block) = (g.block, spelled("block"));
            return Err(Error::Usage(format!("the model was trained for blocks of {own}; {block} cannot change that")));
        }
        g.block = block;
    }
    let name = |name: &str| spelled(name);
    g.algorithm =
        word(name("algorithm"), &given.algorithm, Algorithm::NAMES, Algorithm::from_name)?.unwrap_or(g.algorithm);
    refuse_unknown(given, g.algorithm, spelled)?;
    g.strategy = word(name("strategy"), &given.strategy, Strategy::NAMES, Strategy::from_name)?.or(g.strategy);
    g.reuse = word(name("reuse"), &given.reuse, Reuse::NAMES, Reuse::from_name)?.unwrap_or(g.reuse);
    if let Some(threshold) = given.threshold {
        let either = g.algorithm.name().starts_with("llada.nv");
        if given.steps.is_some() && either {
            let (steps, threshold) = (spelled("steps"), spelled("threshold"));
            let both = format!("{steps} and {threshold} are two ways to choose what a pass fills; give one");
            return Err(Error::Usage(both));
        }
        g.threshold = vec![threshold];
        g.steps = g.steps.filter(|_| !either);
    }
    g.temperature = given.temperature.unwrap_or(g.temperature);
    g.top_p = given.top_p.unwrap_or(g.top_p);
    g.top_k = given.top_k.unwrap_or(g.top_k);
    g.eps = given.eps.or(g.eps);
    g.alg_temp = given.alg_temp.or(g.alg_temp);
    g.guidance = given.guidance.or(g.guidance);
    g.max_tokens = given.max_tokens.unwrap_or(g.max_tokens);
    g.steps = given.steps.or(g.steps);
    g.small_block = given.small_block.or(g.small_block);
    g.window = given.window.or(g.window);
    g.seed = given.seed.unwrap_or(g.seed);
    check(g, spelled)
}

/// Holds every value against its range, wherever it comes from.
pub(super) fn check(generation: &Generation, spelled: Spelling) -> Result<(), Error> {
    let g = generation;
    let counts = [
        ("block", Some(g.block)),
        ("max_tokens", Some(g.max_tokens)),
        ("steps", g.steps),
        ("small_block", g.small_block),
        ("window", g.window),
    ];
    if let Some((name, _)) = counts.iter().find(|(_, value)| *value == Some(0)) {
        return Err(Error::Usage(format!("{} is at least 1", spelled(name))));
    }
    let within = |name: &str, value: f64, high: f64| match (0.0..=high).contains(&value) {
        true => Ok(()),
        false => Err(Error::Usage(format!("{} is {value}, which is not between 0 and {high}", spelled(name)))),
    };
    // The shortest decimal that names the same number: 0.1 and not 0.10000000149.
    let decimal = |value: f32| value.to_string().parse().unwrap_or(f64::from(value));
    within("temperature", decimal(g.temperature), 2.0)?;
    within("top_p", decimal(g.top_p), 1.0)?;
    g.threshold.iter().try_for_each(|&threshold| within("threshold", threshold, 1.0))?;
    let optional = [("eps", g.eps, 1.0), ("alg_temp", g.alg_temp, 1000.0), ("guidance", g.guidance, 100.0)];
    optional.into_iter().try_for_each(|(name, value, high)| value.map_or(Ok(()), |v| within(name, decimal(v), high)))
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

/// The originals' names of parameters, and ours.
const NAMES: [(&str, &str); 8] = [
    ("gen_length", "max_tokens"),
    ("max_new_tokens", "max_tokens"),
    ("block_length", "block"),
    ("small_block_size", "small_block"),
    ("denoising_steps", "steps"),
    ("cfg_scale", "guidance"),
    ("alg_temp", "alg_temp"),
    ("steps", "steps"),
];

/// Says what sets the parameters that an algorithm complains of.
pub(super) fn named(error: Error, spelled: Spelling) -> Error {
    let Error::Generate(GenerateError::Setting { .. }) = error else { return error };
    let text = error.to_string();
    let said = |name: &str| text.split(|c: char| c != '_' && !c.is_alphanumeric()).any(|word| word == name);
    let flags: Vec<String> = NAMES
        .iter()
        .filter(|(name, _)| said(name))
        .map(|(name, ours)| format!("{name} is {}", spelled(ours)))
        .collect();
    if flags.is_empty() { error } else { Error::Usage(format!("{text} ({})", flags.join(", "))) }
}

/// Refuses what the algorithm would not hear.
fn refuse_unknown(flags: &Sampling, algorithm: Algorithm, spelled: Spelling) -> Result<(), Error> {
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
    match given.iter().find(|(name, given)| *given && !known.contains(name)) {
        None => Ok(()),
        Some((name, _)) => {
            let known: Vec<String> = known.iter().map(|name| spelled(name)).collect();
            let (name, known) = (spelled(name), known.join(", "));
            Err(Error::Usage(format!("{name} has no meaning for {algorithm}, which takes {known}")))
        }
    }
}

/// The variant that a word names.
fn word<T>(
    spelled: String,
    name: &Option<String>,
    names: &[&str],
    from_name: fn(&str) -> Option<T>,
) -> Result<Option<T>, Error> {
    let Some(name) = name else { return Ok(None) };
    let unknown = || Error::Usage(format!("{spelled}: there is no `{name}`; there are {}", names.join(", ")));
    from_name(name).map(Some).ok_or_else(unknown)
}
