//! Builds that are killed: what lies on the disk at that moment is kept aside, and built on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use diffulex_compiler::ir::{Encoding, Module, StoredTensor, WeightError, WeightSource, WeightType, parse};
use diffulex_compiler::quant::Cost;

use super::*;
use crate::artifact::{Bundle, Claim, Manifest, SUMS};
use crate::{EmitError, Metadata, Target, Work, coreml, onnx, xnnpack};

/// A step whose larger weights take several chunks, `TABLE` and `MATRIX` in place of encodings.
const GRAPH: &str = r#"
module "tiny" stage quantized
dims T = 2, C = 3

weights {
  embed_tokens : TABLE[5, 1024]
  layers.{i} for i in 0..2 {
    gain : f32[1024]
    k_proj : MATRIX[16, 1024]
    up_proj : MATRIX[5120, 1024]
    down_proj : MATRIX[200, 5120]
    o_proj : MATRIX[1024, 200]
  }
  lm_head : MATRIX[5120, 1024]
}

cache k, v : f32[1, 1, C, 16] for layers.{i} in 0..2

graph step(%tokens: i32[1, T], %positions: i32[1, T], %mask: f32[1, 1, T, C+T]) {
  %cos = rope_cos %positions {dim = 16, theta = 10000} : f32[1, 1, T, 16]
  %sin = rope_sin %positions {dim = 16, theta = 10000} : f32[1, 1, T, 16]
  %x = embed %tokens, @embed_tokens : f32[1, T, 1024]
  layers.{i} for i in 0..2 carry %x {
    %in = rms_norm %x, @gain {eps = 1e-6} : f32[1, T, 1024]
    %k = linear %in, @k_proj : f32[1, T, 16]
    %k.heads = heads %k {n = 1} : f32[1, 1, T, 16]
    %k.new = rope %k.heads, %cos, %sin : f32[1, 1, T, 16]
    %v.new = neg %k.new : f32[1, 1, T, 16]
    %k.all = cached $k, %k.new : f32[1, 1, C+T, 16]
    %v.all = cached $v, %v.new : f32[1, 1, C+T, 16]
    %mix = attention %k.new, %k.all, %v.all, %mask {scale = 0.25} : f32[1, 1, T, 16]
    %flat = merge_heads %mix : f32[1, T, 16]
    %up = linear %in, @up_proj : f32[1, T, 5120]
    %down = linear %up, @down_proj : f32[1, T, 200]
    %both = concat %down, %flat {axis = 2} : f32[1, T, 216]
    %cut = slice %both {axis = 2, range = 0..200} : f32[1, T, 200]
    %o = linear %cut, @o_proj : f32[1, T, 1024]
    next add %x, %o : f32[1, T, 1024]
  }
  %logits = linear %x, @lm_head : f32[1, T, 5120]
  return %logits
}
"#;

fn graph(table: Encoding, matrix: Encoding) -> String {
    GRAPH.replace("TABLE", table.name()).replace("MATRIX", matrix.name())
}

/// Numbers that differ, and the names of the weights that were asked for.
struct Numbers {
    module: Module,
    bytes: Vec<u8>,
    read: Mutex<BTreeSet<String>>,
}

impl Numbers {
    fn new() -> Numbers {
        let number = |i: u32| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8e6 - 1.0;
        let bytes = (0..5120 * 1024).flat_map(|i| number(i).to_le_bytes()).collect();
        Numbers { module: parse(&graph(Encoding::F32, Encoding::F32)).unwrap(), bytes, read: Mutex::default() }
    }

    fn read(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.read.lock().unwrap())
    }
}

impl WeightSource for Numbers {
    fn tensor(&self, name: &str) -> Result<StoredTensor<'_>, WeightError> {
        self.read.lock().unwrap().insert(name.into());
        let id = self.module.weight_id(name).ok_or_else(|| WeightError::Missing(name.into()))?;
        let ty = WeightType::new(Encoding::F32, self.module.weight(id).ty.shape.clone());
        Ok(StoredTensor { bytes: &self.bytes[..ty.bytes() as usize], packing: Default::default(), scales: &[], ty })
    }
}

