//! Lifts a module of primitives to the ops that families emit and engines like best.
//!
//! A pattern looks at one node, its root, and at what that node was made of; where it recognizes the meaning, the root
//! becomes one high-level op of the same type. What only the pattern needed is dropped afterwards. Every pattern is
//! exact: root and op compute the same for all inputs.
//!
//! | pattern | from |
//! |---|---|
//! | `norm` | `x · rsqrt(mean(x²) + eps) · gain` |
//! | `heads` | a reshape with a transpose: `heads`, `merge_heads` |
//! | `rope` | `x · cos + (−b, a) · sin` |
//! | `attention` | softmax between two matrix products, with or without heads that share keys |
//! | `rows` | a product with rows of zeros and a one: `gather_rows` |
//! | `split` | products with the rows of a filter in parts, joined: one `linear` |
//! | `gate` | `x · sigmoid(x)`, and the same between two halves: `silu`, `swiglu` |

mod attention;
mod gate;
mod heads;
mod norm;
mod rope;
mod rows;
pub(crate) mod split;

use std::collections::HashMap;

use diffulex_compiler::ir::verify::VerifyError;
use diffulex_compiler::ir::{
    Dim, Module, Node, NodeId, Op, Operand, Stage, ValueType, Weight, WeightSource, infer::infer, verify,
};
use diffulex_compiler::passes::{self, PassError};
use diffulex_compiler::quant::Scheme;

use crate::naming::rename;

/// Weights of more numbers than this are not looked into.
const MAX_LOOK: usize = 1 << 16;
/// Numbers that are looked at in all; the vectors of a hundred wide layers are a tenth of that.
const MAX_LOOKS: usize = 1 << 24;

/// The module in terms of high-level ops, as far as they are recognized. Constants are compared through `source`.
///
/// # Errors
/// When the result breaks a rule of the IR, which is a bug.
pub fn raise(module: &Module, source: &dyn WeightSource) -> Result<Module, Box<PassError>> {
    let view = View::new(module, source);
    let mut raised = module.clone();
    rows::gather(&mut raised);
    split::join(&mut raised);
    for (id, node) in module.iter() {
        let found = patterns().iter().find_map(|pattern| pattern(&view, node).filter(|found| view.fits(id, found)));
        if let Some((op, args)) = found {
            let root = &mut raised.nodes[id.0 as usize];
            (root.op, root.args) = (op, args);
        }
    }
    let mut raised = passes::run(raised, &["drop-dead"], &Scheme::F32, &mut |_| {}).map_err(Box::new)?;
    if matches!(module.stage, Stage::Read(_)) {
        rename(&mut raised);
    }
    match verify(&raised) {
        Ok(()) => Ok(raised),
        Err(VerifyError { rule, place, what }) => {
            let (rule, before) = (format!("verify::{rule}"), Box::new(module.clone()));
            Err(Box::new(PassError { pass: "raise", rule, place, what, before, after: Some(Box::new(raised)) }))
        }
    }
}

type Found = (Op, Vec<Operand>);

fn patterns() -> [fn(&View<'_>, &Node) -> Option<Found>; 7] {
    [norm::rms_norm, heads::heads, heads::merge_heads, rope::rope, attention::attention, gate::swiglu, gate::silu]
}

/// A module with a way to ask what a value was made of.
struct View<'a> {
    module: &'a Module,
    /// For each weight the one number that it consists of.
    uniform: Vec<Option<f32>>,
    /// For each layer, and for what follows them, the value that the layer before hands on.
    handed: HashMap<Option<u32>, NodeId>,
}

impl<'a> View<'a> {
    fn new(module: &'a Module, source: &dyn WeightSource) -> View<'a> {
        let mut looks = 0;
        let uniform = |weight: &Weight| {
            let (rows, columns) = (weight.ty.rows(), weight.ty.columns());
            let count = rows.checked_mul(columns).filter(|count| *count <= MAX_LOOK)?;
            looks += count;
            if looks > MAX_LOOKS {
                return None;
            }
            let mut numbers = Vec::new();
            weight.expr.rows(source, columns, 0..rows, &mut numbers).ok()?;
            let first = *numbers.first()?;
            (first.is_finite() && numbers.iter().all(|n| *n == first)).then_some(first)
        };
        let changes = module.nodes.windows(2).enumerate().filter(|(_, pair)| pair[0].layer != pair[1].layer);
        let handed = changes.filter(|(_, pair)| pair[0].layer.is_some());
        let handed = handed.map(|(i, pair)| (pair[1].layer, NodeId(i as u32))).collect();
        View { module, uniform: module.weights.iter().map(uniform).collect(), handed }
    }

    /// The node that makes `operand`.
    fn node(&self, operand: Operand) -> Option<&'a Node> {
        match operand {
            Operand::Node(id) => Some(self.module.node(id)),
            _ => None,
        }
    }

    /// The operand of the one-operand node `of`, if it is `op`.
    fn under(&self, of: Operand, op: &Op) -> Option<Operand> {
        self.node(of).filter(|node| node.op == *op).and_then(|node| node.args.first().copied())
    }

    /// The operands of the two-operand node `of`, if it is `op`, in both orders.
    fn either(&self, of: Operand, op: &Op) -> [Option<(Operand, Operand)>; 2] {
        let args = self.node(of).filter(|node| node.op == *op).map(|node| node.args.as_slice());
        let Some(&[a, b]) = args else { return [None, None] };
        [Some((a, b)), Some((b, a))]
    }

    /// The number that a constant consists of.
    fn uniform(&self, operand: Operand) -> Option<f32> {
        match operand {
            Operand::Weight(id) => self.uniform[id.0 as usize],
            _ => None,
        }
    }

    /// The number that a constant of one number is.
    fn scalar(&self, operand: Operand) -> Option<f32> {
        let one = self.shape(operand).iter().all(|d| d.known() == Some(1));
        self.uniform(operand).filter(|_| one)
    }

    fn shape(&self, operand: Operand) -> Vec<Dim> {
        self.module.operand_type(operand).shape
    }

    /// Whether the find has the type of its root and reads only what its root's layer may read.
    fn fits(&self, root: NodeId, (op, args): &Found) -> bool {
        let types: Vec<ValueType> = args.iter().map(|&a| self.module.operand_type(a)).collect();
        let root = self.module.node(root);
        let seen = |arg: &Operand| self.node(*arg).is_none_or(|node| node.layer == root.layer || node.layer.is_none());
        let handed = self.handed.get(&root.layer).map(|id| Operand::Node(*id));
        infer(op, &types).is_ok_and(|ty| ty == root.ty) && args.iter().all(|arg| seen(arg) || Some(*arg) == handed)
    }
}
