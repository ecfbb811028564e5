//! What the HTP computes wrongly, refuses or leaves to the CPU, put into a file that was written here: it is not opened,
//! and the rule is named.

use onnx_protobuf::NodeProto;

use crate::onnx::small::{Parts, Recipe, W4A16, W4A16_G32, W8A8, W8A16};
use crate::{OpenError, open};
use diffulex_compiler::ir::Encoding;
use diffulex_compiler::quant::GridType;

const U8: i32 = 2;
const I8: i32 = 3;
const U16: i32 = 4;
const I16: i32 = 5;
const U4: i32 = 21;
const I4: i32 = 22;
const KV16: Recipe = Recipe::Rounded(Encoding::Int8Row, GridType::U16, GridType::I16);

#[track_caller]
fn refused(recipe: Recipe, rule: &str, change: impl FnOnce(&mut Parts)) {
    let (folder, mut parts) = (tempfile::tempdir().unwrap(), Parts::new(recipe));
    change(&mut parts);
    match open(&parts.write(folder.path())) {
        Ok(_) => panic!("opened, where rule {rule} is broken"),
        Err(OpenError::Qnn(broken)) => {
            assert_eq!(broken.0.rule, rule, "{broken}");
            assert!(broken.to_string().ends_with(&format!("(rule {rule})")), "{broken}");
        }
        Err(other) => panic!("`{other}` instead of rule {rule}"),
    }
}

/// A grid of its own for what was on that of others.
fn zero(scale: f32, zero: i32) -> impl Fn(&mut Parts, &str, i32) {
    move |parts, value, dtype| parts.regrid(value, dtype, scale, zero)
}

#[test]
fn moving_to_another_zero_point() {
    let other = zero(0.01, 17);
    refused(W8A16, "movement-zero-point", |p| other(p, "layers.0.q.heads", U16));
    refused(W8A16, "movement-zero-point", |p| other(p, "new_k_1.float", U8));
    refused(W8A8, "movement-zero-point", |p| other(p, "layers.1.v.heads", U8));
    // Both halves of a concatenation, its result, rows that were committed.
    refused(W8A16, "movement-zero-point", |p| other(p, "layers.0.q.rope.minus", U16));
    refused(W8A16, "movement-zero-point", |p| other(p, "layers.0.k.rope.turned", U16));
    refused(W8A16, "movement-zero-point", |p| other(p, "layers.0.v.all", U8));
    refused(W8A16, "movement-zero-point", |p| {
        p.store("zero", U8, &[], &[3]);
        p.maker("past_v_0.float").input[2] = "zero".into();
    });
    refused(W8A16, "movement-zero-point", |p| {
        p.store("zero", U8, &[], &[3]);
        p.maker("past_k_1.float").input[2] = "zero".into();
    });
    // Another scale is only untried.
    refused(KV16, "movement-parameters", |p| p.regrid("layers.0.k.all", I16, 0.01, 0));
    refused(W8A16, "movement-parameters", |p| p.regrid("layers.0.q.heads.split", U16, 0.01, 37449));
}

#[test]
fn fixed_grids() {
    refused(W8A8, "softmax-grid", |p| {
        let value = rounded(p, "Softmax");
        p.regrid(&value, U8, 1.0 / 128.0, 127);
    });
    refused(W8A16, "softmax-grid", |p| {
        let value = rounded(p, "Softmax");
        p.regrid(&value, U16, 0.5 / 65536.0, 0);
    });
    for (recipe, dtype, scale) in [(W8A16, U16, 0.5 / 65536.0), (W8A16, U16, 1.0 / 65535.0), (W8A8, U8, 0.5 / 256.0)] {
        refused(recipe, "sigmoid-grid", |p| {
            let value = rounded(p, "Sigmoid");
            p.regrid(&value, dtype, scale, 0);
        });
    }
}

/// The value behind the rounding of what the first such operator makes.
fn rounded(p: &mut Parts, op: &str) -> String {
    let raw = p.node(op, 0).output[0].clone();
    let whole = p.graph().node.iter().find(|node| node.input[0] == raw).unwrap().output[0].clone();
    p.graph().node.iter().find(|node| node.input[0] == whole).unwrap().output[0].clone()
}

