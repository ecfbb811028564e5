//! Making a changed copy of a module: most nodes are copied, some are replaced.

use crate::ir::build::BuildError;
use crate::ir::{Builder, Module, Node, NodeId, Op, Operand};

/// Copies a module node by node; old ids are translated to new ones on the way.
pub struct Rewriter<'a> {
    /// The module that is copied.
    pub old: &'a Module,
    /// The copy so far.
    pub new: Builder,
    map: Vec<Option<NodeId>>,
}

impl<'a> Rewriter<'a> {
    /// Starts a copy, with the weights of `old` and no nodes.
    pub fn new(old: &'a Module) -> Rewriter<'a> {
        Rewriter { old, new: Builder::like(old), map: vec![None; old.nodes.len()] }
    }

    /// Copies every node for which `replace` gives nothing; where it gives a node, that one takes its place.
    ///
    /// # Errors
    /// When a replaced node does not fit its users.
    pub fn run(
        mut self,
        mut replace: impl FnMut(&mut Rewriter<'a>, NodeId, &'a Node) -> Result<Option<NodeId>, BuildError>,
    ) -> Result<Module, BuildError> {
        for (id, node) in self.old.iter() {
            self.new.layer = node.layer;
            self.new.section = node.section.clone();
            let made = match replace(&mut self, id, node)? {
                Some(made) => made,
                None => self.copy(node)?,
            };
            self.map[id.0 as usize] = Some(made);
        }
        let outputs = self.old.outputs.iter().map(|&id| self.node(id)).collect::<Result<Vec<_>, _>>()?;
        Ok(self.new.finish(outputs))
    }

    /// Copies one node as it is.
    ///
    /// # Errors
    /// When its operands were replaced by something that does not fit.
    pub fn copy(&mut self, node: &Node) -> Result<NodeId, BuildError> {
        if node.op == Op::Input {
            return Ok(self.new.input(&node.name, node.ty.clone()));
        }
        let args = node.args.iter().map(|&a| self.operand(a)).collect::<Result<Vec<_>, _>>()?;
        self.new.node(&node.name, node.op.clone(), args)
    }

    /// What stands in the copy for an operand of the old module.
    ///
    /// # Errors
    /// When the node was not copied yet.
    pub fn operand(&self, operand: Operand) -> Result<Operand, BuildError> {
        match operand {
            Operand::Node(id) => self.node(id).map(Operand::Node),
            other => Ok(other),
        }
    }

    fn node(&self, id: NodeId) -> Result<NodeId, BuildError> {
        let place = || self.old.node(id).place();
        self.map[id.0 as usize].ok_or_else(|| BuildError { place: place(), what: "is used before it is made".into() })
    }
}

/// The node behind an operand, and its id.
pub(crate) fn node_of<'a>(module: &'a Module, operand: Option<&Operand>) -> Option<(NodeId, &'a Node)> {
    match operand {
        Some(Operand::Node(id)) => Some((*id, module.node(*id))),
        _ => None,
    }
}
