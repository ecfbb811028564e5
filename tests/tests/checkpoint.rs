//! Checkpoints as they are published, and as they must not be.
#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "checkpoint/families.rs"]
mod families;
mod small;

use std::fs;
use std::path::Path;

use diffulex_compiler::checkpoint::{Checkpoint, names};
use diffulex_compiler::generation::Family;
use diffulex_compiler::ir::types::Encoding;
use diffulex_compiler::ir::{self, WeightSource};
use diffulex_compiler::models::{Decoder, qwen};
use diffulex_compiler::quant;
use proptest::prelude::*;
use serde_json::{Value, json};
use small::{Tensors, fixture, import};
use tempfile::TempDir;

/// A tensor of a file: name, type, shape, bytes.
type Stored = (String, &'static str, Vec<u64>, Vec<u8>);

/// A folder in the making: a network of two layers whose heads are not as wide as the residual stream, with an odd
/// number of them.
struct Folder {
    dir: TempDir,
    config: Value,
    tensors: Vec<Stored>,
}

const DECODER: Decoder = Decoder {
    vocab: 7,
    hidden: 4,
    layers: 2,
    heads: 9,
    kv_heads: 3,
    head_dim: 2,
    intermediate: 5,
    eps: 1e-6,
    theta: 1e6,
    tied: false,
    qkv_bias: false,
    qk_norm: true,
};

impl Folder {
    fn new(decoder: &Decoder, encoding: &dyn Fn(&str) -> Encoding) -> Folder {
        Folder::of(Family::Sdar, sdar(decoder), decoder, encoding)
    }

    fn of(family: Family, config: Value, decoder: &Decoder, encoding: &dyn Fn(&str) -> Encoding) -> Folder {
        let all = Tensors::random(decoder, 5, encoding);
        let tensors = names::expected(decoder, family.facts().stored_name).into_iter().map(|e| {
            let (ty, rows) = all.0[&e.name].clone();
            let dtype = match ty.encoding {
                Encoding::F32 => "F32",
                Encoding::F16 => "F16",
                _ => "BF16",
            };
            (e.stored, dtype, ty.shape.iter().map(|&n| u64::from(n)).collect(), rows.values)
        });
        Folder { dir: TempDir::new().unwrap(), config, tensors: tensors.collect() }
    }

    fn plain() -> Folder {
        Folder::new(&DECODER, &|_| Encoding::F32)
    }

    /// The index of a tensor.
    fn at(&self, name: &str) -> usize {
        self.tensors.iter().position(|t| t.0 == name).unwrap()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.dir.path().join(name), bytes).unwrap();
    }

    fn finish(&self) -> &Path {
        self.write("config.json", self.config.to_string());
        self.write("model.safetensors", safetensors(&self.tensors));
        self.dir.path()
    }

    /// Puts every other tensor into a second file, with an index.
    fn sharded(&self) -> Value {
        self.write("config.json", self.config.to_string());
        let mut map = serde_json::Map::new();
        for (i, file) in ["a-1-of-2.safetensors", "b-2-of-2.safetensors"].into_iter().enumerate() {
            let part: Vec<Stored> = self.tensors.iter().skip(i).step_by(2).cloned().collect();
            part.iter().for_each(|t| drop(map.insert(t.0.clone(), file.into())));
            self.write(file, safetensors(&part));
        }
        let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
        self.write("model.safetensors.index.json", index.to_string());
        index
    }
}

/// config.json of an SDAR checkpoint.
fn sdar(decoder: &Decoder) -> Value {
    json!({
    "architectures": ["SDARForCausalLM"], "model_type": "sdar", "attention_bias": false, "block_size": 4,
        "bos_token_id": 1, "eos_token_id": 1, "head_dim": decoder.head_dim, "hidden_act": "silu",
        "hidden_size": decoder.hidden, "intermediate_size": decoder.intermediate, "mask_token_id": 6,
        "max_position_embeddings": 512, "num_attention_heads": decoder.heads, "num_hidden_layers": decoder.layers,
        "num_key_value_heads": decoder.kv_heads, "rms_norm_eps": 1e-6, "rope_scaling": null, "rope_theta": 1000000,
        "sliding_window": null, "tie_word_embeddings": decoder.tied, "torch_dtype": "bfloat16",
        "use_sliding_window": false, "vocab_size": decoder.vocab, "debug": false, "ep_size": 1,
    })
}

fn safetensors(tensors: &[Stored]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        let info = json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, data.len()] });
        header.insert(name.clone(), info);
    }
    with_header(&Value::Object(header).to_string(), &data)
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn open(folder: &Folder) -> Checkpoint {
    Checkpoint::open(folder.finish()).unwrap_or_else(|e| panic!("{e}"))
}

