//! `quantize`: every weight gets the encoding that the recipe asks for. The graph does not change.

use super::{Note, Proposal, Scheme};
use crate::ir::build::BuildError;
use crate::ir::{Encoding, Module, Weight};

pub(super) fn run(module: &Module, scheme: &Scheme) -> Result<Proposal, BuildError> {
    let mut notes = Vec::new();
    let mut new = module.clone();
    for weight in &mut new.weights {
        let encoding = scheme.encoding(weight);
        if encoding != weight.ty.encoding {
            notes.push(Note::done(format!("@{}", weight.name), format!("{} → {encoding}", weight.ty.encoding)));
            weight.ty.encoding = encoding;
        }
    }
    Ok(Proposal { module: Some(new), notes })
}

impl Scheme {
    /// The encoding of one weight: f32 for vectors, the first matching pattern's or the scheme's for matrices.
    pub fn encoding(&self, weight: &Weight) -> Encoding {
        if weight.ty.shape.len() < 2 {
            return Encoding::F32;
        }
        let kept = self.keep.iter().find(|(pattern, _)| matches(pattern, &weight.name));
        kept.map_or(self.weights, |(_, encoding)| *encoding)
    }
}

/// Whether `pattern`, in which `*` stands for any text, covers `name`.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or("");
    for part in parts {
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
    }
    name.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("lm_head", "lm_head", true),
            ("lm_head", "lm_head2", false),
            ("*", "anything", true),
            ("layers.*.o_proj", "layers.3.self_attn.o_proj", true),
            ("layers.*.o_proj", "layers.3.self_attn.o_proj.bias", false),
            ("*mlp*up*", "layers.1.mlp.gate_up_proj", true),
            ("*mlp*down*up", "layers.1.mlp.up_proj", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
