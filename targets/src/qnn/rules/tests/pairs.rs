//! `QuantizeLinear` and `DequantizeLinear` around ops.

use super::net::*;

#[test]
fn a_pair_around_every_op() {
    assert_eq!(op("Add", &[U16, U16], U16).broken(), [""; 0]);
    // Floats alone need none.
    assert_eq!(op("Add", &[0, 0], 0).broken(), [""; 0]);
    for (inputs, result) in [([U16, 0], U16), ([U16, U16], 0)] {
        assert_eq!(op("Add", &inputs, result).broken(), ["unquantized-tensor"]);
    }
    // Between two ops.
    let mut net = op("Add", &[U16, U16], U16);
    net.node("Neg", "z", &["y"]);
    net.round("z", "out");
    net.output("z.out", F32, &[1, 2, 4, 4]);
    let found = net.violations(None);
    assert_eq!(found.len(), 1);
    let violation = &found[0];
    assert_eq!(
        (violation.rule, &violation.place[..], &violation.what[..]),
        ("unquantized-tensor", "z", "input 0, \"y\"")
    );
}

#[test]
fn constants_are_rounded_too() {
    let mut net = op("Add", &[U16], U16);
    net.tensor("bias", F32, &[4], 0);
    net.named("y").input.push("bias".into());
    assert_eq!(net.broken(), ["unquantized-tensor"]);
}

#[test]
fn integers_go_in_and_out() {
    let mut net = op("Concat", &[], U8);
    net.set("y", "axis", 2);
    for (name, element) in [("past", U8), ("more", U8)] {
        net.input(name, element, &[1, 2, 4, 4]);
    }
    let pair = net.graph().node.split_off(1);
    let concat = net.graph().node.pop().unwrap();
    for name in ["past", "more"] {
        net.node("DequantizeLinear", &format!("{name}.read"), &[name, "out.scale", "out.zero"]);
    }
    net.graph().node.push(concat);
    net.graph().node.extend(pair);
    net.named("y").input = vec!["past.read".into(), "more.read".into()];
    net.output("y.out.q", U8, &[1, 2, 8, 4]);
    assert_eq!(net.broken(), [""; 0]);
    // Integers that an op has computed on.
    net.named("past.read").input[0] = "moved".into();
    let mut moved = net.graph().node[0].clone();
    (moved.op_type, moved.name) = ("Transpose".into(), "moved".into());
    (moved.input, moved.output) = (vec!["past".into()], vec!["moved".into()]);
    net.graph().node.insert(0, moved);
    assert_eq!(net.broken(), ["lone-dequantize"]);
}

#[test]
fn lone_halves() {
    let mut net = op("Add", &[U16, U16], U16);
    net.node("QuantizeLinear", "q", &["y", "out.scale", "out.zero"]);
    assert_eq!(net.broken(), ["lone-quantize"]);
    net.node("Transpose", "moved", &["q"]);
    net.output("moved", U16, &[4, 4, 2, 1]);
    assert_eq!(net.broken(), ["lone-quantize"]);
    let mut net = op("Add", &[U16, U16], U16);
    net.graph().output.clear();
    assert_eq!(net.broken(), ["lone-dequantize"]);
}

#[test]
fn both_halves_have_one_grid() {
    let mut net = op("Add", &[U16, U16], U16);
    net.grid("other", U16, 0.25, 0);
    net.named("x0.g0").input[1] = "other.scale".into();
    assert_eq!(net.broken(), ["pair-parameters"]);
    // The same numbers, stored twice.
    net.initializer("other.scale").raw_data = 0.5f32.to_le_bytes().to_vec();
    assert_eq!(net.broken(), [""; 0]);
}

#[test]
fn moving_keeps_the_grid() {
    for (kind, inputs) in [("Transpose", 1), ("Concat", 2), ("Split", 1)] {
        let mut net = op(kind, &[U16, U16][..inputs], U16);
        net.set("y", "axis", 2);
        assert_eq!(net.broken(), [""; 0], "{kind}");
        for grid in ["out", "g0", "g1"].iter().take(inputs + 1) {
            let mut net = net.clone();
            net.initializer(&format!("{grid}.zero")).raw_data[0] = 1;
            let silent = ["Transpose", "Concat"].contains(&kind);
            let rule = if silent { "movement-zero-point" } else { "movement-parameters" };
            assert_eq!(net.broken(), [rule], "{kind} {grid}");
            net.initializer(&format!("{grid}.zero")).raw_data[0] = 0;
            net.initializer(&format!("{grid}.scale")).raw_data = 0.25f32.to_le_bytes().to_vec();
            assert_eq!(net.broken(), ["movement-parameters"], "{kind} {grid}");
        }
    }
    // Another type is another grid.
    assert_eq!(op("Transpose", &[U16], U8).broken(), ["movement-parameters"]);
}

#[test]
fn one_scale_for_activations() {
    let mut net = op("Add", &[U16, U16], U16);
    net.initializer("g0.scale").dims = vec![1];
    assert_eq!(net.broken(), [""; 0]);
    net.tensor("g0.many", F32, &[4], 0x3c);
    for half in ["x0.g0.q", "x0.g0"] {
        net.named(half).input[1] = "g0.many".into();
    }
    assert_eq!(net.broken(), ["activation-scale"]);
    let mut net = op("Add", &[U16, U16], U16);
    net.initializer("g0.scale").raw_data = f32::NAN.to_le_bytes().to_vec();
    assert_eq!(net.broken(), ["unreadable-numbers"]);
}

#[test]
fn types_of_activations() {
    assert_eq!(op("Add", &[I32, U16], U16).broken(), ["activation-type", "unreadable-numbers"][..1].to_vec());
    assert_eq!(op("Mul", &[I16, I16], I16).broken(), [""; 0]);
    for kind in ["Sigmoid", "Add", "Mul", "Neg", "Clip", "Softmax"] {
        assert_eq!(op(kind, &[I8], I8).broken(), ["untried-type"], "{kind}");
    }
    for kind in ["Neg", "Clip", "Expand", "Tile"] {
        assert_eq!(op(kind, &[I16], I16).broken(), ["int16-op"], "{kind}");
        assert_eq!(op(kind, &[U16], U16).broken(), [""; 0], "{kind}");
    }
}
