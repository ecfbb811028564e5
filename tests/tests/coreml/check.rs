//! The check for a Mac: its reference tensors, on the judge, as the script uses them.

use std::collections::BTreeMap;
use std::path::Path;

use diffulex_edge::build::{self, Freshness};
use safetensors::{Dtype, SafeTensors};

use super::judge::{Judge, Tensor, Tensors};

/// Builds the tiny model of a family; gives the artifact's folder.
fn built((family, block): (&str, u32), keys: &[&str], out: &Path) -> std::path::PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let recipe = out.join("tiny.toml");
    let text = format!(
        "extends = \"{}/recipes/families/{family}.toml\"\nname = \"tiny\"\n[model]\ncheckpoint = \"{}/fixtures/{family}/tiny\"\n\
         [shape]\nblock = {block}\nprefill = {}\ncache = {}\n[matrix]\ntarget = [\"coreml\"]\nquant = [\"int8\"]\n",
        root.parent().unwrap().display(),
        root.display(),
        2 * block,
        4 * block
    );
    std::fs::write(&recipe, text).unwrap();
    let overrides = keys.iter().map(|key| format!("target.coreml.{key}")).collect();
    let options = build::Options { overrides, out: out.into(), ..build::Options::default() };
    let plans = build::plan(&recipe, &options, &mut |_, _, _| {}).unwrap();
    assert_eq!(plans[0].freshness, Freshness::Absent);
    build::run(&plans[0].job, &plans[0].folder, Err("not asked for"), None, &mut |_| {}).unwrap();
    plans[0].folder.clone()
}

/// The tensors of a file, and what it says beside them.
fn reference(folder: &Path) -> (Tensors, BTreeMap<String, String>) {
    let bytes = std::fs::read(folder.join("reference.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let facts = header.metadata().clone().unwrap().into_iter().collect();
    let word = |dtype| match dtype {
        Dtype::F16 => "F16",
        Dtype::F32 => "F32",
        Dtype::I32 => "I32",
        other => panic!("{other:?}"),
    };
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = tensors.iter().map(|(name, t)| {
        let tensor: Tensor = (word(t.dtype()), t.shape().to_vec(), t.data().to_vec());
        (name.to_string(), tensor)
    });
    (tensors.collect(), facts)
}

/// Puts the rows of a step, `[L, 1, KV, T, D]`, into a cache, `[L, 1, KV, C, D]`.
fn commit(rows: &Tensor, cache: &mut Tensor, at: usize) {
    let (&[layers, _, heads, t, width], c) = (&rows.1[..], cache.1[3]) else { panic!("{:?}", rows.1) };
    let size = rows.2.len() / rows.1.iter().product::<usize>();
    for head in 0..layers * heads {
        let from = &rows.2[head * t * width * size..][..t * width * size];
        cache.2[(head * c + at) * width * size..][..from.len()].copy_from_slice(from);
    }
}

/// The inputs and the outputs of one package, with the caches that a host keeps.
fn calls(all: &Tensors, cache: [usize; 5], explicit: bool) -> (Tensors, Tensors) {
    let (mut given, mut made) = (Tensors::new(), Tensors::new());
    let empty = || ("F16", cache.to_vec(), vec![0; 2 * cache.iter().product::<usize>()]);
    let mut caches: [Tensor; 2] = [empty(), empty()];
    for call in 0.. {
        let own: Vec<_> = all.iter().filter_map(|(n, t)| Some((n.strip_prefix(&format!("call{call}."))?, t))).collect();
        if own.is_empty() {
            assert!(call > 1, "{call} calls");
            return (given, made);
        }
        let named = |name: &str| format!("call{call}.{name}");
        for (name, tensor) in own {
            match name {
                "logits" | "k_new" | "v_new" => drop(made.insert(named(name), single(tensor))),
                "commit" => {}
                _ => drop(given.insert(named(name), tensor.clone())),
            }
        }
        if explicit {
            let at = u32::from_le_bytes(all[&named("commit")].2[..].try_into().unwrap()) as usize;
            for ((cache, input), rows) in caches.iter_mut().zip(["k_cache", "v_cache"]).zip(["k_new", "v_new"]) {
                given.insert(named(input), cache.clone());
                commit(&all[&named(rows)], cache, at);
            }
        }
    }
    unreachable!()
}

/// The numbers in single precision, as the judge takes them.
fn single((dtype, shape, bytes): &Tensor) -> Tensor {
    if *dtype != "F16" {
        return (dtype, shape.clone(), bytes.clone());
    }
    let number = |b: &[u8]| half::f16::from_le_bytes(b.try_into().unwrap()).to_f32();
    ("F32", shape.clone(), bytes.chunks_exact(2).flat_map(|b| number(b).to_le_bytes()).collect())
}

/// What stands in the file is in `fp16`: that much it may depart.
const ROUNDED: f32 = 2e-3;

#[test]
fn references_are_what_packages_make() {
    let place = tempfile::tempdir().unwrap();
    let Some(mut judge) = Judge::found(place.path()) else { return };
    for (family, block) in [("sdar", 4), ("fast_dllm_v2", 32), ("dream", 4), ("llada", 4)] {
        for interface in ["explicit", "state"] {
            let out = place.path().join(format!("{family}-{interface}"));
            std::fs::create_dir(&out).unwrap();
            let folder = built((family, block), &[&format!("interface=\"{interface}\"")], &out);
            let (tensors, facts) = reference(&folder);
            assert!(folder.join("check.swift").is_file());
            assert_eq!(facts["package.count"], "1");
            let package = folder.join(&facts["package.0"]);
            let explicit = interface == "explicit";
            assert_eq!(facts.get("commit").map(String::as_str), explicit.then_some("k_new>k_cache,v_new>v_cache"));
            let cache = diffulex_targets::coreml::read(&package).unwrap().module.cache;
            let [l, kv, d] = [cache.layers, cache.kv_heads, cache.head_dim].map(|n| n as usize);
            let (given, made) = calls(&tensors, [l, 1, kv, 4 * block as usize, d], explicit);
            judge.compare_within(ROUNDED, &package, None, &given, &made);
        }
    }
    judge.agrees();
}

#[test]
fn references_of_chains_have_the_rows_of_each_part() {
    let out = tempfile::tempdir().unwrap();
    let folder = built(("sdar", 4), &["parts=2"], out.path());
    let (tensors, facts) = reference(&folder);
    assert_eq!((facts["package.count"].as_str(), facts["outputs"].as_str()), ("2", "logits,k_new,v_new"));
    let layers = |part: usize| tensors[&format!("call1.part{part}.k_new")].1[0];
    let whole = diffulex_targets::coreml::read(&folder.join(&facts["package.1"])).unwrap().module.cache.layers;
    assert_eq!(layers(0) + layers(1), whole as usize);
}
