//! Each pass against the interpreter: what a module computes before it and after it.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod small;

use diffulex_compiler::ir::interpret::{Array, Inputs, Outputs};
use diffulex_compiler::ir::types::{Encoding, Sizes};
use diffulex_compiler::ir::{self, CacheId, CacheKind, Module, Op, Stage};
use diffulex_compiler::math;
use diffulex_compiler::models::Decoder;
use diffulex_compiler::passes::{self, Note, PASSES};
use diffulex_compiler::quant::{self, Scheme};
use proptest::prelude::*;
use small::{Choices, Random, Tensors, ids, import, inputs, step, value};

const F16: Scheme = Scheme::float(Encoding::F16);

/// A random small network with weights, and a step to run it on.
struct Case {
    decoder: Decoder,
    tensors: Tensors,
    module: Module,
    inputs: Inputs,
}

impl Case {
    /// Every matrix gets one encoding, every vector another, so that some case has each pair.
    fn new(bytes: &[u8], adjust: impl Fn(&mut Decoder)) -> Case {
        let mut choices = Choices(bytes);
        let mut decoder = small::decoder(&mut choices);
        adjust(&mut decoder);
        let (matrix, vector) = (choices.of(&FLOATS), choices.of(&FLOATS));
        let is_vector = |name: &str| name.ends_with("norm") || name.ends_with(".bias");
        let seed = u64::from(choices.below(251));
        let tensors = Tensors::random(&decoder, seed, &|name| if is_vector(name) { vector } else { matrix });
        let module = import(&decoder, &tensors);
        let (t, c) = (1 + choices.below(5) as usize, 1 + choices.below(6) as usize);
        let inputs = inputs(&module, decoder.vocab, t, c, seed + 1);
        Case { decoder, tensors, module, inputs }
    }

    fn before(&self) -> Outputs {
        step(&self.module, &self.tensors, &self.inputs)
    }

    /// The module after these passes, and what it makes of the same step.
    fn after(&self, wanted: &[&str], scheme: &Scheme) -> (Module, Outputs) {
        let module = apply(&self.module, wanted, scheme).0;
        let mut inputs = self.inputs.clone();
        if module.bounds.r > 0 {
            let t = inputs.values["tokens"].shape[1];
            inputs.values.insert("rows".into(), ids(0..t, &[t]));
        }
        let outputs = step(&module, &self.tensors, &inputs);
        (module, outputs)
    }
}

const FLOATS: [Encoding; 3] = [Encoding::F32, Encoding::BF16, Encoding::F16];

fn apply(module: &Module, wanted: &[&str], scheme: &Scheme) -> (Module, Vec<Note>) {
    let mut notes = Vec::new();
    let module = passes::run(module.clone(), wanted, scheme, &mut |step| notes.extend_from_slice(step.notes));
    (module.unwrap_or_else(|e| panic!("{e}\n{}", ir::print(e.after.as_ref().unwrap_or(&e.before)))), notes)
}

fn bits(array: &Array) -> (Vec<usize>, Vec<u32>) {
    (array.shape.clone(), array.data.iter().map(|x| x.to_bits()).collect())
}

/// Both steps give the same bits: logits and new rows of every cache.
fn check_equal(before: &Outputs, after: &Outputs) {
    assert_eq!(before.values.iter().map(bits).collect::<Vec<_>>(), after.values.iter().map(bits).collect::<Vec<_>>());
    assert_eq!(before.new_rows.len(), after.new_rows.len());
    for (cache, rows) in &before.new_rows {
        assert_eq!(bits(rows), bits(&after.new_rows[cache]), "${cache}");
    }
}

