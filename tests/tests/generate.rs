//! Generation against the runs of the original code, tokens, passes and answers, for all families. The same cases run on
//! every engine.
#![allow(clippy::unwrap_used, reason = "a test may")]

use diffulex_compiler::checkpoint::Checkpoint;
use diffulex_compiler::generation::{self, Family, Generation, Logits, Reuse, Strategy};
use diffulex_runtime::chat::{Chat, Message, Special, TextStream};
use diffulex_runtime::engine::Engine;
use diffulex_runtime::generate::dream::Schedule;
use diffulex_runtime::generate::{
    Algorithm, Behaviour, Canvas, End, Evidence, GenerateError, Ids, Pass, Run, Sdar, Thresholds, Trace, generate,
    infill,
};
use diffulex_runtime::sample::{argmax, softmax};
use diffulex_runtime::session::{Attention, Session, Store};
use diffulex_runtime::verify::{Check, Known};
use diffulex_runtime::verify::{conversations, trajectories};
use diffulex_tests::reference::{fixture, json};
use serde_json::{Value, json};
use std::ops::ControlFlow;

/// The families, and how many runs each has.
const FAMILIES: [(&str, usize); 4] = [("sdar", 14), ("fast_dllm_v2", 15), ("dream", 17), ("llada", 13)];

/// Engines of a family's tiny checkpoint.
fn engines(family: &str, max_tokens: usize) -> Vec<Box<dyn Engine>> {
    diffulex_tests::engines::all(&fixture(&format!("{family}/tiny")), max_tokens, 192)
}

const ORIGINAL: Run<'static> = Run { behaviour: Behaviour::Original, seed: 0, limit: None, draws: &[], all_rows: true };

