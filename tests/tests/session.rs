//! A session against the logits of the original code: whole, cached, cut into steps. The same cases run on every engine.
#![allow(clippy::unwrap_used, reason = "a test may")]

use diffulex_runtime::cache::CacheError;
use diffulex_runtime::engine::{Engine, EngineError, EngineShape, StepInput, StepOutput};
use diffulex_runtime::session::{Attention, Session, SessionError, Store};
use diffulex_tests::reference::{Tensors, fixture};

/// Engines of a checkpoint.
fn engines_of(checkpoint: &str, max_tokens: usize, max_cache: usize) -> Vec<Box<dyn Engine>> {
    diffulex_tests::engines::all(&fixture(checkpoint), max_tokens, max_cache)
}

fn engines(max_tokens: usize, max_cache: usize) -> Vec<Box<dyn Engine>> {
    engines_of("sdar/tiny", max_tokens, max_cache)
}

fn session(max_tokens: usize, max_cache: usize, block: usize) -> Session {
    let engine = engines(max_tokens, max_cache).remove(0);
    Session::new(engine, Attention::BlockCausal(block)).unwrap()
}

/// A case of a logits file.
struct Case {
    place: String,
    ids: Vec<u32>,
    logits: Vec<f64>,
}

fn cases(file: &str) -> Vec<Case> {
    let wanted = Tensors::open(&fixture(file));
    let names = ["len1", "len1_mask", "len7", "len7_mask", "len33", "len33_mask", "len64", "len64_mask"];
    let found = names.into_iter().filter(|case| wanted.has(&format!("{case}.ids")));
    let cases: Vec<Case> = found
        .map(|case| Case {
            place: format!("{file} {case}"),
            ids: wanted.ids(&format!("{case}.ids")),
            logits: wanted.values(&format!("{case}.logits")).to_vec(),
        })
        .collect();
    assert!(cases.len() >= 2, "{file}");
    cases
}

fn all(n: usize) -> Vec<u32> {
    (0..n as u32).collect()
}

impl Case {
    /// Compares rows `from..` with the recorded ones.
    fn near(&self, got: &[f32], from: usize, what: &str) {
        let vocab = self.logits.len() / self.ids.len();
        let want = &self.logits[from * vocab..];
        let worst = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max);
        assert!(!got.is_empty() && worst < 2e-4, "{} {what} from {from}: off by {worst}", self.place);
    }

    /// All rows in one pass, and some of them.
    fn uncached(&self, session: &mut Session) {
        session.clear();
        self.near(session.pass(&self.ids, 0, &all(self.ids.len()), Store::Discard).unwrap(), 0, "uncached");
        assert_eq!(session.cached(), 0);
        let some: Vec<u32> = all(self.ids.len()).into_iter().filter(|r| r % 5 == 2).collect();
        let few = session.pass(&self.ids, 0, &some, Store::Discard).unwrap().to_vec();
        let vocab = few.len() / some.len().max(1);
        for (got, &row) in few.chunks(vocab.max(1)).zip(&some) {
            self.near(got, row as usize, "some rows");
        }
    }
}

/// Every case of a logits file on one engine: in one pass, in `pieces` (lengths in tokens, the last one repeated) over
/// the cache, and each piece once without storing it before.
fn check(engine: Box<dyn Engine>, file: &str, block: usize, pieces: &[usize]) {
    let mut session = Session::new(engine, Attention::BlockCausal(block)).unwrap();
    for case in cases(file) {
        case.uncached(&mut session);
        let (ids, near) = (&case.ids, |got: &[f32], from, what| case.near(got, from, what));

        let mut from = 0;
        for piece in pieces.iter().chain(std::iter::repeat(pieces.last().unwrap())) {
            let to = ids.len().min(from + piece);
            for store in [Store::Discard, Store::Keep] {
                let got = session.pass(&ids[from..to], from, &all(to - from), store).unwrap();
                near(got, from, "cached");
            }
            from = to;
            assert_eq!(session.cached(), from);
            if from == ids.len() {
                break;
            }
        }
    }
}

#[test]
fn block_4() {
    for pieces in [&[4][..], &[12, 4], &[64]] {
        engines(64, 64).into_iter().for_each(|e| check(e, "sdar/logits_block4.safetensors", 4, pieces));
    }
}

#[test]
fn block_8() {
    for pieces in [&[8][..], &[24, 8]] {
        engines(64, 64).into_iter().for_each(|e| check(e, "sdar/logits_block8.safetensors", 8, pieces));
    }
}

#[test]
fn bf16_weights_in_shards() {
    for engine in engines_of("sdar/tiny-sharded-bf16", 64, 64) {
        check(engine, "sdar/logits_bf16_weights_block4.safetensors", 4, &[12, 4]);
    }
}

#[test]
fn blocks_of_32() {
    for (checkpoint, file) in [("tiny", "logits"), ("tiny-sharded-bf16", "logits_bf16_weights")] {
        for engine in engines_of(&format!("fast_dllm_v2/{checkpoint}"), 64, 64) {
            check(engine, &format!("fast_dllm_v2/{file}.safetensors"), 32, &[32]);
        }
    }
}

