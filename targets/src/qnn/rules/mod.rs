//! What ONNX Runtime's QNN provider and the HTP do badly with a graph, although ONNX allows it.
//!
//! That the provider takes a graph proves nothing: some forms are computed wrongly without an error. Every rule rests on
//! runs of the HTP emulator; `formats/qnn.md`, section 4, has the numbers. The file itself is looked at, so that
//! graphs of other writers are judged, too. What happens when a rule is broken:
//! *refused*: there is no session; *cpu*: nodes leave the HTP silently; *wrong*: other numbers come out, silently;
//! *imprecise*: digits are lost; *untried*: nobody knows.
//!
//! | name | effect | what breaks it |
//! |---|---|---|
//! | `opset` | refused | the default domain is not imported in a version from 21 to 26 |
//! | `ir-version` | untried | the IR version is not that of the opset |
//! | `functions` | untried | the model defines functions of its own |
//! | `duplicate-name` | refused | two values have one name |
//! | `missing-value` | refused | a value is used that nothing before makes |
//! | `dynamic-shape` | cpu | a value has a dimension that is not a fixed number |
//! | `run-time-shape` | cpu | a size, offset or axis is computed while the model runs |
//! | `high-rank` | untried | a value has more than four axes, or more than five where numbers only move |
//! | `element-type` | untried | a value is of an element that no tried graph has, or none has there |
//! | `bf16` | untried | bfloat16 is more than a stored weight that is cast to float |
//! | `context-size` | untried | the stored numbers have more than 2 GB |
//! | `narrow-htp` | refused | activations have 16 bits, for an HTP before v69 |
//! | `lone-quantize` | cpu | integers of a QuantizeLinear go elsewhere than into a DequantizeLinear or out |
//! | `lone-dequantize` | cpu | a DequantizeLinear reads computed integers, or nothing reads it |
//! | `unquantized-tensor` | cpu | floats go into or out of an op of a quantized graph as they are |
//! | `pair-parameters` | untried | a DequantizeLinear has another scale or zero point than its QuantizeLinear |
//! | `movement-parameters` | untried | an op that only moves numbers changes their scale or zero point |
//! | `movement-zero-point` | wrong | a Transpose or Concat changes the zero point |
//! | `activation-scale` | untried | something else than a weight has several scales, or one that is computed |
//! | `activation-type` | untried | something else than a weight is rounded to other than 8 or 16 bits |
//! | `int16-op` | cpu | Neg, Clip, Expand or Tile works on int16 |
//! | `untried-type` | untried | an op works on an integer type that it was not tried with |
//! | `weight-layout` | untried | a weight is not [K, N] with channels on axis 1, or blocks of K on axis 0 |
//! | `weight-path` | cpu | a weight reaches its MatMul by more than one DequantizeLinear |
//! | `weight-form` | cpu | a weight of this form does not go with activations of this type |
//! | `weight-only` | cpu | float activations meet integer weights that are not per tensor |
//! | `channel-zero-point` | cpu | weights with a scale per channel or block are not symmetric |
//! | `int4-zero-point` | wrong | int4 weights have no zero point, or one that is not 0 |
//! | `uint4-blocks` | wrong | uint4 weights are scaled blockwise |
//! | `block-scales` | wrong | scales of blocks are themselves integers, above 16 or not uint8 |
//! | `matmul-output` | cpu | a MatMul with a weight has another type on its result than on its activation |
//! | `dynamic-pair` | cpu | two computed operands of a MatMul have types that do not go together |
//! | `dynamic-u16` | imprecise | both computed operands of a MatMul are uint16: the second is cut to 8 bits |
//! | `int16-product` | cpu | a computed operand of a MatMul is int16, for an HTP before v73 |
//! | `asymmetric-int16` | cpu | an int16 operand of a MatMul has a zero point other than 0 |
//! | `unknown-op` | untried | an op is not known to run whole on the HTP |
//! | `contrib-op` | cpu | an op of another domain is rejected or unknown |
//! | `op-version` | refused | an op is younger than the opset |
//! | `norm-gamma` | cpu | the gain of an RMS norm has a type that does not go with the activation |
//! | `norm-axis` | cpu | an RMS norm is not over the last axis, or has more than four axes |
//! | `norm-rows` | wrong | an RMS norm of floats or 8 bits has four axes, of which the first two are not known to be 1 |
//! | `layer-norm-gamma` | cpu | the gain of a LayerNormalization is neither uint8 nor int16 |
//! | `decomposed-norm` | imprecise | a mean of rounded numbers: their squares need too wide a range |
//! | `sigmoid-grid` | wrong | the result of a Sigmoid is rounded to another grid than the HTP's own |
//! | `softmax-grid` | wrong | the result of a Softmax is rounded to a grid that ends below 1 or, with 8 bits, starts elsewhere than at 0 |
//! | `softmax-axis` | untried | a Softmax is not over the last axis |
//! | `float-only` | untried | an op that was tried with floats only works on rounded numbers |
//! | `boolean-mask` | cpu | a mask is boolean |
//! | `mask-grid` | imprecise | what is added to scores before a Softmax reaches below -1000, with 8 bits -200: steps are too wide |
//! | `table-scales` | cpu | a table that a Gather reads has several scales |
//! | `table-type` | untried | a table that a Gather reads has an untried type, or its indices have |
//! | `nbits` | untried | a MatMulNBits of a form that was not tried |
//! | `unreadable-numbers` | untried | scales or zero points that a rule needs cannot be read |

mod graph;
mod infer;
mod list;
mod model;
mod numbers;
mod ops;
mod pairs;
mod products;
#[cfg(test)]
mod tests;
mod weights;

use onnx_protobuf::{ModelProto, TensorProto};

use super::Soc;
use graph::Graph;
pub use list::{Effect, RULES, Rule};

/// A rule that a model breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Name of the rule, one of [`RULES`].
    pub rule: &'static str,
    /// What happens.
    pub effect: Effect,
    /// The node, by its name or what it makes, or another part of the model.
    pub place: String,
    /// What stands there.
    pub what: String,
    /// What to do instead.
    pub advice: &'static str,
}

/// Gives the bytes of a tensor that lies outside of the model, if they can be had.
pub type External<'a> = dyn Fn(&TensorProto) -> Option<&'a [u8]> + 'a;

/// The rules that a model breaks, in the order of the list, then of the nodes. Those about a chip are for `soc`.
pub fn check<'a>(model: &'a ModelProto, external: &'a External<'a>, soc: Option<&Soc>) -> Vec<Violation> {
    let mut found = Found::default();
    let graph = Graph::new(model, external, &mut found);
    model::check(model, &graph, soc, &mut found);
    for node in &graph.proto.node {
        pairs::check(&graph, node, &mut found);
        ops::check(&graph, node, &mut found);
        weights::check(&graph, node, &mut found);
        products::check(&graph, node, soc, &mut found);
    }
    found.sorted()
}

/// The violations so far.
#[derive(Default)]
struct Found(Vec<Violation>);

impl Found {
    fn add(&mut self, rule: &Rule, place: String, what: impl Into<String>) {
        let Rule { name, effect, advice, .. } = *rule;
        self.0.push(Violation { rule: name, effect, place, what: what.into(), advice });
    }

    /// All of them, in the order of the list.
    fn sorted(mut self) -> Vec<Violation> {
        self.0.sort_by_key(|violation| RULES.iter().position(|rule| rule.name == violation.rule));
        self.0
    }
}
