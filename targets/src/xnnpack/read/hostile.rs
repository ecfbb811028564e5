//! Files that are wrong in one place each, and files that are unusual but right.

use planus::ReadAsRoot;

use diffulex_compiler::ir::{StoredTensor, WeightError, WeightSource, WeightType, parse};

use crate::raise::raise;
use crate::xnnpack::schema::delegate::{
    ConstantDataOffset, Graph, GraphRef, Node, NodeUnion, OneInput, OutputMinMax, QuantizedTensorValue, TensorValue,
    Unknown, ValueUnion,
};
use crate::xnnpack::schema::finish;
use crate::xnnpack::schema::program::{
    DelegateCall, EValue, ExecutionPlan, Instruction, InstructionArguments, Int, KernelCall, KernelTypes, MoveCall,
    NamedData, Program, ProgramRef, String as Text, Tensor,
};
use crate::xnnpack::{Artifact, Metadata, Options, ReadError, emit, read_bytes};

/// A step with one layer, small but with everything that the reader has to tell apart.
const STEP: &str = r#"
module "tiny" stage legal xnnpack
dims T = 2, C = 3

weights {
  embed_tokens : f32[5, 4]
  layers.{i} for i in 0..1 {
    k_proj : f32[2, 4]
    gain : f32[4]
  }
  lm_head : f32[5, 4]
}

cache k, v : f32[1, 1, C, 2] for layers.{i} in 0..1

graph step(%tokens: i32[1, T], %positions: i32[1, T], %mask: f32[1, 1, T, C+T]) {
  %x = embed %tokens, @embed_tokens : f32[1, T, 4]
  layers.{i} for i in 0..1 carry %x {
    %g = mul %x, @gain : f32[1, T, 4]
    %k = linear %g, @k_proj : f32[1, T, 2]
    %split = reshape %k {shape = [1, T, 1, 2]} : f32[1, T, 1, 2]
    %k.new = transpose %split {perm = [0, 2, 1, 3]} : f32[1, 1, T, 2]
    %v.new = neg %k.new : f32[1, 1, T, 2]
    %k.all = cached $k, %k.new : f32[1, 1, C+T, 2]
    %v.all = cached $v, %v.new : f32[1, 1, C+T, 2]
    %scores = matmul %k.new, %k.all {transpose = true} : f32[1, 1, T, C+T]
    %masked = add %scores, %mask : f32[1, 1, T, C+T]
    %weights = softmax %masked : f32[1, 1, T, C+T]
    %mix = matmul %weights, %v.all {transpose = false} : f32[1, 1, T, 2]
    %flat = reshape %mix {shape = [1, T, 2]} : f32[1, T, 2]
    %both = concat %flat, %flat {axis = 2} : f32[1, T, 4]
    next add %x, %both : f32[1, T, 4]
  }
  %logits = linear %x, @lm_head : f32[1, T, 5]
  return %logits
}
"#;

struct Ones(Vec<u8>);

impl WeightSource for Ones {
    fn tensor(&self, name: &str) -> Result<StoredTensor<'_>, WeightError> {
        let module = parse(STEP).unwrap();
        let id = module.weight_id(name).ok_or_else(|| WeightError::Missing(name.into()))?;
        let ty: WeightType = module.weight(id).ty.clone();
        Ok(StoredTensor { bytes: &self.0[..ty.bytes() as usize], packing: Default::default(), scales: &[], ty })
    }
}

fn good() -> Vec<u8> {
    let module = parse(STEP).unwrap();
    let ones = Ones(1f32.to_le_bytes().repeat(64));
    let metadata = Metadata { generation: None, recipe_digest: "r".into() };
    let mut bytes = Vec::new();
    emit(&module, &ones, &metadata, &Options::default(), &mut bytes, &mut |_, _| {}).unwrap();
    bytes
}

/// A file taken apart: both flatbuffers, the segments, the delegate's inline constants.
struct Parts {
    program: Program,
    graph: Graph,
    inline: Vec<u8>,
    segments: Vec<Vec<u8>>,
}

impl Parts {
    fn of(bytes: &[u8]) -> Parts {
        let at = |i: usize| u64::from_le_bytes(bytes[i..i + 8].try_into().unwrap()) as usize;
        let program = Program::try_from(ProgramRef::read_as_root(&bytes[..at(16)]).unwrap()).unwrap();
        let segment = |i: usize| {
            let segment = &program.segments.as_ref().unwrap()[i];
            bytes[at(24) + segment.offset as usize..][..segment.size as usize].to_vec()
        };
        let segments: Vec<Vec<u8>> = (0..program.segments.as_ref().unwrap().len()).map(segment).collect();
        let graph = Graph::try_from(GraphRef::read_as_root(&segments[1][32..]).unwrap()).unwrap();
        Parts { program, graph, inline: vec![], segments }
    }

