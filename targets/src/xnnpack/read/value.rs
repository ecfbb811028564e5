//! The values of a delegate: their types, their external ids, their constants.

use std::ops::Range;

use planus::Vector;

use diffulex_compiler::ir::Encoding;

use super::error::{Fault, Place, Result};
use super::file::File;
use crate::xnnpack::schema::constants::{
    DATATYPE_BF16, DATATYPE_FP16, DATATYPE_FP32, DATATYPE_QBINT4, DATATYPE_QCINT4, DATATYPE_QCINT8, DATATYPE_QDINT8,
    MAX_EXTERNS, MAX_RANK, NAMED, NO_ID, VALUE_EXTERNAL_INPUT, VALUE_EXTERNAL_OUTPUT,
};
use crate::xnnpack::schema::delegate::{ConstantDataOffsetRef, GraphRef, QuantParamsRef, TensorValueRef};

/// A value of the graph.
#[derive(Clone, Debug)]
pub(super) struct Value {
    /// Its id, for messages.
    pub(super) id: u32,
    /// How its numbers are held.
    pub(super) form: Form,
    /// Sizes, or their upper bounds.
    pub(super) dims: Vec<u32>,
    /// Where it comes from.
    pub(super) role: Role,
}

/// How the numbers of a value are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Single floats.
    Single,
    /// Half floats.
    Half,
    /// bfloat16.
    Brain,
    /// Rows that are quantized when they are computed, to 8 bits.
    Token,
    /// A filter with scales.
    Quantized(Encoding),
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Role {
    /// A node makes it.
    Internal,
    /// The delegate is given it.
    Input,
    /// A node makes it, and the delegate returns it.
    Output,
    /// It stands in the file.
    Constant(Constant),
}

/// A constant of the delegate.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Constant {
    /// Its place in `Graph.constant_data`.
    pub(super) index: usize,
    /// Its key, if it is named data.
    pub(super) key: Option<String>,
    /// Its bytes in the file.
    pub(super) range: Range<usize>,
    /// The bytes of its scales.
    pub(super) scales: Range<usize>,
}

/// Reads value `index`, with what the file says of its quantization.
pub(super) fn read_value(
    tensor: &TensorValueRef<'_>,
    quant: Option<&QuantParamsRef<'_>>,
    index: usize,
    constants: &Constants<'_, '_>,
    externals: &mut Externals,
) -> Result<Value> {
    let place = Place::Value(index as u32);
    let id = place.got(tensor.id_out())?;
    let dims = place.need("dims", tensor.dims())?;
    let rank = place.got(tensor.num_dims())?;
    place.at_most("num_dims", rank.into(), MAX_RANK as u64)?;
    if dims.len() != rank as usize || rank == 0 {
        return Err(place.mismatch("num_dims", rank, format!("the {} of `dims`", dims.len())));
    }
    let dims: Vec<u32> = dims.iter().collect();
    let (form, scales) = form(&place, place.got(tensor.datatype())?, quant, &dims)?;
    let width = match form {
        Form::Single => 4,
        Form::Half | Form::Brain => 2,
        Form::Token | Form::Quantized(_) => 1,
    };
    let bytes = match (form, &dims[..]) {
        (Form::Quantized(encoding), &[rows, columns]) => {
            u64::from(rows).saturating_mul(encoding.row_bytes(columns as usize) as u64)
        }
        _ => dims.iter().fold(width, |bytes: u64, &n| bytes.saturating_mul(n.into())),
    };
    if bytes == 0 {
        return Err(place.damaged(format!("an axis of 0 in {dims:?}")));
    }
    place.at_most("dims", bytes, i64::MAX as u64)?;

    let flags = place.got(tensor.flags())?;
    let external = place.got(tensor.external_id())?;
    let constant = place.got(tensor.constant_buffer_idx())?;
    let role = match (flags, constant) {
        (0, 0) if external == NO_ID => Role::Internal,
        (0, constant) if external == NO_ID && form != Form::Token => {
            let mut found = constants.get(&place, constant, bytes, width)?;
            if let Some(Scales { constant, bytes, width }) = scales {
                found.scales = constants.get(&place, constant, bytes, width)?.range;
            }
            Role::Constant(found)
        }
        (VALUE_EXTERNAL_INPUT, 0) => externals.add(&place, external, index, Role::Input)?,
        (VALUE_EXTERNAL_OUTPUT, 0) => externals.add(&place, external, index, Role::Output)?,
        _ => {
            return Err(place.unsupported(format!("flags {flags} with external id {external} and constant {constant}")));
        }
    };
    let stored = matches!(role, Role::Constant(_));
    if matches!(form, Form::Quantized(_)) != (stored && scales.is_some())
        || form == Form::Token && role != Role::Internal
    {
        return Err(place.unsupported("quantized values other than filters and what they are given"));
    }
    Ok(Value { id, form, dims, role })
}

