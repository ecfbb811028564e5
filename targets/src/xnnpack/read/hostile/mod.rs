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
    file_of(STEP)
}

/// The file of a module that is the step with other encodings.
fn file_of(step: &str) -> Vec<u8> {
    let module = parse(step).unwrap();
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

mod delegate;
mod program;

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
