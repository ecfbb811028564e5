//! Which numbers of tokens a package is made for.

use diffulex_compiler::ir::{Dim, Module, Node, Op, Operand};

use crate::coreml::options::flexible;
use crate::coreml::schema::MAX_LENGTHS;
use crate::coreml::{Interface, Options, Shapes};
use crate::refusal::Refusal;

/// The numbers of tokens that a step may have, ascending; the module's bound is the last. Those of a range are its ends.
///
/// # Errors
/// When there are none that Core ML has, or what the options ask for does not go together.
pub(in crate::coreml) fn lengths(module: &Module, options: &Options) -> Result<Vec<u32>, Refusal> {
    let (bound, shapes) = (module.bounds.t as u32, options.shapes);
    let refuse =
        |place: &str, what: String, nearest: String| Err(Refusal::Shapes { place: place.into(), what, nearest });
    if options.interface == Interface::State && shapes != Shapes::Static {
        let what = format!("a cache that the package keeps has static shapes, and `{}` is asked for", shapes.name());
        return refuse("cache", what, "`static`, or a cache that the host keeps".into());
    }
    let listed = matches!(shapes, Shapes::Enumerated | Shapes::Functions);
    if !listed && !options.lengths.is_empty() {
        let what = format!("a list of lengths says nothing where shapes are `{}`", shapes.name());
        return refuse("lengths", what, "`enumerated` or `functions`".into());
    }
    if let Some(length) = options.lengths.iter().find(|length| **length == 0 || **length > bound) {
        let what = format!("a step of {length} tokens, where the module has 1 to {bound}");
        return refuse("lengths", what, if *length == 0 { "1".into() } else { bound.to_string() });
    }
    let mut lengths = options.lengths.clone();
    if shapes == Shapes::Range {
        lengths.push(1);
    }
    lengths.push(bound);
    lengths.sort_unstable();
    lengths.dedup();
    if lengths.len() > MAX_LENGTHS {
        let what = format!("{} numbers of tokens", lengths.len());
        return refuse("lengths", what, MAX_LENGTHS.to_string());
    }
    if flexible(shapes) {
        if lengths.len() == 1 {
            let what = format!("shapes are `{}`, and all steps have {bound} tokens", shapes.name());
            return refuse("shapes", what, "`static`".into());
        }
        if let Some(node) = module.nodes.iter().find(|node| infers_two(module, node)) {
            let what = "reshapes two axes that depend on the number of tokens".into();
            return refuse(&node.place(), what, "`functions`".into());
        }
    }
    Ok(lengths)
}

/// Whether a reshape would have to infer the sizes of two axes.
fn infers_two(module: &Module, node: &Node) -> bool {
    let two = |shape: &[Dim]| shape.iter().filter(|dim| dim.t > 0).count() > 1;
    let given = |arg: &Operand| two(&module.operand_type(*arg).shape);
    matches!(node.op, Op::Reshape { .. }) && (two(&node.ty.shape) || node.args.iter().any(given))
}
