//! Reads the printed form back. The text may come from anywhere: every mistake is an error with its line.

use std::str::FromStr;

use super::build::Builder;
use super::graph::{CacheId, CacheKind, CacheShape, Module, NodeId, Operand, Stage, WeightId};
use super::op::Op;
use super::types::{DType, Dim, Encoding, Sizes, ValueType, WeightType};
use super::weights::WeightExpr;

/// Most layers that one text may unroll to.
const MAX_LAYERS: u32 = 4096;
/// Deepest nesting of a weight expression.
const MAX_DEPTH: usize = 16;

/// A line that is not part of the printed form, or does not fit what came before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ParseError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

/// Reads a module from its printed form.
///
/// # Errors
/// The first line that does not belong there.
pub fn parse(text: &str) -> Result<Module, ParseError> {
    let lines = text.lines().enumerate().map(|(i, l)| (i + 1, l.trim())).filter(|(_, l)| !l.is_empty()).collect();
    let mut parser = Parser { lines, next: 0 };
    let line = |p: &Parser| p.lines.get(p.next.saturating_sub(1)).map_or(1, |l| l.0);
    parser.module().map_err(|what| ParseError { line: line(&parser), what })
}

struct Parser<'a> {
    lines: Vec<(usize, &'a str)>,
    next: usize,
}

/// Unrolls `layers.{i} for i in from..to` by reading the same lines again for each layer.
struct Loop {
    from: u32,
    to: u32,
    first_line: usize,
}

impl<'a> Parser<'a> {
    fn module(&mut self) -> Result<Module, String> {
        let mut head = Cursor::new(self.line()?);
        head.expect("module")?;
        let name = head.quoted()?;
        head.expect("stage")?;
        let stage = stage(&mut head)?;

        let mut dims = Cursor::new(self.line()?);
        dims.expect("dims")?;
        let mut bounds = Sizes { t: 0, c: 0, r: 0 };
        while !dims.at_end() {
            let symbol = dims.word()?;
            dims.expect("=")?;
            let slot = match symbol {
                "T" => &mut bounds.t,
                "C" => &mut bounds.c,
                "R" => &mut bounds.r,
                other => return Err(format!("unknown dimension `{other}`")),
            };
            *slot = dims.value()?;
            dims.accept(",");
        }

        let no_cache = CacheShape { layers: 0, kv_heads: 0, head_dim: 0 };
        let mut builder = Builder::new(Module::new(name, stage, bounds, no_cache));
        self.weights(&mut builder)?;
        let mut module = builder.finish([]);
        module.cache = self.cache()?;

        let mut builder = Builder::new(module);
        let outputs = self.graph(&mut builder)?;
        if self.next < self.lines.len() {
            self.next += 1;
            return Err("text after the end of the graph".into());
        }
        Ok(builder.finish(outputs))
    }

    fn weights(&mut self, builder: &mut Builder) -> Result<(), String> {
        self.exactly("weights {")?;
        loop {
            let line = self.line()?;
            if line == "}" {
                return Ok(());
            }
            let Some(layers) = self.layers(line)?.map(|(layers, _)| layers) else {
                weight(builder, line, None)?;
                continue;
            };
            for layer in layers.from..layers.to {
                self.next = layers.first_line;
                loop {
                    match self.line()? {
                        "}" => break,
                        line => weight(builder, line, Some(layer))?,
                    }
                }
            }
        }
    }

    fn cache(&mut self) -> Result<CacheShape, String> {
        let mut line = Cursor::new(self.line()?);
        for word in ["cache", "k", ",", "v", ":"] {
            line.expect(word)?;
        }
        let ty = value_type(&mut line)?;
        for word in ["for", "layers.{i}", "in", "0"] {
            line.expect(word)?;
        }
        line.expect("..")?;
        let layers = line.value()?;
        let known = |i: usize| ty.shape.get(i).and_then(|d| d.known()).unwrap_or(0);
        let shape = CacheShape { layers, kv_heads: known(1), head_dim: known(3) };
        if layers > MAX_LAYERS || shape.ty() != ty {
            return Err(format!("caches are f32[1, KV, C, D] for at most {MAX_LAYERS} layers"));
        }
        Ok(shape)
    }

    fn graph(&mut self, builder: &mut Builder) -> Result<Vec<NodeId>, String> {
        let mut head = Cursor::new(self.line()?);
        for word in ["graph", "step", "("] {
            head.expect(word)?;
        }
        let mut names = Names::default();
        while !head.accept(")") {
            let name = head.value_name()?;
            head.expect(":")?;
            let ty = value_type(&mut head)?;
            names.outer.push((name.to_string(), builder.input(name, ty)));
            head.accept(",");
        }
        head.expect("{")?;
        loop {
            let line = self.line()?;
            if let Some(outputs) = line.strip_prefix("return ") {
                let ids = outputs.split(", ").map(|o| names.find(o.trim_start_matches('%'))).collect();
                self.exactly("}")?;
                return ids;
            }
            match self.layers(line)? {
                Some((layers, carry)) => self.layer_nodes(builder, &mut names, layers, carry)?,
                None => {
                    let (name, id) = node(builder, &names, line, None)?;
                    names.outer.push((name, id));
                }
            }
        }
    }

