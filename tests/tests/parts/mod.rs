//! Models in parts: split, joined, written as chains of packages, and read back.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

use diffulex_compiler::ir::interpret::{Array, Inputs, Outputs};
use diffulex_compiler::ir::{CacheId, CacheKind, Encoding, Module, WeightSource, interpret, parse, print, verify};
use diffulex_compiler::passes;
use diffulex_compiler::quant::Scheme;
use diffulex_targets::Work;
use diffulex_targets::coreml::{
    Deployment, EmitError, Interface, Metadata, Options, Package, Packages, join, legalize, read, split, text,
};
use half::f16;

use super::decoder::{Model, Numbers, Random, SDAR, assert_same, models, module};
use super::judge::{Judge, Tensor, halves, integers, singles};
use super::{WIDE, cases, half_inputs, tiny, write as write_package};

fn assert_snapshot(name: &str, value: String) {
    insta::with_settings!({ snapshot_path => "../../../snapshots/targets", prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, value);
    });
}

/// The same module after a pass.
fn passed(module: Module, pass: &str) -> Module {
    passes::run(module, &[pass], &Scheme::F32, &mut |_| {}).unwrap()
}

/// Small models, as they come and as Core ML has them, with and without chosen rows.
fn modules() -> Vec<(Model, Module)> {
    let models = models().into_iter().chain([WIDE, Model { layers: 7, ..SDAR }]);
    let all = models.flat_map(|model| {
        let model = Model { encoding: Encoding::F16, ..model };
        let plain = module(model);
        let rows = passed(plain.clone(), "select-rows");
        [plain, rows].map(|module| (model, [legalize(&module, &Options::default()).unwrap(), module]))
    });
    all.flat_map(|(model, modules)| modules.map(|module| (model, module))).collect()
}

/// Runs parts one after another, each with the caches of its layers.
fn run(parts: &[Module], numbers: &dyn WeightSource, given: &Inputs) -> Outputs {
    let mut all = Outputs::default();
    let mut before = 0;
    for part in parts {
        let mut step = Inputs { values: given.values.clone(), caches: HashMap::new() };
        if let Some(hidden) = all.values.pop() {
            step.values.insert("hidden".into(), hidden);
        }
        for (id, cache) in
            given.caches.iter().filter(|(id, _)| (before..before + part.cache.layers).contains(&id.layer))
        {
            step.caches.insert(CacheId { layer: id.layer - before, ..*id }, cache.clone());
        }
        let made = interpret(part, numbers, &step).unwrap();
        all.values = made.values;
        let rows = made.new_rows.into_iter().map(|(id, rows)| (CacheId { layer: id.layer + before, ..id }, rows));
        all.new_rows.extend(rows);
        before += part.cache.layers;
    }
    all
}

/// Writes a legal module as packages called `m`; gives their names.
fn write(legal: &Module, numbers: &dyn WeightSource, options: &Options, folder: &Path) -> Vec<String> {
    let metadata = Metadata { generation: None, recipe_digest: "sha256:0123".into() };
    let packages = Packages::new(legal, "m", &metadata, options).unwrap();
    packages.write_below(numbers, folder, &mut |_, _| {}).unwrap();
    for (name, bytes) in packages.files() {
        assert_eq!(std::fs::metadata(folder.join(&name)).unwrap().len(), bytes, "{name}");
    }
    packages.iter().map(|(name, _)| name.to_string()).collect()
}

/// A package of three layers in three parts.
fn three(seed: u64, options: &Options, folder: &Path) -> Vec<String> {
    let model =
        Model { heads: 2, kv: 1, dim: 16, inner: 32, vocab: 5, t: 2, c: 2, encoding: Encoding::Int4G32, ..SDAR };
    let options = Options { parts: 3, ..options.clone() };
    write(&legalize(&module(model), &options).unwrap(), &Numbers::random(model, seed), &options, folder)
}

#[test]
fn parts_joined_are_the_module() {
    for (_, module) in modules() {
        let expected = print(&passed(module.clone(), "drop-dead"));
        for n in 1..=module.cache.layers {
            let parts = split(&module, n).unwrap();
            assert_eq!(parts.len(), n as usize);
            for part in &parts {
                verify(part).unwrap();
                let printed = print(part);
                assert_eq!(print(&parse(&printed).unwrap()), printed);
                assert!(part.cache.layers > 0);
            }
            if n > 1 {
                assert_eq!(print(&join(&parts).unwrap()), expected, "{n} parts");
            }
        }
    }
}

