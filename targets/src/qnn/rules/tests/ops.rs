//! Single ops and their types.

use super::net::*;

/// One op with a stored operand behind its inputs: an integer on a grid of its own, a float if 0.
fn with_stored(kind: &str, act: i32, stored: i32) -> Net {
    let mut net = op(kind, &[act], act);
    net.graph().input[0] = info("x0", F32, &[1, 1, 4, 4]);
    let mut nodes = std::mem::take(&mut net.graph().node);
    let at = nodes.iter().position(|node| node.name == "y").unwrap();
    if stored == 0 {
        net.tensor("gain", F32, &[4], 0);
    } else {
        net.grid("gain", stored, 0.5, 0);
        net.weight("gain", stored, &[4], "gain");
    }
    nodes[at].input.push("gain".into());
    let made = std::mem::take(&mut net.graph().node);
    nodes.splice(at..at, made);
    net.graph().node = nodes;
    net
}

#[test]
fn gains_of_norms() {
    for (act, gain, legal) in [
        (U16, U8, true),
        (U16, U16, true),
        (U16, I16, true),
        (U16, I8, false),
        (I16, U8, true),
        (I16, I16, true),
        (I16, U16, false),
        (U8, U8, true),
        (U8, U16, false),
        (I8, U8, false),
        (0, 0, true),
    ] {
        let expected: &[&str] = if legal { &[] } else { &["norm-gamma"] };
        assert_eq!(with_stored("SimplifiedLayerNormalization", act, gain).broken(), expected, "{act} {gain}");
        let mut net = with_stored("RMSNormalization", act, gain);
        net.versions(23, 11);
        assert_eq!(net.broken(), expected, "{act} {gain}");
    }
    for (gain, legal) in [(U8, true), (I16, true), (U16, false), (I8, false)] {
        let expected: &[&str] = if legal { &[] } else { &["layer-norm-gamma"] };
        assert_eq!(with_stored("LayerNormalization", U16, gain).broken(), expected, "{gain}");
    }
}

#[test]
fn norms_are_over_the_last_axis() {
    for (axis, legal) in [(-1, true), (3, true), (2, false), (-2, false)] {
        let mut net = with_stored("SimplifiedLayerNormalization", U16, U16);
        net.set("y", "axis", axis);
        assert_eq!(net.broken(), if legal { &[][..] } else { &["norm-axis"] }, "{axis}");
        let mut net = op("Softmax", &[U16], U16);
        net.set("y", "axis", axis);
        assert_eq!(net.broken(), if legal { &[][..] } else { &["softmax-axis"] }, "{axis}");
    }
    let mut net = with_stored("SimplifiedLayerNormalization", 0, 0);
    net.graph().input[0] = info("x0", F32, &[1, 1, 2, 4, 4]);
    assert_eq!(net.broken(), ["high-rank", "norm-axis"]);
}

#[test]
fn norms_are_over_one_matrix() {
    for (act, gain, legal) in [(0, 0, false), (U8, U8, false), (U16, U16, true)] {
        let expected: &[&str] = if legal { &[] } else { &["norm-rows"] };
        let mut net = with_stored("SimplifiedLayerNormalization", act, gain);
        net.graph().input[0] = info("x0", F32, &[1, 2, 4, 4]);
        assert_eq!(net.broken(), expected, "{act}");
        net.graph().input[0] = info("x0", F32, &[1, 8, 4]);
        assert_eq!(net.broken(), [""; 0], "{act}");
    }
    for (sizes, expected) in
        [(&[1, 1, -1, 4][..], &[][..]), (&[1, 2, -1, 4], &["norm-rows"]), (&[0, 0, -1, 4], &["norm-rows"])]
    {
        let mut net = with_stored("SimplifiedLayerNormalization", 0, 0);
        net.ints("sizes", sizes);
        let mut nodes = std::mem::take(&mut net.graph().node);
        net.node("Reshape", "flat", &["x0", "sizes"]);
        nodes.iter_mut().find(|node| node.name == "y").unwrap().input[0] = "flat".into();
        net.graph().node.extend(nodes);
        assert_eq!(net.broken(), expected, "{sizes:?}");
    }
}

#[test]
fn a_mean_of_rounded_numbers() {
    assert_eq!(op("ReduceMean", &[U16], U16).broken(), ["decomposed-norm"]);
    assert_eq!(op("ReduceMean", &[0], 0).broken(), [""; 0]);
}

