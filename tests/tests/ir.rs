//! The IR: what it looks like at each stage, its text form and back, its rules, the meaning of each op.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod small;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use diffulex_compiler::checkpoint::Checkpoint;
use diffulex_compiler::ir::types::{DType, Dim, Encoding, Sizes, ValueType};
use diffulex_compiler::ir::{
    self, Builder, CacheId, CacheShape, Module, NodeId, Op, Operand, Stage, WeightExpr, WeightType,
};
use diffulex_compiler::passes;
use diffulex_compiler::quant::{Grid, GridType, Scheme};
use proptest::prelude::*;
use small::{Choices, fixture};

const GRID: Grid = Grid { ty: GridType::U8, scale: 0.5, zero: 3 };

// What a module looks like.

/// The fixture as it is imported, and after each pass.
fn stages() -> Vec<(String, Module)> {
    let checkpoint = Checkpoint::open(&fixture("sdar/tiny")).unwrap();
    let bounds = Sizes { t: 64, c: 512, r: 0 };
    let decoder = &checkpoint.config().decoder;
    let imported = decoder.import("sdar-tiny", bounds, &|name| checkpoint.tensor_type(name)).unwrap();
    ir::verify(&imported).unwrap();
    let mut stages = vec![("imported".to_string(), imported.clone())];
    let all: Vec<&str> = passes::PASSES.iter().map(|p| p.name).collect();
    let scheme = Scheme::float(Encoding::F16);
    let observe = &mut |step: passes::Step<'_>| stages.push((step.pass.name.to_string(), step.module.clone()));
    passes::run(imported, &all, &scheme, observe).unwrap();
    stages
}

#[test]
fn every_stage_as_it_is_printed() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../snapshots/ir");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (i, (stage, module)) in stages().into_iter().enumerate() {
        settings.bind(|| insta::assert_snapshot!(format!("sdar-tiny-{i}-{stage}"), ir::print(&module)));
    }
}

#[test]
fn every_snapshot_is_input_for_the_parser() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../snapshots/ir");
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "snap") {
            continue;
        }
        let file = fs::read_to_string(&path).unwrap();
        let text = file.splitn(3, "---\n").nth(2).unwrap();
        let module = ir::parse(text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        ir::verify(&module).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(ir::print(&module).trim_end(), text.trim_end(), "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 8, "{seen} snapshots");
}

// Text and back.

/// A module that keeps all rules, otherwise as wild as the rules allow.
struct Wild<'a> {
    choices: Choices<'a>,
    b: Builder,
    layers: u32,
    /// Values by name that a reader knows at this point: outside the layers, and in the current layer.
    outer: HashMap<String, NodeId>,
    inner: HashMap<String, NodeId>,
}

const WORDS: [&str; 8] = ["x", "q.norm", "a_b", "0", "next", "layers.7", "_", "return"];

impl<'a> Wild<'a> {
    fn module(bytes: &'a [u8]) -> Module {
        let mut choices = Choices(bytes);
        let layers = choices.of(&[0, 1, 2, 5, 11]);
        let stages = [Stage::Fused, Stage::Quantized, Stage::Legal("t-1.x".into()), Stage::Read("onnx".into())];
        let (t, with_rows) = (1 + choices.below(9) as usize, choices.flip());
        let bounds = Sizes { t, c: 1 + choices.below(200) as usize, r: 0 };
        let (kv_heads, head_dim) = (1 + choices.below(3), 2 + 2 * choices.below(3));
        let cache = if layers > 0 { CacheShape { layers, kv_heads, head_dim } } else { no_cache() };
        let module = Module::new(choices.of(&WORDS), choices.of(&stages), bounds, cache);
        let mut wild = Wild { choices, b: Builder::new(module), layers, outer: HashMap::new(), inner: HashMap::new() };
        wild.weights(kv_heads, head_dim);
        wild.inputs(with_rows);
        wild.body(kv_heads);
        let name = wild.outer.keys().min().unwrap().clone();
        let last = NodeId(wild.b.module().nodes.len() as u32 - 1);
        let outputs = if wild.choices.flip() { vec![last] } else { vec![last, wild.outer[&name], last] };
        wild.b.finish(outputs)
    }

    fn weights(&mut self, kv_heads: u32, head_dim: u32) {
        let width = kv_heads * head_dim;
        let plain = |b: &mut Builder, name: &str, shape: &[u32]| {
            b.weight(name, WeightType::new(Encoding::F32, shape), WeightExpr::Stored(name.into())).unwrap();
        };
        plain(&mut self.b, "table", &[9, width]);
        // As long as it is not hidden by a layer's own weight, a layer may call it `gain`.
        plain(&mut self.b, "gain", &[width]);
        let variants: Vec<Choices<'a>> =
            (0..3).map(|i| Choices(&self.choices.0[self.choices.0.len() * i / 4..])).collect();
        for layer in 0..self.layers {
            let mut variant = variants[self.choices.below(3) as usize].clone();
            for local in ["gain", "mlp.w"] {
                let name = format!("layers.{layer}.{local}");
                let shape: &[u32] = if local == "gain" { &[width] } else { &[width, width] };
                let ty = WeightType::new(variant.of(&[Encoding::F32, Encoding::F16, Encoding::BF16]), shape);
                let expr = expression(&mut variant, layer, shape, 0);
                self.b.weight(&name, ty, expr).unwrap();
            }
            if variant.flip() {
                plain(&mut self.b, &format!("layers.{layer}.layers.7.gain"), &[width]);
            }
        }
        plain(&mut self.b, "layers.7.gain.extra.", &[3, 4, 5]);
        plain(&mut self.b, "layers.1024.far", &[1]);
        plain(&mut self.b, "layers.007.odd", &[1]);
    }

    fn inputs(&mut self, with_rows: bool) {
        let one = Dim::fixed(1);
        let dtype = self.choices.of(&[DType::I32, DType::I64]);
        let mut inputs = vec![
            ("tokens", ValueType::new(dtype, [one, Dim::T])),
            ("mask", ValueType::f32([one, one, Dim::T, Dim { c: 1, t: 1, r: 0, n: 0 }])),
            ("odd.dims", ValueType::f32([Dim { c: 3, t: 2, r: 0, n: 7 }, Dim { c: 0, t: 5, r: 0, n: 0 }])),
        ];
        if with_rows {
            self.b.bound_rows();
            inputs.push(("rows", ValueType::new(dtype, [Dim::R])));
        }
        for (name, ty) in inputs {
            let id = self.b.input(name, ty);
            self.outer.insert(name.into(), id);
        }
    }

