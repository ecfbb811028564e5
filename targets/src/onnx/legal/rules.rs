//! One rewriting for each op.

use diffulex_compiler::ir::{
    CacheKind, DType, Module, Node, NodeId, Op, Operand, ValueType, WeightExpr, build::BuildError,
};

use crate::onnx::{Form, Options};
use crate::refusal::Refusal;
use crate::rewrite::{Fault, Rewrite, tall, unfit};

/// Adds what `node` becomes.
pub(super) fn node(walk: &mut Rewrite<'_>, options: &Options, node: &Node, args: &[Operand]) -> Result<NodeId, Fault> {
    let nearest = if options.half { DType::F16 } else { DType::F32 };
    if !node.ty.dtype.is_integer() && ![DType::F32, nearest].contains(&node.ty.dtype) {
        return Err(Refusal::DType { place: node.place(), dtype: node.ty.dtype, nearest }.into());
    }
    Ok(match (&node.op, args) {
        (Op::Input, _) if node.name == "rows" => {
            let what = "a step of this target gives the logits of all its tokens".into();
            return Err(Refusal::Step { place: node.place(), what }.into());
        }
        (Op::Input, _) => {
            let dtype = if node.ty.dtype.is_integer() { DType::I32 } else { DType::F32 };
            walk.to.input(&node.name, ValueType::new(dtype, node.ty.shape.clone()))
        }
        (Op::Linear, [x, filter, bias]) => {
            let product = walk.step("product", Op::Linear, [*x, *filter])?;
            walk.last(Op::Add, [product, *bias])?
        }
        (Op::Heads { n }, [x]) => walk.heads(*n, *x, &node.ty)?,
        (Op::MergeHeads, [x]) => walk.merge_heads(*x, &node.ty)?,
        (Op::Rope, [x, cos, sin]) => walk.rope(*x, *cos, *sin)?,
        (Op::RmsNorm { .. }, [x, gain]) if options.form == Form::Qnn && node.ty.shape.len() == 4 => {
            norm_of_heads(walk, node, *x, *gain)?
        }
        (Op::Attention { scale }, [q, k, v, _]) => attention(walk, *scale, [*q, *k, *v], node.args[3])?,
        (Op::Silu, [x]) => {
            let sigmoid = walk.step("sigmoid", Op::Sigmoid, [*x])?;
            walk.last(Op::Mul, [*x, sigmoid])?
        }
        (Op::Swiglu, [x]) => {
            let [gate, up] = walk.gate_and_up(*x, &node.ty)?;
            let sigmoid = walk.step("sigmoid", Op::Sigmoid, [gate])?;
            let silu = walk.step("silu", Op::Mul, [gate, sigmoid])?;
            walk.last(Op::Mul, [silu, up])?
        }
        // All floats of a file are of one type.
        (Op::Cast { .. }, [Operand::Node(x)]) if !walk.to.module().node(*x).ty.dtype.is_integer() => *x,
        (Op::Int8Token, _) => return Err(Refusal::Tokens { place: node.place() }.into()),
        _ => walk.last(node.op.clone(), args)?,
    })
}

/// The norm of `[1, n, T, D]` as one of `[1, 1, n·T, D]`: of more than one matrix the HTP computes some rows wrongly,
/// in `f16` and `uint8`, depending on how it divides them.
fn norm_of_heads(walk: &mut Rewrite<'_>, node: &Node, x: Operand, gain: Operand) -> Result<NodeId, BuildError> {
    let shape = &node.ty.shape;
    let heads = shape[1].known().ok_or_else(|| unfit("has no known heads"))?;
    if heads == 1 {
        return walk.last(node.op.clone(), [x, gain]);
    }
    let rows = walk.step("rows", Op::Reshape { shape: tall(shape, heads)? }, [x])?;
    let normed = walk.step("normed", node.op.clone(), [rows, gain])?;
    walk.last(Op::Reshape { shape: shape.clone() }, [normed])
}

/// `softmax(q·kᵀ·scale + mask)·v`; `mask` is an operand of the source module. Queries are scaled before the product, which
/// keeps the scores small for `f16`.
fn attention(walk: &mut Rewrite<'_>, scale: f32, [q, k, v]: [Operand; 3], mask: Operand) -> Result<NodeId, BuildError> {
    let shared = walk.share(q, k, mask)?;
    let mut q = shared.q;
    if scale != 1.0 {
        let factor = walk.constant("scale", &[1], &WeightExpr::Fill(scale))?;
        q = walk.step("scaled", Op::Mul, [q, factor])?;
    }
    let scores = if is_keys(walk.to.module(), k) {
        walk.step("scores", Op::Matmul { transpose: true }, [q, k])?
    } else {
        let turned = walk.step("turned", Op::Transpose { perm: vec![0, 1, 3, 2] }, [k])?;
        walk.step("scores", Op::Matmul { transpose: false }, [q, turned])?
    };
    let masked = walk.step("masked", Op::Add, [scores, shared.mask])?;
    let weights = walk.step("softmax", Op::Softmax, [masked])?;
    walk.unshare(shared, Op::Matmul { transpose: false }, vec![weights, v])
}

/// Whether an operand is the keys of a layer, those of this step included.
pub(super) fn is_keys(module: &Module, operand: Operand) -> bool {
    let Operand::Node(id) = operand else { return false };
    let node = module.node(id);
    node.op == Op::Cached && matches!(node.args.first(), Some(Operand::Cache(cache)) if cache.kind == CacheKind::K)
}
