//! `[1, T, n·D]` as `[1, n, T, D]` and back → `heads %x {n}`, `merge_heads %x`.

use diffulex_compiler::ir::{Node, Op};

use super::{Found, View};

const SWAPPED: [u32; 4] = [0, 2, 1, 3];

pub(super) fn heads(view: &View<'_>, root: &Node) -> Option<Found> {
    let (Op::Transpose { perm }, &[split]) = (&root.op, root.args.as_slice()) else { return None };
    let node = view.node(split)?;
    let (Op::Reshape { shape }, &[x]) = (&node.op, node.args.as_slice()) else { return None };
    let ([one, t, n, _], [from_one, from_t, _]) = (&shape[..], &view.shape(x)[..]) else { return None };
    let same = perm == &SWAPPED && one == from_one && t == from_t;
    same.then_some((Op::Heads { n: n.known()? }, vec![x]))
}

pub(super) fn merge_heads(view: &View<'_>, root: &Node) -> Option<Found> {
    let (Op::Reshape { .. }, &[turned]) = (&root.op, root.args.as_slice()) else { return None };
    let x = view.under(turned, &Op::Transpose { perm: SWAPPED.to_vec() })?;
    Some((Op::MergeHeads, vec![x]))
}
