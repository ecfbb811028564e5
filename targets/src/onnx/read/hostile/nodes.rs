//! Nodes.

use super::{FLOAT, refused};
use crate::onnx::small::{W4A16, W8A16};

#[test]
fn nodes() {
    refused(&[
        (FLOAT, "this operator", |p| p.node("Add", 0).op_type = "Where".into()),
        (FLOAT, "other domains", |p| p.node("Add", 0).domain = "com.microsoft".into()),
        (FLOAT, "other domains", |p| p.node("Add", 0).domain = "ai.onnx".into()),
        (FLOAT, "overloads", |p| p.node("Add", 0).overload = "x".into()),
        (FLOAT, "several results", |p| p.node("Add", 0).output.push("more".into())),
        (FLOAT, "several results", |p| p.node("Add", 0).output.clear()),
        (FLOAT, "defined twice", |p| p.node("Add", 0).output[0] = "input_ids".into()),
        (FLOAT, "defined twice", |p| p.node("Add", 0).output[0] = "embed_tokens".into()),
        (FLOAT, "has no operand", |p| p.node("Add", 0).input[0] = "nobody".into()),
        (FLOAT, "has no operand", |p| p.node("Add", 0).input[0] = String::new()),
        // A circle.
        (FLOAT, "has no operand", |p| {
            let node = p.node("Add", 0);
            node.input[0] = node.output[0].clone();
        }),
        (FLOAT, "has no operand", |p| p.graph().node.reverse()),
        (FLOAT, "node", |p| p.graph().node.clear()),
        (FLOAT, "takes 2 operands, not 1", |p| _ = p.node("Add", 0).input.pop()),
        (FLOAT, "field 99", |p| p.node("Add", 0).special_fields.mut_unknown_fields().add_varint(99, 1)),
        (FLOAT, "new_k_0", |p| p.maker("new_k_0").output[0] = "hidden".into()),
        (W8A16, "", |p| _ = p.graph().node.pop()),
    ]);
}

#[test]
fn attributes() {
    refused(&[
        (FLOAT, "attribute", |p| p.node("Softmax", 0).attribute[0].name = "axes".into()),
        (FLOAT, "axis", |p| p.node("Softmax", 0).attribute[0].i = 1),
        (FLOAT, "no axis 9", |p| p.node("Softmax", 0).attribute[0].i = 9),
        (FLOAT, "no axis", |p| p.node("Softmax", 0).attribute[0].i = i64::MIN),
        (FLOAT, "not of type INT", |p| p.node("Softmax", 0).attribute[0].type_ = protobuf::EnumOrUnknown::from_i32(1)),
        (FLOAT, "not of type INT", |p| p.node("Softmax", 0).attribute[0].type_ = protobuf::EnumOrUnknown::from_i32(77)),
        (FLOAT, "stands twice", |p| {
            let node = p.node("Softmax", 0);
            node.attribute.push(node.attribute[0].clone());
        }),
        (FLOAT, "functions", |p| p.node("Softmax", 0).attribute[0].ref_attr_name = "x".into()),
        (FLOAT, "attributes that are", |p| p.node("Softmax", 0).attribute[0].g = Some(Default::default()).into()),
        (FLOAT, "below 0", |p| p.node("Transpose", 0).attribute[0].ints[0] = -1),
        (FLOAT, "length of an attribute", |p| p.node("Transpose", 0).attribute[0].ints = vec![0; 99]),
        (FLOAT, "", |p| p.node("Transpose", 0).attribute[0].ints = vec![0, 0, 0, 0]),
        (FLOAT, "", |p| p.node("RMSNormalization", 0).attribute[1].f = f32::NAN),
        (FLOAT, "stash_type", |p| p.node("RMSNormalization", 0).attribute[2].i = 10),
        (W8A16, "attribute", |p| {
            let axis = p.node("Softmax", 0).attribute[0].clone();
            p.node("QuantizeLinear", 0).attribute.push(axis);
        }),
    ]);
}

#[test]
fn grids() {
    refused(&[
        (W8A16, "operands, not 3", |p| _ = p.node("QuantizeLinear", 0).input.pop()),
        (W8A16, "scale", |p| p.tensor("grid.0.scale").raw_data = (-1f32).to_le_bytes().to_vec()),
        (W8A16, "scale", |p| p.tensor("grid.0.scale").raw_data = f32::INFINITY.to_le_bytes().to_vec()),
        (W8A16, "several scales", |p| {
            let scale = p.tensor("grid.0.scale");
            (scale.dims, scale.raw_data) = (vec![2], vec![0; 8]);
        }),
        (W8A16, "grid", |p| {
            let zero = p.tensor("grid.0.zero").clone();
            p.store("other", zero.data_type, &[], &[1, 0]);
            p.node("DequantizeLinear", 0).input[2] = "other".into();
        }),
        // A cache is on one grid: committed rows, new ones, both joined.
        (W8A16, "grid of the cache", |p| p.regrid("layers.0.v.all.rows", 2, 0.5, 3)),
        (W8A16, "grid of the keys", |p| p.regrid("new_k_0.float", 2, 0.5, 3)),
        (W8A16, "grid of the cache", |p| p.regrid("layers.0.v.all.rows", 3, 0.5, 3)),
        (W8A16, "grid", |p| {
            p.store("other", 1, &[], &0.5f32.to_le_bytes());
            p.maker("past_v_0.float").input[1] = "other".into();
        }),
        (W4A16, "without which some devices", |p| _ = p.maker("layers.0.q_proj.float").input.pop()),
        (W4A16, "zero points other than 0", |p| p.tensor("layers.0.q_proj.zero").raw_data[3] = 1),
        (W8A16, "axis", |p| p.maker("layers.0.q_proj.float").attribute[0].i = 0),
    ]);
}
