//! Every algorithm under its name, and how the defaults that travel with a model become one.

use super::blocks;
use super::canvas::Canvas;
use super::dream::{self, Dream};
use super::fast_dllm_v2::{self, FastDllm};
use super::llada::{self, Llada};
use super::params::{Ids, Thresholds, wrong};
use super::sdar::Sdar;
use super::{GenerateError, Setup, Task};
use crate::engine::EngineShape;
use crate::session::Attention;
use diffulex_compiler::generation::{Algorithm as Name, Family, Generation, Reuse, Strategy};

/// An algorithm under the name of the original it reproduces, with its parameters.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "algorithm", content = "params")]
pub enum Algorithm {
    /// SDAR's block diffusion.
    #[serde(rename = "sdar.block_diffusion_generate")]
    Sdar(Sdar),
    /// Fast-dLLM v2's generation.
    #[serde(rename = "fast_dllm_v2.generate")]
    FastDllm(FastDllm),
    /// Fast-dLLM v2's evaluation.
    #[serde(rename = "fast_dllm_v2.batch_sample")]
    FastDllmBatch(FastDllm),
    /// Dream's own.
    #[serde(rename = "dream.diffusion_generate")]
    Dream(Dream),
    /// Fast-dLLM for Dream, without blocks.
    #[serde(rename = "dream.diffusion_generate_threshold")]
    DreamThreshold(Dream),
    /// Fast-dLLM for Dream, with blocks.
    #[serde(rename = "dream.diffusion_generate_block")]
    DreamBlock(Dream),
    /// LLaDA's own.
    #[serde(rename = "llada.gsai")]
    Llada(Llada),
    /// Fast-dLLM for LLaDA, without a cache.
    #[serde(rename = "llada.nv")]
    LladaNv(Llada),
    /// Fast-dLLM for LLaDA, with a prefix cache.
    #[serde(rename = "llada.nv_prefix")]
    LladaNvPrefix(Llada),
    /// Fast-dLLM for LLaDA, with a dual cache.
    #[serde(rename = "llada.nv_dual")]
    LladaNvDual(Llada),
    /// Ours, for full attention.
    #[serde(rename = "diffulex.canvas")]
    Canvas(Canvas),
}

impl Algorithm {
    /// The attention its session needs.
    #[must_use]
    pub fn attention(&self) -> Attention {
        match self {
            Algorithm::Sdar(sdar) => sdar.attention(),
            Algorithm::FastDllm(fast) | Algorithm::FastDllmBatch(fast) => fast.attention(),
            _ => Attention::Full,
        }
    }

    /// The name of the original.
    #[must_use]
    pub fn name(&self) -> Name {
        match self {
            Algorithm::Sdar(_) => Name::SdarBlockDiffusion,
            Algorithm::FastDllm(_) => Name::FastDllmGenerate,
            Algorithm::FastDllmBatch(_) => Name::FastDllmBatchSample,
            Algorithm::Dream(_) => Name::DreamDiffusion,
            Algorithm::DreamThreshold(_) => Name::DreamThreshold,
            Algorithm::DreamBlock(_) => Name::DreamBlock,
            Algorithm::Llada(_) => Name::LladaGsai,
            Algorithm::LladaNv(_) => Name::LladaNv,
            Algorithm::LladaNvPrefix(_) => Name::LladaNvPrefix,
            Algorithm::LladaNvDual(_) => Name::LladaNvDual,
            Algorithm::Canvas(_) => Name::Canvas,
        }
    }

    /// The id that stands for a position that is not decided.
    #[must_use]
    pub fn mask_id(&self) -> u32 {
        match self {
            Algorithm::Sdar(p) => p.mask_id,
            Algorithm::FastDllm(p) | Algorithm::FastDllmBatch(p) => p.mask_id,
            Algorithm::Dream(p) | Algorithm::DreamThreshold(p) | Algorithm::DreamBlock(p) => p.mask_id,
            Algorithm::Llada(p) | Algorithm::LladaNv(p) | Algorithm::LladaNvPrefix(p) | Algorithm::LladaNvDual(p) => {
                p.mask_id
            }
            Algorithm::Canvas(p) => p.mask_id,
        }
    }