    fn layer_nodes(
        &mut self,
        builder: &mut Builder,
        names: &mut Names,
        layers: Loop,
        carry: Option<&str>,
    ) -> Result<(), String> {
        let carry = carry.ok_or("layers of a graph need `carry %name`")?;
        for layer in layers.from..layers.to {
            self.next = layers.first_line;
            builder.layer = Some(layer);
            builder.section = None;
            loop {
                let line = self.line()?;
                if let Some(section) = line.strip_suffix(':') {
                    builder.section = (section != "_").then(|| section.to_string());
                    continue;
                }
                if line == "}" {
                    return Err("a layer ends with `next`".into());
                }
                let (name, id) = node(builder, names, line, Some(carry))?;
                if line.starts_with("next ") {
                    names.inner.clear();
                    names.outer.push((name, id));
                    break;
                }
                names.inner.push((name, id));
            }
            self.exactly("}")?;
        }
        builder.layer = None;
        builder.section = None;
        Ok(())
    }

    /// `layers.{i} for i in 0..28 [carry %x] {`
    fn layers(&self, line: &'a str) -> Result<Option<(Loop, Option<&'a str>)>, String> {
        let Some(rest) = line.strip_prefix("layers.{i} for i in ") else { return Ok(None) };
        let mut rest = Cursor::new(rest);
        let from = rest.value()?;
        rest.expect("..")?;
        let to = rest.value()?;
        let carry = if rest.accept("carry") { Some(rest.value_name()?) } else { None };
        rest.expect("{")?;
        if from >= to || to > MAX_LAYERS {
            return Err(format!("layers {from}..{to} are not a range within {MAX_LAYERS}"));
        }
        Ok(Some((Loop { from, to, first_line: self.next }, carry)))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let line = self.lines.get(self.next).ok_or("the text ends too early")?.1;
        self.next += 1;
        Ok(line)
    }

    fn exactly(&mut self, expected: &str) -> Result<(), String> {
        match self.line()? {
            line if line == expected => Ok(()),
            line => Err(format!("expected `{expected}`, found `{line}`")),
        }
    }
}

/// Values by name: those of the current layer, and those outside all layers, where later ones hide earlier ones
/// (a carried value keeps its name from layer to layer).
#[derive(Default)]
struct Names {
    inner: Vec<(String, NodeId)>,
    outer: Vec<(String, NodeId)>,
}

impl Names {
    fn find(&self, name: &str) -> Result<NodeId, String> {
        let found = self.outer.iter().chain(&self.inner).rev().find(|(n, _)| n == name);
        found.map(|(_, id)| *id).ok_or_else(|| format!("no value `%{name}` before this line"))
    }
}

fn weight(builder: &mut Builder, line: &str, layer: Option<u32>) -> Result<(), String> {
    let mut line = Cursor::new(line);
    let name = scoped(layer, line.word()?);
    line.expect(":")?;
    let encoding = line.word()?;
    let encoding = Encoding::ALL.into_iter().find(|e| e.name() == encoding).ok_or("unknown encoding")?;
    let shape = line.list(Cursor::value::<u32>)?;
    let expr = match line.accept("=") {
        true => expr(&mut line, layer, 0)?,
        false => WeightExpr::Stored(name.clone()),
    };
    line.end()?;
    if builder.weight_id(&name).is_some() {
        return Err(format!("a second weight `{name}`"));
    }
    builder.weight(&name, WeightType::new(encoding, shape), expr).map_err(|e| e.to_string())?;
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
            WeightExpr::Scale(Box::new(inner), line.value()?)
        }
        "fill" => WeightExpr::Fill(line.value()?),
        "rope_cos" => WeightExpr::RopeCos(line.value()?),
        "rope_sin" => WeightExpr::RopeSin(line.value()?),
        other => return Err(format!("unknown expression `{other}`")),
    };
    line.expect(")")?;
    Ok(made)
}

