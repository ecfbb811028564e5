//! The tract engine against the interpreter, and against itself.
#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "tract/anything.rs"]
mod anything;
#[path = "tract/models.rs"]
mod models;
#[path = "tract/random.rs"]
mod random;

use std::sync::Arc;

use diffulex_compiler::ir::interpret::Outputs;
use diffulex_compiler::ir::*;
use diffulex_runtime::engine::{Engine, EngineError, HIDDEN, LayerRows, StepOutput};
use diffulex_runtime::tract::{LowerError, TractEngine};
use models::{Memory, Model, SMALL, Shape, Step, sdar};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// How far the engine may depart from the interpreter, which adds in f64.
const LIMIT: f32 = 1e-5;

/// Largest difference, relative to the largest number.
fn departure(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().filter(|x| x.is_finite()).fold(1e-6f32, |m, x| m.max(x.abs()));
    let difference = got.iter().zip(expected).map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() });
    // NaN must not pass for equal.
    difference.map(|d| if d.is_nan() { f32::INFINITY } else { d }).fold(0.0, f32::max) / largest
}

/// Runs both and compares logits and new rows.
fn check(module: &Module, source: &Arc<Memory>, step: &Step) {
    let mut engine = TractEngine::new(module, source.clone()).unwrap_or_else(|e| panic!("{e}\n{}", print(module)));
    let mut out = StepOutput::default();
    engine.step(&step.input(), &mut out).unwrap_or_else(|e| panic!("{e}\n{}", print(module)));
    let expected = interpret(module, source.as_ref(), &step.inputs(module)).unwrap();
    compare(module, step, &out, &expected);
}

fn compare(module: &Module, step: &Step, out: &StepOutput, expected: &Outputs) {
    let near = |what: &str, got: &[f32], expected: &[f32]| {
        let off = departure(got, expected);
        assert!(off < LIMIT, "{what} departs by {off}\n{}", print(module));
    };
    for (cache, rows) in &expected.new_rows {
        let layer = &out.new[cache.layer as usize];
        near(&format!("${cache}"), if cache.kind == CacheKind::K { &layer.k } else { &layer.v }, &rows.data);
    }
    let all = &expected.values[0];
    let vocab = all.shape[2];
    let rows: Vec<f32> = match module.bounds.r > 0 {
        true => all.data.clone(),
        false => step.rows.iter().flat_map(|&r| &all.data[r as usize * vocab..][..vocab]).copied().collect(),
    };
    near("the logits", &out.logits, &rows);
}

#[test]
fn a_decoder_gives_what_the_interpreter_gives() {
    for &encoding in Encoding::ALL {
        for r in [0, 8] {
            let shape = Shape { encoding, bounds: Sizes { r, ..SMALL.bounds }, ..SMALL };
            let (module, source) = sdar(&shape, 7);
            for (t, c, rows) in
                [(1, 1, &[0][..]), (4, 16, &[1, 3]), (5, 1, &[0, 1, 2, 3, 4]), (17, 9, &[16]), (8, 64, &[2])]
            {
                check(&module, &source, &Step::random(&shape, t, c, rows, (t * 100 + c) as u64));
            }
        }
    }
}

#[test]
fn steps_of_other_sizes_follow_each_other() {
    let (module, source) = sdar(&SMALL, 8);
    let mut engine = TractEngine::new(&module, source.clone()).unwrap();
    let mut out = StepOutput::default();
    for (i, (t, c)) in [(8, 4), (3, 40), (32, 1), (1, 64), (8, 4)].into_iter().enumerate() {
        let step = Step::random(&SMALL, t, c, &[0, t as u32 - 1][..t.min(2)], i as u64);
        engine.step(&step.input(), &mut out).unwrap();
        compare(&module, &step, &out, &interpret(&module, source.as_ref(), &step.inputs(&module)).unwrap());
    }
}

#[test]
fn without_rows_there_are_new_keys_but_no_logits() {
    for r in [0, 8] {
        let shape = Shape { bounds: Sizes { r, ..SMALL.bounds }, ..SMALL };
        let (module, source) = sdar(&shape, 9);
        let mut engine = TractEngine::new(&module, source).unwrap();
        let (mut with, mut without) = (StepOutput::default(), StepOutput::default());
        let step = Step::random(&shape, 6, 5, &[2], 1);
        engine.step(&step.input(), &mut with).unwrap();
        engine.step(&Step { rows: vec![], ..step }.input(), &mut without).unwrap();
        assert_eq!(without.new, with.new);
        assert_eq!((with.logits.len(), without.logits.len()), (101, 0));
    }
}

