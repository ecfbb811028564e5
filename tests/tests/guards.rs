//! What the original leaves open or does wrong in generation, on an engine whose logits are known.
#![allow(clippy::unwrap_used, reason = "a test may")]
#![allow(clippy::disallowed_methods, reason = "judged within a tolerance, so the platform's functions will do")]

use diffulex_compiler::generation::{Logits, Reuse, Strategy};
use diffulex_runtime::engine::{Engine, EngineError, EngineShape, LayerRows, StepInput, StepOutput};
use diffulex_runtime::generate::{
    Algorithm, Behaviour, Canvas, Dream, End, Evidence, FastDllm, GenerateError, Ids, Llada, Run, Sdar, Thresholds,
    Trace, generate, infill,
};
use diffulex_runtime::session::{Attention, Session};
use std::ops::ControlFlow;

const ORIGINAL: Run<'static> =
    Run { behaviour: Behaviour::Original, seed: 0, limit: None, draws: &[], all_rows: false };

/// Runs without an observer, in a session of its own.
fn run_any(
    engine: Box<dyn Engine>,
    algorithm: &Algorithm,
    prompt: &[u32],
    run: Run<'_>,
) -> Result<Trace, GenerateError> {
    let mut session = Session::new(engine, algorithm.attention()).unwrap();
    generate(&mut session, algorithm, prompt, run, &mut |_, _| ControlFlow::Continue(()))
}

fn run(engine: Box<dyn Engine>, sdar: &Sdar, prompt: &[u32], run: Run<'_>) -> Result<Trace, GenerateError> {
    run_any(engine, &Algorithm::Sdar(sdar.clone()), prompt, run)
}

/// An engine with logits of one's own choosing: `favour` gets 9 and its neighbour 8, everything else 0.
struct Fixed {
    shape: EngineShape,
    favour: usize,
    spoil: Option<f32>,
}

impl Fixed {
    const MASK: u32 = 5;

    fn favouring(favour: usize) -> Box<Self> {
        let shape = EngineShape { max_tokens: 16, max_cache: 32, layers: 1, kv_heads: 1, head_dim: 1, vocab: 10 };
        Box::new(Self { shape, favour, spoil: None })
    }
}

impl Engine for Fixed {
    fn name(&self) -> &'static str {
        "fixed"
    }
    fn shape(&self) -> &EngineShape {
        &self.shape
    }
    fn step(&mut self, input: &StepInput<'_>, out: &mut StepOutput) -> Result<(), EngineError> {
        input.check(&self.shape)?;
        let mut row = vec![0.0; self.shape.vocab];
        row[self.favour] = 9.0;
        row[(self.favour + 1) % self.shape.vocab] = 8.0;
        if let Some(spoil) = self.spoil.filter(|_| input.cached == 8) {
            row[2] = spoil;
        }
        out.logits = row.repeat(input.rows.len());
        let rows = vec![0.0; input.tokens.len()];
        out.new = vec![LayerRows { k: rows.clone(), v: rows }];
        Ok(())
    }
}

#[test]
fn a_quota_never_overwrites_the_prompt() {
    for strategy in [Strategy::Sequential, Strategy::LowConfidenceStatic, Strategy::LowConfidenceDynamic] {
        for behaviour in [Behaviour::Answer, Behaviour::Original] {
            // One step for a block of four, of which the prompt holds three: the original would take four.
            let sdar =
                Sdar { remasking_strategy: strategy, denoising_steps: 1, gen_length: 1, ..Sdar::new(Fixed::MASK) };
            let prompt = [1, 2, 3, 4, 5, 5, 1]; // with masks of its own
            let trace = run(Fixed::favouring(8), &sdar, &prompt, Run { behaviour, ..Run::default() }).unwrap();
            assert_eq!(trace.tokens, [1, 2, 3, 4, 5, 5, 1, 8]);
        }
    }
}

