//! Digests that are taken on the way.

use std::io::{self, Write};

use sha2::{Digest, Sha256};

use super::FileEntry;

/// Passes bytes on and takes their digest.
pub(super) struct Hashing<W> {
    /// Where the bytes go.
    pub(super) inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W> Hashing<W> {
    /// Nothing has passed yet.
    pub(super) fn new(inner: W) -> Hashing<W> {
        Hashing { inner, hash: Sha256::new(), bytes: 0 }
    }

    /// Size and digest of what has passed.
    pub(super) fn entry(self) -> FileEntry {
        let sha256 = self.hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        FileEntry { bytes: self.bytes, sha256 }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