fn go(_: &Trace, _: &Evidence<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Runs without an observer, in a session of its own.
fn run(engine: Box<dyn Engine>, algorithm: &Algorithm, prompt: &[u32], run: Run<'_>) -> Result<Trace, GenerateError> {
    let mut session = Session::new(engine, algorithm.attention()).unwrap();
    generate(&mut session, algorithm, prompt, run, &mut go)
}

/// The algorithm of a recorded run; its greedy draws are ours at temperature 0.
fn algorithm(recorded: &Value) -> Algorithm {
    let mut params = recorded["params"].clone();
    let greedy = params.as_object_mut().unwrap().remove("greedy");
    if greedy == Some(json!(true)) {
        params["temperature"] = json!(0.0);
    }
    serde_json::from_value(json!({ "algorithm": recorded["algorithm"], "params": params })).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn recorded_runs(family: &str) -> Vec<Value> {
    json(&format!("{family}/trajectories.json"))["trajectories"].as_array().unwrap().clone()
}

/// A pass in the words of the recordings.
fn forward(pass: &Pass, attention: Attention) -> Value {
    let replaces = pass.start < pass.cached;
    match attention {
        Attention::BlockCausal(block) => {
            let past = pass.cached.min(pass.start / block * block);
            let mut forward = json!({ "q_len": pass.fed, "past_len": past, "store_kv": pass.store == Store::Keep });
            if matches!(pass.store, Store::Draft(_)) {
                forward["block_cache"] = json!(if replaces { "reuse" } else { "fill" });
            }
            forward
        }
        Attention::Full => {
            let mut forward = json!({ "q_len": pass.fed, "past_len": pass.cached });
            if replaces {
                forward["mode"] = json!("replace");
            }
            if pass.guided {
                forward["batch"] = json!(2);
            }
            forward
        }
    }
}

/// One recorded run on one engine: tokens, passes, acceptances, and the best token of every row.
fn check(engine: Box<dyn Engine>, recorded: &Value) {
    let name = recorded["name"].as_str().unwrap();
    let algorithm = algorithm(recorded);
    let draws: Vec<Vec<f64>> = serde_json::from_value(recorded["uniform_draws_per_pass"].clone()).unwrap_or_default();
    let draws = draws.concat();
    let mut session = Session::new(engine, algorithm.attention()).unwrap();
    let mut rows: Vec<Vec<(u32, f64)>> = vec![];
    let mut see = |_: &Trace, evidence: &Evidence<'_>| {
        let best = |row: &[f32]| {
            let distribution = softmax(row);
            let token = argmax(&distribution);
            (token as u32, distribution[token])
        };
        rows.push(evidence.logits.chunks(evidence.logits.len() / evidence.rows.len()).map(best).collect());
        ControlFlow::Continue(())
    };
    let run = Run { draws: &draws, ..ORIGINAL };
    let trace = generate(&mut session, &algorithm, &ids(&recorded["prompt_ids"]), run, &mut see).unwrap();
    if let Some(wanted) = recorded["rows"].as_array() {
        assert_eq!(rows.len(), wanted.len());
        for (pass, (got, want)) in rows.iter().zip(wanted).enumerate() {
            let tokens: Vec<u32> = got.iter().map(|&(token, _)| token).collect();
            assert_eq!(tokens, ids(&want[0]), "{name}, pass {pass}");
            for ((_, got), want) in got.iter().zip(want[1].as_array().unwrap()) {
                let off = (got - want.as_f64().unwrap()).abs();
                assert!(off < 1e-4, "{name}, pass {pass}: {got} where {want} is right");
            }
        }
    }
    let forwards: Vec<Value> = trace.passes.iter().map(|pass| forward(pass, algorithm.attention())).collect();
    let accepted: Vec<Value> = trace.accepted.iter().map(|a| json!([a.pass, a.position, a.token])).collect();
    assert_eq!(Value::from(accepted), recorded["accepted"], "{name}");
    assert_eq!(Value::from(forwards), recorded["forwards"], "{name}");
    assert_eq!(trace.tokens, ids(&recorded["output_ids"]), "{name}");
}

#[test]
fn every_recorded_run() {
    for (family, count) in FAMILIES {
        let runs = recorded_runs(family);
        assert_eq!(runs.len(), count);
        for recorded in &runs {
            engines(family, 128).into_iter().for_each(|engine| check(engine, recorded));
        }
    }
}

#[test]
fn a_prompt_is_prefilled_in_several_steps() {
    for (family, max_tokens) in [("sdar", 16), ("fast_dllm_v2", 32)] {
        for recorded in recorded_runs(family) {
            check(engines(family, max_tokens).swap_remove(1), &recorded);
        }
    }
}

#[test]
fn our_own_verification_agrees() {
    for (family, count) in FAMILIES {
        let runs = trajectories::read(&fixture(&format!("{family}/trajectories.json"))).unwrap();
        assert_eq!(runs.len(), count);
        let mut session = Session::new(engines(family, 128).swap_remove(1), runs[0].algorithm.attention()).unwrap();
        for run in &runs {
            assert!(trajectories::check(&mut session, &Known::default(), run, false).passed(), "{}", run.name);
        }
    }
}

/// Every one of these changes is found, in the pass where it was made.
#[test]
fn verification_finds_what_was_changed() {
    for (family, _) in FAMILIES {
        let text = std::fs::read_to_string(fixture(&format!("{family}/trajectories.json"))).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("runs.json");
        let mut session = Session::new(engines(family, 128).swap_remove(1), Attention::Full).unwrap();
        let mut changed = |what: &str, change: &dyn Fn(&mut Value)| {
            let mut all: Value = serde_json::from_str(&text).unwrap();
            change(&mut all["trajectories"][0]);
            std::fs::write(&file, all.to_string()).unwrap();
            let run = &trajectories::read(&file).unwrap()[0];
            let check = trajectories::check(&mut session, &Known::default(), run, true);
            let Check::Trajectory { departure, passed: false, .. } = check else {
                panic!("{family}: {what}: {check:?}")
            };
            departure.unwrap()
        };
        let fed = changed("rows fed", &|run| run["forwards"][4]["q_len"] = json!(3));
        assert_eq!((fed.pass, fed.row), (4, None));
        let cached = changed("cached", &|run| run["forwards"][5]["past_len"] = json!(77));
        assert_eq!(cached.pass, 5);
        let row = changed("a row", &|run| run["rows"][3][0][2] = json!(1));
        assert_eq!((row.pass, row.row, row.recorded.unwrap().token), (3, Some(2), 1));
        let sure = changed("a probability", &|run| run["rows"][2][1][1] = json!(2.0));
        assert_eq!((sure.pass, sure.row), (2, Some(1)));
        let token = changed("a token", &|run| run["accepted"][2][2] = json!(1));
        let (theirs, ours) = (token.recorded.unwrap(), token.found.unwrap());
        assert_eq!((theirs.position, theirs.token), (ours.position, 1));
        assert!(token.row.is_some() && theirs.probability.unwrap() < ours.probability.unwrap(), "{token:?}");
        let missing = changed("one pass less", &|run| {
            run["num_forwards"] = Value::Null;
            for key in ["forwards", "rows"] {
                run[key].as_array_mut().unwrap().truncate(5);
            }
            run["accepted"].as_array_mut().unwrap().retain(|a| a[0].as_u64() < Some(5));
        });
        assert_eq!(missing.pass, 5);
        let output = changed("the output", &|run| run["output_ids"][0] = json!(1));
        assert!(output.what.contains("from position 0"), "{output}");
    }
}

/// The ids that end an answer, which the families' parameters call by three names.
fn with_ends(algorithm: &Algorithm, ends: &[u32]) -> Algorithm {
    let mut algorithm = algorithm.clone();
    match &mut algorithm {
        Algorithm::Sdar(sdar) => sdar.stopping_criteria_idx = Ids(ends.to_vec()),
        Algorithm::FastDllm(fast) | Algorithm::FastDllmBatch(fast) => fast.stop_token = Ids(ends.to_vec()),
        Algorithm::Dream(p) | Algorithm::DreamThreshold(p) | Algorithm::DreamBlock(p) => p.end_ids = Ids(ends.to_vec()),
        Algorithm::Llada(p) | Algorithm::LladaNv(p) | Algorithm::LladaNvPrefix(p) | Algorithm::LladaNvDual(p) => {
            p.end_ids = Ids(ends.to_vec());
        }
        Algorithm::Canvas(canvas) => canvas.end_ids = Ids(ends.to_vec()),
    }
    algorithm
}

fn ends_of(recorded: &Value) -> Vec<u32> {
    let params = &recorded["params"];
    let one = params["stop_token"].as_u64().map(|id| vec![id as u32]);
    one.unwrap_or_else(|| serde_json::from_value(params["stopping_criteria_idx"].clone()).unwrap_or_default())
}

/// An answer makes no more passes than the original, and gives its tokens up to the first end token.
#[test]
fn answers() {
    for (family, _) in FAMILIES {
        for recorded in recorded_runs(family) {
            let name = recorded["name"].as_str().unwrap();
            if name.starts_with("origin") {
                continue; // drawn; the same seed gives the same answer, see below
            }
            let prompt = ids(&recorded["prompt_ids"]);
            let new = &ids(&recorded["output_ids"])[prompt.len()..];
            // The ends of the recording, and a token in its middle that it did not know to be one.
            for ends in [ends_of(&recorded), vec![new[new.len() / 2]]] {
                if family == "sdar" && ends != ends_of(&recorded) {
                    continue; // the original would have ended too
                }
                let algorithm = with_ends(&algorithm(&recorded), &ends);
                let original = run(engines(family, 128).swap_remove(1), &algorithm, &prompt, ORIGINAL).unwrap();
                let new = &original.tokens[prompt.len()..];
                let end = new.iter().position(|id| ends.contains(id));
                for engine in engines(family, 128) {
                    let trace = run(engine, &algorithm, &prompt, Run::default()).unwrap();
                    assert_eq!(trace.answer(), &new[..end.unwrap_or(new.len())], "{name} {ends:?}");
                    assert_eq!(trace.end, if end.is_some() { End::EndToken } else { End::Length }, "{name}");
                    assert!(trace.passes.len() <= original.passes.len(), "{name}");
                }
            }
        }
    }
}

#[test]
fn conversations_from_the_template_to_the_text() {
    for (family, _) in FAMILIES {
        let folder = fixture(&format!("{family}/tiny"));
        let chat = Chat::open(&folder).unwrap();
        let checkpoint = Checkpoint::open(&folder).unwrap();
        for case in json(&format!("{family}/chat.json")).as_array().unwrap() {
            let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
            let (text, prompt) = chat.prompt(&messages, &Default::default()).unwrap();
            assert_eq!((text.as_str(), &prompt), (case["prompt_text"].as_str().unwrap(), &ids(&case["prompt_ids"])));
            let sorted = |mut ids: Vec<u32>| {
                ids.sort_unstable();
                ids
            };
            let ends = checkpoint.end_ids().unwrap();
            assert_eq!(sorted(ends.clone()), sorted(ids(&case["end_ids"])), "{family}");
            assert_eq!(case["params"]["mask_id"], checkpoint.mask_id().unwrap());
            let algorithm = algorithm(case);

            for engine in engines(family, 128) {
                let mut session = Session::new(engine, algorithm.attention()).unwrap();
                let original = generate(&mut session, &algorithm, &prompt, ORIGINAL, &mut go);
                assert_eq!(original.unwrap().tokens, ids(&case["output_ids"]));

                let (mut stream, mut printed) = (TextStream::new(&chat.tokenizer), String::new());
                let mut print = |trace: &Trace, _: &Evidence<'_>| {
                    printed += &stream.advance(trace.answer()).unwrap();
                    ControlFlow::Continue(())
                };
                let answered = with_ends(&algorithm, &ends);
                let trace = generate(&mut session, &answered, &prompt, Run::default(), &mut print).unwrap();
                printed += &stream.finish(trace.answer()).unwrap();
                assert_eq!(trace.answer(), ids(&case["answer_ids"]), "{family}");
                assert_eq!(printed, case["answer_text"].as_str().unwrap());
                let with_special = chat.tokenizer.decode(trace.answer(), Special::Keep).unwrap();
                assert_eq!(with_special, case["answer_text_with_special"].as_str().unwrap());
            }
        }
    }
}

