//! ONNX Runtime on the small step graphs of `fixtures/onnxruntime`, against the same arithmetic in plain loops.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::{Path, PathBuf};

use diffulex_compiler::math;
use diffulex_runtime::engine::{Engine, EngineError, EngineShape, HIDDEN, LayerRows, StepInput, StepOutput};
use diffulex_runtime::onnxruntime::{CacheGrid, Libraries, OnnxRuntime, Provider, StepFile, compile};
use diffulex_tests::engines::onnxruntime;
use diffulex_tests::reference::fixture;

const SHAPE: EngineShape = EngineShape { max_tokens: 4, max_cache: 8, layers: 1, kv_heads: 2, head_dim: 4, vocab: 8 };
const THETA: f64 = 1e4;
const HTP: Provider = Provider::Htp { soc: 57, arch: 75, fp16: false };
const HTP_HALF: Provider = Provider::Htp { soc: 57, arch: 75, fp16: true };
const UINT8: CacheGrid = CacheGrid { scale: 4.0 / 255.0, zero: 128 };
const INT16: CacheGrid = CacheGrid { scale: 4.0 / 65535.0, zero: 0 };

fn file(name: &str, tokens: Option<usize>) -> StepFile {
    StepFile { path: fixture("onnxruntime").join(format!("{name}.onnx")), tokens }
}

fn open(
    libraries: &Libraries,
    files: &[StepFile],
    grid: Option<CacheGrid>,
    provider: Provider,
) -> Result<OnnxRuntime, EngineError> {
    OnnxRuntime::open(libraries, files, SHAPE, THETA, &[[grid; 2]], provider)
}

/// What a step is made of; [`StepInput`] borrows it.
struct Case {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    mask: Vec<f32>,
    rows: Vec<u32>,
    cached: usize,
    cache: Vec<LayerRows>,
}

impl Case {
    /// Numbers of all sizes from a small generator; a third of the keys is hidden, never a token from itself.
    fn new(t: usize, c: usize, seed: u32) -> Self {
        let mut state = seed * 2 + 1;
        let mut next = |below: u32| {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 8) % below
        };
        let tokens = (0..t).map(|_| next(8)).collect();
        let mut mask: Vec<f32> = (0..t * (c + t)).map(|_| if next(3) == 0 { HIDDEN } else { 0.0 }).collect();
        (0..t).for_each(|i| mask[i * (c + t) + c + i] = 0.0);
        let mut numbers = || (0..2 * c * 4).map(|_| next(2001) as f32 / 1000.0 - 1.0).collect();
        let cache = vec![LayerRows { k: numbers(), v: numbers() }];
        let positions = (c as u32..(c + t) as u32).collect();
        Self { tokens, positions, mask, rows: (0..t as u32).step_by(2).collect(), cached: c, cache }
    }

    fn input(&self) -> StepInput<'_> {
        let Self { tokens, positions, mask, rows, cached, cache } = self;
        StepInput { tokens, positions, mask, rows, cached: *cached, cache }
    }

    fn run(&self, engine: &mut OnnxRuntime) -> StepOutput {
        let mut out = StepOutput::default();
        engine.step(&self.input(), &mut out).unwrap();
        out
    }
}

/// A number of the tables of `make.py`.
fn weight(row: usize, column: usize) -> f32 {
    ((7 * row + 3 * column) % 33) as f32 / 16.0 - 1.0
}

/// The graph of `make.py`.
fn plain(case: &Case) -> StepOutput {
    let (t, c) = (case.tokens.len(), case.cached);
    let mut new = LayerRows { k: vec![0.0; 2 * t * 4], v: vec![0.0; 2 * t * 4] };
    let mut mixes = vec![[0.0f32; 8]; t];
    for h in 0..2 {
        for i in 0..t {
            let x = |j: usize| weight(case.tokens[i] as usize, h * 4 + j);
            for j in 0..4 {
                let angle = math::rope_angle(f64::from(case.positions[i]), THETA, j % 2, 4);
                let half = if j < 2 { -x(j + 2) } else { x(j - 2) };
                new.k[(h * t + i) * 4 + j] = x(j) * math::cos(angle) as f32 + half * math::sin(angle) as f32;
                new.v[(h * t + i) * 4 + j] = x(j);
            }
        }
        let row = |old: &[f32], new: &[f32], p: usize, j: usize| {
            if p < c { old[(h * c + p) * 4 + j] } else { new[(h * t + p - c) * 4 + j] }
        };
        for (i, mix) in mixes.iter_mut().enumerate() {
            let score = |p: usize| {
                let product: f32 =
                    (0..4).map(|j| new.k[(h * t + i) * 4 + j] * row(&case.cache[0].k, &new.k, p, j)).sum();
                f64::from(product + case.mask[i * (c + t) + p])
            };
            let most = (0..c + t).map(score).fold(f64::MIN, f64::max);
            let weights: Vec<f64> = (0..c + t).map(|p| math::exp(score(p) - most)).collect();
            let sum: f64 = weights.iter().sum();
            for j in 0..4 {
                let mixed = (0..c + t).map(|p| weights[p] / sum * f64::from(row(&case.cache[0].v, &new.v, p, j)));
                mix[h * 4 + j] = mixed.sum::<f64>() as f32;
            }
        }
    }
    let logit = |i: u32, v: usize| (0..8).map(|j| mixes[i as usize][j] * weight(j, v)).sum::<f32>();
    let logits = case.rows.iter().flat_map(|&i| (0..8).map(move |v| logit(i, v))).collect();
    StepOutput { logits, new: vec![new] }
}

