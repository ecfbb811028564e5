//! Manifests, paths, files that are none.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::coreml::schema::manifest::Item;
use crate::coreml::schema::{MANIFEST_PATH, MODEL_PATH, WEIGHT_PATH};

/// What the reader says of a package whose files are changed.
#[track_caller]
fn files(expected: &str, change: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("package");
    good(Base::Int4).write(&root);
    change(&root);
    let error = read(&root).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(expected), "`{error}` instead of `{expected}`");
}

#[test]
fn manifests() {
    let item = |p: &mut Parts, change: fn(&mut Item)| p.manifest.item_info_entries.values_mut().for_each(change);
    refused(Base::Half, "manifest: fileFormatVersion is \"1.1.0\"", |p| {
        p.manifest.file_format_version = "1.1.0".into()
    });
    refused(Base::Half, "manifest: damaged: rootModelIdentifier names no item", |p| {
        p.manifest.root_model_identifier = "00000000-0000-0000-0000-000000000000".into();
    });
    refused(Base::Half, "the identifier \"model\" is no UUID", |p| {
        let (_, item) = p.manifest.item_info_entries.pop_first().unwrap();
        p.manifest.item_info_entries.insert("model".into(), item);
    });
    refused(Base::Half, "two items are", |p| {
        let item = p.manifest.item_info_entries.values().next().unwrap().clone();
        p.manifest.item_info_entries.insert("00000000-0000-0000-0000-00000000000A".into(), item);
    });
    refused(Base::Half, "path is \"com.apple.CoreML/model.mlmodel\", not \"other/model.mlmodel\"", |p| {
        item(p, |item| item.author = "other".into());
    });
    refused(Base::Half, "has no item \"com.apple.CoreML/other\"", |p| {
        item(p, |item| (item.name, item.path) = ("other".into(), "com.apple.CoreML/other".into()));
    });
    for path in ["com.apple.CoreML/../../..", "/etc/passwd", "../Manifest.json", "", "com.apple.CoreML/\0"] {
        let error = said(Base::Half, |p| p.manifest.item_info_entries.values_mut().for_each(|i| i.path = path.into()));
        assert!(error.unwrap_err().contains("leads out of the package"), "{path:?}");
    }
    // The root is the folder of weights.
    refused(Base::Half, "PACKAGE/Data/com.apple.CoreML/weights: damaged: it is no file", |p| {
        p.manifest.root_model_identifier = p.manifest.item_info_entries.keys().next_back().unwrap().clone();
    });
}

#[test]
fn manifests_that_are_none() {
    let manifest = |text: &str| {
        let text = text.to_string();
        move |root: &Path| fs::write(root.join(MANIFEST_PATH), text).unwrap()
    };
    files("manifest: damaged: expected value", manifest("?"));
    files("manifest: damaged: missing field", manifest("{}"));
    files("manifest: damaged: unknown field `more`", |root| {
        let text = fs::read_to_string(root.join(MANIFEST_PATH)).unwrap();
        fs::write(root.join(MANIFEST_PATH), text.replacen('{', "{\"more\": 1,", 1)).unwrap();
    });
    files("manifest: damaged: invalid type", manifest(&format!("{{\"itemInfoEntries\": {}", "[".repeat(100_000))));
    files("number of bytes is 1048577, beyond 1048576", manifest(&" ".repeat((1 << 20) + 1)));
}

#[test]
fn files_that_are_missing() {
    files("Manifest.json: No such file", |root| fs::remove_file(root.join(MANIFEST_PATH)).unwrap());
    files("has no item \"com.apple.CoreML/model.mlmodel\"", |root| fs::remove_file(root.join(MODEL_PATH)).unwrap());
    files("weights/weight.bin: No such file", |root| fs::remove_file(root.join(WEIGHT_PATH)).unwrap());
    files("package: No such file", |root| fs::remove_dir_all(root).unwrap());
}

#[test]
fn files_that_are_none() {
    for path in [MANIFEST_PATH, MODEL_PATH, WEIGHT_PATH] {
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        // A pipe that nobody writes to must not be opened.
        files(&format!("{name}: damaged: it is no file"), |root| {
            fs::remove_file(root.join(path)).unwrap();
            assert!(Command::new("mkfifo").arg(root.join(path)).status().unwrap().success());
        });
        files(&format!("{name}: damaged: it is no file"), |root| {
            fs::remove_file(root.join(path)).unwrap();
            fs::create_dir(root.join(path)).unwrap();
        });
        files("it leads out of the package", |root| {
            let outside = root.parent().unwrap().join("outside");
            fs::rename(root.join(path), &outside).unwrap();
            symlink(&outside, root.join(path)).unwrap();
        });
        files(": ", |root| {
            fs::remove_file(root.join(path)).unwrap();
            symlink(root.join(path), root.join(path)).unwrap();
        });
    }
    files("it leads out of the package", |root| {
        let folder = root.join(WEIGHT_PATH).parent().unwrap().to_path_buf();
        let outside = root.parent().unwrap().join("outside");
        fs::rename(&folder, &outside).unwrap();
        symlink(&outside, &folder).unwrap();
    });
}

/// Links inside a package harm nobody.
#[test]
fn links_that_stay_inside_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    good(Base::Int4).write(folder.path());
    let weights = folder.path().join(WEIGHT_PATH).parent().unwrap().to_path_buf();
    fs::rename(&weights, weights.with_file_name("other")).unwrap();
    symlink("other", &weights).unwrap();
    read(folder.path()).unwrap();
}

#[test]
fn model_files() {
    files("model: damaged: failed to decode", |root| fs::write(root.join(MODEL_PATH), [0xff; 64]).unwrap());
    files("a model that is no ML Program", |root| fs::write(root.join(MODEL_PATH), []).unwrap());
    // A neural network, field 500.
    files("a model that is no ML Program", |root| fs::write(root.join(MODEL_PATH), [0xa2, 0x1f, 0]).unwrap());
    files("some of the fields it has", |root| {
        let more = [&fs::read(root.join(MODEL_PATH)).unwrap()[..], &[0xf8, 0x7f, 1]].concat();
        fs::write(root.join(MODEL_PATH), more).unwrap();
    });
    files("model.mlmodel: number of bytes is", |root| {
        fs::File::options().write(true).open(root.join(MODEL_PATH)).unwrap().set_len((16 << 20) + 1).unwrap();
    });
    // A length that promises more than there is.
    files("model: damaged: failed to decode", |root| {
        fs::write(root.join(MODEL_PATH), [0x12, 0xff, 0xff, 0xff, 0xff, 0x0f]).unwrap();
    });
}

/// Types inside types inside types.
#[test]
fn deep_nesting_is_an_error() {
    use crate::coreml::schema::program::{StateType, ValueKind, ValueType};
    let deep = |depth: usize| {
        move |p: &mut Parts| {
            let mut ty = ValueType::default();
            for _ in 0..depth {
                ty = ValueType {
                    kind: Some(ValueKind::State(Box::new(StateType { wrapped_type: Some(Box::new(ty)) }))),
                };
            }
            p.function().inputs[0].r#type = Some(ty);
        }
    };
    refused(Base::Half, "model: damaged: failed to decode", deep(90));
    refused(Base::Half, "feature \"input_ids\": this reader does not know a value that is no tensor", deep(20));
}
