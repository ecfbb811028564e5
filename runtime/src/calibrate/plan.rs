//! What is run: each text as a conversation that has come to different lengths, with more or less of what follows
//! still unknown.

use diffulex_compiler::generation::{Generation, Reuse};

use crate::engine::EngineShape;
use crate::sample::Draws;
use crate::session::{Attention, Store};

/// Shares of a window that are masks, in quarters.
const NOISE: std::ops::RangeInclusive<usize> = 0..=4;
/// Where windows begin: so many thirds of the text.
const PREFIXES: std::ops::Range<usize> = 0..3;
/// Seed of the draws that choose the masks.
const SEED: u64 = 0;

/// One pass of a session.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pass {
    /// Whether it begins anew.
    pub(super) fresh: bool,
    /// What is fed.
    pub(super) tokens: Vec<u32>,
    /// At which position.
    pub(super) start: usize,
    /// Whether logits are made.
    pub(super) logits: bool,
    /// What becomes of its keys and values.
    pub(super) store: Store,
}

/// The passes over all texts.
///
/// With blocks, the text before a window is committed step by step as it is; the window, as much as one step takes,
/// follows at every noise. With full attention a text is cut into canvases of one step; a canvas is fed as a whole,
/// and where the model reuses keys and values, what lies behind the prefix once more over its draft.
pub(super) fn plan(texts: &[Vec<u32>], generation: &Generation, shape: &EngineShape) -> Vec<Pass> {
    let mut plan = Plan { passes: Vec::new(), draws: Draws::seeded(SEED), mask: generation.mask_id };
    let block = (generation.block as usize).max(1);
    for text in texts.iter().filter(|text| !text.is_empty()) {
        match Attention::from(generation) {
            Attention::BlockCausal(_) => plan.blocks(text, block, shape),
            Attention::Full => {
                let room = if generation.reuse == Reuse::None { 0 } else { shape.max_cache };
                text.chunks(shape.max_tokens.max(1)).for_each(|canvas| plan.canvas(canvas, block, room));
            }
        }
    }
    plan.passes
}

struct Plan {
    passes: Vec<Pass>,
    draws: Draws,
    mask: u32,
}

impl Plan {
    fn blocks(&mut self, text: &[u32], block: usize, shape: &EngineShape) {
        let mut cached = 0;
        for prefix in prefixes(text.len(), block).filter(|&prefix| prefix <= shape.max_cache) {
            if prefix > cached {
                let tokens = text[cached..prefix].to_vec();
                self.passes.push(Pass { fresh: cached == 0, tokens, start: cached, logits: false, store: Store::Keep });
                cached = prefix;
            }
            let window = &text[prefix..text.len().min(prefix + shape.max_tokens)];
            for noise in NOISE {
                let tokens = self.noisy(window, noise);
                let fresh = cached == 0;
                self.passes.push(Pass { fresh, tokens, start: prefix, logits: true, store: Store::Discard });
            }
        }
    }

    fn canvas(&mut self, canvas: &[u32], block: usize, room: usize) {
        for prefix in prefixes(canvas.len(), block) {
            let drafted = if prefix <= room { prefix } else { 0 };
            for noise in NOISE {
                let tail = self.noisy(&canvas[prefix..], noise);
                let tokens = [&canvas[..prefix], &tail].concat();
                let store = if drafted > 0 { Store::Draft(drafted) } else { Store::Discard };
                self.passes.push(Pass { fresh: true, tokens, start: 0, logits: true, store });
                if drafted > 0 {
                    let store = Store::Discard;
                    self.passes.push(Pass { fresh: false, tokens: tail, start: prefix, logits: true, store });
                }
            }
        }
    }

    /// Some tokens replaced by the mask: `noise` quarters of them, drawn.
    fn noisy(&mut self, tokens: &[u32], noise: usize) -> Vec<u32> {
        let mut noisy = tokens.to_vec();
        let mut places: Vec<usize> = (0..tokens.len()).collect();
        for _ in 0..(tokens.len() * noise + 2) / 4 {
            let drawn = (self.draws.uniform() * places.len() as f64) as usize;
            noisy[places.swap_remove(drawn)] = self.mask;
        }
        noisy
    }
}

/// Where windows of a text begin: in whole blocks, before its end.
fn prefixes(len: usize, block: usize) -> impl Iterator<Item = usize> {
    let mut last = None;
    let thirds = PREFIXES.map(move |third| len * third / PREFIXES.end / block * block);
    thirds.filter(move |prefix| last.replace(*prefix) != Some(*prefix))
}
