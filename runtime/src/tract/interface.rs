//! Whether a module is a step graph, and which of its nodes are the ends of it.

use diffulex_compiler::ir::{CacheId, CacheKind, Module, Node, NodeId, Op, Sizes, ValueType};

use super::error::LowerError;

/// The inputs that a step graph may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Token ids, `[1, T]`.
    Tokens,
    /// Absolute positions, `[1, T]`.
    Positions,
    /// `[1, 1, T, C+T]`.
    Mask,
    /// Rows that need logits, `[R]`.
    Rows,
}

impl Input {
    const ALL: [Input; 4] = [Input::Tokens, Input::Positions, Input::Mask, Input::Rows];

    /// Its name in the graph.
    fn name(self) -> &'static str {
        match self {
            Input::Tokens => "tokens",
            Input::Positions => "positions",
            Input::Mask => "mask",
            Input::Rows => "rows",
        }
    }

    /// How many axes it has.
    fn rank(self) -> usize {
        match self {
            Input::Tokens | Input::Positions => 2,
            Input::Mask => 4,
            Input::Rows => 1,
        }
    }
}

/// The ends of a step graph.
pub(super) struct Interface {
    /// Inputs in the order of the graph.
    pub(super) inputs: Vec<(Input, ValueType)>,
    /// The logits.
    pub(super) logits: NodeId,
    /// Their width.
    pub(super) vocab: usize,
    /// New keys and values of each layer.
    pub(super) new_rows: Vec<(NodeId, NodeId)>,
}

impl Interface {
    /// Finds the ends of a verified module.
    pub(super) fn of(module: &Module) -> Result<Interface, LowerError> {
        // Ids and positions are f32 inside, exact up to here.
        if module.bounds.t + module.bounds.c > 1 << 24 {
            return wrong(format!("T = {} and C = {} exceed 2^24 positions", module.bounds.t, module.bounds.c));
        }
        let inputs =
            module.iter().filter(|(_, n)| n.op == Op::Input).map(|(_, n)| input(n)).collect::<Result<_, _>>()?;
        let logits = *module.outputs.first().ok_or_else(|| LowerError::Interface("no output".into()))?;
        let vocab = match module.node(logits).ty.width() {
            Some(vocab) if vocab <= 1 << 24 => vocab as usize,
            _ => return wrong(format!("logits {} have no fixed width below 2^24", module.node(logits).ty)),
        };
        let both = |layer| Ok((new_rows(module, layer, CacheKind::K)?, new_rows(module, layer, CacheKind::V)?));
        let new_rows = (0..module.cache.layers).map(both).collect::<Result<_, LowerError>>()?;
        Ok(Interface { inputs, logits, vocab, new_rows })
    }
}

fn wrong<T>(what: String) -> Result<T, LowerError> {
    Err(LowerError::Interface(what))
}

fn input(node: &Node) -> Result<(Input, ValueType), LowerError> {
    let Some(input) = Input::ALL.into_iter().find(|input| input.name() == node.name) else {
        return wrong(format!("a step has no input `{}`", node.name));
    };
    if node.ty.shape.len() != input.rank() || node.ty.dtype.is_integer() == (input == Input::Mask) {
        return wrong(format!("input `{}` cannot be {}", node.name, node.ty));
    }
    Ok((input, node.ty.clone()))
}

fn new_rows(module: &Module, layer: u32, kind: CacheKind) -> Result<NodeId, LowerError> {
    let cache = CacheId { layer, kind };
    match module.new_rows().find(|(of, _)| *of == cache) {
        Some((_, rows)) => Ok(rows),
        None => wrong(format!("cache ${cache} gets no rows")),
    }
}

/// The shape of an input for these sizes, if it is what the step graph says.
pub(super) fn input_shape(input: Input, ty: &ValueType, sizes: Sizes) -> Result<Vec<usize>, String> {
    let Sizes { t, c, r } = sizes;
    let expected = match input {
        Input::Tokens | Input::Positions => vec![1, t],
        Input::Mask => vec![1, 1, t, c + t],
        Input::Rows => vec![r],
    };
    let shape: Option<Vec<usize>> = ty.shape.iter().map(|d| d.at(sizes)).collect();
    match shape {
        Some(shape) if shape == expected => Ok(shape),
        _ => Err(format!("the graph takes {} of {ty}, the step has {expected:?}", input.name())),
    }
}
