//! The elements of tensors, and which numbers a stored one holds.

use half::{bf16, f16};
use onnx_protobuf::TensorProto;

/// `TensorProto.DataType`, as far as rules tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    Bf16,
    U4,
    I4,
    U8,
    I8,
    U16,
    I16,
    I32,
    I64,
    Bool,
    /// Any other, by its number.
    Other(i32),
}

use Element::*;

impl Element {
    const NUMBERS: [(Element, i32, &str, u64); 12] = [
        (F32, 1, "float", 32),
        (U8, 2, "uint8", 8),
        (I8, 3, "int8", 8),
        (U16, 4, "uint16", 16),
        (I16, 5, "int16", 16),
        (I32, 6, "int32", 32),
        (I64, 7, "int64", 64),
        (Bool, 9, "bool", 8),
        (F16, 10, "float16", 16),
        (Bf16, 16, "bfloat16", 16),
        (U4, 21, "uint4", 4),
        (I4, 22, "int4", 4),
    ];

    /// Nothing for 0, which stands for an unknown one.
    pub(super) fn of(number: i32) -> Option<Element> {
        let known = Element::NUMBERS.iter().find(|(_, n, ..)| *n == number).map(|(element, ..)| *element);
        (number != 0).then_some(known.unwrap_or(Other(number)))
    }

    /// Its name in ONNX.
    pub(super) fn name(self) -> String {
        let known = Element::NUMBERS.iter().find(|(element, ..)| *element == self);
        known.map_or_else(|| format!("{self:?}"), |(_, _, name, _)| (*name).to_string())
    }

    /// Bits of one number; at least so many of those that are not known.
    pub(super) fn bits(self) -> u64 {
        Element::NUMBERS.iter().find(|(element, ..)| *element == self).map_or(4, |(.., bits)| *bits)
    }

    pub(super) fn is_float(self) -> bool {
        matches!(self, F32 | F16 | Bf16)
    }
}

/// What lies in a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range {
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Range {
    /// Whether nothing but this number lies there.
    pub(super) fn is_all(self, number: f64) -> bool {
        self.min == number && self.max == number
    }
}

/// How many numbers a tensor has; nothing if that is no number.
pub(super) fn count(tensor: &TensorProto) -> Option<u64> {
    tensor.dims.iter().try_fold(1u64, |all, &dim| all.checked_mul(u64::try_from(dim).ok()?))
}

/// The numbers of a list of sizes; none if they lie outside.
pub(super) fn sizes(tensor: &TensorProto) -> Vec<i64> {
    match (Element::of(tensor.data_type), &tensor.raw_data[..]) {
        (Some(I64), []) => tensor.int64_data.clone(),
        (Some(I64), bytes) => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        _ => vec![],
    }
}

/// Bytes of a tensor, packed.
pub(super) fn size(tensor: &TensorProto) -> u64 {
    let bits = Element::of(tensor.data_type).map_or(8, Element::bits);
    count(tensor).unwrap_or(u64::MAX).saturating_mul(bits).div_ceil(8)
}

