//! Numbers as a file stores them: the host has f32, a file may want halves or integers on a grid.

use half::f16;

/// What of a cache the file does not tell: scale and zero point of its integers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CacheGrid {
    /// Distance of two neighbors.
    pub scale: f32,
    /// The integer that stands for 0.
    pub zero: i32,
}

impl CacheGrid {
    /// What floats use: it changes nothing.
    pub(crate) const NONE: CacheGrid = CacheGrid { scale: 1.0, zero: 0 };
}

/// Type of the numbers of one input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    F16,
    I32,
    U8,
    I8,
    U16,
    I16,
}

impl Element {
    /// Smallest and greatest of the integers that a cache may hold; nothing for other types.
    pub(crate) fn integers(self) -> Option<(i32, i32)> {
        match self {
            Element::U8 => Some((0, 255)),
            Element::I8 => Some((-128, 127)),
            Element::U16 => Some((0, 65535)),
            Element::I16 => Some((-32768, 32767)),
            Element::F32 | Element::F16 | Element::I32 => None,
        }
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, Element::F32 | Element::F16)
    }
}

/// A number as a file stores it. Integers are `clamp(round_half_even(x / scale) + zero)` and mean `(q - zero) * scale`,
/// as ONNX defines `QuantizeLinear` and `DequantizeLinear`; a NaN becomes the integer 0.
pub(crate) trait Stored: Copy + Default + Send + Sync {
    fn store(x: f32, grid: CacheGrid) -> Self;
    fn load(self, grid: CacheGrid) -> f32;
}

impl Stored for f32 {
    fn store(x: f32, _: CacheGrid) -> Self {
        x
    }
    fn load(self, _: CacheGrid) -> f32 {
        self
    }
}

impl Stored for f16 {
    fn store(x: f32, _: CacheGrid) -> Self {
        f16::from_f32(x)
    }
    fn load(self, _: CacheGrid) -> f32 {
        self.to_f32()
    }
}

macro_rules! stored {
    ($($integer:ty),+) => {$(
        impl Stored for $integer {
            fn store(x: f32, grid: CacheGrid) -> Self {
                // `as` clamps to the type. The sum is exact where it is not beyond the type anyway.
                ((x / grid.scale).round_ties_even() + grid.zero as f32) as $integer
            }
            fn load(self, grid: CacheGrid) -> f32 {
                (i32::from(self) - grid.zero) as f32 * grid.scale
            }
        }
    )+};
}
stored!(u8, i8, u16, i16);

/// The numbers of one input.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tensor {
    F32(Vec<f32>),
    F16(Vec<f16>),
    I32(Vec<i32>),
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
}

/// Evaluates `$body` with `$data` being the numbers of a [`Tensor`] that has floats or integers on a grid.
macro_rules! with_numbers {
    ($tensor:expr, $data:ident => $body:expr) => {
        match $tensor {
            $crate::step_file::tensor::Tensor::F32($data) => $body,
            $crate::step_file::tensor::Tensor::F16($data) => $body,
            $crate::step_file::tensor::Tensor::U8($data) => $body,
            $crate::step_file::tensor::Tensor::I8($data) => $body,
            $crate::step_file::tensor::Tensor::U16($data) => $body,
            $crate::step_file::tensor::Tensor::I16($data) => $body,
            // Only token ids are plain integers, and nobody stores floats there.
            $crate::step_file::tensor::Tensor::I32(_) => {}
        }
    };
}
pub(super) use with_numbers;

impl Tensor {
    /// No numbers yet, but memory for `room` of them.
    ///
    /// # Errors
    /// Says so when there is not that much.
    pub(crate) fn with_room(element: Element, room: usize) -> Result<Self, String> {
        match element {
            Element::F32 => reserved(room).map(Tensor::F32),
            Element::F16 => reserved(room).map(Tensor::F16),
            Element::I32 => reserved(room).map(Tensor::I32),
            Element::U8 => reserved(room).map(Tensor::U8),
            Element::I8 => reserved(room).map(Tensor::I8),
            Element::U16 => reserved(room).map(Tensor::U16),
            Element::I16 => reserved(room).map(Tensor::I16),
        }
    }
}

fn reserved<T>(room: usize) -> Result<Vec<T>, String> {
    let mut numbers = Vec::new();
    numbers.try_reserve_exact(room).map_err(|_| format!("there is no memory for {room} numbers of one input"))?;
    Ok(numbers)
}