#[test]
fn sigmoid() {
    for (element, scale, zero, legal) in [
        (U16, 1.0 / 65536.0, 0, true),
        (U16, 1.0 / 65535.0, 0, false),
        (U16, 1.0 / 65536.0, 1, false),
        (U8, 1.0 / 256.0, 0, true),
        (U8, 1.0 / 255.0, 0, false),
        (I16, 1.0 / 32768.0, 0, true),
    ] {
        let mut net = op("Sigmoid", &[element], element);
        net.initializer("out.scale").raw_data = f32::to_le_bytes(scale).to_vec();
        net.initializer("out.zero").raw_data[0] = zero;
        assert_eq!(net.broken(), if legal { &[][..] } else { &["sigmoid-grid"] }, "{element} {scale} {zero}");
    }
}

#[test]
fn softmax() {
    for (element, scale, zero, legal) in [
        (U16, 1.0 / 65536.0, 0, true),
        (U16, 1.0 / 65536.0, 1, true),
        (U16, 0.5 / 65536.0, 0, false),
        (U8, 1.0 / 255.0, 0, true),
        (U8, 1.0 / 128.0, 127, false),
        (U8, 1.0 / 512.0, 0, false),
    ] {
        let mut net = op("Softmax", &[element], element);
        net.initializer("out.scale").raw_data = f32::to_le_bytes(scale).to_vec();
        net.initializer("out.zero").raw_data[0] = zero;
        assert_eq!(net.broken(), if legal { &[][..] } else { &["softmax-grid"] }, "{element} {scale} {zero}");
    }
}

/// `Softmax(scores + mask)`.
#[test]
fn masks() {
    let build = |low: f32| {
        let mut net = op("Add", &[U16, U16], U16);
        for grid in ["g1", "out"] {
            net.initializer(&format!("{grid}.scale")).raw_data = (low / 65535.0).to_le_bytes().to_vec();
            net.initializer(&format!("{grid}.zero")).raw_data = vec![0xff, 0xff];
        }
        net.graph().output.clear();
        net.node("Softmax", "weights", &["y.out"]);
        net.round("weights", "g0");
        net.output("weights.g0", F32, &[1, 2, 4, 4]);
        net
    };
    assert_eq!(build(50.0).broken(), [""; 0]);
    assert_eq!(build(999.0).broken(), [""; 0]);
    assert_eq!(build(10_000.0).broken(), ["mask-grid"]);
    for (low, legal) in [(199.0, true), (201.0, false)] {
        let mut net = op("Add", &[U8, U8], U8);
        net.initializer("out.scale").raw_data = f32::to_le_bytes(low / 255.0).to_vec();
        net.initializer("out.zero").raw_data = vec![0xff];
        net.graph().output.clear();
        net.node("Softmax", "weights", &["y.out"]);
        net.round("weights", "g0");
        net.output("weights.g0", F32, &[1, 2, 4, 4]);
        assert_eq!(net.broken(), if legal { &[][..] } else { &["mask-grid"] }, "{low}");
    }
    let violation = build(10_000.0).violations(None).remove(0);
    assert_eq!((&violation.place[..], &violation.what[..]), ("y", "down to -1.0000e4 by \"out.scale\""));
    // An Add elsewhere may have any range.
    let mut net = build(10_000.0);
    net.named("weights").op_type = "Neg".into();
    assert_eq!(net.broken(), [""; 0]);
}

#[test]
fn boolean_masks() {
    let attention = |mask: i32| {
        let mut net = op("Attention", &[0, 0, 0], 0);
        net.versions(23, 11);
        net.tensor("mask", mask, &[4, 4], 0);
        net.named("y").input.push("mask".into());
        net
    };
    assert_eq!(attention(F32).broken(), [""; 0]);
    assert_eq!(attention(BOOL).broken(), ["boolean-mask"]);
    let select = |element: i32| {
        let mut net = op("Where", &[element, element], element);
        net.tensor("mask", BOOL, &[4, 4], 0);
        net.named("y").input.insert(0, "mask".into());
        net
    };
    assert_eq!(select(0).broken(), [""; 0]);
    assert_eq!(select(U16).broken(), ["boolean-mask"]);
}

