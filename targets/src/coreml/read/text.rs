//! A package as text: for each function what it is given and gives, and one operation a line, for people.
//!
//! The size of an axis that differs from step to step is `?`.
//!
//! Small constants stand where they are used; long ones, and those of the weight file with their offset, have a line of
//! their own: a constant may be used a million times.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::Path;

use super::constant::{Constant, Type};
use super::error::{Place, Result};
use super::feature::{Described, Feature};
use super::functions::Functions;
use super::interface::Step;
use super::package::Files;
use crate::coreml::Shapes;
use crate::coreml::schema::program::{Argument, Bound, Operation, Value};

/// Longest text of a constant that stands where it is used.
const MAX_SMALL: usize = 80;

/// The text of the package in `folder`.
///
/// # Errors
/// When it is none, or has inputs or constants that no step graph has.
pub fn text(folder: &Path) -> Result<String> {
    let files = Files::open(folder)?;
    files.only_known_fields()?;
    let functions = Functions::read(&files.model)?;
    let mut out = format!("specification version {}\n", files.model.specification_version);
    for (name, step) in &functions.list {
        let default = if *name == functions.default { ", the default" } else { "" };
        match functions.shapes {
            Shapes::Functions => line(&mut out, format_args!("\nfunction {name}{default}\n")),
            _ => line(&mut out, format_args!("")),
        }
        function(step, &mut out).map_err(|e| functions.within(e, name))?;
    }
    Ok(out)
}

fn function(step: &Step<'_>, out: &mut String) -> Result<()> {
    let mut given: Vec<_> = step.described.iter().collect();
    given.sort_unstable_by_key(|(name, _)| name.as_str());
    for (name, feature) in given {
        line(out, format_args!("given {name}: {}", described(feature)));
    }
    let (mut constants, mut types) = (BTreeMap::new(), HashMap::new());
    for (i, operation) in step.operations.iter().enumerate() {
        let result = operation.outputs.first().map_or("nothing", |result| result.name.as_str());
        let place = Place::operation(i, &operation.r#type, result);
        describe(&place, operation, &mut constants, out)?;
        for result in &operation.outputs {
            types.insert(&result.name, Type::read(&place, result.r#type.as_ref())?);
        }
    }
    for (name, ty) in &step.outputs {
        line(out, format_args!("gives {name}: {:?}", types.get(name).unwrap_or(ty)));
    }
    Ok(())
}

/// Element type and shape; a size that differs as `1..8`, or as the list `8|4|1`.
fn described(feature: &Feature) -> String {
    let size = |i: usize, size: u32| match &feature.shapes {
        Described::Range(ends) if ends[i][0] != ends[i][1] => format!("{}..{}", ends[i][0], ends[i][1]),
        Described::List(list) if list.iter().any(|shape| shape[i] != size) => {
            let sizes: Vec<String> = list.iter().map(|shape| shape[i].to_string()).collect();
            sizes.join("|")
        }
        _ => size.to_string(),
    };
    let sizes: Vec<String> = feature.ty.shape.iter().enumerate().map(|(i, &n)| size(i, n)).collect();
    format!("{}[{}]", feature.ty.dtype.name(), sizes.join(", "))
}

/// One operation; a small constant is only kept in mind.
fn describe(
    place: &Place,
    operation: &Operation,
    constants: &mut BTreeMap<String, String>,
    out: &mut String,
) -> Result<()> {
    let result = operation.outputs.first();
    let ty = result.map(|result| Type::read(place, result.r#type.as_ref())).transpose()?;
    if let ("const", Some(result), Some(value)) = (operation.r#type.as_str(), result, operation.attributes.get("val")) {
        let (ty, constant) = Constant::read(place, value)?;
        let text = brief(&constant);
        if matches!(constant, Constant::Blob(..)) || text.len() > MAX_SMALL {
            line(out, format_args!("{} = {text}: {ty:?}", result.name));
        } else {
            constants.insert(result.name.clone(), text);
        }
        return Ok(());
    }
    let mut parameters = Vec::new();
    for (key, argument) in &operation.inputs {
        parameters.push(format!("{key} = {}", bound(place, argument, constants)?));
    }
    for (key, value) in operation.attributes.iter().filter(|(key, _)| *key != "name") {
        parameters.push(format!("{key} = {}", part(place, value)?));
    }
    let call = format!("{}({})", operation.r#type, parameters.join(", "));
    match (result, ty) {
        (Some(result), Some(ty)) => line(out, format_args!("{} = {call}: {ty:?}", result.name)),
        _ => line(out, format_args!("{call}")),
    }
    Ok(())
}

fn bound(place: &Place, argument: &Argument, constants: &BTreeMap<String, String>) -> Result<String> {
    let mut parts = Vec::new();
    for binding in &argument.arguments {
        parts.push(match &binding.bound {
            Some(Bound::Name(name)) => constants.get(name).unwrap_or(name).clone(),
            Some(Bound::Value(value)) => part(place, value)?,
            None => return Err(place.damaged("a parameter is bound to nothing")),
        });
    }
    Ok(if parts.len() == 1 { parts.remove(0) } else { format!("({})", parts.join(", ")) })
}

/// A constant that a parameter is bound to itself.
fn part(place: &Place, value: &Value) -> Result<String> {
    let (ty, constant) = Constant::read(place, value)?;
    Ok(match constant {
        Constant::Blob(..) => format!("{} {ty:?}", brief(&constant)),
        small => brief(&small),
    })
}

fn brief(constant: &Constant) -> String {
    match constant {
        Constant::Ints(ints) => list(ints),
        Constant::Bools(bools) => list(bools),
        Constant::Text(text) => format!("{text:?}"),
        Constant::Number(number) => format!("{number:?}"),
        Constant::ZeroByte => "0".into(),
        Constant::Blob(_, offset) => format!("at {offset}"),
    }
}

/// One item by itself, several in brackets.
fn list<T: std::fmt::Debug>(items: &[T]) -> String {
    match items {
        [one] => format!("{one:?}"),
        many => format!("{many:?}"),
    }
}

fn line(out: &mut String, line: std::fmt::Arguments<'_>) {
    // A text can always be written to.
    let _ = writeln!(out, "{line}");
}
