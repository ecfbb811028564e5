//! Weights as constants of the program.

use std::collections::HashMap;
use std::ops::Range;

use diffulex_compiler::ir::{Module, WeightExpr, WeightId};

use super::EmitError;
use super::blobs::{Blobs, Holds, stored_as};
use super::block::Block;
use super::value::{self, Val};
use crate::coreml::Nibbles;
use crate::coreml::schema::program::DataType;
use crate::raise::split::PART;

/// Weights that the program names so far.
pub(super) struct Constants<'a> {
    module: &'a Module,
    version: i32,
    nibbles: DataType,
    /// The records of the weight file.
    pub(super) blobs: Blobs,
    made: HashMap<(WeightId, Range<usize>), Val>,
    zeros: HashMap<u64, Val>,
}

impl<'a> Constants<'a> {
    /// None so far; `blobs` are the records that other functions have.
    pub(super) fn new(module: &'a Module, version: i32, nibbles: Nibbles, blobs: Blobs) -> Constants<'a> {
        let nibbles = match nibbles {
            Nibbles::Signed => DataType::Int4,
            Nibbles::Unsigned => DataType::Uint4,
        };
        Constants { module, version, nibbles, blobs, made: HashMap::new(), zeros: HashMap::new() }
    }

    /// A whole weight. One number that a formula makes is a scalar.
    pub(super) fn weight(&mut self, block: &mut Block, id: WeightId) -> Result<Val, EmitError> {
        let weight = self.module.weight(id);
        match weight.expr {
            WeightExpr::Fill(number) if weight.ty.shape == [1] => block.half(number),
            _ => Ok(self.rows(block, id, 0..weight.ty.rows())),
        }
    }

    /// Some rows of a weight.
    pub(super) fn rows(&mut self, block: &mut Block, id: WeightId, rows: Range<usize>) -> Val {
        if let Some(known) = self.made.get(&(id, rows.clone())) {
            return known.clone();
        }
        let weight = self.module.weight(id);
        let mut shape: Vec<u64> = weight.ty.shape.iter().map(|&n| u64::from(n)).collect();
        if let Some(first) = shape.first_mut() {
            *first = rows.len() as u64;
        }
        let count: u64 = shape.iter().product();
        let part = if rows.len() < weight.ty.rows() { format!("{PART}{}", rows.start) } else { String::new() };
        // The reader takes two of them for a dot.
        let name = format!("{}{part}", weight.name).replace('.', "__");
        let dtype = stored_as(self.module, id, self.nibbles);
        let offset = self.blobs.place(Holds::Numbers(id, rows.clone()), dtype, count);
        let data = value::blob(dtype, &shape, offset);
        let made = if weight.ty.encoding.is_float() {
            block.constant(&name, dtype, &shape, data)
        } else {
            let columns = weight.ty.columns();
            let groups = weight.ty.encoding.group().map_or(1, |group| columns / group) as u64;
            let count = shape[0] * groups;
            let scales = self.blobs.place(Holds::Scales(id, rows.clone()), DataType::Float16, count);
            if self.version < 9 {
                let parameters = vec![
                    ("quantized_data", data),
                    ("zero_point", value::zero_byte()),
                    ("scale", value::blob(DataType::Float16, &[shape[0]], scales)),
                    ("axis", value::ints(&[], &[0])),
                ];
                block.compressed("constexpr_affine_dequantize", &name, &shape, parameters, true)
            } else {
                let by_group = [shape[0], groups];
                let mut parameters = vec![("data", data), ("scale", value::blob(DataType::Float16, &by_group, scales))];
                if dtype == DataType::Uint4 {
                    let offset = self.blobs.place(Holds::Filled(dtype, count), dtype, count);
                    parameters.push(("offset", value::blob(dtype, &by_group, offset)));
                }
                block.compressed("constexpr_blockwise_shift_scale", &name, &shape, parameters, false)
            }
        };
        self.made.insert((id, rows), made.clone());
        made
    }

    /// The bias of a filter that has none.
    pub(super) fn zeros(&mut self, block: &mut Block, count: u64) -> Val {
        if let Some(known) = self.zeros.get(&count) {
            return known.clone();
        }
        let offset = self.blobs.place(Holds::Filled(DataType::Float16, count), DataType::Float16, count);
        let data = value::blob(DataType::Float16, &[count], offset);
        let made = block.constant(&format!("zeros_{count}"), DataType::Float16, &[count], data);
        self.zeros.insert(count, made.clone());
        made
    }
}
