//! Our ops inside the tract graph: how each reads its operands and which kernel it calls.
//!
//! All values of the graph are f32, as in the IR's interpreter: ids, positions and row numbers too, which are exact
//! below 2^24, and values of 16-bit types, which are rounded where they are made.

pub(super) mod attention;
pub(super) mod linear;
pub(super) mod lookup;
pub(super) mod matmul;
pub(super) mod rowwise;
pub(super) mod watch;

use std::fmt;
use std::sync::Arc;

use tract_core::internal::*;

/// What an op computes.
pub(super) trait Compute: fmt::Debug + Send + Sync + 'static {
    /// The name in tract's dumps and errors.
    fn name(&self) -> &'static str;
    /// The value, given the operands.
    fn compute(&self, args: &[View<'_>]) -> TractResult<Tensor>;
    /// Whether the value depends on the operands alone; one that reads the caches must not be folded away.
    fn pure(&self) -> bool {
        true
    }
}

/// An operand.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    /// Axes, outermost first.
    pub(super) shape: &'a [usize],
    /// The numbers.
    pub(super) data: &'a [f32],
}

impl View<'_> {
    /// The last axis.
    pub(super) fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The shape with another last axis.
    pub(super) fn with_width(&self, width: usize) -> TVec<usize> {
        let mut shape: TVec<usize> = self.shape.into();
        if let Some(last) = shape.last_mut() {
            *last = width;
        }
        shape
    }
}

/// A tensor of that shape, filled by `f`.
pub(super) fn tensor(shape: &[usize], f: impl FnOnce(&mut [f32]) -> TractResult<()>) -> TractResult<Tensor> {
    let mut tensor = Tensor::zero::<f32>(shape)?;
    f(tensor.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?)?;
    Ok(tensor)
}

/// One of our ops as tract sees it: opaque, with a known type.
#[derive(Clone, Debug)]
pub(super) struct Native {
    compute: Arc<dyn Compute>,
    fact: TypedFact,
}

impl Native {
    /// An op that makes a value of that type.
    pub(super) fn new(compute: impl Compute, fact: TypedFact) -> Native {
        Native { compute: Arc::new(compute), fact }
    }
}

impl PartialEq for Native {
    fn eq(&self, other: &Native) -> bool {
        Arc::ptr_eq(&self.compute, &other.compute)
    }
}

impl Eq for Native {}

impl Op for Native {
    fn name(&self) -> StaticName {
        self.compute.name().into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{:?}", self.compute)])
    }

    op_as_typed_op!();
}

impl EvalOp for Native {
    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let plain: TVec<_> = inputs.iter().map(|t| t.try_as_plain_ram()).collect::<TractResult<_>>()?;
        let views: TVec<View<'_>> = inputs
            .iter()
            .zip(&plain)
            .map(|(t, plain)| Ok(View { shape: t.shape(), data: plain.as_slice::<f32>()? }))
            .collect::<TractResult<_>>()?;
        Ok(tvec!(self.compute.compute(&views)?.into_tvalue()))
    }

    fn eval_out_of_plan(&self, inputs: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
        match self.compute.pure() {
            true => self.eval(&EvalContext::out_of_plan(), inputs).map(Some),
            false => Ok(None),
        }
    }
}

impl TypedOp for Native {
    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.fact.clone()))
    }

    as_op!();
}
