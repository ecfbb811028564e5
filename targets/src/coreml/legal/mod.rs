//! Rewrites a module into what an ML Program can say, node by node.
//!
//! Every rewritten node keeps its name, its layer and its type; the steps on the way are called after it
//! (`%q.rope.minus`). What is refused, and why, stands in `limits` and `shapes`; the rewriting itself in `rewrite` and `attention`.
//!
//! A legal module is written in `f32`, and its package computes in `fp16`: that is the element type of every value of an
//! ML Program here, so none is named. Casts to and from `f16` therefore vanish. Vectors and tables of formulas are
//! stored in `f16`.

mod attention;
mod limits;
mod rewrite;
mod shapes;
mod version;

use std::collections::HashMap;

use diffulex_compiler::ir::build::BuildError;
use diffulex_compiler::ir::{
    Builder, Encoding, Module, Node, NodeId, Op, Operand, Stage, WeightExpr, WeightType, verify,
};

use super::chain::split;
use super::{Interface, Options};
use crate::refusal::Refusal;
pub(super) use shapes::lengths;
pub(super) use version::version;

/// The module as Core ML can express it, stage `legal coreml`.
///
/// # Errors
/// Names the first node or weight that Core ML, the deployment target, or the shape of a step does not allow.
pub fn legalize(module: &Module, options: &Options) -> Result<Module, Refusal> {
    verify(module).map_err(|e| Refusal::Step { place: e.place, what: e.what })?;
    limits::check_step(module)?;
    let mut header = Module::new(&module.name, Stage::Legal(super::NAME.into()), module.bounds, module.cache);
    header.weights = limits::check_weights(module)?;
    let mut rewrite = Rewrite {
        from: module,
        to: Builder::new(header),
        options,
        map: vec![],
        shared: attention::shared_masks(module)?,
        masks: HashMap::new(),
        current: None,
    };
    let last_input = module.iter().take_while(|(_, n)| n.op == Op::Input).last().map(|(id, _)| id);
    for (id, node) in module.iter() {
        rewrite.enter(node);
        let made = rewrite.node(node).map_err(|e| e.at(node))?;
        rewrite.map.push(made);
        if node.op != Op::Input {
            rewrite.tile_masks(id)?;
        } else if Some(id) == last_input {
            (0..=id.0).try_for_each(|i| rewrite.tile_masks(NodeId(i)))?;
        }
    }
    let outputs: Vec<NodeId> = module.outputs.iter().map(|id| rewrite.map[id.0 as usize]).collect();
    let legal = rewrite.to.finish(outputs);
    check(&legal, options)?;
    Ok(legal)
}

/// Checks that a module is one that [`legalize`] could have made.
pub(super) fn check(module: &Module, options: &Options) -> Result<(), Refusal> {
    verify(module).map_err(|e| Refusal::Step { place: e.place, what: e.what })?;
    limits::check_step(module)?;
    limits::check_nodes(module)?;
    if options.interface == Interface::State {
        limits::check_kept(module)?;
    }
    version(module, options)?;
    if options.parts != 1 {
        split(module, options.parts)?;
    }
    lengths(module, options)?;
    match limits::check_weights(module)?.iter().zip(&module.weights).find(|(legal, weight)| legal != weight) {
        Some((_, weight)) => Err(Refusal::Encoding {
            place: format!("@{}", weight.name),
            encoding: weight.ty.encoding,
            role: "vector",
            nearest: &[Encoding::F16],
        }),
        None => Ok(()),
    }
}

/// The walk over a module: what it reads, what it has made.
struct Rewrite<'a> {
    from: &'a Module,
    to: Builder,
    options: &'a Options,
    /// For each node so far the one that stands for it.
    map: Vec<NodeId>,
    /// Masks, and how often they are to be repeated.
    shared: Vec<(NodeId, u32)>,
    /// Masks repeated for a number of query heads that share keys.
    masks: HashMap<(NodeId, u32), NodeId>,
    current: Option<&'a Node>,
}

/// A node cannot be rewritten.
enum Fault {
    /// The target lacks something.
    Refused(Refusal),
    /// The operands break a typing rule.
    Build(BuildError),
}

impl From<BuildError> for Fault {
    fn from(error: BuildError) -> Fault {
        Fault::Build(error)
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        Fault::Refused(refusal)
    }
}

impl Fault {
    fn at(self, node: &Node) -> Refusal {
        match self {
            Fault::Refused(refusal) => refusal,
            Fault::Build(error) => Refusal::Step { place: node.place(), what: error.to_string() },
        }
    }
}

impl<'a> Rewrite<'a> {
    fn enter(&mut self, node: &'a Node) {
        self.to.layer = node.layer;
        self.to.section.clone_from(&node.section);
        self.current = Some(node);
    }

    /// The operand of the new module that stands for `operand`.
    fn operand(&self, operand: Operand) -> Operand {
        match operand {
            Operand::Node(id) => Operand::Node(self.map[id.0 as usize]),
            same => same,
        }
    }

    /// Adds a step on the way to the current node: `%name.suffix`.
    fn step(&mut self, suffix: &str, op: Op, args: impl Into<Vec<Operand>>) -> Result<Operand, BuildError> {
        let name = self.current.map_or("", |n| n.name.as_str());
        let name = format!("{name}.{suffix}");
        self.to.node(&name, op, args).map(Operand::Node)
    }

    /// Adds what stands for the current node.
    fn last(&mut self, op: Op, args: impl Into<Vec<Operand>>) -> Result<NodeId, BuildError> {
        let name = self.current.map_or("", |n| n.name.as_str());
        self.to.node(name, op, args)
    }

    /// A constant that many nodes share; another one of the same name gets a number.
    fn constant(&mut self, name: &str, shape: &[u32], expr: &WeightExpr) -> Result<Operand, BuildError> {
        let ty = WeightType::new(Encoding::F16, shape);
        let mut last = self.to.weight(name, ty.clone(), expr.clone());
        for i in 2..100 {
            if last.is_ok() {
                break;
            }
            last = self.to.weight(&format!("{name}.{i}"), ty.clone(), expr.clone());
        }
        last.map(Operand::Weight)
    }
}
