//! What ONNX files and their interface do not allow.
//!
//! * **Step**: inputs `tokens`, `positions` (integers `[1, T]`) and `mask` (`f32[1, 1, T, C+T]`), no `rows`; one output
//!   `f32[1, T, V]`. Positions become one `rope_cos` and one `rope_sin`, of the same width and base, and nothing else.
//! * **Filters**: `int8.row`, `int4.row` and, where N divides a row, `int4.gN`, rows of `int4` being of an even length;
//!   `f16`; where not all floats are `f16`, `f32` and `bf16`, too.
//! * **Tables** are floats: no operator looks rows of integers up and scales them.
//! * **Other weights** are stored in the type of all floats. Tables and they may be `uint8` and `uint16`. A weight is not both, a matrix and a vector.
//! * **Keys** of a layer are read transposed and in no other way; nothing else is multiplied so. The new values of a layer
//!   are those of no other.
//! * **Element-wise** nodes have at least one operand that is not constant.
//! * **Static shapes** are those of 1 to T tokens.

use std::collections::HashSet;

use diffulex_compiler::ir::{CacheKind, DType, Encoding, Module, Node, Op, Operand, Weight, WeightId};

use super::rules::is_keys;
use crate::onnx::{Options, Shapes};
use crate::refusal::Refusal;

const FILTERS: &[Encoding] = &[
    Encoding::F32,
    Encoding::F16,
    Encoding::BF16,
    Encoding::Int8Row,
    Encoding::Int4G32,
    Encoding::Int4G64,
    Encoding::Int4G128,
    Encoding::Int4Row,
];
const TABLES: &[Encoding] = FILTERS.split_at(3).0;
const HALF_FILTERS: &[Encoding] =
    &[Encoding::F16, Encoding::Int8Row, Encoding::Int4G32, Encoding::Int4G64, Encoding::Int4G128, Encoding::Int4Row];
const HALF_TABLES: &[Encoding] = HALF_FILTERS.split_at(1).0;

/// The encoding of vectors.
pub(super) fn vectors(options: &Options) -> Encoding {
    if options.half { Encoding::F16 } else { Encoding::F32 }
}

/// The weights with the encodings that they have in the file.
pub(super) fn check_weights(module: &Module, options: &Options) -> Result<Vec<Weight>, Refusal> {
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
            check_weight(&mut weights[id as usize], role, roles[id as usize], options)?;
            roles[id as usize] = Some(role);
        }
    }
    Ok(weights)
}

fn check_weight(
    weight: &mut Weight,
    role: &'static str,
    before: Option<&str>,
    options: &Options,
) -> Result<(), Refusal> {
    let (place, encoding, own) = (format!("@{}", weight.name), weight.ty.encoding, vectors(options));
    let axes = weight.ty.shape.len();
    if axes > 4 || (role != "vector" && axes != 2) {
        return Err(Refusal::Shape { place, what: format!("a {role} of {axes} axes") });
    }
    if weight.ty.shape.iter().any(|&n| n > i32::MAX as u32 || n == 0) {
        return Err(Refusal::Shape { place, what: format!("{} is empty or too large", weight.ty) });
    }
    if before.is_some_and(|before| (before == "vector") != (role == "vector")) && encoding != own {
        let nearest = if options.half { HALF_TABLES } else { &TABLES[..1] };
        return Err(Refusal::Encoding { place, encoding, role: "vector and a matrix", nearest });
    }
    // What is on a grid stays on it.
    if encoding.grid().is_some() && role != "filter" && before != Some("filter") && !options.half {
        return Ok(());
    }
    if role == "vector" {
        weight.ty.encoding = own;
        return Ok(());
    }
    let nearest = match (role, options.half) {
        ("table", false) => TABLES,
        ("table", true) => HALF_TABLES,
        (_, false) => FILTERS,
        (_, true) => HALF_FILTERS,
    };
    if !nearest.contains(&encoding) {
        return Err(Refusal::Encoding { place, encoding, role, nearest });
    }
    if encoding.is_float() {
        return Ok(());
    }
    let columns = weight.ty.columns();
    if let Some(group) = encoding.group().filter(|group| !columns.is_multiple_of(*group)) {
        return Err(Refusal::Group { place, role, columns, group });
    }
    // Rows follow one another without a gap, and so do the columns that they are stored as.
    if encoding.is_int4() && !columns.is_multiple_of(2) {
        return Err(Refusal::Odd { place, columns, encoding, role });
    }
    if options.half {
        weight.search = weight.search.in_f16();
    }
    Ok(())
}

