//! A module: what a model computes, without a single number of its weights.

use super::op::Op;
use super::types::{DType, Dim, Sizes, ValueType, WeightType};
use super::weights::WeightExpr;
use crate::quant::{Grid, GridType, Search};

/// Most layers of a module.
pub(crate) const MAX_LAYERS: u32 = 1024;

/// Names a node, and so the one value it makes. Operands always have smaller numbers than the node that uses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// Names a weight of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub u32);

/// Names the key or the value cache of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheId {
    /// The layer.
    pub layer: u32,
    /// Keys or values.
    pub kind: CacheKind,
}

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CacheKind {
    /// Rotated keys.
    K,
    /// Values.
    V,
}

/// What a node reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// The value of an earlier node.
    Node(NodeId),
    /// A weight.
    Weight(WeightId),
    /// The committed rows of a cache.
    Cache(CacheId),
}

/// One op with its operands, its type and its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Unique among the nodes of its layer (or among those outside all layers).
    pub name: String,
    /// The decoder layer it belongs to.
    pub layer: Option<u32>,
    /// The part of the layer it belongs to, such as `self_attn`; only for the reader.
    pub section: Option<String>,
    /// What it computes.
    pub op: Op,
    /// What it reads.
    pub args: Vec<Operand>,
    /// What it gives.
    pub ty: ValueType,
}

/// A weight: name, type, expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Full name, `layers.3.mlp.up_proj`; unique in the module.
    pub name: String,
    /// Encoding and shape.
    pub ty: WeightType,
    /// How the scales of its encoding are found.
    pub search: Search,
    /// Where its numbers lie, if its encoding has one scale for the whole tensor.
    pub grid: Option<Grid>,
    /// Where the numbers come from.
    pub expr: WeightExpr,
}

/// Shape of the caches; every layer has one for keys and one for values, `[1, KV, C, D]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Layers that have caches.
    pub layers: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Width of a head.
    pub head_dim: u32,
}

/// How far a module has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// As the family builds it from a checkpoint.
    Imported,
    /// After the fusion passes.
    Fused,
    /// Every weight has the encoding the recipe asks for.
    Quantized,
    /// Only what one target can express.
    Legal(String),
    /// Read back from the bytes of an artifact of that target.
    Read(String),
}

/// Everything that can be executed: a checkpoint becomes one, an artifact becomes one.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// Name of the model or build.
    pub name: String,
    /// How far it has come.
    pub stage: Stage,
    /// Upper bounds of T, C and R.
    pub bounds: Sizes,
    /// Shape of the caches.
    pub cache: CacheShape,
    /// All weights.
    pub weights: Vec<Weight>,
    /// All nodes, operands before users; the inputs come first.
    pub nodes: Vec<Node>,
    /// The nodes whose values a step returns: the logits. New keys and values are the operands of `cached`.
    pub outputs: Vec<NodeId>,
}

impl Dim {
    /// `[1, KV, C, D]` and the like are written often: a known size.
    pub(crate) const ONE: Dim = Dim::fixed(1);
}

impl CacheKind {
    /// The name in the printed form.
    pub fn name(self) -> &'static str {
        match self {
            CacheKind::K => "k",
            CacheKind::V => "v",
        }
    }
}

impl Stage {
    /// The words of the printed form.
    pub fn name(&self) -> String {
        match self {
            Stage::Imported => "imported".into(),
            Stage::Fused => "fused".into(),
            Stage::Quantized => "quantized".into(),
            Stage::Legal(target) => format!("legal {target}"),
            Stage::Read(target) => format!("read {target}"),
        }
    }
}

impl CacheShape {
    /// Type of one cache.
    pub fn ty(&self) -> ValueType {
        ValueType::f32([Dim::ONE, Dim::fixed(self.kv_heads), Dim::C, Dim::fixed(self.head_dim)])
    }
}

impl Module {
    /// A module without nodes.
    pub fn new(name: impl Into<String>, stage: Stage, bounds: Sizes, cache: CacheShape) -> Module {
        Module { name: name.into(), stage, bounds, cache, weights: vec![], nodes: vec![], outputs: vec![] }
    }

    /// The node of that id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The weight of that id.
    pub fn weight(&self, id: WeightId) -> &Weight {
        &self.weights[id.0 as usize]
    }

    /// All nodes with their ids, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(i, n)| (NodeId(i as u32), n))
    }

    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<NodeId> {
        self.iter().find(|(_, n)| n.op == Op::Input && n.name == name).map(|(id, _)| id)
    }

    /// The weight of that full name.
    pub fn weight_id(&self, name: &str) -> Option<WeightId> {
        self.weights.iter().position(|w| w.name == name).map(|i| WeightId(i as u32))
    }

    /// The node whose value becomes the new rows of each cache: the operand of `cached`.
    pub fn new_rows(&self) -> impl Iterator<Item = (CacheId, NodeId)> {
        self.nodes.iter().filter_map(|n| match (&n.op, n.args.as_slice()) {
            (Op::Cached, [Operand::Cache(cache), Operand::Node(rows)]) => Some((*cache, *rows)),
            _ => None,
        })
    }

    /// Whether some filters are given tokens with fewer bits than they were computed in.
    pub fn rounds_any_tokens(&self) -> bool {
        self.rounds_tokens()
            || self.rounds_values().is_some()
            || self.has_values(DType::F16)
            || self.has_values(DType::BF16)
    }

    /// Whether some filters are given tokens that are rounded to int8.
    pub fn rounds_tokens(&self) -> bool {
        self.nodes.iter().any(|node| node.op == Op::Int8Token)
    }

    /// The coarsest whole numbers that values are rounded to, where they are.
    pub fn rounds_values(&self) -> Option<GridType> {
        let grids = self
            .nodes
            .iter()
            .filter_map(|node| if let Op::FakeQuantize(grid) = node.op { Some(grid.ty) } else { None });
        grids.min_by_key(|ty| ty.levels())
    }

    /// Whether some values are of this type.
    pub fn has_values(&self, dtype: DType) -> bool {
        self.nodes.iter().any(|node| node.ty.dtype == dtype)
    }

    /// How the scales of its quantized weights are found: as `quantize` says, for all alike.
    pub fn search(&self) -> Search {
        self.weights.iter().map(|weight| weight.search).find(|search| *search != Search::Max).unwrap_or(Search::Max)
    }

    /// How often each node is read, outputs and new cache rows included.
    pub fn uses(&self) -> Vec<u32> {
        let mut uses = vec![0; self.nodes.len()];
        let read = self.nodes.iter().flat_map(|n| &n.args).filter_map(|a| match a {
            Operand::Node(id) => Some(*id),
            _ => None,
        });
        for id in read.chain(self.outputs.iter().copied()) {
            uses[id.0 as usize] += 1;
        }
        uses
    }

    /// Type of an operand; weights count as values of their numbers' type.
    pub fn operand_type(&self, operand: Operand) -> ValueType {
        match operand {
            Operand::Node(id) => self.node(id).ty.clone(),
            Operand::Cache(_) => self.cache.ty(),
            Operand::Weight(id) => {
                let shape: Vec<Dim> = self.weight(id).ty.shape.iter().map(|&n| Dim::fixed(n)).collect();
                ValueType::new(DType::F32, shape)
            }
        }
    }
}

impl Node {
    /// The full name for messages: `layers.3 %attn.in`.
    pub fn place(&self) -> String {
        match self.layer {
            Some(layer) => format!("layers.{layer} %{}", self.name),
            None => format!("%{}", self.name),
        }
    }
}

impl std::fmt::Display for CacheId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.kind.name(), self.layer)
    }
}
