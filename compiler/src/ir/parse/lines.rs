//! Single lines: weights with their expressions, nodes with their operands and attributes.

use std::collections::HashMap;
use std::str::FromStr;

use super::cursor::Cursor;
use crate::ir::build::Builder;
use crate::ir::graph::{CacheId, CacheKind, NodeId, Operand};
use crate::ir::op::Op;
use crate::ir::types::{DType, Dim, Encoding, ValueType, WeightType};
use crate::ir::weights::{MAX_DEPTH, WeightExpr};
use crate::quant::{Grid, GridType, Search};

/// Values by name: those of the current layer, and those outside all layers, where later ones hide earlier ones
/// (a carried value keeps its name from layer to layer).
#[derive(Default)]
pub(super) struct Names<'a> {
    pub(super) inner: HashMap<&'a str, NodeId>,
    pub(super) outer: HashMap<&'a str, NodeId>,
}

impl Names<'_> {
    pub(super) fn find(&self, name: &str) -> Result<NodeId, String> {
        let found = self.inner.get(name).or(self.outer.get(name));
        found.copied().ok_or_else(|| format!("no value `%{name}` before this line"))
    }
}

/// `mlp.up_proj : int8.row[176, 64] by mse = rows(a, b)`
pub(super) fn weight(builder: &mut Builder, line: &str, layer: Option<u32>) -> Result<(), String> {
    let mut line = Cursor::new(line);
    let name = scoped(layer, line.word()?);
    line.expect(":")?;
    let encoding = line.word()?;
    let known = Encoding::ALL.iter().copied().find(|e| e.name() == encoding);
    let encoding = known.ok_or_else(|| format!("unknown encoding `{encoding}`"))?;
    let shape = line.list(["[", "]"], Cursor::value::<u32>)?;
    let search = match line.accept("by") {
        true => Search::from_name(line.word()?).ok_or("unknown search of scales")?,
        false => Search::Max,
    };
    let grid = match line.accept("on") {
        true => {
            line.expect("{")?;
            let grid = grid(&mut line)?;
            line.expect("}")?;
            Some(grid)
        }
        false => None,
    };
    let expr = match line.accept("=") {
        true => expr(&mut line, layer, 1)?,
        false => WeightExpr::Stored(name.clone()),
    };
    line.end()?;
    if builder.weight_id(&name).is_some() {
        return Err(format!("a second weight `{name}`"));
    }
    let id = builder.weight(&name, WeightType::new(encoding, shape), expr).map_err(|e| e.to_string())?;
    builder.search(id, search);
    if let Some(grid) = grid {
        builder.grid(id, grid);
    }
    Ok(())
}

fn expr(line: &mut Cursor<'_>, layer: Option<u32>, depth: usize) -> Result<WeightExpr, String> {
    if depth > MAX_DEPTH {
        return Err("the expression is nested too deeply".into());
    }
    if line.accept("/") {
        return Ok(WeightExpr::Stored(line.word()?.to_string()));
    }
    let name = line.word()?;
    if !line.accept("(") {
        return Ok(WeightExpr::Stored(scoped(layer, name)));
    }
    let made = match name {
        "rows" => {
            let mut parts = vec![expr(line, layer, depth + 1)?];
            while line.accept(",") {
                parts.push(expr(line, layer, depth + 1)?);
            }
            WeightExpr::Rows(parts)
        }
        "scale" => {
            let inner = expr(line, layer, depth + 1)?;
            line.expect(",")?;
            WeightExpr::Scale(Box::new(inner), finite(line)?)
        }
        "fill" => WeightExpr::Fill(finite(line)?),
        "rope_cos" => WeightExpr::RopeCos(finite(line)?),
        "rope_sin" => WeightExpr::RopeSin(finite(line)?),
        other => return Err(format!("unknown expression `{other}`")),
    };
    line.expect(")")?;
    Ok(made)
}

fn finite<T: FromStr + Copy + Into<f64>>(line: &mut Cursor<'_>) -> Result<T, String> {
    let value: T = line.value()?;
    if value.into().is_finite() { Ok(value) } else { Err(format!("{} is not finite", value.into())) }
}

/// `%q = linear %x, @q_proj : f32[1, T, 64]`, or `next linear …` for the value that a layer hands on as `carry`.
pub(super) fn node<'a>(
    builder: &mut Builder,
    names: &Names<'_>,
    line: &'a str,
    carry: Option<&'a str>,
) -> Result<(&'a str, NodeId), String> {
    let mut line = Cursor::new(line);
    let name = match line.accept("next") {
        true => carry.ok_or("`next` stands at the end of a layer")?,
        false => {
            let name = line.value_name()?;
            line.expect("=")?;
            name
        }
    };
    let op = line.word()?;
    let mut args = Vec::new();
    if let Some(first) = operand(builder, names, &mut line)? {
        args.push(first);
        while line.accept(",") {
            args.push(operand(builder, names, &mut line)?.ok_or("expected an operand after `,`")?);
        }
    }
    let op = attributes(op, &mut line)?;
    line.expect(":")?;
    let ty = value_type(&mut line)?;
    line.end()?;
    let id = builder.node(name, op, args).map_err(|e| e.to_string())?;
    let made = builder.module().node(id);
    if made.name != name {
        return Err(format!("a second value `%{name}`"));
    }
    if made.ty != ty {
        return Err(format!("`%{name}` is {}, not {ty}", made.ty));
    }
    Ok((name, id))
}

