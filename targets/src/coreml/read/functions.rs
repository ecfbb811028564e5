//! The functions of a package: one, or one for each number of tokens, which must be the same step.

use super::constant::identifier;
use super::error::{Place, ReadError, Result};
use super::interface::{Description, Step};
use super::lift::{self, Lifted};
use super::package::Files;
use super::{Facts, Interface, Shapes};
use crate::coreml::schema::model::{Model, ModelDescription};
use crate::coreml::schema::program::Program;
use crate::coreml::schema::{MAIN, MAX_LENGTHS};

/// All functions with their names, the one of the longest step last.
pub(super) struct Functions<'a> {
    /// How the package says which numbers of tokens a step may have.
    pub(super) shapes: Shapes,
    /// The functions.
    pub(super) list: Vec<(&'a str, Step<'a>)>,
    /// The one that is meant where nothing is said.
    pub(super) default: &'a str,
}

impl<'a> Functions<'a> {
    pub(super) fn read(model: &'a Model) -> Result<Functions<'a>> {
        let description = model.description.as_ref().ok_or_else(|| Place::Model.missing("description"))?;
        let program = model.ml_program.as_ref().ok_or_else(|| Place::Model.missing("program"))?;
        if model.is_updatable {
            return Err(Place::Model.unsupported("a model that is updatable"));
        }
        Place::Program.same("version", program.version, 1)?;
        if let Some(key) = program.attributes.keys().find(|key| *key != "buildInfo") {
            return Err(Place::Program.unsupported(format!("its attribute {key:?}")));
        }
        if !description.functions.is_empty() || !description.default_function_name.is_empty() {
            return several(model.specification_version, description, program);
        }
        let function = program.functions.get(MAIN).filter(|_| program.functions.len() == 1);
        let function = function.ok_or_else(|| Place::Program.unsupported("functions other than `main`"))?;
        let ModelDescription { input, output, state, .. } = description;
        let step = Step::read(model.specification_version, function, &Description { input, output, state })?;
        Ok(Functions { shapes: step.lengths.shapes, list: vec![(MAIN, step)], default: MAIN })
    }

    /// The step of most tokens; `read` has seen that there is one.
    pub(super) fn longest(&self) -> Result<&Step<'a>> {
        self.list.last().map(|(_, step)| step).ok_or_else(|| Place::Program.missing("function"))
    }

    /// The numbers of tokens that a step may have, ascending; of a range its ends.
    pub(super) fn lengths(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.list.iter().flat_map(|(_, step)| step.lengths.all.iter().copied()).collect();
        all.sort_unstable();
        all
    }

    /// The module that all functions are, with the bounds of the longest.
    pub(super) fn lift(&self, facts: &Facts, files: &Files) -> Result<Lifted> {
        let mut shorter = self.list.iter().rev();
        let (name, step) = shorter.next().ok_or_else(|| Place::Program.missing("function"))?;
        let longest = lift::lift(facts, step, files).map_err(|e| self.within(e, name))?;
        for (other, step) in shorter {
            let lifted = lift::lift(facts, step, files).map_err(|e| self.within(e, other))?;
            if let Some(what) = difference(&lifted, &longest) {
                let what = format!("{what} is not that of function {name:?}");
                return Err(Place::Function((*other).into(), None).damaged(what));
            }
        }
        Ok(longest)
    }

    /// The error with the name of the function, where there are several.
    pub(super) fn within(&self, error: ReadError, name: &str) -> ReadError {
        if self.shapes == Shapes::Functions { error.within(name) } else { error }
    }
}

fn several<'a>(version: i32, description: &'a ModelDescription, program: &'a Program) -> Result<Functions<'a>> {
    let place = Place::Model;
    if version < 9 {
        return Err(place.damaged("it has several functions, which came with version 9"));
    }
    if [&description.input, &description.output, &description.state].iter().any(|list| !list.is_empty()) {
        return Err(place.damaged("it describes inputs and outputs outside its functions"));
    }
    let told = &description.functions;
    place.at_most("number of functions", told.len() as u64, MAX_LENGTHS as u64)?;
    place.same("number of described functions", told.len(), program.functions.len())?;
    let mut list: Vec<(&str, Step<'_>)> = Vec::new();
    for described in told {
        let name = identifier(&place, &described.name)?;
        let whole = Place::Function(name.into(), None);
        let function = program.functions.get(name).ok_or_else(|| whole.missing("program"))?;
        let description = Description { input: &described.input, output: &described.output, state: &described.state };
        let step = Step::read(version, function, &description).map_err(|e| e.within(name))?;
        if step.flexible() || step.interface == Interface::State {
            return Err(whole.unsupported("functions whose shapes differ from step to step, or that keep a cache"));
        }
        if list.iter().any(|(other, step_of)| *other == name || step_of.bounds.t == step.bounds.t) {
            return Err(whole.damaged("another function has its name or its number of tokens"));
        }
        list.push((name, step));
    }
    list.sort_by_key(|(_, step)| step.bounds.t);
    let default = list.iter().map(|(name, _)| *name).find(|name| *name == description.default_function_name);
    let default = default.ok_or_else(|| place.damaged("defaultFunctionName names no function"))?;
    Ok(Functions { shapes: Shapes::Functions, list, default })
}

/// The first thing in which two functions differ beside the number of tokens and of rows, which are no more than tokens.
fn difference(one: &Lifted, longest: &Lifted) -> Option<String> {
    let (module, other) = (&one.module, &longest.module);
    let (bounds, wanted) = (module.bounds, other.bounds);
    if (bounds.c, bounds.r, module.cache) != (wanted.c, wanted.r.min(bounds.t), other.cache) {
        return Some("the size of its cache or its number of rows".into());
    }
    let same = |i: &usize| module.nodes.get(*i) == other.nodes.get(*i);
    if let Some(i) = (0..module.nodes.len().max(other.nodes.len())).find(|i| !same(i)) {
        return Some(
            module.nodes.get(i).map_or("its end".into(), |node| format!("its node {i}, `{}`,", node.op.name())),
        );
    }
    let file = |lifted: &Lifted| lifted.file.as_ref().map(|(name, _)| name.clone());
    if module.weights != other.weights || one.tensors != longest.tensors || file(one) != file(longest) {
        return Some("a weight of it".into());
    }
    (module.outputs != other.outputs).then(|| "its output".into())
}
