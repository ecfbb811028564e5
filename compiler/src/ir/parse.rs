//! Reads the printed form back. The text may come from anywhere: every mistake is an error with its line.

mod cursor;
mod lines;

use super::build::Builder;
use super::graph::{CacheShape, MAX_LAYERS, Module, NodeId, Stage};
use super::types::Sizes;
use cursor::{Cursor, shorten};
use lines::Names;

/// Most bytes that a text may have once its layers are written out: a bound on what a short hostile text can unroll
/// to. Those of the largest published models have less than a megabyte.
const MAX_TEXT: usize = 16 << 20;

/// A line that is not part of the printed form, or does not fit what came before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ParseError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

/// Reads a module from its printed form. [`super::verify()`] must still judge it.
///
/// # Errors
/// The first line that does not belong there.
pub fn parse(text: &str) -> Result<Module, ParseError> {
    let lines = text.lines().enumerate().map(|(i, l)| (i + 1, l.trim())).filter(|(_, l)| !l.is_empty()).collect();
    let mut parser = Parser { lines, next: 0, read: 0 };
    let line = |p: &Parser<'_>| p.lines.get(p.next.saturating_sub(1)).map_or(1, |l| l.0);
    parser.module().map_err(|what| ParseError { line: line(&parser), what })
}

struct Parser<'a> {
    lines: Vec<(usize, &'a str)>,
    next: usize,
    /// Bytes read so far; lines of a layer count each time.
    read: usize,
}

/// Unrolls `layers.{i} for i in from..to` by reading the same lines again for each layer.
struct Loop<'a> {
    from: u32,
    to: u32,
    /// The name after `carry`, if there is one.
    carry: Option<&'a str>,
    first_line: usize,
}

impl<'a> Parser<'a> {
    fn module(&mut self) -> Result<Module, String> {
        let mut head = Cursor::new(self.line()?);
        head.expect("module")?;
        let name = head.quoted()?;
        head.expect("stage")?;
        let stage = stage(&mut head)?;
        head.end()?;
        let bounds = bounds(self.line()?)?;

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
            let Some(layers) = self.layers(line)? else {
                lines::weight(builder, line, None)?;
                continue;
            };
            if layers.carry.is_some() {
                return Err("weights carry nothing from layer to layer".into());
            }
            for layer in layers.from..layers.to {
                self.next = layers.first_line;
                loop {
                    match self.line()? {
                        "}" => break,
                        line => lines::weight(builder, line, Some(layer))?,
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
        let ty = lines::value_type(&mut line)?;
        for word in ["for", "layers.{i}", "in", "0", ".."] {
            line.expect(word)?;
        }
        let layers = line.value()?;
        line.end()?;
        let known = |i: usize| ty.shape.get(i).and_then(|d| d.known()).unwrap_or(0);
        let shape = CacheShape { layers, kv_heads: known(1), head_dim: known(3) };
        if layers > MAX_LAYERS || shape.ty() != ty {
            return Err(format!("caches are f32[1, KV, C, D] for at most {MAX_LAYERS} layers"));
        }
        Ok(shape)
    }

    fn graph(&mut self, builder: &mut Builder) -> Result<Vec<NodeId>, String> {
        let mut head = Cursor::new(self.line()?);
        head.expect("graph")?;
        head.expect("step")?;
        let mut names = Names::default();
        head.list(["(", ")"], |head| {
            let name = head.value_name()?;
            head.expect(":")?;
            let ty = lines::value_type(head)?;
            match names.outer.contains_key(name) {
                true => Err(format!("a second value `%{name}`")),
                false => Ok(names.outer.insert(name, builder.input(name, ty))),
            }
        })?;
        head.expect("{")?;
        head.end()?;
        loop {
            let line = self.line()?;
            let mut words = Cursor::new(line);
            if words.accept("return") {
                let mut outputs = vec![names.find(words.value_name()?)?];
                while words.accept(",") {
                    outputs.push(names.find(words.value_name()?)?);
                }
                words.end()?;
                self.exactly("}")?;
                return Ok(outputs);
            }
            match self.layers(line)? {
                Some(layers) => self.layer_nodes(builder, &mut names, &layers)?,
                None => {
                    let (name, id) = lines::node(builder, &names, line, None)?;
                    names.outer.insert(name, id);
                }
            }
        }
    }

    fn layer_nodes(&mut self, builder: &mut Builder, names: &mut Names<'a>, layers: &Loop<'a>) -> Result<(), String> {
        let carry = layers.carry.ok_or("layers of a graph need `carry %name`")?;
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
                let (name, id) = lines::node(builder, names, line, Some(carry))?;
                if !line.starts_with('%') {
                    names.inner.clear();
                    names.outer.insert(name, id);
                    break;
                }
                names.inner.insert(name, id);
            }
            self.exactly("}")?;
        }
        builder.layer = None;
        builder.section = None;
        Ok(())
    }

    /// `layers.{i} for i in 0..28 [carry %x] {`
    fn layers(&self, line: &'a str) -> Result<Option<Loop<'a>>, String> {
        let Some(rest) = line.strip_prefix("layers.{i} for i in ") else { return Ok(None) };
        let mut rest = Cursor::new(rest);
        let from = rest.value()?;
        rest.expect("..")?;
        let to = rest.value()?;
        let carry = if rest.accept("carry") { Some(rest.value_name()?) } else { None };
        rest.expect("{")?;
        rest.end()?;
        if from >= to || to > MAX_LAYERS {
            return Err(format!("layers {from}..{to} are not a range within {MAX_LAYERS}"));
        }
        Ok(Some(Loop { from, to, carry, first_line: self.next }))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let line = self.lines.get(self.next).ok_or("the text ends too early")?.1;
        self.next += 1;
        self.read += line.len() + 1;
        match self.read <= MAX_TEXT {
            true => Ok(line),
            false => Err(format!("more than {} MiB of text, written out layer by layer", MAX_TEXT >> 20)),
        }
    }

    fn exactly(&mut self, expected: &str) -> Result<(), String> {
        match self.line()? {
            line if line == expected => Ok(()),
            line => Err(format!("expected `{expected}`, found `{}`", shorten(line))),
        }
    }
}

/// `dims T = 4, C = 2048[, R = 4]`
fn bounds(line: &str) -> Result<Sizes, String> {
    let mut line = Cursor::new(line);
    line.expect("dims")?;
    let (t, c) = (line.attribute("T")?, line.next_attribute("C")?);
    let r = if line.end().is_err() { line.next_attribute("R")? } else { 0 };
    line.end()?;
    Ok(Sizes { t, c, r })
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
