//! The instructions of method `forward`: lookups in tables, and the call of the delegate.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use diffulex_compiler::ir::Encoding;

use super::error::{Fault, Place, Result};
use super::file::File;
use super::plan::{Argument, Role, Roles, Table};
use super::tensor::{Tensor, Values, width};
use crate::xnnpack::schema::constants::{
    EMBEDDING, EMBEDDING_4BIT, EMBEDDING_BYTE, MAX_EXTERNS, SCALAR_BFLOAT16, SCALAR_BYTE, SCALAR_CHAR, SCALAR_FLOAT,
    SCALAR_HALF,
};
use crate::xnnpack::schema::program::{DelegateCallRef, ExecutionPlanRef, KernelCallRef};

/// A lookup in a table:
///
/// * `aten::embedding.out(weight, indices, padding_idx, scale_grad_by_freq, sparse, out, out)`;
/// * `quantized_decomposed::embedding_byte.out(weight, scales, zero_points, quant_min, quant_max, indices, out, out)`,
///   and `embedding_4bit` alike.
pub(super) fn embedding(
    file: &File<'_>,
    plan: &ExecutionPlanRef<'_>,
    values: &Values<'_>,
    roles: &Roles,
    place: &Place,
    call: &KernelCallRef<'_>,
) -> Result<(i32, Role)> {
    let kernel = kernel(plan, place, call)?;
    let args = place.need("args", call.args())?;
    let wanted = if kernel == EMBEDDING { 7 } else { 8 };
    let args: Vec<i32> = args.iter().take(wanted + 1).collect();
    if args.len() != wanted {
        return Err(place.clone().mismatch("args", format!("{} long", args.len()), format!("{wanted} long")));
    }
    let (index, scales) = if kernel == EMBEDDING { (args[1], None) } else { (args[5], Some(args[1])) };
    let (out, again) = (args[wanted - 2], args[wanted - 1]);
    if out != again {
        return Err(place.clone().mismatch("args", format!("returning value {again}"), format!("value {out}")));
    }
    if scales.is_some() && !values.is_null(place, args[2])? {
        return Err(place.clone().unsupported("a table with zero points"));
    }
    let Some(Role::Ids(ids)) = roles.get(&index) else {
        return Err(place.clone().unsupported("an embedding of anything but tokens and positions"));
    };
    let table = table(file, values, place, kernel, args[0], scales)?;
    let tensor = values.tensor(place, out)?;
    let given = values.tensor(place, index)?;
    let &[one, t] = &given.sizes[..] else { return Err(place.clone().damaged("ids that are not [1, T]")) };
    let scalar = match table.encoding {
        Encoding::F16 => SCALAR_HALF,
        Encoding::BF16 => SCALAR_BFLOAT16,
        _ => SCALAR_FLOAT,
    };
    tensor.expect(place, scalar, &[one, t, table.shape[1]])?;
    if !tensor.dynamic || tensor.constant.is_some() {
        return Err(place.clone().damaged("the rows are a constant or of fixed size"));
    }
    Ok((out, Role::Given(Argument::Embedding(*ids, table))))
}

/// The kernel that an instruction calls: one of those for tables.
fn kernel(
    plan: &ExecutionPlanRef<'_>,
    place: &Place,
    call: &KernelCallRef<'_>,
) -> Result<(&'static str, &'static str)> {
    let operators = place.need("operators", plan.operators())?;
    let index = place.got(call.op_index())?;
    let operator = usize::try_from(index).ok().and_then(|i| operators.get(i));
    let operator =
        place.got(operator.ok_or_else(|| place.clone().damaged(format!("there is no operator {index}")))?)?;
    let name = place.text("Operator.name", operator.name())?;
    let overload = place.text("Operator.overload", operator.overload())?;
    let known = [EMBEDDING, EMBEDDING_BYTE, EMBEDDING_4BIT].into_iter().find(|known| *known == (name, overload));
    known.ok_or_else(|| place.clone().unsupported(format!("the kernel `{name}.{overload}`")))
}