#[test]
fn taps_give_inner_values() {
    let (module, source) = sdar(&SMALL, 10);
    let named =
        |name: &str, layer| module.iter().find(|(_, n)| n.name == name && n.layer == layer).map(|(id, _)| id).unwrap();
    let nodes = [named("x", Some(1)), named("k.all", Some(2)), named("tokens", None), module.outputs[0]];
    let taps = nodes.map(|id| (module.node(id).place(), id));
    let mut engine = TractEngine::with_taps(&module, source.clone(), &taps).unwrap();
    let step = Step::random(&SMALL, 5, 7, &[], 3);
    engine.step(&step.input(), &mut StepOutput::default()).unwrap();
    let expected = interpret(&module, source.as_ref(), &step.inputs(&module)).unwrap();
    assert_eq!(engine.taps().len(), nodes.len());
    for ((name, data), (place, id)) in engine.taps().iter().zip(&taps) {
        assert_eq!(name, place);
        assert!(departure(data, &expected.nodes[id.0 as usize].data) < LIMIT, "{name}");
    }
}

/// Block-causal mask for tokens `from..to`; the columns before them are a cache of `cached` positions of which the
/// first `from` are filled.
fn block_mask(block: usize, from: usize, to: usize, cached: usize) -> Vec<f32> {
    let row = |i: usize| {
        let cache = (0..cached).map(move |j| if j < from { 0.0 } else { HIDDEN });
        let own = (from..to).map(move |j| if j / block <= i / block { 0.0 } else { HIDDEN });
        cache.chain(own)
    };
    (from..to).flat_map(row).collect()
}

/// Tokens `from..to` of a text, over a cache that holds the keys and values of the tokens before in a larger space
/// whose other rows are garbage.
fn text_step(shape: &Shape, from: usize, to: usize, cached: usize, known: &[LayerRows]) -> Step {
    let (kv, d) = (shape.kv_heads as usize, shape.head_dim as usize);
    let spread = |rows: &[f32]| {
        let mut cache = vec![f32::NAN; kv * cached * d];
        for head in 0..kv {
            let len = rows.len() / kv;
            cache[head * cached * d..][..from * d].copy_from_slice(&rows[head * len..][..from * d]);
        }
        cache
    };
    let cache = match known {
        [] => vec![
            LayerRows { k: vec![f32::NAN; kv * cached * d], v: vec![f32::NAN; kv * cached * d] };
            shape.layers as usize
        ],
        known => known.iter().map(|rows| LayerRows { k: spread(&rows.k), v: spread(&rows.v) }).collect(),
    };
    Step {
        tokens: (from..to).map(|i| (i * 37 % shape.vocab as usize) as u32).collect(),
        positions: (from as u32..to as u32).collect(),
        mask: block_mask(4, from, to, cached),
        rows: (0..(to - from) as u32).collect(),
        cached,
        cache,
    }
}

#[test]
fn a_cached_pass_gives_the_same_bits() {
    for (encoding, head_dim, heads) in [(Encoding::F32, 24, 4), (Encoding::BF16, 64, 6), (Encoding::F16, 20, 2)] {
        let shape = Shape { encoding, head_dim, heads, ..SMALL };
        let (module, source) = sdar(&shape, 11);
        let mut engine = TractEngine::new(&module, source).unwrap();
        let mut run = |step: Step| {
            let mut out = StepOutput::default();
            engine.step(&step.input(), &mut out).unwrap();
            out
        };
        let whole = run(text_step(&shape, 0, 28, 1, &[]));
        assert!(whole.logits.iter().all(|x| x.is_finite()));
        for (from, to, cached) in [(24, 28, 24), (24, 28, 41), (12, 16, 12), (8, 28, 64), (4, 20, 5)] {
            let part = run(text_step(&shape, from, to, cached, &whole.new));
            let vocab = shape.vocab as usize;
            assert!(part.logits == whole.logits[from * vocab..to * vocab], "logits of {from}..{to} over {cached}");
            let d = shape.head_dim as usize;
            for (part, whole) in part.new.iter().zip(&whole.new) {
                for (part, whole) in [(&part.k, &whole.k), (&part.v, &whole.v)] {
                    let heads = part.chunks((to - from) * d).zip(whole.chunks(28 * d));
                    heads.for_each(|(part, whole)| assert!(*part == whole[from * d..to * d]));
                }
            }
        }
    }
}

