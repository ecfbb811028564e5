//! One rewriting for each op.

use diffulex_compiler::ir::{DType, Node, NodeId, Op, Operand, WeightExpr, build::BuildError, types::ValueType};

use crate::coreml::{Attention, Options};
use crate::refusal::Refusal;
use crate::rewrite::{Fault, Rewrite};

/// Adds what `node` becomes.
pub(super) fn node(walk: &mut Rewrite<'_>, options: &Options, node: &Node, args: &[Operand]) -> Result<NodeId, Fault> {
    if node.ty.dtype == DType::BF16 {
        let (place, nearest) = (node.place(), DType::F16);
        return Err(Refusal::DType { place, dtype: DType::BF16, nearest }.into());
    }
    Ok(match (&node.op, args) {
        (Op::Input, _) => {
            if node.name == "rows" {
                walk.to.bound_rows();
            }
            let dtype = if node.ty.dtype.is_integer() { DType::I32 } else { node.ty.dtype };
            walk.to.input(&node.name, ValueType::new(dtype, node.ty.shape.clone()))
        }
        (Op::RopeCos { dim, theta }, [positions]) => {
            walk.rope_table("rope.cos", *dim, &WeightExpr::RopeCos(*theta), *positions)?
        }
        (Op::RopeSin { dim, theta }, [positions]) => {
            walk.rope_table("rope.sin", *dim, &WeightExpr::RopeSin(*theta), *positions)?
        }
        (Op::Heads { n }, [x]) => walk.heads(*n, *x, &node.ty)?,
        (Op::MergeHeads, [x]) => walk.merge_heads(*x, &node.ty)?,
        (Op::Rope, [x, cos, sin]) => walk.rope(*x, *cos, *sin)?,
        (Op::Attention { scale }, [q, k, v, _]) => {
            attention(walk, options.attention, *scale, [*q, *k, *v], node.args[3])?
        }
        (Op::Swiglu, [x]) => {
            let [gate, up] = walk.gate_and_up(*x, &node.ty)?;
            let silu = walk.step("silu", Op::Silu, [gate])?;
            walk.last(Op::Mul, [silu, up])?
        }
        // All floats are fp16 in a package.
        (Op::Cast { .. }, [Operand::Node(x)]) if !walk.to.module().node(*x).ty.dtype.is_integer() => *x,
        (Op::Int8Token, _) => return Err(Refusal::Tokens { place: node.place() }.into()),
        _ => walk.last(node.op.clone(), args)?,
    })
}

/// `softmax(q·kᵀ·scale + mask)·v`; `mask` is an operand of the source module. Queries are scaled before the product, which
/// keeps the scores small for `fp16`.
fn attention(
    walk: &mut Rewrite<'_>,
    form: Attention,
    scale: f32,
    [q, k, v]: [Operand; 3],
    mask: Operand,
) -> Result<NodeId, BuildError> {
    let own = fused_scale(walk.width(q)?);
    let shared = walk.share(q, k, mask)?;
    let fused = form == Attention::Fused;
    let (mut q, factor) = (shared.q, if fused { scale / own } else { scale });
    if factor != 1.0 {
        let factor = walk.constant("scale", &[1], &WeightExpr::Fill(factor))?;
        q = walk.step("scaled", Op::Mul, [q, factor])?;
    }
    if fused {
        let args = vec![q, k, v, shared.mask];
        return walk.unshare(shared, Op::Attention { scale: own }, args);
    }
    let scores = walk.step("scores", Op::Matmul { transpose: true }, [q, k])?;
    let masked = walk.step("masked", Op::Add, [scores, shared.mask])?;
    let weights = walk.step("softmax", Op::Softmax, [masked])?;
    walk.unshare(shared, Op::Matmul { transpose: false }, vec![weights, v])
}

/// The scale that fused attention has by itself, for heads of `width`: `1 / sqrt(width)`.
pub(super) fn fused_scale(width: u32) -> f32 {
    1.0 / (width as f32).sqrt()
}
