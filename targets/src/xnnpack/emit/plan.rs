//! The step as ExecuTorch sees it: inputs, embeddings, one delegate, outputs.

use diffulex_compiler::ir::{
    CacheId, CacheKind, Dim, Encoding, Module, NodeId, Op, Operand, WeightId, types::ValueType,
};

use super::EmitError;
use crate::xnnpack::schema::constants::{
    EMBEDDING, EMBEDDING_4BIT, EMBEDDING_BYTE, SCALAR_BFLOAT16, SCALAR_BYTE, SCALAR_CHAR, SCALAR_FLOAT, SCALAR_HALF,
    SCALAR_LONG,
};

/// A value that ExecuTorch knows.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    /// `ScalarType`.
    pub(super) scalar: i8,
    /// Sizes, upper bounds where they depend on the step.
    pub(super) sizes: Vec<u32>,
    /// Whether a size depends on the step.
    pub(super) dynamic: bool,
}

/// Rows of a table, looked up by a kernel.
#[derive(Clone, Debug)]
pub(super) struct Embedding {
    /// The node that it stands for.
    pub(super) node: NodeId,
    /// The table.
    pub(super) table: WeightId,
    /// The input that holds the ids.
    pub(super) ids: NodeId,
    /// What it gives: floats as wide as the table's, `FLOAT` where that is quantized.
    pub(super) out: Tensor,
    /// Name and overload of the kernel.
    pub(super) kernel: (&'static str, &'static str),
}

/// What the delegate is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Given {
    /// The rows of an embedding, by its place in [`Step::embeddings`].
    Embedding(usize),
    /// An input of the step.
    Input(NodeId),
    /// The committed rows of a cache.
    Cache(CacheId),
}

/// Inputs, embeddings and outputs in the order of the file.
#[derive(Debug)]
pub(super) struct Step {
    /// `tokens`, `positions`, `mask`, and `rows` where a step has them.
    pub(super) inputs: Vec<(NodeId, Tensor)>,
    /// `k.0`, `v.0`, `k.1` …
    pub(super) caches: Vec<(CacheId, Tensor)>,
    /// The embeddings, in the order of their nodes.
    pub(super) embeddings: Vec<Embedding>,
    /// The logits, then the new rows of each cache.
    pub(super) outputs: Vec<(NodeId, Tensor)>,
}

impl Step {
    /// Reads the step off a legal module.
    pub(super) fn of(module: &Module) -> Result<Step, EmitError> {
        let input = |name: &str| {
            let illegal = || EmitError::Illegal { place: format!("%{name}"), what: "there is no such input".into() };
            let id = module.input(name).ok_or_else(illegal)?;
            Ok::<_, EmitError>((id, Tensor::of(module, &module.node(id).ty)?))
        };
        let mut inputs = vec![input("tokens")?, input("positions")?, input("mask")?];
        if module.bounds.r > 0 {
            inputs.push(input("rows")?);
        }
        let kinds = [CacheKind::K, CacheKind::V];
        let ids = (0..module.cache.layers).flat_map(|layer| kinds.map(|kind| CacheId { layer, kind }));
        let cache = Tensor::of(module, &module.cache.ty())?;
        let caches: Vec<_> = ids.map(|id| (id, cache.clone())).collect();

        let mut outputs = Vec::new();
        for &id in &module.outputs {
            outputs.push((id, Tensor::of(module, &module.node(id).ty)?));
        }
        let rows: std::collections::HashMap<CacheId, NodeId> = module.new_rows().collect();
        for (cache, _) in &caches {
            let missing = || EmitError::Illegal { place: format!("${cache}"), what: "gets no new rows".into() };
            let id = *rows.get(cache).ok_or_else(missing)?;
            outputs.push((id, Tensor::of(module, &module.node(id).ty)?));
        }
        let embeddings = embeddings(module)?;
        Ok(Step { inputs, caches, embeddings, outputs })
    }

    /// What the delegate is given, in the order of its external ids.
    pub(super) fn given(&self, module: &Module) -> Vec<Given> {
        let read = |id: NodeId| module.nodes.iter().any(|n| n.op != Op::Embed && n.args.contains(&Operand::Node(id)));
        let embeddings = (0..self.embeddings.len()).map(Given::Embedding);
        let inputs = self.inputs.iter().filter(|(id, _)| read(*id)).map(|(id, _)| Given::Input(*id));
        embeddings.chain(inputs).chain(self.caches.iter().map(|(id, _)| Given::Cache(*id))).collect()
    }
}

fn embeddings(module: &Module) -> Result<Vec<Embedding>, EmitError> {
    let mut found = Vec::new();
    for (node, embed) in module.iter().filter(|(_, n)| n.op == Op::Embed) {
        let illegal = |what: &str| EmitError::Illegal { place: embed.place(), what: what.into() };
        let [Operand::Node(ids), Operand::Weight(table)] = embed.args[..] else {
            return Err(illegal("does not look up ids in a table"));
        };
        if module.node(ids).op != Op::Input {
            return Err(illegal("its ids are no input"));
        }
        let (scalar, kernel) = match module.weight(table).ty.encoding {
            Encoding::F32 => (SCALAR_FLOAT, EMBEDDING),
            Encoding::F16 => (SCALAR_HALF, EMBEDDING),
            Encoding::BF16 => (SCALAR_BFLOAT16, EMBEDDING),
            Encoding::Int8Row => (SCALAR_FLOAT, EMBEDDING_BYTE),
            Encoding::Int4Row | Encoding::Int4G32 | Encoding::Int4G64 | Encoding::Int4G128 => {
                (SCALAR_FLOAT, EMBEDDING_4BIT)
            }
            Encoding::U16 | Encoding::U8 => return Err(illegal("its table has one scale for all rows")),
        };
        let out = Tensor { scalar, ..Tensor::of(module, &embed.ty)? };
        found.push(Embedding { node, table, ids, out, kernel });
    }
    Ok(found)
}

impl Tensor {
    /// A value of that type at the module's bounds; integers become `LONG`.
    pub(super) fn of(module: &Module, ty: &ValueType) -> Result<Tensor, EmitError> {
        let size =
            |dim: &Dim| dim.at(module.bounds).and_then(|n| u32::try_from(n).ok()).filter(|&n| n <= i32::MAX as u32);
        let sizes: Option<Vec<u32>> = ty.shape.iter().map(size).collect();
        let too_large = || EmitError::Illegal { place: ty.to_string(), what: "is too large".into() };
        Ok(Tensor {
            scalar: if ty.dtype.is_integer() { SCALAR_LONG } else { SCALAR_FLOAT },
            sizes: sizes.ok_or_else(too_large)?,
            dynamic: ty.shape.iter().any(|d| d.known().is_none()),
        })
    }

    /// Bytes at the bounds.
    pub(super) fn bytes(&self) -> Option<u64> {
        let width = match self.scalar {
            SCALAR_LONG => 8,
            SCALAR_HALF | SCALAR_BFLOAT16 => 2,
            SCALAR_BYTE | SCALAR_CHAR => 1,
            _ => 4,
        };
        self.sizes.iter().try_fold(width, |bytes: u64, &n| bytes.checked_mul(u64::from(n)))
    }
}
