//! Modules that make no sense but keep every rule of the IR: any op on any operands that fit.

use std::sync::Arc;

use diffulex_compiler::ir::*;
use diffulex_compiler::quant::{Grid, GridType};

use crate::models::{Memory, Model, Numbers, SMALL, Shape};

/// Sizes of the modules.
pub(crate) const SHAPE: Shape = Shape {
    layers: 1,
    heads: 2,
    kv_heads: 2,
    head_dim: 4,
    hidden: 8,
    inner: 6,
    vocab: 11,
    bounds: Sizes { t: 8, c: 8, r: 8 },
    ..SMALL
};

/// A module of about `count` nodes, and the nodes whose values are determined well enough to be compared.
pub(crate) fn module(seed: u64, count: usize) -> (Module, Arc<Memory>, Vec<NodeId>) {
    let mut n = Numbers::new(seed);
    let mut m = Model::new(&SHAPE, seed);
    let ([tokens, positions], mask) = (m.ids(DType::I32), m.mask());
    let rows = m.builder.input("rows", ValueType::new(DType::I64, [Dim::R]));
    let table = m.weight("table", &[11, 8], 0.0, 1.0);
    let x = m.node("x", Op::Embed, &[tokens.into(), table]);
    let heads = m.node("heads", Op::Heads { n: 2 }, &[x.into()]);
    let k = m.node("k", Op::Cached, &[CacheId::k(0), heads.into()]);
    let v = m.node("v", Op::Cached, &[CacheId::v(0), heads.into()]);
    let mut pool = vec![tokens, positions, mask, rows, x, heads, k, v];
    // Sums with numbers as large as those of the mask lose all others.
    let mut tame: Vec<NodeId> = pool.iter().copied().filter(|&id| id != mask).collect();
    for i in 0..count {
        let a = pool[n.below(pool.len())];
        // Mostly what was made last, so that ops follow each other.
        let a = if n.below(3) == 0 { a } else { pool[pool.len() - 1 - n.below(pool.len().min(3))] };
        let (op, args, wild) = any_op(&mut m, &mut n, a, &pool, i);
        let Ok(id) = m.builder.node("any", op, args.clone()) else { continue };
        pool.push(id);
        if !wild && args.iter().all(|arg| !matches!(arg, Operand::Node(id) if !tame.contains(id))) {
            tame.push(id);
        }
    }
    let last = m.node("rows.x", Op::GatherRows, &[x.into(), rows.into()]);
    let logits = m.linear("head", last, 11);
    tame.push(logits);
    (m.builder.finish([logits]), Arc::new(m.memory), tame)
}

/// An op that may fit `a`, its operands, and whether it tears small differences apart.
fn any_op(m: &mut Model, n: &mut Numbers, a: NodeId, pool: &[NodeId], i: usize) -> (Op, Vec<Operand>, bool) {
    let shape = m.builder.module().node(a).ty.shape.clone();
    let width = shape.last().and_then(|d| d.known()).unwrap_or(1);
    let axis = n.below(shape.len().max(1));
    let b = Operand::from(pool[n.below(pool.len())]);
    let tame = |op| (op, vec![a.into()], false);
    match n.below(26) {
        0 => tame(Op::Silu),
        1 => tame(Op::Swiglu),
        2 => (Op::Add, vec![a.into(), b], false),
        3 => (Op::Sub, vec![b, a.into()], false),
        4 => (Op::Mul, vec![a.into(), b], true),
        5 => (Op::Div, vec![a.into(), b], true),
        6 => tame(Op::Neg),
        7 => (Op::Square, vec![a.into()], true),
        8 => (Op::Rsqrt, vec![a.into()], true),
        9 => tame(Op::Sigmoid),
        10 => (Op::Softmax, vec![a.into()], true),
        11 => tame(Op::Mean),
        12 => (Op::Matmul { transpose: true }, vec![a.into(), b], true),
        13 => (Op::Matmul { transpose: false }, vec![a.into(), b], true),
        14 => tame(Op::Reshape { shape: reshaped(n, &shape) }),
        15 => {
            let mut perm: Vec<u32> = (0..shape.len() as u32).collect();
            (1..perm.len()).for_each(|i| perm.swap(i, n.below(i + 1)));
            tame(Op::Transpose { perm })
        }
        16 => {
            let size = shape.get(axis).and_then(|d| d.known()).unwrap_or(1);
            let start = n.below(size.max(1) as usize) as u32;
            let end = start + 1 + n.below((size - start).max(1) as usize) as u32;
            tame(Op::Slice { axis: axis as u32, start, end })
        }
        17 => (Op::Concat { axis: axis as u32 }, vec![a.into(), a.into(), b][..2 + n.below(2)].to_vec(), false),
        18 => (Op::Cast { to: DType::ALL[n.below(5)] }, vec![a.into()], true),
        19 => {
            let w = m.weight(&format!("w.{i}"), &[1 + n.below(5) as u32, width], 0.0, 0.5);
            (Op::Linear, vec![a.into(), w], true)
        }
        20 => {
            let w = m.weight(&format!("gain.{i}"), &[width], 1.0, 0.5);
            (Op::RmsNorm { eps: 1e-3 }, vec![a.into(), w], true)
        }
        21 => {
            let w = m.weight(
                &format!("side.{i}"),
                &[width][..n.below(2)].iter().chain(&[1]).copied().collect::<Vec<_>>(),
                0.0,
                1.0,
            );
            ([Op::Add, Op::Sub][n.below(2)].clone(), vec![w, a.into()], false)
        }
        22 => (Op::Attention { scale: 0.5 }, vec![a.into(), pool[6].into(), pool[7].into(), pool[2].into()], true),
        23 => (Op::Int8Token, vec![a.into()], true),
        24 => {
            let ty = GridType::ALL[n.below(4)];
            (Op::FakeQuantize(Grid::of((-1.0 - n.below(5) as f32, 2.0), ty)), vec![a.into()], true)
        }
        _ => (Op::MergeHeads, vec![a.into()], false),
    }
}

/// The same axes joined, split or with ones between them.
fn reshaped(n: &mut Numbers, shape: &[Dim]) -> Vec<Dim> {
    let mut shape = shape.to_vec();
    for _ in 0..1 + n.below(3) {
        let i = n.below(shape.len().max(1));
        match n.below(4) {
            0 => shape.insert(i.min(shape.len()), Dim::fixed(1)),
            1 if shape.get(i) == Some(&Dim::fixed(1)) => drop(shape.remove(i)),
            2 => {
                let even = shape.get(i).and_then(|d| d.known()).filter(|n| n % 2 == 0 && *n > 0);
                if let Some(size) = even {
                    shape.splice(i..=i, [Dim::fixed(2), Dim::fixed(size / 2)]);
                }
            }
            3 if i + 1 < shape.len() => {
                let joined = match (shape[i].known(), shape[i + 1].known()) {
                    (_, Some(k)) => shape[i].times(k),
                    (Some(k), None) => shape[i + 1].times(k),
                    (None, None) => None,
                };
                if let Some(joined) = joined {
                    shape.splice(i..i + 2, [joined]);
                }
            }
            _ => {}
        }
    }
    shape
}