/// Where the scales of a filter lie: which constant, how many bytes, how wide each is.
#[derive(Clone, Copy)]
struct Scales {
    constant: u32,
    bytes: u64,
    width: u64,
}

/// How the numbers of a datatype are held.
fn form(
    place: &Place,
    datatype: i16,
    quant: Option<&QuantParamsRef<'_>>,
    dims: &[u32],
) -> Result<(Form, Option<Scales>)> {
    let unsupported = || place.clone().unsupported(format!("datatype {datatype} with this quantization"));
    let encoding = match (datatype, quant) {
        (DATATYPE_FP32, None) => return Ok((Form::Single, None)),
        (DATATYPE_FP16, None) => return Ok((Form::Half, None)),
        (DATATYPE_BF16, None) => return Ok((Form::Brain, None)),
        (DATATYPE_QDINT8, Some(QuantParamsRef::PerTokenDynamicQuant(token))) => {
            return match place.got(token.num_nonbatch_dims())? {
                1 => Ok((Form::Token, None)),
                other => Err(place.clone().unsupported(format!("{other} axes that share a dynamic scale"))),
            };
        }
        (DATATYPE_QCINT8, Some(QuantParamsRef::PerChannelQuant(_))) => Encoding::Int8Row,
        (DATATYPE_QCINT4, Some(QuantParamsRef::PerChannelQuant(_))) => Encoding::Int4Row,
        (DATATYPE_QBINT4, Some(QuantParamsRef::PerChannelGroupQuant(group))) => {
            let size = place.got(group.group_size())?;
            let known = Encoding::ALL.iter().copied().find(|e| e.group().is_some_and(|g| g as i64 == i64::from(size)));
            known.ok_or_else(|| place.clone().unsupported(format!("groups of {size}")))?
        }
        _ => return Err(unsupported()),
    };
    let &[rows, columns] = dims else { return Err(unsupported()) };
    if encoding.group().is_some_and(|group| !(columns as usize).is_multiple_of(group)) {
        return Err(place.clone().damaged(format!("{columns} columns cannot be cut into its groups")));
    }
    let (channel, listed, constant, count) = match quant {
        Some(QuantParamsRef::PerChannelQuant(q)) => (q.channel_dim(), q.scale(), q.scale_buffer_idx(), q.num_scales()),
        Some(QuantParamsRef::PerChannelGroupQuant(q)) => {
            (q.channel_dim(), q.scale(), q.scale_buffer_idx(), q.num_scales())
        }
        _ => return Err(unsupported()),
    };
    if place.got(channel)? != 0 || place.got(listed)?.is_some_and(|list| !list.is_empty()) {
        return Err(place.clone().unsupported("scales along another axis, or inside the graph"));
    }
    let bytes = u64::from(rows).saturating_mul(encoding.scale_bytes(columns as usize) as u64);
    let width = if encoding.group().is_some() { 2 } else { 4 };
    let count = place.got(count)?;
    if u64::from(count) != bytes / width {
        return Err(place.clone().mismatch("num_scales", count, bytes / width));
    }
    Ok((Form::Quantized(encoding), Some(Scales { constant: place.got(constant)?, bytes, width })))
}

