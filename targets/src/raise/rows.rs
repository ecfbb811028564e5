//! Rows that are chosen by a product with rows of zeros and a one: `gather_rows`.

use diffulex_compiler::ir::{DType, Dim, Module, Node, NodeId, Op, Operand, ValueType};

/// Makes `rows` an input of row numbers again, if nothing but such products reads it.
pub(super) fn gather(module: &mut Module) {
    let Some(rows) = module.input("rows").filter(|id| module.node(*id).ty == chosen()) else { return };
    let choice = Operand::Node(rows);
    let picks = |node: &Node| match (&node.op, &node.args[..]) {
        (Op::Matmul { transpose: false }, [first, x]) if *first == choice && *x != choice => {
            matches!(module.operand_type(*x).shape[..], [Dim { n: 1, c: 0, t: 0, r: 0 }, Dim::T, _])
        }
        _ => false,
    };
    let readers: Vec<NodeId> = module.iter().filter(|(_, n)| n.args.contains(&choice)).map(|(id, _)| id).collect();
    if readers.is_empty() || !readers.iter().all(|id| picks(module.node(*id))) {
        return;
    }
    module.nodes[rows.0 as usize].ty = ValueType::new(DType::I32, [Dim::R]);
    for id in readers {
        let node = &mut module.nodes[id.0 as usize];
        node.op = Op::GatherRows;
        node.args.swap(0, 1);
    }
}

/// The type of such rows, one for each that is chosen.
fn chosen() -> ValueType {
    ValueType::f32([Dim::fixed(1), Dim::R, Dim::T])
}
