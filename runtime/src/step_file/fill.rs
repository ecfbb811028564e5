//! From the host's buffers to those of a file and back: padding, transposition, rounding.
//!
//! A file has room for S tokens and P cached positions; a step has T and C of them. The rest is padding:
//!
//! ```text
//!               past 0..C   C..P     new 0..T   T..S
//! mask  0..T  [ as given  | hidden | as given | hidden ]
//!       T..S  [ hidden    | hidden | hidden   | itself ]    a row that sees nothing would become NaN
//! ```

use super::tensor::{CacheGrid, Stored};
use crate::engine::HIDDEN;

/// Sizes of a step and of the file that runs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Tokens of the step (T).
    pub(crate) tokens: usize,
    /// Tokens of the file (S).
    pub(crate) file_tokens: usize,
    /// Cached positions of the step (C).
    pub(crate) cached: usize,
    /// Cached positions of the file (P).
    pub(crate) file_cached: usize,
}

/// The mask of a step, `[T, C+T]`, in that of a file, `[S, P+S]`. Nothing is lower than `lowest`.
pub(crate) fn mask<E: Stored>(out: &mut Vec<E>, mask: &[f32], room: Room, lowest: f32) {
    let Room { tokens, file_tokens, cached, file_cached } = room;
    let store = |x: f32| E::store(x.max(lowest), CacheGrid::NONE);
    out.clear();
    out.resize(file_tokens * (file_cached + file_tokens), store(HIDDEN));
    for (i, row) in out.chunks_exact_mut(file_cached + file_tokens).enumerate() {
        let (past, new) = row.split_at_mut(file_cached);
        if i < tokens {
            let given = &mask[i * (cached + tokens)..][..cached + tokens];
            past.iter_mut().zip(&given[..cached]).for_each(|(to, &x)| *to = store(x));
            new.iter_mut().zip(&given[cached..]).for_each(|(to, &x)| *to = store(x));
        } else {
            new[i] = store(0.0);
        }
    }
}

/// Cached values, `[KV, C, D]`, in those of a file, `[KV, P, D]`; what is behind them becomes 0.
pub(crate) fn values<E: Stored>(out: &mut Vec<E>, rows: &[f32], room: Room, width: usize, grid: CacheGrid) {
    let Room { cached, file_cached, .. } = room;
    let heads = rows.len() / (cached * width);
    out.clear();
    out.reserve(heads * file_cached * width);
    for head in rows.chunks_exact(cached * width) {
        out.extend(head.iter().map(|&x| E::store(x, grid)));
        out.resize(out.len() + (file_cached - cached) * width, E::store(0.0, grid));
    }
}

/// Cached keys, `[KV, C, D]`, in those of a file, `[KV, D, P]`; what is behind them becomes 0.
pub(crate) fn keys<E: Stored>(out: &mut Vec<E>, rows: &[f32], room: Room, width: usize, grid: CacheGrid) {
    let Room { cached, file_cached, .. } = room;
    let heads = rows.len() / (cached * width);
    out.clear();
    out.resize(heads * width * file_cached, E::store(0.0, grid));
    for (head, out) in rows.chunks_exact(cached * width).zip(out.chunks_exact_mut(width * file_cached)) {
        // Some positions at a time, so that what is read with a stride is still at hand for the next dimension.
        for start in (0..cached).step_by(BLOCK) {
            let end = cached.min(start + BLOCK);
            for (j, out) in out.chunks_exact_mut(file_cached).enumerate() {
                for (p, to) in (start..end).zip(&mut out[start..end]) {
                    *to = E::store(head[p * width + j], grid);
                }
            }
        }
    }
}

/// Positions that are transposed together.
const BLOCK: usize = 32;

/// New values of a file, `[KV, S, D]`, as the host wants them, `[KV, T, D]`.
pub(crate) fn new_values<E: Stored>(out: &mut Vec<f32>, file: &[E], room: Room, width: usize, grid: CacheGrid) {
    out.clear();
    for head in file.chunks_exact(room.file_tokens * width) {
        out.extend(head[..room.tokens * width].iter().map(|q| q.load(grid)));
    }
}

/// New keys of a file, `[KV, D, S]`, as the host wants them, `[KV, T, D]`.
pub(crate) fn new_keys<E: Stored>(out: &mut Vec<f32>, file: &[E], room: Room, width: usize, grid: CacheGrid) {
    out.clear();
    for head in file.chunks_exact(width * room.file_tokens) {
        for p in 0..room.tokens {
            out.extend(head[p..].iter().step_by(room.file_tokens).map(|q| q.load(grid)));
        }
    }
}

/// Logits of the asked rows out of those of all rows, `[S, V]`.
pub(crate) fn logits<E: Stored>(out: &mut Vec<f32>, file: &[E], rows: &[u32], vocab: usize) {
    out.clear();
    for &row in rows {
        out.extend(file[row as usize * vocab..][..vocab].iter().map(|x| x.load(CacheGrid::NONE)));
    }
}

#[cfg(test)]
mod tests {
    use half::f16;
    use proptest::prelude::*;

    use super::*;

    const GRID: CacheGrid = CacheGrid { scale: 0.25, zero: 128 };

