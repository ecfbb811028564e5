//! Why a target cannot express a module.

use diffulex_compiler::ir::{DType, Encoding};

/// Something in a module that a target lacks. `place` is a node (`layers.3 %attn.in`) or a weight (`@lm_head`).
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The target has no such op.
    #[error("{place}: this target has no `{op}`")]
    Op {
        /// The node.
        place: String,
        /// Name of the op.
        op: &'static str,
        /// What does the same job.
        nearest: Option<&'static str>,
    },
    /// The target cannot use a weight of this encoding in this way.
    #[error("{place}: this target cannot use {encoding} for a {role}")]
    Encoding {
        /// The weight.
        place: String,
        /// Its encoding.
        encoding: Encoding,
        /// How it is used: `filter`, `table`, `vector`.
        role: &'static str,
        /// Encodings that would work.
        nearest: &'static [Encoding],
    },
    /// Rows of a weight cannot be cut into the groups of its encoding.
    #[error("{place}: rows of {columns} numbers cannot be cut into groups of {group}")]
    Group {
        /// The weight.
        place: String,
        /// How it is used.
        role: &'static str,
        /// Numbers in a row.
        columns: usize,
        /// Numbers in a group.
        group: usize,
    },
    /// The kernels of the target read two numbers at a time.
    #[error("{place}: rows of {columns} numbers, an odd number, cannot be {encoding} for a {role}")]
    Odd {
        /// The weight.
        place: String,
        /// Numbers in a row.
        columns: usize,
        /// Its encoding.
        encoding: Encoding,
        /// How it is used.
        role: &'static str,
    },
    /// The target cannot round tokens to int8 with scales that are found while it runs.
    #[error("{place}: this target does not round tokens to int8 while it runs")]
    Tokens {
        /// The node that rounds.
        place: String,
    },
    /// The target cannot compute in this type.
    #[error("{place}: this target does not compute in {dtype}")]
    DType {
        /// The node.
        place: String,
        /// The type asked for.
        dtype: DType,
        /// The type that works.
        nearest: DType,
    },
    /// The oldest system that is to run the artifact lacks something.
    #[error("{place}: {what} needs {needs}, and {deployment} is asked for")]
    Deployment {
        /// The node or weight.
        place: String,
        /// What is missing there.
        what: &'static str,
        /// The first system that has it.
        needs: &'static str,
        /// The system asked for.
        deployment: &'static str,
    },
    /// A shape is beyond the target's limits.
    #[error("{place}: {what}")]
    Shape {
        /// The node or weight.
        place: String,
        /// The limit that is exceeded.
        what: String,
    },
    /// Steps of these shapes do not exist, or not with what else is asked for.
    #[error("{place}: {what}")]
    Shapes {
        /// What was asked for.
        place: String,
        /// What does not work.
        what: String,
        /// What does.
        nearest: String,
    },
    /// The module is not the step graph that every target shares.
    #[error("{place}: {what}")]
    Step {
        /// The node.
        place: String,
        /// What differs.
        what: String,
    },
}

impl Refusal {
    /// The node or weight that is refused.
    pub fn place(&self) -> &str {
        match self {
            Refusal::Op { place, .. }
            | Refusal::Encoding { place, .. }
            | Refusal::Group { place, .. }
            | Refusal::Odd { place, .. }
            | Refusal::Tokens { place }
            | Refusal::DType { place, .. }
            | Refusal::Deployment { place, .. }
            | Refusal::Shape { place, .. }
            | Refusal::Shapes { place, .. }
            | Refusal::Step { place, .. } => place,
        }
    }

    /// The nearest thing that works, if there is one.
    pub fn nearest(&self) -> Option<String> {
        match self {
            Refusal::Op { nearest, .. } => nearest.map(str::to_string),
            Refusal::Encoding { nearest, .. } => {
                let names: Vec<&str> = nearest.iter().map(|e| e.name()).collect();
                (!names.is_empty()).then(|| names.join(" or "))
            }
            Refusal::DType { nearest, .. } => Some(nearest.name().to_string()),
            Refusal::Deployment { needs, .. } => Some((*needs).to_string()),
            Refusal::Shapes { nearest, .. } => Some(nearest.clone()),
            Refusal::Odd { .. } => Some(Encoding::Int8Row.name().to_string()),
            Refusal::Tokens { .. } => Some("tokens in floats".into()),
            Refusal::Group { .. } | Refusal::Shape { .. } | Refusal::Step { .. } => None,
        }
    }
}
