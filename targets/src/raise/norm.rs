//! `x · rsqrt(mean(x²) + eps) · gain` → `rms_norm %x, @gain {eps}`.

use diffulex_compiler::ir::{Node, Op, Operand};

use super::{Found, View};

pub(super) fn rms_norm(view: &View<'_>, root: &Node) -> Option<Found> {
    let &[a, b] = root.args.as_slice() else { return None };
    if root.op != Op::Mul {
        return None;
    }
    let (unit, gain) = match (a, b) {
        (unit, gain @ Operand::Weight(_)) | (gain @ Operand::Weight(_), unit) => (unit, gain),
        _ => return None,
    };
    let (x, eps) = view.either(unit, &Op::Mul).into_iter().flatten().find_map(|(x, factor)| {
        let sum = view.under(factor, &Op::Rsqrt)?;
        let sums = view.either(sum, &Op::Add);
        let eps = sums.into_iter().flatten().find_map(|(mean, eps)| {
            let eps = view.scalar(eps).filter(|eps| *eps >= 0.0)?;
            (mean_square(view, mean)? == x).then_some(eps)
        });
        eps.map(|eps| (x, eps))
    })?;
    Some((Op::RmsNorm { eps }, vec![x, gain]))
}

/// The value whose mean square `mean` is: by `mean`, or by a filter `[1, n]` of `1/n`.
fn mean_square(view: &View<'_>, mean: Operand) -> Option<Operand> {
    let node = view.node(mean)?;
    let square = match (&node.op, node.args.as_slice()) {
        (Op::Mean, &[square]) => square,
        (Op::Linear, &[square, filter]) => {
            let [one, n] = view.shape(filter)[..] else { return None };
            let share = 1.0 / n.known()? as f32;
            (one.known() == Some(1) && view.uniform(filter) == Some(share)).then_some(square)?
        }
        _ => return None,
    };
    let node = view.node(square)?;
    match (&node.op, node.args.as_slice()) {
        (Op::Square, &[x]) => Some(x),
        (Op::Mul, &[x, again]) if x == again => Some(x),
        _ => None,
    }
}