fn names(module: &Module, op: fn(&Op) -> bool) -> usize {
    module.nodes.iter().filter(|n| op(&n.op)).count()
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn joining_rows_changes_no_bit(bytes in any_bytes()) {
        let case = Case::new(&bytes, |_| ());
        let layers = case.decoder.layers as usize;
        let (module, after) = case.after(&["fuse-qkv"], &F16);
        check_equal(&case.before(), &after);
        prop_assert_eq!(names(&module, |op| *op == Op::Linear), 5 * layers + 1);
        let (module, after) = case.after(&["fuse-gate-up"], &F16);
        check_equal(&case.before(), &after);
        prop_assert_eq!(names(&module, |op| *op == Op::Linear), 6 * layers + 1);
        let (module, after) = case.after(&["fuse-qkv", "fuse-gate-up", "fuse-swiglu", "drop-dead"], &F16);
        check_equal(&case.before(), &after);
        prop_assert_eq!(names(&module, |op| *op == Op::Linear), 4 * layers + 1);
        prop_assert_eq!(names(&module, |op| *op == Op::Swiglu), layers);
        prop_assert_eq!(names(&module, |op| matches!(op, Op::Silu | Op::Mul)), 0);
        let joined = 2 + if case.decoder.qkv_bias { 1 } else { 0 };
        let rows = module.weights.iter().filter(|w| matches!(w.expr, ir::WeightExpr::Rows(_))).count();
        prop_assert_eq!(rows, joined * layers);
    }

    #[test]
    fn selected_rows_are_rows_of_all(bytes in any_bytes()) {
        let case = Case::new(&bytes, |_| ());
        let before = case.before();
        let (module, after) = case.after(&["select-rows"], &F16);
        check_equal(&before, &after);
        let t = before.values[0].shape[1];
        let vocab = case.decoder.vocab as usize;
        for picked in [vec![], vec![t - 1], vec![0, t - 1, 0], (0..t).rev().collect()] {
            let mut inputs = case.inputs.clone();
            inputs.values.insert("rows".into(), ids(picked.clone(), &[picked.len()]));
            let some = step(&module, &case.tensors, &inputs);
            let all = &before.values[0].data;
            let expected = picked.iter().flat_map(|row| all[row * vocab..][..vocab].to_vec()).collect();
            let expected = Array { shape: vec![1, picked.len(), vocab], data: expected };
            check_equal(&Outputs { values: vec![expected], ..before.clone() }, &some);
        }
    }

    #[test]
    fn a_power_of_two_moves_without_a_trace(bytes in any_bytes()) {
        let case = Case::new(&bytes, |d| (d.head_dim, d.qk_norm) = (4, true));
        let (module, after) = case.after(&["fold-scale", "drop-dead"], &F16);
        check_equal(&case.before(), &after);
        prop_assert_eq!(names(&module, |op| matches!(op, Op::Attention { scale } if *scale != 1.0)), 0);
    }

    #[test]
    fn a_scale_moves_within_its_roundings(bytes in any_bytes()) {
        let case = Case::new(&bytes, |d| d.qk_norm = true);
        let (_, after) = case.after(&["fold-scale"], &F16);
        check_fold_scale(&case, &case.before(), &after);
    }

    #[test]
    fn cached_steps_equal_uncached_ones(bytes in any_bytes()) {
        check_cached(&Case::new(&bytes, |_| ()), &[]);
        let fusions = ["fold-scale", "fuse-qkv", "fuse-gate-up", "fuse-swiglu", "drop-dead"];
        check_cached(&Case::new(&bytes, |_| ()), &fusions);
    }

    #[test]
    fn bf16_as_f32_changes_no_bit(bytes in any_bytes()) {
        let mut case = Case::new(&bytes, |_| ());
        case.tensors = Tensors::random(&case.decoder, 9, &|_| Encoding::BF16);
        case.module = import(&case.decoder, &case.tensors);
        let (module, after) = case.after(&["quantize"], &Scheme::F32);
        check_equal(&case.before(), &after);
        prop_assert!(module.weights.iter().all(|w| w.ty.encoding == Encoding::F32));
        prop_assert_eq!(module.stage, Stage::Quantized);
    }

    #[test]
    fn f16_is_half_an_ulp_away_at_most(bytes in any_bytes()) {
        let case = Case::new(&bytes, |_| ());
        let (module, _) = case.after(&["quantize"], &F16);
        for (old, new) in case.module.weights.iter().zip(&module.weights) {
            let (exact, kept) = (numbers(&case, old), numbers(&case, new));
            let matrix = old.ty.shape.len() == 2;
            assert_eq!(new.ty.encoding, if matrix { Encoding::F16 } else { Encoding::F32 }, "{}", new.name);
            for (x, y) in exact.iter().zip(kept) {
                // An f16 has 11 significant bits, and none below 2^-24.
                let ulp = (2.0f32.powi(-10) * 2.0f32.powi(x.abs().log2().floor() as i32)).max(2.0f32.powi(-24));
                assert!((x - y).abs() <= if matrix { ulp / 2.0 } else { 0.0 }, "{}: {x} became {y}", new.name);
            }
        }
    }

    #[test]
    fn a_pass_that_ran_has_nothing_left_to_do(bytes in any_bytes()) {
        let case = Case::new(&bytes, |_| ());
        let mut module = case.module;
        for pass in &PASSES {
            let once = apply(&module, &[pass.name], &F16).0;
            let (twice, notes) = apply(&once, &[pass.name], &F16);
            prop_assert_eq!(&once, &twice, "{}", pass.name);
            prop_assert!(notes.iter().all(|n| !n.changed), "{}: {:?}", pass.name, notes);
            module = once;
        }
    }

    #[test]
    fn passes_run_alone_or_in_the_list(bytes in any_bytes(), kept in 0usize..128) {
        let case = Case::new(&bytes, |_| ());
        let some = PASSES.iter().enumerate().filter(|(i, _)| kept >> i & 1 == 1);
        let wanted: Vec<&str> = some.map(|(_, pass)| pass.name).collect();
        let (together, notes) = apply(&case.module, &wanted, &F16);
        let mut alone = (case.module.clone(), Vec::new());
        for pass in &wanted {
            let (module, more) = apply(&alone.0, &[pass], &F16);
            alone.0 = module;
            alone.1.extend(more);
        }
        prop_assert_eq!(&together, &alone.0);
        let stage = match wanted.as_slice() {
            [] => Stage::Imported,
            [.., "quantize"] => Stage::Quantized,
            _ => Stage::Fused,
        };
        prop_assert_eq!(&together.stage, &stage);
        prop_assert_eq!(&notes, &alone.1);
        // The list decides on the order, not who asks.
        let backwards: Vec<&str> = wanted.iter().rev().copied().collect();
        prop_assert_eq!(&apply(&case.module, &backwards, &F16).0, &together);
        let text = ir::print(&together);
        prop_assert_eq!(ir::parse(&text).unwrap(), together);
    }
}

