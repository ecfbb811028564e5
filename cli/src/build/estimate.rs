//! What a build will take, told before it begins: bytes on the disk, bytes of memory.

use std::path::Path;

use indicatif::HumanBytes;

use super::forecast::{Forecast, Network, forecast};
use super::job::{self, Job};
use crate::Error;

/// Bytes of any build, beside what its weights pass through.
const BASE: u64 = 32 << 20;
/// Bytes that weights on their way take for each thread: two batches of chunks, each in floats, rounded, and encoded.
const STREAM: u64 = 16 << 20;
/// Bytes of the small files of an artifact's folder, about.
const SMALL: u64 = 1 << 20;

/// What a build takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Bytes of the artifact's folder.
    pub disk: u64,
    /// Most bytes of memory, pages of mapped files left out: those the system takes back when it needs them.
    pub memory: u64,
}

impl Estimate {
    /// That of a job; with `contexts` also for the context binaries of its chips. A job that its target refuses takes
    /// nothing: it says so when it is built.
    ///
    /// # Errors
    /// When a pass makes a wrong module, which is ours to mend.
    pub fn of(job: &Job, contexts: bool) -> Result<Estimate, Error> {
        let network = Network::of_checkpoint(&job.checkpoint)?;
        let Forecast::Made { artifact, memory } = forecast(&job.build, &network)? else {
            return Ok(Estimate::default());
        };
        let texts: u64 =
            super::plan::texts(&job.checkpoint).iter().filter_map(|file| file.metadata().ok()).map(|m| m.len()).sum();
        // The binaries of a chip hold all weights once more, about.
        let chips = if contexts { job::chips(&job.build).len() as u64 } else { 0 };
        let disk = artifact.saturating_mul(1 + chips).saturating_add(texts + SMALL);
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        // A matrix that is turned is held whole; of nibbles that are joined afterwards each has a byte until then.
        let held = match (job::turns(&job.build), job.build.quant.weights.value) {
            (false, _) => 0,
            (true, encoding) if encoding.is_int4() => network.largest() * 3 / 2,
            (true, encoding) => network.largest() * encoding.row_bytes(1) as u64,
        };
        // Calibration, and the check for a Mac, run the model.
        let runs = if job::runs(&job.build) { memory } else { 0 };
        Ok(Estimate { disk, memory: BASE + (STREAM * threads.min(16)).saturating_add(held).saturating_add(runs) })
    }
}

/// Refuses what cannot fit: a build that needs more than `memory` bytes.
///
/// # Errors
/// Names the first such build, with both numbers.
pub fn fits(name: &str, estimate: Estimate, memory: u64) -> Result<(), Error> {
    if estimate.memory <= memory {
        return Ok(());
    }
    let (needed, there) = (HumanBytes(estimate.memory), HumanBytes(memory));
    Err(Error::Usage(format!(
        "{name} needs about {needed} of memory and may take {there}: `--memory SIZE` sets another limit, a smaller \
         `shape.prefill` and `shape.cache` need less"
    )))
}

/// Refuses builds whose artifacts do not fit the disk of `folder`. Of each build the bytes to be written are given, and
/// those of the artifact that is replaced, which are free once the new one is in its place; `jobs` run at once.
///
/// # Errors
/// Says how much is needed and how much there is.
pub fn fits_disk(folder: &Path, builds: &[(u64, u64)], jobs: usize) -> Result<(), Error> {
    let needed = peak(builds, jobs);
    // The folder is made by the first build: until then its nearest parent tells.
    let there =
        folder.ancestors().map(|f| if f.as_os_str().is_empty() { Path::new(".") } else { f }).find(|f| f.is_dir());
    let Some(stat) = there.and_then(|folder| rustix::fs::statvfs(folder).ok()) else { return Ok(()) };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if needed <= free {
        return Ok(());
    }
    let (folder, needed, free) = (folder.display(), HumanBytes(needed), HumanBytes(free));
    Err(Error::Usage(format!(
        "{folder}: the artifacts need {needed} and {free} are free: free some space, build fewer at once with `--only` or \
         `-j 1`, or write elsewhere with `--out`"
    )))
}

/// The most bytes that are taken on the way, beyond those that are taken now.
fn peak(builds: &[(u64, u64)], jobs: usize) -> u64 {
    let (mut taken, mut most) = (0i128, 0);
    for (i, (new, _)) in builds.iter().enumerate() {
        taken += i128::from(*new);
        most = most.max(taken);
        // By the time another begins, that many builds before it have taken their places.
        if let Some((_, old)) = (i + 1).checked_sub(jobs.max(1)).and_then(|done| builds.get(done)) {
            taken -= i128::from(*old);
        }
    }
    u64::try_from(most).unwrap_or(0)
}

/// Bytes of memory that programs may still take here: what the system has left, and what a control group leaves of it.
pub fn free_memory() -> u64 {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let number = |text: String| text.trim().parse::<u64>().ok();
    let meminfo = read("/proc/meminfo");
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let system = line.and_then(|rest| rest.trim().strip_suffix(" kB")).and_then(|n| n.trim().parse::<u64>().ok());
    let group = "/sys/fs/cgroup";
    let limit = number(read(&format!("{group}/memory.max")));
    let used = number(read(&format!("{group}/memory.current"))).unwrap_or(0);
    let group = limit.map(|limit| limit.saturating_sub(used));
    let system = system.map_or(u64::MAX, |kilobytes| kilobytes.saturating_mul(1024));
    system.min(group.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_replaced_is_free_afterwards() {
        for (builds, jobs, most) in [
            (&[][..], 1, 0),
            (&[(10, 0), (20, 0)], 1, 30),
            (&[(10, 10), (10, 10), (10, 10)], 1, 10),
            (&[(10, 10), (10, 10), (10, 10)], 2, 20),
            (&[(5, 100), (50, 0)], 1, 5),
            (&[(5, 100), (50, 0)], 2, 55),
        ] {
            assert_eq!(peak(builds, jobs), most, "{builds:?}, {jobs} at once");
        }
    }

    #[test]
    fn refusals_have_numbers() {
        let estimate = Estimate { disk: 0, memory: 3 << 30 };
        let error = fits("x", estimate, 1 << 30).unwrap_err().to_string();
        assert!(error.contains("3.00 GiB") && error.contains("1.00 GiB") && error.contains("--memory"), "{error}");
        fits("x", estimate, 3 << 30).unwrap();
        let folder = Path::new("/nowhere/at/all");
        let error = fits_disk(folder, &[(u64::MAX / 2, 0)], 1).unwrap_err().to_string();
        assert!(error.contains("are free"), "{error}");
        fits_disk(folder, &[(1, 0)], 1).unwrap();
    }
}