fn table(
    file: &File<'_>,
    values: &Values<'_>,
    place: &Place,
    kernel: (&str, &str),
    index: i32,
    scales: Option<i32>,
) -> Result<Table> {
    let tensor = values.tensor(place, index)?;
    let own = Place::PlanValue(index.into());
    if tensor.constant.is_none() {
        return Err(own.unsupported("a table that is not constant"));
    }
    let &[rows, stored] = &tensor.sizes[..] else {
        return Err(own.mismatch("sizes", format!("{:?}", tensor.sizes), "[rows, width]"));
    };
    // Sizes are at most `i32::MAX`.
    let width = if kernel == EMBEDDING_4BIT { 2 * stored } else { stored };
    let range = constant(file, &own, &tensor)?;
    let (encoding, scales) = match (kernel, tensor.scalar, scales) {
        (EMBEDDING, SCALAR_FLOAT, None) => (Encoding::F32, 0..0),
        (EMBEDDING, SCALAR_HALF, None) => (Encoding::F16, 0..0),
        (EMBEDDING, SCALAR_BFLOAT16, None) => (Encoding::BF16, 0..0),
        (EMBEDDING_BYTE, SCALAR_CHAR, Some(scales)) | (EMBEDDING_4BIT, SCALAR_BYTE, Some(scales)) => {
            let tensor = values.tensor(place, scales)?;
            let place = Place::PlanValue(scales.into());
            let encoding = match (kernel, &tensor.sizes[..]) {
                (EMBEDDING_BYTE, _) => Encoding::Int8Row,
                (_, [_, groups]) => {
                    let group =
                        |e: &&Encoding| e.group().is_some_and(|n| u64::from(*groups) * n as u64 == u64::from(width));
                    let known = Encoding::ALL.iter().find(group);
                    *known.ok_or_else(|| place.clone().unsupported(format!("{groups} scales for {width} numbers")))?
                }
                _ => Encoding::Int4Row,
            };
            let sizes = std::iter::once(rows).chain(encoding.group().map(|group| width / group as u32));
            tensor.expect(&place, SCALAR_FLOAT, &sizes.collect::<Vec<u32>>())?;
            (encoding, constant(file, &place, &tensor)?)
        }
        (_, other, _) => return Err(own.unsupported(format!("a table of scalar type {other} for `{}`", kernel.0))),
    };
    Ok(Table { name: tensor.name, encoding, shape: [rows, width], range, scales })
}

/// The bytes of a constant tensor.
fn constant(file: &File<'_>, place: &Place, tensor: &Tensor) -> Result<Range<usize>> {
    let Some(constant) = tensor.constant else {
        return Err(place.clone().unsupported("a table that is not constant"));
    };
    let from = file.constant(place, constant)?;
    let bytes = place.at_most("sizes", tensor.bytes(), from.len() as u64)?;
    if !(from.start as u64).is_multiple_of(width(tensor.scalar).unwrap_or(1)) {
        return Err(place.clone().damaged(format!("its bytes begin at {}, which is not aligned", from.start)));
    }
    Ok(from.start..from.start + bytes)
}

/// The place of an argument in the list is its external id.
pub(super) fn delegate_arguments(
    values: &Values<'_>,
    roles: &Roles,
    made: &HashMap<i32, Argument>,
    place: &Place,
    call: &DelegateCallRef<'_>,
) -> Result<Vec<(Argument, Tensor)>> {
    if place.got(call.delegate_index())? != 0 {
        return Err(place.clone().damaged("there is one delegate only"));
    }
    let args = place.need("args", call.args())?;
    place.at_most("args", args.len() as u64, MAX_EXTERNS as u64)?;
    let mut seen = HashSet::new();
    let mut arguments = Vec::new();
    for index in args.iter() {
        if !seen.insert(index) {
            return Err(place.clone().fault(Fault::Twice(format!("the argument {index}"))));
        }
        let argument = match (roles.get(&index), made.get(&index)) {
            (Some(Role::Given(argument)), None) => argument.clone(),
            (None, Some(argument)) => argument.clone(),
            (Some(_), Some(_)) => return Err(place.clone().unsupported("an input that is an output, too")),
            (Some(Role::Ids(_)), None) => return Err(place.clone().unsupported("ids inside the delegate")),
            (None, None) => return Err(place.clone().damaged(format!("value {index} is neither made nor asked for"))),
        };
        let tensor = values.tensor(place, index)?;
        if tensor.constant.is_some() || !tensor.dynamic {
            return Err(place
                .clone()
                .unsupported(format!("value {index}: an argument that is constant or of fixed size")));
        }
        arguments.push((argument, tensor));
    }
    if let Some(index) = made.keys().filter(|index| !seen.contains(index)).min() {
        return Err(place.clone().damaged(format!("nothing makes the output, value {index}")));
    }
    Ok(arguments)
}