fn numbers(case: &Case, weight: &ir::Weight) -> Vec<f32> {
    let (mut exact, mut rows, mut kept) = (Vec::new(), quant::Encoded::default(), Vec::new());
    let (encoding, columns) = (weight.ty.encoding, weight.ty.columns());
    weight.expr.rows(&case.tensors, columns, 0..weight.ty.rows(), &mut exact).unwrap();
    quant::encode(encoding, quant::Search::Max, columns, &exact, &mut rows).unwrap();
    rows.rows(encoding, columns).decode(&mut kept);
    kept
}

/// The first layer reads the same values, so what it mixes may differ by roundings only. With `u = 2^-24` for each:
///
/// * a query before the rotation: the gain once, the product with it once in each module: 3 u;
/// * after it: two products and a sum in each module: 4 u of `|a| + |b|`, the two numbers that it was made of;
/// * a score, `Σ q·k`: that much of `Σ (|a| + |b|)·|k|`, and one rounding in each module: call it d;
/// * shares: each by a factor within `e^(2 d)`, and their own roundings, as those of the mix: 6 u.
fn check_fold_scale(case: &Case, before: &Outputs, after: &Outputs) {
    let u = 2.0f64.powi(-24);
    let node = |name| value(&case.module, before, Some(0), name);
    let (q, k, v) = (node("q.norm"), node("k.all"), node("v.all"));
    let scale = 1.0 / f64::from(case.decoder.head_dim).sqrt();
    let (d, t, s) = (q.shape[3], q.shape[2], k.shape[2]);
    let size = |x: f32| f64::from(x.abs());
    let largest = v.data.iter().map(|&v| size(v)).fold(0.0, f64::max);
    let mixes = [before, after].map(|o| {
        let module =
            if std::ptr::eq(o, before) { case.module.clone() } else { apply(&case.module, &["fold-scale"], &F16).0 };
        value(&module, o, Some(0), "mix").clone()
    });
    for (i, query) in q.data.chunks(d).enumerate() {
        let keys = i / t / (q.shape[1] / k.shape[1]) * s;
        let pair = |j: usize| size(query[j]) + size(query[(j + d / 2) % d]);
        let sum = |key: &[f32]| key.iter().enumerate().map(|(j, &k)| pair(j) * size(k)).sum::<f64>();
        let widest = (0..s).map(|j| sum(&k.data[(keys + j) * d..][..d])).fold(0.0, f64::max) * scale;
        let bound = (math::exp(2.0 * 9.0 * u * widest) - 1.0 + 6.0 * u) * largest;
        for j in i * d..(i + 1) * d {
            let [x, y] = [&mixes[0], &mixes[1]].map(|m| f64::from(m.data[j]));
            assert!((x - y).abs() <= bound, "{x} and {y} differ by {}, not {bound}", (x - y).abs());
        }
    }
}