#[test]
fn parts_one_after_another_compute_the_same() {
    for (model, module) in modules() {
        let numbers = Numbers::random(model, 5);
        let mut given = half_inputs(model, 7);
        let rows = (0..model.t).rev().step_by(2).map(|row| row as f32).collect::<Vec<_>>();
        given.values.insert("rows".into(), Array { shape: vec![rows.len()], data: rows });
        let expected = interpret(&module, &numbers, &given).unwrap();
        for n in 1..=module.cache.layers {
            let found = run(&split(&module, n).unwrap(), &numbers, &given);
            assert_eq!(found.values, expected.values, "{n} parts");
            assert_eq!(found.new_rows, expected.new_rows, "{n} parts");
        }
    }
}

#[test]
fn a_part_has_what_it_needs() {
    let model = Model { tied: true, biased: true, ..SDAR };
    let parts = split(&module(model), 3).unwrap();
    let inputs =
        |part: &Module| part.nodes.iter().filter(|n| n.args.is_empty()).map(|n| n.name.clone()).collect::<Vec<_>>();
    assert_eq!(inputs(&parts[0]), ["tokens", "positions", "mask"]);
    assert_eq!(inputs(&parts[1]), ["hidden", "positions", "mask"]);
    let has = |part: &Module, name: &str| part.weight_id(name).is_some();
    let found = |name: &str| parts.iter().map(|part| has(part, name)).collect::<Vec<_>>();
    assert_eq!(found("embed_tokens"), [true, false, true]);
    assert_eq!(found("norm"), [false, false, true]);
    assert_eq!(found("layers.1.mlp.down_proj"), [false, true, false]);
    assert_snapshot("coreml-part", print(&split(&module(SDAR), 3).unwrap()[1]));
}

#[test]
fn what_cannot_be_split_or_joined_is_refused_by_name() {
    let model = Model { encoding: Encoding::F16, ..SDAR };
    for parts in [0, 4] {
        let refusal = legalize(&module(model), &Options { parts, ..Options::default() }).unwrap_err();
        assert_eq!(refusal.to_string(), format!("parts: {parts} parts of 3 layers; each part has one layer at least"));
    }
    let error = |parts: &[Module]| join(parts).unwrap_err().to_string();
    let parts = split(&module(model), 3).unwrap();
    let [a, b, c] = [0, 1, 2].map(|i| parts[i].clone());
    assert_eq!(error(&[]), "part 1: is missing");
    assert_eq!(
        error(&[b.clone(), c.clone()]),
        "part 1: is given the hidden state of a part before it, and there is none"
    );
    assert_eq!(error(&[a.clone(), a.clone()]), "part 2: is not given the hidden state of the part before it");
    let other = split(&module(Model { hidden: 16, ..model }), 3).unwrap();
    assert_eq!(error(&[a.clone(), other[1].clone()]), "part 2: %hidden is f32[1, T, 16], and there is none such");
    let longer = split(&module(Model { t: 9, ..model }), 3).unwrap();
    assert_eq!(
        error(&[a.clone(), longer[1].clone()]),
        "part 2: has T = 9, C = 12 and heads 3 x 8, not those of the first"
    );
    let tied = |vocab| split(&module(Model { tied: true, vocab, ..model }), 3).unwrap();
    let (few, many) = (tied(61), tied(62));
    assert_eq!(
        error(&[few[0].clone(), few[1].clone(), many[2].clone()]),
        "@embed_tokens: is another weight in another part"
    );
    assert_eq!(print(&join(&[a, b, c]).unwrap()), print(&module(model)));
}

