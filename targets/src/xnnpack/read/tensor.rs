//! Values of method `forward` that are tensors.

use planus::Vector;

use super::error::{Place, Result};
use crate::xnnpack::schema::constants::{
    MAX_RANK, SCALAR_BFLOAT16, SCALAR_BYTE, SCALAR_CHAR, SCALAR_FLOAT, SCALAR_HALF, SCALAR_LONG, SHAPE_DYNAMIC_BOUND,
    SHAPE_STATIC,
};
use crate::xnnpack::schema::program::{EValueRef, ExecutionPlanRef, KernelTypesRef, TensorRef};

/// A tensor of the program.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    /// `ScalarType`.
    pub(super) scalar: i8,
    /// Sizes, or their upper bounds.
    pub(super) sizes: Vec<u32>,
    /// The sizes are upper bounds.
    pub(super) dynamic: bool,
    /// Index into the constant segment.
    pub(super) constant: Option<u32>,
    /// Arena and offset.
    planned: Option<(u32, u64)>,
    /// The name that the file gives it.
    pub(super) name: Option<String>,
}

/// The values of a plan, read one by one when something refers to them.
pub(super) struct Values<'a>(Vector<'a, planus::Result<EValueRef<'a>>>);

impl<'a> Values<'a> {
    pub(super) fn new(plan: &ExecutionPlanRef<'a>) -> Result<Values<'a>> {
        Place::Method("forward".into()).need("values", plan.values()).map(Values)
    }

    /// Whether the value that `place` refers to is absent on purpose.
    pub(super) fn is_null(&self, place: &Place, index: i32) -> Result<bool> {
        Ok(matches!(self.value(place, index)?, KernelTypesRef::Null(_)))
    }

    /// The tensor that `place` refers to.
    pub(super) fn tensor(&self, place: &Place, index: i32) -> Result<Tensor> {
        let place = (self.value(place, index)?, Place::PlanValue(index.into()));
        match place {
            (KernelTypesRef::Tensor(tensor), place) => Tensor::read(&place, &tensor),
            (_, place) => Err(place.damaged("is no tensor")),
        }
    }

    fn value(&self, place: &Place, index: i32) -> Result<KernelTypesRef<'a>> {
        let value = usize::try_from(index).ok().and_then(|i| self.0.get(i));
        let value = value.ok_or_else(|| place.clone().damaged(format!("there is no value {index}")))?;
        let place = Place::PlanValue(index.into());
        place.need("val", place.got(value)?.val())
    }
}

impl Tensor {
    fn read(place: &Place, tensor: &TensorRef<'_>) -> Result<Tensor> {
        let sizes = place.need("sizes", tensor.sizes())?;
        let order = place.need("dim_order", tensor.dim_order())?;
        place.at_most("sizes", sizes.len() as u64, MAX_RANK as u64)?;
        if order.len() != sizes.len() || order.iter().enumerate().any(|(i, &axis)| i != usize::from(axis)) {
            return Err(place.clone().unsupported("an order of axes other than 0, 1, 2, …"));
        }
        let size = |n: i32| match u32::try_from(n) {
            Ok(n) if n > 0 => Ok(n),
            _ => Err(place.clone().damaged(format!("a size of {n}"))),
        };
        let sizes = sizes.iter().map(size).collect::<Result<Vec<u32>>>()?;
        let scalar = place.got(tensor.scalar_type())?;
        if width(scalar).is_none() {
            return Err(place.clone().unsupported(format!("scalar type {scalar}")));
        }
        if place.got(tensor.storage_offset())? != 0 || place.got(tensor.layout())? != 0 {
            return Err(place.clone().unsupported("a storage offset or a layout other than strided"));
        }
        let dynamic = match place.got(tensor.shape_dynamism())? {
            SHAPE_STATIC => false,
            SHAPE_DYNAMIC_BOUND => true,
            other => return Err(place.clone().unsupported(format!("shape dynamism {other}"))),
        };
        let (planned, name) = (allocation(place, tensor)?, extra(place, tensor)?);
        let constant = match place.got(tensor.data_buffer_idx())? {
            0 => None,
            _ if planned.is_some() => return Err(place.clone().unsupported("state that starts from a constant")),
            index => Some(index),
        };
        let tensor = Tensor { scalar, sizes, dynamic, constant, planned, name };
        place.at_most("sizes", tensor.bytes(), i64::MAX as u64)?;
        Ok(tensor)
    }

