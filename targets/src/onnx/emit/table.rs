//! Inputs and outputs of the files, for people who write hosts.

use diffulex_compiler::ir::{Module, Op};
use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::tensor_shape_proto::dimension::Value;
use onnx_protobuf::{ValueInfoProto, type_proto};
use protobuf::Enum;

use super::Files;
use crate::artifact::{Step, Tensor};
use crate::onnx::schema::{self, DIMS};

impl Files<'_> {
    /// What a host must know to run the files.
    pub fn step(&self) -> Step {
        let module = self.module;
        let graph = self.graphs.first().and_then(|(_, model)| model.graph.as_ref());
        let tensors = |list: &[ValueInfoProto]| list.iter().map(|info| tensor(module, info)).collect();
        let theta =
            module.nodes.iter().find_map(|n| if let Op::RopeCos { theta, .. } = n.op { Some(theta) } else { None });
        let mut tokens: Vec<usize> = super::lengths(module, &self.options).into_iter().flatten().collect();
        tokens.sort_unstable();
        Step {
            graphs: self.graphs.iter().map(|(name, _)| name.clone()).collect(),
            tokens,
            max_tokens: module.bounds.t,
            max_cache: module.bounds.c,
            rope_theta: theta.unwrap_or_default(),
            inputs: graph.map_or(vec![], |graph| tensors(&graph.input)),
            outputs: graph.map_or(vec![], |graph| tensors(&graph.output)),
        }
    }
}

fn tensor(module: &Module, info: &ValueInfoProto) -> Tensor {
    let named = |(cache, _): &(_, _)| [schema::past(*cache), schema::new(*cache)].contains(&info.name);
    let grid = module.new_rows().find(named).and_then(|(_, rows)| schema::grid_at(module, rows));
    let (dtype, dims) = match info.type_.as_ref().and_then(|ty| ty.value.as_ref()) {
        Some(type_proto::Value::TensorType(tensor)) => (tensor.elem_type, tensor.shape.dim.as_slice()),
        _ => (0, &[][..]),
    };
    let size = |dim: &onnx_protobuf::tensor_shape_proto::Dimension| match &dim.value {
        Some(Value::DimValue(size)) => size.to_string(),
        Some(Value::DimParam(name)) => name.clone(),
        _ => DIMS[0].into(),
    };
    Tensor {
        name: info.name.clone(),
        dtype: DataType::from_i32(dtype).map_or(String::new(), |dtype| format!("{dtype:?}").to_lowercase()),
        shape: dims.iter().map(size).collect(),
        scale: grid.map(|grid| grid.scale),
        zero_point: grid.map(|grid| grid.zero),
    }
}