    /// Puts the file together. Segments get their places anew unless `keep` says that the program's are meant.
    fn file(mut self, keep: bool) -> Vec<u8> {
        let graph = finish(&self.graph, *b"XN01");
        let constants = (32 + graph.len()).next_multiple_of(16);
        let mut blob = [&[0; 4][..], b"XH00", &30u16.to_le_bytes(), &32u32.to_le_bytes()].concat();
        blob.extend((graph.len() as u32).to_le_bytes());
        blob.extend((constants as u32).to_le_bytes());
        blob.extend((self.inline.len() as u64).to_le_bytes());
        blob.resize(32, 0);
        blob.extend(graph);
        blob.resize(constants, 0);
        blob.extend(&self.inline);
        self.segments[1] = blob;
        let mut data = Vec::new();
        for (i, segment) in self.segments.iter().enumerate() {
            data.resize(data.len().next_multiple_of(128), 0);
            if let Some(entry) = self.program.segments.as_mut().and_then(|s| s.get_mut(i)).filter(|_| !keep) {
                (entry.offset, entry.size) = (data.len() as u64, segment.len() as u64);
            }
            data.extend(segment);
        }
        let program = finish(&self.program, *b"ET12");
        let size = program.len() + 32;
        let root = u32::from_le_bytes(program[..4].try_into().unwrap()) + 32;
        let mut file = [&root.to_le_bytes(), &program[4..8], b"eh00", &32u32.to_le_bytes()].concat();
        for number in [size, size.next_multiple_of(128), data.len()] {
            file.extend((number as u64).to_le_bytes());
        }
        file.extend(&program[8..]);
        file.resize(size.next_multiple_of(128), 0);
        file.extend(data);
        file
    }

    fn plan(&mut self) -> &mut ExecutionPlan {
        &mut self.program.execution_plan.as_mut().unwrap()[0]
    }

    fn method(&mut self, name: &str) -> &mut ExecutionPlan {
        let plans = self.program.execution_plan.as_mut().unwrap();
        plans.iter_mut().find(|p| p.name.as_deref() == Some(name)).unwrap()
    }

    /// Value `i` of method `forward`, a tensor.
    fn tensor(&mut self, i: usize) -> &mut Tensor {
        match self.plan().values.as_mut().unwrap()[i].val.as_mut().unwrap() {
            KernelTypes::Tensor(tensor) => tensor,
            other => panic!("{other:?}"),
        }
    }

    fn instructions(&mut self) -> &mut Vec<Instruction> {
        self.plan().chains.as_mut().unwrap()[0].instructions.as_mut().unwrap()
    }

    fn kernel(&mut self) -> &mut KernelCall {
        match self.instructions()[0].instr_args.as_mut().unwrap() {
            InstructionArguments::KernelCall(call) => call,
            other => panic!("{other:?}"),
        }
    }

    fn call(&mut self) -> &mut DelegateCall {
        match self.instructions().last_mut().unwrap().instr_args.as_mut().unwrap() {
            InstructionArguments::DelegateCall(call) => call,
            other => panic!("{other:?}"),
        }
    }

    fn value(&mut self, i: usize) -> &mut TensorValue {
        match self.graph.xvalues.as_mut().unwrap()[i].xvalue_union.as_mut().unwrap() {
            ValueUnion::TensorValue(tensor) => tensor,
            other => panic!("{other:?}"),
        }
    }

    fn nodes(&mut self) -> &mut Vec<Node> {
        self.graph.xnodes.as_mut().unwrap()
    }

    /// The first node that `pick` picks.
    fn node<T>(&mut self, pick: impl Fn(&mut NodeUnion) -> Option<&mut T>) -> &mut T {
        self.nodes().iter_mut().find_map(|node| pick(node.xnode_union.as_mut().unwrap())).unwrap()
    }

    fn constant(&mut self, i: usize) -> &mut ConstantDataOffset {
        &mut self.graph.constant_data.as_mut().unwrap()[i]
    }
}

fn read(change: impl Fn(&mut Parts)) -> Result<Artifact, ReadError> {
    let mut parts = Parts::of(&good());
    change(&mut parts);
    read_bytes(parts.file(false))
}

#[track_caller]
fn refused(expected: &str, change: impl Fn(&mut Parts)) {
    match read(change) {
        Ok(_) => panic!("read, where the error is `{expected}`"),
        Err(error) => assert!(error.to_string().contains(expected), "`{error}` instead of `{expected}`"),
    }
}

macro_rules! pick {
    ($variant:ident) => {
        |node| match node {
            NodeUnion::$variant(node) => Some(node.as_mut()),
            _ => None,
        }
    };
}

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

