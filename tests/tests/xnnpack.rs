//! The XNNPACK target: a module, legal for it, as a file, and back.
//!
//! The judge of a rewriting is the interpreter; the judge of a file is ExecuTorch itself, where
//! `tests/engines/setup.sh executorch` has installed it.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod decoder;

use std::collections::HashMap;

use diffulex_compiler::generation::Generation;
use diffulex_compiler::ir::interpret::{Array, Inputs, Outputs};
use diffulex_compiler::ir::{
    CacheId, CacheKind, Encoding, Module, Node, Op, Operand, Stage, StoredTensor, WeightError, WeightExpr,
    WeightSource, WeightType, interpret, parse, print,
};
use diffulex_compiler::{passes, quant};
use diffulex_runtime::engine::{Engine, LayerRows, StepInput, StepOutput};
use diffulex_runtime::executorch::ExecuTorch;
use diffulex_targets::raise::raise;
use diffulex_targets::xnnpack::{EmitError, Metadata, Options, emit, legalize, read, read_bytes};

use decoder::{Model, Numbers, Random, SDAR, assert_same, distance, inputs, models, module, sizes};

fn generation() -> Generation {
    let text = r#"{
        "family": "sdar", "attention": "block_causal", "logits": "aligned", "block": 4, "mask_id": 7, "end_ids": [3, 5],
        "algorithm": "sdar.block_diffusion_generate", "strategy": "low_confidence_dynamic", "steps": 4,
        "threshold": [0.9], "temperature": 0.0, "top_k": 0, "top_p": 1.0, "max_tokens": 64, "seed": 1
    }"#;
    serde_json::from_str(text).unwrap()
}

fn write(legal: &Module, numbers: &dyn WeightSource) -> Vec<u8> {
    let metadata = Metadata { generation: Some(generation()), recipe_digest: "sha256:0123".into() };
    let mut bytes = Vec::new();
    emit(legal, numbers, &metadata, &Options::default(), &mut bytes, &mut |_, _| {}).unwrap();
    bytes
}

macro_rules! assert_snapshot {
    ($name:expr, $value:expr) => {
        insta::with_settings!({ snapshot_path => "../../snapshots/targets", prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!($name, $value);
        })
    };
}

// --- legal ------------------------------------------------------------------------------------------------------------

#[test]
fn a_legal_module_computes_the_same() {
    for (i, model) in models().into_iter().enumerate() {
        let (source, numbers) = (module(model), Numbers::random(model, i as u64));
        let legal = legalize(&source).unwrap();
        for (t, c) in sizes(model) {
            let given = inputs(model, t, c, 7);
            let expected = interpret(&source, &numbers, &given).unwrap();
            let found = interpret(&legal, &numbers, &given).unwrap();
            assert_same(&format!("model {i}, T = {t}, C = {c}"), &found, &expected, 1e-5);
        }
    }
}

#[test]
fn a_legal_module_reads_well() {
    assert_snapshot!("xnnpack-legal", print(&legalize(&module(SDAR)).unwrap()));
}

/// A module as text: a step with one layer, around some `lines` that end with `%y : f32[1, T, 8]`.
fn around(weights: &str, lines: &str) -> Module {
    let text = format!(
        r#"
        module "around" stage fused
        dims T = 2, C = 3
        weights {{
          table : f32[5, 8]
          {weights}
        }}
        cache k, v : f32[1, 2, C, 4] for layers.{{i}} in 0..1
        graph step(%tokens: i32[1, T], %positions: i32[1, T], %mask: f32[1, 1, T, C+T]) {{
          %x = embed %tokens, @table : f32[1, T, 8]
          %h = heads %x {{n = 2}} : f32[1, 2, T, 4]
          %n = neg %h : f32[1, 2, T, 4]
          %k.all = cached $k.0, %h : f32[1, 2, C+T, 4]
          %v.all = cached $v.0, %n : f32[1, 2, C+T, 4]
          {lines}
          return %y
        }}"#
    );
    parse(&text).unwrap()
}

#[track_caller]
fn refused(weights: &str, lines: &str, expected: &str, nearest: Option<&str>) {
    let refusal = legalize(&around(weights, lines)).unwrap_err();
    assert_eq!(refusal.to_string(), expected);
    assert_eq!(refusal.nearest().as_deref(), nearest);
}