/// A build of the step for a target.
struct Case {
    target: Target,
    module: Module,
    numbers: Numbers,
}

/// What a build leaves, and what it tells.
#[derive(Debug, PartialEq)]
struct Built {
    manifest: Manifest,
    files: BTreeMap<String, Vec<u8>>,
    costs: Vec<Cost>,
}

impl Case {
    fn new(target: Target, encoding: Encoding) -> Case {
        let table = if let Target::Onnx(_) = target { Encoding::F32 } else { encoding };
        let module = target.legalize(&parse(&graph(table, encoding)).unwrap()).unwrap();
        Case { target, module, numbers: Numbers::new() }
    }

    /// Builds `b` in a folder; `each` is called whenever bytes were written.
    fn build(&self, out: &Path, key: &str, each: &mut dyn FnMut()) -> Result<Built, EmitError> {
        let folder = out.join("b");
        let mut bundle = Bundle::create(Claim::artifact(&folder).unwrap(), key).unwrap();
        let journal = bundle.journal();
        let work = Work { source: &self.numbers, journal: journal.as_deref(), watch: None };
        let planned = self.target.plan(&self.module, &Metadata::default(), "model").unwrap();
        let mut put = |name: &str, content: crate::Content<'_>| {
            bundle.write(name, content).map_err(|error| EmitError::Io(io::Error::other(error.to_string())))
        };
        let costs = planned.write(work, &mut put, &mut |_, _| each())?;
        each();
        let manifest = Manifest {
            name: "b".into(),
            target: self.target.name().into(),
            artifact: self.target.artifact("model"),
            tool: "tool 1".into(),
            recipe: BTreeMap::new(),
            origin: Default::default(),
            reads: BTreeMap::new(),
            checkpoint: BTreeMap::new(),
            files: BTreeMap::new(),
            step: None,
        };
        let manifest = bundle.finish(manifest).unwrap();
        assert_eq!(Manifest::read(&folder).unwrap(), manifest);
        let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        walk(out, "", &mut |name, path| drop(files.insert(name.into(), fs::read(path).unwrap())));
        assert!(files.keys().all(|name| name.starts_with("b/")), "{:?}", files.keys());
        Ok(Built { manifest, files, costs })
    }

    /// An undisturbed build, and what lay on the disk each time that the journal had grown.
    fn killed(&self) -> (Built, Vec<tempfile::TempDir>) {
        let out = tempfile::tempdir().unwrap();
        let (mut states, mut last) = (Vec::new(), 0);
        let built = self.build(out.path(), "key", &mut || {
            let length = fs::metadata(out.path().join(".b.journal")).map_or(0, |journal| journal.len());
            if length > last {
                last = length;
                states.push(copied(out.path()));
            }
        });
        (built.unwrap(), states)
    }
}

/// Calls `each` with all files below a folder.
fn walk(folder: &Path, prefix: &str, each: &mut dyn FnMut(&str, &Path)) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        match entry.file_type().unwrap().is_dir() {
            true => walk(&entry.path(), &format!("{name}/"), each),
            false => each(&name, &entry.path()),
        }
    }
}

/// A copy of a folder.
fn copied(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    walk(folder, "", &mut |name, path| {
        let to = copy.path().join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(path, to).unwrap();
    });
    copy
}

fn points(state: &Path) -> Vec<Point> {
    lines(&state.join(".b.journal"), "key").into_iter().map(|line| line.point).collect()
}

/// A journal as a build with the key would write it.
fn forge(state: &Path, points: &[Point]) {
    let mut tip = String::from("key");
    let line = |point: &Point| {
        let json = serde_json::to_string(point).unwrap();
        tip = digest(&tip, &json);
        format!("{tip} {json}\n")
    };
    fs::write(state.join(".b.journal"), points.iter().map(line).collect::<String>()).unwrap();
}