    fn body(&mut self, kv_heads: u32) {
        let table = self.b.weight_id("table").unwrap();
        let tokens = self.outer["tokens"];
        let x = self.push("x", Op::Embed, vec![tokens.into(), table.into()]).unwrap();
        let mut carry = x;
        self.extras();
        let variants: Vec<Choices<'a>> =
            (0..3).map(|i| Choices(&self.choices.0[self.choices.0.len() * i / 4..])).collect();
        for layer in 0..self.layers {
            self.b.layer = Some(layer);
            self.b.section = self.choices.of(&[None, Some("self_attn".to_string())]);
            let main = std::mem::replace(&mut self.choices, variants[(layer / 3 % 3) as usize].clone());
            let gain = self.b.weight_id(&format!("layers.{layer}.gain")).unwrap();
            let normed = self.push("h", Op::RmsNorm { eps: 1e-6 }, vec![carry.into(), gain.into()]).unwrap();
            // The weight outside the layers, which the layer's own one hides.
            let gain = self.b.weight_id("gain").unwrap();
            self.push("h", Op::RmsNorm { eps: 0.0 }, vec![normed.into(), gain.into()]).unwrap();
            let rows = self.push("k", Op::Heads { n: kv_heads }, vec![normed.into()]).unwrap();
            self.push("k.all", Op::Cached, vec![CacheId::k(layer), rows.into()]).unwrap();
            self.push("v.all", Op::Cached, vec![CacheId::v(layer), rows.into()]).unwrap();
            self.b.section = self.choices.of(&[None, Some("mlp".to_string())]);
            self.extras();
            carry = self.push("x", Op::Neg, vec![normed.into()]).unwrap();
            let node = self.b.module().node(carry);
            self.outer.insert(node.name.clone(), carry);
            self.inner.clear();
            self.choices = main;
        }
        (self.b.layer, self.b.section) = (None, None);
        self.extras();
        // Unless something else bears its name by now, the value that the last layer handed on.
        let carried = self.outer.get(&self.b.module().node(carry).name) == Some(&carry);
        let last = if carried { carry } else { self.outer["odd.dims"] };
        self.push("end", Op::Neg, vec![last.into()]).unwrap();
    }

    /// Some nodes of any kind that fit.
    fn extras(&mut self) {
        for _ in 0..self.choices.below(8) {
            let (dim, number) = (Dim::fixed(1 + self.choices.below(3)), self.choices.below(4));
            let op = self.choices.of(&[
                Op::Silu,
                Op::Int8Token,
                Op::FakeQuantize(GRID),
                Op::Add,
                Op::Mul,
                Op::Linear,
                Op::MergeHeads,
                Op::Swiglu,
                Op::GatherRows,
                Op::Softmax,
                Op::Mean,
                Op::Matmul { transpose: true },
                Op::Matmul { transpose: false },
                Op::Reshape { shape: vec![dim, Dim::T, Dim::fixed(number)] },
                Op::Transpose { perm: vec![1, 0] },
                Op::Transpose { perm: vec![0, 2, 1, 3] },
                Op::Slice { axis: number, start: 0, end: 1 },
                Op::Concat { axis: number },
                Op::Cast { to: DType::ALL[number as usize] },
                Op::RopeCos { dim: 2 + 2 * number, theta: 1e6 },
                Op::RopeSin { dim: 4, theta: 0.1 },
                Op::Heads { n: 1 + number },
            ]);
            let known: Vec<NodeId> = {
                let outer = self.outer.iter().filter(|(name, _)| !self.inner.contains_key(*name));
                let mut all: Vec<NodeId> = self.inner.values().copied().chain(outer.map(|(_, id)| *id)).collect();
                all.sort();
                all
            };
            let mut args: Vec<Operand> = vec![self.choices.of(&known).into()];
            match op {
                Op::Linear => args.push(Operand::Weight(ir::WeightId(self.choices.below(40)))),
                Op::Add | Op::Mul if self.choices.flip() => args.push(self.b.weight_id("gain").unwrap().into()),
                Op::Add | Op::Mul | Op::Matmul { .. } | Op::GatherRows => args.push(self.choices.of(&known).into()),
                Op::Concat { .. } => args.extend(vec![args[0]; self.choices.below(3) as usize]),
                _ => {}
            }
            args.retain(|a| !matches!(a, Operand::Weight(id) if id.0 as usize >= self.b.module().weights.len()));
            let name = self.choices.of(&WORDS);
            let _ = self.push(name, op, args);
        }
    }

    fn push(&mut self, name: &str, op: Op, args: Vec<Operand>) -> Option<NodeId> {
        let id = self.b.node(name, op, args).ok()?;
        let name = self.b.module().node(id).name.clone();
        if self.b.layer.is_some() {
            self.inner.insert(name, id)
        } else {
            self.outer.insert(name, id)
        };
        Some(id)
    }
}

fn expression(choices: &mut Choices<'_>, layer: u32, shape: &[u32], depth: u32) -> WeightExpr {
    let number = choices.of(&[0.0, -0.0, 0.088388346, 1e-30, f32::MAX, 3.0, f32::MIN_POSITIVE, 16777216.0]);
    match choices.below(if depth < 5 { 8 } else { 4 }) {
        0 => WeightExpr::Stored(format!("layers.{layer}.mlp.w")),
        1 => WeightExpr::Stored(format!("layers.{}.w", layer + 1)),
        2 => WeightExpr::Stored(choices.of(&["table", "rows", "scale", "layers", "1e-6", "-", "a."]).into()),
        3 => WeightExpr::Fill(number),
        4 if shape.len() == 2 => WeightExpr::RopeCos(choices.of(&[1e6, 0.1, 1234.5678901234])),
        5 if shape.len() == 2 => WeightExpr::RopeSin(1e300),
        4 | 6 => WeightExpr::Scale(Box::new(expression(choices, layer, shape, depth + 1)), number),
        _ => {
            let parts = 1 + choices.below(3);
            WeightExpr::Rows((0..parts).map(|_| expression(choices, layer, shape, depth + 1)).collect())
        }
    }
}

fn no_cache() -> CacheShape {
    CacheShape { layers: 0, kv_heads: 0, head_dim: 0 }
}

