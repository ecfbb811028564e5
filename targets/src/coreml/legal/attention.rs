//! Attention without copying keys and values for the query heads that share them.
//!
//! The `g` query heads of one key/value head lie one after another, so `[1, H, T, D]` is, without moving a number,
//! `[1, KV, g·T, D]`: one taller matrix for each key/value head. The mask is repeated `g` times along its rows, once for
//! all layers. Queries are scaled before the product, which keeps the scores small for `fp16`.

use diffulex_compiler::ir::{Dim, Module, NodeId, Op, Operand, WeightExpr, build::BuildError};

use super::rewrite::unfit;
use super::{Fault, Rewrite};
use crate::coreml::Attention;
use crate::refusal::Refusal;

impl Rewrite<'_> {
    /// `softmax(q·kᵀ·scale + mask)·v`; `mask` is an operand of the source module.
    pub(super) fn attention(&mut self, scale: f32, qkv: [Operand; 3], mask: Operand) -> Result<NodeId, Fault> {
        let [q, k, v] = qkv;
        let (from, kv) = (self.to.module().operand_type(q), self.to.module().operand_type(k));
        let sharing = sharing(&from.shape, &kv.shape)?;
        let tall = tall(&from.shape, sharing)?;
        let mask = self.mask(mask, sharing)?;
        let mut q = if sharing == 1 { q } else { self.step("q", Op::Reshape { shape: tall }, [q])? };
        let width = from.width().ok_or_else(|| unfit("has heads of no known width"))?;
        let own = fused_scale(width);
        let fused = self.options.attention == Attention::Fused;
        let factor = if fused { scale / own } else { scale };
        if factor != 1.0 {
            let factor = self.constant("scale", &[1], &WeightExpr::Fill(factor))?;
            q = self.step("scaled", Op::Mul, [q, factor])?;
        }
        let (last, args) = if fused {
            (Op::Attention { scale: own }, vec![q, k, v, mask])
        } else {
            let scores = self.step("scores", Op::Matmul { transpose: true }, [q, k])?;
            let masked = self.step("masked", Op::Add, [scores, mask])?;
            let weights = self.step("softmax", Op::Softmax, [masked])?;
            (Op::Matmul { transpose: false }, vec![weights, v])
        };
        if sharing == 1 {
            return Ok(self.last(last, args)?);
        }
        let mixed = self.step("mixed", last, args)?;
        Ok(self.last(Op::Reshape { shape: from.shape }, [mixed])?)
    }

    /// After `node` has been rewritten: repeats it, where attentions read it as a mask, for the heads that share keys.
    /// Made here rather than in the first layer, so that every layer may read it.
    pub(super) fn tile_masks(&mut self, node: NodeId) -> Result<(), Refusal> {
        let source = self.from.node(node);
        let wanted: Vec<u32> = self.shared.iter().filter(|(mask, _)| *mask == node).map(|(_, times)| *times).collect();
        for times in wanted {
            self.enter(source);
            let parts = vec![Operand::Node(self.map[node.0 as usize]); times as usize];
            let made = self.to.node(&format!("{}.x{times}", source.name), Op::Concat { axis: 2 }, parts);
            let made = made.map_err(|e| Fault::from(e).at(source))?;
            self.masks.insert((node, times), made);
        }
        Ok(())
    }

    fn mask(&self, mask: Operand, sharing: u32) -> Result<Operand, BuildError> {
        match mask {
            Operand::Node(id) if sharing > 1 => {
                self.masks.get(&(id, sharing)).map(|&id| Operand::Node(id)).ok_or_else(|| unfit("is no mask"))
            }
            mask => Ok(self.operand(mask)),
        }
    }
}

/// The scale that fused attention has by itself, for heads of `width`: `1 / sqrt(width)`.
pub(in crate::coreml) fn fused_scale(width: u32) -> f32 {
    1.0 / (width as f32).sqrt()
}

/// Masks, and how often each is repeated for the query heads that share keys.
pub(super) fn shared_masks(module: &Module) -> Result<Vec<(NodeId, u32)>, Refusal> {
    let mut masks = Vec::new();
    for user in &module.nodes {
        let (Op::Attention { .. }, [q, k, _, Operand::Node(mask)]) = (&user.op, &user.args[..]) else { continue };
        let times = sharing(&module.operand_type(*q).shape, &module.operand_type(*k).shape);
        let wanted = (*mask, times.map_err(|e| Fault::from(e).at(user))?);
        if wanted.1 > 1 && !masks.contains(&wanted) {
            masks.push(wanted);
        }
    }
    Ok(masks)
}

/// Query heads for each key/value head.
fn sharing(q: &[Dim], k: &[Dim]) -> Result<u32, BuildError> {
    let heads = |shape: &[Dim]| shape.get(1).and_then(|d| d.known());
    match (heads(q), heads(k)) {
        (Some(h), Some(kv)) if kv > 0 && h % kv == 0 && h > 0 => Ok(h / kv),
        _ => Err(unfit("has a number of heads that do not share keys evenly")),
    }
}

/// `[1, H, T, D]` as `[1, KV, g·T, D]`.
fn tall(q: &[Dim], sharing: u32) -> Result<Vec<Dim>, BuildError> {
    let [one, heads, t, d] = q[..] else { return Err(unfit("is not [1, H, T, D]")) };
    let heads = heads.known().ok_or_else(|| unfit("has no known heads"))?;
    let rows = t.times(sharing).ok_or_else(|| unfit("is too large"))?;
    Ok(vec![one, Dim::fixed(heads / sharing), rows, d])
}