    /// The ids that end its answer.
    #[must_use]
    pub fn end_ids(&self) -> &[u32] {
        match self {
            Algorithm::Sdar(p) => &p.stopping_criteria_idx.0,
            Algorithm::FastDllm(p) | Algorithm::FastDllmBatch(p) => &p.stop_token.0,
            Algorithm::Dream(p) | Algorithm::DreamThreshold(p) | Algorithm::DreamBlock(p) => &p.end_ids.0,
            Algorithm::Llada(p) | Algorithm::LladaNv(p) | Algorithm::LladaNvPrefix(p) | Algorithm::LladaNvDual(p) => {
                &p.end_ids.0
            }
            Algorithm::Canvas(p) => &p.end_ids.0,
        }
    }

    /// Positions that prompt and answer can have in an engine of this shape: those of the cache or, where a pass takes
    /// the whole sequence, of a pass.
    #[must_use]
    pub fn room(&self, shape: &EngineShape) -> usize {
        match self {
            Algorithm::Sdar(_) | Algorithm::FastDllm(_) | Algorithm::FastDllmBatch(_) => shape.max_cache,
            Algorithm::Dream(_) | Algorithm::DreamThreshold(_) => blocks::room(shape, Reuse::None),
            Algorithm::DreamBlock(p) => blocks::room(shape, p.reuse(dream::Kind::Block)),
            Algorithm::Llada(_) | Algorithm::LladaNv(_) => blocks::room(shape, Reuse::None),
            Algorithm::LladaNvPrefix(_) | Algorithm::LladaNvDual(_) => blocks::room(shape, Reuse::Dual),
            Algorithm::Canvas(p) => blocks::room(shape, p.reuse),
        }
    }

    /// Shortens the answer to at most `most` tokens, in whole blocks where the algorithm knows no others, and the passes
    /// with it.
    pub fn shorten(&mut self, most: usize) {
        let least = most.max(1);
        match self {
            Algorithm::Sdar(p) => p.gen_length = p.gen_length.min(least),
            Algorithm::FastDllm(p) | Algorithm::FastDllmBatch(p) => p.shorten(most),
            Algorithm::Dream(p) => p.shorten(dream::Kind::Plain, most),
            Algorithm::DreamThreshold(p) => p.shorten(dream::Kind::Threshold, most),
            Algorithm::DreamBlock(p) => p.shorten(dream::Kind::Block, most),
            Algorithm::Llada(p) | Algorithm::LladaNv(p) | Algorithm::LladaNvPrefix(p) | Algorithm::LladaNvDual(p) => {
                p.shorten(most);
            }
            Algorithm::Canvas(p) => p.max_tokens = p.max_tokens.min(least),
        }
    }

    /// Shortens the answer to what an engine of this shape has room for after a prompt. What has no room at all is
    /// refused by the run.
    pub fn fit(&mut self, prompt: usize, shape: &EngineShape) {
        // Blocks are aligned to positions, so that the end of the prompt lies in the first of them.
        let before = match self {
            Algorithm::FastDllm(p) | Algorithm::FastDllmBatch(p) => prompt - prompt % p.block_size.max(1),
            _ => prompt,
        };
        self.shorten(self.room(shape).saturating_sub(before));
    }

    /// Checks the parameters against the task and makes a run of them.
    pub(super) fn set_up(&self, task: &Task<'_>) -> Result<Setup<'_>, GenerateError> {
        match self {
            Algorithm::Sdar(sdar) => sdar.set_up(task),
            Algorithm::FastDllm(fast) => fast.set_up(fast_dllm_v2::Kind::Generate, task),
            Algorithm::FastDllmBatch(fast) => fast.set_up(fast_dllm_v2::Kind::BatchSample, task),
            Algorithm::Dream(dream) => dream.set_up(dream::Kind::Plain, task),
            Algorithm::DreamThreshold(dream) => dream.set_up(dream::Kind::Threshold, task),
            Algorithm::DreamBlock(dream) => dream.set_up(dream::Kind::Block, task),
            Algorithm::Llada(llada) => llada.set_up(llada::Kind::Gsai, task),
            Algorithm::LladaNv(llada) => llada.set_up(llada::Kind::Nv(Reuse::None), task),
            Algorithm::LladaNvPrefix(llada) => llada.set_up(llada::Kind::Nv(Reuse::Prefix), task),
            Algorithm::LladaNvDual(llada) => llada.set_up(llada::Kind::Nv(Reuse::Dual), task),
            Algorithm::Canvas(canvas) => canvas.set_up(task),
        }
    }
}

impl TryFrom<&Generation> for Algorithm {
    type Error = GenerateError;

