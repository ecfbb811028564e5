//! Inputs and outputs: those of a step, in the order in which they stand.

use diffulex_compiler::ir::{CacheId, CacheKind, CacheShape, Sizes};
use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::tensor_shape_proto::dimension::Value;
use onnx_protobuf::{GraphProto, ValueInfoProto, type_proto};

use super::error::{Place, Result};
use super::facts::Facts;
use crate::onnx::schema::{self, COS, DIMS, LOGITS, MASK, SIN, TOKENS};

/// Most inputs: those of a thousand layers.
const MAX_INPUTS: u64 = 4 + 2 * 1024;
/// Most cached positions or tokens.
const MAX_POSITIONS: u32 = 1 << 24;
/// Most axes of an input.
const MAX_AXES: u64 = 8;

/// What a step is given and gives.
pub(super) struct Step {
    /// The element type of floats.
    pub(super) float: DataType,
    /// Whether a file serves steps of any size.
    pub(super) dynamic: bool,
    /// T and C.
    pub(super) bounds: Sizes,
    /// Layers, heads and their width.
    pub(super) cache: CacheShape,
    /// The element type of each cache, in their order.
    caches: Vec<DataType>,
    /// Width of the logits.
    pub(super) vocab: u32,
}

/// A size, or its name.
#[derive(Clone, Debug, PartialEq)]
enum Size {
    Known(u32),
    Named(String),
}

impl Step {
    /// The step of a graph.
    pub(super) fn read(graph: &GraphProto, facts: &Facts) -> Result<Step> {
        let place = Place::Graph;
        place.at_most("number of inputs", graph.input.len() as u64, MAX_INPUTS)?;
        let given = graph.input.iter().map(read).collect::<Result<Vec<_>>>()?;
        let made = graph.output.iter().map(read).collect::<Result<Vec<_>>>()?;
        let shape = |i: usize, name: &str| {
            let found = given.get(i).filter(|(found, ..)| *found == name);
            found
                .map(|(_, dtype, shape)| (*dtype, shape))
                .ok_or_else(|| place.missing(format!("input {name:?} at {i}")))
        };
        let (_, tokens) = shape(0, TOKENS)?;
        let (_, cos) = shape(1, COS)?;
        let (float, mask) = shape(3, MASK)?;
        if !matches!(float, DataType::FLOAT | DataType::FLOAT16) {
            return Err(Place::value(MASK).unsupported(format!("{float:?}")));
        }
        let last = |name: &str, shape: &[Size]| match shape.last() {
            Some(Size::Known(n)) => Ok(*n),
            _ => Err(Place::value(name).damaged("its last axis has no size")),
        };
        let (t, all) = (tokens.get(1).cloned(), mask.get(3).cloned());
        let (dynamic, t, c) = match (t, all) {
            (Some(Size::Known(t)), Some(Size::Known(all))) => {
                (false, t, all.checked_sub(t).ok_or_else(|| Place::value(MASK).damaged("it hides fewer than T keys"))?)
            }
            (Some(Size::Named(_)), Some(Size::Named(_))) => {
                let (tokens, cache) = facts.bounds.ok_or_else(|| place.missing("bounds of tokens and cache"))?;
                (true, tokens, cache)
            }
            _ => return Err(place.unsupported("inputs of which some have sizes and some have not")),
        };
        if t == 0 || c == 0 || t.max(c) > MAX_POSITIONS {
            return Err(place.damaged(format!("{t} tokens and {c} cached positions")));
        }
        let layers = given.len().saturating_sub(4) / 2;
        let head_dim = last(COS, cos)?;
        let kv_heads = match given.get(4) {
            Some((_, _, shape)) => match shape.get(1) {
                Some(Size::Known(n)) => *n,
                _ => return Err(Place::value(&given[4].0).damaged("it has no number of heads")),
            },
            None => 1,
        };
        let logits =
            made.first().filter(|(name, ..)| *name == LOGITS).ok_or_else(|| place.missing("output `logits`"))?;
        let vocab = last(LOGITS, &logits.2)?;
        let cache = CacheShape { layers: layers as u32, kv_heads, head_dim };
        let bounds = Sizes { t: t as usize, c: c as usize, r: 0 };
        let caches: Vec<DataType> = given.iter().skip(4).map(|(_, dtype, _)| *dtype).collect();
        let whole = [DataType::UINT8, DataType::INT8, DataType::UINT16, DataType::INT16];
        if let Some(other) = caches.iter().find(|dtype| **dtype != float && !whole.contains(dtype)) {
            return Err(place.unsupported(format!("caches in {other:?}")));
        }
        let step = Step { float, dynamic, bounds, cache, caches, vocab };
        step.compare("inputs", &given, &step.inputs())?;
        step.compare("outputs", &made, &step.outputs())?;
        Ok(step)
    }

