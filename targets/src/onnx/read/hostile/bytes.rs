//! Bytes that are no message, or a monstrous one.

use onnx_protobuf::Message;

use super::{FLOAT, read};
use crate::onnx::small::{Parts, RECIPES, W8A16};

/// Each is an error, or a module; nothing else happens.
fn tried(bytes: &[u8], folder: &std::path::Path) -> Result<(), String> {
    let path = folder.join("model.onnx");
    std::fs::write(&path, bytes).unwrap();
    crate::open(&path).map(|_| ()).map_err(|error| error.to_string())
}

#[test]
fn beginnings_of_a_file_are_errors() {
    for recipe in [FLOAT, W8A16] {
        let (folder, parts) = (tempfile::tempdir().unwrap(), Parts::new(recipe));
        parts.write(folder.path());
        let bytes = parts.model.write_to_bytes().unwrap();
        // Behind the graph there is only what the file says of itself, some of which may be missing.
        let whole = bytes.windows(5).rposition(|part| part == b"graph").unwrap_or(bytes.len() * 9 / 10);
        for end in (0..whole.min(256)).chain((256..whole).step_by(97)) {
            assert!(tried(&bytes[..end], folder.path()).is_err(), "{end}");
        }
    }
}

#[test]
fn flipped_bits_are_survived() {
    for (_, recipe) in RECIPES {
        let (folder, parts) = (tempfile::tempdir().unwrap(), Parts::new(recipe));
        parts.write(folder.path());
        let good = parts.model.write_to_bytes().unwrap();
        let mut state = 1u64;
        for _ in 0..100 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let mut bytes = good.clone();
            let at = (state >> 33) as usize % bytes.len();
            bytes[at] ^= 1 << (state >> 29 & 7);
            let _ = tried(&bytes, folder.path());
            let _ = crate::onnx::text(&folder.path().join("model.onnx"));
        }
    }
}

/// Two bytes each that would take hundreds in memory.
#[test]
fn a_crowd_of_empty_messages_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let length =
        |n: usize| (0..5).map(|i| (n >> (7 * i) & 127 | if i < 4 { 128 } else { 0 }) as u8).collect::<Vec<_>>();
    let within = |field: u8, content: Vec<u8>| [vec![field << 3 | 2], length(content.len()), content].concat();
    let half = (16 << 20) / 2 - 64;
    for (field, expected) in [(1, "messages"), (5, "messages"), (11, "messages"), (12, "messages"), (2, "fields")] {
        let error = tried(&within(7, [field << 3 | 2, 0].repeat(half)), folder.path()).unwrap_err();
        assert!(error.contains(&format!("number of {expected}")), "{error}");
    }
    // Operands of a node, and unknown fields.
    let error = tried(&within(7, within(1, [0x0a, 0].repeat(half))), folder.path()).unwrap_err();
    assert!(error.contains("number of fields"), "{error}");
    let error = tried(&[0x78, 0].repeat(half), folder.path()).unwrap_err();
    assert!(error.contains("number of fields"), "{error}");
    let error = read(&folder.path().join("nobody.onnx")).err().unwrap().to_string();
    assert!(error.contains("nobody.onnx"), "{error}");
}
