//! A block of operations in the making: names stay unique, equal constants are one.

use std::collections::{BTreeMap, HashMap};

use super::EmitError;
use super::value::{self, Val};
use crate::coreml::schema::program::{Argument, DataType, Operation, Value};

/// The operations so far.
#[derive(Default)]
pub(super) struct Block {
    /// In order: a value is made before it is used.
    pub(super) operations: Vec<Operation>,
    /// Names in use, with the number that the next of that name gets.
    names: HashMap<String, u32>,
    /// Small constants by name, which tells what they are.
    constants: HashMap<String, Val>,
}

impl Block {
    /// Keeps a name for an input or an output.
    pub(super) fn reserve(&mut self, name: &str) {
        self.names.insert(name.into(), 1);
    }

    /// Gives a reserved name free again, for the one value that is to have it.
    pub(super) fn release(&mut self, name: &str) -> String {
        self.names.remove(name);
        name.into()
    }

    /// An identifier that is free, after `name`.
    pub(super) fn free(&mut self, name: &str) -> String {
        let mut base: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if !base.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            base.insert(0, '_');
        }
        let mut free = base.clone();
        while self.names.contains_key(&free) {
            let number = self.names.entry(base.clone()).or_insert(1);
            free = format!("{base}_{number}");
            *number += 1;
        }
        self.names.insert(free.clone(), 1);
        free
    }

    /// Adds an operation with one result, called after `name`.
    pub(super) fn add(
        &mut self,
        kind: &str,
        name: &str,
        inputs: &[(&str, &[&Val])],
        (dtype, shape): (DataType, &[u64]),
    ) -> Val {
        let name = self.free(name);
        let inputs = inputs.iter().map(|(key, vals)| ((*key).to_string(), value::bound_to(vals))).collect();
        self.push(kind, Val { name, dtype, shape: shape.into() }, inputs, BTreeMap::new())
    }

    /// Adds what overwrites a state.
    pub(super) fn write_state(&mut self, state: &Val, data: &Val) {
        let name = self.free(&format!("{}_written", state.name));
        let inputs = [("input", state), ("data", data)];
        self.operations.push(Operation {
            r#type: "write_state".into(),
            inputs: inputs.map(|(key, val)| (key.to_string(), value::bound_to(&[val]))).into(),
            outputs: vec![],
            attributes: [("name".to_string(), value::text(&name))].into(),
        });
    }

    /// Adds a constant.
    pub(super) fn constant(&mut self, name: &str, dtype: DataType, shape: &[u64], val: Value) -> Val {
        let name = self.free(name);
        let attributes = [("val".to_string(), val)].into();
        self.push("const", Val { name, dtype, shape: shape.into() }, BTreeMap::new(), attributes)
    }

    /// Adds a weight that is stored in fewer bits: `parameters` are inputs, or attributes.
    pub(super) fn compressed(
        &mut self,
        kind: &str,
        name: &str,
        shape: &[u64],
        parameters: Vec<(&str, Value)>,
        in_attributes: bool,
    ) -> Val {
        let name = self.free(name);
        let result = Val { name, dtype: DataType::Float16, shape: shape.into() };
        let (mut inputs, mut attributes) = (BTreeMap::new(), BTreeMap::new());
        for (key, val) in parameters {
            if in_attributes {
                attributes.insert(key.to_string(), val);
            } else {
                inputs.insert(key.to_string(), value::bound_value(val));
            }
        }
        self.push(kind, result, inputs, attributes)
    }

    fn push(
        &mut self,
        kind: &str,
        result: Val,
        inputs: BTreeMap<String, Argument>,
        mut attributes: BTreeMap<String, Value>,
    ) -> Val {
        attributes.insert("name".into(), value::text(&result.name));
        self.operations.push(Operation { r#type: kind.into(), inputs, outputs: vec![result.named()], attributes });
        result
    }

    fn small(&mut self, name: String, dtype: DataType, shape: &[u64], val: Value) -> Val {
        if let Some(known) = self.constants.get(&name) {
            return known.clone();
        }
        let made = self.constant(&name, dtype, shape, val);
        self.constants.insert(name, made.clone());
        made
    }

    /// A whole number.
    pub(super) fn int(&mut self, number: i32) -> Val {
        self.small(format!("int32{}", word(number)), DataType::Int32, &[], value::ints(&[], &[number]))
    }

    /// A list of whole numbers.
    pub(super) fn ints(&mut self, numbers: &[i32]) -> Val {
        let name: String = numbers.iter().map(|&n| word(n)).collect();
        let shape = [numbers.len() as u64];
        self.small(format!("int32s{name}"), DataType::Int32, &shape, value::ints(&shape, numbers))
    }

    /// A truth value.
    pub(super) fn truth(&mut self, truth: bool) -> Val {
        self.small(format!("bool_{truth}"), DataType::Bool, &[], value::bools(&[], &[truth]))
    }

    /// A list of truth values.
    pub(super) fn truths(&mut self, truths: &[bool]) -> Val {
        let name: String = truths.iter().map(|&t| if t { "_true" } else { "_false" }).collect();
        let shape = [truths.len() as u64];
        self.small(format!("bools{name}"), DataType::Bool, &shape, value::bools(&shape, truths))
    }

    /// A text.
    pub(super) fn text(&mut self, text: &str) -> Val {
        self.small(format!("string_{text}"), DataType::String, &[], value::text(text))
    }

    /// A number in single precision.
    pub(super) fn single(&mut self, number: f32) -> Val {
        self.small(format!("fp32_{:08x}", number.to_bits()), DataType::Float32, &[], value::single(number))
    }

    /// A number in half precision.
    ///
    /// # Errors
    /// When it is too large, or so small that it would become 0.
    pub(super) fn half(&mut self, number: f32) -> Result<Val, EmitError> {
        // Half the smallest number becomes 0; the tie goes to the even one.
        let vanishes = number != 0.0 && number.abs() <= 1.0 / 33_554_432.0;
        let val = value::half(number).filter(|_| !vanishes).ok_or_else(|| {
            let what = "cannot be stored in fp16".into();
            EmitError::Illegal { place: format!("the constant {number:e}"), what }
        })?;
        Ok(self.small(format!("fp16_{:08x}", number.to_bits()), DataType::Float16, &[], val))
    }
}

/// `_3`, `_m1`: a number as part of an identifier.
fn word(number: i32) -> String {
    if number < 0 { format!("_m{}", number.unsigned_abs()) } else { format!("_{number}") }
}
