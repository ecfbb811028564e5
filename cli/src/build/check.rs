//! What stands beside a Core ML package, so that one command on a Mac tells whether its devices compute the same: a
//! script, and reference tensors that our engine made of the package itself.

use std::io::Write;
use std::path::Path;

use diffulex_compiler::generation::Generation;
use diffulex_runtime::engine::{HIDDEN, LayerRows, StepInput, StepOutput};
use diffulex_runtime::session::Attention;
use diffulex_targets::coreml::{Call, Reference};

use crate::Error;
use crate::subject::{self, EngineChoice};

/// The script.
pub(super) const SCRIPT: (&str, &str) = ("check.swift", include_str!("check.swift"));
/// The tensors.
pub(super) const TENSORS: &str = "reference.safetensors";

/// Computes the reference tensors of the package at `artifact`: random tokens, then masked ones behind them.
///
/// # Errors
/// When the package cannot be read or run, or writing fails.
pub(super) fn tensors(
    artifact: &Path,
    reference: &Reference,
    generation: &Generation,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let opened = subject::artifact(artifact)?;
    let mut engine = opened.engine(&EngineChoice::Tract)?;
    let (t, attention) = (reference.bounds.t, Attention::from(generation));
    let mut made = StepOutput::default();
    let mut cache: Vec<LayerRows> = Vec::new();
    reference.write(out, &mut |start| {
        let tokens: Vec<u32> = (0..t as u64).map(|i| token(start, i, reference.vocab, generation.mask_id)).collect();
        let positions: Vec<u32> = (start as u32..(start + t) as u32).collect();
        let seen: Vec<usize> = (start..start + t).map(|position| attention.seen(position)).collect();
        // An empty cache is one row that nobody sees. Of a full one only what is committed takes part.
        let cached = start.max(1);
        if start == 0 {
            let row = reference.cache.kv_heads as usize * reference.cache.head_dim as usize;
            let empty = LayerRows { k: vec![0.0; row], v: vec![0.0; row] };
            cache = vec![empty; reference.cache.layers as usize];
        } else {
            cache = std::mem::take(&mut made.new);
        }
        let shown = |seen: usize, key: usize| match key < cached {
            true => key < start.min(seen),
            false => start + (key - cached) < seen,
        };
        let keys = |seen: usize| (0..cached + t).map(move |key| if shown(seen, key) { 0.0 } else { HIDDEN });
        let mask: Vec<f32> = seen.iter().flat_map(|&seen| keys(seen)).collect();
        let rows: Vec<u32> = (0..t as u32).collect();
        let input =
            StepInput { tokens: &tokens, positions: &positions, mask: &mask, rows: &rows, cached, cache: &cache };
        engine.step(&input, &mut made)?;
        let rows = made.new.iter().map(|layer| [layer.k.clone(), layer.v.clone()]).collect();
        Ok(Call { tokens, seen, logits: std::mem::take(&mut made.logits), rows })
    })
}

/// The token at a place of the call that begins at `start`: of the first call any, of the others a mask every other time.
fn token(start: usize, i: u64, vocab: u32, mask: u32) -> u32 {
    match start > 0 && i % 2 == 1 {
        true => mask,
        false => (i.wrapping_add(start as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32 % vocab,
    }
}
