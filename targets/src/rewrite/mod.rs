//! The walk from a module to a legal one, node by node, that all targets share.
//!
//! Every rewritten node keeps its name, its layer and its type; the steps on the way are called after it
//! (`%q.rope.minus`). A target says what becomes of each node; what most of them do alike stands in `ops` and `sharing`.

mod ops;
mod sharing;
mod step;

use std::collections::HashMap;

use diffulex_compiler::ir::build::BuildError;
use diffulex_compiler::ir::{Builder, Encoding, Module, Node, NodeId, Op, Operand, WeightExpr, WeightType};

use crate::refusal::Refusal;
pub(crate) use sharing::tall;
pub(crate) use step::{Rows, check as check_step};

/// The walk over a module: what it reads, what it has made.
pub(crate) struct Rewrite<'a> {
    /// The source module.
    pub(crate) from: &'a Module,
    /// The module in the making.
    pub(crate) to: Builder,
    /// For each node so far the one that stands for it.
    map: Vec<NodeId>,
    limits: Limits,
    /// Masks, and how often they are to be repeated.
    shared: Vec<(NodeId, u32)>,
    /// Masks repeated for a number of query heads that share keys.
    masks: HashMap<(NodeId, u32), NodeId>,
    current: Option<&'a Node>,
}

/// In what targets differ, though they do the same.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Encoding of constants that come up on the way.
    pub(crate) constants: Encoding,
    /// Most operands that one concatenation joins.
    pub(crate) joined: usize,
}

/// A node cannot be rewritten.
pub(crate) enum Fault {
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

/// An operand that a node cannot have.
pub(crate) fn unfit(what: &str) -> BuildError {
    BuildError { place: "operand".into(), what: what.into() }
}

/// Adds what becomes of a node, given its operands in the new module.
pub(crate) type Rule<'a> = &'a dyn Fn(&mut Rewrite<'_>, &Node, &[Operand]) -> Result<NodeId, Fault>;

/// Walks over `from`; `rule` adds what becomes of each node to the new module, which begins as `header`.
///
/// # Errors
/// The first that `rule` cannot rewrite.
pub(crate) fn rewrite(from: &Module, header: Module, limits: Limits, rule: Rule<'_>) -> Result<Module, Refusal> {
    let mut walk = Rewrite {
        from,
        to: Builder::new(header),
        map: vec![],
        limits,
        shared: sharing::shared_masks(from)?,
        masks: HashMap::new(),
        current: None,
    };
    let last_input = from.iter().take_while(|(_, n)| n.op == Op::Input).last().map(|(id, _)| id);
    for (id, node) in from.iter() {
        walk.enter(node);
        let args: Vec<Operand> = node.args.iter().map(|&arg| walk.operand(arg)).collect();
        let made = rule(&mut walk, node, &args).map_err(|e| e.at(node))?;
        walk.map.push(made);
        if node.op != Op::Input {
            walk.tile_masks(id)?;
        } else if Some(id) == last_input {
            (0..=id.0).try_for_each(|i| walk.tile_masks(NodeId(i)))?;
        }
    }
    let outputs: Vec<NodeId> = from.outputs.iter().map(|id| walk.map[id.0 as usize]).collect();
    Ok(walk.to.finish(outputs))
}

impl<'a> Rewrite<'a> {
    fn enter(&mut self, node: &'a Node) {
        self.to.layer = node.layer;
        self.to.section.clone_from(&node.section);
        self.current = Some(node);
    }

    /// The operand of the new module that stands for `operand`.
    pub(crate) fn operand(&self, operand: Operand) -> Operand {
        match operand {
            Operand::Node(id) => Operand::Node(self.map[id.0 as usize]),
            same => same,
        }
    }

    /// Adds a step on the way to the current node: `%name.suffix`.
    pub(crate) fn step(&mut self, suffix: &str, op: Op, args: impl Into<Vec<Operand>>) -> Result<Operand, BuildError> {
        let name = self.current.map_or("", |n| n.name.as_str());
        let name = format!("{name}.{suffix}");
        self.to.node(&name, op, args).map(Operand::Node)
    }

    /// Adds what stands for the current node.
    pub(crate) fn last(&mut self, op: Op, args: impl Into<Vec<Operand>>) -> Result<NodeId, BuildError> {
        let name = self.current.map_or("", |n| n.name.as_str());
        self.to.node(name, op, args)
    }

    /// A constant that many nodes share; another one of the same name gets a number.
    pub(crate) fn constant(&mut self, name: &str, shape: &[u32], expr: &WeightExpr) -> Result<Operand, BuildError> {
        let ty = WeightType::new(self.limits.constants, shape);
        let mut last = self.to.weight(name, ty.clone(), expr.clone());
        for i in 2..100 {
            if last.is_ok() {
                break;
            }
            last = self.to.weight(&format!("{name}.{i}"), ty.clone(), expr.clone());
        }
        last.map(Operand::Weight)
    }

    /// Size of the last axis of an operand of the new module.
    pub(crate) fn width(&self, x: Operand) -> Result<u32, BuildError> {
        self.to.module().operand_type(x).width().ok_or_else(|| unfit("has no known width"))
    }
}
