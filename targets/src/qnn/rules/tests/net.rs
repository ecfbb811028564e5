//! Small graphs, built by hand.

use onnx_protobuf::type_proto::Tensor;
use onnx_protobuf::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto,
};

use crate::qnn::Soc;
use crate::qnn::rules::{Violation, check};

pub(super) const F32: i32 = 1;
pub(super) const U8: i32 = 2;
pub(super) const I8: i32 = 3;
pub(super) const U16: i32 = 4;
pub(super) const I16: i32 = 5;
pub(super) const I32: i32 = 6;
pub(super) const I64: i32 = 7;
pub(super) const BOOL: i32 = 9;
pub(super) const F16: i32 = 10;
pub(super) const F64: i32 = 11;
pub(super) const BF16: i32 = 16;
pub(super) const U4: i32 = 21;
pub(super) const I4: i32 = 22;

/// A model that grows.
#[derive(Clone, Debug)]
pub(super) struct Net(pub(super) ModelProto);

impl Net {
    /// Opset 21 and no node.
    pub(super) fn new() -> Net {
        let graph = GraphProto::default();
        let mut net = Net(ModelProto { graph: Some(graph).into(), ..Default::default() });
        net.versions(21, 10);
        net
    }

    pub(super) fn versions(&mut self, opset: i64, ir: i64) {
        self.0.ir_version = ir;
        self.0.opset_import = vec![OperatorSetIdProto { version: opset, ..Default::default() }];
    }

    pub(super) fn graph(&mut self) -> &mut GraphProto {
        self.0.graph.as_mut().unwrap()
    }

    pub(super) fn input(&mut self, name: &str, element: i32, dims: &[i64]) -> String {
        self.graph().input.push(info(name, element, dims));
        name.into()
    }

    pub(super) fn output(&mut self, name: &str, element: i32, dims: &[i64]) {
        self.graph().output.push(info(name, element, dims));
    }

    /// A stored tensor of one byte over and over.
    pub(super) fn tensor(&mut self, name: &str, element: i32, dims: &[i64], byte: u8) -> String {
        let bits = match element {
            F32 | I32 => 32,
            I64 | F64 => 64,
            U16 | I16 | F16 | BF16 => 16,
            U4 | I4 => 4,
            _ => 8,
        };
        let bytes = (dims.iter().product::<i64>() * bits + 7) / 8;
        self.stored(name, element, dims, vec![byte; bytes as usize])
    }

    pub(super) fn stored(&mut self, name: &str, element: i32, dims: &[i64], bytes: Vec<u8>) -> String {
        let (data_type, dims) = (element, dims.to_vec());
        let tensor = TensorProto { name: name.into(), data_type, dims, raw_data: bytes, ..Default::default() };
        self.graph().initializer.push(tensor);
        name.into()
    }

    /// Numbers of int64.
    pub(super) fn ints(&mut self, name: &str, ints: &[i64]) -> String {
        self.stored(name, I64, &[ints.len() as i64], ints.iter().flat_map(|n| n.to_le_bytes()).collect())
    }

    /// A node with one result, which has its name.
    pub(super) fn node(&mut self, op: &str, name: &str, inputs: &[&str]) -> String {
        self.graph().node.push(NodeProto {
            op_type: op.into(),
            name: name.into(),
            input: inputs.iter().map(|input| (*input).into()).collect(),
            output: vec![name.into()],
            ..Default::default()
        });
        name.into()
    }

    pub(super) fn named(&mut self, name: &str) -> &mut NodeProto {
        self.graph().node.iter_mut().find(|node| node.name == name).unwrap()
    }

    pub(super) fn initializer(&mut self, name: &str) -> &mut TensorProto {
        self.graph().initializer.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    /// Sets an integer attribute.
    pub(super) fn set(&mut self, node: &str, key: &str, value: i64) {
        self.named(node).attribute.push(AttributeProto { name: key.into(), i: value, ..Default::default() });
    }

    /// A grid with one scale, as `NAME.scale` and `NAME.zero`.
    pub(super) fn grid(&mut self, name: &str, element: i32, scale: f32, zero: i32) {
        self.stored(&format!("{name}.scale"), F32, &[], scale.to_le_bytes().to_vec());
        let width = if matches!(element, U16 | I16) { 2 } else { 1 };
        self.stored(&format!("{name}.zero"), element, &[], zero.to_le_bytes()[..width].to_vec());
    }

    /// Rounds a value to a grid; the result is `VALUE.GRID`.
    pub(super) fn round(&mut self, value: &str, grid: &str) -> String {
        let (scale, zero) = (format!("{grid}.scale"), format!("{grid}.zero"));
        let q = self.node("QuantizeLinear", &format!("{value}.{grid}.q"), &[value, &scale, &zero]);
        self.node("DequantizeLinear", &format!("{value}.{grid}"), &[&q, &scale, &zero])
    }

    /// Stored integers on a grid.
    pub(super) fn weight(&mut self, name: &str, element: i32, dims: &[i64], grid: &str) -> String {
        let stored = self.tensor(&format!("{name}.stored"), element, dims, 0);
        self.node("DequantizeLinear", name, &[&stored, &format!("{grid}.scale"), &format!("{grid}.zero")])
    }

    /// Everything that it breaks.
    pub(super) fn violations(&self, soc: Option<&Soc>) -> Vec<Violation> {
        check(&self.0, &|_| None, soc)
    }

    /// The rules that it breaks, each once.
    pub(super) fn broken(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.violations(None).into_iter().map(|violation| violation.rule).collect();
        names.dedup();
        names
    }
}

/// A declared value; a dimension of 0 is symbolic.
pub(super) fn info(name: &str, element: i32, dims: &[i64]) -> ValueInfoProto {
    let mut shape = TensorShapeProto::default();
    for &dim in dims {
        let mut axis = onnx_protobuf::tensor_shape_proto::Dimension::default();
        if dim > 0 {
            axis.set_dim_value(dim)
        } else {
            axis.set_dim_param("T".into())
        }
        shape.dim.push(axis);
    }
    let mut ty = TypeProto::default();
    ty.set_tensor_type(Tensor { elem_type: element, shape: Some(shape).into(), ..Default::default() });
    ValueInfoProto { name: name.into(), type_: Some(ty).into(), ..Default::default() }
}

/// A graph of one op: inputs of these types (float if 0) through their grids, and its result through its own.
pub(super) fn op(op: &str, inputs: &[i32], result: i32) -> Net {
    let mut net = Net::new();
    let mut names = Vec::new();
    for (i, &element) in inputs.iter().enumerate() {
        let x = net.input(&format!("x{i}"), F32, &[1, 2, 4, 4]);
        names.push(if element == 0 {
            x
        } else {
            net.grid(&format!("g{i}"), element, 0.5, 0);
            net.round(&x, &format!("g{i}"))
        });
    }
    net.node(op, "y", &names.iter().map(String::as_str).collect::<Vec<_>>());
    if result == 0 {
        net.output("y", F32, &[1, 2, 4, 4]);
    } else {
        net.grid("out", result, 0.5, 0);
        net.round("y", "out");
        net.output("y.out", F32, &[1, 2, 4, 4]);
    }
    net
}
