//! What differs from family to family: keys of config.json, names of tensors, tokens with a meaning.

use std::collections::BTreeSet;

use diffulex_compiler::checkpoint::Config;
use diffulex_compiler::generation::Attention::{self, BlockCausal, Full};
use diffulex_compiler::generation::Logits::{self, Aligned, Shifted};

use super::*;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn without<const N: usize>(mut config: Value, keys: [&str; N]) -> Value {
    config.as_object_mut().unwrap().retain(|key, _| !keys.contains(&key.as_str()));
    config
}

/// config.json of a Fast-dLLM v2 or Dream checkpoint.
fn qwen(model_type: &str, architecture: &str, decoder: &Decoder) -> Value {
    let mut config = without(sdar(decoder), ["attention_bias", "block_size"]);
    (config["model_type"], config["architectures"]) = (json!(model_type), json!([architecture]));
    config
}

const QWEN: Decoder = Decoder { qkv_bias: true, qk_norm: false, ..DECODER };

/// config.json of a LLaDA checkpoint, with every key that the published ones have.
fn llada(decoder: &Decoder) -> Value {
    let mut config = json(&fixture("llada/tiny/config.json"));
    let own = json!({
        "d_model": decoder.hidden, "embedding_size": decoder.vocab, "eos_token_id": 1,
        "include_qkv_bias": decoder.qkv_bias, "mask_token_id": 6, "mlp_hidden_size": decoder.intermediate,
        "n_heads": decoder.heads, "n_kv_heads": decoder.kv_heads, "n_layers": decoder.layers, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "vocab_size": decoder.vocab, "weight_tying": decoder.tied,
    });
    config.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    config
}

const LLADA: Decoder =
    Decoder { hidden: 8, heads: 4, kv_heads: 2, head_dim: 2, intermediate: 12, qk_norm: false, ..DECODER };

fn llada_folder(decoder: &Decoder) -> Folder {
    Folder::of(Family::Llada, llada(decoder), decoder, &|_| Encoding::F32)
}

