//! tract on ONNX files of every family, against our engine on the checkpoint.
#![allow(clippy::unwrap_used, reason = "a test may")]

use diffulex_compiler::ir::Encoding;
use diffulex_compiler::quant::Scheme;
use diffulex_runtime::engine::{Engine, HIDDEN, LayerRows, StepInput, StepOutput};
use diffulex_runtime::tract_onnx::TractOnnx;
use diffulex_targets::onnx::{Options, Shapes};
use diffulex_tests::engines::{onnx, tract, tract_onnx};
use diffulex_tests::reference::fixture;

const FAMILIES: [&str; 4] = ["sdar", "fast_dllm_v2", "dream", "llada"];
/// Tokens and cached positions.
const ROOM: (usize, usize) = (8, 16);

/// A step of `t` tokens over `c` cached positions, of which a third is hidden, through one engine.
fn step(engine: &mut dyn Engine, t: usize, c: usize) -> StepOutput {
    let shape = engine.shape().clone();
    let mut state = (t * 31 + c) as u32;
    let mut next = |below: u32| {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 8) % below
    };
    let tokens: Vec<u32> = (0..t).map(|_| next(shape.vocab as u32)).collect();
    let mut mask: Vec<f32> = (0..t * (c + t)).map(|_| if next(3) == 0 { HIDDEN } else { 0.0 }).collect();
    (0..t).for_each(|i| mask[i * (c + t) + c + i] = 0.0);
    let mut numbers =
        || -> Vec<f32> { (0..shape.kv_heads * c * shape.head_dim).map(|_| next(2001) as f32 / 1000.0 - 1.0).collect() };
    let cache: Vec<_> = (0..shape.layers).map(|_| LayerRows { k: numbers(), v: numbers() }).collect();
    let positions: Vec<u32> = (c as u32..(c + t) as u32).collect();
    let rows: Vec<u32> = (0..t as u32).step_by(2).collect();
    let (tokens, positions, mask, rows) = (&tokens, &positions, &mask, &rows);
    let mut out = StepOutput::default();
    engine.step(&StepInput { tokens, positions, mask, rows, cached: c, cache: &cache }, &mut out).unwrap();
    out
}

/// Steps of all sizes: nothing is further apart than `limit` of the largest number.
fn check(what: &str, engine: &mut dyn Engine, ours: &mut dyn Engine, limit: f32) {
    assert_eq!((engine.name(), engine.shape()), ("tract-onnx", ours.shape()));
    for (t, c) in [(8, 16), (1, 1), (3, 16), (8, 5), (1, 7)] {
        let (found, expected) = (step(engine, t, c), step(ours, t, c));
        let near = |a: &[f32], b: &[f32]| {
            let largest = b.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let all = a.iter().zip(b).all(|(x, y)| (x - y).abs() <= limit * largest);
            assert!(a.len() == b.len() && all, "{what}: {t} tokens over {c}");
        };
        near(&found.logits, &expected.logits);
        for (a, b) in found.new.iter().zip(&expected.new) {
            near(&a.k, &b.k);
            near(&a.v, &b.v);
        }
    }
}

#[test]
fn steps_are_those_of_our_engine() {
    let (t, c) = ROOM;
    for family in FAMILIES {
        let checkpoint = fixture(&format!("{family}/tiny"));
        let mut ours = tract(&checkpoint, t, c);
        let fixed = Options { shapes: Shapes::Static(vec![]), ..Options::default() };
        // Sums of f32 in another order.
        for (shapes, options) in [("dynamic", Options::default()), ("static", fixed)] {
            let mut engine = tract_onnx(&checkpoint, t, c, &Scheme::F32, &options);
            check(&format!("{family} {shapes}"), engine.as_mut(), ours.as_mut(), 2e-5);
        }
        // Every value is a half.
        let half = Options { half: true, ..Options::default() };
        let mut engine = tract_onnx(&checkpoint, t, c, &Scheme::float(Encoding::F16), &half);
        check(&format!("{family} half"), engine.as_mut(), ours.as_mut(), 2e-2);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let ((t, c), options) = (ROOM, Options { shapes: Shapes::Static(vec![]), ..Options::default() });
    let folder = tempfile::tempdir().unwrap();
    let (path, shape) = onnx(&fixture("sdar/tiny"), t, c, &Scheme::F32, &options, folder.path());
    let refused = |shape| TractOnnx::open(&path, shape).err().unwrap().to_string();
    let wrong = |change: fn(&mut diffulex_runtime::engine::EngineShape)| {
        let mut other = shape.clone();
        change(&mut other);
        refused(other)
    };
    assert!(wrong(|shape| shape.max_tokens = 9).ends_with("tiny.onnx: it takes 8 tokens, the model 9"));
    assert!(wrong(|shape| shape.max_cache = 9).ends_with("it holds 16 cached positions, not 9"));
    assert!(wrong(|shape| shape.layers += 1).contains("it has no input `past_k_"));
    std::fs::remove_file(folder.path().join("tiny.data")).unwrap();
    let missing = refused(shape.clone());
    assert!(missing.starts_with("tract-onnx: ") && missing.contains("tiny.data"), "{missing}");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(refused(shape.clone()).starts_with("tract-onnx: "));
}
