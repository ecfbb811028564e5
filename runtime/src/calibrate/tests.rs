use diffulex_compiler::generation::{Family, Reuse};
use proptest::prelude::*;

use super::range::error;
use super::*;
use crate::engine::EngineShape;
use crate::session::Store;

fn observed(values: &[f32]) -> Observed {
    let mut observed = Observed::default();
    observed.add(values);
    observed
}

/// Numbers as activations have them: most small, few large, some exactly 0, some not meant as numbers.
fn numbers() -> impl Strategy<Value = Vec<f32>> {
    let number = prop_oneof![
        8 => -1f32..1.0,
        2 => -300f32..40.0,
        1 => any::<f32>(),
        1 => Just(0.0),
        1 => Just(-1e30),
        1 => (-90i32..90).prop_map(|e| (e as f32).exp2()),
    ];
    proptest::collection::vec(number, 1..400)
}

/// The numbers that count, in order.
fn kept(values: &[f32]) -> Vec<f32> {
    let mut kept: Vec<f32> = values.iter().copied().filter(|x| x.is_finite() && *x > -1e29).collect();
    kept.sort_by(f32::total_cmp);
    kept
}

/// A number as the levels of a range keep it.
fn rounded(x: f64, range: Range, levels: u32) -> f64 {
    let last = f64::from(levels - 1);
    let scale = (f64::from(range.high()) - f64::from(range.low())) / last;
    let zero = (-f64::from(range.low()) / scale).round();
    ((x / scale).round_ties_even().clamp(-zero, last - zero)) * scale
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_and_pieces_do_not_matter(values in numbers(), cut in 0usize..400) {
        let whole = observed(&values);
        let (a, b) = values.split_at(cut.min(values.len()));
        let mut pieces = observed(b);
        pieces.add(a);
        prop_assert_eq!(&pieces, &whole);
        let backwards: Vec<f32> = values.iter().rev().copied().collect();
        prop_assert_eq!(&observed(&backwards), &whole);
        let mut one_by_one = Observed::default();
        values.iter().for_each(|x| one_by_one.add(&[*x]));
        prop_assert_eq!(&one_by_one, &whole);
    }

    #[test]
    fn bins_hold_what_lies_in_them(values in numbers()) {
        let (observed, kept) = (observed(&values), kept(&values));
        prop_assert_eq!(observed.zeros(), kept.iter().filter(|x| **x == 0.0).count() as u64);
        for (side, sign) in observed.sides().into_iter().zip([-1f64, 1.0]) {
            for (i, &count) in side.iter().enumerate() {
                let bin = |x: f32| (sign * f64::from(x) / f64::from(observed.width())).floor() as usize;
                let inside = kept.iter().filter(|&&x| sign * f64::from(x) > 0.0 && bin(x) == i);
                prop_assert_eq!(inside.count() as u64, count);
            }
        }
        let binned: u64 = observed.sides().into_iter().flatten().sum();
        prop_assert_eq!(binned + observed.zeros(), observed.numbers());
    }

    #[test]
    fn ends_and_counts_are_exact(values in numbers()) {
        let (observed, kept) = (observed(&values), kept(&values));
        prop_assert_eq!(observed.numbers(), kept.len() as u64);
        prop_assert_eq!(observed.min(), kept.first().copied().unwrap_or(0.0));
        prop_assert_eq!(observed.max(), kept.last().copied().unwrap_or(0.0));
        let others = observed.hidden() + observed.not_finite();
        prop_assert_eq!(others as usize, values.len() - kept.len());
        let range = observed.range(Method::MinMax, 256);
        prop_assert!(range.low() <= 0.0 && range.high() >= 0.0 && range.low() < range.high());
        prop_assert!(kept.iter().all(|&x| range.low() <= x && x <= range.high()));
    }

    #[test]
    fn percentiles_are_within_a_bin(values in numbers(), percent in 0f64..=100.0) {
        let (observed, kept) = (observed(&values), kept(&values));
        prop_assume!(!kept.is_empty());
        let outside = (kept.len() as f64 * ((100.0 - percent) / 200.0)) as usize;
        let (low, high) = (kept[outside.min(kept.len() - 1)], kept[kept.len() - 1 - outside.min(kept.len() - 1)]);
        let (want, got) = (Range::around(low, high), observed.range(Method::Percentile(percent), 256));
        prop_assume!(want != Range::around(0.0, 0.0)); // rounded up to a bin there
        let near = |a: f32, b: f32| (a - b).abs() <= observed.width();
        prop_assert!(near(got.low(), want.low()) && near(got.high(), want.high()), "{got:?} {want:?}");
        prop_assert!(got.low() <= want.low() && got.high() >= want.high(), "nothing is cut that should be inside");
    }

    #[test]
    fn the_smallest_error_is_not_above_that_of_the_ends(values in numbers(), levels in 2u32..70_000) {
        let observed = observed(&values);
        let (whole, best) = (observed.range(Method::MinMax, levels), observed.range(Method::Mse, levels));
        prop_assert!(error(&observed, best, levels) <= error(&observed, whole, levels));
        prop_assert!(best.low() >= whole.low() && best.high() <= whole.high());
    }

    #[test]
    fn the_error_is_what_rounding_costs(
        first in -1f32..0.45,
        levels in 2u32..2000,
        low in 0.01f32..1.0,
        high in 0.01f32..1.0,
    ) {
        // Many numbers spread evenly over many bins.
        let values: Vec<f32> = (0..40_000).map(|i| first + i as f32 / 80_000.0).collect();
        let (observed, range) = (observed(&values), Range::around(-low, high));
        let plain: f64 = values.iter().map(|&x| (f64::from(x) - rounded(x.into(), range, levels)).powi(2)).sum();
        let got = error(&observed, range, levels);
        prop_assert!((got - plain).abs() <= 0.03 * plain + 1e-3, "{got} {plain}");
    }

    #[test]
    fn text_keeps_every_bit(min in any::<f32>(), max in any::<f32>(), low in -1e38f32..=0.0, high in 0f32..1e38) {
        prop_assume!(min.is_finite() && max.is_finite());
        let ranges = [(256, Range::around(low, high))].into();
        let spread = Spread { min, max, numbers: 7, hidden: 1, not_finite: 0, ranges };
        let places = [("layers.0 %q".to_string(), spread)].into();
        let all = Ranges { passes: 1, tokens: 2, places };
        let text = serde_json::to_string_pretty(&all).unwrap();
        let back: Ranges = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&back, &all);
        let got = &back.places["layers.0 %q"];
        prop_assert_eq!(got.min.to_bits(), min.to_bits());
        prop_assert_eq!(got.ranges[&256].low().to_bits(), Range::around(low, high).low().to_bits());
    }
}

