//! Bundles as they are written, and each trap put into one of them.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod traps;

use std::hash::{DefaultHasher, Hash, Hasher};

use diffulex_compiler::ir::{Encoding, Module, Operand};
use diffulex_compiler::quant::GridType;

use super::socs::SOCS;
use super::{check, check_chips, plan};
use crate::onnx::small::{Parts, RECIPES, Recipe};
use crate::{Metadata, OpenError, open};

/// Every chip that a recipe is not refused for gets files that break no rule, and all others are named.
#[test]
fn what_is_written_breaks_no_rule_on_any_chip() {
    for (name, recipe) in RECIPES {
        let module = recipe.module();
        let files = recipe.files();
        for soc in &SOCS {
            let options = recipe.options(vec![soc]);
            let takes = match recipe {
                Recipe::Rounded(_, values, _) if values == GridType::U16 && soc.arch < 69 => false,
                Recipe::Rounded(_, _, cache) => cache != GridType::I16 || soc.arch >= 73,
                _ => true,
            };
            assert_eq!(check_chips(&options).is_ok(), takes, "{name} {soc}");
            let planned = plan(&module, &Metadata::default(), &options);
            assert_eq!(planned.is_ok(), takes, "{name} {soc}: {:?}", planned.err());
            if let Ok(planned) = planned {
                let written = files.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect::<Vec<_>>();
                assert!(planned.files().iter().all(|file| written.contains(file)), "{name} {soc}");
            }
        }
        // Also with all numbers at hand.
        let parts = Parts::new(recipe);
        let outside = |tensor: &onnx_protobuf::TensorProto| {
            let number = |i: usize| tensor.external_data[i].value.parse::<usize>().unwrap();
            parts.data.get(number(1)..number(1) + number(2))
        };
        for soc in std::iter::once(None).chain(SOCS.iter().filter(|soc| soc.proven && soc.arch >= 73).map(Some)) {
            assert_eq!(check(&parts.model, &outside, soc), [], "{name}");
        }
    }
}

#[test]
fn what_is_written_is_opened() {
    for recipe in RECIPES.map(|(_, recipe)| recipe).into_iter().chain([Encoding::F32, Encoding::F16].map(Recipe::Float))
    {
        let folder = tempfile::tempdir().unwrap();
        let mut parts = Parts::new(recipe);
        open(&parts.write(folder.path())).unwrap();
        // The file for single tokens is looked at, too.
        let file = recipe.files().into_iter().find(|(name, _)| name == "model_1.onnx");
        if let (Some((name, mut bytes)), Recipe::Rounded(..)) = (file, recipe) {
            std::fs::write(folder.path().join(&name), &bytes).unwrap();
            open(&folder.path().join("model.onnx")).unwrap();
            bytes.truncate(bytes.len() / 2);
            std::fs::write(folder.path().join(&name), &bytes).unwrap();
            assert!(matches!(open(&folder.path().join("model.onnx")), Err(OpenError::Onnx(_))));
            parts.model.opset_import[0].version = 20;
            std::fs::remove_file(folder.path().join(&name)).unwrap();
            parts.write(folder.path());
            assert!(matches!(open(&folder.path().join("model.onnx")), Err(OpenError::Qnn(_))));
        }
    }
}

#[test]
fn the_same_step_gives_the_same_bytes() {
    for (name, recipe) in RECIPES {
        assert!(recipe.files() == recipe.files(), "{name}");
    }
}

/// What is read back is what was written, but for names: op by op, with all grids, types and encodings.
#[test]
fn what_is_read_is_what_was_written() {
    for (name, recipe) in RECIPES {
        let folder = tempfile::tempdir().unwrap();
        let back = open(&Parts::new(recipe).write(folder.path())).unwrap();
        assert_eq!(results(&back.module), results(&recipe.module()), "{name}");
        assert_eq!(back.module.nodes.len(), recipe.module().nodes.len(), "{name}");
    }
}

/// A number for the logits and for the new rows of each cache, which tells how they are computed.
fn results(module: &Module) -> Vec<u64> {
    let mut known: Vec<u64> = Vec::new();
    for node in &module.nodes {
        let mut all = DefaultHasher::new();
        format!("{:?} {:?}", node.op, node.ty).hash(&mut all);
        for arg in &node.args {
            match arg {
                Operand::Node(id) => known[id.0 as usize].hash(&mut all),
                Operand::Weight(id) => {
                    let weight = module.weight(*id);
                    format!("{:?} {:?}", weight.ty, weight.grid).hash(&mut all);
                }
                Operand::Cache(cache) => format!("{cache:?}").hash(&mut all),
            }
        }
        known.push(all.finish());
    }
    let mut rows: Vec<_> = module.new_rows().map(|(cache, id)| (cache.to_string(), known[id.0 as usize])).collect();
    rows.sort();
    let logits = module.outputs.iter().map(|id| known[id.0 as usize]);
    logits.chain(rows.into_iter().map(|(_, known)| known)).collect()
}