/// Largest differences of logits, and of new keys and values.
fn apart(a: &StepOutput, b: &StepOutput) -> (f32, f32) {
    let worst = |a: &[f32], b: &[f32]| {
        assert_eq!(a.len(), b.len());
        // A NaN is far from all.
        a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, |m, x| if x <= m { m } else { x })
    };
    (worst(&a.logits, &b.logits), worst(&a.new[0].k, &b.new[0].k).max(worst(&a.new[0].v, &b.new[0].v)))
}

/// All sizes of steps through one engine, in an order in which what a step leaves behind could be seen in the next.
fn check(engine: &mut OnnxRuntime, limit: f32, stored: f32) {
    for (seed, c) in [8, 1, 5, 7].into_iter().enumerate() {
        for t in [4, 1, 3, 2] {
            let case = Case::new(t, c, seed as u32);
            let (logits, new) = apart(&case.run(engine), &plain(&case));
            assert!(logits <= limit && new <= stored, "{t} tokens over {c}: logits {logits}, new rows {new}");
        }
    }
}

#[test]
fn float_files_compute_what_plain_loops_do() {
    let Some(libraries) = onnxruntime() else { return };
    for (name, tokens, limit) in [("float", None, 1e-5), ("static", Some(4), 1e-5), ("half", Some(4), 1e-2)] {
        let mut engine = open(&libraries, &[file(name, tokens)], None, Provider::Cpu).unwrap();
        assert_eq!((engine.name(), engine.shape()), ("onnxruntime", &SHAPE));
        check(&mut engine, limit, limit);
    }
}

#[test]
fn integer_caches_are_on_their_grid() {
    let Some(libraries) = onnxruntime() else { return };
    let mut small = open(&libraries, &[file("uint8", Some(4))], Some(UINT8), Provider::Cpu).unwrap();
    check(&mut small, 0.1, 0.51 * UINT8.scale);
    let mut wide = open(&libraries, &[file("int16", Some(4))], Some(INT16), Provider::Cpu).unwrap();
    check(&mut wide, 1e-2, 3e-4);
    // Two files: the smaller one takes what it holds. Which of them runs is seen in nothing but the last rounding.
    let files = [file("uint8", Some(4)), file("uint8-2", Some(2))];
    let mut both = open(&libraries, &files, Some(UINT8), Provider::Cpu).unwrap();
    for t in 1..=4 {
        let case = Case::new(t, 6, 9);
        let (logits, new) = apart(&case.run(&mut both), &case.run(&mut small));
        assert!(logits <= 2e-3 && new == 0.0, "{t} tokens: {logits}, {new}");
    }
}

#[test]
fn a_row_that_sees_nothing_is_finite() {
    let Some(libraries) = onnxruntime() else { return };
    let mut case = Case::new(3, 4, 1);
    case.mask[..7].fill(HIDDEN);
    for (name, tokens) in [("float", None), ("static", Some(4)), ("half", Some(4))] {
        let mut engine = open(&libraries, &[file(name, tokens)], None, Provider::Cpu).unwrap();
        let out = case.run(&mut engine);
        assert!(out.logits.iter().all(|x| x.is_finite()), "{name}: {:?}", out.logits);
    }
}

#[test]
fn the_htp_computes_the_same() {
    let Some(libraries) = onnxruntime().filter(Libraries::has_htp) else { return };
    for (name, grid, provider, limit, stored) in [
        ("half", None, HTP_HALF, 1e-2, 2e-3),
        ("static", None, HTP_HALF, 1e-2, 2e-3),
        ("uint8", Some(UINT8), HTP, 0.1, 0.51 * UINT8.scale),
        ("int16", Some(INT16), HTP, 1e-2, 3e-4),
    ] {
        let mut engine = open(&libraries, &[file(name, Some(4))], grid, provider).unwrap();
        assert_eq!(engine.name(), "qnn");
        check(&mut engine, limit, stored);
        // The CPU can still be asked for.
        let mut plain = open(&libraries, &[file(name, Some(4))], grid, Provider::Cpu).unwrap();
        check(&mut plain, limit, stored);
    }
}