#[test]
fn a_chain_reads_back_as_the_package_would() {
    let folder = tempfile::tempdir().unwrap();
    for (name, model, options) in cases() {
        for interface in [Interface::Explicit, Interface::State] {
            let model = Model { c: model.c.max(model.t), ..model };
            if interface == Interface::State && options.deployment < Deployment::Ios18 {
                continue;
            }
            let options = Options { interface, ..options.clone() };
            let legal = legalize(&module(model), &options).unwrap();
            let numbers = Numbers::random(model, 5);
            let folder = folder.path().join(format!("{name}-{interface:?}"));
            write(&legal, &numbers, &options, &folder);
            let whole = read(&folder.join("m.mlpackage")).unwrap();
            assert_eq!(whole.parts, 1);
            let given = half_inputs(model, 7);
            let expected = interpret(&whole.module, whole.source.as_ref(), &given).unwrap();
            for parts in 2..=model.layers {
                let written = write(&legal, &numbers, &Options { parts, ..options.clone() }, &folder);
                for part in written {
                    let read = read(&folder.join(&part)).unwrap_or_else(|e| panic!("{name}, {part}: {e}"));
                    assert_eq!((read.parts, read.interface, read.version), (parts, interface, whole.version));
                    assert_eq!(read.recipe_digest.as_deref(), Some("sha256:0123"));
                    let found = interpret(&read.module, read.source.as_ref(), &given).unwrap();
                    assert_same(&name, &found, &expected, 0.0);
                    // The rows of a head in parts have other names where they are those of a table, too.
                    if !(model.tied && options.split_rows.is_some()) {
                        assert_eq!(print(&read.module), print(&whole.module), "{name}, {part}");
                    }
                }
            }
        }
    }
}

#[test]
fn one_part_is_the_package_itself() {
    let folder = tempfile::tempdir().unwrap();
    let model = Model { encoding: Encoding::Int8Row, ..SDAR };
    let options = Options::default();
    let legal = legalize(&module(model), &options).unwrap();
    let numbers = Numbers::random(model, 1);
    assert_eq!(write(&legal, &numbers, &options, folder.path()), ["m.mlpackage"]);
    let alone = folder.path().join("alone.mlpackage");
    write_package(&legal, &numbers, &options, &alone);
    for (name, _) in Package::new(&legal, &Metadata::default(), &options).unwrap().files() {
        let [a, b] =
            ["m.mlpackage", "alone.mlpackage"].map(|p| std::fs::read(folder.path().join(p).join(name)).unwrap());
        assert!(a == b, "{name}");
    }
}

#[test]
fn the_same_module_gives_the_same_chain() {
    let folders = [1, 1, 2].map(|seed| {
        let folder = tempfile::tempdir().unwrap();
        let names = three(seed, &Options::default(), folder.path());
        (folder, names)
    });
    let model = |(folder, names): &(tempfile::TempDir, Vec<String>), i: usize| {
        std::fs::read(folder.path().join(&names[i]).join("Data/com.apple.CoreML/model.mlmodel")).unwrap()
    };
    for i in 0..3 {
        assert!(model(&folders[0], i) == model(&folders[1], i));
        // Other weights: the programs differ by the digest alone.
        assert!(model(&folders[0], i) != model(&folders[2], i));
    }
}

#[test]
fn files_are_made_by_whoever_asks_for_them() {
    let model = Model { encoding: Encoding::Int8Row, tied: true, ..SDAR };
    let options = Options { parts: 2, ..Options::default() };
    let legal = legalize(&module(model), &options).unwrap();
    let packages = Packages::new(&legal, "m", &Metadata::default(), &options).unwrap();
    let (mut made, mut last) = (BTreeMap::new(), (0, 0));
    let costs = packages.write::<EmitError>(
        Work::new(&Numbers::random(model, 1)),
        &mut |name, content| {
            let mut bytes = Vec::new();
            content(&mut bytes)?;
            made.insert(name.to_string(), bytes.len() as u64);
            Ok(())
        },
        &mut |bytes, total| last = (bytes, total),
    );
    assert_eq!(made, packages.files().into_iter().collect());
    let weights: u64 = made.iter().filter(|(name, _)| name.ends_with(".bin")).map(|(_, bytes)| bytes).sum();
    assert_eq!(last, (weights, weights));
    let costs = costs.unwrap();
    let table: Vec<u64> = costs.iter().filter(|cost| cost.name == "embed_tokens").map(|cost| cost.bytes).collect();
    assert_eq!(table, [2 * 61 * (32 + 2)], "a table that is the head is stored in both parts");
    let full = packages.write(
        Work::new(&Numbers::random(model, 1)),
        &mut |_, _| Err(EmitError::from(io::Error::from(io::ErrorKind::StorageFull))),
        &mut |_, _| {},
    );
    assert!(matches!(full, Err(EmitError::Io(error)) if error.kind() == io::ErrorKind::StorageFull));
    let none = packages.write_below(&Numbers::default(), tempfile::tempdir().unwrap().path(), &mut |_, _| {});
    assert_eq!(none.unwrap_err().to_string(), "there is no tensor `embed_tokens`");
}

#[test]
fn a_part_reads_well() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { interface: Interface::State, ..Options::default() };
    let names = three(1, &options, folder.path());
    assert_snapshot("coreml-text-part", text(&folder.path().join(&names[1])).unwrap());
}

