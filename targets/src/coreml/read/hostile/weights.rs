//! Wrong records, wrong places of records.

use super::*;
use crate::coreml::schema::program::{Argument, Binding, BlobFileValue, Bound, Content, DataType, Value};
use crate::coreml::small::int;

/// Puts a number of four bytes into the weight file, `at` bytes behind the first constant's record.
fn put(p: &mut Parts, at: usize, number: u32) {
    let at = *offset_of(p.blob()) as usize + at;
    p.weights[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

#[test]
fn headers() {
    refused(Base::Half, "weight.bin: damaged: it is shorter than its header", |p| p.weights.truncate(63));
    refused(Base::Half, "weight.bin: version is 3, not 2", |p| p.weights[4] = 3);
    refused(Base::Half, "weight.bin: damaged: bytes 8..64 are not zero", |p| p.weights[20] = 1);
    refused(Base::Half, "weight.bin: number of records is", |p| p.weights[0] += 1);
    refused(Base::Half, "weight.bin: number of records is 4294967295", |p| p.weights[..4].fill(0xff));
    // The end of the file, and zeros behind it that no record explains.
    refused(Base::Half, "sentinel is 0", |p| p.weights.extend([0; 256]));
    refused(Base::Half, "are not zero", |p| p.weights.push(1));
}

#[test]
fn records() {
    refused(Base::Half, "sentinel is 3735928558, not 3735928559", |p| put(p, 0, 0xDEAD_BEEE));
    refused(Base::Half, "weight record at 64: element type is \"int8\", not \"fp16\"", |p| {
        assert_eq!(*offset_of(p.blob()), 64);
        put(p, 4, 4);
    });
    refused(Base::Half, "does not know element type 99", |p| put(p, 4, 99));
    refused(Base::Half, "start of the data is 192, not 128", |p| put(p, 16, 192));
    refused(Base::Half, "start of the data is 18446744069414584448", |p| put(p, 20, u32::MAX));
    refused(Base::Half, "number of bytes is 18446744069414584", |p| put(p, 12, u32::MAX));
    refused(Base::Half, "number of unused bits is 8, beyond 7", |p| put(p, 24, 8));
    refused(Base::Half, "number of unused bits is 4, not 0", |p| put(p, 24, 4));
    refused(Base::Half, "bytes 96..128 are not zero", |p| put(p, 40, 1));
    refused(Base::Half, "number of bytes is", |p| p.weights.truncate(p.weights.len() - 2));
    // The gap between scales of ten bytes and the next record.
    refused(Base::Int8, "are not zero", |p| {
        let starts = |at: &usize| p.weights[*at..].starts_with(&[0xef, 0xbe, 0xad, 0xde]);
        let third = (64..p.weights.len()).step_by(64).filter(starts).nth(2).unwrap();
        assert_eq!(p.weights[third - 1], 0);
        p.weights[third - 1] = 1;
    });
}

#[test]
fn places() {
    refused(Base::Half, "weight record at 128: damaged: there is none", |p| *offset_of(p.blob()) += 64);
    refused(Base::Half, "weight record at 72: damaged: there is none", |p| *offset_of(p.blob()) += 8);
    refused(Base::Half, "weight record at 0: damaged: there is none", |p| *offset_of(p.blob()) = 0);
    refused(Base::Half, "weight record at 18446744073709551615: damaged: there is none", |p| {
        *offset_of(p.blob()) = u64::MAX;
    });
    let named = |name: &str| {
        let name = name.to_string();
        move |p: &mut Parts| p.blob().content = Some(Content::BlobFile(BlobFileValue { file_name: name, offset: 64 }))
    };
    for name in ["weights/weight.bin", "@model_path/", "@model_path/../x", "@model_path//etc/passwd", "", "/etc/passwd"]
    {
        refused(Base::Half, &format!("program: damaged: weight file {name:?}"), named(name));
    }
    refused(Base::Half, "other.bin: No such file", named("@model_path/weights/other.bin"));
    // In the package, but under no item of weights.
    refused(Base::Half, "weight.bin: No such file", named("@model_path/weight.bin"));
    refused(Base::Half, "this reader does not know several weight files", |p| {
        let kinds = p.block().operations.iter_mut().filter_map(|operation| operation.attributes.get_mut("val"));
        let stored = |value: &&mut Value| matches!(value.content, Some(Content::BlobFile(_)));
        let last = kinds.filter(stored).last().unwrap();
        last.content =
            Some(Content::BlobFile(BlobFileValue { file_name: "@model_path/weights/b.bin".into(), offset: 64 }));
    });
    // The model file is an item, but no weight file.
    refused(Base::Half, "model.mlmodel: version is", named("@model_path/model.mlmodel"));
}

#[test]
fn sizes() {
    refused(Base::Half, "number of bytes is", |p| {
        let value = p.blob();
        *size_of(&mut tensor_of(&mut value.r#type).dimensions[0]) += 1;
    });
    refused(Base::Half, "number of elements is 4611686014132420609, beyond 1099511627776", |p| {
        let value = p.blob();
        for dimension in &mut tensor_of(&mut value.r#type).dimensions {
            *size_of(dimension) = i32::MAX as u64;
        }
    });
    refused(Base::Half, "size of an axis is 18446744073709551615, beyond 2147483647", |p| {
        *size_of(&mut tensor_of(&mut p.blob().r#type).dimensions[0]) = u64::MAX;
    });
    refused(Base::Half, "number of elements is 18446744073709551615", |p| {
        let ty = tensor_of(&mut p.blob().r#type);
        ty.dimensions = [ty.dimensions[0]; 5].into();
        ty.dimensions.iter_mut().for_each(|dimension| *size_of(dimension) = i32::MAX as u64);
        ty.rank = 5;
    });
    refused(Base::Half, "an axis of 0", |p| {
        *size_of(&mut tensor_of(&mut p.blob().r#type).dimensions[0]) = 0;
    });
}

#[test]
fn compressed_weights() {
    let blockwise = |p: &mut Parts, key: &str, change: fn(&mut Value)| {
        change(p.operation("constexpr_blockwise_shift_scale", 0).value_of(key));
    };
    // The scales of five rows, two each, as those of ten rows.
    refused(Base::Int4, "type of the scales is", |p| {
        for key in ["scale", "offset"] {
            blockwise(p, key, |value| {
                let axes = &mut tensor_of(&mut value.r#type).dimensions;
                (*size_of(&mut axes[0]), *size_of(&mut axes[1])) = (10, 1);
            });
        }
    });
    refused(Base::Int4, "uint4 with 10 scales a row of 64", |p| {
        blockwise(p, "scale", |value| {
            let axes = &mut tensor_of(&mut value.r#type).dimensions;
            (*size_of(&mut axes[0]), *size_of(&mut axes[1])) = (1, 10);
        });
    });
    refused(Base::Int4, "type of the offset is", |p| {
        blockwise(p, "offset", |value| tensor_of(&mut value.r#type).data_type = DataType::Int4 as i32);
    });
    refused(Base::Int4, "offsets other than 8", |p| {
        let at = *offset_of(p.operation("constexpr_blockwise_shift_scale", 0).value_of("offset")) as usize + 64;
        p.weights[at] = 0x87;
    });
    refused(Base::Int4, "such an offset", |p| {
        drop(p.operation("constexpr_blockwise_shift_scale", 0).inputs.remove("offset"));
    });
    refused(Base::Int4, "has no parameter \"scale\"", |p| {
        drop(p.operation("constexpr_blockwise_shift_scale", 0).inputs.remove("scale"));
    });
    // Parameters are attributes in the form that version 7 brought only.
    refused(Base::Int4, "does not know its attribute \"data\"", |p| {
        let operation = p.operation("constexpr_blockwise_shift_scale", 0);
        let data = operation.value_of("data").clone();
        operation.inputs.remove("data");
        operation.attributes.insert("data".into(), data);
    });
    refused(Base::Int8, "what its parameter \"scale\" is bound to", |p| {
        let operation = p.operation("constexpr_affine_dequantize", 0);
        let scale = operation.attributes.remove("scale").unwrap();
        let argument = Argument { arguments: vec![Binding { bound: Some(Bound::Value(scale)) }] };
        operation.inputs.insert("scale".into(), argument);
    });
    let affine = |p: &mut Parts, key: &str, change: fn(&mut Value)| {
        change(p.operation("constexpr_affine_dequantize", 0).attributes.get_mut(key).unwrap());
    };
    refused(Base::Int8, "element type 31 of the program", |p| {
        affine(p, "zero_point", |value| tensor_of(&mut value.r#type).data_type = 31);
    });
    refused(Base::Int8, "scales along another axis", |p| {
        affine(p, "axis", |value| *value = int(1));
    });
    refused(Base::Int8, "type of the scales is", |p| {
        affine(p, "scale", |value| *size_of(&mut tensor_of(&mut value.r#type).dimensions[0]) = 4);
    });
}
