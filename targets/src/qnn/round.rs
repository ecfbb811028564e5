//! Rounding every value of a legal module to a grid: where `fake_quantize` stands, and on which grids.
//!
//! * What an op computes is rounded right behind it. The rounded value keeps the name, the op is called `NAME.raw`.
//! * What only moves numbers (`reshape`, `transpose`, `slice`, `concat`) shares the grid of its operands, all of one
//!   concatenation among them, and is not rounded again. So does `embed` with its table.
//! * Committed rows have a grid of their own type, from the range of the rows that become them: the cache, the new rows
//!   and the two joined share it, so that a host copies bytes. Where that is the type of all values, it is one grid.
//! * `sigmoid` and `softmax` have fixed grids, which the HTP assumes whatever a file says.
//! * The mask hides by [`MARGIN`] below the smallest score that is seen: the sum of scores and mask ends there, and the
//!   mask is low enough that the largest hidden score falls below. An input of -1e30 becomes the grid's lower end.
//! * Tables and gains have the type of all values, other vectors `uint16`; filters keep `int8` and `int4`.

use diffulex_compiler::ir::build::BuildError;
use diffulex_compiler::ir::{Builder, Encoding, Module, Node, NodeId, Op, Operand, Stage, Weight, WeightId, verify};
use diffulex_compiler::passes::Rewriter;
use diffulex_compiler::quant::{Grid, GridType};

use super::groups::Groups;
use crate::refusal::Refusal;

/// How far below the smallest visible score a hidden one lies at least: its weight is then below 2.1e-9 of any other.
pub(super) const MARGIN: f32 = 20.0;
/// The mask is at most this.
const MASK: f32 = -50.0;

/// What values are rounded to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rounding {
    /// All values but those in caches.
    pub values: GridType,
    /// Committed rows.
    pub cache: GridType,
}

/// Gives the range of a place ([`Node::place`] of a node, `@name` of a weight) for numbers of that type.
pub type RangeOf<'a> = &'a dyn Fn(&str, GridType) -> Option<(f32, f32)>;

/// The nodes and weights of a legal module whose ranges must be known to round it.
pub fn wanted(module: &Module) -> (Vec<NodeId>, Vec<WeightId>) {
    let nodes = module.iter().filter(|(_, node)| is_computed(node) && fixed(&node.op, GridType::U16).is_none());
    let nodes = nodes.map(|(id, _)| id).collect();
    let weights = (0..module.weights.len() as u32).map(WeightId);
    (nodes, weights.filter(|id| role(module, *id) != Role::Filter).collect())
}

/// The module with every value rounded, stage `legal qnn`.
///
/// # Errors
/// Names a value whose range is not known, or a filter that cannot be multiplied with rounded values.
pub fn round(module: &Module, rounding: Rounding, range: RangeOf<'_>) -> Result<Module, Refusal> {
    verify(module).map_err(|e| Refusal::Step { place: e.place, what: e.what })?;
    check_cache(rounding)?;
    let known = |place: &str, ty: GridType| {
        let what = "has no range; calibrate again".into();
        range(place, ty).ok_or_else(|| Refusal::Step { place: place.into(), what })
    };
    let both = |place: &str| Ok([known(place, rounding.values)?, known(place, rounding.cache)?]);
    let mut header = Module::new(&module.name, Stage::Legal(super::NAME.into()), module.bounds, module.cache);
    header.weights.clone_from(&module.weights);
    let mut tables = vec![None; module.weights.len()];
    for (i, weight) in header.weights.iter_mut().enumerate() {
        let ty = match role(module, WeightId(i as u32)) {
            Role::Filter => {
                check_filter(weight, rounding)?;
                continue;
            }
            Role::Table | Role::Gain => rounding.values,
            Role::Vector => GridType::U16,
        };
        let ends = known(&format!("@{}", weight.name), ty)?;
        weight.ty.encoding = if ty == GridType::U8 { Encoding::U8 } else { Encoding::U16 };
        weight.grid = Some(Grid::of(ends, ty));
        tables[i] = Some(ends);
    }
    let mut groups = Groups::of(module, rounding);
    for (id, node) in module.iter() {
        match (&node.op, node.args.as_slice()) {
            (Op::Embed, [_, Operand::Weight(table)]) => {
                if let Some(ends) = tables[table.0 as usize] {
                    groups.widen(id, [ends; 2]);
                }
            }
            _ if is_computed(node) => match fixed(&node.op, rounding.values) {
                Some(grid) => groups.fix(id, grid),
                None => groups.widen(id, both(&node.place())?),
            },
            _ => {}
        }
    }
    hide(module, &mut groups, &|place| known(place, rounding.values))?;
    let walk = Walk { from: module, to: Builder::new(header), map: vec![], rounding, groups };
    let rounded = walk.run().map_err(|e| Refusal::Step { place: e.place, what: e.what })?;
    verify(&rounded).map_err(|e| Refusal::Step { place: e.place, what: e.what })?;
    Ok(rounded)
}