#[test]
fn the_mask_is_never_chosen() {
    for (temperature, top_k) in [(0.0, 0), (0.0, 1), (1.0, 0), (1.0, 1)] {
        let sdar = Sdar { temperature, top_k, gen_length: 8, ..Sdar::new(Fixed::MASK) };
        for behaviour in [Behaviour::Answer, Behaviour::Original] {
            let trace = run(Fixed::favouring(5), &sdar, &[1], Run { behaviour, ..Run::default() }).unwrap();
            assert_eq!(trace.answer().len(), 11, "the run ends, without a mask");
            assert!(temperature > 0.0 || trace.answer().iter().all(|&id| id == 6));
        }
    }
}

#[test]
fn greedy_keeps_the_confidences_that_top_k_1_loses() {
    let sdar = Sdar { gen_length: 8, ..Sdar::new(Fixed::MASK) };
    let greedy = run(Fixed::favouring(8), &sdar, &[1; 4], Run::default()).unwrap();
    assert_eq!(greedy.accepted[0].position, 4, "equals in order of position");
    assert_eq!(greedy.passes.iter().filter(|p| p.accepted == 1).count(), 8, "0.73 is not above 0.85");
    let top = run(Fixed::favouring(8), &Sdar { top_k: 1, ..sdar }, &[1; 4], Run::default()).unwrap();
    assert_eq!(top.passes.iter().map(|p| p.accepted).collect::<Vec<_>>(), [0, 4, 0, 4]);
}

#[test]
fn more_steps_than_tokens_change_nothing() {
    let sdar = Sdar { gen_length: 8, denoising_steps: 9, ..Sdar::new(Fixed::MASK) };
    let trace = run(Fixed::favouring(8), &sdar, &[1; 4], Run::default()).unwrap();
    assert!(trace.passes.iter().all(|p| p.accepted <= 1) && trace.accepted.len() == 8);
}

#[test]
fn an_end_token_ends_the_run_at_once() {
    let sdar = Sdar { gen_length: 20, stopping_criteria_idx: Ids(vec![8]), ..Sdar::new(Fixed::MASK) };
    let trace = run(Fixed::favouring(8), &sdar, &[1; 4], Run::default()).unwrap();
    assert_eq!((trace.answer(), trace.end, trace.passes.len()), (&[][..], End::EndToken, 2));
    let trace = run(Fixed::favouring(8), &sdar, &[8; 4], ORIGINAL).unwrap();
    assert_eq!(trace.passes.len(), 6, "the original fills and stores the block; the prompt's end tokens do not count");
    assert_eq!(trace.tokens[8..], [Fixed::MASK; 16]);
}

#[test]
fn what_cannot_run_is_an_error() {
    let sdar = Sdar { gen_length: 8, ..Sdar::new(Fixed::MASK) };
    let fails = |sdar: &Sdar, prompt: &[u32]| run(Fixed::favouring(8), sdar, prompt, Run::default()).unwrap_err();
    assert!(matches!(fails(&sdar, &[]), GenerateError::EmptyPrompt));
    assert!(matches!(fails(&sdar, &[1, 10]), GenerateError::Token { id: 10, vocab: 10 }));
    let long = fails(&sdar, &[1; 29]);
    assert!(matches!(long, GenerateError::TooLong { prompt: 29, new: 8, need: 36, room: 32 }), "{long}");
    assert!(run(Fixed::favouring(8), &sdar, &[1; 28], Run::default()).is_ok(), "the last block needs no room");
    assert!(matches!(run(Fixed::favouring(8), &sdar, &[1; 28], ORIGINAL), Err(GenerateError::TooLong { .. })));
    let endless = Sdar { gen_length: usize::MAX, ..sdar.clone() };
    assert!(matches!(fails(&endless, &[1]), GenerateError::TooLong { .. }));
    for (name, wrong) in [
        ("gen_length", Sdar { gen_length: 0, ..sdar.clone() }),
        ("denoising_steps", Sdar { denoising_steps: 0, ..sdar.clone() }),
        ("confidence_threshold", Sdar { confidence_threshold: f64::NAN.into(), ..sdar.clone() }),
        ("mask_id", Sdar { mask_id: 10, ..sdar.clone() }),
    ] {
        assert!(matches!(fails(&wrong, &[1]), GenerateError::Setting { name: n, .. } if n == name));
    }
    assert!(matches!(fails(&Sdar { temperature: -1.0, ..sdar.clone() }, &[1]), GenerateError::Sampling(_)));
    let mut session = Session::new(Fixed::favouring(8), Sdar { block_length: 8, ..sdar.clone() }.attention()).unwrap();
    let mismatch =
        generate(&mut session, &Algorithm::Sdar(sdar), &[1], Run::default(), &mut |_, _| ControlFlow::Continue(()));
    assert!(matches!(mismatch, Err(GenerateError::Setting { name: "block_length", .. })));
}

