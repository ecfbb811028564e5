//! Small models as bundles: passes, legal, calibrated, rounded, written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diffulex_compiler::checkpoint::Checkpoint;
use diffulex_compiler::generation::{Family, Generation};
use diffulex_compiler::ir::{Encoding, Module, Sizes, WeightSource};
use diffulex_compiler::passes;
use diffulex_compiler::quant::{Activations, GridType, Scheme, Search};
use diffulex_runtime::calibrate::{Method, Wanted, calibrate};
use diffulex_runtime::session::Attention;
use diffulex_targets::qnn::{self, Rounding};
use diffulex_targets::{EmitError, Metadata, Planned, Target, Work};
use diffulex_tests::reference::fixture;

use crate::decoder::{Model, Numbers, module};

pub(crate) const FAMILIES: [Family; 4] = [Family::Sdar, Family::FastDllmV2, Family::Dream, Family::Llada];
/// Tokens refined together.
const BLOCK: usize = 4;
/// Bounds of a step and of the cache.
const BOUNDS: Sizes = Sizes { t: 8, c: 16, r: 0 };

/// What is asked of a bundle, and how far off it may be.
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    weights: Encoding,
    /// Filters in other encodings.
    keep: &'static [(&'static str, Encoding)],
    pub(crate) rounding: Option<Rounding>,
    /// The smallest cosine of ONNX Runtime's CPU to our engine on what is read back: both compute what the file says, but
    /// add up in another order, so a number between two steps of a grid may fall to either.
    pub(crate) ours: f64,
    /// How many steps of their grid new rows may be apart there.
    pub(crate) steps: f64,
    /// The smallest cosine of the HTP's logits to those of ONNX Runtime's CPU.
    pub(crate) htp: f64,
    /// The same of new rows: where few numbers are far from 0, a step of their grid is more.
    pub(crate) htp_rows: f64,
    /// The smallest cosine of ONNX Runtime's CPU to the float model.
    pub(crate) float: f64,
    /// How far padding may move our own logits, as a share of the largest: another order of sums, as above.
    pub(crate) padding: f32,
}

const fn values(values: GridType, cache: GridType) -> Option<Rounding> {
    Some(Rounding { values, cache })
}

const INT8_HEAD: (&str, Encoding) = ("lm_head", Encoding::Int8Row);

pub(crate) const W8A16: Recipe = Recipe {
    name: "w8a16",
    weights: Encoding::Int8Row,
    keep: &[],
    rounding: values(GridType::U16, GridType::U8),
    ours: 0.9999,
    steps: 1.0,
    htp: 0.9999,
    htp_rows: 0.9995,
    float: 0.98,
    padding: 1e-2,
};

const W8A8: Recipe = Recipe {
    name: "w8a8",
    rounding: values(GridType::U8, GridType::U8),
    ours: 0.99,
    steps: 3.0,
    htp: 0.95,
    htp_rows: 0.95,
    float: 0.95,
    padding: 1e-1,
    ..W8A16
};

/// Few numbers of wide ranges, and hardly a text to calibrate with.
pub(crate) const ODD: Recipe = Recipe { float: 0.95, ..W8A16 };

pub(crate) const RECIPES: [Recipe; 6] = [
    W8A16,
    Recipe { name: "w8a16-kv16", rounding: values(GridType::U16, GridType::I16), steps: 20.0, ..W8A16 },
    Recipe { name: "w4a16", weights: Encoding::Int4Row, keep: &[INT8_HEAD], htp: 0.9995, float: 0.8, ..W8A16 },
    Recipe {
        name: "w4a16-g32",
        weights: Encoding::Int4G32,
        // Not all models have rows that can be cut into groups there.
        keep: &[INT8_HEAD, ("*down_proj", Encoding::Int8Row)],
        htp: 0.9995,
        float: 0.85,
        ..W8A16
    },
    W8A8,
    Recipe {
        name: "fp16",
        weights: Encoding::F16,
        rounding: None,
        ours: 0.99999,
        htp: 0.9999,
        float: 0.9999,
        padding: 1e-4,
        ..W8A16
    },
];

/// A model that can be made into bundles.
pub(crate) struct Source {
    module: Made,
    pub(crate) numbers: Arc<dyn WeightSource>,
    generation: Generation,
    pub(crate) mask: u32,
}