/// All tokens in one pass, block by block hidden from what follows, or the first block committed and then the rest.
fn check_cached(case: &Case, wanted: &[&str]) {
    let (first, all) = (3, 7);
    let module = apply(&case.module, wanted, &F16).0;
    let mut random = Random(11);
    let tokens: Vec<usize> = (0..all).map(|_| random.below(case.decoder.vocab as usize)).collect();
    let block = |position: usize| position / first;
    // Of the cache of `hidden` rows nothing may be seen.
    let run = |from: usize, to: usize, committed: Option<&Outputs>| {
        let cached = if committed.is_some() { from } else { 1 };
        let sees = |row: usize, column: usize| match column < cached {
            true => committed.is_some(),
            false => block(from + column - cached) <= block(row),
        };
        let mask = (from..to).flat_map(|row| (0..cached + to - from).map(move |column| sees(row, column)));
        let mask = mask.map(|seen| if seen { 0.0 } else { f32::NEG_INFINITY }).collect();
        let mut inputs = inputs(&module, case.decoder.vocab, to - from, cached, 17);
        inputs.values.insert("tokens".into(), ids(tokens[from..to].iter().copied(), &[1, to - from]));
        inputs.values.insert("positions".into(), ids(from..to, &[1, to - from]));
        inputs.values.insert("mask".into(), Array { shape: vec![1, 1, to - from, cached + to - from], data: mask });
        if let Some(outputs) = committed {
            inputs.caches = outputs.new_rows.clone();
        }
        step(&module, &case.tensors, &inputs)
    };
    let (whole, start) = (run(0, all, None), run(0, first, None));
    let rest = run(first, all, Some(&start));
    let joined = [&start.values[0].data[..], &rest.values[0].data].concat();
    assert_eq!(joined.len(), whole.values[0].data.len());
    assert!(joined.iter().zip(&whole.values[0].data).all(|(a, b)| a.to_bits() == b.to_bits()), "{joined:?}");
    let head = case.decoder.head_dim as usize;
    for kind in [CacheKind::K, CacheKind::V] {
        let id = CacheId { layer: case.decoder.layers - 1, kind };
        let rows = |o: &Outputs, i: usize| {
            o.new_rows[&id].data.chunks(o.new_rows[&id].shape[2] * head).map(|h| h[i * head]).collect::<Vec<_>>()
        };
        assert_eq!(rows(&whole, 4), rows(&rest, 1), "${id}");
    }
}

// What a pass says.

/// A network of one layer to break, as text.
fn text(adjust: impl Fn(&mut Decoder), mixed: Option<&str>) -> String {
    let mut decoder = small::decoder(&mut Choices(&[]));
    (decoder.layers, decoder.head_dim, decoder.hidden, decoder.intermediate, decoder.qk_norm) = (1, 6, 4, 8, true);
    adjust(&mut decoder);
    let encoding = |name: &str| if mixed.is_some_and(|m| name.contains(m)) { Encoding::BF16 } else { Encoding::F32 };
    ir::print(&import(&decoder, &Tensors::random(&decoder, 1, &encoding)))
}

