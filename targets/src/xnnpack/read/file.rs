//! The envelope: headers, segments, named data.

use std::collections::HashMap;
use std::ops::Range;

use planus::ReadAsRoot;

use super::error::{Fault, Place, Result};
use crate::xnnpack::schema::constants::{EXTENDED_LENGTH, EXTENDED_MAGIC, PROGRAM_IDENTIFIER};
use crate::xnnpack::schema::program::{ExecutionPlanRef, ProgramRef};

/// Bytes before the first table: root offset, identifier, extended header.
const HEAD: u64 = 8 + EXTENDED_LENGTH as u64;
/// Largest program flatbuffer; one for a hundred layers has less than a megabyte.
const MAX_PROGRAM: u64 = 64 << 20;
/// Most segments, and most named entries.
const MAX_SEGMENTS: u64 = 1 << 17;
/// Most methods.
const MAX_METHODS: u64 = 256;

/// A file whose headers and segments have been checked.
pub(super) struct File<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) program: ProgramRef<'a>,
    /// Byte ranges of the segments.
    segments: Vec<Range<usize>>,
    /// Segments by the keys that name them.
    named: HashMap<&'a str, usize>,
}

impl<'a> File<'a> {
    /// Checks headers, segments and keys.
    pub(super) fn new(bytes: &'a [u8]) -> Result<File<'a>> {
        let head = Head::new(bytes)?;
        let program = Place::Program.got(ProgramRef::read_as_root(&bytes[..head.program_size]))?;
        let version = Place::Program.got(program.version())?;
        if version != 0 {
            return Err(Place::Program.unsupported(format!("version {version}")));
        }
        let segments = segments(&program, &head)?;
        let named = named(&program, segments.len())?;
        Ok(File { bytes, program, segments, named })
    }

    /// The methods by name, in the order of the file.
    pub(super) fn methods(&self) -> Result<Vec<(&'a str, ExecutionPlanRef<'a>)>> {
        let place = Place::Program;
        let plans = place.need("execution_plan", self.program.execution_plan())?;
        place.at_most("execution_plan", plans.len() as u64, MAX_METHODS)?;
        let mut methods: Vec<(&str, _)> = Vec::new();
        for plan in plans.iter() {
            let plan = place.got(plan)?;
            let name = place.text("ExecutionPlan.name", plan.name())?;
            if methods.iter().any(|(other, _)| *other == name) {
                return Err(place.fault(Fault::Twice(format!("method {name:?}"))));
            }
            methods.push((name, plan));
        }
        Ok(methods)
    }

    /// Where a segment lies.
    pub(super) fn segment(&self, place: &Place, index: u64) -> Result<Range<usize>> {
        let index = place.at_most("segment_index", index, (self.segments.len() as u64).saturating_sub(1))?;
        self.segments.get(index).cloned().ok_or_else(|| place.clone().damaged("there are no segments"))
    }

    /// The segment that a key names.
    pub(super) fn keyed(&self, place: &Place, key: &str) -> Result<Range<usize>> {
        let index =
            self.named.get(key).ok_or_else(|| place.clone().damaged(format!("no named data has the key {key:?}")))?;
        self.segment(place, *index as u64)
    }

    /// Where entry `index` of the constant segment begins, and where that segment ends.
    pub(super) fn constant(&self, place: &Place, index: u32) -> Result<Range<usize>> {
        let constants = place.need("constant_segment", self.program.constant_segment())?;
        let segment = self.segment(place, place.got(constants.segment_index())?.into())?;
        let offsets = place.need("constant_segment.offsets", constants.offsets())?;
        place.at_most("data_buffer_idx", index.into(), (offsets.len() as u64).saturating_sub(1))?;
        let offset = offsets.get(index as usize).ok_or_else(|| place.clone().damaged("no constants"))?;
        let offset = place.at_most("constant_segment.offsets", offset, segment.len() as u64)?;
        Ok(segment.start + offset..segment.end)
    }
}

/// The numbers at the start of a file.
struct Head {
    program_size: usize,
    segment_base: usize,
    segment_data_size: usize,
}

impl Head {
    fn new(bytes: &[u8]) -> Result<Head> {
        let place = Place::File;
        let length = bytes.len() as u64;
        if length < HEAD {
            return Err(place.damaged(format!("{length} bytes are too few for the headers")));
        }
        if bytes[4..8] != PROGRAM_IDENTIFIER {
            return Err(place.damaged("the identifier is not `ET12`"));
        }
        if bytes[8..12] != EXTENDED_MAGIC || u32_at(bytes, 12) != EXTENDED_LENGTH {
            return Err(place.unsupported("a program without an extended header of 32 bytes"));
        }
        let program_size = place.at_most("program_size", u64_at(bytes, 16), length.min(MAX_PROGRAM))?;
        let root = u64::from(u32_at(bytes, 0));
        if (program_size as u64) < HEAD + 4 || root < HEAD || root > program_size as u64 - 4 {
            return Err(place.damaged(format!("the root table at {root} lies outside the program")));
        }
        let segment_base = place.at_most("segment_base", u64_at(bytes, 24), length)?;
        let segment_data_size = place.at_most("segment_data_size", u64_at(bytes, 32), length - segment_base as u64)?;
        if segment_base < program_size {
            return Err(place.mismatch(
                "segment_base",
                segment_base,
                format!("behind the program's {program_size} bytes"),
            ));
        }
        Ok(Head { program_size, segment_base, segment_data_size })
    }
}

fn segments(program: &ProgramRef<'_>, head: &Head) -> Result<Vec<Range<usize>>> {
    let listed = Place::Program.got(program.segments())?;
    let count = listed.map_or(0, |l| l.len());
    Place::Program.at_most("segments", count as u64, MAX_SEGMENTS)?;
    let mut segments = Vec::with_capacity(count);
    for (i, segment) in listed.iter().flat_map(|l| l.iter()).enumerate() {
        let place = Place::Segment(i);
        let segment = place.got(segment)?;
        let limit = head.segment_data_size as u64;
        let offset = place.at_most("offset", place.got(segment.offset())?, limit)?;
        let size = place.at_most("size", place.got(segment.size())?, limit - offset as u64)?;
        let start = head.segment_base + offset;
        segments.push(start..start + size);
    }
    // A filter that is a table too lies in the constant segment, and in a segment of its own inside of that.
    let constants = Place::Program.got(program.constant_segment())?;
    let constants = constants.map(|c| Place::Program.got(c.segment_index())).transpose()?.map(|index| index as usize);
    let whole = constants.and_then(|index| segments.get(index).cloned()).unwrap_or(0..0);
    let inside = |i: usize| Some(i) != constants && whole.start <= segments[i].start && segments[i].end <= whole.end;
    let mut sorted: Vec<usize> = (0..count).filter(|&i| !segments[i].is_empty() && !inside(i)).collect();
    sorted.sort_by_key(|&i| segments[i].start);
    if let Some(pair) = sorted.windows(2).find(|pair| segments[pair[0]].end > segments[pair[1]].start) {
        return Err(Place::Segment(pair[1]).damaged(format!("overlaps segment {}", pair[0])));
    }
    Ok(segments)
}

fn named<'a>(program: &ProgramRef<'a>, segments: usize) -> Result<HashMap<&'a str, usize>> {
    let listed = Place::Program.got(program.named_data())?;
    Place::Program.at_most("named_data", listed.map_or(0, |l| l.len()) as u64, MAX_SEGMENTS)?;
    let mut named = HashMap::new();
    for (i, entry) in listed.iter().flat_map(|l| l.iter()).enumerate() {
        let place = Place::NamedData(i);
        let entry = place.got(entry)?;
        let key = place.text("key", entry.key())?;
        let limit = (segments as u64).checked_sub(1).ok_or_else(|| place.clone().damaged("there are no segments"))?;
        let index = place.at_most("segment_index", place.got(entry.segment_index())?.into(), limit)?;
        if named.insert(key, index).is_some() {
            return Err(place.fault(Fault::Twice(format!("the key {key:?}"))));
        }
    }
    Ok(named)
}

/// Little-endian; `at` is within the headers, whose presence was checked.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// As [`u32_at`].
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}
