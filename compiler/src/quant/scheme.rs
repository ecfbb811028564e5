//! Which weight gets which encoding, and what the filters are given.

use super::{GridType, Search};
use crate::choice::choices;
use crate::ir::Encoding;

choices! {
    /// What filters are given, and what is rounded on the way.
    Activations {
        /// Tokens in f32; a filter of bf16 multiplies tokens that are rounded to bf16.
        Float = "float",
        /// The same, but a filter of f16 is given tokens in f16, and gives f16.
        F16 = "f16",
        /// Quantized filters are given tokens that are rounded to int8 when they are computed, each with a scale of its
        /// own. Other filters as with `float`.
        DynamicInt8 = "dynamic-int8",
        /// Every value is rounded to one of 65536, whose ends are found beforehand by calibration.
        Uint16 = "uint16",
        /// Every value is rounded to one of 256.
        Uint8 = "uint8",
    }
}

impl Activations {
    /// The whole numbers that every value is rounded to, where calibration finds their ends.
    pub fn grid(self) -> Option<GridType> {
        match self {
            Activations::Uint16 => Some(GridType::U16),
            Activations::Uint8 => Some(GridType::U8),
            _ => None,
        }
    }
}

/// Encodings of the weights of one build, and what its filters are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// For every filter that no pattern names. Vectors (gains, biases) are always f32.
    pub weights: Encoding,
    /// For every table of tokens that no pattern names.
    pub table: Encoding,
    /// What filters are given.
    pub activations: Activations,
    /// How the scales of quantized weights are found.
    pub search: Search,
    /// Name patterns with the encoding of the matrices they match; the first match counts. Names are those of the
    /// printed module, where `qkv_proj` stands for three projections that were joined.
    pub keep: Vec<(String, Encoding)>,
}

impl Scheme {
    /// Every weight in f32.
    pub const F32: Scheme = Scheme::float(Encoding::F32);

    /// Every matrix in one encoding of floats.
    pub const fn float(weights: Encoding) -> Scheme {
        Scheme { weights, table: weights, activations: Activations::Float, search: Search::Max, keep: Vec::new() }
    }

    /// The encoding of a filter of this name.
    pub fn filter(&self, name: &str) -> Encoding {
        self.kept(name).unwrap_or(self.weights)
    }

    /// The encoding of a table of this name.
    pub fn table(&self, name: &str) -> Encoding {
        self.kept(name).unwrap_or(self.table)
    }

    /// How the scales of a weight in this encoding are found; floats have none.
    pub fn search(&self, encoding: Encoding) -> Search {
        if encoding.is_float() { Search::Max } else { self.search }
    }

    fn kept(&self, name: &str) -> Option<Encoding> {
        self.keep.iter().find(|(pattern, _)| matches(pattern, name)).map(|(_, encoding)| *encoding)
    }
}

/// Whether `name` is `pattern`, where each `*` stands for any run of characters, also an empty one.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    // Taking the first place of each part leaves the most for those that follow.
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_matches_any_run() {
        for (pattern, name, expected) in [
            ("lm_head", "lm_head", true),
            ("lm_head", "lm_head2", false),
            ("layers.*.mlp.*", "layers.3.mlp.up_proj", true),
            ("layers.*.mlp.*", "layers.3.self_attn.o_proj", false),
            ("*", "", true),
            ("", "x", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*ab*ab", "abab", true),
            ("*ab*ab", "ab", false),
            ("*norm", "norm.norm", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
