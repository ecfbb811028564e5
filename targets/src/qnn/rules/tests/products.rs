//! MatMul: weights of every form, and two computed operands.

use super::net::*;
use crate::qnn::rules::Effect;
use crate::qnn::socs;

/// Rows and columns of the weight.
const K: i64 = 128;
const N: i64 = 8;

/// A MatMul of an activation (float if 0) and a weight. `scales` are `pt`, `pc`, or the numbers in a block.
fn product(act: i32, weight: i32, scales: &str) -> Net {
    let mut net = Net::new();
    let mut x = net.input("x", F32, &[1, 4, K]);
    if act != 0 {
        net.grid("in", act, 0.5, 0);
        x = net.round("x", "in");
    }
    let (dims, block) = match scales {
        "pt" => (vec![], 0),
        "pc" => (vec![N], 0),
        block => (vec![K / block.parse::<i64>().unwrap(), N], block.parse().unwrap()),
    };
    net.tensor("w.scale", F32, &dims, 0x3c);
    let symmetric = if weight == U8 && scales == "pc" { 0x80 } else { 0 };
    net.tensor("w.zero", weight, &dims, symmetric);
    net.weight("w", weight, &[K, N], "w");
    net.set("w", "axis", if block > 0 { 0 } else { 1 });
    net.set("w", "block_size", block);
    net.node("MatMul", "y", &[&x, "w"]);
    if act == 0 {
        net.output("y", F32, &[1, 4, N]);
    } else {
        net.round("y", "in");
        net.output("y.in", F32, &[1, 4, N]);
    }
    net
}

/// The table of `formats/qnn.md`, section 4.1, cell by cell.
#[test]
fn forms_of_weights() {
    let columns = [
        (I8, "pt"),
        (I8, "pc"),
        (U8, "pt"),
        (U8, "pc"),
        (I4, "pt"),
        (I4, "pc"),
        (I4, "16"),
        (I4, "32"),
        (I4, "64"),
        (I4, "128"),
        (I8, "32"),
        (I16, "pt"),
        (I16, "pc"),
    ];
    for (act, row) in [
        (U16, "+++++++++++++"),
        (I16, "++--++-+--+--"),
        (U8, "++++++-------"),
        (I8, "+++-++-----+-"),
        (0, "+-+-+--------"),
    ] {
        for ((weight, scales), cell) in columns.iter().zip(row.chars()) {
            let expected = match (cell, act) {
                ('+', _) => vec![],
                (_, 0) => vec!["weight-only"],
                _ => vec!["weight-form"],
            };
            assert_eq!(product(act, *weight, scales).broken(), expected, "{act} by {weight} {scales}");
        }
    }
    assert_eq!(product(U16, I4, "8").broken(), ["weight-form"]);
    assert_eq!(product(U16, I8, "64").broken(), ["weight-form"]);
}

#[test]
fn uint4() {
    assert_eq!(product(U16, U4, "pt").broken(), [""; 0]);
    assert_eq!(product(U16, U4, "pc").broken(), ["weight-form"]);
    assert_eq!(product(U16, U4, "32").broken(), ["uint4-blocks"]);
    assert_eq!(product(U16, U4, "32").violations(None)[0].effect, Effect::Wrong);
}

#[test]
fn int4_has_zero_points() {
    for scales in ["pt", "pc", "32"] {
        let mut net = product(U16, I4, scales);
        net.named("w").input.pop();
        let expected: &[&str] = if scales == "32" { &[] } else { &["int4-zero-point"] };
        assert_eq!(net.broken(), expected, "{scales}");
    }
    let mut net = product(U16, I4, "pc");
    net.initializer("w.zero").raw_data[0] = 0x10;
    assert_eq!(net.broken(), ["int4-zero-point"]);
    // An int8 without is right.
    let mut net = product(U16, I8, "pc");
    net.named("w").input.pop();
    assert_eq!(net.broken(), [""; 0]);
}

#[test]
fn channels_are_symmetric() {
    for (weight, scales, zero, legal) in [
        (I8, "pc", 1, false),
        (I8, "pt", 1, true),
        (U8, "pc", 127, false),
        (U8, "pt", 3, true),
        (I8, "32", 1, false),
        (I4, "32", 1, false),
    ] {
        let mut net = product(U16, weight, scales);
        let last = net.initializer("w.zero").raw_data.last_mut().unwrap();
        *last = zero;
        let expected: &[&str] = if legal { &[] } else { &["channel-zero-point"] };
        assert_eq!(net.broken(), expected, "{weight} {scales} {zero}");
    }
}

#[test]
fn layout() {
    let mut net = product(U16, I8, "pc");
    net.named("w").attribute[0].i = 0;
    assert_eq!(net.broken(), ["weight-layout"]);
    let mut net = product(U16, I8, "pc");
    net.named("w").attribute[0].i = -1;
    assert_eq!(net.broken(), [""; 0]);
    let mut net = product(U16, I4, "32");
    net.named("w").attribute[0].i = 1;
    assert_eq!(net.broken(), ["weight-layout"]);
    let mut net = product(U16, I4, "32");
    net.named("w").attribute[1].i = 64;
    assert_eq!(net.broken(), ["weight-layout"]);
    let mut net = product(U16, I8, "pt");
    net.initializer("w.stored").dims = vec![1, K, N];
    assert_eq!(net.broken(), ["weight-layout"]);
}