    /// Bytes at the bounds; `u64::MAX` when that overflows.
    pub(super) fn bytes(&self) -> u64 {
        let width = width(self.scalar).unwrap_or(1);
        self.sizes.iter().fold(width, |bytes: u64, &n| bytes.saturating_mul(n.into()))
    }

    /// Checks type and sizes.
    pub(super) fn expect(&self, place: &Place, scalar: i8, sizes: &[u32]) -> Result<()> {
        if self.scalar != scalar {
            return Err(place.clone().mismatch("scalar_type", self.scalar, scalar));
        }
        if self.sizes != sizes {
            return Err(place.clone().mismatch("sizes", format!("{:?}", self.sizes), format!("{sizes:?}")));
        }
        Ok(())
    }
}

/// Bytes of a number.
pub(super) fn width(scalar: i8) -> Option<u64> {
    match scalar {
        SCALAR_BYTE | SCALAR_CHAR => Some(1),
        SCALAR_HALF | SCALAR_BFLOAT16 => Some(2),
        SCALAR_FLOAT => Some(4),
        SCALAR_LONG => Some(8),
        _ => None,
    }
}

fn allocation(place: &Place, tensor: &TensorRef<'_>) -> Result<Option<(u32, u64)>> {
    let Some(allocation) = place.got(tensor.allocation_info())? else { return Ok(None) };
    let low = u64::from(place.got(allocation.memory_offset_low())?);
    let high = u64::from(place.got(allocation.memory_offset_high())?);
    Ok(Some((place.got(allocation.memory_id())?, high << 32 | low)))
}

fn extra(place: &Place, tensor: &TensorRef<'_>) -> Result<Option<String>> {
    let Some(extra) = place.got(tensor.extra_tensor_info())? else { return Ok(None) };
    if place.got(extra.location())? != 0 || place.got(extra.device_type())? != 0 {
        return Err(place.clone().unsupported("a tensor outside this file or off the CPU"));
    }
    match place.got(extra.fully_qualified_name())? {
        None => Ok(None),
        Some(name) => place.text("fully_qualified_name", Ok(Some(name))).map(|name| Some(name.to_string())),
    }
}

/// Planned tensors lie inside their arenas, and those that live together do not overlap.
pub(super) fn check_arenas<'t>(plan: &ExecutionPlanRef<'_>, tensors: impl Iterator<Item = &'t Tensor>) -> Result<()> {
    let place = Place::Method("forward".into());
    let arenas = place.got(plan.non_const_buffer_sizes())?;
    let mut used = Vec::new();
    for tensor in tensors {
        let Some((arena, offset)) = tensor.planned else { continue };
        let size = arenas.filter(|_| arena > 0).and_then(|a| a.get(arena as usize));
        let size = size.ok_or_else(|| place.clone().damaged(format!("there is no arena {arena}")))?;
        let end = offset.saturating_add(tensor.bytes());
        place.at_most("non_const_buffer_sizes", end, u64::try_from(size).unwrap_or(0))?;
        used.push((arena, offset, end));
    }
    used.sort_unstable();
    match used.windows(2).find(|w| w[0].0 == w[1].0 && w[0].2 > w[1].1) {
        Some(w) => Err(place.damaged(format!("tensors at {} and {} of arena {} overlap", w[0].1, w[1].1, w[0].0))),
        None => Ok(()),
    }
}