    /// The algorithm that travels with an artifact, with its defaults. Each takes the values that it knows; one that it
    /// would have to leave out although it changes the answer is refused.
    fn try_from(g: &Generation) -> Result<Algorithm, GenerateError> {
        check_family(g)?;
        if g.algorithm == Name::Canvas {
            reuse(g, &[Reuse::None, Reuse::Prefix, Reuse::Dual])?;
            return Ok(Algorithm::Canvas(Canvas {
                max_tokens: g.max_tokens as usize,
                block_length: g.block as usize,
                window: g.window.unwrap_or(g.block) as usize,
                threshold: Thresholds(g.threshold.clone()),
                reuse: g.reuse,
                logits: g.logits,
                temperature: g.temperature,
                top_k: g.top_k as usize,
                top_p: g.top_p,
                end_ids: Ids(g.end_ids.clone()),
                mask_id: g.mask_id,
            }));
        }
        match g.family {
            Family::Sdar => sdar(g).map(Algorithm::Sdar),
            Family::FastDllmV2 if g.algorithm == Name::FastDllmGenerate => fast_dllm_v2(g).map(Algorithm::FastDllm),
            Family::FastDllmV2 => fast_dllm_v2(g).map(Algorithm::FastDllmBatch),
            Family::Dream => Ok(match g.algorithm {
                // The strategy among the family's defaults is that of the other two.
                Name::DreamThreshold => Algorithm::DreamThreshold(dream(g, Strategy::ConfidenceThreshold)),
                Name::DreamBlock => {
                    reuse(g, &[Reuse::Prefix, Reuse::Dual])?;
                    Algorithm::DreamBlock(dream(g, strategy(g, &Dream::BLOCK_STRATEGIES)?))
                }
                _ => Algorithm::Dream(dream(g, strategy(g, &Dream::STRATEGIES)?)),
            }),
            Family::Llada => Ok(match g.algorithm {
                Name::LladaNv => Algorithm::LladaNv(llada(g)?),
                Name::LladaNvPrefix => Algorithm::LladaNvPrefix(llada(g)?),
                Name::LladaNvDual => Algorithm::LladaNvDual(llada(g)?),
                _ => Algorithm::Llada(llada(g)?),
            }),
        }
    }
}

/// The settings that an algorithm takes, by their names in recipes, beside those that all take: the length, the
/// temperature, the seed.
#[must_use]
pub fn settings(algorithm: Name) -> &'static [&'static str] {
    match algorithm {
        Name::SdarBlockDiffusion => &["strategy", "steps", "threshold", "top_k", "top_p"],
        Name::FastDllmGenerate | Name::FastDllmBatchSample => &["small_block", "reuse", "threshold", "top_p"],
        Name::DreamDiffusion => &["strategy", "steps", "eps", "alg_temp", "top_k", "top_p"],
        Name::DreamThreshold => &["steps", "threshold", "top_k", "top_p"],
        Name::DreamBlock => &["strategy", "steps", "block", "reuse", "threshold", "eps", "alg_temp", "top_k", "top_p"],
        Name::LladaGsai => &["strategy", "steps", "block", "guidance"],
        Name::LladaNv | Name::LladaNvPrefix | Name::LladaNvDual => &["strategy", "steps", "block", "threshold"],
        Name::Canvas => &["block", "window", "threshold", "reuse", "top_k", "top_p"],
    }
}

/// Refuses what would run, but not as the model was made to.
fn check_family(g: &Generation) -> Result<(), GenerateError> {
    let facts = g.family.facts();
    if g.attention != facts.attention {
        return wrong("attention", format!("is {:?}, but {} attends as {:?}", g.attention, g.family, facts.attention));
    }
    if g.logits != facts.logits {
        return wrong("logits", format!("are {}, but those of {} are {}", g.logits, g.family, facts.logits));
    }
    if facts.algorithms.contains(&g.algorithm) {
        return Ok(());
    }
    let known: Vec<&str> = facts.algorithms.iter().map(|a| a.name()).collect();
    wrong("algorithm", format!("{} is not made for {}, which has {}", g.algorithm, g.family, known.join(", ")))
}

