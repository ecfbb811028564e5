//! What an interrupted build had written, so that the next one goes on where it stopped.
//!
//! A line of the journal tells up to where a file of weights is whole, and what the weights since the line before cost:
//!
//! ```text
//! b1946a… {"file":"model.pte","bytes":4196352,"sha256":"5891b5…","made":[{"weight":"embed_tokens","signal":…}, …]}
//! ```
//!
//! In front stands the SHA-256 of that of the line before, or of the key where there is none, and the object: a line that
//! is torn, and a journal of another build, are not believed, nor is what follows. The file is read again up to each line
//! before it is believed, so it need not be synced on the way. Files are journaled in the order in which they are written,
//! a small one not at all.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use diffulex_compiler::quant::Rounding;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::FileEntry;
use super::hashing::{BUFFER, Hashing, hex};

/// Bytes between two lines, at least.
const STEP: u64 = 4 << 20;
/// Largest journal that is read.
const MAX_JOURNAL: u64 = 64 << 20;

/// Knows which weights of the files in the making are written already.
#[derive(Debug)]
pub struct Journal(RefCell<State>);

#[derive(Debug)]
struct State {
    path: PathBuf,
    /// Bytes of the lines that are believed.
    length: u64,
    /// What stands in front of the last of them.
    tip: String,
    /// The lines behind them: those of files that are yet to be written.
    ahead: VecDeque<Line>,
    current: Option<Current>,
}

/// A line with what it takes to append another.
#[derive(Debug)]
struct Line {
    point: Point,
    length: u64,
    tip: String,
}

/// Up to where a file is whole.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    file: String,
    bytes: u64,
    sha256: String,
    made: VecDeque<Made>,
}

/// A weight, or a part of it that is stored in one, with the bits of its [`Rounding`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Made {
    weight: String,
    signal: u64,
    noise: u64,
    worst: u32,
    largest: u32,
}

/// The file that is being written.
#[derive(Debug)]
struct Current {
    name: String,
    out: Hashing<BufWriter<File>>,
    /// Bytes that are in the file before they are written.
    there: u64,
    /// The weights in them.
    known: VecDeque<Made>,
    /// The weights behind the last point, and its place.
    made: VecDeque<Made>,
    point: u64,
}

impl Journal {
    /// Reads what an earlier build with this key left; that of another is no journal at all, and removed.
    pub(super) fn open(path: PathBuf, key: &str) -> Journal {
        let ahead = lines(&path, key);
        if ahead.is_empty() {
            // What cannot be removed cannot be written either.
            let _ = fs::remove_file(&path);
        }
        Journal(RefCell::new(State { path, length: 0, tip: key.into(), ahead, current: None }))
    }

    /// The files that an earlier build left.
    pub(super) fn files(&self) -> BTreeSet<String> {
        self.0.borrow().ahead.iter().map(|line| line.point.file.clone()).collect()
    }

    /// Writes a file, or goes on with it; its digest is taken on the way.
    pub(super) fn write(
        &self,
        name: &str,
        path: &Path,
        content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<FileEntry> {
        let current = self.0.borrow_mut().begin(name, path)?;
        self.0.borrow_mut().current = Some(current);
        let written = content(&mut Out(self));
        let current = self.0.borrow_mut().current.take();
        written?;
        match current {
            Some(current) if current.there == 0 && current.known.is_empty() => current.out.close(),
            _ => Err(misfit()),
        }
    }

    /// What it cost to make this part of a weight, the next of the current file, if that is written already. Only the
    /// last part tells.
    pub(crate) fn known(&self, weight: &str, last: bool) -> io::Result<Option<Rounding>> {
        let mut state = self.0.borrow_mut();
        let Some(current) = &mut state.current else { return Ok(None) };
        match current.known.front() {
            None => Ok(None),
            Some(next) if next.weight != weight => Err(misfit()),
            Some(_) if !last => Ok(Some(Rounding::default())),
            Some(_) => Ok(current.known.pop_front().map(|made| made.rounding())),
        }
    }

    /// Says that the current file is whole up to and with this weight.
    pub(crate) fn finished(&self, weight: &str, rounding: &Rounding) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let Some(current) = &mut state.current else { return Ok(()) };
        current.made.push_back(Made::new(weight, rounding));
        if current.out.bytes - current.point < STEP {
            return Ok(());
        }
        current.out.flush()?;
        current.point = current.out.bytes;
        let FileEntry { bytes, sha256 } = current.out.entry();
        let point = Point { file: current.name.clone(), bytes, sha256, made: std::mem::take(&mut current.made) };
        // A journal that cannot be written costs time, if ever; the next line tells what this one would have told.
        if state.append(&point).is_err()
            && let Some(current) = &mut state.current
        {
            current.made = point.made;
        }
        Ok(())
    }
}

