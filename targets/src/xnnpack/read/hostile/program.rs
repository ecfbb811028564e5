//! Wrong headers, segments, methods and instructions.

use super::*;

#[test]
fn the_good_file_is_good() {
    read_bytes(good()).unwrap();
    read(|_| {}).unwrap();
}

#[test]
fn headers() {
    let cases: [(usize, &[u8], &str); 9] = [
        (4, b"ET99", "file: damaged: the identifier is not `ET12`"),
        (8, b"no", "does not know a program without an extended header"),
        (12, &[24], "does not know a program without an extended header"),
        (16, &[0xff; 8], "`program_size` is 18446744073709551615"),
        (16, &[0; 8], "the root table at"),
        (0, &[0xff; 4], "the root table at 4294967295"),
        (24, &[0, 0], "`segment_base` is"),
        (24, &[0xff; 8], "`segment_base` is"),
        (32, &[0xff; 8], "`segment_data_size` is"),
    ];
    for (at, bytes, expected) in cases {
        let mut file = good();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        let error = read_bytes(file).err().unwrap().to_string();
        assert!(error.contains(expected), "`{error}` instead of `{expected}`");
    }
}

#[test]
fn program() {
    refused("version 3", |p| p.program.version = 3);
    refused("program: has no `execution_plan`", |p| p.program.execution_plan = None);
    refused("a second method that computes", |p| p.plan().name = Some("other".into()));
    refused("no method `forward`", |p| drop(p.program.execution_plan.as_mut().unwrap().remove(0)));
    refused("method \"forward\" occurs twice", |p| {
        let again = p.plan().clone();
        p.program.execution_plan.as_mut().unwrap().push(again);
    });
    refused("`key` is 2000, beyond 1024", |p| p.program.named_data.as_mut().unwrap()[0].key = Some("k".repeat(2000)));
    refused("named data 1: the key \"gain\" occurs twice", |p| {
        let named = p.program.named_data.as_mut().unwrap();
        named.iter_mut().for_each(|n| n.key = Some("gain".into()));
    });
    refused("named data 0: `segment_index` is 99", |p| p.program.named_data.as_mut().unwrap()[0].segment_index = 99);
    refused("has no `constant_segment`", |p| p.program.constant_segment = None);
    refused("`constant_segment.offsets` is 9999", |p| {
        p.program.constant_segment.as_mut().unwrap().offsets = Some(vec![0, 9999]);
    });
    refused("its bytes begin at", |p| {
        p.segments[0].extend([0; 16]);
        p.program.constant_segment.as_mut().unwrap().offsets = Some(vec![0, 2]);
    });
}

#[test]
fn segments() {
    let kept = |change: fn(&mut Vec<crate::xnnpack::schema::program::DataSegment>)| {
        let mut parts = Parts::of(&good());
        change(parts.program.segments.as_mut().unwrap());
        read_bytes(parts.file(true)).err().unwrap().to_string()
    };
    assert!(kept(|s| s[2].offset = u64::MAX).contains("segment 2: `offset` is 18446744073709551615"));
    assert!(kept(|s| s[2].size = u64::MAX).contains("segment 2: `size` is"));
    assert!(kept(|s| s[3].offset = s[2].offset).contains("overlaps segment"));
}

#[test]
fn forward() {
    refused("0 chains", |p| p.plan().chains.as_mut().unwrap().clear());
    refused("a step of 4 inputs", |p| p.plan().inputs.as_mut().unwrap().truncate(4));
    refused("input 4: value 3 occurs twice", |p| p.plan().inputs.as_mut().unwrap()[4] = 3);
    refused("there is no value -1", |p| p.plan().inputs.as_mut().unwrap()[0] = -1);
    refused("there is no value 77777", |p| p.plan().inputs.as_mut().unwrap()[2] = 77777);
    refused("value 0: damaged: is no tensor", |p| {
        p.plan().values.as_mut().unwrap()[0] = EValue { val: Some(KernelTypes::Int(Box::new(Int { value: 1 }))) };
    });
    refused("input 0: `scalar_type` is 6, not 4", |p| p.tensor(0).scalar_type = 6);
    refused("scalar type 3", |p| p.tensor(0).scalar_type = 3);
    refused("input 2: `sizes` is [1, 1, 2, 4], not [1, 1, 2, 5]", |p| p.tensor(2).sizes = Some(vec![1, 1, 2, 4]));
    refused("a size of -2", |p| p.tensor(2).sizes = Some(vec![1, 1, -2, 5]));
    refused("a size of 0", |p| p.tensor(0).sizes = Some(vec![1, 0]));
    refused("`sizes` is 7, beyond 6", |p| p.tensor(2).sizes = Some(vec![1; 7]));
    refused("order of axes", |p| p.tensor(2).dim_order = Some(vec![0, 1, 3, 2]));
    refused("a step of fixed size", |p| p.tensor(3).shape_dynamism = 0);
    refused("shape dynamism 2", |p| p.tensor(3).shape_dynamism = 2);
    refused("`sizes` is 2147483647, beyond 16777216", |p| {
        p.tensor(0).sizes = Some(vec![1, i32::MAX]);
    });
    refused("`outputs` is 2, not 3", |p| p.plan().outputs.as_mut().unwrap().truncate(2));
    refused("occurs twice", |p| {
        let outputs = p.plan().outputs.as_mut().unwrap();
        outputs[1] = outputs[2];
    });
}

