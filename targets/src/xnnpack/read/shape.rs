//! Reshapes and slices, whose shapes in the file hold numbers where the IR has T and C.

use diffulex_compiler::ir::{Dim, Op, Operand};

use super::error::{Place, Result};
use super::lift::Lift;

impl Lift<'_> {
    /// The shape of a reshape in terms of T and C: at most one axis of the operand depends on them, and the axis that is
    /// inferred, where there is one, takes what the others leave.
    pub(super) fn reshape(&mut self, place: &Place, shape: &[u32], x: Operand) -> Result<Operand> {
        let from = self.builder.module().operand_type(x);
        let too_large = || place.clone().damaged("a reshape of too many numbers");
        let mut total = Dim::fixed(1);
        for dim in &from.shape {
            total = match (total.known(), dim.known()) {
                (_, Some(n)) => total.times(n),
                (Some(n), None) => dim.times(n),
                (None, None) => return Err(place.clone().unsupported(format!("a reshape of {from}"))),
            }
            .ok_or_else(too_large)?;
        }
        let known = shape.iter().filter(|&&n| n > 0).try_fold(1u32, |product, &n| product.checked_mul(n));
        let known = known.ok_or_else(too_large)?;
        if shape.iter().filter(|&&n| n == 0).count() > 1 {
            return Err(place.clone().damaged("two inferred axes"));
        }
        let rest =
            quotient(total, known).ok_or_else(|| place.clone().damaged(format!("{from} cannot become {shape:?}")))?;
        let shape: Vec<Dim> = shape.iter().map(|&n| if n == 0 { rest } else { Dim::fixed(n) }).collect();
        self.build(place, Op::Reshape { shape }, [x]).map(Operand::Node)
    }

    /// One slice for each axis that is cut.
    pub(super) fn slice(&mut self, place: &Place, offsets: &[u32], sizes: &[u32], x: Operand) -> Result<Operand> {
        let from = self.builder.module().operand_type(x).shape;
        if offsets.len() != from.len() || sizes.len() != from.len() {
            return Err(place.clone().mismatch("num_dims", offsets.len(), from.len()));
        }
        let mut made = x;
        for (axis, ((&start, &size), dim)) in offsets.iter().zip(sizes).zip(from).enumerate() {
            if start == 0 && (size == 0 || dim.known() == Some(size)) {
                continue;
            }
            let Some(all) = dim.known() else {
                return Err(place.clone().unsupported(format!("a cut of axis {axis}, which depends on the step")));
            };
            let end = if size == 0 { Some(all) } else { start.checked_add(size) };
            let end = end.ok_or_else(|| place.clone().damaged("a slice that ends nowhere"))?;
            made = self.build(place, Op::Slice { axis: axis as u32, start, end }, [made])?.into();
        }
        Ok(made)
    }
}

/// `total / n`, if it comes out even.
fn quotient(total: Dim, n: u32) -> Option<Dim> {
    let part = |k: u32| k.is_multiple_of(n).then_some(k / n);
    if n == 0 {
        return None;
    }
    Some(Dim { c: part(total.c)?, t: part(total.t)?, r: part(total.r)?, n: part(total.n)? })
}
