//! Somebody looks at values while they are made.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use diffulex_compiler::ir::NodeId;
use tract_core::internal::*;

use super::{Compute, View, tensor};

/// Sees the value of a node.
pub type Watcher = dyn Fn(NodeId, &[f32]) + Send + Sync;

/// Which values are looked at, and by whom.
#[derive(Default)]
pub(crate) struct Watch {
    /// The nodes.
    pub(crate) nodes: HashSet<NodeId>,
    /// Nobody, when no nodes are.
    pub(crate) see: Option<Arc<Watcher>>,
}

impl Watch {
    /// The op that shows the value of a node, if somebody wants to see it.
    pub(crate) fn of(&self, node: NodeId) -> Option<Watched> {
        let see = self.see.clone().filter(|_| self.nodes.contains(&node))?;
        Some(Watched { node, see })
    }
}

/// Shows a value and hands it on.
pub(crate) struct Watched {
    node: NodeId,
    see: Arc<Watcher>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "watched {}", self.node.0)
    }
}

impl Compute for Watched {
    fn name(&self) -> &'static str {
        "watched"
    }

    fn compute(&self, args: &[View<'_>]) -> TractResult<Tensor> {
        let [x] = args else { bail!("{} takes one value", self.name()) };
        (self.see)(self.node, x.data);
        tensor(x.shape, |out| {
            out.copy_from_slice(x.data);
            Ok(())
        })
    }

    fn pure(&self) -> bool {
        false
    }
}
