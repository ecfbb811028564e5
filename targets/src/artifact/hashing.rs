//! Digests that are taken on the way.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use sha2::{Digest, Sha256};

use super::FileEntry;

/// Bytes that are collected before they are written.
pub(super) const BUFFER: usize = 1 << 20;

/// Passes bytes on and takes their digest.
#[derive(Clone, Debug)]
pub(super) struct Hashing<W> {
    /// Where the bytes go.
    pub(super) inner: W,
    hash: Sha256,
    /// How many have passed.
    pub(super) bytes: u64,
}

impl<W> Hashing<W> {
    /// Nothing has passed yet.
    pub(super) fn new(inner: W) -> Hashing<W> {
        Hashing { inner, hash: Sha256::new(), bytes: 0 }
    }

    /// The same, what follows goes elsewhere.
    pub(super) fn onto<V>(self, inner: V) -> Hashing<V> {
        Hashing { inner, hash: self.hash, bytes: self.bytes }
    }

    /// Size and digest of what has passed.
    pub(super) fn entry(&self) -> FileEntry {
        FileEntry { bytes: self.bytes, sha256: hex(self.hash.clone()) }
    }
}

impl Hashing<BufWriter<File>> {
    /// Brings all of a file to the disk.
    pub(super) fn close(mut self) -> io::Result<FileEntry> {
        self.flush()?;
        self.inner.get_ref().sync_all()?;
        Ok(self.entry())
    }
}

/// A digest in hexadecimal.
pub(super) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
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