/// All algorithms over blocks of four, eight new tokens, with an end token and the mask of the engine.
fn every_algorithm(end: u32) -> Vec<Algorithm> {
    let (mask, ends) = (Fixed::MASK, Ids(vec![end]));
    let fast = FastDllm {
        max_new_tokens: 8,
        block_size: 4,
        small_block_size: 2,
        stop_token: ends.clone(),
        ..FastDllm::new(mask)
    };
    let dream = Dream { max_new_tokens: 8, steps: 8, end_ids: ends.clone(), ..Dream::new(mask) };
    let block = |alg, dual_cache| Dream { alg, dual_cache, block_length: Some(4), ..dream.clone() };
    let llada = Llada { gen_length: 8, block_length: 4, steps: 4, end_ids: ends.clone(), ..Llada::new(mask) };
    let random = Llada { remasking: Strategy::Random, ..llada.clone() };
    let canvas = |logits| Canvas { max_tokens: 8, block_length: 4, end_ids: ends.clone(), ..Canvas::new(logits, mask) };
    let mut all = vec![
        Algorithm::Sdar(Sdar { gen_length: 8, stopping_criteria_idx: ends.clone(), ..Sdar::new(mask) }),
        Algorithm::FastDllm(fast.clone()),
        Algorithm::FastDllm(FastDllm { use_block_cache: true, ..fast.clone() }),
        Algorithm::FastDllmBatch(fast.clone()),
        Algorithm::DreamThreshold(Dream { alg: Strategy::ConfidenceThreshold, ..dream.clone() }),
        Algorithm::DreamBlock(block(Strategy::Entropy, false)),
        Algorithm::DreamBlock(block(Strategy::ConfidenceThreshold, true)),
        Algorithm::Llada(llada.clone()),
        Algorithm::Llada(Llada { cfg_scale: 1.0, ..random }),
        Algorithm::LladaNv(llada.clone()),
        Algorithm::LladaNvPrefix(Llada { threshold: Some(0.5.into()), ..llada.clone() }),
        Algorithm::LladaNvDual(llada),
        Algorithm::Canvas(canvas(Logits::Aligned)),
        Algorithm::Canvas(canvas(Logits::Shifted)),
    ];
    for alg in [Strategy::Origin, Strategy::MaskgitPlus, Strategy::TopkMargin, Strategy::Entropy] {
        all.push(Algorithm::Dream(Dream { alg, ..dream.clone() }));
    }
    all
}

#[test]
fn a_model_that_wants_the_mask_is_no_loop_without_end() {
    for algorithm in every_algorithm(0) {
        for behaviour in [Behaviour::Answer, Behaviour::Original] {
            // Prompts of one token, of less and more than a block, and of whole blocks.
            for prompt in [1, 3, 4, 5, 7, 8] {
                let run = Run { behaviour, ..Run::default() };
                let trace = run_any(Fixed::favouring(5), &algorithm, &vec![1; prompt], run).unwrap();
                let new = &trace.tokens[prompt..];
                assert!(new.len() >= 8 - prompt % 4 && new.iter().all(|&id| id == 6), "{algorithm:?}: {new:?}");
            }
        }
    }
}

