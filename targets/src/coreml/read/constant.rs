//! Types and constants of the program.

use std::fmt;

use super::error::{Place, Result};
use crate::coreml::schema::MAX_RANK;
use crate::coreml::schema::program::{
    Content, DataType, Extent, ImmediateValue, NamedValueType, Numbers, TensorValue, Value, ValueKind, ValueType,
};

/// Most numbers of a tensor.
const MAX_NUMBERS: u64 = 1 << 40;
/// Most numbers of a constant in the program itself: it is copied wherever it is used.
const MAX_IMMEDIATE: u64 = 1 << 6;
/// The size of an axis that differs from step to step.
pub(super) const UNKNOWN: u32 = 0;
/// Longest name.
const MAX_NAME: u64 = 256;

/// The type of a tensor.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Type {
    /// Element type.
    pub(super) dtype: DataType,
    /// Axes, some of them [`UNKNOWN`]; none for a scalar.
    pub(super) shape: Vec<u32>,
}

/// `fp16[1, ?, 32]`.
impl fmt::Debug for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |&n: &u32| if n == UNKNOWN { "?".to_string() } else { n.to_string() };
        let sizes: Vec<String> = self.shape.iter().map(size).collect();
        write!(f, "{}[{}]", self.dtype.name(), sizes.join(", "))
    }
}

/// A constant.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Constant {
    /// Whole numbers.
    Ints(Vec<i32>),
    /// Truth values.
    Bools(Vec<bool>),
    /// A text.
    Text(String),
    /// A number.
    Number(f32),
    /// A byte of zero, the zero point of symmetric weights.
    ZeroByte,
    /// Numbers in the weight file: the file and the offset of the record.
    Blob(String, u64),
}

impl Type {
    /// Numbers in all; those of a constant are known.
    pub(super) fn count(&self) -> u64 {
        // `read` has seen that it does not overflow.
        self.shape.iter().map(|&n| u64::from(n)).product()
    }

    /// The type of a tensor.
    pub(super) fn read(place: &Place, ty: Option<&ValueType>) -> Result<Type> {
        let Some(ValueKind::Tensor(tensor)) = ty.and_then(|ty| ty.kind.as_ref()) else {
            return Err(place.unsupported("a value that is no tensor"));
        };
        let dtype = DataType::try_from(tensor.data_type).ok().filter(|dtype| *dtype != DataType::Unused);
        let dtype =
            dtype.ok_or_else(|| place.unsupported(format!("element type {} of the program", tensor.data_type)))?;
        place.same("rank", tensor.rank, tensor.dimensions.len() as i64)?;
        place.at_most("rank", tensor.dimensions.len() as u64, MAX_RANK as u64)?;
        let mut shape = Vec::new();
        for dimension in &tensor.dimensions {
            shape.push(match dimension.extent {
                Some(Extent::Constant(constant)) => axis(place, constant.size)?,
                Some(Extent::Unknown(unknown)) if !unknown.variadic => UNKNOWN,
                _ => return Err(place.unsupported("an axis like this")),
            });
        }
        Type { dtype, shape }.checked(place)
    }

    /// Fails where there are too many numbers.
    pub(super) fn checked(self, place: &Place) -> Result<Type> {
        let count = self.shape.iter().try_fold(1u64, |count, &n| count.checked_mul(u64::from(n.max(1))));
        place.at_most("number of elements", count.unwrap_or(u64::MAX), MAX_NUMBERS)?;
        Ok(self)
    }
}

/// The size of an axis, which is not empty.
pub(super) fn axis(place: &Place, size: u64) -> Result<u32> {
    if size == 0 {
        return Err(place.damaged("an axis of 0"));
    }
    place.at_most("size of an axis", size, i32::MAX as u64).map(|n| n as u32)
}

/// The name of a value: a letter or `_`, then letters, digits, `_` and `@`.
pub(super) fn identifier<'a>(place: &Place, name: &'a str) -> Result<&'a str> {
    place.at_most("length of a name", name.len() as u64, MAX_NAME)?;
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let fits = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'@'));
    if starts && fits { Ok(name) } else { Err(place.damaged(format!("{name:?} is no identifier"))) }
}

/// Name and type of a value.
pub(super) fn named<'a>(place: &Place, value: &'a NamedValueType) -> Result<(&'a str, Type)> {
    Ok((identifier(place, &value.name)?, Type::read(place, value.r#type.as_ref())?))
}

impl Constant {
    /// A constant with its type; immediate numbers stand in the field of their type, as many as there should be.
    pub(super) fn read(place: &Place, value: &Value) -> Result<(Type, Constant)> {
        let ty = Type::read(place, value.r#type.as_ref())?;
        if ty.shape.contains(&UNKNOWN) {
            return Err(place.damaged("a constant of unknown size"));
        }
        if !value.doc_string.is_empty() {
            return Err(place.unsupported("a constant with a text beside it"));
        }
        let constant = match &value.content {
            Some(Content::BlobFile(blob)) => Constant::Blob(blob.file_name.clone(), blob.offset),
            Some(Content::Immediate(ImmediateValue { tensor: Some(TensorValue { numbers: Some(numbers) }) })) => {
                place.at_most("number of elements", ty.count(), MAX_IMMEDIATE)?;
                Constant::immediate(place, &ty, numbers)?
            }
            _ => return Err(place.missing("value of a known kind")),
        };
        Ok((ty, constant))
    }

    fn immediate(place: &Place, ty: &Type, numbers: &Numbers) -> Result<Constant> {
        let count = |found: usize| place.same("number of elements", found as u64, ty.count());
        Ok(match (ty.dtype, numbers) {
            (DataType::Int32, Numbers::Ints(ints)) => {
                count(ints.values.len())?;
                Constant::Ints(ints.values.clone())
            }
            (DataType::Bool, Numbers::Bools(bools)) => {
                count(bools.values.len())?;
                Constant::Bools(bools.values.clone())
            }
            (DataType::String, Numbers::Strings(texts)) => {
                count(texts.values.len())?;
                let text = texts.values.first().filter(|_| ty.shape.is_empty());
                let text = text.ok_or_else(|| place.unsupported("a list of texts"))?;
                place.at_most("length of a text", text.len() as u64, MAX_NAME)?;
                Constant::Text(text.clone())
            }
            (DataType::Float32, Numbers::Floats(floats)) => {
                count(floats.values.len())?;
                let number = floats.values.first().filter(|number| ty.shape.is_empty() && number.is_finite());
                Constant::Number(*number.ok_or_else(|| place.unsupported("numbers outside the weight file"))?)
            }
            (DataType::Float16, Numbers::Bytes(bytes)) => {
                place.same("number of bytes", bytes.values.len() as u64, 2 * ty.count())?;
                let number = super::half(&bytes.values).filter(|number| ty.shape.is_empty() && number.is_finite());
                Constant::Number(number.ok_or_else(|| place.unsupported("numbers outside the weight file"))?)
            }
            (DataType::Int8, Numbers::Bytes(bytes)) if bytes.values == [0] && ty.shape.is_empty() => Constant::ZeroByte,
            (dtype, _) => return Err(place.unsupported(format!("an immediate {} like this", dtype.name()))),
        })
    }
}
