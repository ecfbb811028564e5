//! Writes a legal module as a `.pte` file.
//!
//! ```text
//! program flatbuffer   methods, metadata, where the segments lie     program.rs
//! segment 0            the constant segment: tables of embeddings    weights.rs, which others read that are the same
//! segment 1            the delegate: header and graph                delegate.rs, node.rs
//! segment 2 …          one weight each, or its scales, found by its name
//! ```
//!
//! Both flatbuffers are made in memory; they hold no numbers. Weights are evaluated some rows at a time and written
//! straight on, so memory does not depend on the size of the model. The bytes depend on the arguments only.

mod constant;
mod delegate;
mod layout;
mod methods;
mod node;
mod plan;
mod program;
mod weights;

use std::io::{self, Write};

use diffulex_compiler::generation::Generation;
use diffulex_compiler::ir::{Module, Stage, WeightError, WeightSource};
use diffulex_compiler::quant::Cost;

use super::legal;
use layout::Layout;

/// Facts beside the graph that travel in the file, as methods that return constants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// How to generate text with the model.
    pub generation: Option<Generation>,
    /// Digest of the recipe's effective values.
    pub recipe_digest: String,
}

/// How a file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Segments start at multiples of this many bytes, a power of two of at least 16. Pages (4096, 16384) help hosts that
    /// give mapped memory back.
    pub alignment: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options { alignment: 128 }
    }
}

/// Why a file cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum EmitError {
    /// The module is not one that `legalize` made.
    #[error("{place}: {what}")]
    Illegal {
        /// The node or weight.
        place: String,
        /// What is wrong with it.
        what: String,
    },
    /// The alignment is not a power of two of at least 16.
    #[error("segments cannot be aligned to {0} bytes; a power of two from 16 to 2^20 can")]
    Alignment(u32),
    /// A part of the file exceeds what its offsets can reach.
    #[error("{part} would have {bytes} bytes; the format allows {limit}")]
    TooLarge {
        /// The part of the file.
        part: &'static str,
        /// Its size.
        bytes: u64,
        /// The largest size.
        limit: u64,
    },
    /// The numbers of a weight cannot be had or stored.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// Writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes `module` to `out`; gives what each weight of the model became, in the order of the file. `progress` is told, now and then, how many bytes of how many are written.
///
/// # Errors
/// When `module` is not legal, a weight cannot be evaluated, a limit of the format is exceeded, or writing fails.
pub fn emit(
    module: &Module,
    source: &dyn WeightSource,
    metadata: &Metadata,
    options: &Options,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Cost>, EmitError> {
    let Front { graph, layout, program } = Front::new(module, metadata, options)?;
    let parts = weights::Parts { module, source, program: &program, graph: &graph, layout: &layout };
    weights::write(&parts, out, progress)
}

/// Bytes of the file that [`emit()`] would write; no numbers are needed to know.
///
/// # Errors
/// When `module` is not legal, or a limit of the format is exceeded.
pub fn size(module: &Module, metadata: &Metadata, options: &Options) -> Result<u64, EmitError> {
    let Front { layout, program, .. } = Front::new(module, metadata, options)?;
    Ok(layout.file_bytes(program.len()))
}

/// All of a file but the weights.
struct Front {
    graph: delegate::Delegate,
    layout: Layout,
    program: Vec<u8>,
}

impl Front {
    fn new(module: &Module, metadata: &Metadata, options: &Options) -> Result<Front, EmitError> {
        check(module, options)?;
        let step = plan::Step::of(module)?;
        let graph = delegate::build(module, &step)?;
        let layout = Layout::new(module, &step, &graph, options.alignment)?;
        let program = program::build(module, &step, &layout, &graph.constants, metadata)?;
        Ok(Front { graph, layout, program })
    }
}

fn check(module: &Module, options: &Options) -> Result<(), EmitError> {
    if module.stage != Stage::Legal(super::NAME.into()) {
        let place = format!("module {:?}", module.name);
        let what = format!("is at stage `{}`, not `legal {}`", module.stage.name(), super::NAME);
        return Err(EmitError::Illegal { place, what });
    }
    legal::check(module).map_err(|r| EmitError::Illegal { place: "module".into(), what: r.to_string() })?;
    if !options.alignment.is_power_of_two() || !(16..=1 << 20).contains(&options.alignment) {
        return Err(EmitError::Alignment(options.alignment));
    }
    Ok(())
}