/// Every one of these changes is found; the last ones in the pass that gave the token.
#[test]
fn verification_of_conversations_finds_what_was_changed() {
    for (family, _) in FAMILIES {
        let folder = fixture(&format!("{family}/tiny"));
        let chat = Chat::open(&folder).unwrap();
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let (mask, ends) = (checkpoint.mask_id().unwrap(), checkpoint.end_ids().unwrap());
        let family_of = checkpoint.config().family;
        let generation = Generation::defaults(family_of, None, mask, ends);
        let model = Known { family: Some(family_of), generation: Some(&generation) };
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("chat.json");
        let mut session = Session::new(engines(family, 128).swap_remove(1), Attention::Full).unwrap();
        let mut changed = |change: &dyn Fn(&mut Value)| {
            let mut all = json(&format!("{family}/chat.json"));
            change(&mut all[0]);
            std::fs::write(&file, all.to_string()).unwrap();
            let talk = &conversations::read(&file).unwrap()[0];
            match conversations::check(&mut session, &model, &chat, 0, talk, true) {
                Check::Conversation { difference, departure, passed, .. } => (passed, difference, departure),
                other => panic!("{other:?}"),
            }
        };
        assert!(changed(&|_| ()).0);
        for key in ["prompt_text", "answer_text", "answer_text_with_special"] {
            let (passed, difference, _) = changed(&|talk| talk[key] = json!("something else"));
            assert!(!passed && difference.unwrap().contains("something else"), "{key}");
        }
        assert!(!changed(&|talk| talk["prompt_ids"][0] = json!(1)).0);
        assert!(!changed(&|talk| talk["answer_ids"][0] = json!(1)).0);
        assert!(!changed(&|talk| talk["end_ids"] = json!([9])).0);
        let mask = changed(&|talk| talk["params"]["mask_id"] = json!(9)).1.unwrap();
        assert!(mask.contains("mask token is 9"), "{mask}");
        let (passed, _, departure) = changed(&|talk| {
            let at = talk["prompt_ids"].as_array().unwrap().len() + 2;
            talk["output_ids"][at] = json!(1);
        });
        let departure = departure.unwrap();
        assert!(!passed && departure.recorded.unwrap().token == 1 && departure.found.unwrap().probability.is_some());
    }
}

