//! The model file: one function or several, and what describes them.

use std::collections::BTreeMap;

use diffulex_compiler::ir::{Dim, Module, Sizes, ValueType};
use diffulex_compiler::quant::Search;

use super::blobs::Blobs;
use super::packages::OPEN;
use super::step::{self, Made};
use super::value::{UNKNOWN, Val};
use super::{EmitError, Metadata, Part};
use crate::coreml::schema::model::{
    ArrayDataType, ArrayFeatureType, EnumeratedShapes, FeatureDescription, FeatureKind, FeatureType,
    FunctionDescription, Metadata as Facts, Model, ModelDescription, Shape, ShapeFlexibility, ShapeRange, SizeRange,
    StateFeatureType,
};
use crate::coreml::schema::program::{DataType, Program};
use crate::coreml::schema::{MAIN, STEP, keys};
use crate::coreml::{FORMAT_VERSION, Options, Shapes, legal};

/// The model file, and the records of the weight file.
pub(super) fn build(
    module: &Module,
    metadata: &Metadata,
    options: &Options,
    version: i32,
    part: Option<Part>,
) -> Result<(Model, Blobs), EmitError> {
    let lengths = legal::lengths(module, options)
        .map_err(|refusal| EmitError::Illegal { place: "module".into(), what: refusal.to_string() })?;
    let several = options.shapes == Shapes::Functions;
    let (mut program, mut functions) = (Program { version: 1, ..Program::default() }, Vec::new());
    let (mut blobs, mut longest) = (Blobs::default(), String::new());
    for &tokens in if several { &lengths[..] } else { &lengths[lengths.len() - 1..] } {
        let name = if several { format!("{STEP}{tokens}") } else { MAIN.into() };
        let made = step::function(&at(module, tokens), options, version, part, blobs)?;
        functions.push(describe(&name, &made, module.bounds, options.shapes, &lengths)?);
        program.functions.insert(name.clone(), made.function);
        (blobs, longest) = (made.blobs, name);
    }
    let metadata = Some(facts(module, metadata, part));
    let description = match functions.pop() {
        Some(FunctionDescription { input, output, state, .. }) if !several => {
            ModelDescription { input, output, state, metadata, ..ModelDescription::default() }
        }
        last => {
            functions.extend(last);
            ModelDescription { functions, default_function_name: longest, metadata, ..ModelDescription::default() }
        }
    };
    let model = Model {
        specification_version: version,
        description: Some(description),
        is_updatable: false,
        ml_program: Some(program),
    };
    Ok((model, blobs))
}

/// The module for steps of so many tokens, and of no more rows.
fn at(module: &Module, tokens: u32) -> Module {
    let mut at = module.clone();
    at.bounds.t = tokens as usize;
    at.bounds.r = at.bounds.r.min(at.bounds.t);
    at
}

fn describe(
    name: &str,
    made: &Made,
    bounds: Sizes,
    shapes: Shapes,
    lengths: &[u32],
) -> Result<FunctionDescription, EmitError> {
    let input = made.inputs.iter().map(|(val, ty, what)| {
        let mut array = array(val);
        if val.shape.contains(&UNKNOWN) {
            array.shape = sizes(ty, bounds)?;
            array.flexibility = flexibility(ty, bounds, shapes, lengths)?;
        }
        Ok(feature(val, what, FeatureKind::MultiArray(array)))
    });
    let output = made.outputs.iter().map(|(val, what)| {
        let mut array = array(val);
        if val.shape.contains(&UNKNOWN) {
            array.shape.clear();
        }
        feature(val, what, FeatureKind::MultiArray(array))
    });
    let state = made
        .states
        .iter()
        .map(|(val, what)| feature(val, what, FeatureKind::State(StateFeatureType { array_type: Some(array(val)) })));
    Ok(FunctionDescription {
        name: name.into(),
        input: input.collect::<Result<_, EmitError>>()?,
        output: output.collect(),
        state: state.collect(),
    })
}

/// The shapes that an input may have. Where they are listed, all inputs have the same order: the longest step first.
fn flexibility(
    ty: &ValueType,
    bounds: Sizes,
    shapes: Shapes,
    lengths: &[u32],
) -> Result<Option<ShapeFlexibility>, EmitError> {
    let at = |&tokens: &u32| sizes(ty, Sizes { t: tokens as usize, ..bounds });
    let all = lengths.iter().rev().map(at).collect::<Result<Vec<_>, EmitError>>()?;
    Ok(match (shapes, all.as_slice()) {
        (Shapes::Range, [high, .., low]) => {
            let range = |(&low, &high): (&i64, &i64)| SizeRange { lower_bound: low as u64, upper_bound: high };
            Some(ShapeFlexibility::Range(ShapeRange { size_ranges: low.iter().zip(high).map(range).collect() }))
        }
        (Shapes::Enumerated, _) => {
            let shapes = all.into_iter().map(|shape| Shape { shape }).collect();
            Some(ShapeFlexibility::Enumerated(EnumeratedShapes { shapes }))
        }
        _ => None,
    })
}

fn sizes(ty: &ValueType, at: Sizes) -> Result<Vec<i64>, EmitError> {
    let size = |dim: &Dim| dim.at(at).and_then(|n| i64::try_from(n).ok());
    let sizes: Option<Vec<i64>> = ty.shape.iter().map(size).collect();
    sizes.ok_or_else(|| EmitError::Illegal { place: ty.to_string(), what: "is too large".into() })
}

fn array(val: &Val) -> ArrayFeatureType {
    let data_type = match val.dtype {
        DataType::Float16 => ArrayDataType::Float16,
        DataType::Float32 => ArrayDataType::Float32,
        _ => ArrayDataType::Int32,
    };
    let shape = val.shape.iter().map(|&n| n as i64).collect();
    ArrayFeatureType { shape, data_type: data_type as i32, flexibility: None }
}

fn feature(val: &Val, what: &str, kind: FeatureKind) -> FeatureDescription {
    FeatureDescription {
        name: val.name.clone(),
        short_description: what.into(),
        r#type: Some(FeatureType { kind: Some(kind), is_optional: false }),
    }
}

/// What the package says of itself.
fn facts(module: &Module, metadata: &Metadata, part: Option<Part>) -> Facts {
    let mut user_defined: BTreeMap<String, String> = BTreeMap::new();
    let mut say = |key: &str, text: String| user_defined.insert(key.into(), text);
    say(keys::FORMAT_VERSION, FORMAT_VERSION.to_string());
    say(keys::NAME, module.name.clone());
    if !metadata.recipe_digest.is_empty() {
        say(keys::RECIPE, metadata.recipe_digest.clone());
    }
    if let Some(generation) = &metadata.generation {
        // A struct of plain fields always has a JSON form.
        say(keys::GENERATION, serde_json::to_string(generation).unwrap_or_default());
    }
    let search = module.search().in_any();
    if search != Search::Max {
        say(keys::SEARCH, search.name().into());
    }
    let mut short_description = format!("{}: one step of block diffusion", module.name);
    if let Some(Part { number, of }) = part {
        short_description.push_str(&format!(", part {number} of {of}"));
        say(keys::PART, format!("{number}/{of}"));
        say(keys::CHAIN, OPEN.into());
    }
    Facts { short_description, user_defined, ..Facts::default() }
}
