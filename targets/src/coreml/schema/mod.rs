//! The format of a package, as `formats/coreml-mlpackage.md` has it: protobuf messages, weight file, versions, names.
//!
//! Message fields have the names and numbers of Apple's `.proto` files. What a program for a step graph never uses is
//! left out; a reader notices such fields, because the message is then shorter than its bytes.

pub(crate) mod blob;
pub(crate) mod manifest;
pub(crate) mod model;
pub(crate) mod program;

/// Where the program lies in a package.
pub(crate) const MODEL_PATH: &str = "Data/com.apple.CoreML/model.mlmodel";
/// Where the weight file lies in a package.
pub(crate) const WEIGHT_PATH: &str = "Data/com.apple.CoreML/weights/weight.bin";
/// Where the manifest lies in a package.
pub(crate) const MANIFEST_PATH: &str = "Manifest.json";
/// The weight file as the program names it.
pub(crate) const WEIGHT_FILE: &str = "@model_path/weights/weight.bin";

/// The function, where there is one.
pub(crate) const MAIN: &str = "main";
/// Where there are several, one is called after its number of tokens: `step_4`.
pub(crate) const STEP: &str = "step_";
/// `i32[1, T]`: the tokens.
pub(crate) const TOKENS: &str = "input_ids";
/// `i32[1, T]`: their positions.
pub(crate) const POSITIONS: &str = "position_ids";
/// `fp16[1, 1, T, C+T]`: what is added to the scores; `fp16[1, 1, T, C]` where the package keeps the cache.
pub(crate) const MASK: &str = "attn_mask";
/// `i32[R]`: the rows that need logits, where a step has them.
pub(crate) const ROWS: &str = "row_ids";
/// `fp16[L, 1, KV, C, D]`: the committed keys, then the values.
pub(crate) const CACHES: [&str; 2] = ["k_cache", "v_cache"];
/// `i32[1]`: where a step writes its rows, where the package keeps them.
pub(crate) const WRITE_POS: &str = "write_pos";
/// `fp16[L, 1, KV, C, D]`: keys and values that the package keeps.
pub(crate) const STATES: [&str; 2] = ["k_state", "v_state"];
/// `fp16[1, T, H]`: what the layers of the package before made of the tokens, where it is a part of a chain.
pub(crate) const HIDDEN_IN: &str = "hidden_in";
/// `fp16[1, T, H]`: what the layers make of it, for the next package of a chain.
pub(crate) const HIDDEN_OUT: &str = "hidden_out";
/// `fp16[1, T, V]`: the logits.
pub(crate) const LOGITS: &str = "logits";
/// `fp16[L, 1, KV, T, D]`: the new keys, then the values.
pub(crate) const NEW_ROWS: [&str; 2] = ["k_new", "v_new"];

/// Most enumerated shapes of an input, and functions here.
pub(crate) const MAX_LENGTHS: usize = 128;
/// Most axes of a value.
pub(crate) const MAX_RANK: usize = 5;

/// The name of the operations that a specification version has.
pub(crate) fn opset(version: i32) -> Option<&'static str> {
    match version {
        6 => Some("CoreML5"),
        7 => Some("CoreML6"),
        8 => Some("CoreML7"),
        9 => Some("CoreML8"),
        10 => Some("CoreML9"),
        _ => None,
    }
}

/// Keys of what a package says of itself, `Metadata.userDefined`.
pub(crate) mod keys {
    /// Version of what this product adds to the format.
    pub(crate) const FORMAT_VERSION: &str = "diffulex.format_version";
    /// Name of the model.
    pub(crate) const NAME: &str = "diffulex.model_name";
    /// Digest of the recipe's effective values.
    pub(crate) const RECIPE: &str = "diffulex.recipe_digest";
    /// How to generate text, in JSON.
    pub(crate) const GENERATION: &str = "diffulex.generation";
    /// How the scales of quantized weights were found.
    pub(crate) const SEARCH: &str = "diffulex.scale_search";
    /// `1/3`: which part of a chain it is.
    pub(crate) const PART: &str = "diffulex.part";
    /// A digest of all parts of the chain, programs and weights.
    pub(crate) const CHAIN: &str = "diffulex.chain";
}