/// Printing loses nothing, and printing what was read gives the same bytes.
fn check_text_and_back(module: &Module) {
    let text = ir::print(module);
    ir::verify(module).unwrap_or_else(|e| panic!("[{}] {e}\n{text}", e.rule));
    let back = ir::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(&back, module, "\n{text}");
    assert_eq!(ir::print(&back), text);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_module_survives_its_text(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        check_text_and_back(&Wild::module(&bytes));
    }
}

#[test]
fn every_stage_survives_its_text() {
    stages().iter().for_each(|(_, module)| check_text_and_back(module));
}

#[test]
fn equal_layers_are_printed_once() {
    // Rows of the weight of each layer; 0 where a layer has none.
    for (rows, expected) in [
        ([2, 2, 2, 2, 2], vec!["0..5"]),
        ([3, 2, 2, 2, 2], vec!["0..1", "1..5"]),
        ([2, 2, 3, 2, 2], vec!["0..2", "2..3", "3..5"]),
        ([2, 2, 2, 2, 3], vec!["0..4", "4..5"]),
        ([2, 2, 0, 2, 2], vec!["0..2", "3..5"]),
        ([0, 0, 0, 0, 2], vec!["4..5"]),
        ([0, 0, 0, 0, 0], vec![]),
    ] {
        let mut b = Builder::new(Module::new("m", Stage::Fused, Sizes { t: 1, c: 1, r: 0 }, no_cache()));
        for (layer, &rows) in rows.iter().enumerate().filter(|(_, rows)| **rows > 0) {
            let ty = WeightType::new(Encoding::BF16, [rows, 2]);
            let name = format!("layers.{layer}.w");
            b.weight(&name, ty, WeightExpr::Stored(name.clone())).unwrap();
        }
        let x = b.input("x", ValueType::f32([Dim::T]));
        let module = b.finish([x]);
        check_text_and_back(&module);
        let text = ir::print(&module);
        let ranges = text.lines().filter_map(|l| l.trim().strip_prefix("layers.{i} for i in ")?.strip_suffix(" {"));
        assert_eq!(ranges.collect::<Vec<_>>(), expected);
    }
}

// Mistakes in the text.

/// A small text with a layer, to break.
const TEXT: &str = r#"module "m" stage fused
dims T = 4, C = 8

weights {
  table          : f32[9, 4]
  layers.{i} for i in 0..2 {
    w            : bf16[4, 4]
    g            : f32[4] = scale(w, 0.5)
  }
}

cache k, v : f32[1, 2, C, 2] for layers.{i} in 0..2

graph step(%tokens: i32[1, T]) {
  %x = embed %tokens, @table                   : f32[1, T, 4]

  layers.{i} for i in 0..2 carry %x {
    part:
    %h = linear %x, @w                         : f32[1, T, 4]
    %k = heads %h {n = 2}                      : f32[1, 2, T, 2]
    %a = cached $k, %k                         : f32[1, 2, C+T, 2]
    %b = cached $v, %k                         : f32[1, 2, C+T, 2]
    next slice %h {axis = 2, range = 0..4}     : f32[1, T, 4]
  }

  return %x
}
"#;

#[test]
fn the_text_to_break_is_right() {
    ir::verify(&ir::parse(TEXT).unwrap()).unwrap();
}

/// `old` replaced by `new` is a mistake: in that line, and the message says so.
fn check_mistake(old: &str, new: &str, line: usize, message: &str) {
    assert_eq!(TEXT.matches(old).count(), 1, "`{old}`");
    let error = ir::parse(&TEXT.replace(old, new)).expect_err(&format!("`{new}` for `{old}`"));
    assert!(error.what.contains(message), "`{new}`: {error}\n  expected: {message}");
    assert_eq!(error.line, line, "`{new}`: {error}");
    assert!(error.what.len() < 400, "{error}");
}