/// The smallest and the largest number, given the bytes of a tensor that lies outside. Nothing if there are none, if one
/// is no number, or if there are more or fewer than the dimensions say.
pub(super) fn range(tensor: &TensorProto, external: Option<&[u8]>) -> Option<Range> {
    let element = Element::of(tensor.data_type)?;
    let (count, bytes) = (usize::try_from(count(tensor)?).ok()?, external.unwrap_or(&tensor.raw_data));
    let fields = match element {
        F32 => tensor.float_data.len(),
        I64 => tensor.int64_data.len(),
        // Two to a number, as in the bytes.
        U4 | I4 => count.min(tensor.int32_data.len().saturating_mul(2)),
        _ => tensor.int32_data.len(),
    };
    if external.is_none() && bytes.is_empty() {
        let nibbles =
            |f: fn(u8) -> f64| extremes(tensor.int32_data.iter().flat_map(|&n| pair(n as u8)).take(count).map(f));
        return match element {
            _ if fields != count => None,
            F32 => extremes(tensor.float_data.iter().map(|&x| f64::from(x))),
            F16 => extremes(tensor.int32_data.iter().map(|&n| f16::from_bits(n as u16).to_f64())),
            Bf16 => extremes(tensor.int32_data.iter().map(|&n| bf16::from_bits(n as u16).to_f64())),
            I64 => extremes(tensor.int64_data.iter().map(|&n| n as f64)),
            U4 => nibbles(f64::from),
            I4 => nibbles(signed),
            _ => extremes(tensor.int32_data.iter().map(|&n| f64::from(n))),
        };
    }
    if u64::try_from(bytes.len()).ok()? != size(tensor) {
        return None;
    }
    match element {
        F32 => extremes(bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b)))),
        F16 => extremes(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f64())),
        Bf16 => extremes(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f64())),
        U8 | Bool => extremes(bytes.iter().map(|&n| f64::from(n))),
        I8 => extremes(bytes.iter().map(|&n| f64::from(n as i8))),
        U16 => extremes(bytes.as_chunks().0.iter().map(|b| f64::from(u16::from_le_bytes(*b)))),
        I16 => extremes(bytes.as_chunks().0.iter().map(|b| f64::from(i16::from_le_bytes(*b)))),
        I32 => extremes(bytes.as_chunks().0.iter().map(|b| f64::from(i32::from_le_bytes(*b)))),
        I64 => extremes(bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64)),
        U4 => extremes(bytes.iter().flat_map(|&b| pair(b)).take(count).map(f64::from)),
        I4 => extremes(bytes.iter().flat_map(|&b| pair(b)).take(count).map(signed)),
        Other(_) => None,
    }
}

/// The two numbers of a byte, low bits first.
fn pair(byte: u8) -> [u8; 2] {
    [byte & 15, byte >> 4]
}

fn signed(nibble: u8) -> f64 {
    f64::from((nibble << 4) as i8 >> 4)
}

fn extremes(numbers: impl Iterator<Item = f64>) -> Option<Range> {
    let mut found: Option<Range> = None;
    for x in numbers {
        if x.is_nan() {
            return None;
        }
        let Range { min, max } = found.unwrap_or(Range { min: x, max: x });
        found = Some(Range { min: min.min(x), max: max.max(x) });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(element: i32, dims: &[i64], bytes: &[u8]) -> TensorProto {
        TensorProto { data_type: element, dims: dims.to_vec(), raw_data: bytes.to_vec(), ..Default::default() }
    }

    #[test]
    fn bytes_are_read_as_their_element() {
        for (element, dims, bytes, expected) in [
            (1, &[][..], &1.5f32.to_le_bytes()[..], Some((1.5, 1.5))),
            (1, &[], &f32::NAN.to_le_bytes(), None),
            (10, &[], &f16::from_f32(0.5).to_le_bytes(), Some((0.5, 0.5))),
            (3, &[2], &[0xff, 1], Some((-1.0, 1.0))),
            (2, &[2], &[0xff, 1], Some((1.0, 255.0))),
            (5, &[1], &[0xfe, 0xff], Some((-2.0, -2.0))),
            (22, &[3], &[0x8f, 0xf7], Some((-8.0, 7.0))),
            (21, &[3], &[0x8f, 0xf7], Some((7.0, 15.0))),
            (22, &[3], &[0], None),
            (2, &[2], &[1], None),
            (2, &[i64::MAX, i64::MAX], &[1], None),
            (2, &[-1], &[1], None),
            (2, &[0], &[], None),
            (0, &[1], &[1], None),
            (99, &[1], &[1], None),
        ] {
            let found = range(&stored(element, dims, bytes), None);
            assert_eq!(found, expected.map(|(min, max)| Range { min, max }), "{element} {dims:?} {bytes:?}");
        }
    }

    #[test]
    fn numbers_also_lie_in_fields_or_outside() {
        let ints = |element, numbers: &[i32]| TensorProto {
            data_type: element,
            dims: vec![2],
            int32_data: numbers.to_vec(),
            ..Default::default()
        };
        assert_eq!(range(&ints(3, &[-3, 4]), None), Some(Range { min: -3.0, max: 4.0 }));
        assert_eq!(range(&ints(3, &[-3]), None), None);
        assert_eq!(range(&ints(22, &[0x71]), None), Some(Range { min: 1.0, max: 7.0 }));
        assert_eq!(range(&stored(3, &[2], &[]), Some(&[5, 6])), Some(Range { min: 5.0, max: 6.0 }));
        assert_eq!(range(&stored(3, &[2], &[1, 2]), Some(&[5])), None);
    }
}