#[test]
fn every_fixture_is_imported() {
    let small = |hidden, layers, heads, kv_heads, head_dim, intermediate, vocab| Decoder {
        hidden,
        layers,
        heads,
        kv_heads,
        head_dim,
        intermediate,
        vocab,
        ..DECODER
    };
    type Case = (Family, Decoder, Attention, Logits, Option<u32>, u32, u32);
    let cases: [Case; 4] = [
        (Family::Sdar, small(64, 3, 4, 2, 32, 176, 384), BlockCausal, Aligned, Some(4), 512, 356),
        (
            Family::FastDllmV2,
            Decoder { tied: true, qkv_bias: true, qk_norm: false, ..small(64, 3, 4, 2, 16, 160, 360) },
            BlockCausal,
            Shifted,
            Some(32),
            1024,
            342,
        ),
        (
            Family::Dream,
            Decoder { qkv_bias: true, qk_norm: false, ..small(96, 2, 6, 2, 16, 168, 352) },
            Full,
            Shifted,
            None,
            1024,
            345,
        ),
        (
            Family::Llada,
            Decoder { qk_norm: false, eps: 1e-5, theta: 5e5, ..small(64, 3, 4, 4, 16, 192, 352) },
            Full,
            Aligned,
            None,
            512,
            344,
        ),
    ];
    for (family, decoder, attention, logits, block, max_positions, mask_id) in cases {
        let folder = fixture(family.name());
        let plain = Checkpoint::open(&folder.join("tiny")).unwrap();
        let Config { family: found, decoder: sizes, block: own, max_positions: most, .. } = plain.config();
        assert_eq!((*found, sizes, *own, *most), (family, &decoder, block, max_positions));
        assert_eq!((family.facts().attention, family.facts().logits), (attention, logits), "{family}");
        assert_eq!(plain.mask_id().unwrap(), mask_id, "{family}");
        for chat in json(&folder.join("chat.json")).as_array().unwrap() {
            let ends: BTreeSet<u64> =
                chat["end_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
            let found: Vec<u64> = plain.end_ids().unwrap().into_iter().map(u64::from).collect();
            assert_eq!((found.len(), BTreeSet::from_iter(found)), (ends.len(), ends), "{family}");
        }
        let module = decoder.import("m", ir::Sizes { t: 4, c: 8, r: 0 }, &|n| plain.tensor_type(n)).unwrap();
        ir::verify(&module).unwrap();

        let sharded = Checkpoint::open(&folder.join("tiny-sharded-bf16")).unwrap();
        assert_eq!((sharded.config(), sharded.files().count()), (plain.config(), 2));
        for expected in names::expected(&decoder, family.facts().stored_name) {
            let (mut rows, exact) = (quant::Encoded::default(), numbers(&plain, &expected.name));
            let kept = sharded.tensor(&expected.name).unwrap();
            quant::encode(Encoding::BF16, quant::Search::Max, kept.ty.columns(), &exact, &mut rows).unwrap();
            let encoding = kept.ty.encoding;
            assert_eq!((encoding, kept.bytes), (Encoding::BF16, &rows.values[..]), "{family}: {}", expected.name);
        }
    }
}

#[test]
fn names_in_the_files() {
    let stored = |family: Family, decoder: &Decoder| -> Vec<String> {
        names::expected(decoder, family.facts().stored_name).into_iter().map(|e| e.stored).collect()
    };
    let one = Decoder { layers: 1, ..QWEN };
    assert_eq!(
        stored(Family::Dream, &one),
        [
            "model.embed_tokens.weight",
            "model.layers.0.input_layernorm.weight",
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.0.self_attn.q_proj.bias",
            "model.layers.0.self_attn.k_proj.weight",
            "model.layers.0.self_attn.k_proj.bias",
            "model.layers.0.self_attn.v_proj.weight",
            "model.layers.0.self_attn.v_proj.bias",
            "model.layers.0.self_attn.o_proj.weight",
            "model.layers.0.post_attention_layernorm.weight",
            "model.layers.0.mlp.gate_proj.weight",
            "model.layers.0.mlp.up_proj.weight",
            "model.layers.0.mlp.down_proj.weight",
            "model.norm.weight",
            "lm_head.weight",
        ]
    );
    assert_eq!(stored(Family::FastDllmV2, &one), stored(Family::Dream, &one));
    let one = Decoder { layers: 1, ..LLADA };
    assert_eq!(
        stored(Family::Llada, &one),
        [
            "model.transformer.wte.weight",
            "model.transformer.blocks.0.attn_norm.weight",
            "model.transformer.blocks.0.q_proj.weight",
            "model.transformer.blocks.0.k_proj.weight",
            "model.transformer.blocks.0.v_proj.weight",
            "model.transformer.blocks.0.attn_out.weight",
            "model.transformer.blocks.0.ff_norm.weight",
            "model.transformer.blocks.0.ff_proj.weight",
            "model.transformer.blocks.0.up_proj.weight",
            "model.transformer.blocks.0.ff_out.weight",
            "model.transformer.ln_f.weight",
            "model.transformer.ff_out.weight",
        ]
    );
}

#[test]
fn fast_dllm_v2_in_both_layouts() {
    let config =
        |decoder: &Decoder| without(qwen("Fast_dLLM_Qwen", "Fast_dLLM_QwenForCausalLM", decoder), ["mask_token_id"]);
    for tied in [true, false] {
        let decoder = Decoder { tied, ..QWEN };
        let mut folder = Folder::of(Family::FastDllmV2, config(&decoder), &decoder, &|_| Encoding::BF16);
        let opened = open(&folder);
        assert_eq!((&opened.config().decoder, opened.config().block), (&decoder, None));
        assert_eq!(opened.tensor("lm_head").is_ok(), !tied);
        check_error("no mask", folder.dir.path(), &["has no mask token", "none of |<MASK>| with"]);
        folder.config["bd_size"] = json!(16);
        folder.config["block_size"] = json!("not its key");
        folder.write("added_tokens.json", r#"{"|<MASK>|": 5, "<|MASK|>": 4}"#);
        let opened = open(&folder);
        assert_eq!((opened.config().block, opened.mask_id().unwrap()), (Some(16), 5));
        folder.config["bd_size"] = json!(0);
        check_error("no block", folder.finish(), &["config.json: `bd_size` is 0"]);
    }
    // The biases are there whatever a key says.
    let mut folder = Folder::of(Family::FastDllmV2, config(&QWEN), &QWEN, &|_| Encoding::F32);
    folder.config["attention_bias"] = json!(false);
    assert_eq!(open(&folder).config().decoder, QWEN);
    folder.tensors.retain(|t| t.0 != "model.layers.1.self_attn.k_proj.bias");
    check_error("a bias less", folder.finish(), &["missing tensors: model.layers.1.self_attn.k_proj.bias"]);
}

#[test]
fn dream_and_its_relatives() {
    let base = Folder::of(Family::Dream, qwen("Dream", "DreamModel", &QWEN), &QWEN, &|_| Encoding::F32);
    let plain = open(&base).config().clone();
    assert_eq!((plain.family, &plain.decoder, plain.block, plain.mask_id), (Family::Dream, &QWEN, None, Some(6)));
    type Adjust = fn(&mut Value);
    let adjusts: [(&str, Adjust); 4] = [
        ("a cache", |c| c["use_cache"] = json!(true)),
        ("another beginning", |c| c["bos_token_id"] = json!(2)),
        ("keys of its own", |c| c["max_window_layers"] = json!(28)),
        ("the newer spelling", |c| {
            c["dtype"] = c["torch_dtype"].take();
            c["rope_parameters"] = json!({ "rope_theta": 1e6, "rope_type": "default" });
            c["rope_theta"].take();
        }),
    ];
    for (what, adjust) in adjusts {
        let mut folder =
            Folder { dir: TempDir::new().unwrap(), config: base.config.clone(), tensors: base.tensors.clone() };
        adjust(&mut folder.config);
        // Its mask token is null in the published folders.
        folder.write("generation_config.json", r#"{"mask_token_id": null, "eos_token_id": 1, "alg": "origin"}"#);
        let opened = open(&folder);
        assert_eq!((opened.config(), opened.mask_id().unwrap()), (&plain, 6), "{what}");
    }
    let mut folder = base;
    folder.config["mask_token_id"] = Value::Null;
    folder.write("tokenizer.json", r#"{"added_tokens": [{"content": "<|mask|>", "id": 3}]}"#);
    assert_eq!(open(&folder).mask_id().unwrap(), 3);
}

#[test]
fn llada_says_the_same_in_several_ways() {
    let plain = open(&llada_folder(&LLADA)).config().clone();
    assert_eq!((plain.family, &plain.decoder, plain.block, plain.mask_id), (Family::Llada, &LLADA, None, Some(6)));
    assert_eq!((plain.max_positions, &plain.end_ids[..]), (512, &[1][..]));
    type Adjust = fn(&mut Value);
    let adjusts: [(&str, Adjust); 7] = [
        ("no size of the table", |c| c["embedding_size"] = Value::Null),
        ("fewer tokens than rows", |c| c["vocab_size"] = json!(5)),
        ("the newer spelling", |c| {
            c["rope_parameters"] = json!({ "rope_theta": 1e6, "rope_type": "default" });
            c["rope_theta"].take();
        }),
        ("no architectures", |c| c["architectures"] = Value::Null),
        ("no model_type", |c| c["model_type"] = Value::Null),
        ("norms that follow the biases", |c| c["bias_for_layer_norm"] = Value::Null),
        ("another calculation of angles", |c| c["rope_full_precision"] = json!(false)),
    ];
    for (what, adjust) in adjusts {
        let mut folder = llada_folder(&LLADA);
        adjust(&mut folder.config);
        assert_eq!(*open(&folder).config(), plain, "{what}");
    }
    // Sizes that follow from others.
    for (key, value, decoder) in [
        ("mlp_hidden_size", json!(null), Decoder { intermediate: 32, ..LLADA }),
        ("n_kv_heads", json!(null), Decoder { kv_heads: 4, ..LLADA }),
        ("multi_query_attention", json!(true), Decoder { kv_heads: 1, ..LLADA }),
        ("multi_query_attention", json!(false), Decoder { kv_heads: 4, ..LLADA }),
    ] {
        let mut folder = llada_folder(&decoder);
        folder.config["n_kv_heads"] = Value::Null;
        if decoder.kv_heads == 2 {
            folder.config["n_kv_heads"] = json!(2);
        }
        folder.config[key] = value;
        assert_eq!(open(&folder).config().decoder, decoder, "{key}");
    }
    // Biases of queries, keys and values, and a tied head, which some exports store again.
    let decoder = Decoder { qkv_bias: true, tied: true, ..LLADA };
    let mut folder = llada_folder(&decoder);
    assert!(folder.tensors.iter().any(|t| t.0 == "model.transformer.blocks.1.v_proj.bias"));
    assert_eq!(open(&folder).config().decoder, decoder);
    let mut head = folder.tensors[0].clone();
    head.0 = "model.transformer.ff_out.weight".into();
    folder.tensors.push(head.clone());
    assert!(open(&folder).tensor("lm_head").is_err());
    head.3[0] ^= 1;
    *folder.tensors.last_mut().unwrap() = head;
    check_error("another head", folder.finish(), &["`model.transformer.ff_out.weight` differs from the token table"]);
}

#[test]
fn llada_switches_that_are_not_supported() {
    for (key, value, words) in [
        ("activation_type", json!("swiglu"), "`activation_type` is \"swiglu\"; supported: \"silu\""),
        ("activation_type", json!(null), "has no `activation_type`; supported: \"silu\""),
        ("alibi", json!(true), "`alibi` is true; supported: false"),
        ("attention_layer_norm", json!(true), "`attention_layer_norm` is true; supported: false"),
        ("bias_for_layer_norm", json!(true), "`bias_for_layer_norm` is true; supported: false"),
        ("block_group_size", json!(2), "`block_group_size` is 2; supported: 1"),
        ("block_type", json!("sequential"), "`block_type` is \"sequential\"; supported: \"llama\""),
        ("block_type", json!(null), "has no `block_type`; supported: \"llama\""),
        ("clip_qkv", json!(8.0), "`clip_qkv` is 8.0; supported: null"),
        ("include_bias", json!(true), "`include_bias` is true; supported: false"),
        ("input_emb_norm", json!(true), "`input_emb_norm` is true; supported: false"),
        ("layer_norm_type", json!("default"), "`layer_norm_type` is \"default\"; supported: \"rms\""),
        ("layer_norm_with_affine", json!(false), "`layer_norm_with_affine` is false; supported: true"),
        ("rope", json!(false), "`rope` is false; supported: true"),
        ("rope", json!(null), "has no `rope`; supported: true"),
        ("rope_scaling", json!({ "type": "linear" }), "`rope_scaling` is {\"type\":\"linear\"}; supported: null"),
        ("scale_logits", json!(true), "`scale_logits` is true; supported: false"),
        ("embedding_size", json!(6), "`embedding_size` 6 is below `vocab_size` 7"),
        ("vocab_size", json!(null), "has no `vocab_size`"),
        ("mlp_hidden_size", json!(-1), "`mlp_hidden_size` is -1, not a whole number"),
        ("n_heads", json!(3), "`d_model` 8 cannot be shared by 3 heads (`n_heads`)"),
        ("n_kv_heads", json!(3), "4 query heads cannot share 3 key/value heads"),
        ("multi_query_attention", json!(true), "`n_kv_heads` is 2, but `multi_query_attention` makes it 1"),
        ("multi_query_attention", json!("no"), "`multi_query_attention` is \"no\", not true or false"),
        ("include_qkv_bias", json!(1), "`include_qkv_bias` is 1, not true or false"),
        ("d_model", json!(1u64 << 40), "`d_model` is 1099511627776, not a whole number"),
        ("max_sequence_length", json!(0), "`max_sequence_length` is 0"),
        ("mask_token_id", json!(7), "`mask_token_id` is neither a token id below `vocab_size` 7"),
    ] {
        let mut folder = llada_folder(&LLADA);
        folder.config[key] = value;
        check_error(key, folder.finish(), &["config.json: ", words]);
    }
    let mut folder = llada_folder(&LLADA);
    folder.config["mlp_hidden_size"] = Value::Null;
    folder.config["mlp_ratio"] = json!(1 << 20);
    check_error("a wide MLP", folder.finish(), &["config.json: `mlp_ratio` 1048576 makes the MLP wider than 1048576"]);
    // Biases that the configuration does not announce are tensors without a place.
    let mut folder = llada_folder(&Decoder { qkv_bias: true, ..LLADA });
    folder.config["include_qkv_bias"] = json!(false);
    check_error("biases", folder.finish(), &["does not have: model.transformer.blocks.0.k_proj.bias"]);
}

#[test]
fn ends_that_only_the_tokenizer_knows() {
    let mut folder = Folder::plain();
    let ends = |folder: &Folder| open(folder).end_ids().unwrap();
    assert_eq!(ends(&folder), [1]);
    folder.write("added_tokens.json", r#"{"<|endoftext|>": 1, "<|im_end|>": 3, "<|eot_id|>": 2}"#);
    assert_eq!(ends(&folder), [1, 3]);
    folder.config["eos_token_id"] = Value::Null;
    assert_eq!(ends(&folder), [3, 1]);
    folder.write("added_tokens.json", r#"{"<|endoftext|>": 7, "<|im_end|>": -3}"#);
    assert_eq!(ends(&folder), [0u32; 0]);
    folder.write("tokenizer.json", "[]");
    assert!(open(&folder).end_ids().unwrap_err().to_string().contains("tokenizer.json: is not a JSON object"));
    let mut folder = llada_folder(&LLADA);
    folder.config["eos_token_id"] = json!([1]);
    folder.write("tokenizer_config.json", r#"{"added_tokens_decoder": {"4": {"content": "<|eot_id|>"}}}"#);
    assert_eq!(ends(&folder), [1, 4]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a LLaDA config.json says, opening gives an error or a module that keeps the rules.
    #[test]
    fn damaged_llada_configs_are_refused_or_read(
        key in any::<usize>(),
        value in proptest::sample::select(vec![
            json!(0), json!(1), json!(-1), json!(2), json!(8), json!(1.5), json!(1e300), json!(4294967295u64),
            json!(null), json!("x"), json!([]), json!({}), json!([1]), json!(true), json!(65536), json!(16777216),
        ]),
    ) {
        refused_or_read(llada_folder(&LLADA), key, value)?;
    }
}
