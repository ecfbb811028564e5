//! Tensor names: the IR's and Hugging Face's.

use crate::models::Decoder;

/// A tensor that a model must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Name in the IR: `layers.0.self_attn.q_proj`.
    pub name: String,
    /// Name in the files: `model.layers.0.self_attn.q_proj.weight`.
    pub stored: String,
    /// Its shape.
    pub shape: Vec<u32>,
}

/// The tensors of a model, in the order in which the graph uses them; `stored_name` is its family's.
pub fn expected(decoder: &Decoder, stored_name: fn(&str) -> String) -> Vec<Expected> {
    decoder.weights().into_iter().map(|(name, shape)| Expected { stored: stored_name(&name), name, shape }).collect()
}
