//! Method `forward`: embeddings, then one delegate. Inputs and outputs get their roles by their order.

use std::collections::HashMap;
use std::ops::Range;

use diffulex_compiler::ir::{CacheId, CacheKind, CacheShape, Encoding, Sizes};

use super::calls::{delegate_arguments, embedding};
use super::error::{Fault, Place, Result};
use super::file::File;
use super::tensor::{Tensor, Values, check_arenas};
use crate::xnnpack::schema::constants::{BACKEND, LOCATION_SEGMENT, MAX_EXTERNS, SCALAR_FLOAT, SCALAR_LONG};
use crate::xnnpack::schema::program::{ExecutionPlanRef, InstructionArgumentsRef};

/// Inputs before the caches.
const LEADING: usize = 3;
/// Largest bound of T and of C.
const MAX_BOUND: u32 = 1 << 24;

/// What a step reads ids from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ids {
    /// Input `tokens`.
    Tokens,
    /// Input `positions`.
    Positions,
}

/// A constant table and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// The name that the file gives it.
    pub(super) name: Option<String>,
    /// How its numbers are stored.
    pub(super) encoding: Encoding,
    /// Rows and columns.
    pub(super) shape: [u32; 2],
    /// The bytes of its numbers in the file.
    pub(super) range: Range<usize>,
    /// The bytes of its scales.
    pub(super) scales: Range<usize>,
}

/// What the delegate is given or makes.
#[derive(Clone, Debug)]
pub(super) enum Argument {
    /// Rows of a table.
    Embedding(Ids, Table),
    /// Input `mask`.
    Mask,
    /// Input `rows`: which rows get logits.
    Rows,
    /// The committed rows of a cache.
    Cache(CacheId),
    /// The logits.
    Logits,
    /// New rows of a cache.
    NewRows(CacheId),
}

/// Method `forward`, understood.
pub(super) struct Plan {
    pub(super) bounds: Sizes,
    pub(super) cache: CacheShape,
    /// What each argument of the delegate is, with its sizes.
    pub(super) arguments: Vec<(Argument, Tensor)>,
    /// The delegate's bytes in the file.
    pub(super) delegate: Range<usize>,
}

/// Reads method `forward`.
pub(super) fn read(file: &File<'_>, plan: &ExecutionPlanRef<'_>) -> Result<Plan> {
    let values = Values::new(plan)?;
    let (bounds, cache, mut roles) = inputs(plan, &values)?;
    let made = outputs(plan, cache)?;

    let place = Place::Method("forward".into());
    let chains = place.need("chains", plan.chains())?;
    if chains.len() != 1 {
        return Err(place.unsupported(format!("{} chains", chains.len())));
    }
    let chain = place.got(chains.get(0).ok_or_else(|| place.clone().damaged("no chain"))?)?;
    let instructions = place.need("instructions", chain.instructions())?;
    place.at_most("instructions", instructions.len() as u64, MAX_EXTERNS as u64)?;
    let mut arguments = None;
    for (i, instruction) in instructions.iter().enumerate() {
        let place = Place::Instruction(i);
        if arguments.is_some() {
            return Err(place.unsupported("an instruction after the delegate"));
        }
        match place.need("instr_args", place.got(instruction)?.instr_args())? {
            InstructionArgumentsRef::KernelCall(call) => {
                let (out, role) = embedding(file, plan, &values, &roles, &place, &call)?;
                if roles.insert(out, role).is_some() {
                    return Err(place.fault(Fault::Twice(format!("an assignment to value {out}"))));
                }
            }
            InstructionArgumentsRef::DelegateCall(call) => {
                arguments = Some(delegate_arguments(&values, &roles, &made, &place, &call)?);
            }
            _ => return Err(place.unsupported("an instruction other than kernel and delegate calls")),
        }
    }
    let arguments = arguments.ok_or_else(|| place.damaged("calls no delegate"))?;
    check_arenas(plan, arguments.iter().map(|(_, tensor)| tensor))?;
    Ok(Plan { bounds, cache, arguments, delegate: delegate(file, plan)? })
}

/// What a value of the plan is, once that is known.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// Ids for embeddings.
    Ids(Ids),
    /// Something for the delegate.
    Given(Argument),
}

/// What the values of the plan are.
pub(super) type Roles = HashMap<i32, Role>;