/// Large enough to be spread over threads.
const WIDE: Shape =
    Shape { layers: 2, heads: 8, kv_heads: 4, head_dim: 64, hidden: 512, inner: 1024, vocab: 1000, ..SMALL };

/// Prints the bits of a step; `the_number_of_threads_does_not_matter` runs it with several numbers of threads.
#[test]
fn digest_of_a_wide_step() {
    let (module, source) = sdar(&WIDE, 12);
    let mut engine = TractEngine::new(&module, source).unwrap();
    let mut out = StepOutput::default();
    engine.step(&Step::random(&WIDE, 29, 50, &[0, 5, 28], 4).input(), &mut out).unwrap();
    let all = out.logits.iter().chain(out.new.iter().flat_map(|l| l.k.iter().chain(&l.v)));
    let digest = all.fold(0u64, |d, x| (d.rotate_left(5) ^ u64::from(x.to_bits())).wrapping_mul(0x517c_c1b7_2722_0a95));
    println!("digest {digest:016x}");
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let digest = |threads: &str| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let output = command
            .args(["--exact", "digest_of_a_wide_step", "--nocapture"])
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let start = text.find("digest ").unwrap_or_else(|| panic!("{text}"));
        text[start..start + 23].to_string()
    };
    let one = digest("1");
    for threads in ["2", "3", "7"] {
        assert_eq!(digest(threads), one, "{threads} threads");
    }
}

#[test]
fn the_number_of_tokens_does_not_matter() {
    let (module, source) = sdar(&WIDE, 13);
    let mut engine = TractEngine::new(&module, source).unwrap();
    let mut run = |t: usize| {
        let mut step = text_step(&WIDE, 0, 32, 1, &[]);
        step.tokens.truncate(t);
        step.positions.truncate(t);
        step.rows.truncate(t);
        step.mask = block_mask(1, 0, t, 1);
        let mut out = StepOutput::default();
        engine.step(&step.input(), &mut out).unwrap();
        out.logits
    };
    let all = run(32);
    for t in [1, 2, 3, 5, 6, 7, 13, 31] {
        assert!(run(t) == all[..t * 1000], "{t} tokens");
    }
}

/// Makes a weight of a small model bad and says what the engine thinks of it.
fn refused(change: impl FnOnce(&mut Memory)) -> String {
    let (module, source) = sdar(&SMALL, 14);
    let mut memory = Arc::into_inner(source).unwrap();
    change(&mut memory);
    TractEngine::new(&module, Arc::new(memory)).err().expect("an error").to_string()
}

#[test]
fn bad_weights_are_named_at_load() {
    let missing = refused(|m| drop(m.0.remove("layers.1.o_proj")));
    assert_eq!(missing, "weight `layers.1.o_proj`: there is no tensor `layers.1.o_proj`");
    let infinite = refused(|m| {
        m.0.get_mut("lm_head").unwrap().1.values[4 * 45..][..4].copy_from_slice(&f32::INFINITY.to_le_bytes())
    });
    assert_eq!(infinite, "weight `lm_head`, tensor `lm_head`: row 1, column 5 is not finite");
    let nan =
        refused(|m| m.0.get_mut("layers.0.q_norm").unwrap().1.values[8..12].copy_from_slice(&f32::NAN.to_le_bytes()));
    assert_eq!(
        nan,
        "weight `layers.0.q_norm`: tensor `layers.0.q_norm`, row 2, column 0: NaN cannot be stored as f32 in \
         `layers.0.q_norm`"
    );
    let short = refused(|m| {
        let (ty, rows) = m.0.get_mut("embed_tokens").unwrap();
        ty.shape[0] = 100;
        rows.values.truncate(100 * 160);
    });
    assert_eq!(short, "weight `embed_tokens`: tensor `embed_tokens`: has 100 rows, not 101");
    let narrow = refused(|m| m.0.get_mut("layers.2.k_proj").unwrap().0.shape[1] = 8);
    assert_eq!(narrow, "weight `layers.2.k_proj`: tensor `layers.2.k_proj`: is f32[48, 8], not 40 wide");
}

