//! What the original leaves open or does wrong in generation, on an engine whose logits are known.
#![allow(clippy::unwrap_used, reason = "a test may")]

use diffulex_runtime::engine::{Engine, EngineError, EngineShape, LayerRows, StepInput, StepOutput};
use diffulex_runtime::generate::sdar::Remasking;
use diffulex_runtime::generate::{Algorithm, Behaviour, End, GenerateError, Run, Sdar, Trace, generate};
use diffulex_runtime::session::Session;
use std::ops::ControlFlow;

const ORIGINAL: Run = Run { behaviour: Behaviour::Original, seed: 0, record_rows: false };

/// Runs without an observer, in a session of its own.
fn run(engine: Box<dyn Engine>, sdar: &Sdar, prompt: &[u32], run: Run) -> Result<Trace, GenerateError> {
    let mut session = Session::new(engine, sdar.attention()).unwrap();
    generate(&mut session, &Algorithm::Sdar(sdar.clone()), prompt, run, &mut |_| ControlFlow::Continue(()))
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
    for strategy in [Remasking::Sequential, Remasking::LowConfidenceStatic, Remasking::LowConfidenceDynamic] {
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
    let sdar = Sdar { gen_length: 20, stopping_criteria_idx: vec![8], ..Sdar::new(Fixed::MASK) };
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
        ("confidence_threshold", Sdar { confidence_threshold: f32::NAN.into(), ..sdar.clone() }),
        ("mask_id", Sdar { mask_id: 10, ..sdar.clone() }),
    ] {
        assert!(matches!(fails(&wrong, &[1]), GenerateError::Setting { name: n, .. } if n == name));
    }
    assert!(matches!(fails(&Sdar { temperature: -1.0, ..sdar.clone() }, &[1]), GenerateError::Sampling(_)));
    let mut session = Session::new(Fixed::favouring(8), Sdar { block_length: 8, ..sdar.clone() }.attention()).unwrap();
    let mismatch =
        generate(&mut session, &Algorithm::Sdar(sdar), &[1], Run::default(), &mut |_| ControlFlow::Continue(()));
    assert!(matches!(mismatch, Err(GenerateError::Setting { name: "block_length", .. })));
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