/// The module without any rounding of values.
///
/// # Errors
/// When it breaks a rule without them.
pub fn unrounded(module: &Module) -> Result<Module, BuildError> {
    Rewriter::new(module).run(|rewriter, _, node| match (&node.op, node.args.first()) {
        (Op::FakeQuantize(_), Some(rounded)) => match rewriter.operand(*rounded)? {
            Operand::Node(id) => Ok(Some(id)),
            _ => Ok(None),
        },
        _ => Ok(None),
    })
}

/// Gives the range of a place, or refuses.
type Known<'a> = &'a dyn Fn(&str) -> Result<(f32, f32), Refusal>;

/// Ranges of mask and masked scores.
fn hide(module: &Module, groups: &mut Groups, known: Known<'_>) -> Result<(), Refusal> {
    let Some(mask) = module.input("mask") else { return Ok(()) };
    let mut lowest = MASK;
    for (id, node) in module.iter() {
        let (Op::Add, [Operand::Node(scores), Operand::Node(shown)]) = (&node.op, &node.args[..]) else { continue };
        if groups.same(*shown, mask) {
            let (visible, all) = (known(&node.place())?, known(&module.node(*scores).place())?);
            let end = visible.0 - MARGIN;
            groups.widen(id, [(end, visible.1); 2]);
            lowest = lowest.min(end - all.1.max(0.0));
        }
    }
    groups.widen(mask, [(lowest, 0.0); 2]);
    Ok(())
}

/// What a weight is for.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    Table,
    Filter,
    Gain,
    Vector,
}

fn role(module: &Module, weight: WeightId) -> Role {
    let users = module.nodes.iter().flat_map(|node| node.args.iter().enumerate().map(move |arg| (&node.op, arg)));
    let mut uses = users.filter(|(_, (_, arg))| **arg == Operand::Weight(weight)).map(|(op, (i, _))| match (op, i) {
        (Op::Embed, 1) => Role::Table,
        (Op::Linear, 1) => Role::Filter,
        (Op::RmsNorm { .. }, 1) => Role::Gain,
        _ => Role::Vector,
    });
    // What is a filter, too, keeps the numbers of one.
    let first = uses.next().unwrap_or(Role::Vector);
    if uses.any(|other| other == Role::Filter) { Role::Filter } else { first }
}

/// Whether a node computes numbers of its own, which are to be rounded.
fn is_computed(node: &Node) -> bool {
    !moves(&node.op) && !matches!(node.op, Op::Input | Op::Embed | Op::Cached)
}

/// Whether an op only moves numbers.
pub(super) fn moves(op: &Op) -> bool {
    matches!(op, Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. } | Op::Concat { .. })
}

/// The grid of a value whose ends are known beforehand.
fn fixed(op: &Op, ty: GridType) -> Option<Grid> {
    let steps = (ty.ends().1 - ty.ends().0 + 1) as f32;
    match op {
        Op::Sigmoid | Op::Softmax => Some(Grid { ty, scale: 1.0 / steps, zero: 0 }),
        Op::RopeCos { .. } | Op::RopeSin { .. } => Some(Grid::of((-1.0, 1.0), ty)),
        _ => None,
    }
}