/// The notes of a pass: `+` for what it did, `-` for what it left, then the place and the words.
fn check_notes(pass: &str, text: &str, expected: &[&str]) {
    let module = ir::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    ir::verify(&module).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let (after, notes) = apply(&module, &[pass], &F16);
    let line = |n: &Note| format!("{} {}: {}", if n.changed { '+' } else { '-' }, n.place, n.what);
    assert_eq!(notes.iter().map(line).collect::<Vec<_>>(), expected, "{pass} on\n{text}");
    let changed = Module { stage: module.stage.clone(), ..after } != module;
    assert_eq!(changed, notes.iter().any(|n| n.changed), "{pass} on\n{text}");
}

fn replace(text: &str, pairs: &[(&str, &str)]) -> String {
    pairs.iter().fold(text.to_string(), |text, (old, new)| {
        assert_eq!(text.matches(old).count(), 1, "`{old}` in\n{text}");
        text.replace(old, new)
    })
}

/// The gate made of one column before the second half only.
fn one_column(fused: &str) -> String {
    let line = |line: &str| match line.trim_start().starts_with("%gate") && !line.contains("%gate_up = ") {
        true => line.replace("range = 0..8", "range = 7..8").replace("[1, T, 8]", "[1, T, 1]"),
        false => line.to_string(),
    };
    fused.lines().map(|l| line(l) + "\n").collect()
}