#[test]
fn an_answer_ends_at_its_end_token() {
    for algorithm in every_algorithm(8) {
        for prompt in [1, 4, 5] {
            let trace = run_any(Fixed::favouring(8), &algorithm, &vec![8; prompt], Run::default()).unwrap();
            assert_eq!((trace.answer(), trace.end), (&[][..], End::EndToken), "{algorithm:?}");
            let original = run_any(Fixed::favouring(8), &algorithm, &vec![8; prompt], ORIGINAL).unwrap();
            assert!(original.passes.len() >= trace.passes.len() && original.answer().is_empty());
        }
    }
}

/// Blocks are filled whole; what is shown of them is not more than was asked for.
#[test]
fn an_answer_is_no_longer_than_asked_for() {
    for algorithm in every_algorithm(0) {
        let run = Run { limit: Some(3), ..Run::default() };
        let trace = run_any(Fixed::favouring(7), &algorithm, &[1; 5], run).unwrap();
        assert_eq!((trace.answer(), trace.end), (&[7, 7, 7][..], End::Length), "{algorithm:?}");
    }
}

#[test]
fn masks_in_the_prompt_do_not_stop_anything() {
    for algorithm in every_algorithm(0) {
        let prompt = [1, Fixed::MASK, 2, Fixed::MASK, 3];
        let trace = run_any(Fixed::favouring(7), &algorithm, &prompt, Run::default()).unwrap();
        assert!(trace.answer().len() >= 7 && trace.answer().iter().all(|&id| id == 7), "{algorithm:?}");
        assert_eq!([trace.tokens[0], trace.tokens[2], trace.tokens[4]], [1, 2, 3]);
        // LLaDA's own makes its passes and no more, so the masks it filled in the prompt are missing behind it.
        assert!(run_any(Fixed::favouring(7), &algorithm, &prompt, ORIGINAL).unwrap().passes.len() <= 16);
    }
}

#[test]
fn a_prompt_of_exactly_one_block_is_fed() {
    let fast = FastDllm { max_new_tokens: 4, block_size: 4, small_block_size: 4, ..FastDllm::new(Fixed::MASK) };
    for algorithm in [Algorithm::FastDllm(fast.clone()), Algorithm::FastDllmBatch(fast)] {
        let trace = run_any(Fixed::favouring(8), &algorithm, &[1; 4], ORIGINAL).unwrap();
        let first = trace.passes[0];
        assert_eq!((first.start, first.fed, first.accepted), (0, 4, 1), "the original would feed four masks");
        assert_eq!(trace.tokens.len(), 9, "the first token and a block with the one behind it");
    }
}

/// Blocks of one step: the original leaves masks behind, an answer does not.
#[test]
fn a_single_step_for_a_block_of_dream() {
    let dream = Dream { max_new_tokens: 8, steps: 2, alg: Strategy::Entropy, block_length: Some(4), ..Dream::new(5) };
    let algorithm = Algorithm::DreamBlock(dream);
    let original = run_any(Fixed::favouring(8), &algorithm, &[1; 3], ORIGINAL).unwrap();
    assert_eq!(original.tokens[3..], [8, 5, 5, 5, 8, 5, 5, 5]);
    assert_eq!(original.passes.len(), 4, "each block has the pass over everything and one that fills nothing");
    let answer = run_any(Fixed::favouring(8), &algorithm, &[1; 3], Run::default()).unwrap();
    assert_eq!(answer.answer(), [8; 8]);
}

