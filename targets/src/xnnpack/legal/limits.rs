//! What XNNPACK, ExecuTorch and the step graph do not allow.
//!
//! * **Step**: inputs `tokens`, `positions` (integers `[1, T]`) and `mask` (`f32[1, 1, T, C+T]`), one output
//!   `f32[1, T, V]`, new rows `[1, KV, T, D]`. With an input `rows` the output is `f32[1, R, V]`.
//! * **Embeddings** stand outside the delegate: their ids are inputs.
//! * **Values**: `f32`, 1 to 6 axes, none of them empty, at most 2^31 numbers at the bounds. Filters may be given tokens
//!   in `f16` and `bf16`, which a cast makes; from `f16` they make `f16`, which nothing but a cast reads.
//! * **Tables**: every encoding, but rows of `int4` have an even length and `int4.gN` has whole groups. Tables in `int8`
//!   and `int4` need hosts that link ExecuTorch's library of quantized kernels.
//! * **Filters**: `f32`, `f16`, `int8.row` and `int4.row` for tokens in `f32`; `f16` for `f16`; `bf16` for `bf16`;
//!   `int8.row`, `int4.row` with rows of even length and, where N divides a row, `int4.gN` for tokens that are rounded
//!   to int8 (`int8_token`).
//! * **Other weights** are widened to `f32`. A weight is not both, a matrix and a vector.
//! * **Biases** of quantized filters that are given floats are added by a node of their own: ExecuTorch 1.5.1 loads such
//!   a filter with a bias, and then computes something else (wrong by half of the largest logit on a tiny model).
//! * **Element-wise** nodes and matrix products have at least one operand that is not constant.
//! * **Matrix products**: both operands have the same number of axes, at least three.
//! * **External values**: at most 4096, so at most 1000 layers or so.

use diffulex_compiler::ir::{DType, Encoding, Module, Node, NodeId, Op, Operand, ValueType, Weight, WeightId};

use super::super::schema::constants::{MAX_EXTERNS, MAX_RANK};
use crate::refusal::Refusal;
use crate::rewrite::{self, Rows};

/// Encodings of filters that are given tokens in f32.
const TABLE: &[Encoding] = &[
    Encoding::F32,
    Encoding::F16,
    Encoding::BF16,
    Encoding::Int8Row,
    Encoding::Int4G32,
    Encoding::Int4G64,
    Encoding::Int4G128,
    Encoding::Int4Row,
];
const FILTER: &[Encoding] = &[Encoding::F32, Encoding::F16, Encoding::Int8Row, Encoding::Int4Row];
/// Encodings of filters that are given tokens in f16.
const F16_FILTER: &[Encoding] = &[Encoding::F16];
/// Encodings of filters that are given tokens in bf16.
const BF16_FILTER: &[Encoding] = &[Encoding::BF16];
/// Encodings of filters that are given tokens in int8.
const TOKEN_FILTER: &[Encoding] =
    &[Encoding::Int8Row, Encoding::Int4Row, Encoding::Int4G32, Encoding::Int4G64, Encoding::Int4G128];

/// Checks inputs, outputs and new rows.
pub(super) fn check_step(module: &Module) -> Result<(), Refusal> {
    rewrite::check_step(module, Rows::Chosen)?;
    let layers = module.cache.layers;
    if 3 + 4 * layers as usize + 64 > MAX_EXTERNS {
        let what = format!("{layers} layers have more caches than a delegate can take");
        return Err(Refusal::Step { place: "cache".into(), what });
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
            let (role, allowed) = match (&node.op, i) {
                (Op::Linear, 1) => filter_role(module, node),
                (Op::Embed, 1) => ("table", TABLE),
                _ => ("vector", &[Encoding::F32][..]),
            };
            check_weight(&mut weights[id as usize], role, allowed, roles[id as usize])?;
            roles[id as usize] = Some(role);
        }
    }
    Ok(weights)
}

/// What a filter is to be called, and its encodings, after the tokens that it is given.
fn filter_role(module: &Module, node: &Node) -> (&'static str, &'static [Encoding]) {
    let tokens = node.args.first().map(|&tokens| module.operand_type(tokens).dtype);
    match tokens {
        _ if is_token(module, node) => ("filter of int8 tokens", TOKEN_FILTER),
        Some(DType::F16) => ("filter of f16 tokens", F16_FILTER),
        Some(DType::BF16) => ("filter of bf16 tokens", BF16_FILTER),
        _ => ("filter", FILTER),
    }
}

fn check_weight(
    weight: &mut Weight,
    role: &'static str,
    allowed: &'static [Encoding],
    before: Option<&str>,
) -> Result<(), Refusal> {
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
        encoding if encoding.grid().is_some() => {
            return Err(Refusal::Encoding { place, encoding, role, nearest: allowed });
        }
        Encoding::F32 if allowed.contains(&Encoding::F32) => {}
        encoding if clash => {
            return Err(Refusal::Encoding { place, encoding, role: "vector and a matrix", nearest: &[Encoding::F32] });
        }
        _ if role == "vector" => weight.ty.encoding = Encoding::F32,
        encoding => {
            if !allowed.contains(&encoding) {
                return Err(Refusal::Encoding { place, encoding, role, nearest: allowed });
            }
            let columns = weight.ty.columns();
            if let Some(group) = encoding.group().filter(|group| !columns.is_multiple_of(*group)) {
                return Err(Refusal::Group { place, role, columns, group });
            }
            // ExecuTorch 1.5.1 loads such a filter for int8 tokens and then computes all rows but the first wrongly.
            let pairs = matches!(role, "table" | "filter of int8 tokens");
            if pairs && encoding.is_int4() && !columns.is_multiple_of(2) {
                return Err(Refusal::Odd { place, columns, encoding, role });
            }
        }
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
        check_types(module, node)?;
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

/// Numbers of 16 bits stand between casts and filters only.
fn check_types(module: &Module, node: &Node) -> Result<(), Refusal> {
    let made = matches!(
        (&node.op, node.ty.dtype),
        (Op::Input, _) | (_, DType::F32) | (Op::Cast { .. }, DType::F16 | DType::BF16) | (Op::Linear, DType::F16)
    );
    let float = |dtype| matches!(dtype, DType::F16 | DType::BF16);
    let read = node.args.iter().enumerate().find(|(i, arg)| {
        float(module.operand_type(**arg).dtype) && !matches!((&node.op, i), (Op::Cast { .. }, 0) | (Op::Linear, 0))
    });
    let dtype = if made { read.map(|(_, arg)| module.operand_type(*arg).dtype) } else { Some(node.ty.dtype) };
    match dtype {
        None => Ok(()),
        Some(dtype) => Err(Refusal::DType { place: node.place(), dtype, nearest: DType::F32 }),
    }
}

fn check_value(module: &Module, node: &Node) -> Result<(), Refusal> {
    let ValueType { shape, .. } = &node.ty;
    let place = node.place();
    if shape.is_empty() || shape.len() > MAX_RANK {
        return Err(Refusal::Shape { place, what: format!("{} axes; XNNPACK takes 1 to {MAX_RANK}", shape.len()) });
    }
    let size = shape.iter().try_fold(1usize, |size, dim| size.checked_mul(dim.at(module.bounds)?));
    if size.is_none_or(|size| size == 0 || size > i32::MAX as usize) {
        return Err(Refusal::Shape { place, what: format!("{} is empty or too large at the bounds", node.ty) });
    }
    Ok(())
}