/// Stored floats on their way to a product: what is folded while the model loads is none.
#[test]
fn nothing_stands_between_weight_and_product() {
    let build = |between: &[&str]| {
        let mut net = Net::new();
        let x = net.input("x", F32, &[1, 4, K]);
        let mut w = net.tensor("w", F32, &[K, N], 0);
        for op in between {
            w = net.node(op, op, &[&w]);
        }
        net.node("MatMul", "y", &[&x, &w]);
        net.output("y", F32, &[1, 4, N]);
        net
    };
    assert_eq!(build(&[]).broken(), [""; 0]);
    assert_eq!(build(&["Transpose"]).broken(), [""; 0]);
    assert_eq!(build(&["Neg"]).broken(), ["weight-path"]);
    assert_eq!(build(&["Neg", "Transpose"]).broken(), ["weight-path"]);
    let mut cast = build(&["Cast"]);
    cast.set("Cast", "to", 1);
    cast.initializer("w").data_type = BF16;
    assert_eq!(cast.broken(), [""; 0]);
}

/// A weight whose block scales are integers, themselves scaled per channel.
#[test]
fn scales_of_scales() {
    let build = |scales: &str, element: i32, largest: u8| {
        let mut net = product(U16, I4, scales);
        let block: i64 = scales.parse().unwrap();
        net.0.graph.as_mut().unwrap().node.retain(|node| !["w", "y", "y.in.q", "y.in"].contains(&&node.name[..]));
        net.tensor("outer", F32, &[N], 0x3c);
        net.tensor("inner", element, &[K / block, N], 1);
        net.initializer("inner").raw_data[0] = largest;
        net.node("DequantizeLinear", "scales", &["inner", "outer"]);
        net.node("DequantizeLinear", "w", &["w.stored", "scales", "w.zero"]);
        net.set("w", "axis", 0);
        net.set("w", "block_size", block);
        net.node("MatMul", "y", &["x.in", "w"]);
        net.round("y", "in");
        net
    };
    assert_eq!(build("32", U8, 15).broken(), [""; 0]);
    assert_eq!(build("64", U8, 16).broken(), [""; 0]);
    for (scales, element, largest) in [("32", U8, 17), ("32", U8, 255), ("32", U8, 0), ("16", U8, 15), ("32", I8, 15)] {
        assert_eq!(build(scales, element, largest).broken(), ["block-scales"], "{scales} {element} {largest}");
    }
}

#[test]
fn the_result_of_a_weight_has_the_type_of_the_activation() {
    let build = |result: i32| {
        let mut net = product(U16, I8, "pc");
        net.graph().node.truncate(4);
        net.grid("out", result, 0.5, 0);
        net.round("y", "out");
        net.graph().output.clear();
        net.output("y.out", F32, &[1, 4, N]);
        net
    };
    assert_eq!(build(U16).broken(), [""; 0]);
    for result in [U8, I8, I16] {
        assert_eq!(build(result).broken(), ["matmul-output"], "{result}");
    }
    // Converted behind it.
    let mut net = build(U16);
    net.grid("narrow", U8, 0.5, 0);
    net.round("y.out", "narrow");
    net.output("y.out.narrow", F32, &[1, 4, N]);
    assert_eq!(net.broken(), [""; 0]);
}

#[test]
fn computed_operands() {
    for (a, b, rule) in [
        (U16, U8, ""),
        (U16, I8, ""),
        (U16, I16, ""),
        (I16, I16, ""),
        (I16, I8, ""),
        (U8, U8, ""),
        (I8, I8, ""),
        (U8, U16, "dynamic-pair"),
        (U16, U16, "dynamic-u16"),
        (I16, U8, "dynamic-pair"),
        (U8, I8, "dynamic-pair"),
        (I8, U8, "dynamic-pair"),
        (I8, I16, "dynamic-pair"),
    ] {
        let expected: &[&str] = if rule.is_empty() { &[] } else { &[rule] };
        assert_eq!(op("MatMul", &[a, b], U16).broken(), expected, "{a} by {b}");
    }
    // Floats.
    assert_eq!(op("MatMul", &[0, 0], 0).broken(), [""; 0]);
}

#[test]
fn int16_is_symmetric() {
    let mut net = op("MatMul", &[U16, I16], U16);
    net.initializer("g1.zero").raw_data[1] = 0xff;
    assert_eq!(net.broken(), ["asymmetric-int16"]);
    let mut net = op("MatMul", &[U16, I16], U16);
    net.initializer("g1.zero").raw_data.pop();
    assert_eq!(net.broken(), ["unreadable-numbers"]);
}

#[test]
fn older_chips() {
    let rules = |net: &Net, soc: &str| -> Vec<_> {
        net.violations(Some(socs::find(soc).unwrap())).into_iter().map(|violation| violation.rule).collect()
    };
    let (wide, cache, narrow) =
        (op("MatMul", &[U16, U8], U16), op("MatMul", &[U16, I16], U16), op("MatMul", &[U8, U8], U8));
    assert_eq!(rules(&wide, "SM8350"), ["narrow-htp"]);
    assert_eq!(rules(&narrow, "SM8350"), [""; 0]);
    assert_eq!(rules(&wide, "SM8450"), [""; 0]);
    assert_eq!(rules(&cache, "SM8450"), ["int16-product"]);
    assert_eq!(rules(&cache, "SM8550"), [""; 0]);
}
