//! The ONNX target: a module, legal for it, as files, and back.
//!
//! The judge of a rewriting, and of what is read back, is the interpreter. What files compute is for ONNX Runtime to say.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod decoder;

use std::collections::HashSet;
use std::path::Path;

use diffulex_compiler::ir::{
    Builder, Encoding, Module, Node, NodeId, Op, Operand, WeightExpr, WeightSource, interpret, print,
};
use diffulex_compiler::quant::{Grid, GridType};
use diffulex_targets::onnx::{Files, Form, Options, Shapes, legalize, read};
use diffulex_targets::raise::raise;
use diffulex_targets::{EmitError, Metadata, Work};

use decoder::{Model, Numbers, SDAR, assert_same, inputs, models, module, sizes};

/// A model whose filters have groups of 128, and a head that lies in the data file.
const WIDE: Model = Model { heads: 8, kv: 4, dim: 16, hidden: 128, inner: 256, layers: 2, vocab: 612, ..SDAR };

/// All that a file can hold, each in a model that allows it.
fn cases() -> Vec<(String, Model, Options)> {
    let (plain, half) = (Options::default(), Options { half: true, ..Options::default() });
    let fixed = Options { shapes: Shapes::Static(vec![1]), form: Form::Qnn, half: false };
    let mut cases = Vec::new();
    for (i, model) in models().into_iter().enumerate() {
        cases.push((format!("model-{i}"), model, plain.clone()));
        cases.push((format!("model-{i}-bf16"), Model { encoding: Encoding::BF16, ..model }, plain.clone()));
        cases.push((format!("model-{i}-half"), Model { encoding: Encoding::F16, ..model }, half.clone()));
        cases.push((format!("model-{i}-static"), model, fixed.clone()));
    }
    for encoding in [Encoding::Int8Row, Encoding::Int4Row, Encoding::Int4G32, Encoding::Int4G64, Encoding::Int4G128] {
        for (name, options) in [("plain", &plain), ("half", &half), ("static", &fixed)] {
            cases.push((format!("{encoding}-{name}"), Model { encoding, ..WIDE }, options.clone()));
        }
    }
    cases
}

/// The module of a case: tables are floats.
fn source(model: Model, options: &Options) -> Module {
    let mut module = module(model);
    for weight in module.weights.iter_mut().filter(|weight| weight.name == "embed_tokens") {
        if !weight.ty.encoding.is_float() {
            weight.ty.encoding = if options.half { Encoding::F16 } else { Encoding::F32 };
        }
    }
    module
}

fn write(legal: &Module, numbers: &dyn WeightSource, options: &Options, folder: &Path) {
    let metadata = Metadata { generation: None, recipe_digest: "sha256:0123".into() };
    let files = Files::new(legal, "small", &metadata, options).unwrap();
    let mut names = Vec::new();
    let mut make = |name: &str, content: diffulex_targets::Content<'_>| {
        let mut bytes = Vec::new();
        content(&mut bytes)?;
        names.push((name.to_string(), bytes.len() as u64));
        Ok::<(), EmitError>(std::fs::write(folder.join(name), bytes)?)
    };
    files.write(Work::new(numbers), &mut make, &mut |_, _| {}).unwrap();
    let mut planned = files.files();
    names.sort();
    planned.sort();
    assert_eq!(names, planned);
}

#[test]
fn a_legal_module_computes_the_same() {
    for (name, model, options) in cases() {
        let (mut source, numbers) = (source(model, &options), Numbers::random(model, 5));
        let legal = legalize(&source, &options).unwrap();
        for weight in &mut source.weights {
            let same = legal.weight(legal.weight_id(&weight.name).unwrap());
            (weight.search, weight.ty.encoding) = (same.search, same.ty.encoding);
        }
        let given = inputs(model, model.t, model.c, 7);
        let expected = interpret(&source, &numbers, &given).unwrap();
        let found = interpret(&legal, &numbers, &given).unwrap();
        // The scale of the scores is rounded to f16 there.
        assert_same(&name, &found, &expected, if options.half { 5e-3 } else { 1e-5 });
    }
}

