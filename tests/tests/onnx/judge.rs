//! Files for `tests/judges/onnx`: all cases of a test are judged by one run of Python.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use diffulex_tests::engines;
use serde_json::{Map, Value, json};

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
        Some(Judge { python: engines::qnn()?, folder: folder.into(), cases: Vec::new() })
    }

    /// One more case: a file with options of `check.py`.
    pub(crate) fn add(&mut self, file: &Path, options: Value) {
        let mut case = json!({ "file": file });
        if let (Value::Object(case), Value::Object(options)) = (&mut case, options) {
            case.extend(options);
        }
        self.cases.push(case);
    }

    /// A file of tensors for cases.
    pub(crate) fn store(&self, name: &str, tensors: &Tensors) -> PathBuf {
        let path = self.folder.join(format!("{name}.safetensors"));
        fs::write(&path, safetensors(tensors)).unwrap();
        path
    }

    /// What the judge says of each case, all of which must be well.
    #[track_caller]
    pub(crate) fn agrees(self) -> Vec<Value> {
        let file = self.folder.join("cases.jsonl");
        fs::write(&file, self.cases.iter().map(|case| format!("{case}\n")).collect::<String>()).unwrap();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("judges/onnx/check.py");
        let done = Command::new(&self.python).arg("-B").arg(program).arg("--cases").arg(&file).output().unwrap();
        let reports: Vec<Value> =
            String::from_utf8(done.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(reports.len(), self.cases.len(), "{}", String::from_utf8_lossy(&done.stderr));
        let bad: Vec<String> =
            reports.iter().filter(|report| report["verdict"] != "ok").map(ToString::to_string).collect();
        assert!(bad.is_empty() && !reports.is_empty(), "{}", bad.join("\n"));
        reports
    }
}

/// Numbers.
pub(crate) fn singles(shape: &[usize], data: &[f32]) -> Tensor {
    ("F32", shape.to_vec(), data.iter().flat_map(|x| x.to_le_bytes()).collect())
}

/// Whole numbers.
pub(crate) fn integers(shape: &[usize], data: &[u32]) -> Tensor {
    ("I32", shape.to_vec(), data.iter().flat_map(|&x| (x as i32).to_le_bytes()).collect())
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