#[test]
fn a_pass_says_what_it_did_and_why_not() {
    let plain = text(|_| (), None);
    let fused = ir::print(&apply(&ir::parse(&plain).unwrap(), &["fuse-gate-up"], &F16).0);
    let bias = text(|d| d.qkv_bias = true, None);
    let stage = ("stage imported", "stage fused");
    for (pass, text, expected) in [
        ("fold-scale", plain.clone(), &["+ layers.0 %mix: 0.4082483 went into `layers.0.self_attn.q_norm`"][..]),
        ("fold-scale", text(|d| d.qk_norm = false, None), &["- layers.0 %mix: the queries have no norm of their own"]),
        ("fold-scale", replace(&plain, &[("scale = 0.4082483", "scale = 1")]), &["- layers.0 %mix: the scale is 1"]),
        (
            "fold-scale",
            replace(&plain, &[("%k.rope = rope %k.norm", "%k.rope = rope %q.norm")]),
            &["- layers.0 %mix: the queries are read by something else too"],
        ),
        ("fuse-qkv", plain.clone(), &["+ layers.0 %q: joined 3 projections"]),
        ("fuse-qkv", bias.clone(), &["+ layers.0 %q: joined 3 projections"]),
        (
            "fuse-qkv",
            text(|_| (), Some("k_proj")),
            &["- layers.0 %q: `layers.0.self_attn.q_proj` is f32 but `layers.0.self_attn.k_proj` is bf16"],
        ),
        (
            "fuse-qkv",
            text(|d| d.qkv_bias = true, Some("v_proj.bias")),
            &["- layers.0 %q: `layers.0.self_attn.q_proj.bias` is f32 but `layers.0.self_attn.v_proj.bias` is bf16"],
        ),
        (
            "fuse-qkv",
            replace(&bias, &[("@self_attn.v_proj, @self_attn.v_proj.bias", "@self_attn.v_proj")]),
            &["- layers.0 %q: one has a bias and another has none"],
        ),
        (
            "fuse-qkv",
            replace(&plain, &[("%k = linear %attn.in", "%k = linear %x"), ("%v = linear %attn.in", "%v = linear %x")]),
            &["- layers.0 %q: no other linear reads the same value", "+ layers.0 %k: joined 2 projections"],
        ),
        ("fuse-gate-up", plain.clone(), &["+ layers.0 %act: joined gate and up"]),
        (
            "fuse-gate-up",
            text(|_| (), Some("up_proj")),
            &["- layers.0 %act: `layers.0.mlp.gate_proj` is f32 but `layers.0.mlp.up_proj` is bf16"],
        ),
        (
            "fuse-gate-up",
            replace(&plain, &[("%up = linear %mlp.in", "%up = linear %x.attn")]),
            &["- layers.0 %act: gate and up read different values"],
        ),
        (
            "fuse-gate-up",
            replace(&plain, &[("mul %gate.silu, %up", "mul %gate.silu, %gate")]),
            &["- layers.0 %act: gate and up are one value"],
        ),
        ("fuse-gate-up", fused.clone(), &[]),
        ("fuse-swiglu", fused.clone(), &["+ layers.0 %act: became swiglu"]),
        (
            "fuse-swiglu",
            plain.clone(),
            &["- layers.0 %act: gate and up are not slices of one value (fuse-gate-up makes them so)"],
        ),
        (
            "fuse-swiglu",
            replace(&fused, &[("range = 0..8", "range = 0..7"), ("range = 8..16", "range = 7..14")])
                .replace("f32[1, T, 8]", "f32[1, T, 7]")
                .replace("f32[4, 8]", "f32[4, 7]"),
            &["- layers.0 %act: the slices are not the two halves"],
        ),
        (
            "fuse-swiglu",
            replace(&fused, &[("range = 0..8", "range = 8..16")]),
            &["- layers.0 %act: the slices are not the two halves"],
        ),
        // A single column would stretch over all others.
        ("fuse-swiglu", one_column(&fused), &["- layers.0 %act: the slices are not the two halves"]),
        ("select-rows", plain.clone(), &["+ %logits: computed for `rows` only"]),
        (
            "select-rows",
            replace(&plain, &[("return %logits", "return %logits, %x.norm")]),
            &["- %logits: there is not exactly one output"],
        ),
        (
            "select-rows",
            replace(&plain, &[("linear %x.norm, @lm_head", "linear %x, @lm_head")]),
            &["- %logits: the output is not a linear over a norm of [1, T, H], with no other reader of either"],
        ),
        (
            "select-rows",
            replace(&plain, &[("  return", "  %more = neg %x.norm : f32[1, T, 4]\n  return")]),
            &["- %logits: the output is not a linear over a norm of [1, T, H], with no other reader of either"],
        ),
        (
            "select-rows",
            replace(&plain, &[("  return", "  %more = neg %logits : f32[1, T, 5]\n  return")]),
            &["- %logits: the output is not a linear over a norm of [1, T, H], with no other reader of either"],
        ),
        ("drop-dead", plain.clone(), &[]),
        (
            "drop-dead",
            replace(&plain, &[("linear %x.norm, @lm_head", "linear %x, @lm_head")]),
            &["+ %x.norm: nothing reads it", "+ @norm: nothing reads it"],
        ),
        (
            "drop-dead",
            replace(&plain, &[stage, ("\n  norm ", "\n  more : f32[7] = fill(1)\n  norm ")]),
            &["+ @more: nothing reads it"],
        ),
        (
            "quantize",
            text(|d| d.tied = true, Some("norm")),
            &[
                "+ @embed_tokens: f32 → f16",
                "+ @layers.0.input_layernorm: bf16 → f32",
                "+ @layers.0.self_attn.q_proj: f32 → f16",
                "+ @layers.0.self_attn.k_proj: f32 → f16",
                "+ @layers.0.self_attn.v_proj: f32 → f16",
                "+ @layers.0.self_attn.q_norm: bf16 → f32",
                "+ @layers.0.self_attn.k_norm: bf16 → f32",
                "+ @layers.0.self_attn.o_proj: f32 → f16",
                "+ @layers.0.post_attention_layernorm: bf16 → f32",
                "+ @layers.0.mlp.gate_proj: f32 → f16",
                "+ @layers.0.mlp.up_proj: f32 → f16",
                "+ @layers.0.mlp.down_proj: f32 → f16",
                "+ @norm: bf16 → f32",
            ],
        ),
    ] {
        check_notes(pass, &text, expected);
    }
    let selected = ir::print(&apply(&ir::parse(&plain).unwrap(), &["select-rows"], &F16).0);
    check_notes("select-rows", &selected, &["- %logits: the rows are selected already"]);
}