/// External ids and the values that have them.
pub(super) struct Externals(Vec<Option<usize>>);

impl Externals {
    pub(super) fn new(graph: &GraphRef<'_>) -> Result<Externals> {
        let count = Place::Delegate.got(graph.num_externs())?;
        Ok(Externals(vec![None; Place::Delegate.at_most("num_externs", count.into(), MAX_EXTERNS as u64)?]))
    }

    fn add(&mut self, place: &Place, external: u32, index: usize, role: Role) -> Result<Role> {
        let slot = self.0.get_mut(external as usize);
        let slot =
            slot.ok_or_else(|| place.clone().damaged(format!("external id {external} is not below `num_externs`")))?;
        if slot.replace(index).is_some() {
            return Err(place.clone().fault(Fault::Twice(format!("external id {external}"))));
        }
        Ok(role)
    }

    /// Every external id has a value, and the lists of ids, where they are written, say the same.
    pub(super) fn all(self, graph: &GraphRef<'_>, values: &[Value]) -> Result<Vec<usize>> {
        let place = Place::Delegate;
        let found: Option<Vec<usize>> = self.0.into_iter().collect();
        let found = found.ok_or_else(|| place.clone().damaged("an external id has no value"))?;
        let lists = [(graph.input_ids(), Role::Input, "input_ids"), (graph.output_ids(), Role::Output, "output_ids")];
        for (list, role, name) in lists {
            let Some(list) = place.got(list)?.filter(|list| !list.is_empty()) else { continue };
            place.at_most(name, list.len() as u64, MAX_EXTERNS as u64)?;
            let mut listed: Vec<u32> = list.iter().collect();
            let mut flagged: Vec<u32> =
                found.iter().map(|&i| &values[i]).filter(|v| v.role == role).map(|v| v.id).collect();
            listed.sort_unstable();
            flagged.sort_unstable();
            if listed != flagged {
                return Err(place.mismatch(name, format!("{listed:?}"), format!("{flagged:?}, the flagged values")));
            }
        }
        Ok(found)
    }
}

/// Where constants lie.
pub(super) struct Constants<'a, 'f> {
    pub(super) file: &'f File<'a>,
    /// The region of inline constants.
    pub(super) inline: Range<usize>,
    /// `Graph.constant_data`.
    pub(super) data: Option<Vector<'a, planus::Result<ConstantDataOffsetRef<'a>>>>,
}

impl Constants<'_, '_> {
    /// The constant of a value that has `bytes` bytes, each number `width` of them.
    fn get(&self, value: &Place, index: u32, bytes: u64, width: u64) -> Result<Constant> {
        let entry = self.data.and_then(|data| data.get(index as usize));
        let entry = entry.ok_or_else(|| value.clone().damaged(format!("there is no constant {index}")))?;
        let place = Place::Constant(index as usize);
        let entry = place.got(entry)?;
        let (offset, size) = (place.got(entry.offset())?, place.got(entry.size())?);
        if size != bytes {
            return Err(place.mismatch("size", size, format!("{bytes}, the bytes of its value")));
        }
        let (key, region) = match place.got(entry.named_key())? {
            Some(_) if offset != NAMED => return Err(place.damaged("has both an offset and a key")),
            Some(key) => {
                let key = place.text("named_key", Ok(Some(key)))?;
                (Some(key.to_string()), self.file.keyed(&place, key)?)
            }
            None => {
                let offset = place.at_most("offset", offset, self.inline.len() as u64)?;
                (None, self.inline.start + offset..self.inline.end)
            }
        };
        let size = place.at_most("size", size, region.len() as u64)?;
        let range = region.start..region.start + size;
        if !(range.start as u64).is_multiple_of(width) {
            return Err(place.damaged(format!("its bytes begin at {}, which is not aligned", range.start)));
        }
        Ok(Constant { index: index as usize, key, range, scales: 0..0 })
    }
}
