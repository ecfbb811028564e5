//! Calibration against a loop written by hand around the interpreter, for all families.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use diffulex_compiler::checkpoint::Checkpoint;
use diffulex_compiler::generation::{Family, Generation, Reuse};
use diffulex_compiler::ir::interpret::{Array, Inputs};
use diffulex_compiler::ir::*;
use diffulex_compiler::passes;
use diffulex_compiler::quant::{Packing, Scheme, Search};
use diffulex_runtime::calibrate::{CalibrateError, Method, Ranges, Wanted, calibrate, weight_range};
use diffulex_runtime::engine::HIDDEN;
use diffulex_runtime::sample::Draws;
use diffulex_targets::{Target, xnnpack};
use diffulex_tests::reference::fixture;

const FAMILIES: [Family; 4] = [Family::Sdar, Family::FastDllmV2, Family::Dream, Family::Llada];
const BLOCK: usize = 4;
/// Bounds of a step and of the cache.
const BOUNDS: Sizes = Sizes { t: 8, c: 16, r: 0 };

struct Model {
    module: Module,
    source: Arc<dyn WeightSource>,
    generation: Generation,
    vocab: u32,
}

/// A family's tiny checkpoint, as imported or in the primitives of a target.
fn model(family: Family, legal: bool) -> Model {
    let checkpoint = Arc::new(Checkpoint::open(&fixture(&format!("{}/tiny", family.name()))).unwrap());
    let decoder = &checkpoint.config().decoder;
    let vocab = decoder.vocab;
    let mut module = decoder.import("tiny", BOUNDS, &|name| checkpoint.tensor_type(name)).unwrap();
    if legal {
        let target = Target::Xnnpack(xnnpack::Options::default());
        module = passes::run(module, target.passes(), &Scheme::F32, &mut |_| {}).unwrap();
        module = target.legalize(&module).unwrap();
    }
    let generation = Generation::defaults(family, Some(BLOCK as u32), vocab - 1, vec![]);
    Model { module, source: checkpoint, generation, vocab }
}

impl Model {
    fn text(&self, seed: u32, len: u32) -> Vec<u32> {
        (0..len).map(|i| (seed + 1).wrapping_mul(2_654_435_761).wrapping_mul(i + 1) % (self.vocab - 1)).collect()
    }

    fn ranges(&self, texts: &[Vec<u32>], method: Method) -> Result<Ranges, CalibrateError> {
        let nodes: Vec<NodeId> = self.module.iter().map(|(id, _)| id).collect();
        let weights: Vec<WeightId> = (0..self.module.weights.len() as u32).map(WeightId).collect();
        let wanted = Wanted { nodes: &nodes, weights: &weights, method, levels: &[256, 65536] };
        let mut told = Vec::new();
        let ranges =
            calibrate(&self.module, &self.source, &wanted, texts, &self.generation, &mut |i, n| told.push((i, n)));
        if let Ok(ranges) = &ranges {
            assert_eq!(told, (0..=ranges.passes).map(|i| (i, ranges.passes)).collect::<Vec<_>>());
        }
        ranges
    }
}

/// A host that is as simple as can be.
struct Host<'a> {
    model: &'a Model,
    /// Committed tokens' keys and values, `[KV, len, D]` each.
    cache: HashMap<CacheId, Vec<f32>>,
    len: usize,
    draws: Draws,
    /// All numbers of each node.
    seen: BTreeMap<String, Vec<f32>>,
    passes: usize,
    tokens: usize,
}

impl<'a> Host<'a> {
    fn new(model: &'a Model) -> Self {
        let (cache, seen) = (HashMap::new(), BTreeMap::new());
        Host { model, cache, len: 0, draws: Draws::seeded(0), seen, passes: 0, tokens: 0 }
    }