#[test]
fn masks_that_leave_no_digits() {
    refused(W8A16, "mask-grid", |p| {
        let value = p.node("Softmax", 0).input[0].clone();
        p.regrid(&value, U16, 10010.0 / 65535.0, 65470);
    });
    refused(W8A16, "mask-grid", |p| {
        for value in ["mask.rounded", "mask.x2"] {
            p.regrid(value, U16, 10000.0 / 65535.0, 65535);
        }
    });
    refused(W8A8, "mask-grid", |p| {
        let value = p.node("Softmax", 0).input[0].clone();
        p.regrid(&value, U8, 2.0, 250);
    });
}

#[test]
fn four_bits() {
    refused(W4A16, "int4-zero-point", |p| _ = p.maker("layers.0.q_proj.float").input.pop());
    refused(W4A16, "int4-zero-point", |p| p.tensor("layers.1.o_proj.zero").raw_data[0] = 0x10);
    refused(W4A16_G32, "uint4-blocks", |p| {
        p.tensor("layers.0.q_proj").data_type = U4;
        let dims: Vec<i64> = p.tensor("layers.0.q_proj.scale").dims.clone();
        let bytes = vec![0x88; dims.iter().product::<i64>() as usize / 2];
        p.store("eights", U4, &dims, &bytes);
        p.maker("layers.0.q_proj.float").input.push("eights".into());
    });
    refused(W4A16, "weight-form", |p| {
        p.tensor("layers.0.q_proj").data_type = U4;
        p.tensor("layers.0.q_proj.zero").data_type = U4;
    });
    refused(W8A16, "channel-zero-point", |p| {
        p.store("ones", I8, &[32], &[1; 32]);
        p.maker("layers.0.q_proj.float").input.push("ones".into());
    });
    refused(W4A16_G32, "channel-zero-point", |p| {
        let dims: Vec<i64> = p.tensor("layers.0.q_proj.scale").dims.clone();
        let bytes = vec![0x11; dims.iter().product::<i64>() as usize / 2];
        p.store("ones", I4, &dims, &bytes);
        p.maker("layers.0.q_proj.float").input.push("ones".into());
    });
    // Blocks meet values of 16 bits only.
    refused(W4A16_G32, "weight-form", |p| {
        let value = p.node("SimplifiedLayerNormalization", 0).output[0].replace(".raw", "");
        p.regrid(&value, U8, 0.01, 100);
    });
}

#[test]
fn scales_of_scales() {
    refused(W4A16_G32, "block-scales", |p| {
        let dims: Vec<i64> = p.tensor("layers.0.q_proj.scale").dims.clone();
        let bytes = vec![17; dims.iter().product::<i64>() as usize];
        p.store("inner", U8, &dims, &bytes);
        let outer = vec![0.01f32.to_le_bytes(); dims[1] as usize].concat();
        p.store("outer", 1, &dims[1..], &outer);
        let mut scale = p.maker("layers.0.v_proj.float").clone();
        (scale.input, scale.output) = (vec!["inner".into(), "outer".into()], vec!["scales".into()]);
        scale.attribute = p.node("Gather", 0).attribute.clone();
        scale.attribute[0].i = 1;
        let at = p.graph().node.iter().position(|node| node.output[0] == "layers.0.q_proj.float").unwrap();
        p.graph().node[at].input[1] = "scales".into();
        p.graph().node.insert(at, scale);
    });
}

#[test]
fn products() {
    // 16 bits in, 8 bits out.
    refused(W8A16, "matmul-output", |p| {
        p.regrid("layers.0.v", U8, 0.05, 128);
    });
    refused(W8A16, "dynamic-u16", |p| widen(p, U16, 0.001, 30000));
    refused(W8A16, "asymmetric-int16", |p| widen(p, I16, 0.001, 3));
    refused(W8A8, "dynamic-pair", |p| widen(p, I16, 0.001, 0));
}

