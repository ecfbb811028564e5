//! Stored tensors, and the files that they lie in.

use super::{FLOAT, refused, said};
use crate::onnx::small::{Parts, W4A16_G32, W8A16};

/// A fact of the place of the first tensor that lies outside.
fn fact<'a>(p: &'a mut Parts, key: &str) -> &'a mut String {
    &mut p.outside().external_data.iter_mut().find(|fact| fact.key == key).unwrap().value
}

#[test]
fn places() {
    refused(&[
        (FLOAT, "its file is", |p| *fact(p, "location") = "../model.data".into()),
        (FLOAT, "its file is", |p| *fact(p, "location") = "/etc/hostname".into()),
        (FLOAT, "its file is", |p| *fact(p, "location") = "/dev/zero".into()),
        (FLOAT, "its file is", |p| *fact(p, "location") = String::new()),
        (FLOAT, "its file is", |p| *fact(p, "location") = "a\\b".into()),
        (FLOAT, "its file is", |p| *fact(p, "location") = "x".repeat(5000)),
        (FLOAT, "nobody.data", |p| *fact(p, "location") = "nobody.data".into()),
        (FLOAT, "end in its file", |p| *fact(p, "offset") = "9000000".into()),
        (FLOAT, "end in its file", |p| *fact(p, "offset") = u64::MAX.to_string()),
        (FLOAT, "no number", |p| *fact(p, "offset") = "-1".into()),
        (FLOAT, "number of bytes", |p| *fact(p, "length") = "4".into()),
        (FLOAT, "end in its file", |p| p.data.truncate(100)),
        (FLOAT, "two places", |p| p.outside().raw_data = vec![1]),
        (FLOAT, "two places", |p| {
            let tensor = p.outside();
            tensor.external_data.push(tensor.external_data[0].clone());
        }),
        (FLOAT, "has no location", |p| p.outside().external_data.clear()),
        (FLOAT, "more facts", |p| p.outside().external_data[2].key = "checksum".into()),
    ]);
}

#[cfg(unix)]
#[test]
fn what_is_no_file_of_the_folder() {
    use crate::onnx::read::read;
    let outside = tempfile::NamedTempFile::new().unwrap();
    for (expected, target) in [("leads out", outside.path().to_str().unwrap()), ("leads out", "/dev/zero")] {
        let folder = tempfile::tempdir().unwrap();
        let path = Parts::new(FLOAT).write(folder.path());
        let data = folder.path().join("model.data");
        std::fs::remove_file(&data).unwrap();
        std::os::unix::fs::symlink(target, &data).unwrap();
        let error = read(&path).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
    // A pipe is not waited for, neither as data nor as the graph.
    for name in ["model.data", "model.onnx"] {
        let folder = tempfile::tempdir().unwrap();
        let path = Parts::new(FLOAT).write(folder.path());
        let file = folder.path().join(name);
        std::fs::remove_file(&file).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
        let error = read(&path).err().unwrap().to_string();
        assert!(error.contains("it is no file"), "{error}");
    }
}

#[test]
fn tensors() {
    refused(&[
        (FLOAT, "its name occurs twice", |p| {
            let first = p.graph().initializer[0].clone();
            p.graph().initializer.push(first);
        }),
        (FLOAT, "its name occurs twice", |p| p.graph().initializer[0].name = "input_ids".into()),
        (FLOAT, "its name occurs twice", |p| p.graph().initializer[0].name = String::new()),
        (FLOAT, "nothing reads it", |p| p.store("idle", 1, &[], &[0; 4])),
        (FLOAT, "its shape", |p| p.outside().dims[0] = 0),
        (FLOAT, "its shape", |p| p.outside().dims[0] = -1),
        (FLOAT, "its shape", |p| p.outside().dims[0] = i64::MAX),
        (FLOAT, "", |p| p.outside().dims = vec![i64::from(i32::MAX); 8]),
        (FLOAT, "number of axes", |p| p.outside().dims = vec![1; 99]),
        (FLOAT, "number of bytes", |p| p.outside().dims[0] += 1),
        (FLOAT, "element type 99", |p| p.outside().data_type = 99),
        (FLOAT, "of shape", |p| p.outside().data_type = 0),
        (FLOAT, "of shape", |p| p.outside().data_type = 8),
        (FLOAT, "number of bytes", |p| p.outside().data_type = 10),
        (FLOAT, "not raw bytes", |p| p.outside().float_data.push(1.0)),
        (FLOAT, "field 99", |p| p.outside().special_fields.mut_unknown_fields().add_varint(99, 1)),
        (FLOAT, "parts of tensors", |p| p.outside().segment = Some(Default::default()).into()),
        (W8A16, "", |p| p.tensor("layers.0.q_proj.scale").data_type = 6),
        (W4A16_G32, "shape of the scales", |p| p.tensor("layers.0.q_proj.scale").dims.reverse()),
        (W4A16_G32, "in blocks of 31", |p| p.maker("layers.0.q_proj.float").attribute[1].i = 31),
        (W4A16_G32, "in blocks of 16", |p| p.maker("layers.0.q_proj.float").attribute[1].i = 16),
        (W4A16_G32, "below 0", |p| p.maker("layers.0.q_proj.float").attribute[1].i = -32),
    ]);
}

/// Tensors may share bytes: they are only read.
#[test]
fn tensors_that_overlap_are_read() {
    let overlap = said(W8A16, |p| {
        let place = p.outside().external_data.clone();
        let same = p.tensor("layers.1.q_proj");
        same.external_data = place;
    });
    assert_eq!(overlap, Ok(()));
}