#[test]
fn steps_that_do_not_fit_are_refused() {
    let (module, source) = sdar(&SMALL, 15);
    let mut engine = TractEngine::new(&module, source).unwrap();
    let mut out = StepOutput::default();
    let good = Step::random(&SMALL, 4, 3, &[0], 5);
    let bad = Step { tokens: vec![101; 4], ..good.clone() };
    assert!(matches!(engine.step(&bad.input(), &mut out), Err(EngineError::Input(_))));
    engine.step(&good.input(), &mut out).unwrap();
}

#[test]
fn a_failed_step_leaves_the_engine_usable() {
    // The table is shorter than the head is wide, so that an id can pass the check of the step and still be unknown.
    let mut m = Model::new(&Shape { layers: 0, ..SMALL }, 1);
    let [tokens, _] = m.ids(DType::I32);
    let table = m.weight("table", &[5, 8], 0.0, 1.0);
    let x = m.node("x", Op::Embed, &[tokens.into(), table]);
    let logits = m.linear("head", x, 9);
    let module = m.builder.finish([logits]);
    let source = Arc::new(m.memory);
    let mut engine = TractEngine::new(&module, source.clone()).unwrap();
    let mut out = StepOutput::default();
    let shape = Shape { layers: 0, vocab: 5, ..SMALL };
    let good = Step::random(&shape, 4, 3, &[0], 5);
    let bad = Step { tokens: vec![1, 2, 7, 3, 4, 4, 4], ..Step::random(&shape, 7, 2, &[0], 5) };
    let error = engine.step(&bad.input(), &mut out).unwrap_err().to_string();
    assert!(error.contains("7 is outside a table of 5 rows"), "{error}");
    engine.step(&good.input(), &mut out).unwrap();
    compare(&module, &good, &out, &interpret(&module, source.as_ref(), &good.inputs(&module)).unwrap());
}

#[test]
fn a_module_that_breaks_a_rule_is_not_run() {
    let (mut module, source) = sdar(&SMALL, 16);
    module.outputs[0] = NodeId(10_000);
    assert!(matches!(TractEngine::new(&module, source), Err(LowerError::Verify(_))));
}

