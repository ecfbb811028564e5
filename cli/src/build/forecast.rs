//! What builds will weigh, told before a number of the checkpoint is there: from the sizes that the recipe states, or
//! from config.json where it does not.

use std::collections::HashMap;
use std::path::Path;

use diffulex_compiler::checkpoint::Checkpoint;
use diffulex_compiler::generation::Family;
use diffulex_compiler::ir::verify::VerifyError;
use diffulex_compiler::ir::{self, Encoding, Module, Node, Operand, Sizes, WeightType};
use diffulex_compiler::models::Decoder;
use diffulex_compiler::passes;
use diffulex_compiler::recipe::{self, Diagnostics, Recipe};
use diffulex_targets::{Metadata, Refusal, qnn};

use super::{job, plan};
use crate::Error;

/// The network of a recipe.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Its family.
    pub family: Family,
    /// Its sizes.
    pub decoder: Decoder,
    /// The mask token and those that end an answer. Known from a checkpoint only; otherwise they are tokens whose ids
    /// are as long to write.
    tokens: (u32, Vec<u32>),
}

/// What is known of a build before it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forecast {
    /// It can be made.
    Made {
        /// Bytes of the artifact: exact, but for the ids of tokens where they are not known.
        artifact: u64,
        /// Bytes it takes to run it, about: `artifact + caches + step`, where `caches` is
        /// `2 · layers · kv_heads · head_dim · shape.cache · 4` and `step` the largest sum of values that are alive at
        /// once in the longest step, inputs, logits and new cache rows included, each `f32` and with memory of its own.
        memory: u64,
    },
    /// The target cannot express it; says why in few words.
    Refused(String),
}

impl Network {
    /// Takes `[model.sizes]`, else looks into the checkpoint, which lies beside the recipe or under `models`.
    ///
    /// # Errors
    /// One line on why the sizes are not known.
    pub fn of(recipe: &Recipe, models: Option<&Path>) -> Result<Network, String> {
        let model = &recipe.builds.first().ok_or("the recipe builds nothing")?.model;
        if let (Some(sizes), Some(family)) = (&model.sizes, &model.family) {
            let decoder = sizes.decoder(family.value);
            let last = decoder.vocab - 1;
            return Ok(Network { family: family.value, decoder, tokens: (last, vec![last, last]) });
        }
        let Ok(folder) = model.resolve(models) else {
            return Err(format!("there is neither `[model.sizes]` nor a checkpoint folder `{}`", *model.checkpoint));
        };
        let opened = Checkpoint::open(&folder).map_err(Error::from);
        opened.and_then(|checkpoint| Network::of_checkpoint(&checkpoint)).map_err(|error| error.to_string())
    }

    /// That of a checkpoint.
    ///
    /// # Errors
    /// When the tokenizer's files are damaged.
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Network, Error> {
        let tokens = (checkpoint.mask_id()?, checkpoint.end_ids()?);
        let config = checkpoint.config();
        Ok(Network { family: config.family, decoder: config.decoder.clone(), tokens })
    }

    /// Numbers of the largest tensor.
    pub fn largest(&self) -> u64 {
        let numbers = |(_, shape): (String, Vec<u32>)| shape.iter().map(|&n| u64::from(n)).product();
        self.decoder.weights().into_iter().map(numbers).max().unwrap_or(0)
    }

    /// Numbers in all tensors, and how many tensors there are.
    pub fn parameters(&self) -> (u64, usize) {
        let tensors = self.decoder.weights();
        let numbers = |shape: &[u32]| shape.iter().map(|&n| u64::from(n)).product::<u64>();
        (tensors.iter().map(|(_, shape)| numbers(shape)).sum(), tensors.len())
    }

    /// Bytes of the tensors as they are published, in bf16.
    pub fn published_bytes(&self) -> u64 {
        2 * self.parameters().0
    }
}

/// Takes a build from its sizes to the layout of its artifact.
///
/// # Errors
/// When a pass makes a wrong module, which is ours to mend.
pub fn forecast(build: &recipe::Build, network: &Network) -> Result<Forecast, Error> {
    let Network { family, decoder, tokens: (mask_id, end_ids) } = network;
    let stored = |(name, shape)| (name, WeightType::new(Encoding::BF16, shape));
    let types: HashMap<String, WeightType> = decoder.weights().into_iter().map(stored).collect();
    let bounds = Sizes { t: build.shape.prefill.value as usize, c: build.shape.cache.value as usize, r: 0 };
    let module = decoder.import(&build.name, bounds, &|name| types.get(name).cloned())?;
    // Sizes that no checkpoint has break the limits of modules, which is no bug.
    if let Err(VerifyError { place, what, .. }) = ir::verify(&module) {
        return Ok(Forecast::Refused(format!("{place}: {what}")));
    }
    if let Err(Diagnostics(wrong)) = job::check(build) {
        return Ok(Forecast::Refused(wrong.first().map_or(String::new(), |first| first.mistake.to_string())));
    }
    let target = job::target(build);
    let module = passes::run(module, &job::passes(build), &build.quant.scheme(), &mut |_| {}).map_err(Box::new)?;
    let module = match target.legalize(&module) {
        Ok(module) => module,
        Err(refusal) => return Ok(Forecast::Refused(in_few_words(&refusal))),
    };
    // Which ranges there are changes no size.
    let rounded = target.rounding().map(|rounding| qnn::round(&module, rounding, &|_, _| Some((-1.0, 1.0))));
    let module = match rounded.unwrap_or(Ok(module)) {
        Ok(module) => module,
        Err(refusal) => return Ok(Forecast::Refused(in_few_words(&refusal))),
    };
    let generation = plan::with_tokens(build, *family, *mask_id, end_ids.clone());
    let metadata = Metadata { generation: Some(generation), recipe_digest: build.digest_hex() };
    let artifact = match target.plan(&module, &metadata, &build.name) {
        Ok(planned) => planned.bytes(),
        Err(error) => return Ok(Forecast::Refused(error.to_string())),
    };
    let Decoder { layers, kv_heads, head_dim, .. } = *decoder;
    let row = u64::from(layers) * u64::from(kv_heads) * u64::from(head_dim);
    let caches = 2 * 4 * row * u64::from(build.shape.cache.value);
    Ok(Forecast::Made { artifact, memory: artifact.saturating_add(caches).saturating_add(step_bytes(&module)) })
}

fn in_few_words(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Encoding { encoding, role, .. } => format!("no {encoding} for a {role}"),
        other => other.to_string(),
    }
}

/// The largest sum of values that are alive at once when the nodes run in order, at the bounds.
fn step_bytes(module: &Module) -> u64 {
    let numbers = |node: &Node| {
        let axes = node.ty.shape.iter().map(|dim| dim.at(module.bounds).map_or(u64::MAX, |n| n as u64));
        axes.fold(1, u64::saturating_mul)
    };
    let mut readers = module.uses();
    let (mut live, mut most) = (0u64, 0);
    for node in &module.nodes {
        live = live.saturating_add(numbers(node));
        most = most.max(live);
        for arg in &node.args {
            let Operand::Node(id) = arg else { continue };
            let left = &mut readers[id.0 as usize];
            *left = left.saturating_sub(1);
            if *left == 0 {
                live = live.saturating_sub(numbers(module.node(*id)));
            }
        }
    }
    most.saturating_mul(4)
}
