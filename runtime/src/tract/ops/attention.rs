//! Attention, and the committed rows as a value of their own where something else wants them.

use std::sync::Arc;

use diffulex_compiler::ir::{CacheId, CacheKind};
use tract_core::internal::*;

use super::super::kernels::attention::{self as kernels, Piece};
use super::super::loan::Loan;
use super::{Compute, View, tensor};
use crate::engine::LayerRows;

/// `softmax(q · kᵀ · scale + mask) · v`.
#[derive(Debug)]
pub(crate) struct Attention {
    /// Multiplies the scores.
    pub(crate) scale: f32,
    /// The cache whose rows come before the keys given.
    pub(crate) keys: Option<CacheId>,
    /// The cache whose rows come before the values given.
    pub(crate) values: Option<CacheId>,
    /// The caches of the step.
    pub(crate) loan: Arc<Loan>,
}

/// The committed rows, then the rows given.
#[derive(Debug)]
pub(crate) struct Cached {
    /// The cache.
    pub(crate) cache: CacheId,
    /// The caches of the step.
    pub(crate) loan: Arc<Loan>,
}

impl Compute for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn compute(&self, args: &[View<'_>]) -> TractResult<Tensor> {
        let [q, ..] = args else { bail!("attention takes four values") };
        tensor(q.shape, |out| match (self.keys, self.values) {
            (None, None) => self.mix(args, &[], 0, out),
            _ => self.loan.read(|caches, cached| self.mix(args, caches, cached, out)).context("no caches were lent")?,
        })
    }

    fn pure(&self) -> bool {
        self.keys.is_none() && self.values.is_none()
    }
}

impl Attention {
    fn mix(&self, args: &[View<'_>], caches: &[LayerRows], cached: usize, out: &mut [f32]) -> TractResult<()> {
        let [q, k, v, mask] = args else { bail!("attention takes four values") };
        let (&[1, heads, tokens, dim], &[1, kv_heads, ..], &[1, ..]) = (q.shape, k.shape, v.shape) else {
            bail!("{:?}, {:?} and {:?} are not of one sequence", q.shape, k.shape, v.shape)
        };
        let keys = pieces(self.keys, caches, cached, k)?;
        let values = pieces(self.values, caches, cached, v)?;
        let count = |pieces: &[Piece<'_>]| pieces.iter().map(|p| p.len).sum::<usize>();
        ensure!(
            count(&keys) == count(&values) && mask.data.len() == tokens * count(&keys),
            "a mask of {:?} for {} keys and {} values",
            mask.shape,
            count(&keys),
            count(&values)
        );
        let (q, keys, values, mask, scale) = (q.data, keys.as_slice(), values.as_slice(), mask.data, self.scale);
        kernels::attention(&kernels::Attention { q, keys, values, mask, heads, kv_heads, tokens, dim, scale }, out);
        Ok(())
    }
}

impl Compute for Cached {
    fn name(&self) -> &'static str {
        "cached"
    }

    fn compute(&self, args: &[View<'_>]) -> TractResult<Tensor> {
        let [x] = args else { bail!("cached takes one value") };
        let &[1, heads, tokens, d] = x.shape else { bail!("{:?} is not [1, KV, T, D]", x.shape) };
        let join = |caches: &[LayerRows], cached: usize| {
            let committed = rows(caches, self.cache)?;
            tensor(&[1, heads, cached + tokens, d], |out| {
                let heads = committed.chunks_exact(cached * d).zip(x.data.chunks_exact(tokens * d));
                for (out, (old, new)) in out.chunks_exact_mut((cached + tokens) * d).zip(heads) {
                    out[..old.len()].copy_from_slice(old);
                    out[old.len()..].copy_from_slice(new);
                }
                Ok(())
            })
        };
        self.loan.read(join).context("no caches were lent")?
    }

    fn pure(&self) -> bool {
        false
    }
}

/// The rows of a cache, if any, and those given.
fn pieces<'a>(
    cache: Option<CacheId>,
    caches: &'a [LayerRows],
    cached: usize,
    given: &View<'a>,
) -> TractResult<TVec<Piece<'a>>> {
    let &[_, heads, len, d] = given.shape else { bail!("{:?} is not [1, KV, T, D]", given.shape) };
    let mut pieces = tvec!();
    if let Some(cache) = cache {
        let data = rows(caches, cache)?;
        ensure!(data.len() == heads * cached * d, "cache {cache} does not have {heads} heads of {d}");
        pieces.push(Piece { data, len: cached });
    }
    pieces.push(Piece { data: given.data, len });
    Ok(pieces)
}

fn rows(caches: &[LayerRows], cache: CacheId) -> TractResult<&[f32]> {
    let layer = caches.get(cache.layer as usize).with_context(|| format!("there is no cache {cache}"))?;
    Ok(match cache.kind {
        CacheKind::K => &layer.k,
        CacheKind::V => &layer.v,
    })
}
