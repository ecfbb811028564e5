//! Wrong versions, features that are not those of the program, wrong functions.

use super::*;
use crate::coreml::schema::model::{
    ArrayFeatureType, FeatureDescription, FeatureKind, FunctionDescription, ModelDescription,
};
use crate::coreml::schema::program::{Block, Dimension, Function, Operation, Value};
use crate::coreml::small::{size_of, text};

/// The described array of a feature.
fn array(feature: &mut FeatureDescription) -> &mut ArrayFeatureType {
    match feature.r#type.as_mut().unwrap().kind.as_mut().unwrap() {
        FeatureKind::MultiArray(array) => array,
        FeatureKind::State(state) => state.array_type.as_mut().unwrap(),
    }
}

/// The package as one of another version.
fn at_version(p: &mut Parts, version: i32, opset: &str) {
    p.model.specification_version = version;
    let function = p.function();
    let (_, block) = function.block_specializations.pop_first().unwrap();
    function.opset = opset.into();
    function.block_specializations.insert(opset.into(), block);
}

fn description(p: &mut Parts) -> &mut ModelDescription {
    p.model.description.as_mut().unwrap()
}

#[test]
fn versions() {
    for version in [i32::MIN, 0, 5, 11] {
        refused(Base::Half, &format!("model: this reader does not know specification version {version}"), |p| {
            p.model.specification_version = version;
        });
    }
    refused(Base::Half, "program: opset is \"CoreML6\", not \"CoreML7\"", |p| p.model.specification_version = 8);
    refused(Base::Fused, "program: opset is \"CoreML8\", not \"CoreML6\"", |p| p.model.specification_version = 7);
    refused(Base::Half, "has no one block, for CoreML6", |p| {
        let (_, block) = p.function().block_specializations.pop_first().unwrap();
        p.function().block_specializations.insert("CoreML7".into(), block);
    });
    refused(Base::Fused, "`scaled_dot_product_attention` of \"layers_0_mix\": damaged: it came with version 9", |p| {
        at_version(p, 8, "CoreML7");
    });
    refused(Base::Int4, "damaged: it came with version 9", |p| at_version(p, 8, "CoreML7"));
    refused(Base::Int8, "feature \"attn_mask\": type is", |p| at_version(p, 6, "CoreML5"));
    refused(Base::State, "it keeps a cache that cannot be kept", |p| at_version(p, 8, "CoreML7"));
    // Parameters that came with a version, left out or too early.
    refused(Base::Half, "`gather` of \"x\": has no parameter \"validate_indices\"", |p| at_version(p, 8, "CoreML7"));
    refused(Base::Fused, "this reader does not know its parameter \"validate_indices\"", |p| {
        at_version(p, 7, "CoreML6");
    });
    // Half a byte a number came with version 9, also where nobody looks at it.
    refused(Base::Half, "uint4 in the weight file came with version 9", |p| {
        let value = p.blob();
        tensor_of(&mut value.r#type).data_type = 35;
        let ty = value.r#type.clone();
        p.operation("const", 0).outputs[0].r#type = ty;
        let at = *offset_of(p.blob()) as usize;
        p.weights[at + 4] = 11;
    });
}

#[test]
fn models() {
    refused(Base::Half, "model: has no description", |p| p.model.description = None);
    refused(Base::Half, "a model that is updatable", |p| p.model.is_updatable = true);
    refused(Base::Half, "several functions", |p| description(p).functions.push(FunctionDescription::default()));
    refused(Base::Half, "several functions", |p| description(p).default_function_name = "main".into());
    refused(Base::Half, "program: version is 2, not 1", |p| p.model.ml_program.as_mut().unwrap().version = 2);
    refused(Base::Half, "program: this reader does not know its attribute \"more\"", |p| {
        p.model.ml_program.as_mut().unwrap().attributes.insert("more".into(), Value::default());
    });
    let functions = |p: &mut Parts, change: fn(Function) -> Vec<(String, Function)>| {
        let functions = &mut p.model.ml_program.as_mut().unwrap().functions;
        let (_, main) = functions.pop_first().unwrap();
        functions.extend(change(main));
    };
    refused(Base::Half, "functions other than `main`", |p| functions(p, |_| vec![]));
    refused(Base::Half, "functions other than `main`", |p| functions(p, |main| vec![("other".into(), main)]));
    refused(Base::Half, "functions other than `main`", |p| {
        functions(p, |main| vec![("main".into(), main.clone()), ("more".into(), main)]);
    });
    refused(Base::Half, "has no one block", |p| drop(p.function().block_specializations.pop_first()));
    refused(Base::Half, "has no one block", |p| {
        drop(p.function().block_specializations.insert("CoreML7".into(), Block::default()));
    });
    refused(Base::Half, "attributes of functions", |p| {
        drop(p.function().attributes.insert("more".into(), Value::default()));
    });
    refused(Base::Half, "inputs of blocks", |p| {
        let input = p.function().inputs[0].clone();
        p.block().inputs.push(input);
    });
    refused(Base::Half, "metadata `diffulex.format_version`: this reader does not know version \"2\"", |p| {
        let facts = description(p).metadata.as_mut().unwrap();
        facts.user_defined.insert("diffulex.format_version".into(), "2".into());
    });
    refused(Base::Half, "metadata `diffulex.generation`", |p| {
        let facts = description(p).metadata.as_mut().unwrap();
        facts.user_defined.insert("diffulex.generation".into(), "[".repeat(1000));
    });
}

#[test]
fn features() {
    refused(Base::Half, "feature \"input_ids\": description is", |p| array(&mut description(p).input[0]).shape[1] += 1);
    refused(Base::Half, "feature \"input_ids\": description is", |p| {
        array(&mut description(p).input[0]).data_type = 65552;
    });
    refused(Base::Half, "element type 65600 of features", |p| array(&mut description(p).input[0]).data_type = 65600);
    refused(Base::Half, "an axis of 0", |p| array(&mut description(p).input[0]).shape[1] = -1);
    refused(Base::Half, "rank is 6, beyond 5", |p| array(&mut description(p).input[0]).shape = vec![1; 6]);
    refused(Base::Half, "a feature that is no array", |p| description(p).input[0].r#type = None);
    refused(Base::Half, "a feature that is no array", |p| {
        description(p).input[0].r#type.as_mut().unwrap().is_optional = true;
    });
    refused(Base::Half, "feature \"input_ids\": damaged: it is described twice", |p| {
        let input = description(p).input[0].clone();
        description(p).input.push(input);
    });
    refused(Base::Half, "feature \"more\": damaged: it is described, but not declared", |p| {
        let input = FeatureDescription { name: "more".into(), ..description(p).input[0].clone() };
        description(p).input.push(input);
    });
    refused(Base::Half, "feature \"input_ids\": has no description", |p| drop(description(p).input.remove(0)));
    refused(Base::Half, "feature \"input ids\": damaged: \"input ids\" is no identifier", |p| {
        description(p).input[0].name = "input ids".into();
        p.function().inputs[0].name = "input ids".into();
    });
    refused(Base::Half, "feature \"more\": this reader does not know such an input", |p| {
        let described = FeatureDescription { name: "more".into(), ..description(p).input[0].clone() };
        description(p).input.push(described);
        let mut input = p.function().inputs[0].clone();
        input.name = "more".into();
        p.function().inputs.push(input);
    });
    refused(Base::Half, "program: has no input \"attn_mask\"", |p| {
        description(p).input.remove(2);
        p.function().inputs.remove(2);
    });
    refused(Base::Half, "an axis like this", |p| {
        tensor_of(&mut p.function().inputs[0].r#type).dimensions[1].extent = None;
    });
    refused(Base::Half, "number of layers is 100000, beyond 1024", |p| {
        let of = |name: &'static str| move |input: &&mut FeatureDescription| input.name == name;
        array(description(p).input.iter_mut().find(of("k_cache")).unwrap()).shape[0] = 100_000;
        let input = p.function().inputs.iter_mut().find(|input| input.name == "k_cache").unwrap();
        *size_of(&mut tensor_of(&mut input.r#type).dimensions[0]) = 100_000;
    });
}

#[test]
fn outputs() {
    refused(Base::Half, "program: name of an output is \"v_new\", not \"k_new\"", |p| p.block().outputs.swap(1, 2));
    refused(Base::Half, "list of outputs is", |p| {
        p.block().outputs.swap(1, 2);
        description(p).output.swap(1, 2);
    });
    refused(Base::Half, "program: number of outputs is 2, not 3", |p| drop(p.block().outputs.pop()));
    refused(Base::Half, "feature \"logits\": type is", |p| {
        array(&mut description(p).output[0]).shape[2] += 1;
    });
    refused(Base::Half, "feature \"k_new\": shape is", |p| array(&mut description(p).output[1]).shape[0] += 1);
    refused(Base::Half, "feature \"logits\": element type is \"fp32\"", |p| {
        array(&mut description(p).output[0]).data_type = 65568;
    });
    // An output that is a constant, one that is an input, one that nothing makes.
    for (name, expected) in [("embed_tokens", "list of outputs"), ("attn_mask", "list of outputs"), ("gone", "list of")]
    {
        refused(Base::Half, expected, |p| {
            p.block().outputs[0] = name.into();
            description(p).output[0].name = name.into();
        });
    }
    refused(Base::Half, "feature \"logits\": has no operation that makes it", |p| {
        p.operation("linear", 4).outputs[0].name = "other".into();
    });
    // A constant in place of the logits: the 64 numbers of a gain.
    refused(Base::Half, "feature \"logits\": damaged: it is something else", |p| {
        p.operation("linear", 4).outputs[0].name = "other".into();
        p.operation("linear", 4).attributes.insert("name".into(), text("other"));
        let gain = |operation: &&Operation| operation.outputs.iter().any(|result| result.name == "layers__0__gain");
        let mut constant = p.block().operations.iter().find(gain).unwrap().clone();
        let shape: Vec<Dimension> = [1, 2, 32].map(Dimension::known).into();
        let value = constant.attributes.get_mut("val").unwrap();
        (tensor_of(&mut value.r#type).rank, tensor_of(&mut value.r#type).dimensions) = (3, shape);
        constant.outputs[0].r#type = value.r#type.clone();
        constant.outputs[0].name = "logits".into();
        constant.attributes.insert("name".into(), text("logits"));
        p.block().operations.push(constant);
        array(&mut description(p).output[0]).shape = vec![1, 2, 32];
    });
}

#[test]
fn states() {
    refused(Base::State, "feature \"k_state\": has no description", |p| description(p).state[0].name = "other".into());
    refused(Base::State, "feature \"k_state\": description is", |p| {
        array(&mut description(p).state[0]).data_type = 65568
    });
    refused(Base::State, "feature \"k_state\": type is", |p| {
        array(&mut description(p).state[0]).data_type = 65568;
        let input = p.function().inputs.iter_mut().find(|input| input.name == "k_state").unwrap();
        tensor_of(&mut input.r#type).data_type = 11;
    });
    refused(Base::State, "a feature that is no array", |p| {
        let state = description(p).state.remove(0);
        description(p).input.push(state);
    });
    refused(Base::State, "feature \"k_state\": description is", |p| array(&mut description(p).state[0]).shape[3] += 1);
    refused(Base::State, "\"write_pos\" is no state", |p| {
        *p.operation("read_state", 0).name_of("input") = "write_pos".into()
    });
    refused(Base::State, "x is \"k_state\", which is not defined before", |p| {
        *p.operation("slice_update", 0).name_of("x") = "k_state".into();
    });
    // The second layer adds its rows to what the state held before the first layer wrote.
    refused(Base::State, "number of writes before is 0, not 1", |p| {
        *p.operation("slice_update", 2).name_of("x") = "k_state_before".into();
    });
    refused(Base::State, "a kept cache before the rows of the step are in it", |p| {
        *p.operation("slice_by_index", 2).name_of("x") = "k_state_before".into();
    });
    refused(Base::State, "a write of something else than the state with new rows", |p| {
        *p.operation("write_state", 0).name_of("data") = "k_state_before".into();
    });
    // What a step computes is right without a write; what the next one finds is not.
    for i in 0..4 {
        refused(Base::State, "a kept cache before the rows of the step are in it", |p| {
            let writes = |(_, operation): &(usize, &Operation)| operation.r#type == "write_state";
            let at = p.block().operations.iter().enumerate().filter(writes).nth(i).unwrap().0;
            p.block().operations.remove(at);
        });
    }
    refused(Base::State, "number of results is 1, not 0", |p| {
        let result = p.operation("read_state", 0).outputs[0].clone();
        p.operation("write_state", 0).outputs.push(result);
    });
}
