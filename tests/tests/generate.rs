//! Generation against the runs of the original code, tokens, passes and answers. The same cases run on every engine.
#![allow(clippy::unwrap_used, reason = "a test may")]

use diffulex_compiler::checkpoint::Checkpoint;
use diffulex_runtime::chat::{Chat, Message, Special, TextStream};
use diffulex_runtime::engine::Engine;
use diffulex_runtime::generate::sdar::Remasking;
use diffulex_runtime::generate::{Algorithm, Behaviour, End, GenerateError, Run, Sdar, Trace, generate};
use diffulex_runtime::session::Session;
use diffulex_tests::reference::{fixture, json};
use serde_json::{Value, json};
use std::ops::ControlFlow;

/// Engines of the tiny SDAR checkpoint.
fn engines(max_tokens: usize) -> Vec<Box<dyn Engine>> {
    diffulex_tests::engines::all(&fixture("sdar/tiny"), max_tokens, 128)
}

const ORIGINAL: Run = Run { behaviour: Behaviour::Original, seed: 0, record_rows: true };

/// Runs without an observer, in a session of its own.
fn run(engine: Box<dyn Engine>, sdar: &Sdar, prompt: &[u32], run: Run) -> Result<Trace, GenerateError> {
    let mut session = Session::new(engine, sdar.attention()).unwrap();
    generate(&mut session, &Algorithm::Sdar(sdar.clone()), prompt, run, &mut |_| ControlFlow::Continue(()))
}

