//! Wrong names, types, parameters and constants.

use super::*;
use crate::coreml::schema::program::{Argument, Bound, Dimension, Numbers, Operation, RepeatedBytes, RepeatedFloats};
use crate::coreml::small::{int, numbers_of, single, size_of};

#[test]
fn names() {
    refused(
        Base::Half,
        "`softmax` of \"layers_0_mix_softmax\": damaged: x is \"gone\", which is not defined before",
        |p| {
            *p.operation("softmax", 0).name_of("x") = "gone".into();
        },
    );
    refused(Base::Half, "which is not defined before", |p| {
        let operations = &mut p.block().operations;
        let last = operations.pop().unwrap();
        operations.insert(0, last);
    });
    refused(Base::Half, "`softmax` of \"layers_0_mix_scores\": damaged: its result is defined twice", |p| {
        p.operation("softmax", 0).outputs[0].name = "layers_0_mix_scores".into();
    });
    refused(Base::Half, "damaged: its result is defined twice", |p| {
        p.operation("softmax", 0).outputs[0].name = "attn_mask".into();
    });
    for name in ["", "1a", "a b", "a-b", "ä"] {
        refused(Base::Half, &format!("damaged: {name:?} is no identifier"), |p| {
            p.operation("softmax", 0).outputs[0].name = name.into();
        });
    }
    refused(Base::Half, "length of a name is 300, beyond 256", |p| {
        p.operation("softmax", 0).outputs[0].name = "a".repeat(300);
    });
    refused(Base::Half, "has no attribute `name`", |p| drop(p.operation("softmax", 0).attributes.remove("name")));
    refused(Base::Half, "its name is no text", |p| {
        drop(p.operation("softmax", 0).attributes.insert("name".into(), int(1)));
    });
    refused(Base::Half, "its name is taken", |p| {
        let name = p.operation("matmul", 0).attributes["name"].clone();
        p.operation("softmax", 0).attributes.insert("name".into(), name);
    });
}