/// The HTP computes norms of several matrices wrongly.
#[test]
fn norms_for_the_htp_are_of_one_matrix() {
    let model = Model { normed: true, ..WIDE };
    for (form, heads) in [(Form::Qnn, 1), (Form::Standard, model.heads)] {
        let options = Options { shapes: Shapes::Static(vec![1]), form, half: false };
        let legal = legalize(&source(model, &options), &options).unwrap();
        let norms = legal.nodes.iter().filter(|node| matches!(node.op, Op::RmsNorm { .. }));
        let matrices: Vec<_> = norms.filter(|node| node.ty.shape.len() == 4).map(|node| node.ty.shape[1]).collect();
        assert_eq!(matrices.len(), 2 * model.layers as usize);
        assert_eq!(matrices[0].known(), Some(heads));
    }
}

#[test]
fn what_is_written_is_read_back() {
    for (name, model, options) in cases() {
        let (source, numbers) = (source(model, &options), Numbers::random(model, 5));
        let legal = legalize(&source, &options).unwrap();
        let folder = tempfile::tempdir().unwrap();
        write(&legal, &numbers, &options, folder.path());
        let mut files = vec![("small.onnx".to_string(), model.t)];
        if options.shapes != Shapes::Dynamic && model.t > 1 {
            files.push(("small_1.onnx".into(), 1));
        }
        for (file, t) in files {
            let back = read(&folder.path().join(&file)).unwrap();
            assert_eq!((back.half, back.dynamic), (options.half, options.shapes == Shapes::Dynamic), "{name} {file}");
            assert_eq!(back.recipe_digest.as_deref(), Some("sha256:0123"));
            assert_eq!((back.module.bounds.t, back.module.bounds.c), (t, model.c));
            let ops = |module: &Module| {
                let mut ops: Vec<&str> = module.nodes.iter().map(|node| node.op.name()).collect();
                ops.sort_unstable();
                ops.join(" ")
            };
            assert_eq!(ops(&back.module), ops(&legal), "{name} {file}");
            let steps = if back.dynamic { sizes(model) } else { vec![(t, model.c)] };
            for (t, c) in steps {
                let given = inputs(model, t, c, 7);
                let expected = interpret(&legal, &numbers, &given).unwrap();
                let found = interpret(&back.module, back.source.as_ref(), &given).unwrap();
                assert_same(&format!("{name} {file}"), &found, &expected, 1e-6);
                let raised = raise(&back.module, back.source.as_ref()).unwrap();
                assert!(raised.nodes.iter().any(|node| matches!(node.op, Op::Attention { .. })), "{name}");
                assert_same(&name, &interpret(&raised, back.source.as_ref(), &given).unwrap(), &expected, 1e-5);
            }
        }
    }
}

