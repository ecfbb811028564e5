//! What the description says of an array: element type, shape, and which other shapes it may have.

use diffulex_compiler::ir::{Dim, Sizes};

use super::constant::{Type, UNKNOWN, axis, identifier};
use super::error::{Place, Result};
use crate::coreml::Shapes;
use crate::coreml::schema::model::{ArrayFeatureType, FeatureDescription, FeatureKind, ShapeFlexibility};
use crate::coreml::schema::program::DataType;
use crate::coreml::schema::{MAX_LENGTHS, MAX_RANK};

/// A described input, output or state.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Feature {
    /// Element type, and the shape where nothing else is said. An output whose shape depends on the step has none.
    pub(super) ty: Type,
    /// Whether it is a state.
    pub(super) state: bool,
    /// The shapes that it may have.
    pub(super) shapes: Described,
}

/// The shapes that an array may have.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Described {
    /// One.
    One,
    /// For each axis the smallest and the largest size.
    Range(Vec<[u32; 2]>),
    /// A list.
    List(Vec<Vec<u32>>),
}

/// The numbers of tokens that the steps of one function may have.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lengths {
    /// How the function says so.
    pub(super) shapes: Shapes,
    /// The length where nothing else is said.
    pub(super) usual: u32,
    /// The lengths in the order of the description; of a range its ends.
    pub(super) all: Vec<u32>,
}

impl Feature {
    pub(super) fn read(feature: &FeatureDescription, state: bool) -> Result<Feature> {
        let place = Place::Feature(feature.name.clone());
        identifier(&place, &feature.name)?;
        let kind = feature.r#type.as_ref().filter(|ty| !ty.is_optional).and_then(|ty| ty.kind.as_ref());
        let array = match kind {
            Some(FeatureKind::MultiArray(array)) if !state => Some(array),
            Some(FeatureKind::State(kept)) if state => kept.array_type.as_ref(),
            _ => None,
        };
        let array = array.ok_or_else(|| place.unsupported("a feature that is no array"))?;
        Ok(Feature { ty: described(&place, array)?, state, shapes: Described::read(&place, array)? })
    }

    /// The type that the program declares for it: axes whose size differs are unknown there.
    pub(super) fn declared(&self) -> Type {
        let mut declared = self.ty.clone();
        for (i, size) in declared.shape.iter_mut().enumerate() {
            let differs = match &self.shapes {
                Described::One => false,
                Described::Range(ends) => ends[i][0] != ends[i][1],
                Described::List(list) => list.iter().any(|shape| shape[i] != *size),
            };
            if differs {
                *size = UNKNOWN;
            }
        }
        declared
    }

    /// What the description must say of an input of that shape. Sizes of a step are far from the largest number.
    pub(super) fn expected(dtype: DataType, dims: &[Dim], bounds: Sizes, lengths: &Lengths) -> Feature {
        let at = |tokens: u32| {
            let sizes = Sizes { t: tokens as usize, ..bounds };
            dims.iter().map(|dim| dim.at(sizes).map_or(0, |n| n as u32)).collect::<Vec<u32>>()
        };
        let varies = dims.iter().any(|dim| dim.t > 0);
        let shapes = match (lengths.shapes, &lengths.all[..]) {
            (Shapes::Range, &[low, high]) if varies => {
                Described::Range(at(low).into_iter().zip(at(high)).map(<[u32; 2]>::from).collect())
            }
            (Shapes::Enumerated, all) if varies => Described::List(all.iter().map(|&tokens| at(tokens)).collect()),
            _ => Described::One,
        };
        Feature { ty: Type { dtype, shape: at(lengths.usual) }, state: false, shapes }
    }
}

impl Described {
    fn read(place: &Place, array: &ArrayFeatureType) -> Result<Described> {
        let rank = array.shape.len();
        match &array.flexibility {
            None => Ok(Described::One),
            Some(ShapeFlexibility::Range(range)) => {
                place.same("number of ranges", range.size_ranges.len(), rank)?;
                let ends = range.size_ranges.iter().map(|range| {
                    let high =
                        u64::try_from(range.upper_bound).map_err(|_| place.unsupported("a range without end"))?;
                    Ok([axis(place, range.lower_bound)?, axis(place, high)?])
                });
                Ok(Described::Range(ends.collect::<Result<_>>()?))
            }
            Some(ShapeFlexibility::Enumerated(list)) => {
                place.at_most("number of shapes", list.shapes.len() as u64, MAX_LENGTHS as u64)?;
                let list = list.shapes.iter().map(|other| {
                    place.same("rank of a shape", other.shape.len(), rank)?;
                    sizes(place, &other.shape)
                });
                Ok(Described::List(list.collect::<Result<_>>()?))
            }
        }
    }
}

impl Lengths {
    /// Those that the first input tells, the tokens `[1, T]` or what was made of them, `[1, T, H]`: two or more, the usual
    /// one among them.
    pub(super) fn read(place: &Place, fed: &Feature) -> Result<Lengths> {
        let wrong = || place.mismatch("shape", &fed.ty, "[1, T] or [1, T, H]");
        let (&[_, usual] | &[_, usual, _]) = &fed.ty.shape[..] else { return Err(wrong()) };
        let (shapes, all, fits) = match &fed.shapes {
            Described::One => (Shapes::Static, vec![usual], true),
            Described::Range(ends) => {
                let [low, high] = ends[1];
                (Shapes::Range, vec![low, high], low < high && (low..=high).contains(&usual))
            }
            Described::List(list) => {
                let all: Vec<u32> = list.iter().map(|shape| shape[1]).collect();
                let mut sorted = all.clone();
                sorted.sort_unstable();
                sorted.dedup();
                let fits = sorted.len() == all.len() && all.len() > 1 && all.contains(&usual);
                (Shapes::Enumerated, all, fits)
            }
        };
        if !fits {
            return Err(place.damaged(format!("{:?} are no shapes of {:?}", fed.shapes, fed.ty)));
        }
        Ok(Lengths { shapes, usual, all })
    }
}

/// The type of a described array.
fn described(place: &Place, array: &ArrayFeatureType) -> Result<Type> {
    let dtype = match array.data_type {
        65552 => DataType::Float16,
        65568 => DataType::Float32,
        131_104 => DataType::Int32,
        other => return Err(place.unsupported(format!("element type {other} of features"))),
    };
    Type { dtype, shape: sizes(place, &array.shape)? }.checked(place)
}

fn sizes(place: &Place, shape: &[i64]) -> Result<Vec<u32>> {
    place.at_most("rank", shape.len() as u64, MAX_RANK as u64)?;
    shape.iter().map(|&n| axis(place, u64::try_from(n).unwrap_or(0))).collect()
}
