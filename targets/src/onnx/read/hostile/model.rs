//! The model, its inputs and its outputs.

use super::{FLOAT, refused};
use crate::onnx::small::{Parts, W8A16};

/// The type of an input.
fn input(p: &mut Parts, i: usize) -> &mut onnx_protobuf::type_proto::Tensor {
    p.graph().input[i].type_.as_mut().unwrap().mut_tensor_type()
}

#[test]
fn models() {
    refused(&[
        (FLOAT, "model: has no graph", |p| p.model.graph = None.into()),
        (FLOAT, "version is 99", |p| p.model.ir_version = 99),
        (FLOAT, "version is", |p| p.model.ir_version = -1),
        (FLOAT, "opset 20", |p| p.model.opset_import[0].version = 20),
        (FLOAT, "opset 27", |p| p.model.opset_import[0].version = 27),
        (FLOAT, "other operators", |p| p.model.opset_import.clear()),
        (FLOAT, "other operators", |p| p.model.opset_import[0].domain = "com.microsoft".into()),
        (FLOAT, "functions and training", |p| p.model.functions.push(Default::default())),
        (FLOAT, "functions and training", |p| p.model.training_info.push(Default::default())),
        (FLOAT, "more than nodes", |p| p.graph().sparse_initializer.push(Default::default())),
        (FLOAT, "more than nodes", |p| p.graph().quantization_annotation.push(Default::default())),
        (FLOAT, "more than nodes", |p| p.graph().metadata_props.push(Default::default())),
        (FLOAT, "field 99", |p| p.model.special_fields.mut_unknown_fields().add_varint(99, 1)),
        (FLOAT, "field 99", |p| p.graph().special_fields.mut_unknown_fields().add_varint(99, 1)),
    ]);
}

#[test]
fn metadata() {
    fn fact<'a>(p: &'a mut Parts, key: &str) -> &'a mut String {
        &mut p.model.metadata_props.iter_mut().find(|fact| fact.key == key).unwrap().value
    }
    refused(&[
        (FLOAT, "has no metadata `diffulex.rope_theta`", |p| p.model.metadata_props.clear()),
        (FLOAT, "metadata `diffulex.rope_theta`: damaged", |p| *fact(p, "diffulex.rope_theta") = "ten".into()),
        (FLOAT, "theta", |p| *fact(p, "diffulex.rope_theta") = "NaN".into()),
        (FLOAT, "metadata `diffulex.max_cache`: damaged", |p| *fact(p, "diffulex.max_cache") = "-3".into()),
        (FLOAT, "tokens and", |p| *fact(p, "diffulex.max_cache") = "4000000000".into()),
        (FLOAT, "tokens and", |p| *fact(p, "diffulex.max_tokens") = "0".into()),
        (FLOAT, "occurs twice", |p| {
            let first = p.model.metadata_props[0].clone();
            p.model.metadata_props.push(first);
        }),
    ]);
}

#[test]
fn inputs_and_outputs() {
    refused(&[
        (FLOAT, "input_ids", |p| p.graph().input.clear()),
        (FLOAT, "input", |p| p.graph().input.swap(0, 1)),
        (FLOAT, "number", |p| _ = p.graph().input.pop()),
        (FLOAT, "logits", |p| p.graph().output.clear()),
        (FLOAT, "number", |p| _ = p.graph().output.pop()),
        (FLOAT, "name, type and shape", |p| p.graph().output.swap(1, 2)),
        (FLOAT, "has no type", |p| p.graph().input[1].type_ = None.into()),
        (FLOAT, "name, type and shape", |p| input(p, 0).elem_type = 7),
        (FLOAT, "element type 99", |p| input(p, 2).elem_type = 99),
        (FLOAT, "has no shape", |p| input(p, 2).shape = None.into()),
        (FLOAT, "number of axes", |p| input(p, 2).shape.as_mut().unwrap().dim = vec![Default::default(); 9]),
        (FLOAT, "some have sizes", |p| input(p, 3).shape.as_mut().unwrap().dim[3].set_dim_value(5)),
        (W8A16, "hides fewer", |p| input(p, 3).shape.as_mut().unwrap().dim[3].set_dim_value(1)),
        (W8A16, "no size", |p| input(p, 0).shape.as_mut().unwrap().dim[1].set_dim_value(-1)),
        (W8A16, "no size", |p| input(p, 0).shape.as_mut().unwrap().dim[1].set_dim_value(1 << 40)),
        (W8A16, "name, type and shape", |p| input(p, 4).shape.as_mut().unwrap().dim[3].set_dim_value(4)),
        (W8A16, "INT8", |p| input(p, 4).elem_type = 3),
        (W8A16, "caches in", |p| input(p, 4).elem_type = 7),
    ]);
}