/// The strategy of the model's defaults, else the algorithm's own; one that the algorithm does not know is refused.
fn strategy(g: &Generation, known: &[Strategy]) -> Result<Strategy, GenerateError> {
    let Some(given) = g.strategy else { return Ok(known[0]) };
    super::params::strategy("strategy", given, known).map(|()| given)
}

/// Refuses a reuse that the algorithm does not know.
fn reuse(g: &Generation, known: &[Reuse]) -> Result<(), GenerateError> {
    let words: Vec<&str> = known.iter().map(|word| word.name()).collect();
    match known.contains(&g.reuse) {
        true => Ok(()),
        false => wrong("reuse", format!("is {}, but {} knows {}", g.reuse, g.algorithm, words.join(", "))),
    }
}

fn sdar(g: &Generation) -> Result<Sdar, GenerateError> {
    Ok(Sdar {
        gen_length: g.max_tokens as usize,
        block_length: g.block as usize,
        denoising_steps: g.steps.unwrap_or(g.block) as usize,
        remasking_strategy: strategy(g, &Sdar::STRATEGIES)?,
        confidence_threshold: Thresholds(g.threshold.clone()),
        temperature: g.temperature,
        top_k: g.top_k as usize,
        top_p: g.top_p,
        stopping_criteria_idx: Ids(g.end_ids.clone()),
        mask_id: g.mask_id,
    })
}

fn fast_dllm_v2(g: &Generation) -> Result<FastDllm, GenerateError> {
    if g.top_k != 0 {
        return wrong("top_k", format!("is unknown to {}; it knows top_p", g.algorithm));
    }
    reuse(g, &[Reuse::None, Reuse::Block])?;
    Ok(FastDllm {
        // It decodes whole blocks, and none where less is asked for.
        max_new_tokens: (g.max_tokens as usize).max(1).next_multiple_of(g.block.max(1) as usize),
        block_size: g.block as usize,
        small_block_size: g.small_block.unwrap_or(g.block) as usize,
        threshold: Thresholds(g.threshold.clone()),
        use_block_cache: g.reuse == Reuse::Block,
        stop_token: Ids(g.end_ids.clone()),
        pad_token: g.end_ids.first().copied().unwrap_or(0),
        temperature: g.temperature,
        top_p: g.top_p,
        mask_id: g.mask_id,
    })
}

fn dream(g: &Generation, alg: Strategy) -> Dream {
    Dream {
        max_new_tokens: g.max_tokens as usize,
        steps: g.steps.unwrap_or(g.max_tokens) as usize,
        alg,
        alg_temp: g.alg_temp,
        eps: g.eps.unwrap_or(0.001),
        threshold: Thresholds(g.threshold.clone()),
        // A block is never longer than the answer.
        block_length: (g.algorithm == Name::DreamBlock).then_some(g.block.min(g.max_tokens) as usize),
        dual_cache: g.reuse == Reuse::Dual,
        temperature: g.temperature,
        top_p: (g.top_p < 1.0).then_some(g.top_p),
        top_k: (g.top_k > 0).then_some(g.top_k as usize),
        end_ids: Ids(g.end_ids.clone()),
        mask_id: g.mask_id,
    }
}

fn llada(g: &Generation) -> Result<Llada, GenerateError> {
    for (name, given) in [("top_k", g.top_k != 0), ("top_p", g.top_p < 1.0)] {
        if given {
            return wrong(name, format!("is unknown to {}; diffulex.canvas knows it", g.algorithm));
        }
    }
    Ok(Llada {
        gen_length: g.max_tokens as usize,
        // A block is never longer than the answer.
        block_length: g.block.min(g.max_tokens) as usize,
        steps: g.steps.unwrap_or(g.max_tokens) as usize,
        cfg_scale: g.guidance.unwrap_or(0.0),
        // Fast-dLLM accepts by the threshold, unless a number of passes is asked for.
        threshold: (g.algorithm != Name::LladaGsai && g.steps.is_none()).then(|| Thresholds(g.threshold.clone())),
        remasking: strategy(g, &Llada::STRATEGIES)?,
        temperature: g.temperature,
        end_ids: Ids(g.end_ids.clone()),
        mask_id: g.mask_id,
    })
}