/// One step for a block of LLaDA with a cache: the second pass asks the original for a quota that is not there.
#[test]
fn a_single_step_for_a_block_of_llada() {
    let llada = Llada { gen_length: 8, block_length: 4, steps: 2, ..Llada::new(5) };
    for algorithm in [Algorithm::LladaNvPrefix(llada.clone()), Algorithm::LladaNvDual(llada)] {
        let trace = run_any(Fixed::favouring(8), &algorithm, &[1; 3], ORIGINAL).unwrap();
        assert_eq!(trace.answer(), [8; 8]);
        assert_eq!(trace.passes.iter().map(|p| p.accepted).collect::<Vec<_>>(), [4, 0, 4, 0]);
        assert_eq!(run_any(Fixed::favouring(8), &algorithm, &[1; 3], Run::default()).unwrap().passes.len(), 2);
    }
}

/// With top-p every position is certain, and the lowest comes first.
#[test]
fn equals_are_taken_from_the_lowest_position_on() {
    for alg in [Strategy::MaskgitPlus, Strategy::TopkMargin, Strategy::Entropy] {
        let dream = Dream { max_new_tokens: 6, steps: 3, alg, top_p: Some(0.5), ..Dream::new(5) };
        let trace = run_any(Fixed::favouring(8), &Algorithm::Dream(dream), &[1; 3], ORIGINAL).unwrap();
        let positions: Vec<usize> = trace.accepted.iter().map(|a| a.position).collect();
        assert_eq!(positions, [3, 4, 5, 6, 7, 8]);
    }
}

#[test]
fn settings_that_contradict_each_other_are_named() {
    let llada = Llada { gen_length: 8, block_length: 4, steps: 4, ..Llada::new(5) };
    let dream = Dream { max_new_tokens: 8, steps: 8, ..Dream::new(5) };
    let fast = FastDllm { max_new_tokens: 8, block_size: 4, small_block_size: 2, ..FastDllm::new(5) };
    let canvas = Canvas { max_tokens: 8, ..Canvas::new(Logits::Aligned, 5) };
    for (name, wrong) in [
        ("block_length", Algorithm::Llada(Llada { block_length: 3, ..llada.clone() })),
        ("the number of blocks", Algorithm::Llada(Llada { steps: 5, ..llada.clone() })),
        ("steps", Algorithm::LladaNv(Llada { steps: 0, ..llada.clone() })),
        ("cfg_scale", Algorithm::LladaNv(Llada { cfg_scale: 1.0, ..llada.clone() })),
        ("cfg_scale", Algorithm::Llada(Llada { cfg_scale: f32::NAN, ..llada.clone() })),
        ("threshold", Algorithm::Llada(Llada { threshold: Some(0.9.into()), ..llada.clone() })),
        ("threshold", Algorithm::LladaNv(Llada { threshold: Some(1.5.into()), ..llada.clone() })),
        ("mask_id", Algorithm::Llada(Llada { mask_id: 10, ..llada.clone() })),
        ("steps", Algorithm::DreamThreshold(Dream { steps: 3, alg: Strategy::ConfidenceThreshold, ..dream.clone() })),
        ("alg", Algorithm::DreamThreshold(dream.clone())),
        ("alg", Algorithm::Dream(Dream { alg: Strategy::Sequential, ..dream.clone() })),
        ("remasking", Algorithm::Llada(Llada { remasking: Strategy::Entropy, ..llada.clone() })),
        ("steps", Algorithm::Dream(Dream { steps: usize::MAX, ..dream.clone() })),
        ("reuse", Algorithm::Canvas(Canvas { reuse: Reuse::Block, ..canvas.clone() })),
        ("block_length", Algorithm::DreamBlock(Dream { block_length: Some(5), ..dream.clone() })),
        ("the number of blocks", Algorithm::DreamBlock(Dream { block_length: Some(2), steps: 6, ..dream.clone() })),
        ("alg", Algorithm::Dream(Dream { alg: Strategy::ConfidenceThreshold, ..dream.clone() })),
        ("eps", Algorithm::Dream(Dream { eps: 0.0, ..dream.clone() })),
        ("alg_temp", Algorithm::Dream(Dream { alg_temp: Some(-1.0), ..dream.clone() })),
        ("alg_temp", Algorithm::Dream(Dream { alg_temp: Some(1e-40), ..dream })),
        ("small_block_size", Algorithm::FastDllm(FastDllm { small_block_size: 3, ..fast.clone() })),
        ("pad_token", Algorithm::FastDllmBatch(FastDllm { pad_token: 10, ..fast.clone() })),
        ("threshold", Algorithm::FastDllm(FastDllm { threshold: (-0.1).into(), ..fast })),
        ("block_length", Algorithm::Canvas(Canvas { block_length: 0, ..canvas.clone() })),
        ("threshold", Algorithm::Canvas(Canvas { threshold: 2.0.into(), ..canvas.clone() })),
    ] {
        let error = run_any(Fixed::favouring(8), &wrong, &[1], ORIGINAL).unwrap_err();
        assert!(matches!(&error, GenerateError::Setting { name: n, .. } if *n == name), "{wrong:?}: {error}");
    }
    let long = Algorithm::Canvas(Canvas { max_tokens: 16, ..canvas });
    let error = run_any(Fixed::favouring(8), &long, &[1], ORIGINAL).unwrap_err();
    assert!(matches!(error, GenerateError::TooLong { need: 17, room: 16, .. }), "{error}");
}

