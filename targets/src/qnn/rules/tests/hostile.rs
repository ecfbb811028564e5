//! Graphs that nobody writes by accident.

use onnx_protobuf::{ModelProto, NodeProto};
use proptest::prelude::*;

use super::net::*;

#[test]
fn nothing_at_all() {
    assert_eq!(Net(ModelProto::default()).broken(), ["opset"]);
    let mut net = Net::new();
    net.graph().node.push(NodeProto::default());
    net.graph().initializer.push(Default::default());
    net.graph().input.push(Default::default());
    net.graph().output.push(Default::default());
    assert!(net.broken().contains(&"unknown-op"));
}

#[test]
fn circles() {
    let mut net = op("Add", &[U16, U16], U16);
    net.named("y").input[0] = "y.out".into();
    assert!(net.broken().contains(&"missing-value"));
    net.named("y").input = vec!["y".into(), "y".into()];
    assert!(net.broken().contains(&"missing-value"));
    let mut net = Net::new();
    for _ in 0..3 {
        net.node("DequantizeLinear", "a", &["a", "a", "a"]);
    }
    assert_eq!(net.broken()[..2], ["duplicate-name", "missing-value"]);
}

/// Ops with any inputs, attributes and elements, in any order.
fn any_net() -> impl Strategy<Value = Net> {
    let kinds = [
        "QuantizeLinear",
        "DequantizeLinear",
        "MatMul",
        "Gather",
        "Softmax",
        "Add",
        "Reshape",
        "Unsqueeze",
        "Squeeze",
        "Concat",
        "Cast",
        "Constant",
        "SimplifiedLayerNormalization",
        "MatMulNBits",
        "Where",
        "Expand",
        "Sigmoid",
    ];
    let name = || prop::sample::select(vec!["", "a", "b", "c", "d", "s", "z", "w"]);
    let number = prop::sample::select(vec![i64::MIN, -2, -1, 0, 1, 2, 32, i64::MAX]);
    let element = prop::sample::select(vec![-1, 0, F32, U8, U16, I16, I8, F16, BF16, U4, I4, I64, 99]);
    let node = (
        prop::sample::select(kinds.to_vec()),
        prop::collection::vec(name(), 0..5),
        prop::collection::vec(name(), 0..3),
        prop::collection::vec((prop::sample::select(vec!["axis", "block_size", "to", "bits"]), number.clone()), 0..3),
        prop::sample::select(vec!["", "ai.onnx", "com.microsoft"]),
    );
    let tensor = (
        name(),
        element.clone(),
        prop::collection::vec(number, 0..3),
        prop::collection::vec(any::<u8>(), 0..9),
        prop::collection::vec(any::<i32>(), 0..3),
    );
    let input = (name(), element, prop::collection::vec(0..7i64, 0..7));
    let parts =
        (prop::collection::vec(node, 0..9), prop::collection::vec(tensor, 0..5), prop::collection::vec(input, 0..4));
    parts.prop_map(|(nodes, tensors, inputs)| {
        let mut net = Net::new();
        for (name, element, dims, bytes, ints) in tensors {
            net.stored("t", element, &dims, bytes);
            let tensor = net.graph().initializer.last_mut().unwrap();
            (tensor.name, tensor.int32_data) = (name.into(), ints);
        }
        for (name, element, dims) in inputs {
            net.input(name, element, &dims);
            net.output(name, element, &dims);
        }
        for (i, (kind, inputs, outputs, attributes, domain)) in nodes.into_iter().enumerate() {
            let name = net.node(kind, &format!("n{i}"), &inputs);
            net.named(&name).output = outputs.into_iter().map(String::from).collect();
            net.named(&name).domain = domain.into();
            attributes.into_iter().for_each(|(key, value)| net.set(&name, key, value));
        }
        net
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// There is always an answer, and always the same one.
    #[test]
    fn any_graph(net in any_net()) {
        let chip = crate::qnn::socs::find("SM8350").unwrap();
        prop_assert_eq!(net.violations(Some(chip)), net.violations(Some(chip)));
    }
}

/// Every node looks at the same large zero points: they are read once.
#[test]
fn one_large_tensor_for_many_nodes() {
    let mut net = Net::new();
    net.input("x", F32, &[1, 4]);
    net.tensor("scale", F32, &[1 << 20], 0x3c);
    net.tensor("zero", I4, &[1 << 20], 0);
    net.tensor("stored", I4, &[1, 1 << 20], 0);
    for i in 0..2000 {
        net.node("DequantizeLinear", &format!("w{i}"), &["stored", "scale", "zero"]);
        net.node("MatMul", &format!("y{i}"), &["x", &format!("w{i}")]);
    }
    assert_eq!(net.broken(), ["weight-only"]);
}