#[test]
fn every_writer_goes_on_where_it_was_killed() {
    let coreml = |parts| Target::Coreml(coreml::Options { parts, ..coreml::Options::default() });
    let (xnnpack, onnx) = (Target::Xnnpack(xnnpack::Options::default()), Target::Onnx(onnx::Options::default()));
    // Scales of few rows lie in the file of the graph, so these are made again.
    let kept = |name: &str| name.ends_with("k_proj") || name.ends_with("down_proj");
    for (name, target, encoding, expected, again) in [
        ("xnnpack int8", xnnpack.clone(), Encoding::Int8Row, 3, false),
        ("xnnpack f32", xnnpack, Encoding::F32, 4, false),
        ("coreml int8", coreml(1), Encoding::Int8Row, 3, false),
        ("onnx int8", onnx, Encoding::Int8Row, 3, true),
        ("a chain", coreml(2), Encoding::Int8Row, 0, false),
    ] {
        let case = Case::new(target, encoding);
        let (built, states) = case.killed();
        let all = case.numbers.read();
        assert!(states.len() >= expected && (expected > 0 || states.is_empty()), "{name}: {}", states.len());
        for state in &states {
            let points = points(state.path());
            let made: BTreeSet<String> =
                points.iter().flat_map(|point| &point.made).map(|made| made.weight.clone()).collect();
            assert_eq!(case.build(state.path(), "key", &mut || {}).unwrap(), built, "{name}");
            let expected: BTreeSet<String> =
                all.iter().filter(|name| !made.contains(*name) || again && kept(name)).cloned().collect();
            assert_eq!(case.numbers.read(), expected, "{name}, {} points", points.len());
        }
    }
}

#[test]
fn a_build_may_be_killed_again() {
    let case = Case::new(Target::Onnx(onnx::Options::default()), Encoding::Int8Row);
    let (built, states) = case.killed();
    let mut state = copied(states[0].path());
    for number in 2..=states.len() {
        let mut next = None;
        case.build(state.path(), "key", &mut || {
            if next.is_none() && points(state.path()).len() == number {
                next = Some(copied(state.path()));
            }
        })
        .unwrap();
        state = next.expect("a journal that grows");
    }
    let journal = |state: &Path| fs::read(state.join(".b.journal")).unwrap();
    assert_eq!(journal(state.path()), journal(states.last().unwrap().path()));
    assert_eq!(case.build(state.path(), "key", &mut || {}).unwrap(), built);
}

#[test]
fn only_what_is_true_is_believed() {
    let case = Case::new(Target::Xnnpack(xnnpack::Options::default()), Encoding::Int8Row);
    let (built, states) = case.killed();
    let last = states.last().unwrap().path();
    let points = points(last);
    let file = |state: &Path| state.join(".b.building/model.pte");
    let all = case.numbers.read();
    let rest = |from: usize| -> BTreeSet<String> {
        let made = |point: &Point| point.made.iter().map(|made| made.weight.clone()).collect::<Vec<_>>();
        let made: BTreeSet<String> = points[..from].iter().flat_map(made).collect();
        all.difference(&made).cloned().collect()
    };
    let check = |what: &str, expected: &BTreeSet<String>, spoil: &dyn Fn(&Path)| {
        let state = copied(last);
        spoil(state.path());
        assert_eq!(case.build(state.path(), "key", &mut || {}).unwrap(), built, "{what}");
        assert_eq!(&case.numbers.read(), expected, "{what}");
    };
    check("nothing", &rest(points.len()), &|_| {});
    for (i, point) in points.iter().enumerate() {
        check("a flipped bit", &rest(i), &|state| {
            let mut bytes = fs::read(file(state)).unwrap();
            bytes[point.bytes as usize - 1] ^= 1;
            fs::write(file(state), bytes).unwrap();
        });
        check("a short file", &rest(i), &|state| {
            File::options().write(true).open(file(state)).unwrap().set_len(point.bytes - 1).unwrap();
        });
    }
    let journal = fs::read(last.join(".b.journal")).unwrap();
    let ends: Vec<usize> = journal.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(i, _)| i).collect();
    for cut in [0, 1, 64, 65, 80, ends[0] - 1, ends[0], ends[0] + 1, ends[1] - 1, ends[1] + 70] {
        let whole = ends.iter().filter(|end| **end <= cut).count();
        check("a cut journal", &rest(whole), &|state| fs::write(state.join(".b.journal"), &journal[..cut]).unwrap());
        check("a torn journal", &rest(ends.iter().filter(|end| **end < cut).count()), &|state| {
            let mut torn = journal.clone();
            torn[cut] ^= 1;
            fs::write(state.join(".b.journal"), torn).unwrap();
        });
    }
    check("a link", &all, &|state| {
        fs::rename(file(state), file(state).with_extension("moved")).unwrap();
        std::os::unix::fs::symlink("model.moved", file(state)).unwrap();
    });
    check("no file", &all, &|state| fs::remove_file(file(state)).unwrap());
    let letters = tempfile::NamedTempFile::new().unwrap();
    fs::write(letters.path(), "dear").unwrap();
    for name in ["journal", "lock"] {
        check("a link elsewhere", &if name == "lock" { rest(points.len()) } else { all.clone() }, &|state| {
            let _ = fs::remove_file(state.join(format!(".b.{name}")));
            std::os::unix::fs::symlink(letters.path(), state.join(format!(".b.{name}"))).unwrap();
        });
        assert_eq!(fs::read_to_string(letters.path()).unwrap(), "dear");
    }
    check("a journal that is a folder", &all, &|state| {
        fs::remove_file(state.join(".b.journal")).unwrap();
        fs::create_dir(state.join(".b.journal")).unwrap();
    });
    let state = copied(last);
    fs::write(state.path().join(".b.building/report.json"), "left").unwrap();
    assert_eq!(case.build(state.path(), "another key", &mut || {}).unwrap(), built);
    assert_eq!(case.numbers.read(), all);
}

