//! A package as text: what it is given and gives, then one operation a line, for people.
//!
//! Small constants stand where they are used; those of the weight file have a line of their own with their offset.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use super::constant::{Constant, Type};
use super::error::{Place, Result};
use super::interface::Step;
use super::package::Files;
use crate::coreml::schema::program::{Argument, Bound, Operation, Value};

/// The text of the package in `folder`.
///
/// # Errors
/// When it is none, or has inputs or constants that no step graph has.
pub fn text(folder: &Path) -> Result<String> {
    let files = Files::open(folder)?;
    files.only_known_fields()?;
    let step = Step::read(&files.model)?;
    let mut out = format!("specification version {}\n\n", step.version);
    let mut given: Vec<_> = step.given.iter().collect();
    given.sort_unstable_by_key(|(name, _)| name.as_str());
    for (name, ty) in given {
        line(&mut out, format_args!("given {name}: {}", typed(ty)));
    }
    let mut constants = BTreeMap::new();
    for (i, operation) in step.operations.iter().enumerate() {
        let place = Place::Operation(i, operation.r#type.clone(), String::new());
        describe(&place, operation, &mut constants, &mut out)?;
    }
    for (name, ty) in &step.outputs {
        line(&mut out, format_args!("gives {name}: {}", typed(ty)));
    }
    Ok(out)
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
        match constant {
            Constant::Blob(_, offset) => {
                line(out, format_args!("{} = at {offset}: {}", result.name, typed(&ty)));
            }
            small => drop(constants.insert(result.name.clone(), brief(&small))),
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
        (Some(result), Some(ty)) => line(out, format_args!("{} = {call}: {}", result.name, typed(&ty))),
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
        Constant::Blob(..) => format!("{} {}", brief(&constant), typed(&ty)),
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

fn typed(ty: &Type) -> String {
    format!("{}{:?}", ty.dtype.name(), ty.shape)
}

fn line(out: &mut String, line: std::fmt::Arguments<'_>) {
    // A text can always be written to.
    let _ = writeln!(out, "{line}");
}
