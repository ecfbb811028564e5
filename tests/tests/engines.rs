//! The real ExecuTorch runtime against our engine, on the same `.pte`.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::Path;

use diffulex_compiler::ir::Encoding;
use diffulex_compiler::quant::{Activations, Scheme, Search};
use diffulex_edge::subject::{self, EngineChoice};
use diffulex_runtime::session::{Attention, Session, Store};
use diffulex_tests::engines::{executorch, library, pte};
use diffulex_tests::reference::fixture;

/// Feeds the same tokens to both, in several lengths, over an empty and a growing cache, and compares all logits and all
/// new keys and values: at most `limit` of the largest apart. Gives for each whether they were at most 1e-4 apart.
fn check(file: &Path, mut theirs: Session, block: usize, limit: f32) -> Vec<bool> {
    let ours = subject::artifact(file).unwrap().engine(&EngineChoice::Tract).unwrap();
    let mut ours = Session::new(ours, Attention::BlockCausal(block)).unwrap();
    let vocab = ours.shape().vocab;
    let mut exact = Vec::new();
    let mut near = |a: &[f32], b: &[f32], what: &str| {
        let largest = a.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let worst = a.iter().zip(b).fold(0.0f32, |m, (x, y)| m.max((x - y).abs()));
        assert!(a.len() == b.len() && worst <= limit * largest, "{what}: {worst} of {largest}");
        exact.push(worst <= 1e-4 * largest);
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
    exact
}

#[test]
fn executorch_agrees_with_tract() {
    for (checkpoint, weights) in
        [("sdar/tiny", Encoding::F32), ("sdar/tiny", Encoding::F16), ("sdar/tiny-sharded-bf16", Encoding::F16)]
    {
        let file = pte(&fixture(checkpoint), 32, 64, &Scheme::float(weights));
        let Some(engine) = executorch(&file) else { return };
        assert_eq!(engine.shape().max_tokens, 32);
        check(&file, Session::new(engine, Attention::BlockCausal(4)).unwrap(), 4, 1e-4);
    }
}

/// Every mode in which XNNPACK computes with a filter, every table, both searches, on every family.
#[test]
fn executorch_agrees_with_tract_in_every_mode() {
    use Activations::{DynamicInt8, F16, Float};
    use Encoding as E;
    // Blocks of 32 want rows that can be cut into them.
    for (checkpoint, weights, activations, table, search) in [
        ("sdar/tiny", E::BF16, Float, E::BF16, Search::Max),
        ("sdar/tiny", E::F16, F16, E::F16, Search::Max),
        ("sdar/tiny", E::Int8Row, Float, E::F16, Search::Max),
        ("sdar/tiny", E::Int4Row, Float, E::Int8Row, Search::Max),
        // With biases.
        ("dream/tiny", E::BF16, Float, E::F32, Search::Max),
        ("dream/tiny", E::F16, F16, E::BF16, Search::Max),
        ("dream/tiny", E::Int8Row, Float, E::Int4Row, Search::Mse),
        ("dream/tiny", E::Int8Row, DynamicInt8, E::F16, Search::Max),
        ("dream/tiny", E::Int4Row, DynamicInt8, E::BF16, Search::Max),
        ("fast_dllm_v2/tiny", E::Int4Row, Float, E::F16, Search::Mse),
        ("fast_dllm_v2/tiny", E::Int4G32, DynamicInt8, E::Int4G32, Search::Max),
        ("llada/tiny", E::Int4Row, DynamicInt8, E::F16, Search::Mse),
        ("llada/tiny", E::Int4G32, DynamicInt8, E::Int8Row, Search::Mse),
        ("llada/tiny", E::Int4G64, DynamicInt8, E::Int4G64, Search::Max),
    ] {
        let scheme = Scheme { weights, table, activations, search, keep: vec![] };
        let file = pte(&fixture(checkpoint), 32, 64, &scheme);
        let Some(engine) = executorch(&file) else { return };
        // Where tokens are rounded, a number that lies between two levels but for the order of a sum may fall to either,
        // and all that follows from it differs. That is rare.
        let limit = match (weights, activations) {
            // XNNPACK adds up in f16 where the processor can.
            (_, DynamicInt8 | F16) => 5e-2,
            (E::BF16, _) => 5e-3,
            _ => 1e-4,
        };
        let exact = check(&file, Session::new(engine, Attention::BlockCausal(4)).unwrap(), 4, limit);
        let share = exact.iter().filter(|&&exact| exact).count() as f32 / exact.len() as f32;
        assert!(share > 0.5 || activations == F16, "{}: {share} are exact", file.display());
    }
}

#[test]
fn executorch_refuses_a_damaged_file_with_a_sentence() {
    let Some(library) = library() else { return };
    let bytes = std::fs::read(pte(&fixture("sdar/tiny"), 32, 64, &Scheme::F32)).unwrap();
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
