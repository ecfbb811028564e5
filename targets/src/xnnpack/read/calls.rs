//! The instructions of method `forward`: lookups in tables, and the call of the delegate.

use std::collections::{HashMap, HashSet};

use super::error::{Fault, Place, Result};
use super::file::File;
use super::plan::{Argument, Role, Roles, Table};
use super::tensor::{Tensor, Values};
use crate::xnnpack::schema::constants::{MAX_EXTERNS, SCALAR_FLOAT, SCALAR_HALF};
use crate::xnnpack::schema::program::{DelegateCallRef, ExecutionPlanRef, KernelCallRef};

/// `aten::embedding.out(weight, indices, padding_idx, scale_grad_by_freq, sparse, out, out)`.
pub(super) fn embedding(
    file: &File<'_>,
    plan: &ExecutionPlanRef<'_>,
    values: &Values<'_>,
    roles: &Roles,
    place: &Place,
    call: &KernelCallRef<'_>,
) -> Result<(i32, Role)> {
    let operators = place.need("operators", plan.operators())?;
    let index = place.got(call.op_index())?;
    let operator = usize::try_from(index).ok().and_then(|i| operators.get(i));
    let operator =
        place.got(operator.ok_or_else(|| place.clone().damaged(format!("there is no operator {index}")))?)?;
    let name = place.text("Operator.name", operator.name())?;
    let overload = place.text("Operator.overload", operator.overload())?;
    if (name, overload) != ("aten::embedding", "out") {
        return Err(place.clone().unsupported(format!("the kernel `{name}.{overload}`")));
    }
    let args = place.need("args", call.args())?;
    let args: Vec<i32> = args.iter().take(8).collect();
    let &[weight, ids, _, _, _, out, again] = &args[..] else {
        return Err(place.clone().mismatch("args", format!("{} long", args.len()), "7 long"));
    };
    if out != again {
        return Err(place.clone().mismatch("args", format!("returning value {again}"), format!("value {out}")));
    }
    let Some(Role::Ids(ids)) = roles.get(&ids) else {
        return Err(place.clone().unsupported("an embedding of anything but tokens and positions"));
    };
    let table = table(file, values, place, weight)?;
    let tensor = values.tensor(place, out)?;
    let given = values.tensor(place, args[1])?;
    let &[one, t] = &given.sizes[..] else { return Err(place.clone().damaged("ids that are not [1, T]")) };
    tensor.expect(place, if table.half { SCALAR_HALF } else { SCALAR_FLOAT }, &[one, t, table.shape[1]])?;
    if !tensor.dynamic || tensor.constant.is_some() {
        return Err(place.clone().damaged("the rows are a constant or of fixed size"));
    }
    Ok((out, Role::Given(Argument::Embedding(*ids, table))))
}

fn table(file: &File<'_>, values: &Values<'_>, place: &Place, index: i32) -> Result<Table> {
    let tensor = values.tensor(place, index)?;
    let place = Place::PlanValue(index.into());
    let Some(constant) = tensor.constant else { return Err(place.unsupported("a table that is not constant")) };
    let &[rows, width] = &tensor.sizes[..] else {
        return Err(place.mismatch("sizes", format!("{:?}", tensor.sizes), "[rows, width]"));
    };
    let half = match tensor.scalar {
        SCALAR_FLOAT => false,
        SCALAR_HALF => true,
        other => return Err(place.unsupported(format!("a table of scalar type {other}"))),
    };
    let from = file.constant(&place, constant)?;
    let bytes = place.at_most("sizes", tensor.bytes(), from.len() as u64)?;
    let range = from.start..from.start + bytes;
    if !range.start.is_multiple_of(if half { 2 } else { 4 }) {
        return Err(place.damaged(format!("its bytes begin at {}, which is not aligned", range.start)));
    }
    Ok(Table { name: tensor.name, half, shape: [rows, width], range })
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
