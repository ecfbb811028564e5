//! Names of values and tensors, which are those of nodes and weights.

use std::collections::{HashMap, HashSet};

use diffulex_compiler::ir::Node;

use crate::onnx::schema::{self, COS, LOGITS, MASK, SIN, TOKENS};

/// Names in use.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    taken: HashSet<String>,
    next: HashMap<String, u32>,
}

impl Names {
    /// Those of inputs and outputs.
    pub(super) fn new(layers: u32) -> Names {
        let caches = schema::caches(layers).flat_map(|cache| [schema::past(cache), schema::new(cache)]);
        let fixed = [TOKENS, COS, SIN, MASK, LOGITS].map(String::from);
        Names { taken: caches.chain(fixed).collect(), next: HashMap::new() }
    }

    /// `name`, or `name.2`, `name.3` … if it is taken.
    pub(super) fn free(&mut self, name: &str) -> String {
        let mut found = name.to_string();
        let number = self.next.entry(name.to_string()).or_insert(2);
        while self.taken.contains(&found) {
            found = format!("{name}.{number}");
            *number += 1;
        }
        self.taken.insert(found.clone());
        found
    }

    /// The name of what a node makes: `layers.3.q.rope`.
    pub(super) fn of(&mut self, node: &Node) -> String {
        match node.layer {
            Some(layer) => self.free(&format!("layers.{layer}.{}", node.name)),
            None => self.free(&node.name),
        }
    }
}