/// A gate that a layer hands on and an up projection of the next layer stay where they are.
#[test]
fn nothing_is_joined_across_layers() {
    let text = r#"module "m" stage fused
dims T = 4, C = 8
weights {
  a : f32[4, 4]
  b : f32[4, 4]
}
cache k, v : f32[1, 0, C, 0] for layers.{i} in 0..0
graph step(%x: f32[1, T, 4]) {
  layers.{i} for i in 0..1 carry %gate {
    next linear %x, @a : f32[1, T, 4]
  }
  layers.{i} for i in 1..2 carry %act {
    %silu = silu %gate : f32[1, T, 4]
    %up = linear %x, @b : f32[1, T, 4]
    next mul %silu, %up : f32[1, T, 4]
  }
  return %act
}
"#;
    check_notes("fuse-gate-up", text, &["- layers.1 %act: they stand in different layers"]);
}

/// When the value that a layer hands on is not needed, the layer still hides nothing that later nodes read.
#[test]
fn a_layer_keeps_its_name_when_its_end_is_dropped() {
    let text = r#"module "m" stage fused
dims T = 4, C = 8
weights {
}
cache k, v : f32[1, 1, C, 2] for layers.{i} in 0..1
graph step(%x: f32[1, 1, T, 2]) {
  %k = neg %x : f32[1, 1, T, 2]
  layers.{i} for i in 0..1 carry %end {
    %k.all = cached $k, %x : f32[1, 1, C+T, 2]
    %k = cached $v, %x : f32[1, 1, C+T, 2]
    next neg %x : f32[1, 1, T, 2]
  }
  %out = neg %k : f32[1, 1, T, 2]
  return %out
}
"#;
    check_notes("drop-dead", text, &["+ layers.0 %end: nothing reads it"]);
}

#[test]
fn the_first_pattern_that_matches_decides() {
    let keep = [
        ("lm_head", Encoding::F32),
        ("*.q_proj", Encoding::BF16),
        ("layers.1.*", Encoding::F32),
        ("*norm", Encoding::F16),
    ];
    let scheme = Scheme { keep: keep.map(|(p, e)| (p.to_string(), e)).to_vec(), ..F16 };
    let mut decoder = small::decoder(&mut Choices(&[]));
    (decoder.layers, decoder.tied) = (2, false);
    let module = import(&decoder, &Tensors::random(&decoder, 1, &|_| Encoding::F32));
    let module = apply(&module, &["quantize"], &scheme).0;
    for (name, expected) in [
        ("lm_head", Encoding::F32),
        ("embed_tokens", Encoding::F16),
        ("layers.0.self_attn.q_proj", Encoding::BF16),
        ("layers.1.self_attn.q_proj", Encoding::BF16),
        ("layers.0.self_attn.k_proj", Encoding::F16),
        ("layers.1.self_attn.k_proj", Encoding::F32),
        // Vectors are f32, whatever a pattern says.
        ("norm", Encoding::F32),
    ] {
        assert_eq!(module.weight(module.weight_id(name).unwrap()).ty.encoding, expected, "{name}");
    }
}

#[test]
fn a_module_that_breaks_a_rule_is_reported_with_the_pass() {
    let mut module = ir::parse(&text(|_| (), None)).unwrap();
    module.bounds = Sizes { t: 0, c: 1, r: 0 };
    let error = passes::run(module.clone(), &["fuse-qkv"], &F16, &mut |_| ()).unwrap_err();
    assert_eq!(error.to_string(), "bug[verify::bounds] after pass fuse-qkv: T and C are at least 1\n  dims");
    assert_eq!(*error.before, module);
    assert!(error.after.is_some());
}

#[test]
fn passes_have_the_names_of_the_list() {
    let names: Vec<&str> = PASSES.iter().map(|p| p.name).collect();
    for name in &names {
        assert_eq!(passes::find(name).unwrap().name, *name);
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name}");
    }
    assert!(passes::find("fuse").is_none());
    let mut seen = Vec::new();
    let module = ir::parse(&text(|_| (), None)).unwrap();
    passes::run(module, &names, &F16, &mut |step| seen.push(step.pass.name)).unwrap();
    assert_eq!(seen, names);
}
