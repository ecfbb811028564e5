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

use std::io::Write;

use diffulex_compiler::ir::{Module, Stage, WeightSource};
use diffulex_compiler::quant::Cost;

use super::legal;
pub use crate::emit::{EmitError, Metadata};
use crate::stream::Work;
use layout::Layout;

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

/// A file without the numbers of its weights, ready to be written.
pub struct Program<'a> {
    module: &'a Module,
    graph: delegate::Delegate,
    layout: Layout,
    program: Vec<u8>,
}

impl<'a> Program<'a> {
    /// Plans the file of a legal module.
    ///
    /// # Errors
    /// When `module` is not legal, or a limit of the format is exceeded.
    pub fn new(module: &'a Module, metadata: &Metadata, options: &Options) -> Result<Program<'a>, EmitError> {
        check(module, options)?;
        let step = plan::Step::of(module)?;
        let graph = delegate::build(module, &step)?;
        let layout = Layout::new(module, &step, &graph, options.alignment)?;
        let program = program::build(module, &step, &layout, &graph.constants, metadata)?;
        Ok(Program { module, graph, layout, program })
    }

    /// Size of the file.
    pub fn bytes(&self) -> u64 {
        self.layout.file_bytes(self.program.len())
    }

    /// Writes the file; gives what each weight of the model became, in the order of the file. `progress` is told, now
    /// and then, how many bytes of how many are written.
    ///
    /// # Errors
    /// When a weight cannot be evaluated, or writing fails.
    pub fn write(
        &self,
        work: Work<'_>,
        out: &mut dyn Write,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<Cost>, EmitError> {
        let Program { module, graph, layout, program } = self;
        let parts = weights::Parts { module, work, program, graph, layout };
        weights::write(&parts, out, progress)
    }
}

/// Writes `module` to `out`: [`Program::new`] and [`Program::write`] in one.
///
/// # Errors
/// As theirs.
pub fn emit(
    module: &Module,
    source: &dyn WeightSource,
    metadata: &Metadata,
    options: &Options,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Cost>, EmitError> {
    Program::new(module, metadata, options)?.write(Work::new(source), out, progress)
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
