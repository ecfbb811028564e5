//! Which layers go into which part.

use std::collections::HashSet;
use std::ops::Range;

use diffulex_compiler::ir::{Module, Operand};

/// So many ranges of layers, with about as many bytes of weights in each.
pub(super) fn ranges(module: &Module, parts: usize) -> Vec<Range<u32>> {
    cut(&bytes(module), parts).into_iter().map(|range| range.start as u32..range.end as u32).collect()
}

/// Bytes of the stored weights of each layer. What lies outside goes with the layer before it, or with the first. What
/// formulas make is small, and in every part.
fn bytes(module: &Module) -> Vec<u64> {
    let mut bytes = vec![0u64; module.cache.layers as usize];
    let (mut seen, mut layer) = (HashSet::new(), 0);
    for node in &module.nodes {
        layer = node.layer.unwrap_or(layer);
        for arg in &node.args {
            let Operand::Weight(id) = *arg else { continue };
            let weight = module.weight(id);
            if let Some(sum) = bytes.get_mut(layer as usize)
                && !weight.expr.stored().is_empty()
                && seen.insert((layer, id))
            {
                *sum = sum.saturating_add(weight.ty.bytes());
            }
        }
    }
    bytes
}

/// Cuts a list into `parts` ranges, none of them empty, so that the sum of the squares of their sums is least. Of equals
/// the one whose last range is longest, and so on before it.
fn cut(bytes: &[u64], parts: usize) -> Vec<Range<usize>> {
    let count = bytes.len();
    let mut before = vec![0u64; count + 1];
    for (i, n) in bytes.iter().enumerate() {
        before[i + 1] = before[i].saturating_add(*n);
    }
    let square = |from: usize, to: usize| u128::from(before[to] - before[from]).pow(2);
    // The least sum for the first `end` layers in so many ranges, and where the last of these begins.
    let mut least: Vec<Option<u128>> = (0..=count).map(|end| (end == 0).then_some(0)).collect();
    let mut starts = Vec::new();
    for _ in 0..parts {
        let best = |end: usize| {
            let sums = (0..end).filter_map(|start| Some((least[start]?.saturating_add(square(start, end)), start)));
            sums.min()
        };
        let row: Vec<Option<(u128, usize)>> = (0..=count).map(best).collect();
        least = row.iter().map(|best| best.map(|(sum, _)| sum)).collect();
        starts.push(row);
    }
    let (mut ranges, mut end) = (Vec::new(), count);
    for row in starts.iter().rev() {
        let start = row[end].map_or(0, |(_, start)| start);
        ranges.push(start..end);
        end = start;
    }
    ranges.reverse();
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All ways to cut a list, tried one by one.
    fn least(bytes: &[u64], parts: usize) -> u128 {
        if parts == 1 {
            return u128::from(bytes.iter().sum::<u64>()).pow(2);
        }
        let rest = |first: usize| least(&bytes[first..], parts - 1);
        let cut = |first| u128::from(bytes[..first].iter().sum::<u64>()).pow(2) + rest(first);
        (1..=bytes.len() + 1 - parts).map(cut).min().unwrap_or(0)
    }

    #[test]
    fn parts_are_as_even_as_can_be() {
        let lists: [&[u64]; 5] =
            [&[5], &[1, 1, 1, 1, 1], &[900, 10, 10, 10, 10, 900], &[3, 1, 4, 1, 5, 9, 2, 6], &[0, 0]];
        for bytes in lists {
            for parts in 1..=bytes.len() {
                let ranges = cut(bytes, parts);
                assert_eq!(ranges.len(), parts);
                assert!(ranges.iter().all(|range| !range.is_empty()), "{ranges:?}");
                let joined: Vec<usize> = ranges.iter().cloned().flatten().collect();
                assert!(joined.into_iter().eq(0..bytes.len()), "{ranges:?}");
                let sum: u128 = ranges.iter().map(|r| u128::from(bytes[r.clone()].iter().sum::<u64>()).pow(2)).sum();
                assert_eq!(sum, least(bytes, parts), "{bytes:?} in {parts}");
            }
        }
        assert_eq!(cut(&[900, 10, 10, 10, 10, 900], 3), [0..1, 1..5, 5..6]);
    }
}
