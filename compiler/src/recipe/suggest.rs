//! The near miss: what the user probably meant to type.

/// Longer words are not compared: nobody mistypes them, and comparing costs their square.
const LONGEST: usize = 64;

/// The candidate closest to `word`, if one is no more edits away than a third of the longer one's length.
pub fn near_miss<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = folded(word)?;
    let edits = |candidate: &str| {
        let candidate = folded(candidate)?;
        distance(&word, &candidate, (word.len().max(candidate.len()) / 3).max(1))
    };
    let near = candidates.into_iter().filter_map(|candidate| Some((edits(candidate)?, candidate)));
    near.min_by_key(|&(edits, _)| edits).map(|(_, candidate)| candidate)
}

/// Case and the choice between `-` and `_` do not count.
fn folded(word: &str) -> Option<Vec<char>> {
    let fold = |c: char| if c == '_' { '-' } else { c.to_ascii_lowercase() };
    (word.len() <= LONGEST).then(|| word.chars().map(fold).collect())
}

/// Insertions, deletions, replacements and swaps of neighbours from `a` to `b`; `None` above `limit`.
fn distance(a: &[char], b: &[char], limit: usize) -> Option<usize> {
    if a.len().abs_diff(b.len()) > limit {
        return None;
    }
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    Some(last[b.len()]).filter(|&edits| edits <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        for (typed, candidates, meant) in [
            ("weigths", &["keep", "weights"][..], Some("weights")),
            ("top-k", &["top_k", "top_p"], Some("top_k")),
            ("BF16", &["f16", "bf16"], Some("bf16")),
            ("chache", &["cache", "matrix"], Some("cache")),
            ("f16x", &["f32", "f16"], Some("f16")),
            ("shift", &["aligned", "shifted"], Some("shifted")),
            ("colour", &["cache", "block"], None),
            ("", &["x"], Some("x")),
            ("x", &[], None),
        ] {
            assert_eq!(near_miss(typed, candidates.iter().copied()), meant, "{typed}");
        }
    }

    #[test]
    fn a_swap_of_neighbours_is_one_edit() {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        assert_eq!(distance(&chars("ab"), &chars("ba"), 9), Some(1));
        assert_eq!(distance(&chars("kitten"), &chars("sitting"), 9), Some(3));
        assert_eq!(distance(&chars("kitten"), &chars("sitting"), 2), None);
    }

    #[test]
    fn long_words_are_left_alone() {
        assert_eq!(near_miss(&"a".repeat(65), ["aaa"]), None);
    }
}
