//! `quantize`: every weight gets the encoding that the recipe asks for, and filters the tokens that go with it.
//!
//! A table that is the head too becomes two weights where the two want different encodings; the second is `lm_head`.
//! Where filters do not take tokens in f32, one node that rounds serves all filters that read the same value:
//! `int8_token` for quantized filters with `dynamic-int8`, `cast {to = bf16}` for filters of bf16, `cast {to = f16}`
//! for filters of f16 with activations in f16, whose products are cast back.

use std::collections::HashMap;

use super::rewrite::Rewriter;
use super::{Note, Proposal};
use crate::ir::build::BuildError;
use crate::ir::{DType, Encoding, Module, NodeId, Op, Operand, WeightId};
use crate::quant::{Activations, Scheme};

/// What reads a weight.
#[derive(Clone, Copy, Default)]
struct Uses {
    table: bool,
    filter: bool,
}

/// The tokens that a filter is given, where they are not f32.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Tokens {
    Int8,
    BF16,
    F16,
}

impl Tokens {
    /// That of the tokens for a filter in this encoding.
    fn of(encoding: Encoding, scheme: &Scheme) -> Option<Tokens> {
        match (encoding, scheme.activations) {
            (Encoding::BF16, _) => Some(Tokens::BF16),
            (Encoding::F16, Activations::F16) => Some(Tokens::F16),
            (encoding, Activations::DynamicInt8) if !encoding.is_float() => Some(Tokens::Int8),
            _ => None,
        }
    }

    fn op(self) -> Op {
        match self {
            Tokens::Int8 => Op::Int8Token,
            Tokens::BF16 => Op::Cast { to: DType::BF16 },
            Tokens::F16 => Op::Cast { to: DType::F16 },
        }
    }

    fn name(self) -> &'static str {
        match self {
            Tokens::Int8 => "int8",
            Tokens::BF16 => "bf16",
            Tokens::F16 => "f16",
        }
    }
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
        weight.search = scheme.search(encoding);
    }

    let mut tokens: HashMap<(NodeId, Tokens), NodeId> = HashMap::new();
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
            let id = rewriter.new.weight(HEAD, split.ty, split.expr)?;
            rewriter.new.search(id, scheme.search(head));
            weight = id.into();
        }
        let Operand::Node(input) = rewriter.operand(Operand::Node(*x))? else { return Ok(None) };
        let Some(rounding) = Tokens::of(encoding, scheme) else {
            let args = [&[Operand::Node(input), weight], rest].concat();
            return rewriter.new.node(&node.name, Op::Linear, args).map(Some);
        };
        let given = match tokens.get(&(input, rounding)) {
            Some(known) => *known,
            None => {
                let name = format!("{}.{}", encoded.node(*x).name, rounding.name());
                let made = rewriter.new.node(&name, rounding.op(), [input.into()])?;
                tokens.insert((input, rounding), made);
                made
            }
        };
        notes.push(Note::done(node.place(), format!("its tokens are rounded to {}", rounding.name())));
        let args = [&[Operand::Node(given), weight], rest].concat();
        if rounding != Tokens::F16 {
            return rewriter.new.node(&node.name, Op::Linear, args).map(Some);
        }
        let product = rewriter.new.node(&format!("{}.f16", node.name), Op::Linear, args)?;
        rewriter.new.node(&node.name, Op::Cast { to: DType::F32 }, [product.into()]).map(Some)
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