#[test]
fn what_xnnpack_lacks_is_refused_by_name() {
    refused(
        "w : bf16[8, 8]",
        "%y = linear %x, @w : f32[1, T, 8]",
        "@w: this target cannot use bf16 for a filter",
        Some("f32 or f16 or int8.row or int4.row"),
    );
    refused(
        "w : int4.g32[8, 64]",
        "%z = concat %x, %x, %x, %x, %x, %x, %x, %x {axis = 2} : f32[1, T, 64]
         %y = linear %z, @w : f32[1, T, 8]",
        "@w: this target cannot use int4.g32 for a filter",
        Some("f32 or f16 or int8.row or int4.row"),
    );
    refused(
        "w : int4.g32[8, 8]",
        "%z = int8_token %x : f32[1, T, 8]
         %y = linear %z, @w : f32[1, T, 8]",
        "@w: rows of 8 numbers cannot be cut into groups of 32",
        None,
    );
    refused(
        "w : f16[8, 8]",
        "%z = int8_token %x : f32[1, T, 8]
         %y = linear %z, @w : f32[1, T, 8]",
        "@w: this target cannot use f16 for a filter of int8 tokens",
        Some("int8.row or int4.row or int4.g32 or int4.g64 or int4.g128"),
    );
    refused(
        "w : int8.row[8, 8]",
        "%z = int8_token %x : f32[1, T, 8]
         %y = add %z, %x : f32[1, T, 8]",
        "%y: only a filter takes tokens in int8",
        None,
    );
    refused(
        "t : int4.row[5, 9]",
        "%y = embed %tokens, @t : f32[1, T, 9]",
        "@t: rows of 9 numbers, an odd number, cannot be int4.row for a table",
        Some("int8.row"),
    );
    refused(
        "w : int4.row[8, 9]\nt : f32[5, 9]",
        "%o = embed %tokens, @t : f32[1, T, 9]
         %z = int8_token %o : f32[1, T, 9]
         %y = linear %z, @w : f32[1, T, 8]",
        "@w: rows of 9 numbers, an odd number, cannot be int4.row for a filter of int8 tokens",
        Some("int8.row"),
    );
    refused(
        "w : bf16[8, 8]",
        "%y = linear %x, @w : f32[1, T, 8]",
        "@w: this target cannot use bf16 for a filter",
        Some("f32 or f16 or int8.row or int4.row"),
    );
    refused(
        "w : f16[8, 8]",
        "%z = cast %x {to = bf16} : bf16[1, T, 8]
         %y = linear %z, @w : f32[1, T, 8]",
        "@w: this target cannot use f16 for a filter of bf16 tokens",
        Some("bf16"),
    );
    refused(
        "",
        "%z = cast %x {to = f16} : f16[1, T, 8]
         %s = square %z : f16[1, T, 8]
         %y = cast %s {to = f32} : f32[1, T, 8]",
        "%s: this target does not compute in f16",
        Some("f32"),
    );
    refused(
        "w : f16[8, 8]",
        "%z = linear %x, @w : f32[1, T, 8]\n%u = reshape %z {shape = [T, 8]} : f32[T, 8]\n%m = mul @w, @w : f32[8, 8]\n\
         %y = linear %z, @w : f32[1, T, 8]",
        "@w: this target cannot use f16 for a vector and a matrix",
        Some("f32"),
    );
    refused(
        "a : f32[8]\nb : f32[8]",
        "%c = add @a, @b : f32[8]\n%y = mul %x, %c : f32[1, T, 8]",
        "%c: two constants: nothing depends on the step",
        None,
    );
    refused(
        "",
        "%r = reshape %x {shape = [1, 1, 1, 1, T, 1, 8]} : f32[1, 1, 1, 1, T, 1, 8]\n\
         %y = reshape %r {shape = [1, T, 8]} : f32[1, T, 8]",
        "%r: 7 axes; XNNPACK takes 1 to 6",
        None,
    );
    refused("", "%y = cast %x {to = f16} : f16[1, T, 8]", "%y: the logits are f16[1, T, 8], not f32[1, T, V]", None);
    refused(
        "",
        "%m = reshape %x {shape = [T, 8]} : f32[T, 8]\n%p = matmul %m, %m {transpose = true} : f32[T, T]\n\
         %y = neg %x : f32[1, T, 8]",
        "%p: a matrix product wants the same number of axes, at least three, on both sides",
        None,
    );
    refused(
        "",
        "%y = matmul %mask, %v.all {transpose = false} : f32[1, 2, T, 4]",
        "%y: the logits are f32[1, 2, T, 4], not f32[1, T, V]",
        None,
    );
}

#[test]
fn many_parts_are_joined_in_turns() {
    let parts = vec!["%x"; 27].join(", ");
    let source = around("", &format!("%y = concat {parts} {{axis = 2}} : f32[1, T, 216]"));
    let legal = legalize(&source).unwrap();
    assert!(legal.nodes.iter().all(|n| n.args.len() <= 5));
    read_bytes(write(&legal, &Table)).unwrap();
}

/// Gives every tensor that is asked for, as `table` of [`around`] is.
struct Table;