#[test]
fn joined_and_computed_weights() {
    let shape = Shape { layers: 0, ..SMALL };
    for &encoding in Encoding::ALL {
        let mut m = Model::new(&Shape { encoding, ..shape }, 17);
        let [tokens, positions] = m.ids(DType::I32);
        let parts = ["a", "b", "c"].map(|name| {
            let ty = WeightType::new(encoding, [3, 21]);
            let numbers = m.numbers.vec(63, 1.0);
            m.memory.store(name, &ty, &numbers);
            WeightExpr::Stored(name.into())
        });
        let wide = WeightType::new(Encoding::F32, [7, 21]);
        let numbers = m.numbers.vec(147, 1.0);
        m.memory.store("wide", &wide, &numbers);
        let scaled = WeightExpr::Scale(Box::new(WeightExpr::Stored("wide".into())), 0.37);
        let some = [parts.to_vec(), vec![scaled.clone()]].concat();
        let seven: Vec<WeightExpr> = (0..7).flat_map(|_| some.clone()).collect();
        let table = m.expr("table", &[101, 21], WeightExpr::Rows(seven));
        let turn = m.expr("turn", &[200, 20], WeightExpr::RopeSin(1e3));
        let joined = m.expr("joined", &[8, 21], WeightExpr::Rows(parts.to_vec()));
        let scaled = m.expr("scaled", &[7, 21], scaled);
        let filled = m.expr("filled", &[8], WeightExpr::Fill(0.3));
        let x = m.node("x", Op::Embed, &[tokens.into(), table]);
        let a = m.node("a", Op::Linear, &[x.into(), joined, filled]);
        let b = m.node("b", Op::Linear, &[x.into(), scaled]);
        let sin = m.node("sin", Op::Embed, &[positions.into(), turn]);
        let logits = m.node("all", Op::Concat { axis: 2 }, &[a.into(), b.into(), sin.into()]);
        let module = m.builder.finish([logits]);
        let step = Step::random(&Shape { vocab: 35, ..shape }, 6, 3, &[0, 1, 2, 3, 4, 5], 6);
        check(&module, &Arc::new(m.memory), &step);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    /// Random graphs of all ops, high-level and decomposed.
    #[test]
    fn any_module_gives_what_the_interpreter_gives(seed in any::<u64>(), t in 1usize..9, c in 1usize..9) {
        let (module, source, shape) = random::module(seed);
        verify(&module).unwrap_or_else(|e| panic!("{e}\n{}", print(&module)));
        let rows: Vec<u32> = (0..t as u32).filter(|r| r % 3 != 1).collect();
        check(&module, &source, &Step::random(&shape, t, c, &rows, seed ^ 1));
    }

    /// Any op after any other: nothing panics, and what is well determined is right.
    #[test]
    fn modules_without_sense_run_all_the_same(seed in any::<u64>(), t in 1usize..5, c in 1usize..5) {
        let (module, source, tame) = anything::module(seed, 60);
        verify(&module).unwrap_or_else(|e| panic!("{e}\n{}", print(&module)));
        let taps: Vec<(String, NodeId)> = module.iter().map(|(id, node)| (node.place(), id)).collect();
        let mut engine = match TractEngine::with_taps(&module, source.clone(), &taps) {
            Ok(engine) => engine,
            Err(e) => panic!("{e}\n{}", print(&module)),
        };
        let step = Step::random(&anything::SHAPE, t, c, &[0, t as u32 - 1], seed ^ 2);
        engine.step(&step.input(), &mut StepOutput::default()).unwrap_or_else(|e| panic!("{e}\n{}", print(&module)));
        let expected = interpret(&module, source.as_ref(), &step.inputs(&module)).unwrap();
        for ((name, got), (_, id)) in engine.taps().iter().zip(&taps) {
            let value = &expected.nodes[id.0 as usize].data;
            prop_assert_eq!(got.len(), value.len());
            if tame.contains(id) {
                // Differences of nearly equal numbers are no better than the numbers: measured against 1.
                let off = departure(&[got, &[1.0][..]].concat(), &[value, &[1.0][..]].concat());
                prop_assert!(off < LIMIT, "{} departs by {}\n{}", name, off, print(&module));
            }
        }
    }
}

#[test]
fn a_graph_of_fixed_size_says_so() {
    let mut m = Model::new(&Shape { layers: 0, ..SMALL }, 1);
    let tokens = m.builder.input("tokens", ValueType::new(DType::I32, [Dim::fixed(1), Dim::fixed(4)]));
    let table = m.weight("table", &[9, 8], 0.0, 1.0);
    let x = m.node("x", Op::Embed, &[tokens.into(), table]);
    let logits = m.linear("head", x, 9);
    let module = m.builder.finish([logits]);
    let mut engine = TractEngine::new(&module, Arc::new(m.memory)).unwrap();
    let shape = Shape { layers: 0, vocab: 9, ..SMALL };
    let mut out = StepOutput::default();
    let error = engine.step(&Step::random(&shape, 3, 2, &[0], 1).input(), &mut out).unwrap_err();
    assert_eq!(error.to_string(), "the graph takes tokens of i32[1, 4], the step has [1, 3]");
    engine.step(&Step::random(&shape, 4, 2, &[3], 1).input(), &mut out).unwrap();
    engine.step(&Step::random(&shape, 4, 2, &[], 1).input(), &mut out).unwrap();
}

#[test]
fn graphs_that_are_no_step_are_refused() {
    let refused = |change: fn(&mut Module)| {
        let (mut module, source) = sdar(&SMALL, 18);
        change(&mut module);
        TractEngine::new(&module, source).err().expect("an error").to_string()
    };
    assert_eq!(refused(|m| m.nodes[1].name = "places".into()), "a step has no input `places`");
    assert_eq!(refused(|m| m.nodes[0].name = "mask.2".into()), "a step has no input `mask.2`");
    assert_eq!(
        refused(|m| m.nodes[2].ty.dtype = DType::F16),
        "layers.0 %mix: cannot compute with f16[1, 1, T, C+T] here"
    );
    assert_eq!(refused(|m| m.bounds.c = 1 << 24), "T = 32 and C = 16777216 exceed 2^24 positions");
}
