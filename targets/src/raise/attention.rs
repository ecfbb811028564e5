//! `softmax(q·kᵀ·scale + mask)·v` → `attention %q, %k, %v, %mask {scale}`.
//!
//! Three forms are known, for `g` query heads that share keys:
//!
//! * *plain*, `g = 1`: the second product is the root;
//! * *tall*: `q` as `[1, KV, g·T, D]`, the mask repeated `g` times along its rows, and the result reshaped back;
//! * *broadcast*: `q` as `[1, KV, g, T, D]`, `k` and `v` as `[1, KV, 1, S, D]`, and the result reshaped back.

use diffulex_compiler::ir::{Dim, Node, Op, Operand};

use super::{Found, View};

pub(super) fn attention(view: &View<'_>, root: &Node) -> Option<Found> {
    match (&root.op, root.args.as_slice()) {
        (Op::Matmul { transpose: false }, &[weights, v]) => {
            let Core { q, k, mask, scale } = Core::of(view, weights)?;
            Some((Op::Attention { scale }, vec![q, k, v, mask]))
        }
        (Op::Reshape { shape }, &[mixed]) => {
            let node = view.node(mixed)?;
            let (Op::Matmul { transpose: false }, &[weights, v]) = (&node.op, node.args.as_slice()) else {
                return None;
            };
            let core = Core::of(view, weights)?;
            tall(view, &core, v).or_else(|| broadcast(view, &core, v)).filter(|(_, args)| view.shape(args[0]) == *shape)
        }
        _ => None,
    }
}

/// The operands of a softmax over masked scores.
struct Core {
    q: Operand,
    k: Operand,
    mask: Operand,
    scale: f32,
}

impl Core {
    fn of(view: &View<'_>, weights: Operand) -> Option<Core> {
        let masked = view.under(weights, &Op::Softmax)?;
        view.either(masked, &Op::Add).into_iter().flatten().find_map(|(scores, mask)| {
            let mut scaled = view.either(scores, &Op::Mul).into_iter().flatten();
            let scaled = scaled.find_map(|(scores, scale)| Some((scores, view.scalar(scale)?)));
            let (scores, scale) = scaled.unwrap_or((scores, 1.0));
            let node = view.node(scores).filter(|node| node.op == Op::Matmul { transpose: true })?;
            let &[q, k] = node.args.as_slice() else { return None };
            // Queries that are scaled before the product.
            let mut factors = view.either(q, &Op::Mul).into_iter().flatten();
            let before = factors.find_map(|(q, factor)| Some((q, view.scalar(factor)?)));
            match before {
                Some((q, factor)) if scale == 1.0 => Some(Core { q, k, mask, scale: factor }),
                _ => Some(Core { q, k, mask, scale }),
            }
        })
    }
}

fn tall(view: &View<'_>, core: &Core, v: Operand) -> Option<Found> {
    let q = reshaped(view, core.q)?;
    let (heads, kv, sharing) = heads(view, q, core.k)?;
    let [one, _, t, d] = view.shape(q)[..] else { return None };
    if view.shape(core.q) != [one, Dim::fixed(kv), t.times(sharing)?, d] || heads != kv * sharing {
        return None;
    }
    let mask = repeated(view, core.mask, sharing)?;
    Some((Op::Attention { scale: core.scale }, vec![q, core.k, v, mask]))
}

fn broadcast(view: &View<'_>, core: &Core, v: Operand) -> Option<Found> {
    let (q, k, v5, v) = (reshaped(view, core.q)?, reshaped(view, core.k)?, v, reshaped(view, v)?);
    let (_, kv, sharing) = heads(view, q, k)?;
    let ([one, _, t, d], [_, _, s, _]) = (view.shape(q)[..].try_into().ok()?, view.shape(k)[..].try_into().ok()?);
    let (kv, single): (Dim, Dim) = (Dim::fixed(kv), Dim::fixed(1));
    let rows = [one, kv, single, s, d];
    let fits = view.shape(core.q) == [one, kv, Dim::fixed(sharing), t, d];
    (fits && view.shape(core.k) == rows && view.shape(v5) == rows)
        .then_some((Op::Attention { scale: core.scale }, vec![q, k, v, core.mask]))
}

/// Query heads, key/value heads, and how many of the former share one of the latter.
fn heads(view: &View<'_>, q: Operand, k: Operand) -> Option<(u32, u32, u32)> {
    let heads = |x| view.shape(x).get(1).and_then(|d: &Dim| d.known());
    let (heads, kv) = (heads(q)?, heads(k)?);
    (kv > 0 && heads.is_multiple_of(kv)).then(|| (heads, kv, heads / kv))
}

fn reshaped(view: &View<'_>, x: Operand) -> Option<Operand> {
    let node = view.node(x)?;
    matches!(node.op, Op::Reshape { .. }).then(|| node.args.first().copied()).flatten()
}

/// The mask that `times` copies of, joined along the rows, make up `joined`.
fn repeated(view: &View<'_>, joined: Operand, times: u32) -> Option<Operand> {
    let (mut open, mut found, mut copies) = (vec![joined], None, 0);
    while let Some(part) = open.pop() {
        match view.node(part) {
            Some(node) if node.op == (Op::Concat { axis: 2 }) => open.extend(&node.args),
            _ if found.is_none_or(|mask| mask == part) => {
                (found, copies) = (Some(part), copies + 1);
            }
            _ => return None,
        }
        if open.len() + copies as usize > times as usize + 5 {
            return None;
        }
    }
    found.filter(|_| copies == times)
}