fn node(
    builder: &mut Builder,
    names: &Names,
    line: &str,
    carry: Option<&str>,
) -> Result<(String, NodeId), String> {
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
    while let Some(operand) = operand(builder, names, &mut line)? {
        args.push(operand);
        if !line.accept(",") {
            break;
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
    Ok((name.to_string(), id))
}

fn operand(builder: &Builder, names: &Names, line: &mut Cursor<'_>) -> Result<Option<Operand>, String> {
    if line.accept("%") {
        return Ok(Some(Operand::Node(names.find(line.word()?)?)));
    }
    if line.accept("@") {
        let name = line.word()?;
        let find = |name: &str| builder.weight_id(name);
        let id: Option<WeightId> = find(&scoped(builder.layer, name)).or_else(|| find(name));
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
        "rope_cos" => Op::RopeCos { dim: line.attribute("dim")?, theta: line.attribute("theta")? },
        "rope_sin" => Op::RopeSin { dim: line.attribute("dim")?, theta: line.attribute("theta")? },
        "rms_norm" => Op::RmsNorm { eps: line.attribute("eps")? },
        "heads" => Op::Heads { n: line.attribute("n")? },
        "attention" => Op::Attention { scale: line.attribute("scale")? },
        "matmul" => Op::Matmul { transpose: line.attribute("transpose")? },
        "reshape" => Op::Reshape { shape: line.named("shape")?.list(dim)? },
        "transpose" => Op::Transpose { perm: line.named("perm")?.list(Cursor::value)? },
        "slice" => {
            let axis = line.attribute("axis")?;
            let start = line.attribute("range")?;
            line.expect("..")?;
            Op::Slice { axis, start, end: line.value()? }
        }
        "concat" => Op::Concat { axis: line.attribute("axis")? },
        "cast" => Op::Cast { to: dtype(line.named("to")?.word()?)? },
        other => return Err(format!("unknown op `{other}`")),
    };
    line.expect("}")?;
    Ok(op)
}

fn stage(line: &mut Cursor<'_>) -> Result<Stage, String> {
    match line.word()? {
        "imported" => Ok(Stage::Imported),
        "fused" => Ok(Stage::Fused),
        "quantized" => Ok(Stage::Quantized),
        "legal" => Ok(Stage::Legal(line.word()?.to_string())),
        "read" => Ok(Stage::Read(line.word()?.to_string())),
        other => Err(format!("unknown stage `{other}`")),
    }
}

fn value_type(line: &mut Cursor<'_>) -> Result<ValueType, String> {
    Ok(ValueType { dtype: dtype(line.word()?)?, shape: line.list(dim)? })
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

/// Walks over the words and signs of one line.
struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn new(line: &'a str) -> Cursor<'a> {
        Cursor { rest: line.trim() }
    }

    fn at_end(&self) -> bool {
        self.rest.is_empty()
    }

    fn accept(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(token) else { return false };
        let word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        if token.ends_with(|c: char| c.is_alphanumeric()) && rest.starts_with(word) && !rest.starts_with("..") {
            return false;
        }
        self.rest = rest.trim_start();
        true
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.accept(token) { Ok(()) } else { Err(format!("expected `{token}` at `{}`", self.rest)) }
    }

    fn end(&self) -> Result<(), String> {
        if self.at_end() { Ok(()) } else { Err(format!("`{}` is too much", self.rest)) }
    }

    /// Letters, digits, `_`, `-` and `.` up to anything else or to `..`; a sign of an exponent belongs to it.
    fn word(&mut self) -> Result<&'a str, String> {
        let bytes = self.rest.as_bytes();
        let mut end = 0;
        while let Some(&b) = bytes.get(end) {
            let range = b == b'.' && bytes.get(end + 1) == Some(&b'.');
            let part = b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
            if range || !part {
                break;
            }
            end += 1;
        }
        if end == 0 {
            return Err(format!("expected a word at `{}`", self.rest));
        }
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        Ok(word)
    }

    fn value<T: FromStr>(&mut self) -> Result<T, String> {
        let word = self.word()?;
        word.parse().map_err(|_| format!("`{word}` is not a number that fits here"))
    }

    fn value_name(&mut self) -> Result<&'a str, String> {
        self.expect("%")?;
        self.word()
    }

    fn quoted(&mut self) -> Result<String, String> {
        self.expect("\"")?;
        let (name, rest) = self.rest.split_once('"').ok_or("the name has no end")?;
        self.rest = rest.trim_start();
        Ok(name.to_string())
    }

    fn named(&mut self, name: &str) -> Result<&mut Self, String> {
        self.accept(",");
        self.expect(name)?;
        self.expect("=")?;
        Ok(self)
    }

    fn attribute<T: FromStr>(&mut self, name: &str) -> Result<T, String> {
        self.named(name)?.value()
    }

    fn list<T>(&mut self, item: impl Fn(&mut Self) -> Result<T, String>) -> Result<Vec<T>, String> {
        self.expect("[")?;
        let mut items = Vec::new();
        while !self.accept("]") {
            items.push(item(self)?);
            self.accept(",");
        }
        Ok(items)
    }
}