impl State {
    /// Takes up a file behind the last of its points that is true, or at its beginning.
    fn begin(&mut self, name: &str, path: &Path) -> io::Result<Current> {
        let mut known = VecDeque::new();
        let own = |line: &mut Line| line.point.file == name;
        let left = self.ahead.front_mut().is_some_and(own);
        let mut file = File::options().create(true).truncate(!left).read(true).write(true).open(path)?;
        let mut whole = Hashing::new(io::sink());
        while let Some(line) = self.ahead.pop_front_if(own) {
            let Line { point, length, tip } = line;
            let mut read = whole.clone();
            let more = point.bytes.saturating_sub(read.bytes);
            io::copy(&mut BufReader::with_capacity(BUFFER, (&file).take(more)), &mut read)?;
            if read.entry() != (FileEntry { bytes: point.bytes, sha256: point.sha256 }) {
                self.ahead.clear();
                break;
            }
            whole = read;
            known.extend(point.made);
            (self.length, self.tip) = (length, tip);
        }
        file.set_len(whole.bytes)?;
        file.seek(SeekFrom::Start(whole.bytes))?;
        let (there, out) = (whole.bytes, whole.onto(BufWriter::with_capacity(BUFFER, file)));
        Ok(Current { name: name.into(), out, there, known, made: VecDeque::new(), point: there })
    }

    /// Adds a line behind those that are believed.
    fn append(&mut self, point: &Point) -> io::Result<()> {
        self.ahead.clear();
        let json = serde_json::to_string(point)?;
        let tip = digest(&self.tip, &json);
        let line = format!("{tip} {json}\n");
        let mut file = File::options().create(true).truncate(false).write(true).open(&self.path)?;
        file.set_len(self.length)?;
        file.seek(SeekFrom::Start(self.length))?;
        file.write_all(line.as_bytes())?;
        (self.length, self.tip) = (self.length + line.len() as u64, tip);
        Ok(())
    }
}

impl Made {
    fn new(weight: &str, rounding: &Rounding) -> Made {
        let Rounding { signal, noise, worst, largest } = *rounding;
        Made {
            weight: weight.into(),
            signal: signal.to_bits(),
            noise: noise.to_bits(),
            worst: worst.to_bits(),
            largest: largest.to_bits(),
        }
    }

    fn rounding(&self) -> Rounding {
        Rounding {
            signal: f64::from_bits(self.signal),
            noise: f64::from_bits(self.noise),
            worst: f32::from_bits(self.worst),
            largest: f32::from_bits(self.largest),
        }
    }
}

/// Writes to the current file what is not there yet.
struct Out<'a>(&'a Journal);

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.0.borrow_mut();
        let current = state.current.as_mut().ok_or_else(misfit)?;
        let there = current.there.min(bytes.len() as u64);
        current.there -= there;
        current.out.write_all(&bytes[there as usize..])?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut state = self.0.0.borrow_mut();
        state.current.as_mut().map_or(Ok(()), |current| current.out.flush())
    }
}

/// The lines of a journal up to the first that is wrong.
fn lines(path: &Path, key: &str) -> VecDeque<Line> {
    let (mut lines, mut length, mut tip) = (VecDeque::new(), 0, key.to_string());
    // Asked before opening: opening a pipe would wait for its writer.
    let Some(file) = is_file(path).then(|| File::open(path).ok()).flatten() else { return lines };
    for text in BufReader::new(file.take(MAX_JOURNAL)).lines().map_while(Result::ok) {
        length += text.len() as u64 + 1;
        let Some((found, json)) = text.split_once(' ') else { break };
        tip = digest(&tip, json);
        let Some(point) = Some(json).filter(|_| found == tip).and_then(|json| serde_json::from_str(json).ok()) else {
            break;
        };
        lines.push_back(Line { point, length, tip: tip.clone() });
    }
    lines
}

/// What stands in front of a line.
fn digest(before: &str, json: &str) -> String {
    hex(Sha256::new().chain_update(before).chain_update(json))
}

/// Whether this is a file, and no link to one.
fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|there| there.is_file())
}

/// A true journal never leads here.
fn misfit() -> io::Error {
    let what = "what an interrupted build left does not fit this one; it is cleared away: build again";
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests;
