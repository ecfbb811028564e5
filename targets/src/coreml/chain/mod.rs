//! A module in parts that run one after another, and parts as one module again.
//!
//! Each part has some of the layers and hands the hidden state, `f32[1, T, H]`, to the next one, which is given it as
//! `%hidden`. What depends on nothing but the inputs is made anew in every part that reads it, and a weight that several
//! parts read is in all of them: a table that is also the head is stored twice.

mod join;
mod ranges;
mod split;

use std::collections::HashMap;

use diffulex_compiler::ir::build::BuildError;
use diffulex_compiler::ir::{Builder, CacheId, Module, NodeId, Operand, WeightId, verify};

use crate::refusal::Refusal;
pub use join::join;
pub use split::split;

/// The hidden state that a part is given.
pub(super) const HIDDEN: &str = "hidden";

/// Nodes of modules on their way into another one. Weights are listed in the order of their first use.
struct Copying {
    to: Builder,
    weights: HashMap<String, WeightId>,
}

/// Where a node comes from: its module, what stands for each of its nodes, and what turns its layers into those of the
/// new module.
struct From<'a> {
    module: &'a Module,
    map: Vec<Option<NodeId>>,
    shift: i64,
}

impl<'a> From<'a> {
    fn new(module: &'a Module, shift: i64) -> From<'a> {
        From { module, map: vec![None; module.nodes.len()], shift }
    }

    /// A layer by its number in the new module.
    fn layer(&self, layer: u32) -> u32 {
        // Both modules are verified: the numbers of layers are small.
        (i64::from(layer) + self.shift) as u32
    }
}

impl Copying {
    fn new(header: Module) -> Copying {
        Copying { to: Builder::new(header), weights: HashMap::new() }
    }

    /// The operands of a node, in terms of the new module.
    fn operands(&mut self, from: &From<'_>, id: NodeId) -> Result<Vec<Operand>, Refusal> {
        let node = from.module.node(id);
        let mut args = Vec::new();
        for arg in &node.args {
            args.push(match *arg {
                Operand::Node(read) => {
                    let what = || format!("reads {}, which lies in another part", from.module.node(read).place());
                    let missing = || Refusal::Step { place: node.place(), what: what() };
                    Operand::Node(from.map[read.0 as usize].ok_or_else(missing)?)
                }
                Operand::Weight(id) => Operand::Weight(self.weight(from.module, id)?),
                Operand::Cache(cache) => Operand::Cache(CacheId { layer: from.layer(cache.layer), ..cache }),
            });
        }
        Ok(args)
    }

    /// Adds a node with these operands.
    fn node(&mut self, from: &From<'_>, id: NodeId, args: Vec<Operand>) -> Result<NodeId, Refusal> {
        let node = from.module.node(id);
        self.to.layer = node.layer.map(|layer| from.layer(layer));
        self.to.section.clone_from(&node.section);
        self.to.node(&node.name, node.op.clone(), args).map_err(refused)
    }

    fn weight(&mut self, from: &Module, id: WeightId) -> Result<WeightId, Refusal> {
        let weight = from.weight(id);
        if let Some(&known) = self.weights.get(&weight.name) {
            let same = self.to.module().weight(known) == weight;
            let what = || "is another weight in another part".to_string();
            return if same {
                Ok(known)
            } else {
                Err(Refusal::Step { place: format!("@{}", weight.name), what: what() })
            };
        }
        let made = self.to.weight(&weight.name, weight.ty.clone(), weight.expr.clone()).map_err(refused)?;
        self.to.search(made, weight.search);
        self.weights.insert(weight.name.clone(), made);
        Ok(made)
    }

    fn finish(self, outputs: Vec<NodeId>) -> Result<Module, Refusal> {
        let made = self.to.finish(outputs);
        verify(&made).map_err(|e| Refusal::Step { place: e.place, what: e.what })?;
        Ok(made)
    }
}

fn refused(error: BuildError) -> Refusal {
    Refusal::Step { place: error.place, what: error.what }
}
