//! Metadata: methods without inputs or instructions whose outputs are constants.

use diffulex_compiler::ir::Module;
use diffulex_compiler::quant::Search;

use super::Metadata;
use crate::xnnpack::schema::program::{
    Bool, Chain, ContainerMetadata, EValue, ExecutionPlan, Int, KernelTypes, String as Text,
};

/// The metadata of a module. The first eight are those that ExecuTorch's own runner asks for; the rest is ours.
pub(super) fn all(module: &Module, metadata: &Metadata) -> Vec<ExecutionPlan> {
    let (t, c) = (module.bounds.t as i64, module.bounds.c as i64);
    let vocab = module.outputs.first().and_then(|id| module.node(*id).ty.width()).unwrap_or(0);
    let mut methods = vec![
        method("get_max_seq_len", [int(t)]),
        method("get_max_context_len", [int(c + t)]),
        method("get_vocab_size", [int(vocab.into())]),
        method("use_kv_cache", [boolean(true)]),
        method("use_sdpa_with_kv_cache", [boolean(false)]),
        method("enable_dynamic_shape", [boolean(true)]),
    ];
    if let Some(generation) = &metadata.generation {
        if !generation.end_ids.is_empty() {
            methods.push(method("get_eos_ids", generation.end_ids.iter().map(|&id| int(id.into()))));
        }
        methods.push(method("get_block_length", [int(generation.block.into())]));
        methods.push(method("get_mask_id", [int(generation.mask_id.into())]));
        // A struct of plain fields always has a JSON form.
        methods.push(method("get_generation", [text(&serde_json::to_string(generation).unwrap_or_default())]));
    }
    methods.extend([
        method("get_n_layers", [int(module.cache.layers.into())]),
        method("get_n_kv_heads", [int(module.cache.kv_heads.into())]),
        method("get_head_dim", [int(module.cache.head_dim.into())]),
        method("get_recipe_digest", [text(&metadata.recipe_digest)]),
        method("get_model_name", [text(&module.name)]),
        method("get_format_version", [int(crate::xnnpack::FORMAT_VERSION)]),
    ]);
    if module.search() != Search::Max {
        methods.push(method("get_scale_search", [text(module.search().name())]));
    }
    methods
}

/// A plan that returns `values`.
fn method(name: &str, values: impl IntoIterator<Item = KernelTypes>) -> ExecutionPlan {
    let values: Vec<EValue> = values.into_iter().map(|val| EValue { val: Some(val) }).collect();
    ExecutionPlan {
        name: Some(name.into()),
        container_meta_type: Some(no_metadata()),
        inputs: Some(vec![]),
        outputs: Some((0..values.len() as i32).collect()),
        values: Some(values),
        chains: Some(vec![Chain { inputs: Some(vec![]), outputs: Some(vec![]), instructions: Some(vec![]) }]),
        operators: Some(vec![]),
        delegates: Some(vec![]),
        non_const_buffer_sizes: Some(vec![0]),
    }
}

/// Containers of inputs and outputs are not described.
pub(super) fn no_metadata() -> Box<ContainerMetadata> {
    Box::new(ContainerMetadata { encoded_inp_str: Some(String::new()), encoded_out_str: Some(String::new()) })
}

fn int(value: i64) -> KernelTypes {
    KernelTypes::Int(Box::new(Int { value }))
}

fn boolean(value: bool) -> KernelTypes {
    KernelTypes::Bool(Box::new(Bool { value }))
}

fn text(value: &str) -> KernelTypes {
    KernelTypes::String(Box::new(Text { value: Some(value.into()) }))
}
