//! Which proposals a pass accepts: the rules that the families share.

use super::Proposal;

/// The `n` most confident proposals, by index, at most all of them; the lowest position first among equals.
pub(super) fn best(proposals: &[Proposal], n: usize) -> Vec<usize> {
    let mut ranked: Vec<usize> = (0..proposals.len()).collect();
    // A stable sort keeps the order of positions.
    ranked.sort_by(|&a, &b| proposals[b].confidence.total_cmp(&proposals[a].confidence));
    ranked.truncate(n);
    ranked
}

/// How many proposals are sure enough, but at least `least`.
pub(super) fn sure(proposals: &[Proposal], least: usize, is_sure: impl Fn(f64) -> bool) -> usize {
    least.max(proposals.iter().filter(|p| is_sure(p.probability)).count())
}

/// A step's share of `whole`: the whole divided by the steps, one more in the first steps of an uneven division.
pub(super) fn share(whole: usize, steps: usize, step: usize) -> usize {
    whole / steps + usize::from(step < whole % steps)
}

/// The positions of `range` that hold the mask.
pub(super) fn masks(sequence: &[u32], mask: u32, range: std::ops::Range<usize>) -> Vec<usize> {
    range.filter(|&position| sequence[position] == mask).collect()
}
