//! The step graph that every target shares: inputs `tokens`, `positions` (integers `[1, T]`), `mask` (`f32[1, 1, T, C+T]`)
//! and, where there is an R, `rows`; one output `f32[1, T, V]` or `f32[1, R, V]`; new rows `[1, KV, T, D]`.

use diffulex_compiler::ir::{DType, Dim, Module, Op};

use crate::refusal::Refusal;

/// How a step may be told which rows need logits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// By their numbers, `[R]`.
    Numbered,
    /// By those, or by rows of zeros with a one, `f32[1, R, T]`.
    Chosen,
}

/// Checks inputs, outputs and new rows.
///
/// # Errors
/// Names the first that is not one of a step.
pub(crate) fn check(module: &Module, rows: Rows) -> Result<(), Refusal> {
    let step = |place: String, what: &str| Err(Refusal::Step { place, what: what.into() });
    for input in module.nodes.iter().filter(|n| n.op == Op::Input) {
        let (integer, shape) = (input.ty.dtype.is_integer(), input.ty.shape.as_slice());
        let fits = match input.name.as_str() {
            "tokens" | "positions" => integer && shape == [Dim::fixed(1), Dim::T],
            "mask" => !integer && shape == [Dim::fixed(1), Dim::fixed(1), Dim::T, Dim { c: 1, ..Dim::T }],
            "rows" => {
                shape == [Dim::R] && integer
                    || rows == Rows::Chosen && shape == [Dim::fixed(1), Dim::R, Dim::T] && !integer
            }
            _ => false,
        };
        if !fits {
            return step(input.place(), "is not an input of the step graph");
        }
    }
    for name in ["tokens", "positions", "mask"] {
        if module.input(name).is_none() {
            return step(format!("%{name}"), "is missing");
        }
    }
    let [logits] = module.outputs[..] else { return step("return".into(), "a step returns the logits, nothing else") };
    let logits = module.node(logits);
    let made = if module.bounds.r > 0 { Dim::R } else { Dim::T };
    if logits.op == Op::Input
        || logits.ty.dtype != DType::F32
        || !matches!(logits.ty.shape[..], [one, t, v] if one == Dim::fixed(1) && t == made && v.known().is_some())
    {
        return step(logits.place(), &format!("the logits are {}, not f32[1, {made}, V]", logits.ty));
    }
    for (_, rows) in module.new_rows() {
        let node = module.node(rows);
        if node.ty.shape.get(2) != Some(&Dim::T) || node.ty.dtype != DType::F32 || node.op == Op::Input {
            return step(node.place(), &format!("new rows are {}, not f32[1, KV, T, D]", node.ty));
        }
    }
    Ok(())
}
