//! The sampler against the original primitives, and its guards.
#![allow(clippy::unwrap_used, reason = "a test may")]

use diffulex_runtime::sample::{self, Choice, Confidence, Draws, Order, Pick, SampleError, Sampler, Sampling};
use diffulex_tests::reference::{Tensors, fixture, json};
use serde_json::Value;

fn near(got: f64, want: f64, tolerance: f64, what: &Value) {
    let same = got == want || (got - want).abs() <= tolerance;
    assert!(same, "{got} where {want} is right: {what}");
}

/// How the cases filter: top-p first, as the edge project does.
fn sampling(case: &Value) -> Sampling {
    Sampling {
        temperature: case["temperature"].as_f64().unwrap_or(0.0) as f32,
        top_k: case["top_k"].as_u64().unwrap_or(0) as usize,
        top_p: case["top_p"].as_f64().unwrap_or(1.0) as f32,
        order: Order::TopPFirst,
        choice: Choice::Share,
    }
}

fn check(case: &Value, tensors: &Tensors) {
    let input = case["input"].as_str().unwrap();
    let output = case["output"].as_str().unwrap();
    let width = tensors.width(input);
    let rows = tensors.values(input).chunks(width).map(|row| row.iter().map(|&l| l as f32).collect::<Vec<_>>());
    let settings = sampling(case);
    for (i, mut row) in rows.enumerate() {
        let want = |name: &str| &tensors.values(&format!("{output}{name}"))[i * width..][..width];
        match case["op"].as_str().unwrap() {
            "top_p_logits" => {
                sample::top_p(&mut row, settings.top_p);
                row.iter().zip(want("")).for_each(|(&got, &want)| near(got.into(), want, 0.0, case));
            }
            "top_k_logits" => {
                sample::top_k(&mut row, settings.top_k);
                row.iter().zip(want("")).for_each(|(&got, &want)| near(got.into(), want, 0.0, case));
            }
            "distribution" => {
                let row = settings.distribution(&row);
                row.iter().zip(want(".probs")).for_each(|(&got, &want)| near(got, want, 1e-6, case));
            }
            "sample_tokens" => {
                let kind: Confidence = serde_json::from_value(case["confidence"].clone()).unwrap();
                let row = settings.distribution(&row);
                let token = sample::argmax(&row);
                assert_eq!(token as u32, tensors.ids(&format!("{output}.tokens"))[i], "{case}");
                near(row[token], tensors.values(&format!("{output}.initial"))[i], 1e-6, case);
                let tolerance = if kind == Confidence::NegEntropy { 1e-5 } else { 1e-6 };
                near(kind.of(&row, token), tensors.values(&format!("{output}.confidence"))[i], tolerance, case);
            }
            other => panic!("{other}?"),
        }
    }
}

