//! Whole numbers that stand for evenly spaced ones, with one scale and one zero point for a whole tensor: what static
//! quantization rounds values, tables and vectors to.
//!
//! A number `x` becomes `q = clamp(round_half_to_even(x / scale) + zero, least, most)` and reads back as
//! `(q - zero) * scale`, quotient and product rounded to f32. That is QuantizeLinear and DequantizeLinear of ONNX.
//!
//! ```
//! use diffulex_compiler::quant::{Grid, GridType};
//!
//! let grid = Grid::of((-1.0, 2.0), GridType::U8);
//! assert_eq!((grid.scale, grid.zero), (3.0 / 255.0, 85));
//! assert_eq!([grid.quantize(0.0), grid.quantize(-9.0), grid.quantize(2.0)], [85, 0, 255]);
//! assert_eq!(grid.round(0.0), 0.0);
//! ```

use crate::choice::choices;

choices! {
    /// Which whole numbers a grid has.
    GridType {
        /// 0 to 255.
        U8 = "uint8",
        /// -128 to 127.
        I8 = "int8",
        /// 0 to 65535.
        U16 = "uint16",
        /// -32768 to 32767.
        I16 = "int16",
    }
}

/// Evenly spaced numbers; 0 is always one of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// The whole numbers.
    pub ty: GridType,
    /// The distance of two neighbours: finite, above 0.
    pub scale: f32,
    /// The whole number that stands for 0.
    pub zero: i32,
}

impl GridType {
    /// Least and largest whole number.
    pub fn ends(self) -> (i32, i32) {
        match self {
            GridType::U8 => (0, 255),
            GridType::I8 => (-128, 127),
            GridType::U16 => (0, 65_535),
            GridType::I16 => (-32_768, 32_767),
        }
    }

    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            GridType::U8 | GridType::I8 => 1,
            GridType::U16 | GridType::I16 => 2,
        }
    }

    /// Whether negative numbers are among them.
    pub fn is_signed(self) -> bool {
        self.ends().0 < 0
    }
}

impl Grid {
    /// The grid over a range, which is widened to contain 0. Signed ones are symmetric: their zero point is 0.
    pub fn of((least, most): (f32, f32), ty: GridType) -> Grid {
        let (low, high) = ty.ends();
        let (least, most) = (f64::from(least).min(0.0), f64::from(most).max(0.0));
        let scale = match ty.is_signed() {
            true => most.max(-least) / f64::from(high),
            false => (most - least) / f64::from(high - low),
        };
        // Neither zero nor infinite, and so wide that no number of the grid overflows.
        let scale = (scale as f32).clamp(f32::MIN_POSITIVE, f32::MAX / 131_072.0);
        let zero = if ty.is_signed() { 0.0 } else { (-least / f64::from(scale)).round_ties_even() };
        Grid { ty, scale, zero: (zero as i32).clamp(low, high) }
    }

