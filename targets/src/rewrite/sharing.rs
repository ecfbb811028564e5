//! Query heads that share keys and values, without copying these.
//!
//! The `g` query heads of one key/value head lie one after another, so `[1, H, T, D]` is, without moving a number,
//! `[1, KV, g·T, D]`: one taller matrix for each key/value head. The mask is repeated `g` times along its rows, once for
//! all layers.

use diffulex_compiler::ir::{Dim, Module, NodeId, Op, Operand, build::BuildError};

use super::{Fault, Rewrite, unfit};
use crate::refusal::Refusal;

/// Queries and mask as attention takes them.
pub(crate) struct Shared {
    /// `[1, KV, g·T, D]`
    pub(crate) q: Operand,
    /// `[1, 1, g·T, C+T]`
    pub(crate) mask: Operand,
    /// The shape of the queries before, `[1, H, T, D]`, where it was another one.
    back: Option<Vec<Dim>>,
}

impl Rewrite<'_> {
    /// Queries and mask for keys that `g` query heads share; `mask` is an operand of the source module.
    pub(crate) fn share(&mut self, q: Operand, k: Operand, mask: Operand) -> Result<Shared, BuildError> {
        let (from, kv) = (self.to.module().operand_type(q).shape, self.to.module().operand_type(k).shape);
        let sharing = sharing(&from, &kv)?;
        let tall = tall(&from, sharing)?;
        let mask = self.mask(mask, sharing)?;
        if sharing == 1 {
            return Ok(Shared { q, mask, back: None });
        }
        let q = self.step("q", Op::Reshape { shape: tall }, [q])?;
        Ok(Shared { q, mask, back: Some(from) })
    }

    /// Adds the last step of attention, in the shape that the queries had.
    pub(crate) fn unshare(&mut self, shared: Shared, op: Op, args: Vec<Operand>) -> Result<NodeId, BuildError> {
        let Some(shape) = shared.back else { return self.last(op, args) };
        let mixed = self.step("mixed", op, args)?;
        self.last(Op::Reshape { shape }, [mixed])
    }

    /// After `node` has been rewritten: repeats it, where attentions read it as a mask, for the heads that share keys.
    /// Made here rather than in the first layer, so that every layer may read it.
    pub(super) fn tile_masks(&mut self, node: NodeId) -> Result<(), Refusal> {
        let source = self.from.node(node);
        let wanted: Vec<u32> = self.shared.iter().filter(|(mask, _)| *mask == node).map(|(_, times)| *times).collect();
        for times in wanted {
            self.enter(source);
            let made = self.tile(Operand::Node(self.map[node.0 as usize]), times);
            let made = made.map_err(|e| Fault::from(e).at(source))?;
            self.masks.insert((node, times), made);
        }
        Ok(())
    }

    fn tile(&mut self, mask: Operand, times: u32) -> Result<NodeId, BuildError> {
        let parts = self.join(vec![mask; times as usize], 2)?;
        let name = self.current.map_or("", |n| n.name.as_str());
        let name = format!("{name}.x{times}");
        self.to.node(&name, Op::Concat { axis: 2 }, parts)
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
pub(crate) fn tall(q: &[Dim], sharing: u32) -> Result<Vec<Dim>, BuildError> {
    let [one, heads, t, d] = q[..] else { return Err(unfit("is not [1, H, T, D]")) };
    let heads = heads.known().ok_or_else(|| unfit("has no known heads"))?;
    let rows = t.times(sharing).ok_or_else(|| unfit("is too large"))?;
    Ok(vec![one, Dim::fixed(heads / sharing), rows, d])
}