#[test]
fn rare_numbers_far_out_are_cut() {
    let mut values: Vec<f32> = (0..100_000).map(|i| (i % 2001) as f32 / 1000.0 - 1.0).collect();
    values.extend([90.0, -4.0]);
    let observed = observed(&values);
    assert_eq!(observed.range(Method::MinMax, 256), Range::around(-4.0, 90.0));
    let cut = observed.range(Method::Percentile(99.9), 256);
    assert!((cut.low() + 1.0).abs() < 0.07 && (cut.high() - 1.0).abs() < 0.07, "{cut:?}");
    let few = observed.range(Method::Mse, 16);
    assert!(few.high() < 20.0 && few.low() <= -0.5, "{few:?}");
    let many = observed.range(Method::Mse, 65536);
    assert!(many.high() > 85.0, "with many levels clamping costs more than it gives: {many:?}");
}

#[test]
fn ranges_are_never_empty_and_contain_0() {
    let one = Range::around(0.0, 0.0);
    assert_eq!((one.low(), one.high()), (0.0, 1.0));
    for method in [Method::MinMax, Method::Percentile(99.0), Method::Mse, Method::Percentile(f64::NAN)] {
        for values in [&[][..], &[0.0, -0.0], &[-1e30, f32::NAN, f32::INFINITY], &[1e-40, -1e-44]] {
            assert_eq!(observed(values).range(method, 256), one, "{method:?} {values:?}");
        }
        let positive = observed(&[3.0, 4.0, 5.0]).range(method, 65536);
        assert!(positive.low() == 0.0 && (2.9..=5.0).contains(&positive.high()), "{method:?} {positive:?}");
    }
    for text in ["[1, 2]", "[0, 0]", "[-1, 1e300]", "[0, null]", "[0]", "[2, -1]"] {
        assert!(serde_json::from_str::<Range>(text).is_err(), "{text}");
    }
}