#[test]
fn ops_for_floats() {
    for kind in ["RotaryEmbedding", "Attention"] {
        for (element, rule) in [(0, &[][..]), (U16, &["float-only"])] {
            let mut net = op(kind, &[element, element, element], element);
            assert_eq!(net.broken()[0], "op-version", "{kind}");
            net.versions(23, 11);
            assert_eq!(net.broken(), rule, "{kind} {element}");
        }
    }
}

#[test]
fn unknown_ops() {
    for kind in ["Einsum", "GatherND", "If", "MatMulNBits", "Sub"] {
        assert_eq!(op(kind, &[0], 0).broken(), ["unknown-op"], "{kind}");
    }
    for kind in ["RotaryEmbedding", "GroupQueryAttention", "QuantizeLinear"] {
        let mut net = op(kind, &[0], 0);
        net.named("y").domain = "com.microsoft".into();
        assert_eq!(net.broken(), ["contrib-op"], "{kind}");
    }
    let mut net = op("Neg", &[0], 0);
    net.named("y").domain = "ai.onnx".into();
    assert_eq!(net.broken(), [""; 0]);
    let mut net = op("Cast", &[0], 0);
    net.set("y", "to", 10);
    assert_eq!(net.broken(), ["unknown-op"]);
}

/// `table` on a grid with so many scales, or float.
fn gather(table: i32, scales: i64, indices: i32) -> Net {
    let mut net = Net::new();
    net.input("ids", indices, &[1, 4]);
    if table == F32 || table == F64 {
        net.tensor("table", table, &[8, 4], 0);
    } else {
        net.tensor("t.scale", F32, &vec![scales; usize::from(scales > 1)], 0x3c);
        net.tensor("t.zero", table, &vec![scales; usize::from(scales > 1)], 0);
        net.weight("table", table, &[8, 4], "t");
        net.set("table", "axis", 0);
    }
    net.node("Gather", "y", &["table", "ids"]);
    net.output("y", F32, &[1, 4, 4]);
    net
}

#[test]
fn tables() {
    for table in [F32, U16, U8, I8, I16] {
        assert_eq!(gather(table, 1, I32).broken(), [""; 0], "{table}");
        assert_eq!(gather(table, 1, I64).broken(), [""; 0], "{table}");
        assert_eq!(gather(table, 1, U8).broken(), ["table-type"], "{table}");
    }
    assert_eq!(gather(I4, 1, I32).broken(), ["table-type"]);
    assert_eq!(gather(U8, 8, I32).broken(), ["table-scales"]);
    // A table of 8 bits gives activations of 16.
    let mut net = gather(U8, 1, I32);
    net.grid("out", U16, 0.5, 0);
    net.round("y", "out");
    net.graph().output.clear();
    net.output("y.out", F32, &[1, 4, 4]);
    assert_eq!(net.broken(), [""; 0]);
}

#[test]
fn weights_of_n_bits() {
    let build = |bits: i64, block: i64, zeros: Option<u8>| {
        let mut net = op("MatMulNBits", &[0], 0);
        net.tensor("packed", U8, &[4, 1, 16], 0);
        net.tensor("scales", F32, &[4], 0);
        net.named("y").domain = "com.microsoft".into();
        net.named("y").input.extend(["packed".into(), "scales".into()]);
        net.set("y", "bits", bits);
        net.set("y", "block_size", block);
        if let Some(byte) = zeros {
            net.tensor("zeros", U8, &[4], byte);
            net.named("y").input.push("zeros".into());
        }
        net
    };
    for (bits, block, zeros, legal) in [
        (4, 16, None, true),
        (4, 128, None, true),
        (4, 256, None, false),
        (8, 32, None, true),
        (8, 16, None, false),
        (2, 32, None, false),
        (4, 32, Some(0x88), true),
        (4, 32, Some(0x87), false),
        (4, 64, Some(0x88), false),
        (8, 32, Some(0x88), false),
    ] {
        let expected: &[&str] = if legal { &[] } else { &["nbits"] };
        assert_eq!(build(bits, block, zeros).broken(), expected, "{bits} {block} {zeros:?}");
    }
}

#[test]
fn sizes_are_stored() {
    let mut net = op("Reshape", &[0], 0);
    net.ints("shape", &[1, -1, 4]);
    net.named("y").input.push("shape".into());
    assert_eq!(net.broken(), [""; 0]);
    net.input("sizes", I64, &[3]);
    net.named("y").input[1] = "sizes".into();
    assert_eq!(net.broken(), ["run-time-shape"]);
}
