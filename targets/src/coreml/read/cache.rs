//! Committed rows, given by the host or kept as states, and new rows.

use diffulex_compiler::ir::{CacheId, CacheKind, Dim, Op, Operand};

use super::arguments::Arguments;
use super::constant::{Constant, UNKNOWN};
use super::error::Result;
use super::lift::{Bound, Held, Known, Lift, Made};
use crate::coreml::schema::STATES;
use crate::coreml::schema::program::DataType;

/// Whether a slice takes every number from `begin` to `end`, as strides and masks say; all of axes of unknown size.
pub(super) fn plain_slice(args: &mut Arguments, shape: &[u32]) -> Result<bool> {
    let rank = shape.len();
    let strided = args.maybe_ints("stride")?.is_some_and(|stride| stride != vec![1; rank]);
    let from_start = args.truths("begin_mask", rank)?.contains(&true);
    let to_end = args.truths("end_mask", rank)?;
    let unknown = shape.iter().map(|&n| n == UNKNOWN);
    Ok(!strided && !from_start && to_end.into_iter().eq(unknown))
}

impl Lift<'_> {
    /// The rows of one layer of a cache; nothing where `x` is no cache.
    pub(super) fn layer_of_cache(
        &mut self,
        args: &mut Arguments,
        x: &Known,
        begin: &[u32],
        end: &[u32],
        squeeze: &[bool],
    ) -> Result<Option<Made>> {
        let (Held::Caches(kind) | Held::Kept(kind, _)) = x.held else { return Ok(None) };
        let layer = begin.first().copied().unwrap_or(0);
        let rest = begin.iter().skip(1).all(|&n| n == 0) && end.iter().skip(1).eq(x.ty.shape.iter().skip(1));
        let one = end.first() == Some(&(layer + 1)) && squeeze.iter().enumerate().all(|(i, &drop)| drop == (i == 0));
        if !rest || !one {
            return Err(args.place.unsupported("a part of a cache that is not one layer of it"));
        }
        let (cache, shape) = (CacheId { layer, kind }, x.ty.shape[1..].to_vec());
        let held = match x.held {
            Held::Kept(_, writes) => {
                let now = writes == self.writes[place_of(kind)];
                let rows = self.written.get(&cache).copied().filter(|_| now);
                let rows =
                    rows.ok_or_else(|| args.place.unsupported("a kept cache before the rows of the step are in it"))?;
                Held::Node(self.build(&args.place, Op::Cached, [Operand::Cache(cache), Operand::Node(rows)])?)
            }
            _ => Held::Old(cache),
        };
        args.done()?;
        Ok(Some(Made { held, dtype: x.ty.dtype, shape: Some(shape) }))
    }

    /// New rows of all layers, which must be those that the caches are joined with.
    pub(super) fn stack(&mut self, args: &mut Arguments) -> Result<Made> {
        let values = args.list("values")?;
        let rank = values.first().map_or(0, |value| value.ty.shape.len());
        let axis = args.axis("axis", rank + 1)?;
        let rows = |kind: CacheKind| {
            let layers = (0..).map(|layer| self.joined.get(&CacheId { layer, kind }));
            let same =
                values.iter().zip(layers).all(|(value, rows)| rows.is_some_and(|id| value.held == Held::Node(*id)));
            same && values.len() == self.step.cache.layers as usize
        };
        let kind = [CacheKind::K, CacheKind::V].into_iter().find(|kind| rows(*kind));
        let kind = kind.filter(|_| axis == 0 && rank == 4);
        let kind = kind.ok_or_else(|| args.place.unsupported("values that are not the new rows of all layers"))?;
        let first = values.first().map(|value| value.ty.clone()).ok_or_else(|| args.place.missing("values"))?;
        args.done()?;
        let shape = [&[values.len() as u32], &first.shape[..]].concat();
        Ok(Made { held: Held::New(kind), dtype: first.dtype, shape: Some(shape) })
    }

    /// `write_pos + T`; nothing where the operands are something else.
    pub(super) fn write_end(&self, args: &mut Arguments) -> Result<Option<Made>> {
        if !args.is("x", &Held::Bound(Bound::Start)) {
            return Ok(None);
        }
        let (_, tokens) = (args.one("x")?, args.ints("y")?);
        args.place.same("number of rows that are written", tokens, vec![self.step.bounds.t as i32])?;
        args.done()?;
        Ok(Some(Made { held: Held::Bound(Bound::End), dtype: DataType::Int32, shape: Some(vec![1]) }))
    }

    /// `[layer, 0, 0] + write_pos + [0]`, or `[layer + 1, 1, KV] + write_end + [D]`.
    pub(super) fn corner(&mut self, args: &mut Arguments, values: &[Known], axis: usize) -> Result<Made> {
        let wrong =
            || args.place.unsupported("whole numbers that are joined to something else than a place in a cache");
        let [first, bound, last] = values else { return Err(wrong()) };
        let (Held::Constant(Constant::Ints(first)), Held::Constant(Constant::Ints(last))) = (&first.held, &last.held)
        else {
            return Err(wrong());
        };
        let (Held::Bound(bound), &[at, one, heads], &[width]) = (&bound.held, &first[..], &last[..]) else {
            return Err(wrong());
        };
        let cache = self.step.cache;
        let (layer, rest) = match bound {
            Bound::Start => (at, [0, 0, 0]),
            Bound::End => (at.saturating_sub(1), [1, cache.kv_heads as i32, cache.head_dim as i32]),
        };
        let layer = u32::try_from(layer).ok().filter(|&layer| layer < cache.layers);
        let layer = layer.filter(|_| axis == 0 && [one, heads, width] == rest).ok_or_else(wrong)?;
        let held = Held::Corner(*bound, layer);
        args.done()?;
        Ok(Made { held, dtype: DataType::Int32, shape: Some(vec![5]) })
    }

    /// What a state holds now.
    pub(super) fn read_state(&mut self, args: &mut Arguments) -> Result<Made> {
        let kind = self.state(args)?;
        let ty = self.step.given.get(STATES[place_of(kind)]).cloned();
        let ty = ty.ok_or_else(|| args.place.damaged("there is no such state"))?;
        args.done()?;
        Ok(Made { held: Held::Kept(kind, self.writes[place_of(kind)]), dtype: ty.dtype, shape: Some(ty.shape) })
    }

    /// A state with the new rows of one layer. It must be what the state holds now: what an earlier read gave lacks the
    /// rows of the layers between.
    pub(super) fn slice_update(&mut self, args: &mut Arguments) -> Result<Made> {
        let (x, update, begin, end) = (args.one("x")?, args.one("update")?, args.one("begin")?, args.one("end")?);
        let place = args.place.clone();
        let plain = plain_slice(args, &x.ty.shape)? && !args.truths("squeeze_mask", 5)?.contains(&true);
        let (Held::Kept(kind, writes), Held::Rows(rows)) = (&x.held, &update.held) else {
            return Err(place.unsupported("an update of something else than a state with rows"));
        };
        let (Held::Corner(Bound::Start, layer), Held::Corner(Bound::End, until)) = (&begin.held, &end.held) else {
            return Err(place.unsupported("an update at another place than that of the step's rows"));
        };
        if !plain || layer != until {
            return Err(place.damaged("it begins in another layer than it ends"));
        }
        place.same("number of writes before", *writes, self.writes[place_of(*kind)])?;
        let cache = CacheId { layer: *layer, kind: *kind };
        let shape = self.builder.module().node(*rows).ty.shape.clone();
        let wanted =
            [Dim::fixed(1), Dim::fixed(self.step.cache.kv_heads), Dim::T, Dim::fixed(self.step.cache.head_dim)];
        place.same("shape of the rows", &shape[..], &wanted[..])?;
        args.done()?;
        Ok(Made { held: Held::Updated(cache, *rows, *writes), dtype: x.ty.dtype, shape: Some(x.ty.shape) })
    }

    pub(super) fn write_state(&mut self, mut args: Arguments) -> Result<()> {
        let (kind, data) = (self.state(&mut args)?, args.one("data")?);
        let writes = self.writes[place_of(kind)];
        let (cache, rows) = match data.held {
            Held::Updated(cache, rows, before) if (cache.kind, before) == (kind, writes) => (cache, rows),
            _ => return Err(args.place.unsupported("a write of something else than the state with new rows")),
        };
        // Only what is written is there in the next call.
        if self.written.insert(cache, rows).is_some() {
            return Err(args.place.damaged(format!("cache {cache} is written twice")));
        }
        self.writes[place_of(kind)] += 1;
        args.done()
    }

    fn state(&self, args: &mut Arguments) -> Result<CacheKind> {
        let name = args.state()?;
        match STATES.iter().position(|state| *state == name) {
            Some(0) => Ok(CacheKind::K),
            Some(_) => Ok(CacheKind::V),
            None => Err(args.place.damaged(format!("{name:?} is no state"))),
        }
    }
}

/// Keys are the first of the two states.
fn place_of(kind: CacheKind) -> usize {
    match kind {
        CacheKind::K => 0,
        CacheKind::V => 1,
    }
}