/// Opening fails with a message that holds all of `words`, and starts with a path in the folder.
fn check_error(what: &str, folder: &Path, words: &[&str]) {
    let error = Checkpoint::open(folder).and_then(|c| c.mask_id()).expect_err(what).to_string();
    for word in words {
        assert!(error.contains(word), "{what}: {error}\n  lacks: {word}");
    }
    assert!(error.starts_with(&folder.display().to_string()), "{what}: {error}");
    assert!(error.len() < 2000 && !error.contains(char::is_control), "{what}: {error:?}");
}

fn numbers(source: &dyn WeightSource, name: &str) -> Vec<f32> {
    let tensor = source.tensor(name).unwrap();
    assert_eq!(tensor.bytes.len() as u64, tensor.ty.bytes());
    let mut numbers = Vec::new();
    tensor.rows().decode(&mut numbers);
    numbers
}

// As they are published.

#[test]
fn every_published_spelling_says_the_same() {
    type Adjust = fn(&mut Value);
    let plain = open(&Folder::plain()).config().clone();
    assert_eq!(plain.decoder, DECODER);
    assert_eq!((plain.family, plain.block, plain.mask_id), (Family::Sdar, Some(4), Some(6)));
    assert_eq!((plain.max_positions, &plain.end_ids[..]), (512, &[1][..]));
    let adjusts: [(&str, Adjust); 10] = [
        ("the newer spelling", |c| {
            c["dtype"] = c["torch_dtype"].take();
            c["rope_parameters"] = json!({ "rope_theta": 1e6, "rope_type": "default" });
            c.as_object_mut().unwrap().retain(|key, _| key != "rope_theta" && key != "rope_scaling");
        }),
        ("both spellings", |c| c["rope_parameters"] = json!({ "rope_theta": 1000000, "rope_type": "default" })),
        ("no type of positions", |c| c["rope_parameters"] = json!({ "rope_theta": 1e6 })),
        ("a base that is a float", |c| c["rope_theta"] = json!(1e6)),
        ("a list of one end", |c| c["eos_token_id"] = json!([1])),
        ("a list of one mask", |c| c["mask_token_id"] = json!([6])),
        ("no model_type", |c| c["model_type"] = Value::Null),
        ("no architectures", |c| c["architectures"] = Value::Null),
        ("an empty list of architectures", |c| c["architectures"] = json!([])),
        ("layers listed", |c| c["layer_types"] = json!(["full_attention", "full_attention"])),
    ];
    for (what, adjust) in adjusts {
        let mut folder = Folder::plain();
        adjust(&mut folder.config);
        assert_eq!(*open(&folder).config(), plain, "{what}");
    }
}

#[test]
fn keys_that_some_folders_lack() {
    let mut folder = Folder::plain();
    let lacking = ["block_size", "mask_token_id", "max_position_embeddings", "tie_word_embeddings", "attention_bias"];
    folder.config.as_object_mut().unwrap().retain(|key, _| !lacking.contains(&key.as_str()));
    let config = open(&folder).config().clone();
    assert_eq!((config.block, config.mask_id, config.max_positions), (None, None, 1 << 24));
    assert_eq!(config.decoder, DECODER);

    // Without head_dim it is what the heads share; without key/value heads each head has its own.
    let decoder = Decoder { heads: 2, kv_heads: 2, head_dim: 2, ..DECODER };
    let mut folder = Folder::new(&decoder, &|_| Encoding::F32);
    folder.config.as_object_mut().unwrap().retain(|key, _| key != "head_dim" && key != "num_key_value_heads");
    assert_eq!(open(&folder).config().decoder, decoder);
}

#[test]
fn ends_of_text() {
    for (config, generation, expected) in [
        (json!(1), None, vec![1]),
        (json!([1, 2]), None, vec![1, 2]),
        (Value::Null, None, vec![]),
        (json!(1), Some(json!({ "eos_token_id": [3, 1] })), vec![3, 1]),
        (json!([1, 1]), Some(json!({ "eos_token_id": 0 })), vec![0, 1]),
        (json!(1), Some(json!({ "eos_token_id": null })), vec![1]),
        (json!(1), Some(json!({})), vec![1]),
    ] {
        let mut folder = Folder::plain();
        folder.config["eos_token_id"] = config;
        if let Some(generation) = &generation {
            folder.write("generation_config.json", generation.to_string());
        }
        assert_eq!(open(&folder).config().end_ids, expected, "{generation:?}");
    }
}