    #[test]
    fn integers_round_to_the_even_neighbor_and_stop_at_the_ends() {
        let stored = [0.125, 0.375, -0.125, 0.3, 1e9, -1e9, f32::NAN].map(|x| u8::store(x, GRID));
        assert_eq!(stored, [128, 130, 128, 129, 255, 0, 0]);
        assert_eq!(u8::load(130, GRID), 0.5);
        assert_eq!(i16::store(-0.5, CacheGrid { scale: 0.25, zero: 0 }), -2);
        assert_eq!(i8::store(-1e30, CacheGrid { scale: 0.25, zero: 3 }), -128);
        assert_eq!(u16::load(0, CacheGrid { scale: 2.0, zero: 65535 }), -131070.0);
    }

    #[test]
    fn a_hidden_half_is_finite() {
        let room = Room { tokens: 1, file_tokens: 2, cached: 1, file_cached: 2 };
        let mut out = Vec::<f16>::new();
        mask(&mut out, &[HIDDEN, 0.0], room, -3e4);
        let hidden = f16::from_f32(-3e4);
        assert!(hidden.is_finite());
        let zero = f16::ZERO;
        assert_eq!(out, [hidden, hidden, zero, hidden, hidden, hidden, hidden, zero]);
    }

    /// Sizes of a step and a file around it, heads and width.
    fn rooms() -> impl Strategy<Value = (Room, usize, usize)> {
        (1..6usize, 0..4usize, 1..70usize, 0..40usize, 1..4usize, 1..6usize).prop_map(|(t, s, c, p, heads, width)| {
            (Room { tokens: t, file_tokens: t + s, cached: c, file_cached: c + p }, heads, width)
        })
    }

    /// Numbers that all differ and are on the grid of no type.
    fn numbers(count: usize) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * 0.37) % 60.0 - 30.0).collect()
    }

    proptest! {
        #[test]
        fn the_mask_is_the_given_one_in_a_hidden_frame((room, _, _) in rooms()) {
            let Room { tokens: t, file_tokens: s, cached: c, file_cached: p } = room;
            let given = numbers(t * (c + t));
            let mut out = vec![7.0f32; 3];
            mask(&mut out, &given, room, f32::NEG_INFINITY);
            prop_assert_eq!(out.len(), s * (p + s));
            for i in 0..s {
                for j in 0..p + s {
                    let column = if j < c { Some(j) } else if j >= p && j < p + t { Some(c + j - p) } else { None };
                    let expected = match column {
                        Some(column) if i < t => given[i * (c + t) + column],
                        _ if i >= t && j == p + i => 0.0,
                        _ => HIDDEN,
                    };
                    prop_assert_eq!(out[i * (p + s) + j], expected, "row {} column {}", i, j);
                }
            }
        }

        #[test]
        fn caches_are_padded_and_keys_turned((room, heads, width) in rooms()) {
            let Room { cached: c, file_cached: p, .. } = room;
            let rows = numbers(heads * c * width);
            // What an earlier step left must not be seen.
            let (mut k, mut v) = (vec![9u8; 1000], vec![9u8; 5]);
            keys(&mut k, &rows, room, width, GRID);
            values(&mut v, &rows, room, width, GRID);
            prop_assert_eq!((k.len(), v.len()), (heads * width * p, heads * p * width));
            for h in 0..heads {
                for i in 0..p {
                    for j in 0..width {
                        let x = if i < c { rows[(h * c + i) * width + j] } else { 0.0 };
                        prop_assert_eq!(k[(h * width + j) * p + i], u8::store(x, GRID));
                        prop_assert_eq!(v[(h * p + i) * width + j], u8::store(x, GRID));
                    }
                }
            }
        }

        #[test]
        fn new_rows_come_back_without_the_padding((room, heads, width) in rooms()) {
            let Room { tokens: t, file_tokens: s, .. } = room;
            let file: Vec<i16> = (0..heads * s * width).map(|i| i as i16 * 3 - 50).collect();
            let grid = CacheGrid { scale: 0.5, zero: 7 };
            let (mut k, mut v) = (vec![1.0], vec![1.0; 99]);
            new_keys(&mut k, &file, room, width, grid);
            new_values(&mut v, &file, room, width, grid);
            prop_assert_eq!((k.len(), v.len()), (heads * t * width, heads * t * width));
            for h in 0..heads {
                for i in 0..t {
                    for j in 0..width {
                        let at = (h * t + i) * width + j;
                        prop_assert_eq!(k[at], f32::from(file[(h * width + j) * s + i] - 7) * 0.5);
                        prop_assert_eq!(v[at], f32::from(file[(h * s + i) * width + j] - 7) * 0.5);
                    }
                }
            }
        }

        #[test]
        fn only_asked_rows_have_logits(vocab in 1..5usize, rows in prop::collection::vec(0..6u32, 0..4)) {
            let file = numbers(6 * vocab);
            let mut out = vec![1.0; 7];
            logits(&mut out, &file, &rows, vocab);
            let expected: Vec<f32> = rows.iter().flat_map(|&r| file[r as usize * vocab..][..vocab].to_vec()).collect();
            prop_assert_eq!(out, expected);
        }
    }
}
