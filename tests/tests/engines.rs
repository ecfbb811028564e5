//! The real ExecuTorch runtime against our engine, on the same `.pte`.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::Path;

use diffulex_compiler::ir::Encoding;
use diffulex_edge::subject::{self, EngineChoice};
use diffulex_runtime::session::{Attention, Session, Store};
use diffulex_tests::engines::{executorch, library, pte};
use diffulex_tests::reference::fixture;

/// Feeds the same tokens to both, in several lengths, over an empty and a growing cache, and compares all logits and all
/// new keys and values: at most 1e-4 of the largest apart.
fn check(file: &Path, mut theirs: Session, block: usize) {
    let ours = subject::artifact(file).unwrap().engine(&EngineChoice::Tract).unwrap();
    let mut ours = Session::new(ours, Attention::BlockCausal(block)).unwrap();
    let vocab = ours.shape().vocab;
    let near = |a: &[f32], b: &[f32], what: &str| {
        let largest = a.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let worst = a.iter().zip(b).fold(0.0f32, |m, (x, y)| m.max((x - y).abs()));
        assert!(a.len() == b.len() && worst <= 1e-4 * largest, "{what}: {worst} of {largest}");
    };
    for lengths in [&[1, 1, 2, 4, 3][..], &[32, 4, 4], &[7], &[31, 1, 8]] {
        ours.clear();
        theirs.clear();
        let mut from = 0;
        for (i, &length) in lengths.iter().enumerate() {
            let tokens: Vec<u32> = (from..from + length).map(|p| ((p * 37 + i * 11 + 5) % vocab) as u32).collect();
            let rows: Vec<u32> = (0..length as u32).collect();
            let what = format!("{}: tokens {from}..{}", file.display(), from + length);
            let a = ours.pass(&tokens, from, &rows, Store::Keep).unwrap().to_vec();
            let b = theirs.pass(&tokens, from, &rows, Store::Keep).unwrap().to_vec();
            near(&a, &b, &what);
            for (a, b) in ours.layers().iter().zip(theirs.layers()) {
                near(&a.k, &b.k, &what);
                near(&a.v, &b.v, &what);
            }
            from += length;
        }
    }
}

#[test]
fn executorch_agrees_with_tract() {
    for (checkpoint, weights) in
        [("sdar/tiny", Encoding::F32), ("sdar/tiny", Encoding::F16), ("sdar/tiny-sharded-bf16", Encoding::F16)]
    {
        let file = pte(&fixture(checkpoint), 32, 64, weights);
        let Some(engine) = executorch(&file) else { return };
        assert_eq!(engine.shape().max_tokens, 32);
        check(&file, Session::new(engine, Attention::BlockCausal(4)).unwrap(), 4);
    }
}

#[test]
fn executorch_refuses_a_damaged_file_with_a_sentence() {
    let Some(library) = library() else { return };
    let bytes = std::fs::read(pte(&fixture("sdar/tiny"), 32, 64, Encoding::F32)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("damaged.pte");
    for length in [0, 7, 64, 4096, bytes.len() / 2, bytes.len() - 4096] {
        std::fs::write(&file, &bytes[..length]).unwrap();
        let theirs = diffulex_runtime::executorch::ExecuTorch::open(&file, &library).unwrap_err().to_string();
        assert!(theirs.contains("damaged.pte"), "{length} bytes: {theirs}");
        let ours = subject::artifact(&file).map(|_| ()).unwrap_err().to_string();
        assert!(ours.contains("damaged.pte"), "{length} bytes: {ours}");
    }
}
