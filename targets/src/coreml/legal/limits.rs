//! What Core ML and the step graph do not allow.
//!
//! * **Step**: inputs `tokens`, `positions` (integers `[1, T]`), `mask` (`f32[1, 1, T, C+T]`) and, where there is an R,
//!   `rows` (integers `[R]`); one output `f32[1, T, V]` or `f32[1, R, V]`; new rows `[1, KV, T, D]`.
//! * **Values**: floats, 1 to 5 axes, none of them empty, none longer than 2^31 at the bounds. Integers are inputs only.
//! * **Tables and filters**: `f16`, `int8.row`, `int4.row` and, where N divides a row, `int4.gN`; rows of `int4` have an
//!   even length, and a group that is the whole row is `int4.row`. There is no arithmetic in `bf16`, and `f32` would leave every unit but the CPU.
//!   Scales are searched among those that `f16` holds.
//! * **Other weights** are stored in `f16`. A weight is not both, a matrix and a vector.
//! * **Filters** are given tokens of 1 to 3 axes, floats only: nothing rounds tokens to int8 while it runs.
//! * **Element-wise** nodes have at least one operand that is not constant.
//! * **A cache that the package keeps** has room for the rows of a step.

use diffulex_compiler::ir::{DType, Dim, Encoding, Module, Node, Op, Operand, Weight, WeightId};

use super::rules::fused_scale;
use crate::coreml::schema::MAX_RANK;
use crate::refusal::Refusal;

/// Encodings of tables and filters.
const MATRIX: &[Encoding] =
    &[Encoding::F16, Encoding::Int8Row, Encoding::Int4G32, Encoding::Int4G64, Encoding::Int4G128, Encoding::Int4Row];

/// The weights with the encodings that they have in the package.
pub(super) fn check_weights(module: &Module) -> Result<Vec<Weight>, Refusal> {
    let mut weights = module.weights.clone();
    let mut roles: Vec<Option<&str>> = vec![None; weights.len()];
    for node in &module.nodes {
        for (i, arg) in node.args.iter().enumerate() {
            let Operand::Weight(WeightId(id)) = *arg else { continue };
            let role = match (&node.op, i) {
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
    let (place, encoding) = (format!("@{}", weight.name), weight.ty.encoding);
    let axes = weight.ty.shape.len();
    if axes > MAX_RANK || (role != "vector" && axes != 2) {
        return Err(Refusal::Shape { place, what: format!("a {role} of {axes} axes") });
    }
    if weight.ty.shape.iter().any(|&n| n > i32::MAX as u32 || n == 0) {
        return Err(Refusal::Shape { place, what: format!("{} is empty or too large", weight.ty) });
    }
    if before.is_some_and(|before| (before == "vector") != (role == "vector")) && encoding != Encoding::F16 {
        return Err(Refusal::Encoding { place, encoding, role: "vector and a matrix", nearest: &[Encoding::F16] });
    }
    if role == "vector" {
        weight.ty.encoding = Encoding::F16;
        return Ok(());
    }
    if !encoding.is_float() {
        weight.search = weight.search.in_f16();
    }
    let columns = weight.ty.columns();
    if !MATRIX.contains(&encoding) {
        return Err(Refusal::Encoding { place, encoding, role, nearest: MATRIX });
    }
    if let Some(group) = encoding.group().filter(|group| !columns.is_multiple_of(*group)) {
        return Err(Refusal::Group { place, role, columns, group });
    }
    if encoding.group() == Some(columns) {
        // One scale a row: nothing in the file tells the two apart.
        weight.ty.encoding = Encoding::Int4Row;
    }
    // Rows follow one another without a gap: those of an odd length would not begin at a byte.
    if encoding.is_int4() && !columns.is_multiple_of(2) {
        return Err(Refusal::Odd { place, columns, encoding, role });
    }
    Ok(())
}

/// Checks that the rows of a step can lie in the cache itself: then a shape that says `C+T` means `C`.
pub(super) fn check_kept(module: &Module) -> Result<(), Refusal> {
    let (t, c) = (module.bounds.t, module.bounds.c);
    if module.cache.layers == 0 || t > c {
        let what = format!("{t} tokens a step do not fit a cache of {c} that the package keeps");
        return Err(Refusal::Shape { place: "cache".into(), what });
    }
    match module.nodes.iter().find(|node| node.ty.shape.iter().any(|dim| dim.t < dim.c)) {
        Some(node) => {
            Err(Refusal::Step { place: node.place(), what: "has cached rows without those of the step".into() })
        }
        None => Ok(()),
    }
}

/// Checks every node of a rewritten module.
pub(super) fn check_nodes(module: &Module) -> Result<(), Refusal> {
    for node in &module.nodes {
        check_value(module, node)?;
        let shape = |what: &str| Err(Refusal::Shape { place: node.place(), what: what.into() });
        let refuse = || Err(Refusal::Op { place: node.place(), op: node.op.name(), nearest: None });
        let axes = |arg: &Operand| module.operand_type(*arg).shape.len();
        let constant = |arg: &Operand| matches!(arg, Operand::Weight(_));
        let input = |arg: &Operand| matches!(arg, Operand::Node(id) if module.node(*id).op == Op::Input);
        match (&node.op, node.args.as_slice()) {
            (Op::Embed, [ids, _]) | (Op::GatherRows, [_, ids]) if !input(ids) => {
                return shape("ids that are not inputs cannot be looked up");
            }
            (Op::Linear, [x, ..]) if axes(x) > 3 => return shape("a filter takes tokens of 1 to 3 axes"),
            (Op::Add | Op::Sub | Op::Mul | Op::Div, args) if args.iter().all(constant) => {
                return shape("two constants: nothing depends on the step");
            }
            (Op::Attention { scale }, [q, k, ..]) => {
                let (q, k) = (module.operand_type(*q), module.operand_type(*k));
                if q.shape.get(1) != k.shape.get(1) || q.width().map(fused_scale) != Some(*scale) {
                    return shape("fused attention has one scale and as many keys as queries");
                }
            }
            (
                Op::RopeCos { .. }
                | Op::RopeSin { .. }
                | Op::Heads { .. }
                | Op::MergeHeads
                | Op::Rope
                | Op::Swiglu
                | Op::Int8Token
                | Op::Cast { .. },
                _,
            ) => return refuse(),
            _ => {}
        }
    }
    Ok(())
}

fn check_value(module: &Module, node: &Node) -> Result<(), Refusal> {
    let shape = |what: String| Err(Refusal::Shape { place: node.place(), what });
    let axes = node.ty.shape.len();
    if axes == 0 || axes > MAX_RANK {
        return shape(format!("{axes} axes; Core ML takes 1 to {MAX_RANK}"));
    }
    let size = |dim: &Dim| dim.at(module.bounds).filter(|&n| n > 0 && n <= i32::MAX as usize);
    if node.ty.shape.iter().any(|dim| size(dim).is_none()) {
        return shape(format!("{} is empty or too large at the bounds", node.ty));
    }
    match node.ty.dtype {
        DType::F32 => Ok(()),
        DType::I32 if node.op == Op::Input => Ok(()),
        dtype => Err(Refusal::DType { place: node.place(), dtype, nearest: DType::F32 }),
    }
}