// --- what is wrong with a chain ---------------------------------------------------------------------------------------

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() { copy(&from, &to) } else { _ = std::fs::copy(from, to).unwrap() }
    }
}

#[test]
fn parts_that_do_not_belong_together_are_named() {
    let [one, two, state] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let plain = Options::default();
    let names = three(1, &plain, one.path());
    three(2, &plain, two.path());
    three(1, &Options { interface: Interface::State, ..plain.clone() }, state.path());
    let path = |i: usize| one.path().join(&names[i]);
    let error =
        |i: usize| read(&path(i)).err().map(|e| e.to_string().replace(&format!("{}/", one.path().display()), ""));
    assert_eq!(error(0), None);
    let aside = one.path().join("aside");
    for (i, name) in names.iter().enumerate() {
        std::fs::rename(path(i), &aside).unwrap();
        let others = [0, 1, 2].into_iter().filter(|other| *other != i).collect::<Vec<_>>();
        let missing = format!("{name}: part {} of 3 is not there", i + 1);
        others.iter().for_each(|&other| assert_eq!(error(other), Some(missing.clone())));

        for build in [&two, &state] {
            copy(&build.path().join(name), &path(i));
            for &other in &others {
                // The first that is of another build than the one that was asked for.
                assert!(error(other).unwrap().ends_with("damaged: it is a part of another build"));
            }
            std::fs::remove_dir_all(path(i)).unwrap();
        }

        copy(&path(others[0]), &path(i));
        let doubled = format!("{}: part is \"{}/3\", not \"{}/3\"", name, others[0] + 1, i + 1);
        assert_eq!(error(others[0]), Some(doubled));
        std::fs::remove_dir_all(path(i)).unwrap();

        tiny(&plain, Encoding::F16, &path(i));
        assert_eq!(error(others[0]), Some(format!("{}: damaged: it is no part of a chain", name)));
        std::fs::remove_dir_all(path(i)).unwrap();
        std::fs::rename(&aside, path(i)).unwrap();
    }
    copy(&path(1), &one.path().join("n.mlpackage"));
    let named = read(&one.path().join("n.mlpackage")).err().unwrap().to_string();
    assert!(named.ends_with("a part whose name does not end in \"-2-of-3.mlpackage\""), "{named}");
}

#[test]
fn every_truncation_of_a_part_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let names = three(1, &Options::default(), folder.path());
    let first = folder.path().join(&names[0]);
    for (i, name) in names.iter().enumerate() {
        for file in ["Manifest.json", "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"]
        {
            let path = folder.path().join(name).join(file);
            let bytes = std::fs::read(&path).unwrap();
            // Every length near the ends, and some between: each is read three times over.
            let lengths = (0..bytes.len()).filter(|n| *n < 64 || bytes.len() - n < 64 || n % 97 == 0);
            for length in lengths {
                std::fs::write(&path, &bytes[..length]).unwrap();
                let whole = file == "Manifest.json" && length + 1 == bytes.len();
                match read(&first) {
                    Ok(_) => assert!(whole, "{length} of {} bytes of {}", bytes.len(), path.display()),
                    Err(e) if i > 0 => {
                        let said = e.to_string();
                        assert!(said.starts_with(&format!("part {}, ", i + 1)) || said.contains(name), "{said}");
                    }
                    Err(_) => {}
                }
            }
            std::fs::write(&path, &bytes).unwrap();
        }
    }
    read(&first).unwrap();
}

#[test]
fn flipped_bytes_of_a_part_never_panic() {
    let mut random = Random(9);
    let folder = tempfile::tempdir().unwrap();
    let names = three(1, &Options { interface: Interface::State, ..Options::default() }, folder.path());
    let path = folder.path().join(&names[1]).join("Data/com.apple.CoreML/model.mlmodel");
    let bytes = std::fs::read(&path).unwrap();
    let mut failed = 0;
    for _ in 0..400 {
        let mut bytes = bytes.clone();
        let at = random.below(bytes.len());
        bytes[at] = if random.below(2) == 0 { bytes[at] ^ 1 << random.below(8) } else { random.next() as u8 };
        std::fs::write(&path, &bytes).unwrap();
        failed += usize::from(read(&folder.path().join(&names[0])).is_err());
    }
    assert!(failed > 0);
}

// --- outside judges ---------------------------------------------------------------------------------------------------