#[test]
fn the_mask_token_is_found_by_either_text() {
    let added =
        |text: &str, id: u32| json!({ "added_tokens": [{ "content": "x", "id": 5 }, { "content": text, "id": id }] });
    let decoder =
        |text: &str, id: &str| json!({ "added_tokens_decoder": { "0": { "content": "y" }, id: { "content": text } } });
    for (config, files, expected) in [
        (json!(3), vec![("tokenizer.json", added("<|MASK|>", 6))], Some(3)),
        (Value::Null, vec![("tokenizer.json", added("<|MASK|>", 6))], Some(6)),
        (Value::Null, vec![("tokenizer.json", added("<MASK>", 5))], Some(5)),
        (Value::Null, vec![("tokenizer.json", added("<|mdm_mask|>", 5))], None),
        (Value::Null, vec![("added_tokens.json", json!({ "<MASK>": 4, "<other>": 1 }))], Some(4)),
        (Value::Null, vec![("added_tokens.json", json!({ "<|MASK|>": 4 }))], Some(4)),
        (Value::Null, vec![("tokenizer_config.json", decoder("<|MASK|>", "2"))], Some(2)),
        (Value::Null, vec![("tokenizer_config.json", decoder("<MASK>", "2"))], Some(2)),
        (Value::Null, vec![("tokenizer_config.json", json!({ "mask_token": "<|MASK|>" }))], None),
        // The text that the tokenizer names goes before the known ones.
        (
            Value::Null,
            vec![
                ("tokenizer_config.json", json!({ "mask_token": { "content": "<hidden>" } })),
                ("added_tokens.json", json!({ "<hidden>": 2, "<|MASK|>": 4 })),
            ],
            Some(2),
        ),
        // Published folders contradict themselves on the text, not on the id.
        (
            Value::Null,
            vec![
                ("tokenizer_config.json", json!({ "mask_token": "<|MASK|>" })),
                ("added_tokens.json", json!({ "<MASK>": 4 })),
            ],
            Some(4),
        ),
        // An id that the token table does not have is no mask.
        (Value::Null, vec![("added_tokens.json", json!({ "<|MASK|>": 7 }))], None),
        (Value::Null, vec![("added_tokens.json", json!({ "<|MASK|>": -1 }))], None),
        (Value::Null, vec![("added_tokens.json", json!({ "<|MASK|>": 1u64 << 40 }))], None),
        (Value::Null, vec![], None),
    ] {
        let mut folder = Folder::plain();
        folder.config["mask_token_id"] = config;
        files.iter().for_each(|(name, value)| folder.write(name, value.to_string()));
        match expected {
            Some(id) => assert_eq!(open(&folder).mask_id().unwrap(), id, "{files:?}"),
            None => {
                check_error("no mask", folder.finish(), &["has no mask token", "`mask_token_id`", "<|MASK|>, <MASK>"])
            }
        }
    }
    let mut folder = Folder::plain();
    folder.config["mask_token_id"] = Value::Null;
    folder.write("added_tokens.json", "{");
    check_error("a damaged file", folder.finish(), &["added_tokens.json: is not JSON"]);
}

#[test]
fn the_fixture_has_its_mask_with_and_without_the_key() {
    let tiny = fixture("sdar/tiny");
    assert_eq!(Checkpoint::open(&tiny).unwrap().mask_id().unwrap(), 356);
    let dir = TempDir::new().unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(tiny.join("config.json")).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("mask_token_id");
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    for file in ["model.safetensors", "tokenizer_config.json", "tokenizer.json"] {
        fs::copy(tiny.join(file), dir.path().join(file)).unwrap();
        if file == "model.safetensors" {
            check_error("no tokenizer", dir.path(), &["has no mask token"]);
        } else {
            assert_eq!(Checkpoint::open(dir.path()).unwrap().mask_id().unwrap(), 356);
            fs::remove_file(dir.path().join(file)).unwrap();
        }
    }
}

#[test]
fn heads_of_any_shape() {
    for (heads, kv_heads, head_dim) in [(1, 1, 2), (3, 3, 2), (5, 1, 4), (14, 7, 2), (6, 3, 10)] {
        let decoder = Decoder { heads, kv_heads, head_dim, ..DECODER };
        let checkpoint = open(&Folder::new(&decoder, &|_| Encoding::BF16));
        assert_eq!(checkpoint.config().decoder, decoder);
        let module = decoder.import("m", ir::Sizes { t: 4, c: 8, r: 0 }, &|n| checkpoint.tensor_type(n)).unwrap();
        ir::verify(&module).unwrap();
        assert_eq!((module.cache.kv_heads, module.cache.head_dim), (kv_heads, head_dim));
    }
}