fn generation(family: Family) -> Generation {
    Generation::defaults(family, Some(4), 99, vec![1])
}

fn shape(max_tokens: usize, max_cache: usize) -> EngineShape {
    EngineShape { max_tokens, max_cache, layers: 1, kv_heads: 1, head_dim: 2, vocab: 100 }
}

/// Each pass as its tokens (`m` is a mask), first position, and what is kept.
fn drawn(passes: &[plan::Pass]) -> Vec<String> {
    let token = |&id: &u32| if id == 99 { "m".into() } else { id.to_string() };
    let words = |pass: &plan::Pass| {
        let tokens: Vec<String> = pass.tokens.iter().map(token).collect();
        let fresh = if pass.fresh { "anew: " } else { "" };
        let kept = match pass.store {
            Store::Keep => "kept".to_string(),
            Store::Draft(n) => format!("draft {n}"),
            Store::Discard => "-".to_string(),
        };
        assert_eq!(pass.logits, pass.store != Store::Keep);
        format!("{fresh}{} at {}, {kept}", tokens.join(" "), pass.start)
    };
    passes.iter().map(words).collect()
}

#[test]
fn blocks_are_committed_and_windows_get_noisier() {
    let text: Vec<u32> = (10..24).collect();
    let passes = plan::plan(&[text.clone(), vec![]], &generation(Family::Sdar), &shape(4, 8));
    let drawn = drawn(&passes);
    assert_eq!(drawn.len(), 3 * 5 + 2);
    assert_eq!(drawn[0], "anew: 10 11 12 13 at 0, -");
    assert_eq!(drawn[4], "anew: m m m m at 0, -");
    assert_eq!(drawn[5], "anew: 10 11 12 13 at 0, kept");
    assert_eq!(drawn[6], "14 15 16 17 at 4, -");
    assert_eq!(drawn[11], "14 15 16 17 at 4, kept");
    assert_eq!(drawn[16], "m m m m at 8, -");
    for (pass, masks) in passes[6..11].iter().zip(0..) {
        assert_eq!(pass.tokens.iter().filter(|id| **id == 99).count(), masks);
    }
    let again = plan::plan(std::slice::from_ref(&text), &generation(Family::Sdar), &shape(4, 8));
    assert_eq!(passes, again);
    let narrow = plan::plan(&[text], &generation(Family::Sdar), &shape(4, 7));
    assert_eq!(narrow.len(), 2 * 5 + 1, "the prefix of 8 has no room");
}

#[test]
fn a_canvas_is_fed_whole_and_behind_a_draft() {
    let text: Vec<u32> = (10..24).collect();
    let with = Generation { reuse: Reuse::Prefix, ..generation(Family::Dream) };
    let passes = drawn(&plan::plan(std::slice::from_ref(&text), &with, &shape(12, 12)));
    assert_eq!(passes.len(), 5 + 10 + 10 + 5, "a canvas of 12 with prefixes 0, 4, 8, and one of 2");
    assert_eq!(passes[4], format!("anew: {}m at 0, -", "m ".repeat(11)));
    assert_eq!(passes[5], "anew: 10 11 12 13 14 15 16 17 18 19 20 21 at 0, draft 4");
    assert_eq!(passes[6], "14 15 16 17 18 19 20 21 at 4, -");
    assert_eq!(passes[14], "m m m m m m m m at 4, -");
    assert_eq!(passes[29], "anew: m m at 0, -");
    let without = Generation { reuse: Reuse::None, ..with };
    let passes = drawn(&plan::plan(&[text], &without, &shape(12, 12)));
    assert_eq!(passes.len(), 5 + 5 + 5 + 5);
    assert!(passes.iter().all(|pass| pass.starts_with("anew") && pass.ends_with("at 0, -")));
}
