//! Packages for `tests/judges/coreml`: all cases of a test are judged by one run of Python.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use diffulex_compiler::ir::interpret::{Array, Inputs, Outputs};
use diffulex_compiler::ir::{CacheId, CacheKind};
use diffulex_tests::engines;
use half::f16;
use serde_json::{Map, Value, json};

use crate::decoder::Model;

/// A tensor as safetensors has it: element type, shape, bytes.
pub(crate) type Tensor = (&'static str, Vec<usize>, Vec<u8>);

/// Tensors by name: `call0.input_ids`.
pub(crate) type Tensors = BTreeMap<String, Tensor>;

/// The judge, and what it is to judge.
pub(crate) struct Judge {
    python: PathBuf,
    folder: PathBuf,
    cases: Vec<Value>,
}

impl Judge {
    /// The judge, where it is installed. It may write into `folder`.
    pub(crate) fn found(folder: &Path) -> Option<Judge> {
        Some(Judge { python: engines::coremltools()?, folder: folder.into(), cases: Vec::new() })
    }

    /// The package must keep the rules and run on zeros.
    pub(crate) fn check(&mut self, package: &Path) {
        self.cases.push(json!({ "package": package }));
    }

    /// The package must also make these outputs of these inputs, to 1e-5 of the largest.
    pub(crate) fn compare(&mut self, package: &Path, given: &Tensors, made: &Tensors) {
        self.compare_function(package, None, given, made);
    }

    /// The same of one of several functions.
    pub(crate) fn compare_function(&mut self, package: &Path, function: Option<&str>, given: &Tensors, made: &Tensors) {
        self.compare_within(1e-5, package, function, given, made);
    }

    /// The same, to a share of the largest.
    pub(crate) fn compare_within(
        &mut self,
        share: f32,
        package: &Path,
        function: Option<&str>,
        given: &Tensors,
        made: &Tensors,
    ) {
        let numbers = made.values().flat_map(|(_, _, bytes)| bytes.chunks_exact(4));
        let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap()).abs();
        let largest = numbers.map(number).fold(0.0, f32::max);
        let case = self.cases.len();
        let file = |what: &str, tensors| {
            let path = self.folder.join(format!("{case}.{what}"));
            fs::write(&path, safetensors(tensors)).unwrap();
            path
        };
        let (inputs, outputs) = (file("inputs", given), file("outputs", made));
        let limit = share * largest;
        let mut case = json!({ "package": package, "inputs": inputs, "outputs": outputs, "max_error": limit });
        if let Some(function) = function {
            case["function"] = json!(function);
        }
        self.cases.push(case);
    }

    /// A copy of a package, broken in a way that `self_tests/mutations.py` knows by name.
    pub(crate) fn damaged(&self, package: &Path, damage: &str) -> PathBuf {
        let copy = self.folder.join(format!("{damage}.mlpackage"));
        self.run("self_tests/mutations.py", &[Path::new(damage), package, &copy]);
        copy
    }

    /// What the judge says of each case.
    pub(crate) fn reports(self) -> Vec<Value> {
        let file = self.folder.join("cases.jsonl");
        fs::write(&file, self.cases.iter().map(|case| format!("{case}\n")).collect::<String>()).unwrap();
        let done = self.command("check.py").arg("--cases").arg(&file).output().unwrap();
        let reports: Vec<Value> =
            String::from_utf8(done.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(reports.len(), self.cases.len(), "{}", String::from_utf8_lossy(&done.stderr));
        reports
    }

    /// Every case must be well.
    #[track_caller]
    pub(crate) fn agrees(self) {
        let reports = self.reports();
        let bad: Vec<String> =
            reports.iter().filter(|report| report["verdict"] != "ok").map(ToString::to_string).collect();
        assert!(bad.is_empty() && !reports.is_empty(), "{}", bad.join("\n"));
    }

    /// Runs another program of the judge, which must succeed.
    #[track_caller]
    pub(crate) fn run(&self, program: &str, arguments: &[&Path]) {
        let done = self.command(program).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{program}: {said}");
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg("-B").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("judges/coreml").join(program));
        command
    }
}

/// The numbers of an array in half precision, or in single precision where inputs are `wide`.
pub(crate) fn halves(array: &Array, wide: bool) -> Tensor {
    if wide {
        return singles(array);
    }
    let bytes = array.data.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
    ("F16", array.shape.clone(), bytes)
}

/// The numbers of an array.
pub(crate) fn singles(array: &Array) -> Tensor {
    ("F32", array.shape.clone(), array.data.iter().flat_map(|x| x.to_le_bytes()).collect())
}

/// Whole numbers.
pub(crate) fn integers(array: &Array) -> Tensor {
    ("I32", array.shape.clone(), array.data.iter().flat_map(|&x| (x as i32).to_le_bytes()).collect())
}

/// The arrays of all layers, one after another.
fn stacked(model: Model, of: impl Fn(CacheId) -> Array, kind: CacheKind) -> Array {
    let layers: Vec<Array> = (0..model.layers).map(|layer| of(CacheId { layer, kind })).collect();
    let mut shape = layers[0].shape.clone();
    shape.insert(0, layers.len());
    Array { shape, data: layers.into_iter().flat_map(|a| a.data).collect() }
}

/// The inputs of a step, in one call.
pub(crate) fn given_tensors(model: Model, given: &Inputs, wide: bool) -> Tensors {
    let cache = |kind| stacked(model, |id| given.caches[&id].clone(), kind);
    let tensors = [
        ("input_ids", integers(&given.values["tokens"])),
        ("position_ids", integers(&given.values["positions"])),
        ("attn_mask", halves(&given.values["mask"], wide)),
        ("k_cache", halves(&cache(CacheKind::K), wide)),
        ("v_cache", halves(&cache(CacheKind::V), wide)),
    ];
    tensors.map(|(name, tensor)| (format!("call0.{name}"), tensor)).into()
}

/// Its outputs.
pub(crate) fn made_tensors(model: Model, made: &Outputs) -> Tensors {
    let rows = |kind| stacked(model, |id| made.new_rows[&id].clone(), kind);
    let tensors = [
        ("logits", singles(&made.values[0])),
        ("k_new", singles(&rows(CacheKind::K))),
        ("v_new", singles(&rows(CacheKind::V))),
    ];
    tensors.map(|(name, tensor)| (format!("call0.{name}"), tensor)).into()
}

fn safetensors(tensors: &Tensors) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, (dtype, shape, bytes)) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name.clone(), json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets }));
        data.extend_from_slice(bytes);
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}