#[test]
fn logits_without_meaning_name_the_pass() {
    for spoil in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let engine = Box::new(Fixed { spoil: Some(spoil), ..*Fixed::favouring(8) });
        let error =
            run(engine, &Sdar { gen_length: 8, ..Sdar::new(Fixed::MASK) }, &[1; 5], Run::default()).unwrap_err();
        // Prefill, three passes over the rest of the second block, its storing pass; then the cache holds 8.
        assert!(matches!(error, GenerateError::Sample { pass: 5, position: 8, .. }), "{error}");
        assert!(error.to_string().contains("pass 5, position 8: "), "{error}");
    }
}

/// An engine that tells where it was asked: the row of position `p` favours token `p`, the surer the higher `p` is, and
/// any other row of logits would give another token.
struct Telling(EngineShape);

impl Telling {
    const MASK: u32 = 40;

    fn new() -> Box<Self> {
        let shape = EngineShape { max_tokens: 32, max_cache: 40, layers: 1, kv_heads: 1, head_dim: 1, vocab: 41 };
        Box::new(Self(shape))
    }
}

impl Engine for Telling {
    fn name(&self) -> &'static str {
        "telling"
    }
    fn shape(&self) -> &EngineShape {
        &self.0
    }
    fn step(&mut self, input: &StepInput<'_>, out: &mut StepOutput) -> Result<(), EngineError> {
        input.check(&self.0)?;
        out.logits.clear();
        for &row in input.rows {
            let position = input.positions[row as usize] as usize;
            let at = out.logits.len();
            out.logits.resize(at + self.0.vocab, 0.0);
            out.logits[at + position] = 1.0 + position as f32 / 8.0;
        }
        let rows = vec![0.0; input.tokens.len()];
        out.new = vec![LayerRows { k: rows.clone(), v: rows }];
        Ok(())
    }
}

