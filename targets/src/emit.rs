//! What all writers share: facts that travel beside the graph, errors, counted writing.

use std::io::{self, Write};

use diffulex_compiler::generation::Generation;
use diffulex_compiler::ir::WeightError;

/// Facts beside the graph that travel in an artifact.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// How to generate text with the model.
    pub generation: Option<Generation>,
    /// Digest of the recipe's effective values.
    pub recipe_digest: String,
}

/// Why an artifact cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum EmitError {
    /// The module is not one that the target made legal.
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
    /// A part of a file exceeds what its offsets can reach.
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

/// Writes the content of a file.
pub type Content<'a> = &'a mut dyn FnMut(&mut dyn Write) -> io::Result<()>;

/// Has a file made with what `write` writes, and gives what it gives. Whatever stops it keeps the file from being
/// finished.
pub(crate) fn make_file<T: Default, E: From<EmitError>>(
    make: &mut dyn FnMut(&str, Content<'_>) -> Result<(), E>,
    name: &str,
    write: &mut dyn FnMut(&mut dyn Write) -> Result<T, EmitError>,
) -> Result<T, E> {
    let (mut made, mut failed) = (T::default(), None);
    let done = make(name, &mut |out| match write(out) {
        Ok(written) => {
            made = written;
            Ok(())
        }
        Err(EmitError::Io(error)) => Err(error),
        // Who makes files knows errors of the system only.
        Err(error) => {
            failed = Some(error);
            Err(io::ErrorKind::Other.into())
        }
    });
    match failed {
        Some(error) => Err(error.into()),
        None => done.map(|()| made),
    }
}

/// Counts what is written and tells.
pub(crate) struct Counted<'a> {
    out: &'a mut dyn Write,
    /// Bytes so far.
    pub(crate) written: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<'a> Counted<'a> {
    /// Nothing of `total` bytes is written yet.
    pub(crate) fn new(out: &'a mut dyn Write, total: u64, progress: &'a mut dyn FnMut(u64, u64)) -> Counted<'a> {
        Counted { out, written: 0, total, progress }
    }

    /// Writes some bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        (self.progress)(self.written, self.total);
        Ok(())
    }

    /// Writes zeros up to an offset of the file.
    pub(crate) fn pad_to(&mut self, offset: u64) -> io::Result<()> {
        let mut left = offset.saturating_sub(self.written);
        while left > 0 {
            let part = left.min(4096);
            self.write(&[0; 4096][..part as usize])?;
            left -= part;
        }
        Ok(())
    }

    /// Hands on what is kept back.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
