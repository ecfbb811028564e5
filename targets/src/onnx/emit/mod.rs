//! Writes a legal module as ONNX files.
//!
//! ```text
//! NAME.onnx      the graph, and tensors of less than a kilobyte      graph.rs, node.rs
//! NAME_8.onnx    the same for steps of 8 tokens, where asked for
//! NAME.data      all other tensors                                   layout.rs, weights.rs
//! ```
//!
//! The graphs are made in memory. Weights are evaluated some rows at a time; a filter is stored transposed, so one of them
//! is in memory at a time. The bytes depend on the arguments only.

mod graph;
mod layout;
mod names;
mod node;
mod proto;
mod table;
mod weights;

use std::io;

use diffulex_compiler::ir::{Module, Op, Sizes, Stage};
use diffulex_compiler::quant::{Cost, Search};
use onnx_protobuf::{GraphProto, Message, ModelProto, OperatorSetIdProto, StringStringEntryProto};

use super::legal;
use super::schema::{keys, versions};
use super::{EXTENSION, Options, Shapes};
use crate::emit::{Content, EmitError, Metadata, make_file};
use crate::stream::Work;
use layout::Layout;
use names::Names;
use weights::Small;

/// The data file beside the files called `name`.
pub fn data_file(name: &str) -> String {
    format!("{name}.data")
}

/// The files of a model without their numbers, ready to be written.
pub struct Files<'a> {
    module: &'a Module,
    options: Options,
    layout: Layout,
    /// Name and content of each graph's file; the tensors of weights are yet to be put in front of its others.
    graphs: Vec<(String, ModelProto)>,
    data: String,
}

impl<'a> Files<'a> {
    /// Plans the files of a legal module; no numbers are needed.
    ///
    /// # Errors
    /// When `module` is not legal, or a part of it is too large.
    pub fn new(module: &'a Module, name: &str, metadata: &Metadata, options: &Options) -> Result<Files<'a>, EmitError> {
        let illegal = |what: String| EmitError::Illegal { place: "module".into(), what };
        let target = options.form.target();
        if module.stage != Stage::Legal(target.into()) {
            return Err(illegal(format!("is at stage `{}`, not `legal {target}`", module.stage.name())));
        }
        legal::check(module, options).map_err(|refusal| illegal(refusal.to_string()))?;
        let mut names = Names::new(module.cache.layers);
        let layout = Layout::new(module, options, &mut names)?;
        let graphs = lengths(module, options).into_iter().map(|t| {
            let sizes = t.map(|t| Sizes { t, ..module.bounds });
            let graph = graph::graph(module, options, &layout, names.clone(), sizes)?;
            let suffix = t.filter(|t| *t != module.bounds.t).map_or(String::new(), |t| format!("_{t}"));
            Ok((format!("{name}{suffix}.{EXTENSION}"), model(module, metadata, options, graph)))
        });
        let graphs = graphs.collect::<Result<_, EmitError>>()?;
        Ok(Files { module, options: options.clone(), layout, graphs, data: data_file(name) })
    }

    /// The graphs, with zeros for numbers that are not known.
    pub(crate) fn models(&self) -> impl Iterator<Item = ModelProto> {
        self.graphs.iter().map(|(_, model)| self.filled(model, &Small::new()))
    }

    /// The files with their sizes.
    pub fn files(&self) -> Vec<(String, u64)> {
        let size =
            |(name, model): &(String, ModelProto)| (name.clone(), self.filled(model, &Small::new()).compute_size());
        let data = (self.layout.bytes > 0).then(|| (self.data.clone(), self.layout.bytes));
        self.graphs.iter().map(size).chain(data).collect()
    }

    /// Writes all files; gives what each weight of the model became. `make` makes the file of that name, one of
    /// [`Files::files`], with what it is given writes. `progress` is told, now and then, how many bytes of how many of
    /// the weights are written.
    ///
    /// # Errors
    /// When a weight cannot be evaluated or stored, or `make` fails.
    pub fn write<E: From<EmitError>>(
        &self,
        work: Work<'_>,
        make: &mut dyn FnMut(&str, Content<'_>) -> Result<(), E>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<Cost>, E> {
        let mut weights =
            |out: &mut dyn io::Write| weights::write(self.module, work, &self.layout, &self.options, out, progress);
        let (costs, small) = match self.layout.bytes {
            0 => weights(&mut io::sink())?,
            _ => make_file(make, &self.data, &mut weights)?,
        };
        for (name, model) in &self.graphs {
            // Memory can always be written to.
            let bytes = self.filled(model, &small).write_to_bytes().map_err(|e| EmitError::Io(io::Error::other(e)))?;
            make(name, &mut |out| out.write_all(&bytes))?;
        }
        Ok(costs)
    }

    /// A graph's file with the tensors of weights; zeros stand for numbers that are not known.
    fn filled(&self, model: &ModelProto, small: &Small) -> ModelProto {
        let mut model = model.clone();
        if let Some(graph) = model.graph.as_mut() {
            let tensor =
                |(i, tensor): (usize, &layout::Tensor)| tensor.message(&self.data, small.get(i).cloned().flatten());
            let tensors = self.layout.list.iter().enumerate().map(tensor);
            graph.initializer.splice(..0, tensors);
        }
        model
    }
}

/// The numbers of tokens of each file, the module's bound first; none where a file serves all.
fn lengths(module: &Module, options: &Options) -> Vec<Option<usize>> {
    let Shapes::Static(lengths) = &options.shapes else { return vec![None] };
    let mut more: Vec<usize> = lengths.iter().map(|&n| n as usize).filter(|n| *n != module.bounds.t).collect();
    more.sort_unstable();
    more.dedup();
    std::iter::once(module.bounds.t).chain(more).map(Some).collect()
}

fn model(module: &Module, metadata: &Metadata, options: &Options, graph: GraphProto) -> ModelProto {
    let (opset, version) = versions(options.form);
    ModelProto {
        ir_version: version,
        opset_import: vec![OperatorSetIdProto { version: opset, ..Default::default() }],
        producer_name: "diffulex-edge".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(graph).into(),
        metadata_props: facts(module, metadata),
        ..ModelProto::default()
    }
}

/// What the file says of itself, sorted by key.
fn facts(module: &Module, metadata: &Metadata) -> Vec<StringStringEntryProto> {
    let theta = module.nodes.iter().find_map(|node| match node.op {
        Op::RopeCos { theta, .. } => Some(theta.to_string()),
        _ => None,
    });
    // A struct of numbers and words always has a JSON form.
    let generation = metadata.generation.as_ref().and_then(|generation| serde_json::to_string(generation).ok());
    let recipe = Some(metadata.recipe_digest.clone()).filter(|digest| !digest.is_empty());
    let search = Some(module.search()).filter(|search| *search != Search::Max).map(|search| search.name().to_string());
    let mut facts = [
        (keys::NAME, Some(module.name.clone())),
        (keys::GENERATION, generation),
        (keys::RECIPE, recipe),
        (keys::THETA, theta),
        (keys::MAX_TOKENS, Some(module.bounds.t.to_string())),
        (keys::MAX_CACHE, Some(module.bounds.c.to_string())),
        (keys::SEARCH, search),
    ];
    facts.sort_unstable_by_key(|(key, _)| *key);
    facts.into_iter().filter_map(|(key, value)| Some(proto::entry(key, value?))).collect()
}