/// Checks every node of a rewritten module.
pub(super) fn check_nodes(module: &Module) -> Result<(), Refusal> {
    check_rotation(module)?;
    check_caches(module)?;
    for node in &module.nodes {
        let shape = |what: &str| Err(Refusal::Shape { place: node.place(), what: what.into() });
        let refuse = |nearest| Err(Refusal::Op { place: node.place(), op: node.op.name(), nearest });
        let constant = |arg: &Operand| matches!(arg, Operand::Weight(_));
        if !(node.ty.dtype == DType::F32 || node.op == Op::Input && node.ty.dtype == DType::I32) {
            return Err(Refusal::DType { place: node.place(), dtype: node.ty.dtype, nearest: DType::F32 });
        }
        if node.ty.shape.len() > 6 || node.ty.shape.is_empty() {
            return shape("values have 1 to 6 axes");
        }
        match (&node.op, node.args.as_slice()) {
            (Op::Embed, [ids, _]) if module.input("tokens").map(Operand::Node) != Some(*ids) => {
                return shape("ids that are not those of the tokens cannot be looked up");
            }
            (Op::Linear, [_, _, _]) => return refuse(Some("linear without a bias, then add")),
            (Op::Matmul { transpose }, [_, b]) if *transpose != is_keys(module, *b) => {
                return shape("keys are read transposed, and nothing else is");
            }
            (Op::Add | Op::Sub | Op::Mul | Op::Div, args) if args.iter().all(constant) => {
                return shape("two constants: nothing depends on the step");
            }
            (Op::Matmul { .. } | Op::Concat { .. } | Op::Reshape { .. }, args) if args.iter().any(constant) => {
                return shape("a constant is an operand of an element-wise node, or a matrix");
            }
            (Op::Square | Op::Rsqrt | Op::Mean, _) => return refuse(Some("rms_norm")),
            (
                Op::Heads { .. }
                | Op::MergeHeads
                | Op::Rope
                | Op::Attention { .. }
                | Op::Silu
                | Op::Swiglu
                | Op::Int8Token
                | Op::GatherRows
                | Op::Cast { .. },
                _,
            ) => return refuse(None),
            _ => {}
        }
    }
    Ok(())
}

/// Checks that positions become the two inputs of the rotation, and nothing else.
fn check_rotation(module: &Module) -> Result<(), Refusal> {
    let step = |place: String, what: &str| Err(Refusal::Step { place, what: what.into() });
    let positions = module.input("positions").map(Operand::Node);
    let (mut found, mut facts) = ([0; 2], None);
    for node in module.nodes.iter().filter(|node| node.args.first().copied() == positions && positions.is_some()) {
        let (i, fact) = match node.op {
            Op::RopeCos { dim, theta } => (0, (dim, theta)),
            Op::RopeSin { dim, theta } => (1, (dim, theta)),
            _ => return step(node.place(), "reads positions, which are rows of the rotation here"),
        };
        if *facts.get_or_insert(fact) != fact {
            return step(node.place(), "a step has one rotation, of one width and base");
        }
        found[i] += 1;
    }
    match found {
        [1, 1] => Ok(()),
        _ => step("%positions".into(), "become one rope_cos and one rope_sin in a step"),
    }
}

/// Checks how caches and their new rows are read.
fn check_caches(module: &Module) -> Result<(), Refusal> {
    let step = |node: &Node, what: &str| Err(Refusal::Step { place: node.place(), what: what.into() });
    for node in &module.nodes {
        let as_keys =
            |(i, arg): (usize, &Operand)| is_keys(module, *arg) && !matches!((&node.op, i), (Op::Matmul { .. }, 1));
        if node.args.iter().enumerate().any(as_keys) {
            return step(node, "reads keys in another way than a product with them");
        }
    }
    if let Some(id) = module.outputs.iter().find(|id| is_keys(module, Operand::Node(**id))) {
        return step(module.node(*id), "keys are no logits");
    }
    let mut values: HashSet<_> = module.outputs.iter().copied().collect();
    for (_, id) in module.new_rows().filter(|(cache, _)| cache.kind == CacheKind::V) {
        let node = module.node(id);
        if !values.insert(id) || matches!(node.op, Op::RopeCos { .. } | Op::RopeSin { .. }) {
            return step(node, "new values are those of one layer, and nothing else that a step gives");
        }
    }
    Ok(())
}

/// Checks the numbers of tokens that are asked for.
pub(super) fn check_lengths(module: &Module, options: &Options) -> Result<(), Refusal> {
    let Shapes::Static(lengths) = &options.shapes else { return Ok(()) };
    let bound = module.bounds.t as u32;
    match lengths.iter().find(|length| **length == 0 || **length > bound) {
        Some(length) => Err(Refusal::Shapes {
            place: "lengths".into(),
            what: format!("a step of {length} tokens, where the module has 1 to {bound}"),
            nearest: if *length == 0 { "1".into() } else { bound.to_string() },
        }),
        None => Ok(()),
    }
}