#[test]
fn tied_heads() {
    let decoder = Decoder { tied: true, ..DECODER };
    let tied = || Folder::new(&decoder, &|_| Encoding::BF16);
    let checkpoint = open(&tied());
    assert!(checkpoint.tensor("lm_head").is_err());
    let module = import(&decoder, &Tensors::random(&decoder, 1, &|_| Encoding::BF16));
    assert!(module.weight_id("lm_head").is_none());

    // Some exports store the head again. It must be the table.
    type Change = fn(&mut Stored);
    let head = |dtype: &'static str, from: &Folder, change: Change| {
        let mut head = from.tensors[0].clone();
        (head.0, head.1) = ("lm_head.weight".into(), dtype);
        change(&mut head);
        head
    };
    let mut folder = tied();
    folder.tensors.push(head("BF16", &folder, |_| ()));
    assert!(open(&folder).tensor("lm_head").is_err());
    folder.sharded();
    fs::remove_file(folder.dir.path().join("model.safetensors")).unwrap();
    assert!(Checkpoint::open(folder.dir.path()).is_ok());
    let changes: [(&str, &'static str, Change); 3] = [
        ("other numbers", "BF16", |head| head.3[0] ^= 1),
        ("other type, same bytes", "F16", |_| ()),
        ("other shape, same bytes", "BF16", |head| head.2 = vec![28]),
    ];
    for (what, dtype, change) in changes {
        let mut folder = tied();
        folder.tensors.push(head(dtype, &folder, change));
        let words =
            ["model.safetensors: tensor `lm_head.weight` differs from the token table", "config.json ties them"];
        check_error(what, folder.finish(), &words);
    }
    // Untied, the head is a tensor like others.
    let mut folder = Folder::plain();
    folder.tensors.retain(|t| t.0 != "lm_head.weight");
    check_error("no head", folder.finish(), &["missing tensors: lm_head.weight"]);
}

#[test]
fn every_tensor_may_have_its_own_type() {
    let encoding = |name: &str| match name.len() % 3 {
        0 => Encoding::F32,
        1 => Encoding::F16,
        _ => Encoding::BF16,
    };
    let folder = Folder::new(&DECODER, &encoding);
    let checkpoint = open(&folder);
    for expected in names::expected(&DECODER, qwen::stored_name) {
        let stored = &folder.tensors[folder.at(&expected.stored)];
        let tensor = checkpoint.tensor(&expected.name).unwrap();
        assert_eq!(
            (tensor.ty.encoding, &tensor.ty.shape, tensor.bytes),
            (encoding(&expected.name), &expected.shape, &stored.3[..])
        );
        checkpoint.release(&expected.name, 0..usize::MAX);
        assert_eq!(checkpoint.tensor(&expected.name).unwrap().bytes, stored.3, "after its pages were given back");
    }
    assert!(checkpoint.tensor("model.norm.weight").is_err() && checkpoint.tensor("layers.2.mlp.up_proj").is_err());
    checkpoint.release("no such tensor", 0..1);
}