#[test]
fn a_compiled_file_runs_as_the_one_it_was_made_of() {
    let Some(libraries) = onnxruntime().filter(Libraries::has_htp) else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("SM8650");
    let source = file("uint8", Some(4));
    // The second time it replaces the first.
    for _ in 0..2 {
        compile(&libraries, &source.path, HTP, &out).unwrap();
        assert_eq!(names(&out), ["uint8_ctx.onnx", "uint8_ctx_qnn.bin"]);
    }
    let compiled = StepFile { path: out.join("uint8_ctx.onnx"), tokens: Some(4) };
    let mut compiled = open(&libraries, &[compiled], Some(UINT8), HTP).unwrap();
    let mut direct = open(&libraries, &[source], Some(UINT8), HTP).unwrap();
    for t in 1..=4 {
        let case = Case::new(t, 5, 3);
        assert_eq!(case.run(&mut compiled), case.run(&mut direct));
    }
    let refused = compile(&libraries, &file("float", None).path, HTP, &out).unwrap_err().to_string();
    assert!(refused.contains("float.onnx"), "{refused}");
    assert_eq!(names(&out), ["uint8_ctx.onnx", "uint8_ctx_qnn.bin"]);
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = entries.collect();
    names.sort();
    names
}

#[test]
fn what_cannot_run_is_refused() {
    let Some(libraries) = onnxruntime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let damaged = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let whole = std::fs::read(file("static", None).path).unwrap();
    let refused = |path: PathBuf, tokens, grid, provider| {
        open(&libraries, &[StepFile { path, tokens }], grid, provider).unwrap_err().to_string()
    };
    let cpu = |path, tokens, grid, what: &str| {
        let error = refused(path, tokens, grid, Provider::Cpu);
        assert!(error.starts_with("onnxruntime: ") && error.contains(what), "{error}");
    };
    cpu(folder.path().join("none.onnx"), Some(4), None, "none.onnx");
    cpu(damaged("empty.onnx", &[]), Some(4), None, "empty.onnx");
    for cut in (1..whole.len()).step_by(97) {
        cpu(damaged("cut.onnx", &whole[..cut]), Some(4), None, "cut.onnx");
    }
    cpu(file("float", None).path, Some(4), None, "`attn_mask` is [1, 1, dynamic, dynamic], not [1, 1, 4, dynamic]");
    cpu(file("static", None).path, Some(4), Some(UINT8), "`past_k_0` is F32, which has no scale and zero point");
    cpu(file("uint8", None).path, Some(4), None, "`past_k_0` is U8, but its scale and zero point are not known");
    cpu(
        file("uint8", None).path,
        Some(4),
        Some(CacheGrid { scale: 0.1, zero: 256 }),
        "cannot have scale 0.1 and zero 256",
    );
    cpu(file("uint8", None).path, Some(4), Some(CacheGrid { scale: 0.0, zero: 0 }), "cannot have scale 0 and zero 0");
    let few = open(&libraries, &[file("uint8-2", Some(2))], Some(UINT8), Provider::Cpu).unwrap_err();
    assert_eq!(few.to_string(), "the files take up to 2 tokens, the model 4");

    if libraries.has_htp() {
        let static_file = || file("static", None).path;
        let unknown = refused(static_file(), Some(4), None, Provider::Htp { soc: 999, arch: 75, fp16: false });
        assert!(unknown.starts_with("qnn: ") && unknown.contains("QNN_DEVICE_ERROR_INVALID_CONFIG"), "{unknown}");
        let dynamic = refused(file("float", None).path, None, None, HTP_HALF);
        assert!(dynamic.contains("fallback"), "{dynamic}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = |folder: &Path| Libraries::find(folder).unwrap_err().to_string();
    assert!(error(&folder.path().join("none")).starts_with("onnxruntime is not installed: "));
    let empty = error(folder.path());
    assert!(
        empty.contains("there is no libonnxruntime") && empty.contains("`onnxruntime` (1.24.2 or later)"),
        "{empty}"
    );

    let capi = folder.path().join("lib/python3.11/site-packages/onnxruntime/capi");
    std::fs::create_dir_all(&capi).unwrap();
    let suffix = std::env::consts::DLL_SUFFIX;
    let prefix = std::env::consts::DLL_PREFIX;
    for name in ["onnxruntime_providers_shared", "onnxruntime"] {
        std::fs::write(capi.join(format!("{prefix}{name}{suffix}")), "no library").unwrap();
    }
    let libraries = Libraries::find(folder.path()).unwrap();
    assert!(!libraries.has_htp());
    let open = |provider| open(&libraries, &[file("static", Some(4))], None, provider).unwrap_err().to_string();
    let htp = open(HTP);
    assert!(htp.starts_with("qnn is not installed: there is no ") && htp.contains("`onnxruntime-qnn`"), "{htp}");
    let cpu = open(Provider::Cpu);
    // Where another test of this process was first, the library is not even tried.
    let said = cpu.contains(capi.to_str().unwrap()) || cpu.contains("already loaded");
    assert!(cpu.starts_with("onnxruntime: ") && said, "{cpu}");
}