fn operand(builder: &Builder, names: &Names<'_>, line: &mut Cursor<'_>) -> Result<Option<Operand>, String> {
    if line.accept("%") {
        return Ok(Some(Operand::Node(names.find(line.word()?)?)));
    }
    if line.accept("@") {
        let absolute = line.accept("/");
        let name = line.word()?;
        let own = builder.weight_id(&scoped(builder.layer, name)).filter(|_| !absolute);
        let id = own.or_else(|| builder.weight_id(name));
        return id.map(|id| Some(Operand::Weight(id))).ok_or_else(|| format!("no weight `{name}`"));
    }
    if line.accept("$") {
        let name = line.word()?;
        let (kind, layer) = match name.split_once('.') {
            Some((kind, layer)) => (kind, layer.parse().ok()),
            None => (name, builder.layer),
        };
        let kind = [CacheKind::K, CacheKind::V].into_iter().find(|k| k.name() == kind);
        return match (kind, layer) {
            (Some(kind), Some(layer)) => Ok(Some(Operand::Cache(CacheId { layer, kind }))),
            _ => Err(format!("no cache `${name}`")),
        };
    }
    Ok(None)
}

fn attributes(name: &str, line: &mut Cursor<'_>) -> Result<Op, String> {
    let plain = [
        Op::Embed,
        Op::Linear,
        Op::MergeHeads,
        Op::Rope,
        Op::Cached,
        Op::Silu,
        Op::Int8Token,
        Op::Swiglu,
        Op::GatherRows,
        Op::Add,
        Op::Sub,
        Op::Mul,
        Op::Div,
        Op::Neg,
        Op::Square,
        Op::Rsqrt,
        Op::Sigmoid,
        Op::Softmax,
        Op::Mean,
    ];
    if let Some(op) = plain.into_iter().find(|op| op.name() == name) {
        return Ok(op);
    }
    line.expect("{")?;
    let op = match name {
        "rope_cos" => Op::RopeCos { dim: line.attribute("dim")?, theta: line.next_attribute("theta")? },
        "rope_sin" => Op::RopeSin { dim: line.attribute("dim")?, theta: line.next_attribute("theta")? },
        "rms_norm" => Op::RmsNorm { eps: line.attribute("eps")? },
        "heads" => Op::Heads { n: line.attribute("n")? },
        "attention" => Op::Attention { scale: line.attribute("scale")? },
        "matmul" => Op::Matmul { transpose: line.attribute("transpose")? },
        "reshape" => Op::Reshape { shape: line.named("shape")?.list(["[", "]"], dim)? },
        "transpose" => Op::Transpose { perm: line.named("perm")?.list(["[", "]"], Cursor::value)? },
        "slice" => {
            let axis = line.attribute("axis")?;
            let start = line.next_attribute("range")?;
            line.expect("..")?;
            Op::Slice { axis, start, end: line.value()? }
        }
        "concat" => Op::Concat { axis: line.attribute("axis")? },
        "fake_quantize" => Op::FakeQuantize(grid(line)?),
        "cast" => Op::Cast { to: dtype(line.named("to")?.word()?)? },
        other => return Err(format!("unknown op `{other}`")),
    };
    line.expect("}")?;
    Ok(op)
}

/// `to = uint8, scale = 0.5, zero = 128`
fn grid(line: &mut Cursor<'_>) -> Result<Grid, String> {
    let name = line.named("to")?.word()?;
    let ty = GridType::from_name(name).ok_or_else(|| format!("unknown grid `{name}`"))?;
    Ok(Grid { ty, scale: line.next_attribute("scale")?, zero: line.next_attribute("zero")? })
}

/// `f32[1, T, 64]`
pub(super) fn value_type(line: &mut Cursor<'_>) -> Result<ValueType, String> {
    Ok(ValueType { dtype: dtype(line.word()?)?, shape: line.list(["[", "]"], dim)? })
}

fn dtype(name: &str) -> Result<DType, String> {
    DType::ALL.into_iter().find(|d| d.name() == name).ok_or_else(|| format!("unknown type `{name}`"))
}

/// `2*C+T+3`
fn dim(line: &mut Cursor<'_>) -> Result<Dim, String> {
    let mut sum = Dim::default();
    loop {
        let word = line.word()?;
        let (k, symbol) = match word.parse::<u32>() {
            Ok(n) if line.accept("*") => (n, line.word()?),
            Ok(n) => (n, ""),
            Err(_) => (1, word),
        };
        let unit = match symbol {
            "C" => Dim::C,
            "T" => Dim::T,
            "R" => Dim::R,
            "" => Dim::ONE,
            other => return Err(format!("unknown dimension `{other}`")),
        };
        sum = unit.times(k).and_then(|d| sum.plus(d)).ok_or("a dimension is too large")?;
        if !line.accept("+") {
            return Ok(sum);
        }
    }
}

/// The full name of a weight that is called `name` inside `layer`.
fn scoped(layer: Option<u32>, name: &str) -> String {
    match layer {
        Some(layer) => format!("layers.{layer}.{name}"),
        None => name.to_string(),
    }
}
