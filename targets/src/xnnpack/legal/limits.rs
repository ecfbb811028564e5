//! What XNNPACK, ExecuTorch and the step graph do not allow.
//!
//! * **Step**: inputs `tokens`, `positions` (integers `[1, T]`) and `mask` (`f32[1, 1, T, C+T]`), one output
//!   `f32[1, T, V]`, new rows `[1, KV, T, D]`.
//! * **Embeddings** stand outside the delegate: their ids are inputs.
//! * **Values**: `f32`, 1 to 6 axes, none of them empty, at most 2^31 numbers at the bounds.
//! * **Weights**: tables `f32` or `f16`; filters these, `int8.row`, `int4.row` and, for tokens that are rounded to int8
//!   (`int8_token`), also `int4.gN` where N divides a row; the rest is widened to `f32`. A weight is not both.
//! * **Biases** of quantized filters that are given floats are added by a node of their own: ExecuTorch 1.5.1 loads such
//!   a filter with a bias, and then computes something else (wrong by half of the largest logit on a tiny model).
//! * **Element-wise** nodes and matrix products have at least one operand that is not constant.
//! * **Matrix products**: both operands have the same number of axes, at least three.
//! * **External values**: at most 4096, so at most 1000 layers or so.

use diffulex_compiler::ir::{DType, Dim, Encoding, Module, Node, NodeId, Op, Operand, ValueType, Weight, WeightId};

use super::super::schema::constants::{MAX_EXTERNS, MAX_RANK};
use crate::refusal::Refusal;

/// Encodings of tables.
const TABLE: &[Encoding] = &[Encoding::F32, Encoding::F16];
/// Encodings of filters.
const FILTER: &[Encoding] = &[Encoding::F32, Encoding::F16, Encoding::Int8Row, Encoding::Int4Row];
/// Encodings of filters that are given tokens in int8.
const TOKEN_FILTER: &[Encoding] =
    &[Encoding::Int8Row, Encoding::Int4Row, Encoding::Int4G32, Encoding::Int4G64, Encoding::Int4G128];