#[test]
fn every_mistake_names_its_line() {
    for (old, new, line, message) in [
        (r#"module "m""#, r#"model "m""#, 1, "expected `module`"),
        (r#""m""#, r#""m"#, 1, "the name has no end"),
        ("stage fused", "stage molten", 1, "unknown stage `molten`"),
        ("stage fused", "stage fused twice", 1, "`twice` is too much"),
        ("stage fused", "stage legal", 1, "expected a word"),
        ("T = 4, C", "T = 4 C", 2, "expected `,`"),
        ("T = 4", "T = -4", 2, "`-4` is not a number"),
        ("T = 4", "T = 99999999999999999999", 2, "is not a number that fits"),
        ("C = 8", "D = 8", 2, "expected `C`"),
        ("C = 8", "C = 8, T = 2", 2, "expected `R`"),
        ("weights {", "weights", 4, "expected `weights {`"),
        ("f32[9, 4]", "f33[9, 4]", 5, "unknown encoding `f33`"),
        ("f32[9, 4]", "f32[9 4]", 5, "expected `,`"),
        ("f32[9, 4]", "f32[9, T]", 5, "`T` is not a number"),
        ("f32[9, 4]", "f32[9, 4294967296]", 5, "is not a number that fits"),
        ("f32[9, 4]", "f32[9, 4] = ", 5, "expected a word"),
        ("f32[9, 4]", "f32[9, 4] = rows()", 5, "expected a word"),
        ("f32[9, 4]", "f32[9, 4] = halve(a)", 5, "unknown expression `halve`"),
        ("f32[9, 4]", "f32[9, 4] = fill(NaN)", 5, "is not finite"),
        ("f32[9, 4]", "f32[9, 4] = fill(1e39)", 5, "is not finite"),
        ("f32[9, 4]", "f32[9, 4] = rope_cos(inf)", 5, "is not finite"),
        ("f32[9, 4]", "f32[9, 4] = a b", 5, "`b` is too much"),
        ("  layers.{i} for i in 0..2 {", "  layers.{i} for i in 2..2 {", 6, "not a range"),
        ("  layers.{i} for i in 0..2 {", "  layers.{i} for i in 0..1025 {", 6, "not a range"),
        ("  layers.{i} for i in 0..2 {", "  layers.{i} for i in 0..2 carry %x {", 6, "carry nothing"),
        ("g            :", "w            :", 8, "a second weight `layers.0.w`"),
        ("scale(w, 0.5)", "scale(w)", 8, "expected `,`"),
        ("scale(w, 0.5)", "scale(w, x)", 8, "`x` is not a number"),
        ("cache k, v :", "cache v, k :", 12, "expected `k`"),
        ("C, 2] for", "T, 2] for", 12, "caches are f32[1, KV, C, D]"),
        ("i} in 0..2\n", "i} in 0..5000\n", 12, "for at most 1024 layers"),
        ("i} in 0..2\n", "i} in 1..2\n", 12, "expected `0`"),
        ("(%tokens: i32[1, T])", "(%tokens: i32[1, T] %t: i32[1])", 14, "expected `,`"),
        ("(%tokens: i32[1, T])", "(%tokens: i32[1, T], %tokens: i32[1])", 14, "a second value `%tokens`"),
        ("(%tokens: i32[1, T])", "(%tokens: i31[1, T])", 14, "unknown type `i31`"),
        ("(%tokens: i32[1, T])", "(%tokens: i32[1, S])", 14, "unknown dimension `S`"),
        ("(%tokens: i32[1, T])", "(%tokens: i32[1, 4294967295*T+T])", 14, "too large"),
        ("T]) {", "T]) { %x", 14, "`%x` is too much"),
        ("embed %tokens, @table", "embed %tokens, @tables", 15, "no weight `tables`"),
        ("embed %tokens, @table", "embed %tokens, ", 15, "expected an operand after `,`"),
        ("embed %tokens, @table", "embed %x, @table", 15, "no value `%x`"),
        ("embed %tokens, @table", "embed @table", 15, "`embed` takes 2 operands, not 1"),
        ("embed %tokens, @table", "imbed %tokens, @table", 15, "expected `{`"),
        ("embed %tokens, @table", "imbed %tokens {n = 1}", 15, "unknown op `imbed`"),
        ("embed %tokens, @table", "cached @table, @table", 15, "are not [1, KV, .., D]"),
        ("embed %tokens, @table", "concat %tokens {axis = 4}", 15, "has no axis 4"),
        ("carry %x {", "{", 17, "need `carry %name`"),
        ("%h = linear %x, @w  ", "%h = linear %x, @/w  ", 19, "no weight `w`"),
        ("%k = heads %h {n = 2}", "%k = heads %h {n = 3}", 20, "4 columns do not make 3 heads"),
        ("%k = heads %h {n = 2}", "%k = heads %h {m = 2}", 20, "expected `n`"),
        ("%k = heads %h {n = 2}", "%h = heads %h {n = 2}", 20, "a second value `%h`"),
        ("f32[1, 2, T, 2]", "f32[1, 2, T, 3]", 20, "is f32[1, 2, T, 2], not f32[1, 2, T, 3]"),
        ("f32[1, 2, T, 2]", "f32[1, 2, T, 2] = 1", 20, "`= 1` is too much"),
        ("cached $k", "cached $q", 21, "no cache `$q`"),
        ("cached $k", "cached $k.x", 21, "no cache `$k.x`"),
        ("    next slice", "    %y = slice", 24, "a layer ends with `next`"),
        ("{axis = 2, range = 0..4}", "{axis = 2 range = 0..4}", 23, "expected `,`"),
        ("{axis = 2, range = 0..4}", "{axis = 2, range = 0...4}", 23, "is not a number"),
        ("{axis = 2, range = 0..4}", "{axis = 2, range = 0..5}", 23, "0..5 is no part of an axis of 4"),
        ("{axis = 2, range = 0..4}", "{axis = 2, range = 4..4}", 23, "4..4 is no part of an axis of 4"),
        ("{axis = 2, range = 0..4}", "{axis = 3, range = 0..4}", 23, "has no axis 3"),
        ("  return %x", "  return %y", 26, "no value `%y`"),
        ("  return %x", "  return x", 26, "expected `%`"),
        ("  return %x", "  return %x,", 26, "expected `%`"),
        ("  return %x", "  next neg %x : f32[1, T, 4]", 26, "`next` stands at the end of a layer"),
        ("  return %x\n}", "  return %x\n", 26, "ends too early"),
        ("  return %x\n}", "  return %x\n}\n}", 28, "text after the end"),
    ] {
        check_mistake(old, new, line, message);
    }
    assert_eq!(ir::parse("").unwrap_err().line, 1);
}

#[test]
fn a_layer_is_read_once_for_each_number() {
    let twice = TEXT.replace("%h = linear %x, @w  ", "%h = linear %x, @layers.0.w  ");
    let module = ir::parse(&twice).unwrap();
    let reads = |name: &str| {
        let id = module.weight_id(name).unwrap();
        module.nodes.iter().filter(|n| n.args.contains(&id.into())).count()
    };
    assert_eq!((reads("layers.0.w"), reads("layers.1.w")), (2, 0));
}

#[derive(Clone, Debug)]
enum Damage {
    Cut(usize),
    Drop(usize),
    Repeat(usize),
    Swap(usize, usize),
    Replace(usize, u8),
    Insert(usize, &'static str),
}

fn damage() -> impl Strategy<Value = Damage> {
    let tokens = ["%x", "@w", "$k", "{", "}", "..", "[", "]", "next ", "return %x", "layers.{i} for i in 0..4 {", "/"];
    let more = ["4294967295", "-1", "NaN", "T", "rows(", "scale(", ":", ",", "\u{2192}", "cached ", "concat ", "_:"];
    let all: Vec<&'static str> = tokens.into_iter().chain(more).collect();
    let at = || 0usize..10_000;
    prop_oneof![
        at().prop_map(Damage::Cut),
        at().prop_map(Damage::Drop),
        at().prop_map(Damage::Repeat),
        (at(), at()).prop_map(|(a, b)| Damage::Swap(a, b)),
        (at(), 32u8..127).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        (at(), proptest::sample::select(all)).prop_map(|(at, token)| Damage::Insert(at, token)),
    ]
}

fn damaged(text: &str, damage: &[Damage]) -> String {
    let mut text = text.to_string();
    for one in damage {
        let mut lines: Vec<&str> = text.lines().collect();
        let (count, boundary) = (lines.len().max(1), |at: usize| {
            let at = at % (text.len() + 1);
            (0..=at).rev().find(|&i| text.is_char_boundary(i)).unwrap()
        });
        text = match one {
            Damage::Cut(at) => text[..boundary(*at)].to_string(),
            Damage::Insert(at, token) => format!("{}{token}{}", &text[..boundary(*at)], &text[boundary(*at)..]),
            Damage::Replace(at, byte) => {
                let at = boundary(*at);
                let rest: String = text[at..].chars().skip(1).collect();
                format!("{}{}{rest}", &text[..at], char::from(*byte))
            }
            Damage::Drop(at) => {
                if !lines.is_empty() {
                    lines.remove(at % count);
                }
                lines.join("\n")
            }
            Damage::Repeat(at) => {
                if !lines.is_empty() {
                    lines.insert(at % count, lines[at % count]);
                }
                lines.join("\n")
            }
            Damage::Swap(a, b) => {
                if !lines.is_empty() {
                    lines.swap(a % count, b % count);
                }
                lines.join("\n")
            }
        };
    }
    text
}

/// Any text gives a module or an error in one of its lines; a module that keeps the rules survives its text.
fn check_any_text(text: &str) {
    match ir::parse(text) {
        Err(error) => assert!((1..=text.lines().count().max(1)).contains(&error.line), "{error}\n{text}"),
        Ok(module) => match ir::verify(&module) {
            Ok(()) => check_text_and_back(&module),
            Err(error) => assert!(!error.to_string().is_empty()),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_text_is_refused_or_read(damage in proptest::collection::vec(damage(), 1..5)) {
        check_any_text(&damaged(TEXT, &damage));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_text_of_any_module_is_refused_or_read(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        damage in proptest::collection::vec(damage(), 1..4),
    ) {
        check_any_text(&damaged(&ir::print(&Wild::module(&bytes)), &damage));
    }
}

/// The text is refused, or read, in a moment.
fn check_fast(what: &str, text: &str, message: &str) {
    let start = Instant::now();
    let error = ir::parse(text).map_err(|e| e.what).and_then(|m| ir::verify(&m).map_err(|e| e.what));
    let time = start.elapsed();
    assert!(time < Duration::from_secs(30), "{what}: {time:?}");
    match error {
        Ok(()) => assert_eq!(message, "", "{what} was read"),
        Err(error) => assert!(!message.is_empty() && error.contains(message), "{what}: {error}"),
    }
}

#[test]
fn hostile_sizes_are_refused_at_once() {
    let weights = |text: &str| TEXT.replace("  table ", &format!("{text}\n  table "));
    let many = |n: usize, line: &dyn Fn(usize) -> String| (0..n).map(line).collect::<String>();
    let layers = |body: &str| weights(&format!("  layers.{{i}} for i in 0..1024 {{\n{body}  }}"));
    let rows = |n: usize| format!("  deep : f32[1] = {}a{}", "rows(".repeat(n), ")".repeat(n));
    check_fast("many layers", &layers("a : f32[1]\n"), "");
    let wide = layers(&many(100, &|i| format!("a{i} : f32[1] = rows({}a)\n", "a, ".repeat(300))));
    check_fast("many weights in many layers", &wide, "written out layer by layer");
    let empty = weights(&many(20_000, &|_| "  layers.{i} for i in 0..1024 {\n}\n".into()));
    check_fast("many empty layers", &empty, "written out layer by layer");
    check_fast("15 nested expressions", &weights(&rows(15)), "");
    check_fast("16 nested expressions", &weights(&rows(16)), "nested too deeply");
    check_fast("a million nested expressions", &weights(&rows(1_000_000)), "nested too deeply");
    let long = weights(&format!("  long : f32[1] = rows({}a)", "a, ".repeat(300_000)));
    check_fast("a long expression", &long, "");
    let digits = weights(&format!("  big : f32[{}]", "9".repeat(1_000_000)));
    check_fast("a long number", &digits, "is not a number");
    check_fast("a huge weight", &weights("  big : f32[4294967295, 4294967295, 4294967295]"), "too many numbers");
    let inputs = many(20_000, &|_| "%a: f32[1], ".into());
    check_fast("one input many times", &TEXT.replace("(%tokens", &format!("({inputs}%tokens")), "a second value");
    let chain = many(50_000, &|i| format!("  %n{} = neg %n{i} : f32[1, T, 4]\n", i + 1));
    let chain = chain.replacen("%n0 ", "%x ", 1);
    check_fast("a long chain", &TEXT.replace("  return", &format!("{chain}  return")), "");
    let wide = format!("  %w = concat {}%x {{axis = 2}} : f32[1, T, 400004]\n  return", "%x, ".repeat(100_000));
    check_fast("a wide node", &TEXT.replace("  return", &wide), "");
    check_fast("a long line of nothing", &"(".repeat(10_000_000), "expected `module`");
    check_fast("many lines of nothing", &"\n".repeat(10_000_000), "ends too early");
}

#[test]
fn printing_copes_with_numbers_that_are_no_layer() {
    let name = format!("layers.{}.w", u32::MAX);
    let text = TEXT.replace("  table ", &format!("  {name} : f32[1]\n  table "));
    check_text_and_back(&ir::parse(&text).unwrap());
}

#[test]
fn taken_names_get_numbers() {
    let mut b = Builder::new(Module::new("m", Stage::Fused, Sizes { t: 1, c: 1, r: 0 }, no_cache()));
    let mut x = b.input("x", ValueType::f32([Dim::T]));
    for name in ["q", "q", "q.2", "q", "q", "x", "q.2"] {
        x = b.node(name, Op::Neg, [x.into()]).unwrap();
    }
    b.layer = Some(0);
    b.node("q", Op::Neg, [x.into()]).unwrap();
    let module = Builder::new(b.finish([x]));
    let names = |b: &Builder| b.module().nodes.iter().map(|n| n.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&module), ["x", "q", "q.2", "q.2.2", "q.3", "q.4", "x.2", "q.2.3", "q"]);
    let mut b = module;
    b.node("q", Op::Neg, [x.into()]).unwrap();
    assert_eq!(names(&b).last().unwrap(), "q.5", "after going on from a finished module");
}

// The rules.

/// Operands of these shapes, written as they are printed, do not fit `op`.
fn check_unfit(op: Op, operands: &str, message: &str) {
    let text = "module \"m\" stage fused\ndims T = 4, C = 8, R = 2\nweights {\n}\n";
    let cache = "cache k, v : f32[1, 0, C, 0] for layers.{i} in 0..0\n";
    let inputs: Vec<String> = operands.split("; ").enumerate().map(|(i, ty)| format!("%x{i}: {ty}")).collect();
    let text = format!("{text}{cache}graph step({}) {{\nreturn %x0\n}}\n", inputs.join(", "));
    let module = ir::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let types: Vec<ValueType> = module.nodes.iter().map(|n| n.ty.clone()).collect();
    let error = ir::infer::infer(&op, &types).expect_err(&format!("{op:?} of {operands}"));
    assert!(error.contains(message), "{op:?} of {operands}: {error}\n  not: {message}");
}

#[test]
fn every_op_has_a_typing_rule() {
    let (cos, norm) = (Op::RopeCos { dim: 4, theta: 1e6 }, Op::RmsNorm { eps: 1e-6 });
    let (attention, slice) = (Op::Attention { scale: 1.0 }, |axis, start, end| Op::Slice { axis, start, end });
    let fixed = |shape: &[u32]| Op::Reshape { shape: shape.iter().map(|&n| Dim::fixed(n)).collect() };
    for (op, operands, message) in [
        (Op::Input, "f32[1]", "an input has no typing rule"),
        (Op::Embed, "f32[1, T]; f32[9, 4]", "does not index anything"),
        (Op::Embed, "i32[1, T]; f32[9]", "not a matrix"),
        (cos.clone(), "f32[1, T]", "does not index anything"),
        (cos, "i32[T]", "not [1, T]"),
        (Op::RopeSin { dim: 5, theta: 1e6 }, "i32[1, T]", "a head of 5"),
        (Op::RopeSin { dim: 0, theta: 1e6 }, "i32[1, T]", "a head of 0"),
        (Op::RopeSin { dim: 4, theta: f64::INFINITY }, "i32[1, T]", "theta inf"),
        (Op::RopeCos { dim: 4, theta: 0.0 }, "i32[1, T]", "theta 0"),
        (norm.clone(), "f32[T, 4]; f32[5]", "gain f32[5] does not fit"),
        (norm.clone(), "f32[T, 4]; f32[1, 4]", "gain f32[1, 4] does not fit"),
        (norm, "i32[T, 4]; f32[4]", "cannot compute with i32[T, 4]"),
        (Op::RmsNorm { eps: f32::NAN }, "f32[T, 4]; f32[4]", "eps NaN"),
        (Op::RmsNorm { eps: -1.0 }, "f32[T, 4]; f32[4]", "eps -1"),
        (Op::Linear, "f32[T, 4]; f32[3, 5]", "has no last axis of 5"),
        (Op::Linear, "f32[T, 4]; f32[4]", "not a matrix"),
        (Op::Linear, "f32[T, 4]; f32[3, 4]; f32[4]", "bias f32[4] is not [3]"),
        (Op::Linear, "f32[T, 4]", "takes 2 operands, not 1"),
        (Op::Heads { n: 0 }, "f32[1, T, 4]", "do not make 0 heads"),
        (Op::Heads { n: 3 }, "f32[1, T, 4]", "do not make 3 heads"),
        (Op::Heads { n: 1 }, "f32[1, 4, T]", "not known while compiling"),
        (Op::Heads { n: 2 }, "f32[T, 4]", "is not [1, T, n*D]"),
        (Op::MergeHeads, "f32[1, T, 4]", "is not [1, n, T, D]"),
        (Op::MergeHeads, "f32[1, T, 4, 4]", "not known while compiling"),
        (Op::MergeHeads, "f32[1, 65536, T, 65536]", "too wide"),
        (Op::Rope, "f32[1, 2, T, 4]; f32[1, 1, T, 4]; f32[1, 1, T, 2]", "f32[1, 1, T, 2] is not f32[1, 1, T, 4]"),
        (Op::Rope, "f32[1, 2, T, 3]; f32[1, 1, T, 3]; f32[1, 1, T, 3]", "a head of 3"),
        (Op::Cached, "f32[1, 2, C, 4]; f32[1, 3, T, 4]", "do not fit the cache"),
        (Op::Cached, "f32[1, 2, C, 4]; f32[1, 2, T, 5]", "do not fit the cache"),
        (Op::Cached, "f32[1, 2, C, 4]; f32[2, 2, T, 4]", "do not fit the cache"),
        (Op::Cached, "f32[1, 2, C, 4]; i32[1, 2, T, 4]", "cannot compute with i32"),
        (Op::Cached, "f32[1, 2, C, 4]; f32[2, T, 4]", "are not [1, KV, .., D]"),
        (attention.clone(), "f32[1, 2, T, 4]; f32[1, 2, C, 4]; f32[1, 2, T, 4]; f32[1, 1, T, C]", "do not fit"),
        (attention.clone(), "f32[1, 2, T, 4]; f32[1, 2, C, 5]; f32[1, 2, C, 5]; f32[1, 1, T, C]", "do not fit"),
        (attention.clone(), "f32[1, 3, T, 4]; f32[1, 2, C, 4]; f32[1, 2, C, 4]; f32[1, 1, T, C]", "cannot share 2"),
        (attention.clone(), "f32[1, 2, T, 4]; f32[1, 0, C, 4]; f32[1, 0, C, 4]; f32[1, 1, T, C]", "cannot share 0"),
        (
            attention.clone(),
            "f32[1, 2, T, 4]; f32[1, 2, C, 4]; f32[1, 2, C, 4]; f32[1, 1, C, T]",
            "is not f32[1, 1, T, C]",
        ),
        (
            attention,
            "f32[2, 2, T, 4]; f32[2, 2, C, 4]; f32[2, 2, C, 4]; f32[1, 1, T, C]",
            "are not [1, heads, tokens, D]",
        ),
        (
            Op::Attention { scale: f32::INFINITY },
            "f32[1, 2, T, 4]; f32[1, 2, C, 4]; f32[1, 2, C, 4]; f32[1, 1, T, C]",
            "scale inf is not finite",
        ),
        (Op::Silu, "i64[T]", "cannot compute with i64[T]"),
        (Op::Int8Token, "i32[T, 4]", "cannot compute with i32[T, 4]"),
        (Op::FakeQuantize(GRID), "i32[T, 4]", "cannot compute with i32[T, 4]"),
        (Op::FakeQuantize(Grid { zero: 256, ..GRID }), "f32[T, 4]", "zero point 256 is no uint8"),
        (Op::FakeQuantize(Grid { scale: 0.0, ..GRID }), "f32[T, 4]", "scale 0 is not above 0"),
        (Op::Swiglu, "f32[T, 3]", "3 columns have no two halves"),
        (Op::Swiglu, "f32[4, T]", "not known while compiling"),
        (Op::Swiglu, "f32[]", "has no last axis"),
        (Op::Mean, "f32[]", "has no last axis"),
        (Op::GatherRows, "f32[1, T, 4]; f32[R]", "does not index anything"),
        (Op::GatherRows, "f32[1, T, 4]; i32[1, R]", "are not [1, T, H] and [R]"),
        (Op::GatherRows, "f32[2, T, 4]; i32[R]", "are not [1, T, H] and [R]"),
        (Op::Add, "f32[T, 4]; f32[T, 3]", "do not broadcast"),
        (Op::Sub, "f32[T]; f32[C]", "do not broadcast"),
        (Op::Mul, "f32[T]; f16[T]", "differ in element type"),
        (Op::Div, "f32[T]; f32[T]; f32[T]", "takes 2 operands, not 3"),
        (Op::Matmul { transpose: false }, "f32[T, 4]; f32[5, 4]", "do not multiply"),
        (Op::Matmul { transpose: true }, "f32[T, 4]; f32[4, 5]", "do not multiply"),
        (Op::Matmul { transpose: true }, "f32[4]; f32[4, 4]", "do not multiply"),
        (Op::Matmul { transpose: false }, "f32[2, T, 4]; f32[3, 4, 5]", "do not broadcast"),
        (fixed(&[5]), "f32[2, 2]", "f32[2, 2] cannot become [5]"),
        (fixed(&[4]), "f32[T]", "f32[T] cannot become [4]"),
        (fixed(&[4]), "f32[T, C]", "has two open axes"),
        (fixed(&[65536, 65536]), "f32[1]", "is too large"),
        (Op::Transpose { perm: vec![0, 0] }, "f32[2, 3]", "is no order of the axes"),
        (Op::Transpose { perm: vec![0, 2] }, "f32[2, 3]", "is no order of the axes"),
        (Op::Transpose { perm: vec![0] }, "f32[2, 3]", "is no order of the axes"),
        (slice(0, 0, 1), "f32[T, 4]", "not known while compiling"),
        (slice(1, 3, 2), "f32[T, 4]", "3..2 is no part of an axis of 4"),
        (slice(1, 0, 5), "f32[T, 4]", "0..5 is no part of an axis of 4"),
        (Op::Concat { axis: 0 }, "f32[T, 4]; f32[T, 3]", "does not join"),
        (Op::Concat { axis: 0 }, "f32[T, 4]; f32[T]", "does not join"),
        (Op::Concat { axis: 0 }, "f32[T, 4]; i32[T, 4]", "does not join"),
        (Op::Concat { axis: 2 }, "f32[T, 4]", "has no axis 2"),
        (Op::Concat { axis: 0 }, "f32[4294967295]; f32[1]", "too long"),
    ] {
        check_unfit(op, operands, message);
    }
}

type Break = Box<dyn Fn(&mut Module)>;

/// The module of `TEXT`, broken, breaks `rule`.
fn check_rule(rule: &str, message: &str, broken: &Break) {
    let mut module = ir::parse(TEXT).unwrap();
    broken(&mut module);
    let error = ir::verify(&module).expect_err(&format!("{rule}: {message}"));
    assert!(
        error.rule == rule && error.to_string().contains(message),
        "[{}] {error}\n  not {rule}: {message}",
        error.rule
    );
}

/// Index of a node of `TEXT`.
fn at(module: &Module, layer: Option<u32>, name: &str) -> usize {
    module.nodes.iter().position(|n| n.layer == layer && n.name == name).unwrap()
}

#[test]
fn every_rule_can_be_broken() {
    fn on(layer: Option<u32>, name: &'static str, f: impl Fn(&mut ir::Node) + 'static) -> Break {
        Box::new(move |m| {
            let at = at(m, layer, name);
            f(&mut m.nodes[at]);
        })
    }
    fn module(f: impl Fn(&mut Module) + 'static) -> Break {
        Box::new(f)
    }
    fn weight(f: impl Fn(&mut ir::Weight) + 'static) -> Break {
        Box::new(move |m| f(&mut m.weights[0]))
    }
    fn expr(expr: WeightExpr) -> Break {
        weight(move |w| w.expr = expr.clone())
    }
    let input = |name: &str, ty: ValueType, layer| ir::Node {
        name: name.into(),
        layer,
        section: None,
        op: Op::Input,
        args: vec![],
        ty,
    };
    let (late, inside) =
        (input("late", ValueType::f32([Dim::T]), None), input("in", ValueType::f32([Dim::T]), Some(0)));
    let rows = input("rows", ValueType::new(DType::I32, [Dim::R]), None);
    let stored = |name: &str| WeightExpr::Stored(name.into());
    let nested = (0..16).fold(stored("a"), |inner, _| WeightExpr::Scale(Box::new(inner), 2.0));

    let cases: Vec<(&str, &str, Break)> = vec![
        ("order", "inputs come first", module(move |m| m.nodes.push(late.clone()))),
        ("order", "an input reads nothing", on(None, "tokens", |n| n.args.push(NodeId(0).into()))),
        ("order", "does not come before", on(None, "x", |n| n.args[0] = NodeId(1).into())),
        ("order", "does not come before", on(None, "x", |n| n.args[0] = NodeId(99).into())),
        ("order", "does not come before", on(None, "x", |n| n.args[1] = ir::WeightId(99).into())),
        ("order", "does not come before", on(Some(0), "a", |n| n.args[0] = CacheId::k(2))),
        ("order", "there is no output", module(|m| m.outputs.clear())),
        ("order", "there is no node 99", module(|m| m.outputs.push(NodeId(99)))),
        ("types", "is declared f32[1, T, 5]", on(None, "x", |n| n.ty.shape[2] = Dim::fixed(5))),
        ("types", "is declared f16[1, T, 4]", on(None, "x", |n| n.ty.dtype = DType::F16)),
        ("types", "takes 2 operands, not 1", on(None, "x", |n| n.args.truncate(1))),
        ("types", "cannot take Node(NodeId(0)) as operand 1", on(None, "x", |n| n.args[1] = NodeId(0).into())),
        ("types", "as operand 0", on(Some(0), "a", |n| n.args[0] = n.args[1])),
        ("types", "as operand 0", on(Some(0), "k", |n| n.args[0] = ir::WeightId(0).into())),
        ("types", "bias f32[9, 4] is not [4]", on(Some(0), "h", |n| n.args.push(ir::WeightId(0).into()))),
        ("bounds", "T and C are at least 1", module(|m| m.bounds.t = 0)),
        ("bounds", "T and C are at least 1", module(|m| m.bounds.c = 0)),
        ("bounds", "neither T nor C exceeds", module(|m| m.bounds.c = (1 << 24) + 1)),
        ("bounds", "R is set exactly", module(|m| m.bounds.r = 1)),
        ("bounds", "R is set exactly", {
            let rows = rows.clone();
            module(move |m| {
                m.nodes.insert(0, rows.clone());
            })
        }),
        (
            "bounds",
            "R is at most T",
            module(move |m| {
                m.nodes.insert(0, rows.clone());
                m.bounds.r = 5;
            }),
        ),
        ("bounds", "but there is no R", on(None, "tokens", |n| n.ty.shape[1] = Dim::R)),
        ("weights", "the name is taken", module(|m| m.weights[1].name = "table".into())),
        ("weights", "an axis of 0", weight(|w| w.ty.shape = vec![0, 4])),
        ("weights", "no axis at all", weight(|w| w.ty.shape.clear())),
        ("weights", "too many numbers", weight(|w| w.ty.shape = vec![u32::MAX; 2])),
        ("weights", "too many numbers", weight(|w| w.ty.shape = vec![u32::MAX; 9])),
        ("weights", "joins nothing", expr(WeightExpr::Rows(vec![]))),
        ("weights", "is not finite", expr(WeightExpr::Fill(f32::NAN))),
        ("weights", "is not finite", expr(WeightExpr::Scale(Box::new(stored("a")), f32::INFINITY))),
        ("weights", "a base above 0", expr(WeightExpr::RopeCos(0.0))),
        ("weights", "a base above 0", expr(WeightExpr::RopeSin(f64::NAN))),
        (
            "weights",
            "two halves of columns",
            weight(|w| {
                w.ty.shape = vec![4, 3];
                w.expr = WeightExpr::RopeCos(1e6);
            }),
        ),
        ("weights", "nested too deeply", expr(nested)),
        ("caches", "is used 0 times", module(|m| m.cache.layers = 3)),
        ("caches", "at most 1024", module(|m| m.cache.layers = 1025)),
        ("caches", "$v.0: is used 0 times", on(Some(0), "b", |n| n.args[0] = CacheId::v(1))),
        ("caches", "$k.0: is used 2 times", on(Some(0), "b", |n| n.args[0] = CacheId::k(0))),
        ("names", "is not a name", module(|m| m.name = "a b".into())),
        ("names", "is not a name", module(|m| m.name.clear())),
        ("names", "is not a name", module(|m| m.stage = Stage::Legal("a\nb".into()))),
        ("names", "is not a name", module(|m| m.stage = Stage::Read("..".into()))),
        ("names", "signs that a name cannot have", weight(|w| w.name = "a/b".into())),
        ("names", "signs that a name cannot have", expr(stored("onnx::x"))),
        ("names", "signs that a name cannot have", on(None, "x", |n| n.name = "ä".into())),
        ("names", "signs that a name cannot have", on(Some(1), "h", |n| n.section = Some("a b".into()))),
        ("names", "signs that a name cannot have", on(Some(1), "h", |n| n.section = Some("_".into()))),
        ("names", "the name is taken", on(Some(1), "b", |n| n.name = "a".into())),
        (
            "layers",
            "an input in a layer",
            module(move |m| {
                m.nodes.insert(0, inside.clone());
                let shift = |a: &mut Operand| {
                    if let Operand::Node(id) = a {
                        id.0 += 1
                    }
                };
                m.nodes.iter_mut().for_each(|n| n.args.iter_mut().for_each(shift));
            }),
        ),
        (
            "layers",
            "a number above 1023",
            module(|m| {
                m.nodes.iter_mut().filter(|n| n.layer == Some(1)).for_each(|n| n.layer = Some(1024));
            }),
        ),
        (
            "layers",
            "do not ascend",
            module(|m| {
                m.nodes.iter_mut().filter(|n| n.layer.is_some()).for_each(|n| n.layer = n.layer.map(|l| 1 - l));
            }),
        ),
        (
            "layers",
            "its layer ended before",
            module(|m| {
                let last = m.nodes.last().unwrap().clone();
                m.nodes.push(ir::Node { name: "more".into(), layer: Some(0), section: None, ..last });
            }),
        ),
        (
            "layers",
            "its layer ended before",
            module(|m| {
                let last = m.nodes.last().unwrap().clone();
                let x = NodeId(at(m, Some(1), "x") as u32);
                let between =
                    ir::Node { op: Op::Neg, args: vec![x.into()], layer: None, section: None, ..last.clone() };
                m.nodes.push(ir::Node { name: "between".into(), ..between });
                m.nodes.push(ir::Node { name: "more".into(), op: Op::Neg, args: vec![x.into()], ..last });
            }),
        ),
        (
            "layers",
            "reads layers.0 %k, which is not known",
            module(|m| {
                let (k, a) = (at(m, Some(0), "k"), at(m, Some(1), "a"));
                m.nodes[a].args[1] = NodeId(k as u32).into();
            }),
        ),
        (
            "layers",
            "reads %x, which is not known",
            module(|m| {
                let (x, h) = (at(m, None, "x"), at(m, Some(1), "h"));
                m.nodes[h].args[0] = NodeId(x as u32).into();
            }),
        ),
        ("layers", "does not hand this output on", module(|m| m.outputs = vec![NodeId(at(m, Some(1), "h") as u32)])),
        ("layers", "does not hand this output on", module(|m| m.outputs = vec![NodeId(at(m, None, "x") as u32)])),
        ("stage", "an imported weight is a stored tensor", module(|m| m.stage = Stage::Imported)),
        ("stage", "a section outside all layers", on(None, "x", |n| n.section = Some("part".into()))),
    ];
    let mut rules: Vec<&str> = cases.iter().map(|(rule, ..)| *rule).collect();
    cases.iter().for_each(|(rule, message, broken)| check_rule(rule, message, broken));
    rules.dedup();
    assert_eq!(rules, ["order", "types", "bounds", "weights", "caches", "names", "layers", "stage"]);
}