/// Checks that the rows of caches can be multiplied with values.
fn check_cache(Rounding { values, cache }: Rounding) -> Result<(), Refusal> {
    let nearest = match (values, cache) {
        (GridType::U8, GridType::U16 | GridType::I16) => "`cache = \"uint8\"`",
        // The HTP would make 8 bits of them.
        (_, GridType::U16) => "`cache = \"int16\"`",
        _ => return Ok(()),
    };
    let what = format!("values in {values} are not multiplied with rows in {cache}");
    Err(Refusal::Shapes { place: "cache".into(), what, nearest: nearest.into() })
}

/// Checks that a filter can be multiplied with values that are rounded so.
fn check_filter(weight: &Weight, rounding: Rounding) -> Result<(), Refusal> {
    const WIDE: &[Encoding] =
        &[Encoding::Int8Row, Encoding::Int4G32, Encoding::Int4G64, Encoding::Int4G128, Encoding::Int4Row];
    const NARROW: &[Encoding] = &[Encoding::Int8Row, Encoding::Int4Row];
    let nearest = if rounding.values == GridType::U8 { NARROW } else { WIDE };
    let (place, encoding) = (format!("@{}", weight.name), weight.ty.encoding);
    match nearest.contains(&encoding) {
        true => Ok(()),
        false => Err(Refusal::Encoding { place, encoding, role: "filter of rounded values", nearest }),
    }
}

/// The walk that puts the roundings in.
struct Walk<'a> {
    from: &'a Module,
    to: Builder,
    map: Vec<NodeId>,
    rounding: Rounding,
    groups: Groups,
}

impl Walk<'_> {
    fn run(mut self) -> Result<Module, BuildError> {
        let inputs = self.from.nodes.iter().take_while(|node| node.op == Op::Input).count();
        for (id, node) in self.from.iter() {
            self.to.layer = node.layer;
            self.to.section.clone_from(&node.section);
            let made = match node.op {
                Op::Input => self.to.input(&node.name, node.ty.clone()),
                _ => self.node(id, node)?,
            };
            self.map.push(made);
            // Inputs come first, so what rounds one follows them all.
            if id.0 + 1 == inputs as u32 {
                self.inputs(inputs)?;
            }
        }
        let outputs: Vec<NodeId> = self.from.outputs.iter().map(|id| self.map[id.0 as usize]).collect();
        Ok(self.to.finish(outputs))
    }

    fn inputs(&mut self, inputs: usize) -> Result<(), BuildError> {
        for i in 0..inputs {
            let node = &self.from.nodes[i];
            if !node.ty.dtype.is_integer() {
                let grid = self.groups.grid(NodeId(i as u32), self.rounding.values);
                let args = [self.map[i].into()];
                self.map[i] = self.to.node(&format!("{}.rounded", node.name), Op::FakeQuantize(grid), args)?;
            }
        }
        Ok(())
    }

    fn node(&mut self, id: NodeId, node: &Node) -> Result<NodeId, BuildError> {
        let mut args: Vec<Operand> = node.args.iter().map(|&arg| self.operand(arg)).collect();
        if let (Op::Cached, [_, Operand::Node(rows)]) = (&node.op, &node.args[..])
            && self.rounding.cache != self.rounding.values
        {
            let grid = self.groups.cache_grid(*rows, self.rounding.cache);
            args[1] = self.to.node(&format!("{}.rows", node.name), Op::FakeQuantize(grid), [args[1]])?.into();
        }
        if !is_computed(node) {
            return self.to.node(&node.name, node.op.clone(), args);
        }
        let raw = self.to.node(&format!("{}.raw", node.name), node.op.clone(), args)?;
        let grid = self.groups.grid(id, self.rounding.values);
        self.to.node(&node.name, Op::FakeQuantize(grid), [raw.into()])
    }

    fn operand(&self, operand: Operand) -> Operand {
        match operand {
            Operand::Node(id) => Operand::Node(self.map[id.0 as usize]),
            same => same,
        }
    }
}