/// The algorithm of a recorded run; its greedy draws are ours at temperature 0.
fn algorithm(recorded: &Value) -> Sdar {
    let mut params = recorded["params"].clone();
    let greedy = params.as_object_mut().unwrap().remove("greedy");
    if greedy == Some(json!(true)) {
        params["temperature"] = json!(0.0);
    }
    let named = json!({ "algorithm": recorded["algorithm"], "params": params });
    let Algorithm::Sdar(sdar) = serde_json::from_value(named).unwrap();
    sdar
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// One recorded run on one engine: tokens, passes, acceptances, and the best token of every row.
fn check(engine: Box<dyn Engine>, recorded: &Value) {
    let name = recorded["name"].as_str().unwrap();
    let trace = run(engine, &algorithm(recorded), &ids(&recorded["prompt_ids"]), ORIGINAL).unwrap();
    let forwards: Vec<Value> =
        (trace.passes.iter()).map(|p| json!({ "q_len": p.fed, "past_len": p.cached, "store_kv": p.stored })).collect();
    let accepted: Vec<Value> = trace.accepted.iter().map(|a| json!([a.pass, a.position, a.token])).collect();
    if let Some(rows) = recorded["rows"].as_array() {
        assert_eq!(trace.rows.len(), rows.len());
        for (pass, (got, want)) in trace.rows.iter().zip(rows).enumerate() {
            let tokens: Vec<u32> = got.iter().map(|&(token, _)| token).collect();
            assert_eq!(tokens, ids(&want[0]), "{name}, pass {pass}");
            for ((_, got), want) in got.iter().zip(want[1].as_array().unwrap()) {
                let off = (f64::from(*got) - want.as_f64().unwrap()).abs();
                assert!(off < 1e-4, "{name}, pass {pass}: {got} where {want} is right");
            }
        }
    }
    assert_eq!(Value::from(accepted), recorded["accepted"], "{name}");
    assert_eq!(Value::from(forwards), recorded["forwards"], "{name}");
    assert_eq!(trace.tokens, ids(&recorded["output_ids"]), "{name}");
}

#[test]
fn every_recorded_run() {
    let file = json("sdar/trajectories.json");
    let runs = file["trajectories"].as_array().unwrap();
    assert_eq!(runs.len(), 14);
    for recorded in runs {
        engines(128).into_iter().for_each(|engine| check(engine, recorded));
        engines(16).into_iter().for_each(|engine| check(engine, recorded)); // the prefill in several steps
    }
}

/// An answer makes the first passes of the original, and gives its tokens up to the first end token.
fn check_answer(engine: Box<dyn Engine>, recorded: &Value) {
    let name = recorded["name"].as_str().unwrap();
    let (sdar, prompt) = (algorithm(recorded), ids(&recorded["prompt_ids"]));
    let trace = run(engine, &sdar, &prompt, Run::default()).unwrap();
    let new = &ids(&recorded["output_ids"])[prompt.len()..];
    let end = new.iter().position(|id| sdar.stopping_criteria_idx.contains(id));
    assert_eq!(trace.answer(), &new[..end.unwrap_or(new.len())], "{name}");
    assert_eq!(trace.end, if end.is_some() { End::EndToken } else { End::Length }, "{name}");
    let forwards = recorded["forwards"].as_array().unwrap();
    assert!(trace.passes.len() < forwards.len() && !trace.passes.last().unwrap().stored, "{name}");
    for (pass, forward) in trace.passes.iter().zip(forwards) {
        assert_eq!(json!([pass.fed, pass.cached]), json!([forward["q_len"], forward["past_len"]]), "{name}");
    }
}

#[test]
fn answers() {
    for recorded in json("sdar/trajectories.json")["trajectories"].as_array().unwrap() {
        engines(128).into_iter().for_each(|engine| check_answer(engine, recorded));
    }
}

#[test]
fn conversations() {
    let chat = Chat::open(&fixture("sdar/tiny")).unwrap();
    let checkpoint = Checkpoint::open(&fixture("sdar/tiny")).unwrap();
    for case in json("sdar/chat.json").as_array().unwrap() {
        for engine in engines(128) {
            let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
            let (text, prompt) = chat.prompt(&messages, &Default::default()).unwrap();
            assert_eq!((text.as_str(), &prompt), (case["prompt_text"].as_str().unwrap(), &ids(&case["prompt_ids"])));
            let mut sdar = algorithm(case);
            sdar.stopping_criteria_idx = checkpoint.config().end_ids.clone();
            sdar.mask_id = checkpoint.mask_id().unwrap();
            assert_eq!(sdar.stopping_criteria_idx, ids(&case["end_ids"]));

            let mut session = Session::new(engine, sdar.attention()).unwrap();
            let (mut stream, mut printed) = (TextStream::new(&chat.tokenizer), String::new());
            let mut print = |trace: &Trace| {
                printed += &stream.advance(trace.answer()).unwrap();
                ControlFlow::Continue(())
            };
            let algorithm = Algorithm::Sdar(sdar);
            let trace = generate(&mut session, &algorithm, &prompt, Run::default(), &mut print).unwrap();
            printed += &stream.finish(trace.answer()).unwrap();
            assert_eq!(trace.answer(), ids(&case["answer_ids"]));
            assert_eq!(printed, case["answer_text"].as_str().unwrap());
            let with_special = chat.tokenizer.decode(trace.answer(), Special::Keep).unwrap();
            assert_eq!(with_special, case["answer_text_with_special"].as_str().unwrap());

            let original = generate(&mut session, &algorithm, &prompt, ORIGINAL, &mut |_| ControlFlow::Continue(()));
            assert_eq!(original.unwrap().tokens, ids(&case["output_ids"]));
        }
    }
}

#[test]
fn a_second_turn_feeds_only_what_is_new() {
    for engine in engines(128) {
        let mut session = Session::new(engine, Sdar::new(356).attention()).unwrap();
        let algorithm = Algorithm::Sdar(Sdar { gen_length: 16, ..Sdar::new(356) });
        let mut turn = |prompt: &[u32]| {
            generate(&mut session, &algorithm, prompt, Run::default(), &mut |_| ControlFlow::Continue(())).unwrap()
        };
        let first = turn(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let prompt = [&first.tokens[..], &[10, 11, 12, 13, 14]].concat();
        let second = turn(&prompt);
        assert_eq!((first.reused, second.reused), (0, first.tokens.len() - 4), "all but the last block is cached");
        assert_eq!((second.passes[0].fed, second.passes[0].cached), (8, 24));
        let alone = run(engines(128).remove(0), &Sdar { gen_length: 16, ..Sdar::new(356) }, &prompt, Run::default());
        assert_eq!(second.tokens, alone.unwrap().tokens);
        assert!(second.prefill_time() < second.time() && second.tokens_per_pass() > 0.5);
    }
}

#[test]
fn the_observer_ends_a_run() {
    for engine in engines(128) {
        let sdar = Sdar { remasking_strategy: Remasking::LowConfidenceStatic, ..Sdar::new(356) };
        let mut session = Session::new(engine, sdar.attention()).unwrap();
        let algorithm = Algorithm::Sdar(Sdar { gen_length: 24, ..sdar });
        let mut stop = |trace: &Trace| match trace.passes.len() {
            9 => ControlFlow::Break(()),
            n => {
                assert!(
                    trace.latest().iter().all(|a| a.pass == n - 1)
                        && trace.latest().len() == trace.passes[n - 1].accepted
                );
                ControlFlow::Continue(())
            }
        };
        let prompt: Vec<u32> = (0..12).collect();
        let trace = generate(&mut session, &algorithm, &prompt, Run::default(), &mut stop).unwrap();
        assert_eq!((trace.end, trace.passes.len()), (End::Stopped, 9));
        assert!(trace.answer().len() >= 4 && !trace.answer().contains(&356), "masks are never shown");
        assert!(trace.tokens.contains(&356));
    }
}

#[test]
fn draws_follow_from_the_seed() {
    let sdar = Sdar { temperature: 1.0, top_k: 50, gen_length: 16, ..Sdar::new(356) };
    let tokens = |seed| {
        let trace = run(engines(128).remove(0), &sdar, &[1, 2, 3], Run { seed, ..Run::default() }).unwrap();
        assert!(trace.answer().len() == 17 && !trace.answer().contains(&356));
        trace.tokens
    };
    assert_eq!(tokens(3), tokens(3));
    assert_ne!(tokens(3), tokens(4));
}
