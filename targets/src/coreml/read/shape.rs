//! Reshapes and slices, whose shapes in the program hold numbers where the IR has T and C.

use diffulex_compiler::ir::{Dim, NodeId, Op, Operand};

use super::error::{Place, Result};
use super::lift::Lift;

impl Lift<'_> {
    /// The shape of a reshape in terms of T and C. At most one axis of the operand depends on them, and one of the result
    /// does then: the one behind which as many numbers lie as behind the other; where that holds for several, because
    /// some are 1, the one at the same place, else the last.
    pub(super) fn reshape(&mut self, place: &Place, sizes: &[i32], x: NodeId) -> Result<NodeId> {
        let from = self.builder.module().node(x).ty.shape.clone();
        let sizes: Option<Vec<u32>> = sizes.iter().map(|&n| u32::try_from(n).ok().filter(|&n| n > 0)).collect();
        let sizes = sizes.ok_or_else(|| place.unsupported("a reshape that infers an axis"))?;
        let numbers = self.at_bounds(place, &from)?;
        let behind = |sizes: &[u32], axis: usize| sizes[axis + 1..].iter().map(|&n| u64::from(n)).product::<u64>();
        let all = |sizes: &[u32]| sizes.iter().try_fold(1u64, |all, &n| all.checked_mul(u64::from(n)));
        if all(&sizes) != all(&numbers) || all(&sizes).is_none() {
            return Err(place.damaged(format!("{numbers:?} cannot become {sizes:?}")));
        }
        let mut shape: Vec<Dim> = sizes.iter().map(|&n| Dim::fixed(n)).collect();
        if let Some(open) = from.iter().position(|dim| dim.known().is_none()) {
            let fits = |axis: &usize| {
                behind(&sizes, *axis) == behind(&numbers, open)
                    && self.grown(from[open], numbers[open], sizes[*axis]).is_some()
            };
            let axis = Some(open).filter(|axis| *axis < sizes.len()).filter(fits);
            let axis = axis.or_else(|| (0..sizes.len()).rev().find(fits));
            let axis = axis.ok_or_else(|| place.unsupported("a reshape that mixes tokens with something else"))?;
            shape[axis] = self.grown(from[open], numbers[open], sizes[axis]).unwrap_or_default();
        }
        self.build(place, Op::Reshape { shape }, [Operand::Node(x)])
    }

    /// `dim`, whose size is `from`, times or divided by what makes its size `to`.
    fn grown(&self, dim: Dim, from: u32, to: u32) -> Option<Dim> {
        let grown = if to >= from {
            dim.times(to / from)?
        } else {
            let by = from / to;
            let part = |k: u32| k.is_multiple_of(by).then_some(k / by);
            Dim { c: part(dim.c)?, t: part(dim.t)?, r: part(dim.r)?, n: part(dim.n)? }
        };
        (self.size(grown) == Some(to)).then_some(grown)
    }

    /// One slice for each axis that is cut.
    pub(super) fn slice(&mut self, place: &Place, begin: &[u32], end: &[u32], x: NodeId) -> Result<NodeId> {
        let mut made = x;
        let shape = self.builder.module().node(x).ty.shape.clone();
        for (axis, dim) in shape.into_iter().enumerate() {
            let (start, end) = (begin[axis], end[axis]);
            if start == 0 && self.size(dim) == Some(end) {
                continue;
            }
            if dim.known().is_none() {
                return Err(place.unsupported(format!("a cut of axis {axis}, which depends on the step")));
            }
            made = self.build(place, Op::Slice { axis: axis as u32, start, end }, [Operand::Node(made)])?;
        }
        Ok(made)
    }
}
