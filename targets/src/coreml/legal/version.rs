//! The specification version of a package: the lowest that has what the module needs.

use diffulex_compiler::ir::{Encoding, Module, Op};

use crate::coreml::{Deployment, Interface, Options, Shapes, options};
use crate::refusal::Refusal;

/// The lowest version that suffices.
///
/// | version | for |
/// |---|---|
/// | 6 | nothing but what iOS 15 has, asked for: inputs and outputs are `fp32` |
/// | 7 | `fp16` inputs and outputs, `int8` weights |
/// | 9 | `int4` weights, fused attention, states, enumerated shapes of several inputs, several functions |
///
/// # Errors
/// Names the first weight or node that needs a newer system than the options ask for.
pub(in crate::coreml) fn version(module: &Module, options: &Options) -> Result<i32, Refusal> {
    let asked = options.deployment;
    let weights = module.weights.iter().filter_map(|weight| {
        let (needs, what) = match weight.ty.encoding {
            Encoding::Int8Row => (Deployment::Ios16, "a weight in int8"),
            encoding if encoding.is_int4() => (Deployment::Ios18, "a weight in int4"),
            _ => return None,
        };
        Some((needs, what, format!("@{}", weight.name)))
    });
    let fused = module.nodes.iter().filter(|node| matches!(node.op, Op::Attention { .. }));
    let fused = fused.map(|node| (Deployment::Ios18, "fused attention", node.place()));
    let kept = options.interface == Interface::State;
    let kept = kept.then(|| (Deployment::Ios18, "a cache that the package keeps", "cache".to_string()));
    let shapes = match options.shapes {
        Shapes::Static | Shapes::Range => None,
        Shapes::Enumerated => Some("a list of shapes for several inputs"),
        Shapes::Functions => Some("a package of several functions"),
    };
    let shapes = shapes.map(|what| (Deployment::Ios18, what, "shapes".to_string()));
    let mut lowest = if asked == Deployment::Ios15 { Deployment::Ios15 } else { Deployment::Ios16 };
    for (needs, what, place) in weights.chain(fused).chain(kept).chain(shapes) {
        if needs > asked {
            return Err(Refusal::Deployment { place, what, needs: needs.name(), deployment: asked.name() });
        }
        lowest = lowest.max(needs);
    }
    Ok(options::version(lowest))
}