/// Aligned logits decide their own position, shifted ones the next: in every algorithm, in every kind of pass, also for
/// the first position of a block, and for all that is generated or filled in.
#[test]
fn every_position_is_decided_by_its_own_row() {
    let mask = Telling::MASK;
    let fast = FastDllm { max_new_tokens: 8, block_size: 4, small_block_size: 2, ..FastDllm::new(mask) };
    let dream = Dream { max_new_tokens: 8, steps: 8, alg: Strategy::Entropy, ..Dream::new(mask) };
    let block = |alg, dual_cache| Dream { alg, dual_cache, block_length: Some(4), ..dream.clone() };
    let llada = Llada { gen_length: 8, block_length: 4, steps: 4, ..Llada::new(mask) };
    let canvas = |logits, reuse| {
        Algorithm::Canvas(Canvas { max_tokens: 8, block_length: 3, window: 5, reuse, ..Canvas::new(logits, mask) })
    };
    let reuses = [Reuse::None, Reuse::Prefix, Reuse::Dual];
    let mut aligned = vec![
        Algorithm::Sdar(Sdar { gen_length: 8, ..Sdar::new(mask) }),
        Algorithm::Llada(llada.clone()),
        Algorithm::LladaNv(llada.clone()),
        Algorithm::LladaNvPrefix(llada.clone()),
        Algorithm::LladaNvDual(llada),
    ];
    aligned.extend(reuses.map(|reuse| canvas(Logits::Aligned, reuse)));
    let mut shifted = vec![
        Algorithm::FastDllm(fast.clone()),
        Algorithm::FastDllm(FastDllm { use_block_cache: true, ..fast.clone() }),
        Algorithm::FastDllmBatch(fast),
        Algorithm::Dream(dream.clone()),
        Algorithm::DreamThreshold(Dream { alg: Strategy::ConfidenceThreshold, ..dream.clone() }),
        Algorithm::DreamBlock(block(Strategy::Entropy, false)),
        Algorithm::DreamBlock(block(Strategy::ConfidenceThreshold, true)),
    ];
    shifted.extend(reuses.map(|reuse| canvas(Logits::Shifted, reuse)));
    for (algorithms, shift) in [(aligned, 0), (shifted, 1)] {
        for algorithm in &algorithms {
            for behaviour in [Behaviour::Answer, Behaviour::Original] {
                for prompt in [1, 3, 4, 8, 9] {
                    let run = Run { behaviour, ..Run::default() };
                    let trace = run_any(Telling::new(), algorithm, &vec![0; prompt], run).unwrap();
                    for (position, &token) in trace.tokens.iter().enumerate().skip(prompt) {
                        assert_eq!(token as usize, position - shift, "{algorithm:?}, prompt of {prompt}");
                    }
                }
            }
            if algorithm.attention() != Attention::Full {
                continue;
            }
            for (prefix, suffix) in [(0, 3), (2, 0), (5, 4)] {
                let mut session = Session::new(Telling::new(), Attention::Full).unwrap();
                let (before, after) = (vec![0; prefix], vec![0; suffix]);
                let go = &mut |_: &Trace, _: &Evidence<'_>| ControlFlow::Continue(());
                let trace = infill(&mut session, algorithm, &before, &after, Run::default(), go).unwrap();
                for (position, &token) in trace.tokens.iter().enumerate().skip(prefix).take(8) {
                    // Nothing precedes the first position of all; its own row stands in.
                    assert_eq!(token as usize, position.saturating_sub(shift), "{algorithm:?}, {prefix} before");
                }
            }
        }
    }
}

/// One threshold a block, the last repeats: blocks that take everything at once, and blocks that take one at a time. The
/// end of the prompt lies in the first block where blocks are aligned to positions.
#[test]
fn every_block_has_its_threshold() {
    let mask = Fixed::MASK;
    let thresholds = || Thresholds(vec![0.1, 1.0, 0.1]);
    let sdar = Sdar { gen_length: 12, confidence_threshold: thresholds(), ..Sdar::new(mask) };
    let fast = FastDllm {
        max_new_tokens: 12,
        block_size: 4,
        small_block_size: 4,
        threshold: thresholds(),
        ..FastDllm::new(mask)
    };
    let dream = Dream {
        max_new_tokens: 12,
        steps: 12,
        alg: Strategy::ConfidenceThreshold,
        block_length: Some(4),
        threshold: thresholds(),
        ..Dream::new(mask)
    };
    let llada = Llada { gen_length: 12, block_length: 4, steps: 12, threshold: Some(thresholds()), ..Llada::new(mask) };
    let canvas =
        Canvas { max_tokens: 12, block_length: 4, threshold: thresholds(), ..Canvas::new(Logits::Aligned, mask) };
    for (algorithm, prompt, accepted) in [
        (Algorithm::Sdar(sdar.clone()), 4, &[4, 1, 1, 1, 1, 4][..]),
        (Algorithm::Sdar(sdar), 3, &[1, 1, 1, 1, 1, 4, 4]),
        // The last of four is the token behind the block.
        (Algorithm::FastDllm(fast.clone()), 3, &[1, 1, 1, 1, 1, 1, 3, 1]),
        (Algorithm::FastDllm(fast), 4, &[1, 3, 1, 1, 1, 1, 1, 3, 1]),
        (Algorithm::DreamBlock(dream), 3, &[1, 3, 1, 1, 1, 1, 1, 3]),
        (Algorithm::LladaNv(llada), 3, &[4, 1, 1, 1, 1, 4]),
        (Algorithm::Canvas(canvas), 3, &[4, 1, 1, 1, 1, 4]),
    ] {
        let trace = run_any(Fixed::favouring(8), &algorithm, &vec![1; prompt], Run::default()).unwrap();
        let got: Vec<usize> = trace.passes.iter().map(|p| p.accepted).filter(|&n| n > 0).collect();
        assert_eq!(got, accepted, "{algorithm:?}, prompt of {prompt}");
    }
}