#[test]
fn a_second_turn_feeds_only_what_is_new() {
    for engine in engines("sdar", 128) {
        let algorithm = Algorithm::Sdar(Sdar { gen_length: 16, ..Sdar::new(356) });
        let mut session = Session::new(engine, algorithm.attention()).unwrap();
        let mut turn = |prompt: &[u32]| generate(&mut session, &algorithm, prompt, Run::default(), &mut go).unwrap();
        let first = turn(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let prompt = [&first.tokens[..], &[10, 11, 12, 13, 14]].concat();
        let second = turn(&prompt);
        assert_eq!((first.reused, second.reused), (0, first.tokens.len() - 4), "all but the last block is cached");
        assert_eq!((second.passes[0].fed, second.passes[0].cached), (8, 24));
        let alone = run(engines("sdar", 128).remove(0), &algorithm, &prompt, Run::default());
        assert_eq!(second.tokens, alone.unwrap().tokens);
        assert!(second.prefill_time() < second.time() && second.tokens_per_pass() > 0.5);
    }
}

/// With shifted logits the token behind the prompt comes from its last row, which is fed again; and what the block cache
/// left behind is no part of the next turn.
#[test]
fn a_second_turn_with_shifted_logits() {
    let recorded = recorded_runs("fast_dllm_v2");
    for name in ["thr0.9_prompt20", "thr0.9_prompt20_blockcache"] {
        let algorithm = algorithm(recorded.iter().find(|run| run["name"] == name).unwrap());
        for engine in engines("fast_dllm_v2", 128) {
            let mut session = Session::new(engine, algorithm.attention()).unwrap();
            let mut turn = |prompt: &[u32], passes: usize| {
                let mut stop = |trace: &Trace, _: &Evidence<'_>| match trace.passes.len() < passes {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                };
                generate(&mut session, &algorithm, prompt, Run::default(), &mut stop).unwrap()
            };
            let first = turn(&[5; 40], 4); // broken off in the middle of a block
            assert_eq!(first.end, End::Stopped);
            let second = turn(&[5; 64], usize::MAX);
            assert_eq!((second.reused, second.passes[0].start, second.passes[0].fed), (32, 32, 32));
            let third = turn(&[5; 64], usize::MAX);
            assert_eq!((third.reused, third.passes[0].start), (64, 32), "for its last row");
            let alone = run(engines("fast_dllm_v2", 128).remove(0), &algorithm, &[5; 64], Run::default()).unwrap();
            assert_eq!((&second.tokens, &third.tokens), (&alone.tokens, &alone.tokens));
        }
    }
}

#[test]
fn the_observer_ends_a_run() {
    for engine in engines("sdar", 128) {
        let sdar = Sdar { remasking_strategy: Strategy::LowConfidenceStatic, ..Sdar::new(356) };
        let mut session = Session::new(engine, sdar.attention()).unwrap();
        let algorithm = Algorithm::Sdar(Sdar { gen_length: 24, ..sdar });
        let mut stop = |trace: &Trace, _: &Evidence<'_>| match trace.passes.len() {
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

/// Sampling in every family: the seed decides, and the mask is never chosen.
#[test]
fn draws_follow_from_the_seed() {
    for (family, _) in FAMILIES {
        let facts = Checkpoint::open(&fixture(&format!("{family}/tiny"))).unwrap();
        let mask = facts.mask_id().unwrap();
        let base = Generation::defaults(facts.config().family, facts.config().block, mask, vec![]);
        for &name in facts.config().family.facts().algorithms {
            // Dream's own algorithm draws positions too.
            let alg_temp = (name == generation::Algorithm::DreamDiffusion).then_some(0.3);
            let g = Generation { algorithm: name, temperature: 1.5, max_tokens: 32, alg_temp, ..base.clone() };
            let algorithm = Algorithm::try_from(&g).unwrap();
            let tokens = |seed| {
                let engine = engines(family, 128).swap_remove(1);
                let trace = run(engine, &algorithm, &[1, 2, 3], Run { seed, ..Run::default() }).unwrap();
                assert!(trace.answer().len() >= 29 && !trace.answer().contains(&mask), "{name}: {:?}", trace.answer());
                trace.tokens
            };
            assert_eq!(tokens(3), tokens(3), "{name}");
            assert!((4..12).any(|seed| tokens(seed) != tokens(3)), "{name}: eight seeds, one answer");
        }
    }
}

#[test]
fn the_schedule_of_dream() {
    let settings = json("dream/schedule.json");
    for setting in settings.as_array().unwrap() {
        let steps = setting["steps"].as_u64().unwrap() as usize;
        let schedule = Schedule { steps, eps: setting["eps"].as_f64().unwrap() as f32 };
        if let Some(points) = setting["timesteps"].as_array() {
            let want: Vec<f32> = points.iter().map(|p| p.as_f64().unwrap() as f32).collect();
            let points: Vec<f32> = (0..=steps).map(|step| schedule.point(step)).collect();
            assert_eq!(points, want, "{steps} steps");
        }
        let mut left = setting["masks"].as_u64().unwrap() as usize;
        for (step, want) in setting["filled"].as_array().unwrap().iter().enumerate() {
            let filled = schedule.quota(step, left);
            assert_eq!(json!(filled), *want, "step {step} of {steps}");
            left -= filled;
        }
    }
}

fn canvas(recorded: &Value, logits: Logits) -> Canvas {
    let params = &recorded["params"];
    let number = |name: &str| params[name].as_u64().unwrap() as usize;
    Canvas {
        max_tokens: number("gen_length"),
        block_length: number("block_length"),
        window: number("gen_length"),
        threshold: Thresholds(vec![params["threshold"].as_f64().unwrap()]),
        reuse: Reuse::None,
        ..Canvas::new(logits, number("mask_id") as u32)
    }
}

/// With a window as long as the answer and nothing reused, ours is Fast-dLLM's without a cache.
#[test]
fn our_canvas_is_the_originals_where_they_meet() {
    let mut met = 0;
    for recorded in recorded_runs("llada").iter().filter(|run| run["name"].as_str().unwrap().starts_with("nocache_thr"))
    {
        let algorithm = Algorithm::Canvas(canvas(recorded, Logits::Aligned));
        for engine in engines("llada", 128) {
            let trace = run(engine, &algorithm, &ids(&recorded["prompt_ids"]), ORIGINAL).unwrap();
            assert_eq!(trace.tokens, ids(&recorded["output_ids"]));
            let accepted: Vec<Value> = trace.accepted.iter().map(|a| json!([a.pass, a.position, a.token])).collect();
            assert_eq!(Value::from(accepted), recorded["accepted"]);
            met += 1;
        }
    }
    assert!(met >= 4);
}

#[test]
fn the_window_moves_and_the_run_ends_with_the_answer() {
    for (family, logits) in [("dream", Logits::Shifted), ("llada", Logits::Aligned)] {
        let mask = Checkpoint::open(&fixture(&format!("{family}/tiny"))).unwrap().mask_id().unwrap();
        for reuse in [Reuse::None, Reuse::Prefix, Reuse::Dual] {
            let plain = Canvas { max_tokens: 45, block_length: 8, window: 20, reuse, ..Canvas::new(logits, mask) };
            let lead = usize::from(logits == Logits::Shifted);
            for engine in engines(family, 128) {
                let prompt: Vec<u32> = (10..23).collect();
                let algorithm = Algorithm::Canvas(plain.clone());
                let mut session = Session::new(engine, Attention::Full).unwrap();
                let trace = generate(&mut session, &algorithm, &prompt, Run::default(), &mut go).unwrap();
                assert_eq!((trace.answer().len(), trace.end), (45, End::Length), "{family} {reuse}");
                assert!(!trace.tokens.contains(&mask));
                let first = trace.passes[0];
                assert_eq!((first.start, first.fed, first.cached), (0, 13 + 20, 0));
                for pass in &trace.passes {
                    let (fed, cached) = (pass.fed, pass.cached);
                    match reuse {
                        _ if pass.start == 0 => assert_eq!(cached, 0),
                        Reuse::Prefix => assert!(cached == pass.start && fed <= 20 + lead),
                        _ => assert!(cached > pass.start && fed <= 8 + lead),
                    }
                }
                // The same, ended by a token of the answer.
                let end = trace.answer()[17];
                let at = trace.answer().iter().position(|id| *id == end).unwrap();
                let ended = Algorithm::Canvas(Canvas { end_ids: Ids(vec![end]), ..plain.clone() });
                let short = generate(&mut session, &ended, &prompt, Run::default(), &mut go).unwrap();
                assert_eq!((short.answer(), short.end), (&trace.answer()[..at], End::EndToken));
                assert!(short.passes.len() < trace.passes.len());
            }
        }
    }
}

#[test]
fn gaps_are_filled_and_nothing_else() {
    for (family, logits) in [("dream", Logits::Shifted), ("llada", Logits::Aligned)] {
        let checkpoint = Checkpoint::open(&fixture(&format!("{family}/tiny"))).unwrap();
        let (mask, ends) = (checkpoint.mask_id().unwrap(), vec![]);
        let base = Generation::defaults(checkpoint.config().family, None, mask, ends);
        let mut algorithms =
            vec![Algorithm::Canvas(Canvas { max_tokens: 12, block_length: 5, ..Canvas::new(logits, mask) })];
        for &name in checkpoint.config().family.facts().algorithms {
            let g = Generation { algorithm: name, max_tokens: 12, block: 4, ..base.clone() };
            algorithms.push(Algorithm::try_from(&g).unwrap());
        }
        for algorithm in &algorithms {
            for (prefix, suffix) in [(&[1, 2, 3, 4][..], &[5, 6, 7][..]), (&[9], &[]), (&[], &[8, 9])] {
                for engine in engines(family, 128) {
                    let mut session = Session::new(engine, Attention::Full).unwrap();
                    let trace = infill(&mut session, algorithm, prefix, suffix, Run::default(), &mut go).unwrap();
                    assert_eq!(trace.tokens.len(), prefix.len() + 12 + suffix.len());
                    assert!(trace.tokens.starts_with(prefix) && trace.tokens.ends_with(suffix));
                    assert!(trace.answer().len() == 12 && !trace.tokens.contains(&mask), "{algorithm:?}");
                }
            }
        }
    }
    by_hand();
    // What follows the gap counts: another suffix, another filling.
    let filled = |suffix: &[u32]| {
        let algorithm = Algorithm::Canvas(Canvas { max_tokens: 6, ..Canvas::new(Logits::Aligned, 344) });
        let mut session = Session::new(engines("llada", 128).swap_remove(1), Attention::Full).unwrap();
        infill(&mut session, &algorithm, &[1, 2], suffix, Run::default(), &mut go).unwrap().answer().to_vec()
    };
    assert_ne!(filled(&[100, 200]), filled(&[7, 9]));
    let algorithm = Algorithm::Sdar(Sdar { gen_length: 8, ..Sdar::new(356) });
    let mut session = Session::new(engines("sdar", 128).swap_remove(1), algorithm.attention()).unwrap();
    let refused = infill(&mut session, &algorithm, &[1], &[2], Run::default(), &mut go);
    assert!(matches!(refused, Err(GenerateError::Suffix(_))));
}

/// One token a pass, nothing reused: the surest mask of the gap gets its best token, pass by pass, on the plain engine.
fn by_hand() {
    for (family, logits, shift) in [("dream", Logits::Shifted, 1), ("llada", Logits::Aligned, 0)] {
        let mask = Checkpoint::open(&fixture(&format!("{family}/tiny"))).unwrap().mask_id().unwrap();
        let (prefix, suffix) = ([11, 22, 33], [44, 55]);
        let mut tokens = [&prefix[..], &[mask; 7], &suffix].concat();
        let mut session = Session::new(engines(family, 128).swap_remove(0), Attention::Full).unwrap();
        while tokens.contains(&mask) {
            let rows: Vec<u32> = (0..tokens.len() as u32).collect();
            let all = session.pass(&tokens, 0, &rows, Store::Discard).unwrap();
            let width = all.len() / tokens.len();
            let best = |position: usize| {
                let row = softmax(&all[(position - shift) * width..][..width]);
                let token = argmax(&row);
                (row[token], position, token as u32)
            };
            let undecided = (0..tokens.len()).filter(|&position| tokens[position] == mask).map(best);
            let (_, position, token) = undecided.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
            assert_ne!(token, mask, "the prompt was chosen so that the model never wants the mask");
            tokens[position] = token;
        }
        let canvas = Canvas { max_tokens: 7, block_length: 7, reuse: Reuse::None, ..Canvas::new(logits, mask) };
        let algorithm = Algorithm::Canvas(Canvas { threshold: 1.0.into(), ..canvas });
        let mut session = Session::new(engines(family, 128).swap_remove(1), Attention::Full).unwrap();
        let trace = infill(&mut session, &algorithm, &prefix, &suffix, Run::default(), &mut go).unwrap();
        assert_eq!((&trace.tokens, trace.passes.len()), (&tokens, 7), "{family}");
    }
}

/// What does not fit is shortened, to whole blocks where the algorithm wants them, and then runs.
#[test]
fn answers_are_fitted_to_the_room_there_is() {
    for (family, _) in FAMILIES {
        let checkpoint = Checkpoint::open(&fixture(&format!("{family}/tiny"))).unwrap();
        let family_of = checkpoint.config().family;
        let base = Generation::defaults(family_of, checkpoint.config().block, checkpoint.mask_id().unwrap(), vec![]);
        for &name in family_of.facts().algorithms {
            let block = if family_of == Family::FastDllmV2 { 32 } else { 8 };
            let block = if family_of == Family::Sdar { 4 } else { block };
            let g = Generation { algorithm: name, block, max_tokens: 256, ..base.clone() };
            let mut algorithm = Algorithm::try_from(&g).unwrap();
            let engine = diffulex_tests::engines::tract(&fixture(&format!("{family}/tiny")), 96, 96);
            let mut session = Session::new(engine, algorithm.attention()).unwrap();
            let refused = generate(&mut session, &algorithm, &[7; 21], Run::default(), &mut go);
            assert!(matches!(refused, Err(GenerateError::TooLong { .. })), "{name}");
            algorithm.fit(21, session.shape());
            let trace = generate(&mut session, &algorithm, &[7; 21], Run::default(), &mut go).unwrap();
            assert!((64..=76).contains(&trace.answer().len()), "{name}: {}", trace.answer().len());
        }
    }
}