#[test]
fn values() {
    refused("value 1: the id 1 occurs twice", |p| p.value(0).id_out = 1);
    refused("datatype 3", |p| p.value(5).datatype = 3);
    refused("value 6: has no `quant_params`", |p| {
        let tensor = p.value(6).clone();
        let value = QuantizedTensorValue { tensor_value: Some(Box::new(tensor)), quant_params: None };
        p.graph.xvalues.as_mut().unwrap()[6].xvalue_union = Some(ValueUnion::QuantizedTensorValue(Box::new(value)));
    });
    refused("`num_dims` is 2", |p| p.value(5).num_dims = 2);
    refused("an axis of 0", |p| p.value(5).dims = Some(vec![1, 0, 4]));
    refused("beyond 9223372036854775807", |p| p.value(5).dims = Some(vec![u32::MAX; 3]));
    refused("flags 4", |p| p.value(0).flags = 4);
    refused("flags 3", |p| p.value(0).flags = 3);
    refused("external id 77 is not below", |p| p.value(0).external_id = 77);
    refused("external id 1 occurs twice", |p| p.value(0).external_id = 1);
    refused("an external id has no value", |p| p.graph.num_externs += 1);
    refused("`num_externs` is 9999, beyond 4096", |p| p.graph.num_externs = 9999);
    refused("`input_ids` is", |p| p.graph.input_ids.as_mut().unwrap()[0] = 9);
    refused("value 0: `dims` is [1, 2, 5], not [1, 2, 4] of its tensor", |p| p.value(0).dims = Some(vec![1, 2, 5]));
}

#[test]
fn constants() {
    refused("there is no constant 99", |p| p.value(4).constant_buffer_idx = 99);
    refused("constant 1: `size` is 3, not 16", |p| p.constant(1).size = 3);
    refused("has both an offset and a key", |p| p.constant(1).offset = 0);
    refused("no named data has the key \"nothing\"", |p| p.constant(1).named_key = Some("nothing".into()));
    refused("`offset` is 18446744073709551615", |p| p.constant(1).named_key = None);
    refused("inline constant", |p| {
        p.inline = vec![0; 16];
        *p.constant(1) = ConstantDataOffset { offset: 0, size: 16, named_key: None };
    });
    refused("`size` is 16, beyond 15", |p| {
        p.inline = vec![0; 31];
        *p.constant(1) = ConstantDataOffset { offset: 16, size: 16, named_key: None };
    });
}

