//! Values that share a grid.

use diffulex_compiler::ir::{Module, NodeId, Op, Operand};
use diffulex_compiler::quant::{Grid, GridType};

use super::round::{Rounding, moves};

/// Values, each with the first of those that share its grid, and what is known of its ends.
pub(super) struct Groups {
    /// Where to look on for the first of a group.
    next: Vec<usize>,
    ends: Vec<Ends>,
}

#[derive(Clone, Copy, Default)]
struct Ends {
    /// Of values, and for the type of caches.
    ranges: Option<[(f32, f32); 2]>,
    fixed: Option<Grid>,
}

impl Groups {
    /// The groups of a module, without ranges.
    pub(super) fn of(module: &Module, rounding: Rounding) -> Groups {
        let mut groups =
            Groups { next: (0..module.nodes.len()).collect(), ends: vec![Ends::default(); module.nodes.len()] };
        let shared = rounding.cache == rounding.values;
        for (id, node) in module.iter() {
            if moves(&node.op) || node.op == Op::Cached && shared {
                for arg in &node.args {
                    if let Operand::Node(arg) = arg {
                        groups.join(*arg, id);
                    }
                }
            }
        }
        groups
    }

    fn join(&mut self, a: NodeId, b: NodeId) {
        let (a, b) = (self.first(a), self.first(b));
        self.next[a.max(b)] = a.min(b);
    }

    fn first(&self, id: NodeId) -> usize {
        let mut i = id.0 as usize;
        while self.next[i] != i {
            i = self.next[i];
        }
        i
    }

    /// Whether two values share a grid.
    pub(super) fn same(&self, a: NodeId, b: NodeId) -> bool {
        self.first(a) == self.first(b)
    }

    /// Says that a value takes numbers from these ranges: of values, and for the type of caches.
    pub(super) fn widen(&mut self, id: NodeId, ranges: [(f32, f32); 2]) {
        let first = self.first(id);
        let known = self.ends[first].ranges.get_or_insert(ranges);
        for (known, (least, most)) in known.iter_mut().zip(ranges) {
            *known = (known.0.min(least), known.1.max(most));
        }
    }

    /// Says which grid a value has.
    pub(super) fn fix(&mut self, id: NodeId, grid: Grid) {
        let first = self.first(id);
        self.ends[first].fixed = Some(grid);
    }

    /// The grid of a value.
    pub(super) fn grid(&self, id: NodeId, ty: GridType) -> Grid {
        let Ends { ranges, fixed } = self.ends[self.first(id)];
        fixed.unwrap_or_else(|| Grid::of(ranges.unwrap_or_default()[0], ty))
    }

    /// The grid of rows once they are committed.
    pub(super) fn cache_grid(&self, id: NodeId, ty: GridType) -> Grid {
        Grid::of(self.ends[self.first(id)].ranges.unwrap_or_default()[1], ty)
    }
}
