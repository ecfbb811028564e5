//! `quantize`: every weight gets the encoding that the recipe asks for, and filters the tokens that go with it.
//!
//! A table that is the head too becomes two weights where the two want different encodings; the second is `lm_head`.
//! Where tokens are rounded to int8, one `int8_token` serves all filters that read the same value.

use std::collections::HashMap;

use super::rewrite::Rewriter;
use super::{Note, Proposal};
use crate::ir::build::BuildError;
use crate::ir::{Encoding, Module, NodeId, Op, Operand, WeightId};
use crate::quant::Scheme;

/// What reads a weight.
#[derive(Clone, Copy, Default)]
struct Uses {
    table: bool,
    filter: bool,
}

pub(super) fn run(module: &Module, scheme: &Scheme) -> Result<Proposal, BuildError> {
    let uses = uses(module);
    let mut notes = Vec::new();
    let mut encoded = module.clone();
    // The encoding of the filter that a table is too, where it is another one.
    let mut heads: HashMap<WeightId, Encoding> = HashMap::new();
    for (i, weight) in encoded.weights.iter_mut().enumerate() {
        let encoding = match uses[i] {
            _ if weight.ty.shape.len() < 2 => Encoding::F32,
            Uses { table: true, filter } => {
                let table = scheme.table(&weight.name);
                if filter && scheme.filter(HEAD) != table {
                    heads.insert(WeightId(i as u32), scheme.filter(HEAD));
                }
                table
            }
            Uses { table: false, .. } => scheme.filter(&weight.name),
        };
        if encoding != weight.ty.encoding {
            notes.push(Note::done(format!("@{}", weight.name), format!("{} → {encoding}", weight.ty.encoding)));
            weight.ty.encoding = encoding;
        }
    }
    let quantized = |encoding: Encoding| scheme.int8_tokens && !encoding.is_float();
    let anything = !heads.is_empty() || encoded.weights.iter().any(|w| quantized(w.ty.encoding));
    if !anything {
        return Ok(Proposal { module: Some(encoded), notes });
    }

    let mut tokens: HashMap<NodeId, NodeId> = HashMap::new();
    let module = Rewriter::new(&encoded).run(|rewriter, _, node| {
        let (Op::Linear, [Operand::Node(x), Operand::Weight(filter), rest @ ..]) = (&node.op, &node.args[..]) else {
            return Ok(None);
        };
        let mut weight = Operand::Weight(*filter);
        let mut encoding = encoded.weight(*filter).ty.encoding;
        if let Some(&head) = heads.get(filter) {
            let mut split = encoded.weight(*filter).clone();
            (split.ty.encoding, encoding) = (head, head);
            notes.push(Note::done(format!("@{}", split.name), format!("as a filter {HEAD}, {head}")));
            weight = rewriter.new.weight(HEAD, split.ty, split.expr)?.into();
        }
        let Operand::Node(input) = rewriter.operand(Operand::Node(*x))? else { return Ok(None) };
        let mut given = input;
        if quantized(encoding) {
            given = match tokens.get(&input) {
                Some(known) => *known,
                None => {
                    let name = format!("{}.int8", encoded.node(*x).name);
                    let made = rewriter.new.node(&name, Op::Int8Token, [input.into()])?;
                    tokens.insert(input, made);
                    made
                }
            };
            notes.push(Note::done(node.place(), "its tokens are rounded to int8"));
        }
        let mut args = vec![Operand::Node(given), weight];
        args.extend_from_slice(rest);
        rewriter.new.node(&node.name, Op::Linear, args).map(Some)
    })?;
    Ok(Proposal { module: Some(module), notes })
}

/// The name of a head of its own.
const HEAD: &str = "lm_head";

fn uses(module: &Module) -> Vec<Uses> {
    let mut uses = vec![Uses::default(); module.weights.len()];
    for node in &module.nodes {
        match (&node.op, node.args.get(1)) {
            (Op::Embed, Some(Operand::Weight(id))) => uses[id.0 as usize].table = true,
            (Op::Linear, Some(Operand::Weight(id))) => uses[id.0 as usize].filter = true,
            _ => {}
        }
    }
    uses
}
