//! The intermediate representation: graph, types, weight expressions; its printed form and back; its rules and its
//! meaning.
//!
//! Reading order: [`types`], [`op`], [`weights`], [`graph`], [`infer`] (typing rules), [`build`] (making modules),
//! [`print`](mod@print), [`parse`](mod@parse), [`verify`](mod@verify), [`interpret`](mod@interpret).

pub mod build;
pub mod graph;
pub mod infer;
pub mod interpret;
pub mod op;
pub mod parse;
pub mod print;
pub mod types;
pub mod verify;
pub mod weights;

pub use build::Builder;
pub use graph::{CacheId, CacheKind, CacheShape, Module, Node, NodeId, Operand, Stage, Weight, WeightId};
pub use interpret::interpret;
pub use op::Op;
pub use parse::{ParseError, parse};
pub use print::print;
pub use types::{DType, Dim, Encoding, Sizes, ValueType, WeightType};
pub use verify::{verify, well_named};
pub use weights::{StoredTensor, WeightError, WeightExpr, WeightSource};