/// A legal module with all of its values on grids, caches on smaller ones, that are wide enough for small models.
fn on_grids(legal: &Module, cache: GridType) -> Module {
    let range = |node: &Node| match (&node.op, node.name.as_str()) {
        (Op::Sigmoid | Op::Softmax, _) => (0.0, 1.0),
        (Op::Input, _) => (-60.0, 0.0),
        (_, name) if name.ends_with("masked") => (-80.0, 20.0),
        _ => (-9.0, 11.0),
    };
    let mut legal = legal.clone();
    for weight in legal.weights.iter_mut().filter(|weight| weight.ty.encoding == Encoding::F32) {
        let reach = if weight.name == "scale" { 1.0 } else { 2.0 };
        weight.ty.encoding = Encoding::U16;
        weight.grid = Some(Grid::of((-reach, reach), GridType::U16));
    }
    let mut made = Builder::like(&legal);
    let rows: HashSet<NodeId> = legal.new_rows().map(|(_, id)| id).collect();
    let mut map: Vec<(NodeId, NodeId)> = Vec::new();
    for (id, node) in legal.iter() {
        (made.layer, made.section) = (node.layer, node.section.clone());
        let kept = matches!(node.op, Op::Cached);
        let args: Vec<Operand> = (node.args.iter())
            .map(|arg| match arg {
                Operand::Node(id) => (if kept { map[id.0 as usize].1 } else { map[id.0 as usize].0 }).into(),
                other => *other,
            })
            .collect();
        let mut new = match node.op {
            Op::Input => made.input(&node.name, node.ty.clone()),
            _ => made.node(&node.name, node.op.clone(), args).unwrap(),
        };
        let moved = matches!(
            node.op,
            Op::Embed | Op::Cached | Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. } | Op::Concat { .. }
        );
        if !moved && !node.ty.dtype.is_integer() && node.op != Op::Input {
            new = made
                .node(
                    &format!("{}.rounded", node.name),
                    Op::FakeQuantize(Grid::of(range(node), GridType::U16)),
                    [new.into()],
                )
                .unwrap();
        }
        let mut stored = new;
        if rows.contains(&id) {
            let grid = Grid::of((-9.0, 9.0), cache);
            stored = made.node(&format!("{}.stored", node.name), Op::FakeQuantize(grid), [new.into()]).unwrap();
        }
        map.push((new, stored));
        if made.module().nodes.len() == legal.nodes.iter().filter(|node| node.op == Op::Input).count() {
            let mask = made.module().input("mask").unwrap();
            let grid = Grid::of((-60.0, 0.0), GridType::U16);
            let mask_on_grid = made.node("mask.rounded", Op::FakeQuantize(grid), [mask.into()]).unwrap();
            map[mask.0 as usize] = (mask_on_grid, mask_on_grid);
        }
    }
    made.finish([map[legal.outputs[0].0 as usize].0])
}

#[test]
fn values_on_grids_are_written_and_read_back() {
    let options = Options { shapes: Shapes::Static(vec![3]), form: Form::Qnn, half: false };
    for (i, cache) in [GridType::U8, GridType::I8, GridType::I16].into_iter().enumerate() {
        let model = Model { encoding: Encoding::Int8Row, fused: i == 0, normed: i != 1, biased: i == 1, ..WIDE };
        let numbers = Numbers::random(model, 5);
        let module = on_grids(&legalize(&source(model, &options), &options).unwrap(), cache);
        let folder = tempfile::tempdir().unwrap();
        write(&module, &numbers, &options, folder.path());
        let back = read(&folder.path().join("small.onnx")).unwrap();
        let mut given = inputs(model, model.t, model.c, 7);
        let grid = Grid::of((-9.0, 9.0), cache);
        given.caches.values_mut().for_each(|rows| rows.data.iter_mut().for_each(|x| *x = grid.round(*x)));
        let expected = interpret(&module, &numbers, &given).unwrap();
        let found = interpret(&back.module, back.source.as_ref(), &given).unwrap();
        assert_same(cache.name(), &found, &expected, 1e-6);
        let count = |module: &Module| module.nodes.iter().filter(|n| matches!(n.op, Op::FakeQuantize(_))).count();
        assert_eq!((count(&back.module), back.module.nodes.len()), (count(&module), module.nodes.len()));
        // What was read is legal, but for its stage, and is written as the same bytes of weights.
        let again = Module { stage: module.stage.clone(), ..back.module.clone() };
        let second = tempfile::tempdir().unwrap();
        write(&again, back.source.as_ref(), &options, second.path());
        let length = |folder: &Path| std::fs::metadata(folder.join("small.data")).unwrap().len();
        assert_eq!(length(second.path()), length(folder.path()));
    }
}