#[test]
fn memory() {
    refused("there is no arena 9", |p| {
        let at = p.plan().outputs.as_ref().unwrap()[0] as usize;
        p.tensor(at).allocation_info.as_mut().unwrap().memory_id = 9;
    });
    refused("there is no arena 0", |p| {
        let at = p.plan().outputs.as_ref().unwrap()[0] as usize;
        p.tensor(at).allocation_info.as_mut().unwrap().memory_id = 0;
    });
    refused("`non_const_buffer_sizes` is", |p| p.plan().non_const_buffer_sizes = Some(vec![0, 8]));
    refused("`non_const_buffer_sizes` is", |p| p.plan().non_const_buffer_sizes = Some(vec![0, -1]));
    refused("overlap", |p| {
        let at = p.plan().outputs.as_ref().unwrap()[0] as usize;
        p.tensor(at).allocation_info.as_mut().unwrap().memory_offset_low = 4;
    });
}

#[test]
fn instructions() {
    refused("an instruction other than", |p| {
        let args = InstructionArguments::MoveCall(Box::new(MoveCall { move_from: 0, move_to: 1 }));
        p.instructions().insert(0, Instruction { instr_args: Some(args) });
    });
    refused("instruction 0: has no `instr_args`", |p| p.instructions()[0].instr_args = None);
    refused("calls no delegate", |p| drop(p.instructions().pop()));
    refused("an instruction after the delegate", |p| {
        let first = p.instructions()[0].clone();
        p.instructions().push(first);
    });
    refused("the kernel `aten::mul.out`", |p| p.plan().operators.as_mut().unwrap()[0].name = Some("aten::mul".into()));
    refused("there is no operator -3", |p| p.kernel().op_index = -3);
    refused("`args` is 3 long, not 7 long", |p| p.kernel().args.as_mut().unwrap().truncate(3));
    refused("a table that is not constant", |p| p.kernel().args.as_mut().unwrap()[0] = 2);
    refused("an embedding of anything but", |p| p.kernel().args.as_mut().unwrap()[1] = 2);
    refused("returning value", |p| p.kernel().args.as_mut().unwrap()[6] = 0);
    refused("occurs twice", |p| {
        let first = p.instructions()[0].clone();
        p.instructions().insert(0, first);
    });
    refused("one delegate only", |p| p.call().delegate_index = 1);
    refused("the argument", |p| {
        let args = p.call().args.as_mut().unwrap();
        args[1] = args[0];
    });
    refused("ids inside the delegate", |p| p.call().args.as_mut().unwrap()[0] = 0);
    refused("is neither made nor asked for", |p| p.call().args.as_mut().unwrap()[0] = 5);
    refused("nothing makes the output", |p| p.call().args.as_mut().unwrap().truncate(6));
    refused("the backend \"QnnBackend\"", |p| {
        p.plan().delegates.as_mut().unwrap()[0].id = Some("QnnBackend".into());
    });
    refused("2 delegates", |p| {
        let delegates = p.plan().delegates.as_mut().unwrap();
        delegates.push(delegates[0].clone());
    });
    refused("inside the program's flatbuffer", |p| {
        p.plan().delegates.as_mut().unwrap()[0].processed.as_mut().unwrap().location = 0;
    });
    refused("delegate: `segment_index` is 50", |p| {
        p.plan().delegates.as_mut().unwrap()[0].processed.as_mut().unwrap().index = 50;
    });
    refused("has no header `XH00`", |p| {
        p.plan().delegates.as_mut().unwrap()[0].processed.as_mut().unwrap().index = 2;
    });
}