    fn noisy(&mut self, tokens: &[u32], quarters: usize) -> Vec<u32> {
        let (mut noisy, mut places) = (tokens.to_vec(), (0..tokens.len()).collect::<Vec<_>>());
        let masks = (tokens.len() as f64 * quarters as f64 / 4.0).round() as usize;
        for _ in 0..masks {
            let i = (self.draws.uniform() * places.len() as f64) as usize;
            noisy[places.swap_remove(i)] = self.model.generation.mask_id;
        }
        noisy
    }

    /// Feeds tokens at `start` and commits the first `kept`.
    fn step(&mut self, tokens: &[u32], start: usize, kept: usize, logits: bool) {
        let module = &self.model.module;
        let (kv, d) = (module.cache.kv_heads as usize, module.cache.head_dim as usize);
        let (t, c) = (tokens.len(), self.len.max(1));
        let full = matches!(self.model.generation.family, Family::Dream | Family::Llada);
        let sees = |i: usize, j: usize| full || j / BLOCK <= i / BLOCK;
        let mut mask = Vec::new();
        for i in start..start + t {
            mask.extend((0..c).map(|j| if j < self.len && sees(i, j) { 0.0 } else { HIDDEN }));
            mask.extend((start..start + t).map(|j| if sees(i, j) { 0.0 } else { HIDDEN }));
        }
        let array = |shape: &[usize], data: Vec<f32>| Array { shape: shape.to_vec(), data };
        let row = |range: std::ops::Range<usize>| range.map(|x| x as f32).collect::<Vec<_>>();
        let values = HashMap::from([
            ("tokens".to_string(), array(&[1, t], tokens.iter().map(|&x| x as f32).collect())),
            ("positions".to_string(), array(&[1, t], row(start..start + t))),
            ("mask".to_string(), array(&[1, 1, t, c + t], mask)),
            ("rows".to_string(), array(&[t], row(0..t))),
        ]);
        let empty = vec![0.0; kv * d];
        let caches = module.new_rows().map(|(id, _)| {
            let rows = self.cache.get(&id).filter(|_| self.len > 0).unwrap_or(&empty);
            (id, array(&[1, kv, c, d], rows.clone()))
        });
        let inputs = Inputs { values, caches: caches.collect() };
        let made = interpret(module, self.model.source.as_ref(), &inputs).unwrap();
        let needed = needed(module, logits);
        for ((_, node), value) in module.iter().zip(&made.nodes).enumerate().filter(|(i, _)| needed[*i]).map(|(_, x)| x)
        {
            self.seen.entry(node.place()).or_default().extend(&value.data);
        }
        (self.passes, self.tokens) = (self.passes + 1, self.tokens + t);
        if kept > 0 {
            for (id, new) in &made.new_rows {
                let old = self.cache.remove(id).unwrap_or_default();
                let head = |h: usize| {
                    let old = &old[h * self.len * d..(h + 1) * self.len * d];
                    [old, &new.data[h * t * d..(h * t + kept) * d]].concat()
                };
                self.cache.insert(*id, (0..kv).flat_map(head).collect());
            }
            self.len += kept;
        }
    }

    fn clear(&mut self) {
        self.cache.clear();
        self.len = 0;
    }

    /// What calibration does with a text of 14 tokens, or a canvas of 8.
    fn text(&mut self, text: &[u32]) {
        match self.model.generation.family {
            Family::Sdar | Family::FastDllmV2 => {
                assert_eq!(text.len(), 14);
                self.clear();
                for prefix in [0, 4, 8] {
                    if prefix > 0 {
                        self.step(&text[prefix - 4..prefix], prefix - 4, 4, false);
                    }
                    for quarters in 0..=4 {
                        let window = self.noisy(&text[prefix..14.min(prefix + 8)], quarters);
                        self.step(&window, prefix, 0, true);
                    }
                }
            }
            Family::Dream | Family::Llada => {
                assert_eq!(text.len(), 8);
                let reuse = self.model.generation.reuse != Reuse::None;
                for prefix in [0, 4] {
                    for quarters in 0..=4 {
                        let tail = self.noisy(&text[prefix..], quarters);
                        self.clear();
                        self.step(&[&text[..prefix], &tail].concat(), 0, if reuse { prefix } else { 0 }, true);
                        if reuse && prefix > 0 {
                            self.step(&tail, prefix, 0, true);
                        }
                    }
                }
            }
        }
    }
}