/// Each package of a chain, given what the one before made.
#[test]
fn judges_agree_on_chains() {
    let place = tempfile::tempdir().unwrap();
    let Some(mut judge) = Judge::found(place.path()) else { return };
    for (name, model, options) in cases().into_iter().filter(|(_, model, _)| model.layers > 1) {
        for interface in [Interface::Explicit, Interface::State] {
            if interface == Interface::State && options.deployment < Deployment::Ios18 {
                continue;
            }
            let kept = interface == Interface::State;
            let model = Model { c: model.c.max(model.t), ..model };
            let options = Options { interface, parts: model.layers, ..options.clone() };
            let legal = legalize(&module(model), &options).unwrap();
            let folder = place.path().join(format!("chain-{name}-{interface:?}"));
            let names = write(&legal, &Numbers::random(model, 5), &options, &folder);
            let read = read(&folder.join(&names[0])).unwrap();
            let parts = split(&read.module, model.layers).unwrap();
            let mut given = half_inputs(model, 7);
            if kept {
                // A step at the beginning of an empty cache.
                let width = model.c + model.t;
                let sees = |i: usize| if i % width >= model.c { 0.0 } else { -1e4 };
                given.values.get_mut("mask").unwrap().data = (0..model.t * width).map(sees).collect();
            }
            let wide = options.deployment == Deployment::Ios15;
            for (layer, (part, name)) in (0..).zip(parts.iter().zip(&names)) {
                let mut step = Inputs { values: given.values.clone(), caches: HashMap::new() };
                for kind in [CacheKind::K, CacheKind::V] {
                    step.caches.insert(CacheId { layer: 0, kind }, given.caches[&CacheId { layer, kind }].clone());
                }
                let made = interpret(part, read.source.as_ref(), &step).unwrap();
                let last = layer + 1 == model.layers;
                let result = if last { "logits" } else { "hidden_out" };
                let mut tensors = BTreeMap::from([(result, singles(&made.values[0]))]);
                if !kept {
                    tensors.extend(NEW_ROWS.map(|(kind, name)| (name, singles(&first_layer(&made.new_rows, kind)))));
                }
                let (given_here, made_here) = (part_inputs(part, &step, (kept, wide)), called(tensors));
                judge.compare(&folder.join(name), &given_here, &made_here);
                // What the next one is given are numbers of fp16.
                let mut hidden = made.values[0].clone();
                hidden.data.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32());
                given.values.insert("hidden".into(), hidden);
            }
        }
    }
    judge.agrees();
}

const NEW_ROWS: [(CacheKind, &str); 2] = [(CacheKind::K, "k_new"), (CacheKind::V, "v_new")];

/// The rows of the one layer of a part, as a package has those of all.
fn first_layer(rows: &HashMap<CacheId, Array>, kind: CacheKind) -> Array {
    let Array { shape, data } = &rows[&CacheId { layer: 0, kind }];
    Array { shape: [&[1], &shape[..]].concat(), data: data.clone() }
}

/// What a package of one layer is given in the first call.
fn part_inputs(part: &Module, step: &Inputs, (kept, wide): (bool, bool)) -> BTreeMap<String, Tensor> {
    let mut tensors = BTreeMap::new();
    let mut mask = step.values["mask"].clone();
    if kept {
        // The rows of the step are the first of the cache.
        let (t, c) = (part.bounds.t, part.bounds.c);
        mask =
            Array { shape: vec![1, 1, t, c], data: (0..t * c).map(|i| if i % c < t { 0.0 } else { -1e4 }).collect() };
        tensors.insert("write_pos", integers(&Array { shape: vec![1], data: vec![0.0] }));
    } else {
        for (kind, name) in [(CacheKind::K, "k_cache"), (CacheKind::V, "v_cache")] {
            tensors.insert(name, halves(&first_layer(&step.caches, kind), wide));
        }
    }
    let has = |name: &str| part.input(name).is_some();
    for (name, input) in [("tokens", "input_ids"), ("positions", "position_ids")] {
        if has(name) {
            tensors.insert(input, integers(&step.values[name]));
        }
    }
    if has("hidden") {
        tensors.insert("hidden_in", halves(&step.values["hidden"], wide));
    }
    tensors.insert("attn_mask", halves(&mask, wide));
    called(tensors)
}

fn called(tensors: BTreeMap<&str, Tensor>) -> BTreeMap<String, Tensor> {
    tensors.into_iter().map(|(name, tensor)| (format!("call0.{name}"), tensor)).collect()
}