#[test]
fn types() {
    refused(Base::Half, "type of the result is", |p| {
        *size_of(&mut p.operation("matmul", 0).result().dimensions[3]) += 1;
    });
    refused(Base::Half, "type of the result is", |p| p.operation("linear", 0).result().data_type = 11);
    refused(Base::Half, "rank is 4, not 3", |p| p.operation("linear", 0).result().rank = 4);
    refused(Base::Half, "rank is 6, beyond 5", |p| {
        let ty = p.operation("linear", 0).result();
        ty.dimensions = [ty.dimensions[0]; 6].into();
        ty.rank = 6;
    });
    refused(Base::Half, "`linear` of \"layers_0_k\": this reader does not know an axis like this", |p| {
        p.operation("linear", 0).result().dimensions[1].extent = None;
    });
    refused(Base::Half, "element type 12 of the program", |p| p.operation("linear", 0).result().data_type = 12);
    refused(Base::Half, "a value that is no tensor", |p| p.operation("linear", 0).outputs[0].r#type = None);
    refused(Base::Half, "several results", |p| {
        let linear = p.operation("linear", 0);
        let result = linear.outputs[0].clone();
        linear.outputs.push(result);
    });
    refused(Base::Half, "several results", |p| p.operation("linear", 0).outputs.clear());
    // Operands of two types.
    refused(Base::Half, "element type of y is", |p| {
        let value = single(1.0);
        p.constant("fp16_bf800000").clone_from(&value);
        let named = |o: &&mut Operation| o.outputs.first().is_some_and(|result| result.name == "fp16_bf800000");
        p.block().operations.iter_mut().find(named).unwrap().result().data_type = 11;
    });
}

#[test]
fn parameters() {
    refused(Base::Half, "`swish` of \"logits\": this reader does not know this operation", |p| {
        p.operation("linear", 4).r#type = "swish".into();
    });
    for (kind, key) in [
        ("softmax", "axis"),
        ("linear", "bias"),
        ("matmul", "transpose_y"),
        ("gather", "batch_dims"),
        ("layer_norm", "epsilon"),
        ("concat", "interleave"),
        ("slice_by_index", "end"),
        ("transpose", "perm"),
    ] {
        refused(Base::Half, &format!("has no parameter {key:?}"), |p| drop(p.operation(kind, 0).inputs.remove(key)));
    }
    refused(Base::Half, "this reader does not know its parameter \"beta\"", |p| {
        let softmax = p.operation("softmax", 0);
        softmax.inputs.insert("beta".into(), softmax.inputs["x"].clone());
    });
    refused(Base::Half, "this reader does not know its attribute \"axis\"", |p| {
        let axis = int(3);
        let softmax = p.operation("softmax", 0);
        softmax.inputs.remove("axis");
        softmax.attributes.insert("axis".into(), axis);
    });
    refused(Base::Half, "what its parameter \"axis\" is bound to", |p| {
        let argument = p.operation("softmax", 0).inputs.get_mut("axis").unwrap();
        argument.arguments[0].bound = Some(Bound::Value(int(3)));
    });
    refused(Base::Half, "what its parameter \"x\" is bound to", |p| {
        p.operation("softmax", 0).inputs.get_mut("x").unwrap().arguments[0].bound = None;
    });
    refused(Base::Half, "has no parameter \"x\"", |p| {
        drop(p.operation("softmax", 0).inputs.insert("x".into(), Argument::default()));
    });
    refused(Base::Half, "x is a list", |p| {
        let argument = p.operation("softmax", 0).inputs.get_mut("x").unwrap();
        argument.arguments.push(argument.arguments[0].clone());
    });
    refused(Base::Half, "weight", |p| *p.operation("linear", 1).name_of("weight") = "layers_0_k".into());
    refused(Base::Half, "axis is no constant whole number", |p| {
        *p.operation("softmax", 0).name_of("axis") = "layers_0_k".into();
    });
    refused(Base::Half, "its parameter \"input\"", |p| {
        let softmax = p.operation("softmax", 0);
        softmax.inputs.insert("input".into(), softmax.inputs["x"].clone());
    });
}

#[test]
fn constants() {
    let axis = |p: &mut Parts| p.operation("softmax", 0).name_of("axis").clone();
    refused(Base::Half, "axis is 9, and there are 4 axes", |p| {
        let name = axis(p);
        *p.constant(&name) = int(9);
    });
    refused(Base::Half, "a softmax along another axis", |p| {
        let name = axis(p);
        *p.constant(&name) = int(1);
    });
    refused(Base::Half, "an immediate fp16 like this", |p| {
        *numbers_of(p.constant("fp16_bf800000")) = Numbers::Floats(RepeatedFloats { values: vec![-1.0] });
    });
    refused(Base::Half, "number of bytes is 4, not 2", |p| {
        *numbers_of(p.constant("fp16_bf800000")) = Numbers::Bytes(RepeatedBytes { values: vec![0; 4] });
    });
    refused(Base::Half, "numbers outside the weight file", |p| {
        *numbers_of(p.constant("fp16_bf800000")) = Numbers::Bytes(RepeatedBytes { values: vec![0, 0x7e] });
    });
    refused(Base::Half, "number of elements is", |p| {
        let name = p.operation("transpose", 0).name_of("perm").clone();
        match numbers_of(p.constant(&name)) {
            Numbers::Ints(ints) => ints.values.push(0),
            other => panic!("{other:?}"),
        }
    });
    refused(Base::Half, "number of elements is 1000000, beyond 64", |p| {
        let value = p.constant("fp16_bf800000");
        let ty = tensor_of(&mut value.r#type);
        ty.rank = 1;
        ty.dimensions = vec![Dimension::known(1_000_000)];
    });
    refused(Base::Half, "a constant with a text beside it", |p| p.constant("fp16_bf800000").doc_string = "x".into());
    refused(Base::Half, "has no value of a known kind", |p| p.constant("fp16_bf800000").content = None);
    refused(Base::Half, "it has no value, or more than that", |p| {
        let softmax = p.operation("softmax", 0).inputs.clone();
        p.operation("const", 0).inputs = softmax;
    });
    // A constant whose result has another type than its value.
    refused(Base::Half, "type of the result is", |p| p.operation("const", 0).result().data_type = 11);
    refused(Base::Half, "epsilon is -1", |p| {
        let name = p.operation("layer_norm", 0).name_of("epsilon").clone();
        *numbers_of(p.constant(&name)) = Numbers::Bytes(RepeatedBytes { values: vec![0, 0xbc] });
    });
    refused(Base::Half, "it is no slice of its operand", |p| {
        let name = p.operation("slice_by_index", 0).name_of("end").clone();
        match numbers_of(p.constant(&name)) {
            Numbers::Ints(ints) => ints.values[0] = i32::MAX,
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn too_many_operations() {
    refused(Base::Half, "number of operations is 262145, beyond 262144", |p| {
        let empty = Operation::default();
        p.block().operations.resize((1 << 18) + 1, empty);
    });
}