/// Which nodes the new keys and values depend on, and the logits where they are made.
fn needed(module: &Module, logits: bool) -> Vec<bool> {
    let mut needed = vec![false; module.nodes.len()];
    module.new_rows().for_each(|(_, id)| needed[id.0 as usize] = true);
    if logits {
        module.outputs.iter().for_each(|id| needed[id.0 as usize] = true);
    }
    for (id, node) in module.iter().rev() {
        if needed[id.0 as usize] {
            let nodes = node.args.iter().filter_map(|arg| if let Operand::Node(id) = arg { Some(*id) } else { None });
            nodes.for_each(|id| needed[id.0 as usize] = true);
        }
    }
    needed
}

fn texts(model: &Model) -> Vec<Vec<u32>> {
    let len = match model.generation.family {
        Family::Sdar | Family::FastDllmV2 => 14,
        Family::Dream | Family::Llada => 8,
    };
    vec![model.text(1, len), model.text(2, len)]
}

fn near(place: &str, what: &str, got: f32, want: f32, size: f32) {
    assert!((got - want).abs() <= 1e-4 * size.max(1e-3), "{place}: {what} is {got}, not {want}");
}

#[test]
fn ranges_are_those_of_the_interpreter() {
    for (family, legal, reuse) in
        FAMILIES.into_iter().flat_map(|f| [(f, false, Reuse::None), (f, true, Reuse::None), (f, true, Reuse::Prefix)])
    {
        let mut model = model(family, legal);
        model.generation.reuse = reuse;
        let texts = texts(&model);
        let ranges = model.ranges(&texts, Method::MinMax).unwrap();
        let mut host = Host::new(&model);
        texts.iter().for_each(|text| host.text(text));
        assert_eq!((ranges.passes, ranges.tokens), (host.passes, host.tokens), "{family:?}");
        let nodes = ranges.places.iter().filter(|(place, _)| !place.starts_with('@'));
        assert_eq!(nodes.clone().count(), model.module.nodes.len());
        for (place, got) in nodes {
            // The rows of another input are fed where no logits are asked for.
            let Some(all) = host.seen.get(place).filter(|_| place != "%rows") else {
                assert!(place == "%rows" || got.numbers == 0, "{place}");
                continue;
            };
            let kept: Vec<f32> = all.iter().copied().filter(|x| *x > -1e29).collect();
            if !place.starts_with("%tokens") && !place.starts_with("%positions") {
                let inputs = got.numbers + got.hidden;
                assert_eq!(inputs, all.len() as u64, "{family:?} {place}");
            }
            let (low, high) = kept.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &x| (a.min(x), b.max(x)));
            let size = low.abs().max(high.abs());
            near(place, "the smallest", got.min, low, size);
            near(place, "the largest", got.max, high, size);
            assert_eq!(got.hidden, (all.len() - kept.len()) as u64, "{family:?} {place}");
            assert_eq!(got.not_finite, 0);
            let range = got.ranges[&256];
            assert!(range.low() <= got.min.min(0.0) && range.high() >= got.max.max(0.0));
        }
        for weight in &model.module.weights {
            let mut numbers = Vec::new();
            let (rows, columns) = (weight.ty.rows(), weight.ty.columns());
            weight.expr.rows(model.source.as_ref(), columns, 0..rows, &mut numbers).unwrap();
            let got = &ranges.places[&format!("@{}", weight.name)];
            let want = numbers.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &x| (a.min(x), b.max(x)));
            assert_eq!(((got.min, got.max), got.numbers), (want, numbers.len() as u64), "{}", weight.name);
        }
    }
}