/// Where a module comes from.
enum Made {
    Family(Arc<Checkpoint>),
    Random(Model),
}

impl Source {
    /// A family's tiny checkpoint.
    pub(crate) fn family(family: Family) -> Source {
        let checkpoint = Arc::new(Checkpoint::open(&fixture(&format!("{}/tiny", family.name()))).unwrap());
        let mask = checkpoint.config().decoder.vocab - 1;
        let generation = Generation::defaults(family, Some(BLOCK as u32), mask, vec![]);
        Source { module: Made::Family(checkpoint.clone()), numbers: checkpoint, generation, mask }
    }

    /// Random numbers.
    pub(crate) fn random(model: Model) -> Source {
        let mask = model.vocab - 1;
        let block = BLOCK.min(model.t) as u32;
        let generation = Generation::defaults(Family::Sdar, Some(block), mask, vec![]);
        let numbers = Arc::new(Numbers::random(model, 5));
        Source { module: Made::Random(model), numbers, generation, mask }
    }

    pub(crate) fn attention(&self) -> Attention {
        (&self.generation).into()
    }

    /// The module in floats.
    pub(crate) fn float(&self) -> Module {
        match &self.module {
            Made::Family(checkpoint) => {
                let types = |name: &str| checkpoint.tensor_type(name);
                checkpoint.config().decoder.import("tiny", BOUNDS, &types).unwrap()
            }
            Made::Random(model) => module(Model { encoding: Encoding::F32, ..*model }),
        }
    }

    /// The module with its filters as the recipe wants them.
    fn encoded(&self, recipe: &Recipe, target: &Target) -> Module {
        let table = if recipe.rounding.is_some() { Encoding::F32 } else { recipe.weights };
        let keep = recipe.keep.iter().map(|(name, encoding)| (name.to_string(), *encoding)).collect();
        let scheme =
            Scheme { weights: recipe.weights, table, activations: Activations::Float, search: Search::Max, keep };
        passes::run(self.float(), target.passes(), &scheme, &mut |_| {}).unwrap()
    }

    fn texts(&self) -> Vec<Vec<u32>> {
        let id = |i: u32| (i + 1).wrapping_mul(2_654_435_761) % (self.mask);
        (0..16).map(|text| (0..24).map(|i| id(text * 24 + i)).collect()).collect()
    }
}

/// Writes a bundle for steps of the model's bound, and of half of it; gives its graphs, the longest first.
pub(crate) fn made(source: &Source, recipe: &Recipe, folder: &Path) -> Vec<PathBuf> {
    let bound = source.float().bounds.t as u32;
    let lengths = if bound > 1 { vec![bound.div_ceil(2)] } else { vec![] };
    let soc = qnn::socs::find("SM8650").unwrap();
    let target = Target::Qnn(qnn::Options { rounding: recipe.rounding, lengths: lengths.clone(), socs: vec![soc] });
    let mut legal = target.legalize(&source.encoded(recipe, &target)).unwrap();
    if let Some(rounding) = recipe.rounding {
        let (nodes, weights) = qnn::wanted(&legal);
        let wanted = Wanted { nodes: &nodes, weights: &weights, method: Method::MinMax, levels: &[256, 65536] };
        let ranges =
            calibrate(&legal, &source.numbers, &wanted, &source.texts(), &source.generation, &mut |_, _| {}).unwrap();
        let range = |place: &str, ty: GridType| {
            let range = ranges.places.get(place)?.ranges.get(&ty.levels())?;
            Some((range.low(), range.high()))
        };
        legal = qnn::round(&legal, rounding, &range).unwrap();
    }
    let metadata = Metadata { generation: Some(source.generation.clone()), recipe_digest: String::new() };
    let Planned::Onnx(files) = target.plan(&legal, &metadata, "small").unwrap() else { panic!("not ONNX") };
    let mut make = |name: &str, content: diffulex_targets::Content<'_>| {
        let mut bytes = Vec::new();
        content(&mut bytes)?;
        Ok::<(), EmitError>(std::fs::write(folder.join(name), bytes)?)
    };
    files.write(Work::new(source.numbers.as_ref()), &mut make, &mut |_, _| {}).unwrap();
    let more = lengths.iter().map(|t| format!("model_{t}.onnx"));
    std::iter::once("model.onnx".to_string()).chain(more).map(|name| folder.join(name)).collect()
}