/// Gives the cache of values in the first layer another type.
fn widen(p: &mut Parts, dtype: i32, scale: f32, zero: i32) {
    let size = if dtype == U8 { 1 } else { 2 };
    p.store("wide.scale", 1, &[], &scale.to_le_bytes());
    p.store("wide.zero", dtype, &[], &zero.to_le_bytes()[..size]);
    let rounds = |node: &NodeProto| {
        let made = [&node.output[0], &node.input[0]];
        made.iter().any(|name| name.contains("past_v_0") || name.contains("new_v_0") || name.contains("0.v.all"))
            && node.op_type.ends_with("Linear")
    };
    for node in p.graph().node.iter_mut().filter(|node| rounds(node)) {
        node.input[1..].clone_from_slice(&["wide.scale".into(), "wide.zero".into()]);
    }
    let graph = p.graph();
    for value in graph.input.iter_mut().chain(&mut graph.output).filter(|value| value.name.contains("_v_0")) {
        value.type_.as_mut().unwrap().mut_tensor_type().elem_type = dtype;
    }
}

#[test]
fn missing_pairs() {
    // What a product makes goes on as it is, in one place.
    refused(W8A16, "unquantized-tensor", |p| {
        let add = p.node("Add", 0);
        assert_eq!(add.input[0], "layers.0.q.product");
        add.input[0] = "layers.0.q.product.raw".into();
        p.graph().node.retain(|node| !node.output[0].starts_with("layers.0.q.product.") || node.op_type == "MatMul");
        p.graph().node.retain(|node| node.output[0] != "layers.0.q.product");
    });
    refused(W8A16, "lone-dequantize", |p| p.node("Add", 0).input[0] = "layers.0.q.product.raw".into());
    refused(W8A16, "pair-parameters", |p| {
        p.store("other", 1, &[], &0.5f32.to_le_bytes());
        p.maker("layers.0.q").input[1] = "other".into();
    });
    refused(W8A16, "norm-gamma", |p| p.tensor("layers.0.gain").data_type = I8);
    refused(W8A16, "unreadable-numbers", |p| p.tensor("grid.5.scale").raw_data = f32::NAN.to_le_bytes().to_vec());
    refused(W8A16, "unreadable-numbers", |p| p.tensor("grid.5.scale").raw_data = vec![0; 4]);
    refused(W8A16, "activation-scale", |p| p.tensor("grid.5.scale").dims = vec![2]);
    refused(W8A16, "dynamic-shape", |p| {
        let ty = p.graph().input[0].type_.as_mut().unwrap().mut_tensor_type();
        ty.shape.as_mut().unwrap().dim[1].set_dim_param("T".into());
    });
}

/// A file is for the HTP if one value is rounded, also without the norms that only the provider has.
#[test]
fn what_looks_like_a_plain_file() {
    let hide = |p: &mut Parts| {
        (p.model.opset_import[0].version, p.model.ir_version) = (23, 11);
        for node in &mut p.graph().node {
            if node.op_type == "SimplifiedLayerNormalization" {
                node.op_type = "RMSNormalization".into();
            }
        }
    };
    refused(W8A16, "movement-zero-point", |p| {
        hide(p);
        p.regrid("layers.0.q.heads", U16, 0.01, 17);
    });
    refused(W4A16, "int4-zero-point", |p| {
        hide(p);
        p.maker("layers.0.q_proj.float").input.pop();
    });
    // One rounding among floats, whose norms of heads are those of any device.
    refused(Recipe::Float(Encoding::F32), "norm-rows", |p| {
        p.store("own.scale", 1, &[], &0.1f32.to_le_bytes());
        p.store("own.zero", U8, &[], &[128]);
        let node = |op: &str, inputs: [&str; 3], output: &str| NodeProto {
            op_type: op.into(),
            input: inputs.map(String::from).to_vec(),
            output: vec![output.into()],
            ..NodeProto::default()
        };
        let pair = [
            node("QuantizeLinear", ["cos", "own.scale", "own.zero"], "cos.whole"),
            node("DequantizeLinear", ["cos.whole", "own.scale", "own.zero"], "cos.rounded"),
        ];
        p.graph().node.splice(..0, pair);
    });
}