/// `tokens`, `positions`, `mask`, `rows` or not, `k.0`, `v.0`, `k.1` …; their sizes are the bounds.
fn inputs(plan: &ExecutionPlanRef<'_>, values: &Values<'_>) -> Result<(Sizes, CacheShape, Roles)> {
    let place = Place::Method("forward".into());
    let inputs = place.need("inputs", plan.inputs())?;
    // Caches come in pairs: one input more is `rows`.
    let leading = LEADING + usize::from(inputs.len().is_multiple_of(2));
    let caches = inputs.len().wrapping_sub(leading);
    if inputs.len() < leading + 2 || inputs.len() > MAX_EXTERNS {
        let what = format!("a step of {} inputs: tokens, positions, mask, then k and v of each layer", inputs.len());
        return Err(place.unsupported(what));
    }
    let mut tensors = Vec::new();
    let mut roles = Roles::new();
    for (i, index) in inputs.iter().enumerate() {
        let place = Place::Input(i);
        let tensor = values.tensor(&place, index)?;
        if tensor.constant.is_some() {
            return Err(place.damaged("is a constant"));
        }
        let role = match i {
            0 => Role::Ids(Ids::Tokens),
            1 => Role::Ids(Ids::Positions),
            2 => Role::Given(Argument::Mask),
            LEADING if leading > LEADING => Role::Given(Argument::Rows),
            _ => Role::Given(Argument::Cache(cache_id(i - leading))),
        };
        if roles.insert(index, role).is_some() {
            return Err(place.fault(Fault::Twice(format!("value {index}"))));
        }
        tensors.push(tensor);
    }
    let &[1, t] = &tensors[0].sizes[..] else {
        return Err(Place::Input(0).mismatch("sizes", format!("{:?}", tensors[0].sizes), "[1, T]"));
    };
    let &[1, kv_heads, c, head_dim] = &tensors[leading].sizes[..] else {
        return Err(Place::Input(leading).mismatch("sizes", format!("{:?}", tensors[leading].sizes), "[1, KV, C, D]"));
    };
    let r = if leading > LEADING { t } else { 0 };
    Place::Input(0).at_most("sizes", t.max(c).into(), MAX_BOUND.into())?;
    for (i, tensor) in tensors.iter().enumerate() {
        let (scalar, sizes) = match i {
            0 | 1 => (SCALAR_LONG, vec![1, t]),
            2 => (SCALAR_FLOAT, vec![1, 1, t, c + t]),
            LEADING if leading > LEADING => (SCALAR_FLOAT, vec![1, r, t]),
            _ => (SCALAR_FLOAT, vec![1, kv_heads, c, head_dim]),
        };
        tensor.expect(&Place::Input(i), scalar, &sizes)?;
        if !tensor.dynamic {
            return Err(Place::Input(i).unsupported("a step of fixed size"));
        }
    }
    let bounds = Sizes { t: t as usize, c: c as usize, r: r as usize };
    Ok((bounds, CacheShape { layers: caches as u32 / 2, kv_heads, head_dim }, roles))
}

/// Logits, then new rows of `k.0`, `v.0`, `k.1` …
fn outputs(plan: &ExecutionPlanRef<'_>, cache: CacheShape) -> Result<HashMap<i32, Argument>> {
    let place = Place::Method("forward".into());
    let outputs = place.need("outputs", plan.outputs())?;
    let expected = 1 + 2 * cache.layers as usize;
    if outputs.len() != expected {
        return Err(place.mismatch("outputs", outputs.len(), expected));
    }
    let mut made = HashMap::new();
    for (i, index) in outputs.iter().enumerate() {
        let role = i.checked_sub(1).map_or(Argument::Logits, |i| Argument::NewRows(cache_id(i)));
        if made.insert(index, role).is_some() {
            return Err(Place::Output(i).fault(Fault::Twice(format!("value {index}"))));
        }
    }
    Ok(made)
}

fn cache_id(i: usize) -> CacheId {
    CacheId { layer: i as u32 / 2, kind: if i.is_multiple_of(2) { CacheKind::K } else { CacheKind::V } }
}

/// The bytes of the one delegate.
fn delegate(file: &File<'_>, plan: &ExecutionPlanRef<'_>) -> Result<Range<usize>> {
    let place = Place::Delegate;
    let delegates = place.need("delegates", plan.delegates())?;
    let (1, Some(delegate)) = (delegates.len(), delegates.get(0)) else {
        return Err(place.unsupported(format!("{} delegates in one method", delegates.len())));
    };
    let delegate = place.got(delegate)?;
    let id = place.text("id", delegate.id())?;
    if id != BACKEND {
        return Err(place.unsupported(format!("the backend {id:?}")));
    }
    let processed = place.need("processed", delegate.processed())?;
    if place.got(processed.location())? != LOCATION_SEGMENT {
        return Err(place.unsupported("a delegate inside the program's flatbuffer"));
    }
    file.segment(&place, place.got(processed.index())?.into())
}