#[test]
fn nodes() {
    refused("does not know `Abs`", |p| p.nodes()[0].xnode_union = Some(NodeUnion::Abs(Box::new(Unknown {}))));
    refused("node 0: has no `xnode_union`", |p| p.nodes()[0].xnode_union = None);
    refused("a clamp to 0..inf", |p| {
        p.nodes()[0].output_min_max = Some(Box::new(OutputMinMax { output_min: 0.0, output_max: f32::INFINITY }));
    });
    refused("flags 8", |p| p.node(pick!(Multiply)).flags = 8);
    refused("flags 2", |p| p.node(pick!(BatchMatrixMultiply)).flags = 2);
    refused("flags 1", |p| p.node(pick!(FullyConnected)).flags = 1);
    refused("there is no value 999", |p| p.node(pick!(Negate)).input_id = 999);
    refused("which nothing made before", |p| p.nodes().reverse());
    refused("which is there already", |p| {
        let twice = p.nodes()[0].clone();
        p.nodes().insert(1, twice);
    });
    refused("an output that nothing makes", |p| drop(p.nodes().pop()));
    refused("a filter or bias that is not constant", |p| {
        let fc = p.node(pick!(FullyConnected));
        fc.filter_id = fc.input1_id;
    });
    refused("a constant as operand 0", |p| {
        let filter = p.node(pick!(FullyConnected)).filter_id;
        p.node(pick!(Softmax)).input_id = filter;
    });
    refused("two inferred axes", |p| p.node(pick!(StaticReshape)).new_shape = Some(vec![1, 0, 0, 2]));
    refused("cannot become", |p| p.node(pick!(StaticReshape)).new_shape = Some(vec![1, 0, 3, 1]));
    refused("cannot become", |p| p.node(pick!(StaticReshape)).new_shape = Some(vec![1, 2, 1, 2]));
    refused("too many numbers", |p| p.node(pick!(StaticReshape)).new_shape = Some(vec![u32::MAX, 0, u32::MAX, 9]));
    refused("no order of the axes", |p| p.node(pick!(StaticTranspose)).perm = Some(vec![0, 2, 2, 3]));
    refused("no order of the axes", |p| p.node(pick!(StaticTranspose)).perm = Some(vec![0, 2, 1, 9]));
    refused("`num_dims` is 4", |p| p.node(pick!(StaticTranspose)).perm = Some(vec![0, 1]));
    refused("a cache that is used otherwise", |p| p.node(pick!(Concatenate2)).axis = 3);
    refused("a cache that is used otherwise", |p| {
        let cache = p.node(pick!(Concatenate2)).input1_id;
        p.node(pick!(Negate)).input_id = cache;
    });
    refused("is not what cache v.0 is joined with", |p| {
        let args = p.call().args.as_mut().unwrap();
        let last = args.len() - 1;
        args.swap(last, last - 1);
    });
    refused("delegate, value", |p| {
        let output = p.node(pick!(Softmax)).output_id as usize;
        p.value(output).dims = Some(vec![1, 1, 2, 6]);
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

/// As many nodes as a file may have, one after another: the time to read them grows with their number only.
#[test]
fn a_long_chain_is_read_soon() {
    let started = std::time::Instant::now();
    let read = read(|p| {
        let id = p.graph.xvalues.as_ref().unwrap().len() as u32;
        let from = p.node(pick!(Softmax)).output_id;
        let like = p.graph.xvalues.as_ref().unwrap()[from as usize].clone();
        let at = p.nodes().iter().position(|n| matches!(n.xnode_union, Some(NodeUnion::Softmax(_)))).unwrap() + 1;
        let count = (1 << 15) - p.nodes().len() as u32;
        let mut chain = Vec::new();
        for i in 0..count {
            let mut value = like.clone();
            let Some(ValueUnion::TensorValue(tensor)) = &mut value.xvalue_union else { unreachable!() };
            tensor.id_out = id + i;
            p.graph.xvalues.as_mut().unwrap().push(value);
            let input_id = if i == 0 { from } else { id + i - 1 };
            let node = NodeUnion::Negate(Box::new(OneInput { input_id, output_id: id + i, flags: 0 }));
            chain.push(Node { xnode_union: Some(node), debug_handle: 0, output_min_max: None });
        }
        p.nodes().splice(at..at, chain);
    });
    let read = read.unwrap();
    assert_eq!(read.module.nodes.iter().filter(|n| n.op.name() == "neg").count(), (1 << 15) - 14);
    raise(&read.module, read.source.as_ref()).unwrap();
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

/// What other writers do, and the document allows.
#[test]
fn unusual_files_are_read() {
    let plain = read_bytes(good()).unwrap().module;
    let same = |change: &dyn Fn(&mut Parts)| assert_eq!(read(change).unwrap().module, plain);
    same(&|p| (p.graph.input_ids, p.graph.output_ids) = (None, Some(vec![])));
    same(&|p| p.graph.version = None);
    same(&|p| p.plan().container_meta_type = None);
    same(&|p| {
        p.nodes()[0].output_min_max =
            Some(Box::new(OutputMinMax { output_min: f32::NEG_INFINITY, output_max: f32::INFINITY }))
    });
    // A copy before an output.
    same(&|p| {
        let values = p.graph.xvalues.as_mut().unwrap();
        let id = values.len() as u32;
        let at = values
            .iter()
            .position(|v| matches!(&v.xvalue_union, Some(ValueUnion::TensorValue(t)) if t.flags == 2))
            .unwrap();
        let mut copy = values[at].clone();
        let Some(ValueUnion::TensorValue(tensor)) = &mut copy.xvalue_union else { unreachable!() };
        let (from, external) = (tensor.id_out, tensor.external_id);
        tensor.id_out = id;
        values.push(copy);
        let value = p.value(at);
        (value.flags, value.external_id) = (0, u32::MAX);
        p.graph.output_ids = None;
        let copy = NodeUnion::Copy(Box::new(OneInput { input_id: from, output_id: id, flags: 0 }));
        p.nodes().push(Node { xnode_union: Some(copy), debug_handle: 0, output_min_max: None });
        assert!(external < 100);
    });

    // Keys that are digests: no layers to be seen but those of the caches.
    let digests = read(|p| {
        let key = |i: usize| format!("{:064x}", i * 12345);
        let named: &mut Vec<NamedData> = p.program.named_data.as_mut().unwrap();
        for (i, named) in named.iter_mut().enumerate() {
            named.key = Some(key(i));
        }
        for i in 1..4 {
            p.constant(i).named_key = Some(key(i - 1));
        }
    });
    let digests = digests.unwrap().module;
    assert_eq!(digests.weights.len(), plain.weights.len());
    assert_eq!(digests.nodes.len(), plain.nodes.len());

    // Filters may be inline, since XNNPACK copies them.
    let inline = read(|p| {
        p.inline = 1f32.to_le_bytes().repeat(8);
        *p.constant(2) = ConstantDataOffset { offset: 0, size: 32, named_key: None };
    });
    assert!(inline.unwrap().module.weight_id("const.2").is_some());
}