impl WeightSource for Table {
    fn tensor(&self, _: &str) -> Result<StoredTensor<'_>, WeightError> {
        Ok(StoredTensor {
            ty: WeightType::new(Encoding::F32, [5, 8]),
            packing: Default::default(),
            bytes: &[0; 160],
            scales: &[],
        })
    }
}

// --- emit -------------------------------------------------------------------------------------------------------------

/// Notes how much is written at a time, and which tensors are given back.
#[derive(Default)]
struct Watch {
    largest: usize,
    total: u64,
}

impl std::io::Write for Watch {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.largest = self.largest.max(bytes.len());
        self.total += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn weights_are_streamed() {
    let big = Model { layers: 1, vocab: 20_000, hidden: 256, encoding: Encoding::F16, ..SDAR };
    let legal = legalize(&module(big)).unwrap();
    let (mut watch, mut told) = (Watch::default(), Vec::new());
    let numbers = Numbers::random(big, 1);
    let progress = &mut |written, total| told.push((written, total));
    emit(&legal, &numbers, &Metadata::default(), &Options::default(), &mut watch, progress).unwrap();
    assert!(watch.largest <= 4 << 20, "{} bytes at once", watch.largest);
    assert!(told.is_sorted() && told.last() == Some(&(watch.total, watch.total)));
    assert!(watch.total > 16 << 20);
    let mut left: Vec<String> = numbers.tensors.into_keys().collect();
    left.retain(|name| !numbers.released.lock().unwrap().contains(name));
    left.retain(|name| !name.ends_with("bias"));
    assert_eq!(left, Vec::<String>::new(), "not given back");
}

#[test]
fn segments_start_where_the_options_say() {
    let legal = legalize(&module(SMALL)).unwrap();
    let numbers = Numbers::random(SMALL, 3);
    let write = |alignment| {
        let mut bytes = Vec::new();
        let options = Options { alignment };
        emit(&legal, &numbers, &Metadata::default(), &options, &mut bytes, &mut |_, _| {}).map(|_| bytes)
    };
    for alignment in [16, 128, 4096, 16384] {
        let bytes = write(alignment).unwrap();
        let base = u64::from_le_bytes(bytes[24..32].try_into().unwrap());
        assert_eq!(base % u64::from(alignment), 0);
        assert_eq!(read_bytes(bytes).unwrap().module, read_bytes(small_file()).unwrap().module);
    }
    for alignment in [0, 8, 100, 1 << 21] {
        assert!(matches!(write(alignment), Err(EmitError::Alignment(_))), "{alignment}");
    }
}

#[test]
fn what_cannot_be_written_is_said() {
    let (mut nowhere, silent) = (std::io::sink(), &mut |_, _| {});
    let mut write = |module: &Module, numbers: &Numbers| {
        emit(module, numbers, &Metadata::default(), &Options::default(), &mut nowhere, silent).unwrap_err().to_string()
    };
    let (half, mut numbers) = (Model { encoding: Encoding::F16, ..SMALL }, Numbers::random(SMALL, 3));
    let source = module(half);
    assert_eq!(write(&source, &numbers), "module \"small\": is at stage `fused`, not `legal xnnpack`");

    let claimed = Module { stage: Stage::Legal("xnnpack".into()), ..source.clone() };
    assert!(write(&claimed, &numbers).contains("XNNPACK has no `"), "{}", write(&claimed, &numbers));

    let legal = legalize(&source).unwrap();
    let (_, bytes) = numbers.tensors.get_mut("lm_head").unwrap();
    bytes[20..24].copy_from_slice(&1e5f32.to_le_bytes());
    assert_eq!(
        write(&legal, &numbers),
        "tensor `lm_head`, row 1, column 1: 100000 cannot be stored as f16 in `lm_head`"
    );

    numbers.tensors.remove("lm_head");
    assert_eq!(write(&legal, &numbers), "there is no tensor `lm_head`");
}

// --- read -------------------------------------------------------------------------------------------------------------

#[test]
fn a_file_reads_back_as_what_was_written() {
    for (i, model) in models().into_iter().enumerate() {
        let (source, numbers) = (module(model), Numbers::random(model, i as u64));
        let read = read_bytes(write(&legalize(&source).unwrap(), &numbers)).unwrap();
        assert_eq!(read.generation, Some(generation()));
        assert_eq!(read.recipe_digest.as_deref(), Some("sha256:0123"));
        assert!(read.module.nodes.iter().any(|n| n.layer.is_some()), "model {i} has no layers");
        for (t, c) in sizes(model) {
            let given = inputs(model, t, c, 7);
            let expected = interpret(&source, &numbers, &given).unwrap();
            let found = interpret(&read.module, read.source.as_ref(), &given).unwrap();
            assert_same(&format!("model {i}, T = {t}, C = {c}"), &found, &expected, 1e-5);
        }
    }
}

#[test]
fn a_read_module_reads_well() {
    let bytes = write(&legalize(&module(SDAR)).unwrap(), &Numbers::random(SDAR, 1));
    assert_snapshot!("xnnpack-read", print(&read_bytes(bytes).unwrap().module));
}

/// Sizes that leave a file of a few kilobytes.
const SMALL: Model = Model { layers: 1, heads: 2, kv: 1, dim: 2, hidden: 4, inner: 4, vocab: 6, t: 2, c: 2, ..SDAR };

fn small_file() -> Vec<u8> {
    write(&legalize(&module(SMALL)).unwrap(), &Numbers::random(SMALL, 3))
}

/// The same with filters in int8 or int4 and tokens in int8.
fn small_quantized_file() -> Vec<u8> {
    let keep = vec![("*.mlp.*".to_string(), Encoding::Int4Row), ("*o_proj".to_string(), Encoding::F32)];
    let (weights, table) = (Encoding::Int8Row, Encoding::Int4Row);
    let (activations, search) = (quant::Activations::DynamicInt8, quant::Search::Mse);
    let scheme = quant::Scheme { weights, table, activations, search, keep };
    let quantized = passes::run(module(SMALL), &["quantize"], &scheme, &mut |_| {}).unwrap();
    write(&legalize(&quantized).unwrap(), &Numbers::random(SMALL, 3))
}

/// The same with 16-bit arithmetic, an int8 table that is the head too, and an input that chooses rows.
fn small_choosing_file() -> Vec<u8> {
    const TIED: Model = Model { tied: true, ..SMALL };
    let keep = vec![("*.mlp.*".to_string(), Encoding::BF16), ("*self_attn*".to_string(), Encoding::F16)];
    let activations = quant::Activations::F16;
    let scheme = quant::Scheme { activations, keep, ..quant::Scheme::float(Encoding::Int8Row) };
    let module = passes::run(module(TIED), &["select-rows", "quantize"], &scheme, &mut |_| {}).unwrap();
    write(&legalize(&module).unwrap(), &Numbers::random(TIED, 3))
}

#[test]
fn quantized_filters_are_read_back() {
    let read = read_bytes(small_quantized_file()).unwrap();
    let source = Numbers::random(SMALL, 3);
    let (mut int8, mut int4) = (0, 0);
    for weight in &read.module.weights {
        let stored = read.source.tensor(&weight.name).unwrap();
        let encoding = weight.ty.encoding;
        int8 += usize::from(encoding == Encoding::Int8Row);
        int4 += usize::from(encoding == Encoding::Int4Row);
        let Some((ty, bytes)) = source.tensors.get(&weight.name).filter(|_| !encoding.is_float()) else { continue };
        let (mut exact, mut rows) = (Vec::new(), quant::Encoded::default());
        let floats = quant::Rows {
            encoding: Encoding::F32,
            packing: Default::default(),
            columns: ty.columns(),
            values: bytes,
            scales: &[],
            of: None,
        };
        floats.decode(&mut exact);
        quant::encode(encoding, quant::Search::Mse, ty.columns(), &exact, &mut rows).unwrap();
        assert_eq!(weight.search, quant::Search::Mse);
        // The kernel of the table takes the first of two numbers from the high half of a byte.
        let turn = if weight.name == "embed_tokens" { 4 } else { 0 };
        rows.values.iter_mut().for_each(|byte| *byte = byte.rotate_left(turn));
        assert_eq!((stored.bytes, stored.scales), (&rows.values[..], &rows.scales[..]), "{}", weight.name);
    }
    assert!(int8 > 0 && int4 > 0, "{}", print(&read.module));
    assert!(read.module.nodes.iter().any(|node| node.op == Op::Int8Token));
}

/// The same step with an input that says which rows get logits.
#[test]
fn chosen_rows_are_those_of_all_rows() {
    for (i, model) in models().into_iter().enumerate() {
        let (source, numbers) = (module(model), Numbers::random(model, i as u64));
        let wanted = ["fuse-swiglu", "select-rows"];
        let chosen = passes::run(source.clone(), &wanted, &quant::Scheme::F32, &mut |_| {}).unwrap();
        let legal = legalize(&chosen).unwrap();
        let read = read_bytes(write(&legal, &numbers)).unwrap();
        assert_eq!(read.module.bounds.r, model.t);
        let raised = raise(&read.module, read.source.as_ref()).unwrap();
        assert!(raised.nodes.iter().any(|node| node.op == Op::GatherRows), "{}", print(&raised));
        for (t, c) in sizes(model) {
            let mut given = inputs(model, t, c, 7);
            let all = interpret(&source, &numbers, &given).unwrap();
            let picks: Vec<usize> = (0..t).rev().step_by(2).collect();
            let one_hot = picks.iter().flat_map(|&row| (0..t).map(move |i| f32::from(u8::from(i == row))));
            let rows = Array { shape: vec![1, picks.len(), t], data: one_hot.collect() };
            given.values.insert("rows".into(), rows);
            let found = interpret(&read.module, read.source.as_ref(), &given).unwrap();
            let vocab = model.vocab as usize;
            let expected: Vec<f32> =
                picks.iter().flat_map(|&row| &all.values[0].data[row * vocab..][..vocab]).copied().collect();
            assert_eq!(found.values[0].shape, [1, picks.len(), vocab]);
            assert!(distance(&found.values[0].data, &expected) <= 1e-5, "model {i}, T = {t}, C = {c}");
        }
    }
}

/// A filter that is the token table too stands in the file once, where both have the same bytes.
#[test]
fn a_tied_table_is_stored_once() {
    const TIED: Model = Model { tied: true, hidden: 64, vocab: 2000, ..SDAR };
    let tied = |encoding, table, search| {
        let scheme = quant::Scheme { table, search, ..quant::Scheme::float(encoding) };
        let module = passes::run(module(TIED), &["quantize"], &scheme, &mut |_| {}).unwrap();
        write(&legalize(&module).unwrap(), &Numbers::random(TIED, 3))
    };
    for (filter, table, shared) in [
        (Encoding::F32, Encoding::F32, true),
        (Encoding::F16, Encoding::F16, true),
        (Encoding::BF16, Encoding::BF16, true),
        (Encoding::Int8Row, Encoding::Int8Row, true),
        // The kernel of the table wants the other half of a byte first.
        (Encoding::Int4Row, Encoding::Int4Row, false),
        (Encoding::F32, Encoding::F16, false),
    ] {
        // Both searches are read back: the one that is not usual stands in the file.
        read_bytes(tied(filter, table, quant::Search::Mse)).unwrap();
        let bytes = tied(filter, table, quant::Search::Max);
        let read = read_bytes(bytes.clone()).unwrap();
        let matrices = read.module.weights.iter().filter(|w| w.ty.shape == [TIED.vocab, TIED.hidden]);
        assert_eq!(matrices.clone().count(), if shared { 1 } else { 2 }, "{filter} {table}");
        let stored: u64 = read.module.weights.iter().map(|w| w.ty.bytes()).sum();
        // What is no weight, paddings and graphs, is the same to a few kilobytes.
        assert!((bytes.len() as u64) < stored + (64 << 10), "{filter} {table}: {} for {stored}", bytes.len());
    }
}

/// Takes a file of many gigabytes into a sparse one: zeros become holes.
struct Sparse {
    file: std::fs::File,
    at: u64,
}

impl std::io::Write for Sparse {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        use std::os::unix::fs::FileExt;
        if bytes.iter().any(|byte| *byte != 0) {
            self.file.write_all_at(bytes, self.at)?;
        }
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.set_len(self.at)
    }
}