/// An engine that is as sure of each position behind a prompt of one token as it is told; token 2 is the mask.
struct Sure([f64; 5], EngineShape);

impl Engine for Sure {
    fn name(&self) -> &'static str {
        "sure"
    }
    fn shape(&self) -> &EngineShape {
        &self.1
    }
    fn step(&mut self, input: &StepInput<'_>, out: &mut StepOutput) -> Result<(), EngineError> {
        input.check(&self.1)?;
        let share = |row: &u32| self.0.get(input.positions[*row as usize] as usize).copied().unwrap_or(0.5);
        let logits = |row: &u32| [0.0, (share(row) / (1.0 - share(row))).ln() as f32, -60.0];
        out.logits = input.rows.iter().flat_map(logits).collect();
        let rows = vec![0.0; input.tokens.len()];
        out.new = vec![LayerRows { k: rows.clone(), v: rows }];
        Ok(())
    }
}

/// With a temperature for positions, they are drawn without replacement in proportion to `exp(confidence / alg_temp)`:
/// every pair as often as it should be.
#[test]
fn positions_are_drawn_without_replacement() {
    let confidences = [0.95, 0.55, 0.65, 0.8, 0.7];
    let shape = EngineShape { max_tokens: 8, max_cache: 8, layers: 1, kv_heads: 1, head_dim: 1, vocab: 3 };
    let dream = Dream { max_new_tokens: 5, steps: 2, alg: Strategy::MaskgitPlus, ..Dream::new(2) };
    let algorithm = Algorithm::Dream(Dream { alg_temp: Some(0.3), ..dream });
    let (runs, mut pairs) = (6000, std::collections::BTreeMap::new());
    for seed in 0..runs {
        let engine = Box::new(Sure(confidences, shape.clone()));
        let trace = run_any(engine, &algorithm, &[0], Run { seed, ..ORIGINAL }).unwrap();
        let first: Vec<usize> = trace.accepted.iter().filter(|a| a.pass == 0).map(|a| a.position - 1).collect();
        let [a, b] = first[..] else { panic!("the first of two passes fills two of five, not {first:?}") };
        assert_eq!(trace.accepted.len(), 5);
        *pairs.entry((a, b)).or_insert(0usize) += 1;
    }
    let shares = confidences.map(|c| (c / 0.3).exp());
    let total: f64 = shares.iter().sum();
    for a in 0..5 {
        for b in a + 1..5 {
            let one_then_other = |x: usize, y: usize| shares[x] / total * shares[y] / (total - shares[x]);
            let expected = one_then_other(a, b) + one_then_other(b, a);
            let seen = pairs.get(&(a, b)).map_or(0.0, |&n| n as f64 / runs as f64);
            assert!((seen - expected).abs() < 0.025, "{a} and {b}: {seen} of {expected}");
        }
    }
}