/// The step with a table in int8 or int4, whose kernel has arguments of its own.
#[test]
fn quantized_tables() {
    let parts = |encoding: &str| {
        let step = STEP.replace("embed_tokens : f32[5, 4]", &format!("embed_tokens : {encoding}[5, 4]"));
        Parts::of(&file_of(&step))
    };
    let refused = |encoding: &str, expected: &str, change: fn(&mut Parts)| {
        let mut parts = parts(encoding);
        change(&mut parts);
        let error = read_bytes(parts.file(false)).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "`{error}` instead of `{expected}`");
    };
    for encoding in ["int8.row", "int4.row"] {
        let read = read_bytes(parts(encoding).file(false)).unwrap();
        let table = read.module.weight(read.module.weight_id("embed_tokens").unwrap());
        assert_eq!(table.ty.to_string(), format!("{encoding}[5, 4]"));
        refused(encoding, "`args` is 7 long, not 8 long", |p| {
            p.kernel().args.as_mut().unwrap().pop();
        });
        refused(encoding, "a table with zero points", |p| p.kernel().args.as_mut().unwrap()[2] = 0);
        refused(encoding, "an embedding of anything but", |p| p.kernel().args.as_mut().unwrap()[5] = 2);
        refused(encoding, "a table that is not constant", |p| p.kernel().args.as_mut().unwrap()[0] = 2);
        refused(encoding, "value 2: `sizes`", |p| p.kernel().args.as_mut().unwrap()[1] = 2);
        refused(encoding, "there is no value 999", |p| p.kernel().args.as_mut().unwrap()[1] = 999);
        refused(encoding, "a table of scalar type", |p| {
            let table = p.kernel().args.as_ref().unwrap()[0];
            p.tensor(table as usize).scalar_type = 6;
        });
        refused(encoding, "`sizes` is", |p| {
            let scales = p.kernel().args.as_ref().unwrap()[1];
            p.tensor(scales as usize).sizes = Some(vec![4]);
        });
        refused(encoding, "the kernel `quantized_decomposed::embedding_2bit.out`", |p| {
            let operators = p.plan().operators.as_mut().unwrap();
            operators[0].name = Some("quantized_decomposed::embedding_2bit".into());
        });
    }
    refused("int4.row", "3 scales for 4 numbers", |p| {
        let scales = p.kernel().args.as_ref().unwrap()[1];
        let scales = p.tensor(scales as usize);
        (scales.sizes, scales.dim_order) = (Some(vec![5, 3]), Some(vec![0, 1]));
    });
    refused("int4.row", "beyond", |p| {
        let table = p.kernel().args.as_ref().unwrap()[0];
        p.tensor(table as usize).sizes = Some(vec![5, i32::MAX]);
    });
}

#[test]
fn metadata() {
    let int = |value| vec![EValue { val: Some(KernelTypes::Int(Box::new(Int { value }))) }];
    let text =
        |value: &str| vec![EValue { val: Some(KernelTypes::String(Box::new(Text { value: Some(value.into()) }))) }];
    refused("method \"get_n_layers\": `value` is 7, not 1", |p| p.method("get_n_layers").values = Some(int(7)));
    refused("method \"get_vocab_size\": `value` is 6", |p| p.method("get_vocab_size").values = Some(int(6)));
    refused("version 99", |p| p.method("get_format_version").values = Some(int(99)));
    refused("does not return one whole number", |p| p.method("get_n_layers").values = Some(text("7")));
    refused("does not return one text", |p| p.method("get_model_name").values = Some(int(7)));
    refused("a second method that computes", |p| p.method("get_n_layers").inputs = Some(vec![0]));
    refused("there is no value 4", |p| p.method("get_n_layers").outputs = Some(vec![4]));
    refused("`outputs` is", |p| p.method("get_n_layers").outputs = Some(vec![0; 70000]));
    refused("method \"get_generation\"", |p| {
        let mut method = p.method("get_model_name").clone();
        (method.name, method.values) = (Some("get_generation".into()), Some(text("{\"family\": 1}")));
        p.program.execution_plan.as_mut().unwrap().push(method);
    });
    refused("beyond 4194304", |p| {
        let method = p.method("get_model_name");
        (method.values, method.outputs) = (Some(text(&"x".repeat(1 << 20))), Some(vec![0; 5000]));
    });
}