    /// Whether there is such a grid.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let (low, high) = self.ty.ends();
        if !(self.scale.is_finite() && self.scale > 0.0) {
            return Err(format!("scale {} is not above 0 or no number", self.scale));
        }
        match (low..=high).contains(&self.zero) {
            true => Ok(()),
            false => Err(format!("zero point {} is no {}", self.zero, self.ty)),
        }
    }

    /// The whole number that stands for `x`.
    #[inline(always)]
    pub fn quantize(&self, x: f32) -> i32 {
        let (low, high) = self.ty.ends();
        // The ends are whole, so clamping before rounding gives what clamping after it would, and nothing overflows.
        let (low, high) = ((low - self.zero) as f32, (high - self.zero) as f32);
        (x / self.scale).clamp(low, high).round_ties_even() as i32 + self.zero
    }

    /// The number that `q` stands for.
    #[inline(always)]
    pub fn dequantize(&self, q: i32) -> f32 {
        (q - self.zero) as f32 * self.scale
    }

    /// The number of the grid nearest to `x`.
    #[inline(always)]
    pub fn round(&self, x: f32) -> f32 {
        self.dequantize(self.quantize(x))
    }

    /// Least and largest number of the grid.
    pub fn range(&self) -> (f32, f32) {
        let (low, high) = self.ty.ends();
        (self.dequantize(low), self.dequantize(high))
    }

    /// Appends the whole numbers that stand for `numbers`, little-endian.
    pub fn encode(&self, numbers: &[f32], out: &mut Vec<u8>) {
        match self.ty.bytes() {
            1 => out.extend(numbers.iter().map(|&x| self.quantize(x) as u8)),
            _ => numbers.iter().for_each(|&x| out.extend_from_slice(&(self.quantize(x) as u16).to_le_bytes())),
        }
    }

    /// Appends the numbers that whole numbers stand for.
    pub fn decode(&self, bytes: &[u8], out: &mut Vec<f32>) {
        match self.ty {
            GridType::U8 => out.extend(bytes.iter().map(|&b| self.dequantize(b.into()))),
            GridType::I8 => out.extend(bytes.iter().map(|&b| self.dequantize((b as i8).into()))),
            GridType::U16 => {
                out.extend(bytes.as_chunks().0.iter().map(|b| self.dequantize(u16::from_le_bytes(*b).into())));
            }
            GridType::I16 => {
                out.extend(bytes.as_chunks().0.iter().map(|b| self.dequantize(i16::from_le_bytes(*b).into())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As the operators of ONNX have it, word by word, in f64 where that changes nothing.
    fn reference(grid: &Grid, x: f32) -> (i64, f32) {
        let (low, high) = grid.ty.ends();
        let quotient = f64::from(x / grid.scale);
        let (below, above) = (quotient.floor(), quotient.ceil());
        let rounded = match (quotient - below).total_cmp(&(above - quotient)) {
            std::cmp::Ordering::Less => below,
            std::cmp::Ordering::Greater => above,
            std::cmp::Ordering::Equal if below % 2.0 == 0.0 => below,
            std::cmp::Ordering::Equal => above,
        };
        let q = (rounded + f64::from(grid.zero)).clamp(f64::from(low), f64::from(high)) as i64;
        (q, (q - i64::from(grid.zero)) as f32 * grid.scale)
    }

    fn grids() -> impl Strategy<Value = Grid> {
        let ends = (prop::num::f32::NORMAL | prop::num::f32::ZERO, prop::num::f32::NORMAL | prop::num::f32::ZERO);
        (0..GridType::ALL.len(), ends).prop_map(|(ty, ends)| Grid::of(ends, GridType::ALL[ty]))
    }

    proptest! {
        #[test]
        fn as_the_reference(grid in grids(), x in prop::num::f32::NORMAL | prop::num::f32::ZERO, q in 0.0f32..1.0) {
            grid.check().unwrap();
            let (least, most) = grid.range();
            for x in [x, least + (most / 2.0 - least / 2.0) * 2.0 * q, grid.scale * 0.5, grid.scale * 1.5] {
                prop_assert_eq!((i64::from(grid.quantize(x)), grid.round(x)), reference(&grid, x));
            }
        }

        #[test]
        fn nothing_in_range_is_off_by_more_than_half_a_step(least in -1e4f32..=0.0, most in 0.0f32..1e4, at in 0.0f32..=1.0) {
            for &ty in GridType::ALL {
                let grid = Grid::of((least, most), ty);
                let x = least + (most - least) * at;
                // The zero point is rounded too, and so moves both ends.
                prop_assert!((grid.round(x) - x).abs() <= grid.scale * 1.01, "{grid:?} {x}");
            }
        }

        #[test]
        fn bytes_survive(grid in grids(), numbers in prop::collection::vec(-10.0f32..10.0, 0..20)) {
            let (mut bytes, mut back) = (vec![], vec![]);
            grid.encode(&numbers, &mut bytes);
            grid.decode(&bytes, &mut back);
            prop_assert_eq!(bytes.len(), numbers.len() * grid.ty.bytes());
            prop_assert_eq!(back, numbers.iter().map(|&x| grid.round(x)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn hidden_scores_become_the_least_number() {
        let grid = Grid::of((-50.0, 0.0), GridType::U16);
        assert_eq!((grid.zero, grid.quantize(-1e30), grid.round(0.0)), (65_535, 0, 0.0));
        assert_eq!(grid.round(f32::NEG_INFINITY), grid.range().0);
    }

    #[test]
    fn an_empty_range_has_a_grid() {
        for &ty in GridType::ALL {
            assert_eq!(Grid::of((0.0, 0.0), ty).round(0.0), 0.0);
        }
    }
}
