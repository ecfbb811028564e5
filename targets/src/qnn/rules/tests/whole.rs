//! What concerns a model as a whole.

use onnx_protobuf::FunctionProto;

use super::net::*;

#[test]
fn versions() {
    for (opset, ir, rule) in [
        (21, 10, ""),
        (22, 10, ""),
        (23, 11, ""),
        (24, 12, ""),
        (25, 13, ""),
        (26, 13, ""),
        (20, 9, "opset"),
        (27, 13, "opset"),
        (21, 9, "ir-version"),
        (23, 10, "ir-version"),
    ] {
        let mut net = op("Add", &[0, 0], 0);
        net.versions(opset, ir);
        assert_eq!(net.broken(), if rule.is_empty() { vec![] } else { vec![rule] }, "{opset} {ir}");
    }
    let mut net = op("Add", &[0, 0], 0);
    net.0.opset_import[0].domain = "com.microsoft".into();
    assert_eq!(net.broken(), ["opset"]);
    let mut net = op("Add", &[0, 0], 0);
    net.0.functions.push(FunctionProto::default());
    assert_eq!(net.broken(), ["functions"]);
}

#[test]
fn names() {
    let mut net = op("Add", &[0, 0], 0);
    net.named("y").input[0] = "nowhere".into();
    assert_eq!(net.broken(), ["missing-value"]);
    let mut net = op("Add", &[0, 0], 0);
    net.output("nowhere", F32, &[1]);
    assert_eq!(net.broken(), ["missing-value"]);
    let mut net = op("Add", &[0, 0], 0);
    net.tensor("x0", F32, &[1], 0);
    assert_eq!(net.broken(), ["duplicate-name"]);
    let mut net = op("Add", &[0, 0], 0);
    net.node("Neg", "y", &["x0"]);
    assert_eq!(net.broken(), ["duplicate-name"]);
}

#[test]
fn dimensions_are_fixed() {
    let mut net = op("Add", &[0, 0], 0);
    net.graph().input[0] = info("x0", F32, &[1, 0, 4, 4]);
    assert_eq!(net.broken(), ["dynamic-shape"]);
    let violation = net.violations(None).remove(0);
    assert_eq!((&violation.place[..], &violation.what[..]), ("input \"x0\"", "axis 1 is \"T\""));
    let mut net = op("Add", &[0, 0], 0);
    net.graph().value_info.push(info("y", F32, &[0]));
    assert_eq!(net.broken(), ["dynamic-shape"]);
    let mut net = op("Add", &[0, 0], 0);
    net.graph().output[0].type_.as_mut().unwrap().mut_tensor_type().shape = None.into();
    assert_eq!(net.broken(), ["dynamic-shape"]);
}

#[test]
fn ranks() {
    let build = |kind: &str, rank: usize| {
        let mut net = op(kind, &[0], 0);
        net.graph().input[0] = info("x0", F32, &vec![1; rank]);
        net.graph().output[0] = info("y", F32, &vec![1; rank]);
        net
    };
    assert_eq!(build("Neg", 4).broken(), [""; 0]);
    assert_eq!(build("Neg", 5).broken(), ["high-rank"]);
    assert_eq!(build("Transpose", 5).broken(), [""; 0]);
    assert_eq!(build("Transpose", 6).broken(), ["high-rank"]);
}

#[test]
fn elements() {
    for element in [F32, F16, U8, I8, U16, I16, I32, I64] {
        let mut net = op("Reshape", &[0], 0);
        net.graph().input[0] = info("x0", element, &[4]);
        assert_eq!(net.broken(), [""; 0], "{element}");
    }
    for element in [F64, BOOL, U4, I4, 8, 23, 0, -1, 99] {
        let mut net = op("Reshape", &[0], 0);
        net.graph().input[0] = info("x0", element, &[4]);
        assert_eq!(net.broken(), ["element-type"], "{element}");
    }
}

#[test]
fn bfloat16() {
    let build = |to: i64| {
        let mut net = op("Add", &[0], 0);
        let add = net.graph().node.pop().unwrap();
        net.tensor("stored", BF16, &[4], 0);
        net.node("Cast", "bias", &["stored"]);
        net.set("bias", "to", to);
        net.graph().node.push(add);
        net.named("y").input.push("bias".into());
        net
    };
    assert_eq!(build(1).broken(), [""; 0]);
    assert_eq!(build(10).broken(), ["bf16"]);
    let mut net = op("Neg", &[0], 0);
    net.graph().input[0] = info("x0", BF16, &[4]);
    assert_eq!(net.broken(), ["bf16"]);
}

#[test]
fn size() {
    let build = |rows: i64| {
        let mut net = op("Neg", &[0], 0);
        net.tensor("large", I8, &[1], 0);
        net.initializer("large").dims = vec![rows, 1 << 10];
        net
    };
    assert_eq!(build(1 << 21).broken(), [""; 0]);
    assert_eq!(build((1 << 21) + 1).broken(), ["context-size"]);
    assert_eq!(build(i64::MAX).broken(), ["context-size"]);
}
