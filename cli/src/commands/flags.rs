//! Flags over the defaults that travel with a model, each held against its range.

use diffulex_compiler::generation::{Algorithm, Attention, Generation, Remasking, Reuse};
use diffulex_edge::Error;

use crate::args::Sampling;

/// Changes what the flags name.
pub(super) fn apply(flags: &Sampling, generation: &mut Generation) -> Result<(), Error> {
    let set = |name: &str, flag: Option<f32>, low: f32, high: f32| match flag {
        Some(value) if !(low..=high).contains(&value) => {
            Err(Error::Usage(format!("--{name} is {value}, which is not between {low} and {high}")))
        }
        given => Ok(given),
    };
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
    g.strategy = word("strategy", &flags.strategy, Remasking::NAMES, Remasking::from_name)?.or(g.strategy);
    g.reuse = word("reuse", &flags.reuse, Reuse::NAMES, Reuse::from_name)?.unwrap_or(g.reuse);
    g.temperature = set("temperature", flags.temperature, 0.0, 2.0)?.unwrap_or(g.temperature);
    g.top_p = set("top-p", flags.top_p, 0.0, 1.0)?.unwrap_or(g.top_p);
    if let Some(threshold) = set("threshold", flags.threshold, 0.0, 1.0)? {
        g.threshold = vec![threshold];
    }
    g.eps = set("eps", flags.eps, 0.0, 1.0)?.or(g.eps);
    g.alg_temp = set("alg-temp", flags.alg_temp, 0.0, 1000.0)?.or(g.alg_temp);
    g.guidance = set("guidance", flags.guidance, 0.0, 100.0)?.or(g.guidance);
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