/// Offsets beyond 4 GiB: a table of zeros before everything else pushes the other tables and the filters there.
#[test]
fn files_of_more_than_four_gigabytes_are_read_back() {
    let mut huge = legalize(&module(SMALL)).unwrap();
    let table = huge.weights.iter_mut().find(|weight| weight.name == "embed_tokens").unwrap();
    table.ty.shape[0] = (4500 << 18) / SMALL.hidden;
    table.expr = WeightExpr::Fill(0.0);
    let numbers = Numbers::random(SMALL, 3);
    let mut out = Sparse { file: tempfile::tempfile().unwrap(), at: 0 };
    emit(&huge, &numbers, &Metadata::default(), &Options::default(), &mut out, &mut |_, _| {}).unwrap();
    assert!(out.at >> 20 >= 4500, "{}", out.at);
    let read = read(&out.file).unwrap();
    let mut compared = 0;
    for weight in &read.module.weights {
        let Some((ty, bytes)) = numbers.tensors.get(&weight.name).filter(|(ty, _)| *ty == weight.ty) else { continue };
        assert!(read.source.tensor(&weight.name).unwrap().bytes == bytes, "{} {ty}", weight.name);
        compared += 1;
    }
    assert!(compared >= 8, "{compared}");
    // The tables of the rotation lie behind the large one in the constant segment.
    let stored = |name: &str| read.source.tensor(name).unwrap().bytes[..4].to_vec();
    assert_eq!(stored("rope.cos"), 1.0f32.to_le_bytes());
}