    fn compare(&self, what: &'static str, found: &[Declared], expected: &[Declared]) -> Result<()> {
        for (found, expected) in found.iter().zip(expected) {
            Place::value(&found.0).same("name, type and shape", found, expected)?;
        }
        Place::Graph.same("number", (what, found.len()), (what, expected.len()))
    }

    fn inputs(&self) -> Vec<Declared> {
        let (one, width) = (Size::Known(1), Size::Known(self.cache.head_dim));
        let [t, c, all] = self.sizes();
        let row = || vec![one.clone(), one.clone(), t.clone(), width.clone()];
        let mut inputs = vec![
            (TOKENS.to_string(), DataType::INT32, vec![one.clone(), t.clone()]),
            (COS.to_string(), self.float, row()),
            (SIN.to_string(), self.float, row()),
            (MASK.to_string(), self.float, vec![one.clone(), one.clone(), t.clone(), all]),
        ];
        inputs.extend(self.caches(schema::past, &c));
        inputs
    }

    fn outputs(&self) -> Vec<Declared> {
        let [t, ..] = self.sizes();
        let logits = vec![Size::Known(1), t.clone(), Size::Known(self.vocab)];
        let mut outputs = vec![(LOGITS.to_string(), self.float, logits)];
        outputs.extend(self.caches(schema::new, &t));
        outputs
    }

    fn caches(&self, name: fn(CacheId) -> String, rows: &Size) -> Vec<Declared> {
        let [heads, width] = [self.cache.kv_heads, self.cache.head_dim].map(Size::Known);
        let shape = |kind| match kind {
            CacheKind::K => vec![Size::Known(1), heads.clone(), width.clone(), rows.clone()],
            CacheKind::V => vec![Size::Known(1), heads.clone(), rows.clone(), width.clone()],
        };
        schema::caches(self.cache.layers).map(|cache| (name(cache), self.dtype(cache), shape(cache.kind))).collect()
    }

    /// The element type of a cache.
    pub(super) fn dtype(&self, cache: CacheId) -> DataType {
        let i = 2 * cache.layer as usize + usize::from(cache.kind == CacheKind::V);
        self.caches.get(i).copied().unwrap_or(self.float)
    }

    /// T, C and their sum.
    fn sizes(&self) -> [Size; 3] {
        let (t, c) = (self.bounds.t as u32, self.bounds.c as u32);
        match self.dynamic {
            true => DIMS.map(|name| Size::Named(name.into())),
            false => [t, c, t + c].map(Size::Known),
        }
    }
}

/// Name, element type and shape.
type Declared = (String, DataType, Vec<Size>);

fn read(value: &ValueInfoProto) -> Result<Declared> {
    let place = Place::value(&value.name);
    place.known(&value.special_fields)?;
    let ty = value.type_.as_ref().ok_or_else(|| place.missing("type"))?;
    place.known(&ty.special_fields)?;
    let Some(type_proto::Value::TensorType(tensor)) = &ty.value else { return Err(place.unsupported("its type")) };
    place.known(&tensor.special_fields)?;
    let dtype = protobuf::EnumOrUnknown::<DataType>::from_i32(tensor.elem_type);
    let dtype = dtype.enum_value().map_err(|n| place.unsupported(format!("element type {n}")))?;
    let shape = tensor.shape.as_ref().ok_or_else(|| place.missing("shape"))?;
    place.at_most("number of axes", shape.dim.len() as u64, MAX_AXES)?;
    let dim = |dim: &onnx_protobuf::tensor_shape_proto::Dimension| match &dim.value {
        Some(Value::DimValue(n)) => {
            let n = u32::try_from(*n).ok().filter(|&n| n > 0 && n <= i32::MAX as u32);
            n.map(Size::Known).ok_or_else(|| place.damaged("it has an axis of no size"))
        }
        Some(Value::DimParam(name)) => Ok(Size::Named(name.chars().take(64).collect())),
        _ => Err(place.unsupported("an axis without size and name")),
    };
    Ok((value.name.clone(), dtype, shape.dim.iter().map(dim).collect::<Result<_>>()?))
}