#[test]
fn the_same_module_gives_the_same_bytes() {
    let (model, options) = (Model { encoding: Encoding::Int4G32, ..WIDE }, Options::default());
    let legal = legalize(&source(model, &options), &options).unwrap();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    folders.iter().for_each(|folder| write(&legal, &Numbers::random(model, 5), &options, folder.path()));
    for file in ["small.onnx", "small.data"] {
        let bytes = folders.each_ref().map(|folder| std::fs::read(folder.path().join(file)).unwrap());
        assert!(bytes[0] == bytes[1], "{file}");
    }
}

#[test]
fn what_a_file_cannot_hold_is_refused_by_name() {
    let refused = |module: &Module, options: &Options, expected: &str, nearest: Option<&str>| {
        let refusal = legalize(module, options).unwrap_err();
        assert_eq!((refusal.to_string().as_str(), refusal.nearest().as_deref()), (expected, nearest));
    };
    let (plain, half) = (Options::default(), Options { half: true, ..Options::default() });
    let with = |encoding| module(Model { encoding, ..WIDE });
    let table = |encoding| format!("@embed_tokens: this target cannot use {encoding} for a table");
    refused(&with(Encoding::Int8Row), &plain, &table(Encoding::Int8Row), Some("f32 or f16 or bf16"));
    refused(&with(Encoding::BF16), &half, &table(Encoding::BF16), Some("f16"));
    refused(
        &source(Model { hidden: 96, encoding: Encoding::Int4G64, ..WIDE }, &plain),
        &plain,
        "@layers.0.self_attn.qkv_proj: rows of 96 numbers cannot be cut into groups of 64",
        None,
    );
    let fixed = Options { shapes: Shapes::Static(vec![9]), ..plain.clone() };
    refused(&with(Encoding::F32), &fixed, "lengths: a step of 9 tokens, where the module has 1 to 8", Some("8"));
    let mut two = with(Encoding::F32);
    for node in &mut two.nodes {
        if let Op::RopeSin { theta, .. } = &mut node.op {
            *theta = 1e4;
        }
    }
    refused(&two, &plain, "%sin: a step has one rotation, of one width and base", None);
}

#[test]
fn a_table_that_is_the_head_is_stored_once() {
    let (model, options) = (Model { tied: true, fused: false, ..WIDE }, Options::default());
    let legal = legalize(&source(model, &options), &options).unwrap();
    let folder = tempfile::tempdir().unwrap();
    write(&legal, &Numbers::random(model, 5), &options, folder.path());
    let back = read(&folder.path().join("small.onnx")).unwrap();
    let names = |module: &Module| {
        let mut names: Vec<String> = module.weights.iter().map(|weight| weight.name.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&back.module), names(&legal));
    assert!(back.module.weights.iter().all(|weight| matches!(weight.expr, WeightExpr::Stored(_))));
    assert!(print(&back.module).contains("= linear %norm, @embed_tokens"));
}

#[test]
fn a_file_that_is_cut_or_changed_gives_an_error() {
    let (model, options) = (Model { layers: 1, encoding: Encoding::Int8Row, ..WIDE }, Options::default());
    let legal = legalize(&source(model, &options), &options).unwrap();
    let folder = tempfile::tempdir().unwrap();
    write(&legal, &Numbers::random(model, 5), &options, folder.path());
    let (graph, data) = (folder.path().join("small.onnx"), folder.path().join("small.data"));
    let whole = std::fs::read(&graph).unwrap();
    for end in (0..whole.len()).step_by(61) {
        std::fs::write(&graph, &whole[..end]).unwrap();
        assert!(read(&graph).is_err(), "cut at {end}");
    }
    for at in (0..whole.len()).step_by(7) {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        std::fs::write(&graph, &changed).unwrap();
        // An error, or a module that keeps all rules; never a panic.
        let _ = read(&graph);
    }
    std::fs::write(&graph, &whole).unwrap();
    let numbers = std::fs::read(&data).unwrap();
    std::fs::write(&data, &numbers[..numbers.len() - 1]).unwrap();
    assert!(read(&graph).is_err());
    std::fs::remove_file(&data).unwrap();
    assert!(read(&graph).is_err());
}