#[test]
fn every_truncation_is_an_error() {
    let file = small_file();
    for length in 0..file.len() {
        assert!(read_bytes(file[..length].to_vec()).is_err(), "{length} of {} bytes", file.len());
    }
    // The same with headers that admit to it: the program ends where they say. Its last bytes may be mere padding.
    let whole = read_bytes(file.clone()).unwrap().module;
    let program = u64::from_le_bytes(file[16..24].try_into().unwrap());
    for size in 0..program {
        let mut file = file.clone();
        file[16..24].copy_from_slice(&size.to_le_bytes());
        let read = read_bytes(file);
        assert!(read.is_err() || size + 8 > program && read.unwrap().module == whole, "{size} of {program} bytes");
    }
}

/// Flipped bytes give an error or another module that keeps the rules; never a panic, never gigabytes, never minutes.
#[test]
fn flipped_bytes_never_panic() {
    for file in [small_file(), small_quantized_file(), small_choosing_file()] {
        flip_bytes(&file);
    }
}

fn flip_bytes(file: &[u8]) {
    let program = u64::from_le_bytes(file[16..24].try_into().unwrap()) as usize;
    let delegate = file.windows(4).position(|w| w == b"XH00").unwrap() - 4;
    let graph = u32::from_le_bytes(file[delegate + 14..delegate + 18].try_into().unwrap()) as usize;
    let mut random = Random(5);
    let cases = std::env::var("DIFFULEX_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(3000);
    for case in 0..cases {
        let mut file = file.to_vec();
        for _ in 0..1 + random.below(3) {
            let at = if case % 2 == 0 { random.below(program) } else { delegate + random.below(32 + graph) };
            file[at] = match random.below(4) {
                0 => 0,
                1 => 0xff,
                2 => file[at] ^ 1 << random.below(8),
                _ => random.next() as u8,
            };
        }
        if let Ok(read) = read_bytes(file) {
            raise(&read.module, read.source.as_ref()).unwrap();
        }
    }
}

#[test]
fn the_same_module_gives_the_same_bytes() {
    let legal = legalize(&module(SDAR)).unwrap();
    let again = legalize(&module(SDAR)).unwrap();
    assert!(write(&legal, &Numbers::random(SDAR, 1)) == write(&again, &Numbers::random(SDAR, 1)));
}

// --- raise ------------------------------------------------------------------------------------------------------------

#[test]
fn a_raised_module_computes_the_same() {
    for (i, model) in models().into_iter().enumerate() {
        let (source, numbers) = (module(model), Numbers::random(model, i as u64));
        let read = read_bytes(write(&legalize(&source).unwrap(), &numbers)).unwrap();
        let raised = raise(&read.module, read.source.as_ref()).unwrap();
        for (t, c) in sizes(model) {
            let given = inputs(model, t, c, 7);
            let expected = interpret(&read.module, read.source.as_ref(), &given).unwrap();
            let found = interpret(&raised, read.source.as_ref(), &given).unwrap();
            assert_same(&format!("model {i}, T = {t}, C = {c}"), &found, &expected, 1e-5);
        }
        // What the family emitted is found again, op by op; only the tables of the rotation stay tables.
        let ops = |module: &Module| {
            let mut names: Vec<&str> = module.nodes.iter().map(|n| n.op.name()).collect();
            names.retain(|name| !matches!(*name, "rope_cos" | "rope_sin" | "embed" | "reshape"));
            names.sort_unstable();
            names.join(" ")
        };
        assert_eq!(ops(&raised), ops(&source), "model {i}");
    }
}

#[test]
fn a_raised_module_reads_well() {
    let read = read_bytes(write(&legalize(&module(SDAR)).unwrap(), &Numbers::random(SDAR, 1))).unwrap();
    assert_snapshot!("xnnpack-raised", print(&raise(&read.module, read.source.as_ref()).unwrap()));
}

/// Other ways to write the same: keys repeated by broadcasting, a mean, operands in the other order.
#[test]
fn other_forms_are_recognized() {
    let source = around(
        "gain : f32[8] = fill(0.5)\neps : f32[1] = fill(1e-5)\nscale : f32[1] = fill(0.25)",
        "%sq = mul %x, %x : f32[1, T, 8]
        %mean = mean %sq : f32[1, T, 1]
        %sum = add @eps, %mean : f32[1, T, 1]
        %r = rsqrt %sum : f32[1, T, 1]
        %unit = mul %r, %x : f32[1, T, 8]
        %norm = mul @gain, %unit : f32[1, T, 8]
        %four = concat %norm, %norm {axis = 2} : f32[1, T, 16]
        %split = reshape %four {shape = [1, T, 4, 4]} : f32[1, T, 4, 4]
        %q = transpose %split {perm = [0, 2, 1, 3]} : f32[1, 4, T, 4]
        %q5 = reshape %q {shape = [1, 2, 2, T, 4]} : f32[1, 2, 2, T, 4]
        %k5 = reshape %k.all {shape = [1, 2, 1, C+T, 4]} : f32[1, 2, 1, C+T, 4]
        %v5 = reshape %v.all {shape = [1, 2, 1, C+T, 4]} : f32[1, 2, 1, C+T, 4]
        %scores = matmul %q5, %k5 {transpose = true} : f32[1, 2, 2, T, C+T]
        %scaled = mul @scale, %scores : f32[1, 2, 2, T, C+T]
        %masked = add %mask, %scaled : f32[1, 2, 2, T, C+T]
        %weights = softmax %masked : f32[1, 2, 2, T, C+T]
        %mixed = matmul %weights, %v5 {transpose = false} : f32[1, 2, 2, T, 4]
        %mix = reshape %mixed {shape = [1, 4, T, 4]} : f32[1, 4, T, 4]
        %rows = transpose %mix {perm = [0, 2, 1, 3]} : f32[1, T, 4, 4]
        %flat = reshape %rows {shape = [1, T, 16]} : f32[1, T, 16]
        %a = slice %flat {axis = 2, range = 0..8} : f32[1, T, 8]
        %b = slice %flat {axis = 2, range = 8..16} : f32[1, T, 8]
        %gate = sigmoid %a : f32[1, T, 8]
        %silu = mul %gate, %a : f32[1, T, 8]
        %y = mul %b, %silu : f32[1, T, 8]",
    );
    let raised = raise(&source, &Table).unwrap();
    let ops: Vec<&str> = raised.nodes.iter().skip(8).map(|n| n.op.name()).collect();
    assert_eq!(ops, ["rms_norm", "concat", "heads", "attention", "merge_heads", "swiglu"]);
    let model = Model { layers: 1, kv: 2, dim: 4, vocab: 5, t: 2, c: 3, ..SDAR };
    let mut numbers = Numbers::default();
    let table = Random(9).array(&[5, 8]).data.iter().flat_map(|x| x.to_le_bytes()).collect();
    numbers.tensors.insert("table".into(), (WeightType::new(Encoding::F32, [5, 8]), table));
    let given = inputs(model, 2, 3, 7);
    let expected = interpret(&source, &numbers, &given).unwrap();
    assert_same("raised", &interpret(&raised, &numbers, &given).unwrap(), &expected, 1e-5);
}

/// What only looks like a pattern stays as it is.
#[test]
fn near_misses_are_left_alone() {
    let cases = [
        // The mean of another value.
        "%sq = square %n : f32[1, 2, T, 4]
        %mean = mean %sq : f32[1, 2, T, 1]
        %sum = add %mean, @eps : f32[1, 2, T, 1]
        %r = rsqrt %sum : f32[1, 2, T, 1]
        %unit = mul %h, %r : f32[1, 2, T, 4]
        %norm = mul %unit, @gain : f32[1, 2, T, 4]
        %y = merge_heads %norm : f32[1, T, 8]",
        // A filter that is not the mean.
        "%sq = square %h : f32[1, 2, T, 4]
        %mean = linear %sq, @third : f32[1, 2, T, 1]
        %sum = add %mean, @eps : f32[1, 2, T, 1]
        %r = rsqrt %sum : f32[1, 2, T, 1]
        %unit = mul %h, %r : f32[1, 2, T, 4]
        %norm = mul %unit, @gain : f32[1, 2, T, 4]
        %y = merge_heads %norm : f32[1, T, 8]",
        // The sigmoid of another value.
        "%g = sigmoid %n : f32[1, 2, T, 4]
        %s = mul %h, %g : f32[1, 2, T, 4]
        %y = merge_heads %s : f32[1, T, 8]",
        // Halves that are not halves.
        "%a = slice %x {axis = 2, range = 0..4} : f32[1, T, 4]
        %b = slice %x {axis = 2, range = 2..6} : f32[1, T, 4]
        %g = sigmoid %b : f32[1, T, 4]
        %c = mul %a, %g : f32[1, T, 4]
        %y = concat %c, %b {axis = 2} : f32[1, T, 8]",
        // A turn in the other direction.
        "%a = slice %h {axis = 3, range = 0..2} : f32[1, 2, T, 2]
        %b = slice %h {axis = 3, range = 2..4} : f32[1, 2, T, 2]
        %m = neg %a : f32[1, 2, T, 2]
        %t = concat %b, %m {axis = 3} : f32[1, 2, T, 4]
        %cos = rope_cos %positions {dim = 4, theta = 10} : f32[1, 1, T, 4]
        %u = mul %h, %cos : f32[1, 2, T, 4]
        %v = mul %t, %cos : f32[1, 2, T, 4]
        %s = add %u, %v : f32[1, 2, T, 4]
        %y = merge_heads %s : f32[1, T, 8]",
    ];
    for lines in cases {
        let weights = "gain : f32[4] = fill(2)\neps : f32[1] = fill(1e-5)\nthird : f32[1, 4] = fill(0.3)";
        let source = around(weights, lines);
        let raised = raise(&source, &Table).unwrap();
        assert_eq!(raised.nodes, source.nodes.iter().map(|n| renumbered(n, &source, &raised)).collect::<Vec<_>>());
    }
}

/// The node with the numbers of weights that it has in `to`.
fn renumbered(node: &Node, from: &Module, to: &Module) -> Node {
    let mut node = node.clone();
    for arg in &mut node.args {
        if let Operand::Weight(id) = arg {
            *id = to.weight_id(&from.weight(*id).name).unwrap();
        }
    }
    node
}

// --- ExecuTorch -------------------------------------------------------------------------------------------------------

/// One step on ExecuTorch, as the interpreter would give it.
fn step(engine: &mut ExecuTorch, model: Model, given: &Inputs) -> Outputs {
    let ids = |name: &str| given.values[name].data.iter().map(|&id| id as u32).collect::<Vec<u32>>();
    let (tokens, positions) = (ids("tokens"), ids("positions"));
    let rows: Vec<u32> = (0..tokens.len() as u32).collect();
    let cache: Vec<LayerRows> = (0..model.layers)
        .map(|layer| {
            let of = |kind| given.caches[&CacheId { layer, kind }].data.clone();
            LayerRows { k: of(CacheKind::K), v: of(CacheKind::V) }
        })
        .collect();
    let cached = given.caches.values().next().unwrap().shape[2];
    let input = StepInput {
        tokens: &tokens,
        positions: &positions,
        mask: &given.values["mask"].data,
        rows: &rows,
        cached,
        cache: &cache,
    };
    let mut out = StepOutput::default();
    engine.step(&input, &mut out).unwrap();
    let logits = Array { shape: vec![1, tokens.len(), model.vocab as usize], data: out.logits };
    let shape = vec![1, model.kv as usize, tokens.len(), model.dim as usize];
    let mut new_rows = HashMap::new();
    for (layer, new) in (0..).zip(out.new) {
        new_rows.insert(CacheId { layer, kind: CacheKind::K }, Array { shape: shape.clone(), data: new.k });
        new_rows.insert(CacheId { layer, kind: CacheKind::V }, Array { shape: shape.clone(), data: new.v });
    }
    Outputs { values: vec![logits], new_rows, nodes: vec![] }
}

#[test]
fn executorch_computes_the_same() {
    let Some(library) = diffulex_tests::engines::library() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (i, model) in models().into_iter().enumerate() {
        let (source, numbers) = (module(model), Numbers::random(model, i as u64));
        let path = folder.path().join(format!("{i}.pte"));
        std::fs::write(&path, write(&legalize(&source).unwrap(), &numbers)).unwrap();
        let mut engine = ExecuTorch::open(&path, &library).unwrap();
        for (t, c) in sizes(model) {
            let given = inputs(model, t, c, 7);
            let expected = interpret(&source, &numbers, &given).unwrap();
            let found = step(&mut engine, model, &given);
            assert_same(&format!("model {i}, T = {t}, C = {c}"), &found, &expected, 1e-5);
        }
    }
}

#[test]
fn executorch_finds_the_metadata() {
    let Some(library) = diffulex_tests::engines::library() else { return };
    let folder = tempfile::tempdir().unwrap();
    let legal = legalize(&module(SMALL)).unwrap();
    let path = folder.path().join("small.pte");
    for alignment in [16, 128, 16384] {
        let metadata = Metadata { generation: Some(generation()), recipe_digest: "sha256:0123".into() };
        let mut bytes = Vec::new();
        let options = Options { alignment };
        emit(&legal, &Numbers::random(SMALL, 3), &metadata, &options, &mut bytes, &mut |_, _| {}).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let mut engine = ExecuTorch::open(&path, &library).unwrap();
        assert_eq!((engine.shape().max_tokens, engine.shape().max_cache), (SMALL.t, SMALL.c));
        let text = serde_json::to_string(&generation()).unwrap();
        let facts = [
            ("get_eos_ids", vec!["3", "5"]),
            ("get_max_seq_len", vec!["2"]),
            ("get_max_context_len", vec!["4"]),
            ("use_kv_cache", vec!["true"]),
            ("get_mask_id", vec!["7"]),
            ("get_recipe_digest", vec!["sha256:0123"]),
            ("get_generation", vec![text.as_str()]),
        ];
        for (name, expected) in facts {
            assert_eq!(engine.constant(name).unwrap().unwrap(), expected, "{name}");
        }
    }
}