#[test]
fn threads_and_repetition_change_nothing() {
    for family in FAMILIES {
        let model = model(family, true);
        let texts = texts(&model);
        for method in [Method::MinMax, Method::Percentile(99.0), Method::Mse] {
            let with = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| model.ranges(&texts, method)).unwrap()
            };
            let one = with(1);
            assert_eq!(one, with(3));
            assert_eq!(one, model.ranges(&texts, method).unwrap());
            let text = serde_json::to_string(&one).unwrap();
            assert_eq!(serde_json::from_str::<Ranges>(&text).unwrap(), one);
        }
    }
}

#[test]
fn other_texts_give_ranges_of_the_same_size() {
    for family in FAMILIES {
        let model = model(family, true);
        let ranges =
            |seed: u32, method| model.ranges(&[model.text(seed, 40), model.text(seed + 1, 23)], method).unwrap();
        let (some, others) = (ranges(3, Method::Mse), ranges(8, Method::MinMax));
        for (place, other) in others.places.iter().filter(|(_, spread)| spread.numbers > 0) {
            let range = some.places[place].ranges[&65536];
            let size = (range.high() - range.low()).max(1e-6);
            let inputs = ["%tokens", "%positions", "%rows"].contains(&place.as_str());
            assert!(inputs || (other.min > -4.0 * size && other.max < 4.0 * size), "{family:?} {place}");
        }
    }
}

#[test]
fn what_cannot_be_calibrated_is_refused() {
    let model = model(Family::Sdar, false);
    assert!(matches!(model.ranges(&[], Method::MinMax), Err(CalibrateError::NoText)));
    assert!(matches!(model.ranges(&[vec![]], Method::MinMax), Err(CalibrateError::NoText)));
    let unknown = model.ranges(&[vec![0, model.vocab]], Method::MinMax).unwrap_err();
    assert!(matches!(unknown, CalibrateError::Pass { pass: 1, passes: 5, .. }), "{unknown}");
    let far = [NodeId(model.module.nodes.len() as u32)];
    let wanted = Wanted { nodes: &far, weights: &[], method: Method::MinMax, levels: &[256] };
    let result = calibrate(&model.module, &model.source, &wanted, &[vec![1]], &model.generation, &mut |_, _| {});
    assert!(matches!(result, Err(CalibrateError::Unknown(_))));
}

/// One stored tensor.
struct One(WeightType, Vec<u8>);

impl WeightSource for One {
    fn tensor(&self, _: &str) -> Result<StoredTensor<'_>, WeightError> {
        Ok(StoredTensor { ty: self.0.clone(), packing: Packing::default(), bytes: &self.1, scales: &[] })
    }
}

#[test]
fn the_ends_of_a_weight_are_exact_and_finite() {
    let ty = WeightType::new(Encoding::F32, [1000, 700]);
    let mut numbers: Vec<f32> = (0..700_000).map(|i| (i % 997) as f32 / 500.0 - 1.0).collect();
    (numbers[3], numbers[699_999]) = (-7.25, 9.0);
    let source = |numbers: &[f32]| One(ty.clone(), numbers.iter().flat_map(|x| x.to_le_bytes()).collect());
    let weight = Weight {
        name: "w".into(),
        ty: WeightType { encoding: Encoding::F16, ..ty.clone() },
        search: Search::Max,
        grid: None,
        expr: WeightExpr::Scale(Box::new(WeightExpr::Stored("w".into())), 2.0),
    };
    assert_eq!(weight_range(&weight, &source(&numbers)), Ok((-14.5, 18.0)));
    numbers[350_000] = f32::NAN;
    assert!(matches!(weight_range(&weight, &source(&numbers)), Err(WeightError::Overflow { row: 500, column: 0, .. })));
    let short = One(WeightType::new(Encoding::F32, [1, 700]), vec![0; 2800]);
    assert!(matches!(weight_range(&weight, &short), Err(WeightError::Unfit { .. })));
}