#[test]
fn every_case_of_the_original() {
    let tensors = Tensors::open(&fixture("sampler/sampler.safetensors"));
    let cases = json("sampler/sampler.json");
    let cases = cases["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 182);
    cases.iter().for_each(|case| check(case, &tensors));
}

fn greedy(never: Option<u32>, sampling: Sampling) -> Sampler {
    Sampler::new(sampling, Confidence::Prob, never, 0).unwrap()
}

#[test]
fn the_mask_keeps_its_share_but_is_never_chosen() {
    let row = [0.0, 0.0, 0.0f32, 4.0];
    let free = greedy(None, Sampling::default()).pick(&row).unwrap();
    assert_eq!(free.token, 3);
    let held = greedy(Some(3), Sampling::default()).pick(&row).unwrap();
    assert_eq!(held.token, 0, "the lowest of equals");
    assert!((held.probability - (1.0 - free.probability) / 3.0).abs() < 1e-6, "{held:?} beside {free:?}");
    let alone = greedy(Some(3), Sampling { top_k: 1, ..Sampling::default() }).pick(&row).unwrap();
    assert_eq!(alone, Pick { token: 0, probability: 1.0 / 3.0, confidence: 1.0 / 3.0 });
    assert!(matches!(greedy(Some(0), Sampling::default()).pick(&[1.0]), Err(SampleError::Row(_))));
}

#[test]
fn greedy_has_the_confidences_of_temperature_1_and_top_k_1_has_none() {
    let row = [1.0, 3.0, 2.0f32];
    let expected = sample::softmax(&row);
    assert_eq!(greedy(None, Sampling::default()).pick(&row).unwrap().probability, expected[1]);
    assert_eq!(greedy(None, Sampling { top_k: 1, ..Sampling::default() }).pick(&row).unwrap().probability, 1.0);
}

#[test]
fn draws_follow_the_distribution_and_the_seed() {
    let row = [1.0, 0.0, 2.0, -1.0f32];
    let settings = Sampling { temperature: 0.7, ..Sampling::default() };
    let probabilities = settings.distribution(&row);
    let draws = |seed| {
        let mut sampler = Sampler::new(settings, Confidence::Prob, None, seed).unwrap();
        (0..20_000).map(|_| sampler.pick(&row).unwrap().token).collect::<Vec<_>>()
    };
    let first = draws(1);
    assert_eq!(first, draws(1));
    assert_ne!(first, draws(2));
    assert_eq!(first[..24], FIRST_DRAWS, "one seed gives the same tokens on every machine");
    for (token, p) in probabilities.iter().enumerate() {
        let share = first.iter().filter(|&&t| t as usize == token).count() as f64 / first.len() as f64;
        assert!((share - p).abs() < 0.01, "token {token}: {share} where {p} is right");
    }
}

const FIRST_DRAWS: [u32; 24] = [2, 0, 2, 1, 2, 2, 2, 0, 2, 2, 2, 2, 0, 2, 2, 2, 3, 2, 2, 0, 2, 2, 2, 0];

/// Gumbel noise of temperature 1 draws from the softmax; the confidence is that of the logits as they are.
#[test]
fn gumbel_draws_follow_the_distribution_and_the_seed() {
    let row = [1.0, 0.0, 2.0, -1.0f32];
    let plain = sample::softmax(&row);
    let picks = |temperature, never, seed| {
        let settings = Sampling { temperature, choice: Choice::Gumbel, ..Sampling::default() };
        let mut sampler = Sampler::new(settings, Confidence::Prob, never, seed).unwrap();
        (0..20_000).map(|_| sampler.pick(&row).unwrap()).collect::<Vec<Pick>>()
    };
    let tokens = |picks: &[Pick]| picks.iter().map(|pick| pick.token).collect::<Vec<_>>();
    let first = picks(1.0, None, 1);
    assert_eq!(tokens(&first), tokens(&picks(1.0, None, 1)));
    assert_ne!(tokens(&first), tokens(&picks(1.0, None, 2)));
    assert_eq!(tokens(&first)[..16], FIRST_GUMBEL_DRAWS, "one seed gives the same tokens on every machine");
    assert!(first.iter().all(|pick| pick.probability == plain[pick.token as usize]));
    let share = |picks: &[Pick], token| picks.iter().filter(|p| p.token == token).count() as f64 / picks.len() as f64;
    for (token, p) in plain.iter().enumerate() {
        assert!((share(&first, token as u32) - p).abs() < 0.01, "token {token}");
    }
    // Half the temperature, the logits count twice; and the token that is never chosen leaves its share to the others.
    let sharp = sample::softmax(&[row[0] * 2.0, row[1] * 2.0, f32::NEG_INFINITY, row[3] * 2.0]);
    let held = picks(0.5, Some(2), 3);
    for (token, p) in sharp.iter().enumerate() {
        assert!((share(&held, token as u32) - p).abs() < 0.01, "token {token}");
    }
    let greedy = picks(0.0, None, 5);
    assert!(greedy.iter().all(|pick| pick.token == 2 && pick.probability == plain[2]));
}

const FIRST_GUMBEL_DRAWS: [u32; 16] = [2, 2, 0, 2, 0, 2, 2, 2, 2, 1, 2, 1, 2, 2, 2, 2];

#[test]
fn recorded_numbers_come_before_those_of_the_seed() {
    let (mut plain, mut fed) = (Draws::seeded(7), Draws::seeded(7));
    fed.replay([0.25, 0.75]);
    assert_eq!([fed.uniform(), fed.uniform()], [0.25, 0.75]);
    assert_eq!([fed.uniform(), fed.uniform()], [plain.uniform(), plain.uniform()]);
    fed.replay([0.0, 0.49, 0.51, 0.999]);
    let drawn: Vec<usize> = (0..4).map(|_| fed.index(&[0.0, 1.0, 0.0, 1.0])).collect();
    assert_eq!(drawn, [1, 1, 3, 3]);
}

#[test]
fn what_has_no_meaning_is_refused() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert!(matches!(greedy(None, Sampling::default()).pick(&[1.0, bad]), Err(SampleError::Row(_))));
    }
    assert!(greedy(None, Sampling::default()).pick(&[]).is_err());
    for temperature in [-1.0, 1e-9, f32::NAN, f32::INFINITY] {
        let settings = Sampling { temperature, ..Sampling::default() };
        assert!(matches!(settings.check(), Err(SampleError::Setting { name: "temperature", .. })));
    }
    for top_p in [0.0, -1.0, f32::NAN] {
        let settings = Sampling { top_p, ..Sampling::default() };
        assert!(matches!(settings.check(), Err(SampleError::Setting { name: "top_p", .. })));
    }
}