/// With full attention the keys and values of a pass over everything are those of any part of it: reused as drafts, they
/// give the same rows.
#[test]
fn full_attention() {
    for family in ["dream", "llada"] {
        for (checkpoint, file) in [("tiny", "logits"), ("tiny-sharded-bf16", "logits_bf16_weights")] {
            for engine in engines_of(&format!("{family}/{checkpoint}"), 64, 64) {
                let mut session = Session::new(engine, Attention::Full).unwrap();
                for case in cases(&format!("{family}/{file}.safetensors")) {
                    case.uncached(&mut session);
                    let (ids, len) = (&case.ids, case.ids.len());
                    let (from, to) = (len / 3, len.div_ceil(2));
                    session.pass(ids, 0, &[], Store::Draft(from)).unwrap();
                    assert_eq!(session.cached(), from);
                    case.near(
                        session.pass(&ids[from..], from, &all(len - from), Store::Discard).unwrap(),
                        from,
                        "prefix",
                    );
                    session.clear();
                    session.pass(ids, 0, &[], Store::Draft(len)).unwrap();
                    for _ in 0..2 {
                        let rows =
                            session.pass(&ids[from..to], from, &all(to - from), Store::Draft(to - from)).unwrap();
                        case.near(rows, from, "dual");
                        assert_eq!(session.cached(), len);
                    }
                }
            }
        }
    }
}

#[test]
fn drafts_are_no_part_of_a_later_turn() {
    let mut session = session(64, 64, 4);
    let ids: Vec<u32> = (0..16).collect();
    session.pass(&ids[..8], 0, &[], Store::Keep).unwrap();
    session.pass(&ids[8..], 8, &[], Store::Draft(4)).unwrap();
    session.pass(&ids[8..10], 8, &[], Store::Draft(2)).unwrap();
    assert_eq!((session.cached(), session.reuse(&ids)), (12, 8));
    session.pass(&ids[8..], 8, &[], Store::Keep).unwrap();
    session.pass(&ids[4..8], 4, &[], Store::Draft(4)).unwrap();
    assert_eq!((session.cached(), session.reuse(&ids)), (16, 4), "what was written over is a draft again");
}

#[test]
fn long_passes_are_cut_at_block_boundaries() {
    for max_tokens in [4, 5, 10, 63] {
        for engine in engines(max_tokens, 64) {
            check(engine, "sdar/logits_block4.safetensors", 4, &[28, 20]);
        }
    }
}

#[test]
fn a_later_turn_reuses_whole_blocks() {
    let mut session = session(64, 64, 4);
    let ids: Vec<u32> = (0..18).collect();
    session.pass(&ids[..16], 0, &[], Store::Keep).unwrap();
    assert_eq!(session.reuse(&ids), 16);
    let other = [&ids[..11], &[99, 98, 97]].concat();
    assert_eq!(session.reuse(&other), 8, "the third block differs");
    let cached = session.pass(&other[8..], 8, &[5], Store::Discard).unwrap().to_vec();
    assert_eq!(session.reuse(&[5]), 0);
    let whole = session.pass(&other, 0, &[13], Store::Discard).unwrap();
    assert!(cached.iter().zip(whole).all(|(a, b)| (a - b).abs() < 1e-4));
}

#[test]
fn rows_of_the_same_positions_are_replaced() {
    let mut session = session(64, 64, 4);
    let ids: Vec<u32> = (0..12).collect();
    session.pass(&[7; 12], 0, &[], Store::Keep).unwrap();
    session.pass(&ids, 0, &[], Store::Keep).unwrap();
    assert_eq!((session.cached(), session.reuse(&ids)), (12, 12));
    session.truncate(8);
    assert_eq!(session.reuse(&ids), 8);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let mut session = session(8, 16, 4);
    let full = session.pass(&[1; 20], 0, &[], Store::Keep);
    assert!(matches!(full, Err(SessionError::Cache(CacheError::Full { need: 20, room: 16 }))));
    assert_eq!(full.unwrap_err().to_string(), "the cache is full: 20 positions are needed, this build holds 16");
    assert!(matches!(session.pass(&[1; 4], 4, &[], Store::Keep), Err(SessionError::Cache(CacheError::Gap { .. }))));
    assert!(matches!(session.pass(&[1; 4], 0, &[4], Store::Keep), Err(SessionError::Rows { tokens: 4 })));
    assert!(matches!(session.pass(&[1; 4], 0, &[2, 1], Store::Keep), Err(SessionError::Rows { tokens: 4 })));
    assert!(matches!(session.pass(&[], 0, &[], Store::Keep), Err(SessionError::Engine(EngineError::Input(_)))));
    assert!(matches!(session.pass(&[9999], 0, &[], Store::Keep), Err(SessionError::Engine(EngineError::Input(_)))));
    assert_eq!(session.cached(), 0);
    for block in [0, 9] {
        let engine = engines(8, 16).remove(0);
        assert!(matches!(Session::new(engine, Attention::BlockCausal(block)), Err(SessionError::Block { .. })));
    }
    let mut full = Session::new(engines(8, 16).remove(0), Attention::Full).unwrap();
    assert!(matches!(
        full.pass(&[1; 9], 0, &[], Store::Discard),
        Err(SessionError::Unsplittable { tokens: 9, max: 8 })
    ));
}

/// An engine that gives too little.
struct Short(EngineShape);

impl Engine for Short {
    fn name(&self) -> &'static str {
        "short"
    }
    fn shape(&self) -> &EngineShape {
        &self.0
    }
    fn step(&mut self, _: &StepInput<'_>, out: &mut StepOutput) -> Result<(), EngineError> {
        out.logits.clear();
        Ok(())
    }
}

#[test]
fn a_wrong_engine_is_an_error() {
    let shape = EngineShape { max_tokens: 8, max_cache: 8, layers: 1, kv_heads: 1, head_dim: 2, vocab: 3 };
    let mut session = Session::new(Box::new(Short(shape)), Attention::Full).unwrap();
    assert!(matches!(session.pass(&[1], 0, &[0], Store::Keep), Err(SessionError::Engine(EngineError::Failed { .. }))));
    assert!(matches!(session.pass(&[1], 0, &[], Store::Keep), Err(SessionError::Cache(CacheError::Shape { .. }))));
}