#[test]
fn one_file_or_several() {
    let folder = Folder::plain();
    let single = open(&folder);
    let several = Folder::plain();
    several.sharded();
    let sharded = Checkpoint::open(several.dir.path()).unwrap();
    let files: Vec<_> = sharded.files().map(|f| f.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(files, ["a-1-of-2.safetensors", "b-2-of-2.safetensors"]);
    assert_eq!(single.files().count(), 1);
    for expected in names::expected(&DECODER, qwen::stored_name) {
        assert_eq!(numbers(&single, &expected.name), numbers(&sharded, &expected.name), "{}", expected.name);
    }
}

// As they must not be.

#[test]
fn a_config_that_makes_no_sense() {
    let set = |key: &'static str, value: Value| (key, value);
    for (change, words) in [
        (set("model_type", json!("gpt2")), ["`model_type` is `gpt2`", "no family known"]),
        (set("model_type", json!("\u{1b}[2J")), ["`model_type` is `\\u{1b}[2J`", "`Dream` with `DreamModel`"]),
        (set("model_type", json!("llada")), ["`llada` and `architectures` `SDARForCausalLM`", "no family"]),
        (set("model_type", json!("sdar_moe")), ["`sdar_moe`", "no family known"]),
        (set("model_type", json!("Dream2")), ["`Dream2` and `architectures` `SDARForCausalLM`", "no family"]),
        (
            set("architectures", json!(["LlamaForCausalLM"])),
            ["`sdar` and `architectures` `LlamaForCausalLM`", "no family"],
        ),
        (set("hidden_size", Value::Null), ["has no `hidden_size`", ""]),
        (set("hidden_size", json!(0)), ["`hidden_size` is 0", "from 1 to 1048576"]),
        (set("hidden_size", json!(-4)), ["`hidden_size` is -4", "whole number"]),
        (set("hidden_size", json!(4.0)), ["`hidden_size` is 4.0", "whole number"]),
        (set("hidden_size", json!("4")), ["`hidden_size` is \"4\"", "whole number"]),
        (set("hidden_size", json!(4294967300u64)), ["`hidden_size` is 4294967300", "whole number"]),
        (set("num_hidden_layers", json!(1025)), ["`num_hidden_layers` is 1025", "from 1 to 1024"]),
        (set("vocab_size", json!(1u64 << 33)), ["`vocab_size` is 8589934592", "whole number"]),
        (set("num_key_value_heads", json!(2)), ["9 query heads cannot share 2 key/value heads", ""]),
        (set("num_key_value_heads", json!(0)), ["`num_key_value_heads` is 0", ""]),
        (set("head_dim", json!(3)), ["heads of 3 cannot be rotated in halves", ""]),
        (set("head_dim", json!(0)), ["`head_dim` is 0", ""]),
        (set("rms_norm_eps", json!(0)), ["`rms_norm_eps` is 0, not a number above 0", ""]),
        (set("rms_norm_eps", json!(1e300)), ["`rms_norm_eps` inf", "range of floats"]),
        (set("rms_norm_eps", json!(1e-300)), ["`rms_norm_eps` 0", "range of floats"]),
        (set("rms_norm_eps", Value::Null), ["has no `rms_norm_eps`", ""]),
        (set("rope_theta", Value::Null), ["has no `rope_theta`", ""]),
        (set("rope_theta", json!(-1)), ["`rope_theta` is -1, not a number above 0", ""]),
        (set("rope_scaling", json!({ "type": "yarn" })), ["`rope_scaling` is {\"type\":\"yarn\"}", "supported: null"]),
        (set("rope_parameters", json!(5)), ["`rope_parameters` is 5, not an object", ""]),
        (set("rope_parameters", json!({ "rope_theta": 1e4 })), ["`rope_theta` is 1000000", "makes it 10000"]),
        (set("rope_parameters", json!({ "rope_type": "default" })), ["has no `rope_theta`", ""]),
        (
            set("rope_parameters", json!({ "rope_type": "yarn", "rope_theta": 1e6 })),
            ["`rope_type` is \"yarn\"", "supported: \"default\", null"],
        ),
        (
            set("rope_parameters", json!({ "rope_theta": 1e6, "factor": 4.0 })),
            ["`rope_parameters` has `factor`, which is not supported", ""],
        ),
        (set("hidden_act", json!("gelu")), ["`hidden_act` is \"gelu\"", "supported: \"silu\", null"]),
        (set("attention_bias", json!(true)), ["`attention_bias` is true", "supported: false"]),
        (set("use_sliding_window", json!(true)), ["`use_sliding_window` is true", "supported: false"]),
        (set("layer_types", json!(["full_attention", "sliding_attention"])), ["`layer_types` is", "supported"]),
        (set("tie_word_embeddings", json!("no")), ["`tie_word_embeddings` is \"no\"", "not true or false"]),
        (set("block_size", json!(0)), ["`block_size` is 0", ""]),
        (set("mask_token_id", json!(7)), ["`mask_token_id`", "below `vocab_size` 7"]),
        (set("mask_token_id", json!([5, 6])), ["`mask_token_id` is more than one token id", ""]),
        (set("eos_token_id", json!([1, "2"])), ["`eos_token_id`", "nor a list of them"]),
        (set("eos_token_id", json!([1, -1])), ["`eos_token_id`", "nor a list of them"]),
    ] {
        let mut folder = Folder::plain();
        let what = format!("{change:?}");
        folder.config[change.0] = change.1;
        check_error(&what, folder.finish(), &["config.json: ", words[0], words[1]]);
    }
    let mut folder = Folder::plain();
    (folder.config["model_type"], folder.config["architectures"]) = (Value::Null, Value::Null);
    check_error("no family", folder.finish(), &["config.json: `model_type` is absent and `architectures` absent"]);
    let mut folder = Folder::plain();
    (folder.config["num_attention_heads"], folder.config["num_key_value_heads"]) = (json!(4096), json!(1));
    folder.config["head_dim"] = json!(65536);
    check_error("wide heads", folder.finish(), &["4096 heads of 65536 are too wide"]);
    let folder = Folder::plain();
    folder.write("generation_config.json", r#"{"eos_token_id": [1, 7]}"#);
    check_error("an end of text", folder.finish(), &["generation_config.json: `eos_token_id`", "below `vocab_size` 7"]);
}

#[test]
fn a_config_that_is_no_config() {
    let nested = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    for (what, bytes, words) in [
        ("an empty file", &b""[..], "is not JSON"),
        ("a list", b"[]", "is not a JSON object"),
        ("NaN", br#"{"rms_norm_eps": NaN}"#, "is not JSON"),
        ("a number that is too large", br#"{"rms_norm_eps": 1e999}"#, "is not JSON"),
        ("more after the end", b"{} {}", "is not JSON"),
        ("a cut", br#"{"model_type": "sd"#, "is not JSON"),
        ("other bytes", &[0x7b, 0xff, 0xfe, 0x7d], "valid UTF-8"),
        ("brackets without end", nested.as_bytes(), "is not JSON: recursion limit"),
        ("a key said twice", br#"{"model_type": "sdar", "a\u001b": 1, "a\u001b": 2}"#, "has `a\\u{1b}` twice"),
    ] {
        let folder = Folder::plain();
        folder.finish();
        folder.write("config.json", bytes);
        check_error(what, folder.dir.path(), &["config.json: ", words]);
    }
    let folder = Folder::plain();
    let path = folder.finish();
    let config = path.join("config.json");
    fs::File::create(&config).unwrap().set_len((64 << 20) + 1).unwrap();
    check_error("a huge file", path, &["config.json: is larger than 64 MiB"]);
    fs::remove_file(&config).unwrap();
    check_error("no file", path, &["config.json: ", "No such file"]);
    fs::create_dir(&config).unwrap();
    check_error("a folder", path, &["config.json: is not a file"]);
    check_error("no folder", &path.join("elsewhere"), &["elsewhere/config.json: "]);
}

type Damage = Box<dyn Fn(&mut Folder)>;

#[test]
fn tensors_that_do_not_fit() {
    let up = "model.layers.1.mlp.up_proj.weight";
    let one = |f: fn(&mut Stored)| -> Damage {
        Box::new(move |folder| {
            let at = folder.at(up);
            f(&mut folder.tensors[at]);
        })
    };
    let add = |name: &'static str| -> Damage {
        Box::new(move |folder| folder.tensors.push((name.into(), "F32", vec![1], vec![0; 4])))
    };
    let all = |f: fn(&mut Folder)| -> Damage { Box::new(f) };
    let file = "model.safetensors: tensor `model.layers.1.mlp.up_proj.weight` ";
    let cases: Vec<(&str, Damage, Vec<&str>)> = vec![
        (
            "missing",
            one(|t| t.0 = "gone".into()),
            vec!["missing tensors: model.layers.1.mlp.up_proj.weight;", "gone (model.safetensors)"],
        ),
        ("missing many", all(|f| f.tensors.truncate(2)), vec!["missing tensors: ", "… (23 in all)"]),
        (
            "extra",
            add("model.extra.weight"),
            vec!["tensors that the model does not have: model.extra.weight (model.safetensors)"],
        ),
        (
            "a layer too many",
            add("model.layers.2.mlp.up_proj.weight"),
            vec!["does not have: model.layers.2.mlp.up_proj.weight"],
        ),
        (
            "a bias",
            add("model.layers.0.self_attn.q_proj.bias"),
            vec!["does not have: model.layers.0.self_attn.q_proj.bias"],
        ),
        ("an evil name", add("\u{1b}[2J\n"), vec!["does not have: \\u{1b}[2J\\n (model"]),
        ("turned", one(|t| t.2 = vec![4, 5]), vec![file, "is f32[4, 5], but config.json makes it [5, 4]"]),
        ("flat", one(|t| t.2 = vec![20]), vec![file, "is f32[20], but"]),
        ("a single number", one(|t| (t.2, t.3) = (vec![], vec![0; 4])), vec![file, "is f32[], but"]),
        ("empty", one(|t| (t.2, t.3) = (vec![0, 4], vec![])), vec![file, "is f32[0, 4], but"]),
        ("empty and huge", one(|t| (t.2, t.3) = (vec![0, 1 << 40], vec![])), vec![file, "larger than 2^32"]),
        ("integers", one(|t| t.1 = "I32"), vec![file, "is I32; supported: F32, F16, BF16"]),
        ("doubles", one(|t| (t.1, t.3) = ("F64", vec![0; 160])), vec![file, "is F64; supported"]),
        ("bytes", one(|t| (t.1, t.3) = ("U8", vec![0; 20])), vec![file, "is U8; supported"]),
        ("more than its shape", one(|t| t.3.push(0)), vec!["model.safetensors: has a damaged header"]),
        ("less than its shape", one(|t| t.3.truncate(76)), vec!["model.safetensors: has a damaged header"]),
        ("a type that is none", one(|t| t.1 = "F33"), vec!["model.safetensors: has a damaged header", "F33"]),
    ];
    for (what, damage, words) in cases {
        let mut folder = Folder::plain();
        damage(&mut folder);
        check_error(what, folder.finish(), &words);
    }
}

#[test]
fn a_hostile_header() {
    let folder = Folder::plain();
    let good = safetensors(&folder.tensors);
    let length = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let with_length = |n: u64| [&n.to_le_bytes()[..], &good[8..]].concat();
    let two = |a: &str, b: &str| with_header(&format!("{{{a},{b}}}"), &[0; 8]);
    let info = |name: &str, shape: &str, from: &str, to: &str| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let cut = "is cut short, or is no safetensors file";
    let damaged = "has a damaged header";
    for (what, bytes, words) in [
        ("an empty file", vec![], cut),
        ("seven bytes", vec![0; 7], cut),
        ("no header", vec![0; 8], damaged),
        ("cut in the header", good[..length / 2].to_vec(), cut),
        ("cut in the data", good[..good.len() - 1].to_vec(), cut),
        ("a byte too many", [&good[..], &[0]].concat(), cut),
        ("a length of everything", with_length(u64::MAX), damaged),
        ("a length that overflows", with_length(u64::MAX - 7), damaged),
        ("a length beyond the limit", with_length(100_000_001), damaged),
        ("a length beyond the file", with_length(99_999_999), cut),
        ("a length that cuts the header", with_length(length as u64 - 1), damaged),
        ("other bytes", with_header("\u{7b}", &[0xff, 0xfe]), damaged),
        ("a list", with_header("[]", &[]), damaged),
        ("a tensor that is no object", with_header(r#"{"a":1}"#, &[]), damaged),
        ("brackets without end", with_header(&format!("{{\"a\":{}", "[".repeat(1_000_000)), &[]), damaged),
        (
            "overlapping",
            two(&info("a", "[1]", "0", "4"), &info("b", "[1]", "2", "6")),
            "overlaps another or leaves a gap",
        ),
        ("the same place", two(&info("a", "[1]", "0", "4"), &info("b", "[1]", "0", "4")), "overlaps another"),
        ("a gap", two(&info("a", "[1]", "0", "4"), &info("b", "[0]", "5", "5")), "leaves a gap"),
        ("backwards", two(&info("a", "[1]", "0", "4"), &info("b", "[1]", "8", "4")), "header"),
        (
            "one name twice",
            two(&info("a", "[2]", "0", "8"), &info("a", "[2]", "0", "8")),
            "tensor `a` is described twice",
        ),
        (
            "a product that overflows",
            two(&info("a", "[4294967296,4294967296]", "0", "0"), &info("b", "[2]", "0", "8")),
            damaged,
        ),
        ("a negative axis", two(&info("a", "[-1]", "0", "4"), &info("b", "[1]", "4", "8")), damaged),
        ("a broken axis", two(&info("a", "[1.5]", "0", "4"), &info("b", "[1]", "4", "8")), damaged),
        ("NaN", two(&info("a", "[NaN]", "0", "4"), &info("b", "[1]", "4", "8")), damaged),
        ("a negative offset", two(&info("a", "[1]", "-4", "0"), &info("b", "[2]", "0", "8")), damaged),
        (
            "an offset beyond all",
            two(&info("a", "[1]", "18446744073709551612", "18446744073709551616"), &info("b", "[2]", "0", "8")),
            damaged,
        ),
        ("metadata that is none", two(r#""__metadata__":{"a":1}"#, &info("b", "[2]", "0", "8")), damaged),
    ] {
        folder.finish();
        folder.write("model.safetensors", bytes);
        check_error(what, folder.dir.path(), &["model.safetensors: ", words]);
    }
}

#[test]
fn a_path_that_is_no_file() {
    let folder = Folder::plain();
    let path = folder.finish();
    let model = path.join("model.safetensors");
    fs::remove_file(&model).unwrap();
    check_error("no tensors", path, &["holds neither model.safetensors nor model.safetensors.index.json"]);
    fs::create_dir(&model).unwrap();
    check_error("a folder", path, &["model.safetensors: is not a file"]);
    fs::remove_dir(&model).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        symlink(&model, &model).unwrap();
        check_error("a link to itself", path, &["model.safetensors: ", "symbolic links"]);
        fs::remove_file(&model).unwrap();
        symlink("blobs/gone", &model).unwrap();
        check_error("a link to nothing", path, &["model.safetensors: ", "No such file"]);
        fs::remove_file(&model).unwrap();
        symlink("/dev/zero", &model).unwrap();
        check_error("a device", path, &["model.safetensors: is not a file"]);
        fs::remove_file(&model).unwrap();
        // Opening a pipe would wait for a writer.
        assert!(std::process::Command::new("mkfifo").arg(&model).status().unwrap().success());
        check_error("a pipe", path, &["model.safetensors: is not a file"]);
        fs::remove_file(&model).unwrap();
        let elsewhere = TempDir::new().unwrap();
        fs::write(elsewhere.path().join("blob"), safetensors(&folder.tensors)).unwrap();
        symlink(elsewhere.path().join("blob"), &model).unwrap();
        assert!(Checkpoint::open(path).is_ok(), "a cache of downloads keeps its files elsewhere");
        symlink("gone.json", path.join("generation_config.json")).unwrap();
        check_error("a link to nothing", path, &["generation_config.json: ", "No such file"]);
    }
}

#[test]
fn an_index_that_is_wrong() {
    let norm = "model.norm.weight";
    let words = "which is no file of this folder";
    for (what, adjust, words) in [
        (
            "no map",
            Box::new(|i: &mut Value| i["weight_map"] = Value::Null) as Box<dyn Fn(&mut Value)>,
            ["index.json: has no object `weight_map`", ""],
        ),
        ("a list", Box::new(|i| i["weight_map"] = json!([])), ["index.json: has no object `weight_map`", ""]),
        (
            "above",
            Box::new(move |i| i["weight_map"][norm] = json!("../x.safetensors")),
            ["`model.norm.weight` into \"../x", words],
        ),
        (
            "absolute",
            Box::new(move |i| i["weight_map"][norm] = json!("/etc/passwd")),
            ["`model.norm.weight` into \"/etc", words],
        ),
        ("below", Box::new(move |i| i["weight_map"][norm] = json!("a/b")), ["into \"a/b\"", words]),
        ("elsewhere", Box::new(move |i| i["weight_map"][norm] = json!("..\\b")), ["into", words]),
        ("the folder above", Box::new(move |i| i["weight_map"][norm] = json!("..")), ["into \"..\"", words]),
        ("nothing", Box::new(move |i| i["weight_map"][norm] = json!("")), ["into \"\"", words]),
        ("a number", Box::new(move |i| i["weight_map"][norm] = json!(1)), ["into 1", words]),
        ("the folder", Box::new(move |i| i["weight_map"][norm] = json!(".")), ["into \".\"", words]),
        (
            "no such file",
            Box::new(move |i| i["weight_map"][norm] = json!("c.safetensors")),
            ["c.safetensors: ", "No such file"],
        ),
        ("a zero in the name", Box::new(move |i| i["weight_map"][norm] = json!("a\0b")), ["into \"a\\u0000b\"", words]),
        (
            "the other file",
            Box::new(move |i| {
                let file = i["weight_map"][norm].as_str().unwrap();
                i["weight_map"][norm] =
                    if file.starts_with('a') { "b-2-of-2.safetensors" } else { "a-1-of-2.safetensors" }.into();
            }),
            ["tensor `model.norm.weight` is not in this file", "index.json says so"],
        ),
        (
            "no such tensor",
            Box::new(|i| i["weight_map"]["model.more"] = json!("a-1-of-2.safetensors")),
            ["a-1-of-2.safetensors: tensor `model.more` is not in this file", ""],
        ),
    ] {
        let folder = Folder::plain();
        let mut index = folder.sharded();
        adjust(&mut index);
        folder.write("model.safetensors.index.json", index.to_string());
        check_error(what, folder.dir.path(), &words);
    }
    let folder = Folder::plain();
    folder.sharded();
    folder.write("b-2-of-2.safetensors", safetensors(&folder.tensors));
    check_error(
        "in both files",
        folder.dir.path(),
        &["b-2-of-2.safetensors: tensor `", "is also in ", "a-1-of-2.safetensors"],
    );
    folder.write("model.safetensors.index.json", "{\"weight_map\": ".repeat(100_000));
    check_error("brackets without end", folder.dir.path(), &["index.json: is not JSON: recursion limit"]);
}

/// What may come into a header by damage, beside single bytes.
const WORDS: [&str; 7] = ["0", "-1", "99999999999", "F16", "F64", "]", "\""];

/// Opens a checkpoint with another value in config.json: an error, or a module that keeps the rules.
fn refused_or_read(mut folder: Folder, key: usize, value: Value) -> Result<(), TestCaseError> {
    let keys: Vec<String> = folder.config.as_object().unwrap().keys().cloned().collect();
    folder.config[&keys[key % keys.len()]] = value;
    match Checkpoint::open(folder.finish()) {
        Err(error) => prop_assert!(!error.to_string().is_empty()),
        Ok(c) => {
            let bounds = ir::Sizes { t: 4, c: 8, r: 0 };
            let module = c.config().decoder.import("m", bounds, &|n| c.tensor_type(n)).unwrap();
            ir::verify(&module).unwrap();
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the header says, opening gives an error or tensors that can be read.
    #[test]
    fn damaged_headers_are_refused_or_read(
        edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..4),
        cut in proptest::option::of(any::<usize>()),
        swapped in proptest::option::of((any::<usize>(), proptest::sample::select(WORDS.to_vec()))),
    ) {
        let folder = Folder::plain();
        folder.finish();
        let mut bytes = safetensors(&folder.tensors);
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for (at, byte) in edits {
            bytes[at % header] = byte;
        }
        if let Some((at, text)) = swapped {
            let at = 8 + at % (header - 8 - text.len());
            bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
        }
        if let Some(at) = cut {
            bytes.truncate(at % (bytes.len() + 1));
        }
        folder.write("model.safetensors", &bytes);
        match Checkpoint::open(folder.dir.path()) {
            Err(error) => prop_assert!(error.to_string().contains("tensors"), "{}", error),
            Ok(checkpoint) => names::expected(&DECODER, qwen::stored_name).iter().for_each(|e| drop(numbers(&checkpoint, &e.name))),
        }
    }

    /// Whatever config.json says, opening gives an error or a module that keeps the rules.
    #[test]
    fn damaged_configs_are_refused_or_read(
        key in any::<usize>(),
        value in proptest::sample::select(vec![
            json!(0), json!(1), json!(-1), json!(2), json!(6), json!(1.5), json!(1e300), json!(4294967295u64),
            json!(null), json!("x"), json!([]), json!({}), json!([1]), json!(true), json!(65536), json!(1024), json!(16777216),
        ]),
    ) {
        refused_or_read(Folder::plain(), key, value)?;
    }
}