/// Checks inputs, outputs and new rows.
pub(super) fn check_step(module: &Module) -> Result<(), Refusal> {
    let step = |place: String, what: &str| Err(Refusal::Step { place, what: what.into() });
    for input in module.nodes.iter().filter(|n| n.op == Op::Input) {
        let (integer, shape) = (input.ty.dtype.is_integer(), input.ty.shape.as_slice());
        let fits = match input.name.as_str() {
            "tokens" | "positions" => integer && shape == [Dim::fixed(1), Dim::T],
            "mask" => !integer && shape == [Dim::fixed(1), Dim::fixed(1), Dim::T, Dim { c: 1, ..Dim::T }],
            "rows" => {
                let nearest = Some("logits of all rows, without the pass `select-rows`");
                return Err(Refusal::Op { place: input.place(), op: "rows", nearest });
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
    if logits.op == Op::Input
        || !matches!(logits.ty.shape[..], [one, t, v] if one == Dim::fixed(1) && t == Dim::T && v.known().is_some())
    {
        return step(logits.place(), &format!("the logits are {}, not f32[1, T, V]", logits.ty));
    }
    for (_, rows) in module.new_rows() {
        let node = module.node(rows);
        if node.ty.shape.get(2) != Some(&Dim::T) || node.op == Op::Input {
            return step(node.place(), &format!("new rows are {}, not f32[1, KV, T, D]", node.ty));
        }
    }
    if 3 + 4 * module.cache.layers as usize + 64 > MAX_EXTERNS {
        return step(
            "cache".into(),
            &format!("{} layers have more caches than a delegate can take", module.cache.layers),
        );
    }
    Ok(())
}

/// The weights with the encodings that they have in the artifact.
pub(super) fn check_weights(module: &Module) -> Result<Vec<Weight>, Refusal> {
    let mut weights = module.weights.clone();
    let mut roles: Vec<Option<&str>> = vec![None; weights.len()];
    for node in &module.nodes {
        for (i, arg) in node.args.iter().enumerate() {
            let Operand::Weight(WeightId(id)) = *arg else { continue };
            let role = match (&node.op, i) {
                (Op::Linear, 1) if is_token(module, node) => "filter of int8 tokens",
                (Op::Linear, 1) => "filter",
                (Op::Embed, 1) => "table",
                _ => "vector",
            };
            check_weight(&mut weights[id as usize], role, roles[id as usize])?;
            roles[id as usize] = Some(role);
        }
    }
    Ok(weights)
}

fn check_weight(weight: &mut Weight, role: &'static str, before: Option<&str>) -> Result<(), Refusal> {
    let place = format!("@{}", weight.name);
    let axes = weight.ty.shape.len();
    if axes > MAX_RANK || (role != "vector" && axes != 2) {
        return Err(Refusal::Shape { place, what: format!("a {role} of {axes} axes") });
    }
    let too_large = weight.ty.shape.iter().map(|&n| u64::from(n)).try_fold(4, u64::checked_mul).is_none();
    if too_large || weight.ty.shape.iter().any(|&n| n > i32::MAX as u32 || n == 0) {
        return Err(Refusal::Shape { place, what: format!("{} is empty or too large", weight.ty) });
    }
    let clash = before.is_some_and(|before| (before == "vector") != (role == "vector"));
    match weight.ty.encoding {
        Encoding::F32 => {}
        encoding if clash => {
            return Err(Refusal::Encoding { place, encoding, role: "vector and a matrix", nearest: &[Encoding::F32] });
        }
        _ if role == "vector" => weight.ty.encoding = Encoding::F32,
        encoding => {
            let allowed = match role {
                "table" => TABLE,
                "filter" => FILTER,
                _ => TOKEN_FILTER,
            };
            if !allowed.contains(&encoding) {
                return Err(Refusal::Encoding { place, encoding, role, nearest: allowed });
            }
            let columns = weight.ty.columns();
            if let Some(group) = encoding.group().filter(|group| !columns.is_multiple_of(*group)) {
                return Err(Refusal::Group { place, columns, group });
            }
        }
    }
    if role == "filter of int8 tokens" && !TOKEN_FILTER.contains(&weight.ty.encoding) {
        let encoding = weight.ty.encoding;
        return Err(Refusal::Encoding { place, encoding, role, nearest: TOKEN_FILTER });
    }
    Ok(())
}

/// Whether a filter is given tokens that are rounded to int8.
fn is_token(module: &Module, node: &Node) -> bool {
    matches!(node.args.first(), Some(Operand::Node(id)) if module.node(*id).op == Op::Int8Token)
}

/// Whether tokens in floats meet a quantized filter.
pub(super) fn is_weight_only(module: &Module, node: &Node) -> bool {
    let quantized = |arg: &Operand| matches!(arg, Operand::Weight(id) if !module.weight(*id).ty.encoding.is_float());
    node.op == Op::Linear && node.args.get(1).is_some_and(quantized) && !is_token(module, node)
}

/// Checks every node of a rewritten module.
pub(super) fn check_nodes(module: &Module) -> Result<(), Refusal> {
    for node in module.nodes.iter() {
        check_value(module, node)?;
        let shape = |what: &str| Err(Refusal::Shape { place: node.place(), what: what.into() });
        let constant = |arg: &Operand| matches!(arg, Operand::Weight(_));
        let token = |arg: &Operand| matches!(arg, Operand::Node(id) if module.node(*id).op == Op::Int8Token);
        let input =
            |arg: &Operand| matches!(arg, Operand::Node(NodeId(id)) if module.nodes[*id as usize].op == Op::Input);
        match (&node.op, node.args.as_slice()) {
            (op, args) if *op != Op::Linear && args.iter().any(token) => {
                return shape("only a filter takes tokens in int8");
            }
            (Op::Linear, [_, _, _]) if is_weight_only(module, node) => {
                return shape("a quantized filter that is given floats takes no bias");
            }
            (Op::Embed, [ids, _]) if !input(ids) => return shape("ids that are not inputs cannot be looked up"),
            (Op::Add | Op::Sub | Op::Mul | Op::Div, args) if args.iter().all(constant) => {
                return shape("two constants: nothing depends on the step");
            }
            (Op::Matmul { .. }, [a, b]) => {
                let rank = |x: &Operand| module.operand_type(*x).shape.len();
                if rank(a) != rank(b) || rank(a) < 3 {
                    return shape("a matrix product wants the same number of axes, at least three, on both sides");
                }
            }
            (Op::Reshape { shape: axes }, _) if axes.iter().filter(|d| d.known().is_none()).count() > 1 => {
                return shape("only one axis of a reshape may depend on the step");
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_value(module: &Module, node: &Node) -> Result<(), Refusal> {
    let ValueType { dtype, shape } = &node.ty;
    let place = node.place();
    if node.op != Op::Input && *dtype != DType::F32 {
        return Err(Refusal::DType { place, dtype: *dtype, nearest: DType::F32 });
    }
    if shape.is_empty() || shape.len() > MAX_RANK {
        return Err(Refusal::Shape { place, what: format!("{} axes; XNNPACK takes 1 to {MAX_RANK}", shape.len()) });
    }
    let size = shape.iter().try_fold(1usize, |size, dim| size.checked_mul(dim.at(module.bounds)?));
    if size.is_none_or(|size| size == 0 || size > i32::MAX as usize) {
        return Err(Refusal::Shape { place, what: format!("{} is empty or too large at the bounds", node.ty) });
    }
    Ok(())
}
