//! One rewriting for each op.

use diffulex_compiler::ir::{Dim, Node, NodeId, Op, Operand, WeightExpr, build::BuildError, types::ValueType};

use super::limits;
use crate::refusal::Refusal;
use crate::rewrite::{Fault, Rewrite};

/// Adds what `node` becomes.
pub(super) fn node(walk: &mut Rewrite<'_>, node: &Node, args: &[Operand]) -> Result<NodeId, Fault> {
    let refuse = |nearest| Refusal::Op { place: node.place(), op: node.op.name(), nearest };
    Ok(match (&node.op, args) {
        (Op::Input, _) if node.name == "rows" => {
            walk.to.bound_rows();
            walk.to.input(&node.name, ValueType::f32([Dim::fixed(1), Dim::R, Dim::T]))
        }
        (Op::Input, _) => walk.to.input(&node.name, node.ty.clone()),
        (Op::RopeCos { dim, theta }, [positions]) => {
            walk.rope_table("rope.cos", *dim, &WeightExpr::RopeCos(*theta), *positions)?
        }
        (Op::RopeSin { dim, theta }, [positions]) => {
            walk.rope_table("rope.sin", *dim, &WeightExpr::RopeSin(*theta), *positions)?
        }
        (Op::RmsNorm { eps }, [x, gain]) => rms_norm(walk, *eps, *x, *gain)?,
        (Op::Mean, [x]) => {
            let filter = mean_filter(walk, *x)?;
            walk.last(Op::Linear, [*x, filter])?
        }
        (Op::Linear, [x, filter, bias]) if limits::is_weight_only(walk.from, node) => {
            let product = walk.step("product", Op::Linear, [*x, *filter])?;
            walk.last(Op::Add, [product, *bias])?
        }
        (Op::Heads { n }, [x]) => walk.heads(*n, *x, &node.ty)?,
        (Op::MergeHeads, [x]) => walk.merge_heads(*x, &node.ty)?,
        (Op::Rope, [x, cos, sin]) => walk.rope(*x, *cos, *sin)?,
        (Op::Attention { scale }, [q, k, v, _]) => attention(walk, *scale, [*q, *k, *v], node.args[3])?,
        (Op::Silu, [x]) => {
            let gate = walk.step("sigmoid", Op::Sigmoid, [*x])?;
            walk.last(Op::Mul, [*x, gate])?
        }
        (Op::Swiglu, [x]) => {
            let [gate, up] = walk.gate_and_up(*x, &node.ty)?;
            let sigmoid = walk.step("sigmoid", Op::Sigmoid, [gate])?;
            let silu = walk.step("silu", Op::Mul, [gate, sigmoid])?;
            walk.last(Op::Mul, [silu, up])?
        }
        (Op::Concat { axis }, parts) => {
            let parts = walk.join(parts.to_vec(), *axis)?;
            walk.last(Op::Concat { axis: *axis }, parts)?
        }
        // XNNPACK cannot gather: each row is chosen by a product with zeros and a one, exact for finite numbers.
        (Op::GatherRows, [x, rows @ Operand::Node(id)]) if walk.to.module().node(*id).op == Op::Input => {
            walk.last(Op::Matmul { transpose: false }, [*rows, *x])?
        }
        (Op::GatherRows, _) => return Err(refuse(Some("rows that are an input")).into()),
        _ => walk.last(node.op.clone(), args)?,
    })
}

/// `x · rsqrt(mean(x²) + eps) · gain`.
fn rms_norm(walk: &mut Rewrite<'_>, eps: f32, x: Operand, gain: Operand) -> Result<NodeId, BuildError> {
    let filter = mean_filter(walk, x)?;
    let eps = walk.constant("eps", &[1], &WeightExpr::Fill(eps))?;
    let square = walk.step("square", Op::Square, [x])?;
    let mean = walk.step("mean", Op::Linear, [square, filter])?;
    let sum = walk.step("eps", Op::Add, [mean, eps])?;
    let factor = walk.step("rsqrt", Op::Rsqrt, [sum])?;
    let unit = walk.step("unit", Op::Mul, [x, factor])?;
    walk.last(Op::Mul, [unit, gain])
}

/// XNNPACK has no mean over an axis: a filter `[1, n]` of `1/n` takes its place.
fn mean_filter(walk: &mut Rewrite<'_>, x: Operand) -> Result<Operand, BuildError> {
    let width = walk.width(x)?;
    walk.constant(&format!("mean.{width}"), &[1, width], &WeightExpr::Fill(1.0 / width as f32))
}

/// `softmax(q·kᵀ·scale + mask)·v`; `mask` is an operand of the source module.
fn attention(walk: &mut Rewrite<'_>, scale: f32, [q, k, v]: [Operand; 3], mask: Operand) -> Result<NodeId, BuildError> {
    let shared = walk.share(q, k, mask)?;
    let mut scores = walk.step("scores", Op::Matmul { transpose: true }, [shared.q, k])?;
    if scale != 1.0 {
        let factor = walk.constant("scale", &[1], &WeightExpr::Fill(scale))?;
        scores = walk.step("scaled", Op::Mul, [scores, factor])?;
    }
    let masked = walk.step("masked", Op::Add, [scores, shared.mask])?;
    let weights = walk.step("softmax", Op::Softmax, [masked])?;
    walk.unshare(shared, Op::Matmul { transpose: false }, vec![weights, v])
}