#[test]
fn forged_journals_are_harmless() {
    let case = Case::new(Target::Xnnpack(xnnpack::Options::default()), Encoding::Int8Row);
    let (built, states) = case.killed();
    let state = states[0].path();
    let forged = |change: &dyn Fn(&mut Point)| {
        let state = copied(state);
        let mut points = points(state.path());
        points.iter_mut().for_each(change);
        forge(state.path(), &points);
        state
    };
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("letters"), "dear").unwrap();
    let letters = outside.path().join("letters").to_str().unwrap().to_string();
    for change in [
        &|point: &mut Point| point.bytes = u64::MAX,
        &|point: &mut Point| point.bytes = 0,
        &|point: &mut Point| point.sha256 = "0".repeat(64),
        &|point: &mut Point| point.file = "../../letters".into(),
        &|point: &mut Point| point.file = letters.clone(),
        &|point: &mut Point| point.file = "..".into(),
        &|point: &mut Point| point.file = String::new(),
    ] as [&dyn Fn(&mut Point); 7]
    {
        let state = forged(change);
        assert_eq!(case.build(state.path(), "key", &mut || {}).unwrap(), built);
    }
    assert_eq!(fs::read_to_string(letters).unwrap(), "dear");
    // What no build writes is found while it is read: that build fails, the next one begins anew.
    for change in [
        &|point: &mut Point| point.made.push_back(Made::new("more", &Rounding::default())),
        &|point: &mut Point| point.made.iter_mut().for_each(|made| made.weight.push('x')),
        &|point: &mut Point| point.made.extend((0..9).map(|_| Made::new("layers.0.up_proj", &Rounding::default()))),
    ] as [&dyn Fn(&mut Point); 3]
    {
        let state = forged(change);
        let error = case.build(state.path(), "key", &mut || {}).unwrap_err().to_string();
        assert!(error.contains("does not fit this one"), "{error}");
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
        assert_eq!(case.build(state.path(), "key", &mut || {}).unwrap(), built);
    }
    // Names of other files that a build wrote lead to no more than these.
    let state = copied(state);
    let bytes = built.files[&format!("b/{SUMS}")].clone();
    fs::write(state.path().join(".b.building/left"), &bytes).unwrap();
    let entry = {
        let mut out = Hashing::new(io::sink());
        out.write_all(&bytes).unwrap();
        out.entry()
    };
    let made = VecDeque::new();
    forge(state.path(), &[Point { file: "left".into(), bytes: entry.bytes, sha256: entry.sha256, made }]);
    assert_eq!(case.build(state.path(), "key", &mut || {}).unwrap(), built);
}
