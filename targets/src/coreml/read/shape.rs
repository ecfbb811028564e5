//! Reshapes and slices, whose shapes in the program hold numbers where the IR has T and C.

use diffulex_compiler::ir::{Dim, NodeId, Op, Operand};

use super::constant::UNKNOWN;
use super::error::{Place, Result};
use super::lift::Lift;

impl Lift<'_> {
    /// The shape of a reshape in terms of T and C. At most one axis of the operand depends on them, and one of the result
    /// does then: the one behind which as many numbers lie as behind the other; where that holds for several, because
    /// some are 1, the one at the same place, else the last. Where shapes differ from step to step, it is the axis that is
    /// inferred.
    pub(super) fn reshape(&mut self, place: &Place, sizes: &[i32], x: NodeId) -> Result<NodeId> {
        let from = self.builder.module().node(x).ty.shape.clone();
        let numbers = self.at_bounds(place, &from)?;
        let (sizes, inferred) = self.inferred(place, sizes, &from, &numbers)?;
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
            let axis = match inferred {
                Some(axis) => Some(axis).filter(fits),
                None => Some(open).filter(|axis| *axis < sizes.len() && fits(axis)),
            };
            let axis = axis.or_else(|| (0..sizes.len()).rev().find(|axis| inferred.is_none() && fits(axis)));
            let axis = axis.ok_or_else(|| place.unsupported("a reshape that mixes tokens with something else"))?;
            shape[axis] = self.grown(from[open], numbers[open], sizes[axis]).unwrap_or_default();
        }
        self.build(place, Op::Reshape { shape }, [Operand::Node(x)])
    }

    /// The sizes of a reshape at the bounds, and the axis that is inferred: the one that is unknown, if there is one.
    fn inferred(
        &self,
        place: &Place,
        sizes: &[i32],
        from: &[Dim],
        numbers: &[u32],
    ) -> Result<(Vec<u32>, Option<usize>)> {
        let unknown = from.iter().filter(|dim| self.is_unknown(**dim)).count();
        let inferred: Vec<usize> = (0..sizes.len()).filter(|axis| sizes[*axis] == -1).collect();
        if unknown > 1 || inferred.len() != unknown {
            return Err(place.unsupported("a reshape that does not infer just what is unknown"));
        }
        let known = sizes.iter().filter(|n| **n != -1).map(|&n| u32::try_from(n).ok().filter(|&n| n > 0));
        let known = known.collect::<Option<Vec<u32>>>().ok_or_else(|| place.unsupported("a reshape like this"))?;
        let product = |list: &[u32]| list.iter().try_fold(1u64, |all, &n| all.checked_mul(u64::from(n)));
        let rest = match (product(numbers), product(&known)) {
            (Some(all), Some(known)) => u32::try_from(all / known).ok(),
            _ => None,
        };
        let rest = rest.ok_or_else(|| place.unsupported("a reshape of this size"))?;
        let size = |&n: &i32| u32::try_from(n).unwrap_or(rest);
        Ok((sizes.iter().map(size).collect(), inferred.first().copied()))
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

    /// One slice for each axis that is cut; the end of one of unknown size is [`UNKNOWN`].
    pub(super) fn slice(&mut self, place: &Place, begin: &[u32], end: &[u32], x: NodeId) -> Result<NodeId> {
        let mut made = x;
        let shape = self.builder.module().node(x).ty.shape.clone();
        for (axis, dim) in shape.into_iter().enumerate() {
            let (start, end) = (begin[axis], end[axis]);
            let whole = if self.is_unknown(dim) { Some(UNKNOWN) } else { self.size(dim) };
            if start == 0 && whole == Some(end) {
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
