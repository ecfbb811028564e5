//! The rules themselves.

/// What happens to a model that breaks a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// No session comes to be.
    Refused,
    /// Nodes leave the HTP for the CPU, without an error unless that is forbidden.
    Cpu,
    /// The HTP takes it and computes something else, without an error.
    Wrong,
    /// The HTP takes it and loses digits that the same graph keeps on the CPU, or that a better one keeps.
    Imprecise,
    /// Nobody tried it here.
    Untried,
}

/// A rule that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// What happens when it is broken.
    pub effect: Effect,
    /// What a model has that breaks it.
    pub meaning: &'static str,
    /// What to do instead.
    pub advice: &'static str,
}

impl Effect {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Effect::Refused => "refused",
            Effect::Cpu => "cpu",
            Effect::Wrong => "wrong",
            Effect::Imprecise => "imprecise",
            Effect::Untried => "untried",
        }
    }
}

/// Declares the rules and their list, in the same order.
macro_rules! rules {
    ($($id:ident $name:literal $effect:ident $meaning:literal, $advice:literal;)*) => {
        $(pub(super) const $id: Rule =
            Rule { name: $name, effect: Effect::$effect, meaning: $meaning, advice: $advice };)*
        /// Every rule that there is.
        pub const RULES: &[Rule] = &[$($id),*];
    };
}

rules! {
    OPSET "opset" Refused "the default domain is not imported in a version from 21 to 26",
        "write opset 21, the first with integers of 16 and 4 bits";
    IR_VERSION "ir-version" Untried "the IR version is not that of the opset",
        "write IR version 10 for opset 21 and 22, 11 for 23, 12 for 24, 13 for 25 and 26";
    FUNCTIONS "functions" Untried "the model defines functions of its own", "write their nodes in place";
    DUPLICATE_NAME "duplicate-name" Refused "two values have one name", "give each a name of its own";
    MISSING_VALUE "missing-value" Refused "a value is used that nothing before makes",
        "write nodes in the order of execution";
    DYNAMIC_SHAPE "dynamic-shape" Cpu "a value has a dimension that is not a fixed number",
        "fix every dimension: one model for each length of block and cache";
    RUN_TIME_SHAPE "run-time-shape" Cpu "a size, offset or axis is computed while the model runs",
        "store it as a constant";
    HIGH_RANK "high-rank" Untried "a value has more than four axes, or more than five where numbers only move",
        "reshape it to four";
    ELEMENT_TYPE "element-type" Untried "a value is of an element that no tried graph has, or none has there",
        "use float, float16, or integers of 8 or 16 bits; int32 and int64 for indices";
    BF16 "bf16" Untried "bfloat16 is more than a stored weight that is cast to float", "store float16 instead";
    CONTEXT_SIZE "context-size" Untried "the stored numbers have more than 2 GB", "split the model";
    NARROW_HTP "narrow-htp" Refused "activations have 16 bits, for an HTP before v69",
        "use 8-bit activations, or a newer chip";
    LONE_QUANTIZE "lone-quantize" Cpu "integers of a QuantizeLinear go elsewhere than into a DequantizeLinear or out",
        "let a DequantizeLinear follow";
    LONE_DEQUANTIZE "lone-dequantize" Cpu "a DequantizeLinear reads computed integers, or nothing reads it",
        "put it behind a QuantizeLinear, an input or a constant, and in front of an op or output";
    UNQUANTIZED_TENSOR "unquantized-tensor" Cpu "floats go into or out of an op of a quantized graph as they are",
        "put QuantizeLinear and DequantizeLinear between, with the same parameters";
    PAIR_PARAMETERS "pair-parameters" Untried "a DequantizeLinear has another scale or zero point than its QuantizeLinear",
        "use the same constants for both";
    MOVEMENT_PARAMETERS "movement-parameters" Untried "an op that only moves numbers changes their scale or zero point",
        "use the same ones for all its inputs and results";
    MOVEMENT_ZERO_POINT "movement-zero-point" Wrong "a Transpose or Concat changes the zero point",
        "use the same scale and zero point for all its inputs and results";
    ACTIVATION_SCALE "activation-scale" Untried "something else than a weight has several scales, or one that is computed",
        "use one stored scale and zero point";
    ACTIVATION_TYPE "activation-type" Untried "something else than a weight is rounded to other than 8 or 16 bits",
        "use uint16 or uint8";
    INT16_OP "int16-op" Cpu "Neg, Clip, Expand or Tile works on int16",
        "use uint16; move a sign into the constant next to it, and repeat heads by Slice and Concat";
    UNTRIED_TYPE "untried-type" Untried "an op works on an integer type that it was not tried with",
        "use uint16 or uint8";
    WEIGHT_LAYOUT "weight-layout" Untried "a weight is not [K, N] with channels on axis 1, or blocks of K on axis 0",
        "transpose it; its scales are [N], or [K/block, N]";
    WEIGHT_PATH "weight-path" Cpu "a weight reaches its MatMul by more than one DequantizeLinear",
        "store it in the form that the MatMul reads";
    WEIGHT_FORM "weight-form" Cpu "a weight of this form does not go with activations of this type",
        "use int8 per channel; with uint16 activations also int4 per channel or in blocks";
    WEIGHT_ONLY "weight-only" Cpu "float activations meet integer weights that are not per tensor",
        "use MatMulNBits of com.microsoft, or store float16";
    CHANNEL_ZERO_POINT "channel-zero-point" Cpu "weights with a scale per channel or block are not symmetric",
        "write zero points of 0, for uint8 of 128";
    INT4_ZERO_POINT "int4-zero-point" Wrong "int4 weights have no zero point, or one that is not 0",
        "write zero points, all 0";
    UINT4_BLOCKS "uint4-blocks" Wrong "uint4 weights are scaled blockwise", "use int4 from -8 to 7";
    BLOCK_SCALES "block-scales" Wrong "scales of blocks are themselves integers, above 16 or not uint8",
        "limit them to 4 bits, 1 to 15";
    MATMUL_OUTPUT "matmul-output" Cpu "a MatMul with a weight has another type on its result than on its activation",
        "round the result to the type of the activation, then convert: DequantizeLinear, QuantizeLinear";
    DYNAMIC_PAIR "dynamic-pair" Cpu "two computed operands of a MatMul have types that do not go together",
        "use uint16 with uint8 or symmetric int16, or 8 bits for both";
    DYNAMIC_U16 "dynamic-u16" Imprecise "both computed operands of a MatMul are uint16: the second is cut to 8 bits",
        "round the second to symmetric int16, which is exact, or to uint8";
    INT16_PRODUCT "int16-product" Cpu "a computed operand of a MatMul is int16, for an HTP before v73",
        "round it to uint8, or use a newer chip";
    ASYMMETRIC_INT16 "asymmetric-int16" Cpu "an int16 operand of a MatMul has a zero point other than 0",
        "make it symmetric";
    UNKNOWN_OP "unknown-op" Untried "an op is not known to run whole on the HTP", "write it by ops that are";
    CONTRIB_OP "contrib-op" Cpu "an op of another domain is rejected or unknown",
        "use ops of the default domain, and MatMulNBits";
    OP_VERSION "op-version" Refused "an op is younger than the opset", "raise the opset, or write it by older ops";
    NORM_GAMMA "norm-gamma" Cpu "the gain of an RMS norm has a type that does not go with the activation",
        "use uint16 or uint8 for uint16, uint8 for uint8, int16 or uint8 for int16";
    NORM_AXIS "norm-axis" Cpu "an RMS norm is not over the last axis, or has more than four axes",
        "transpose or reshape around it";
    NORM_ROWS "norm-rows" Wrong "an RMS norm of floats or 8 bits has four axes, of which the first two are not known to be 1",
        "reshape around it: [1, H, T, D] to [1, 1, H·T, D]";
    LAYER_NORM_GAMMA "layer-norm-gamma" Cpu "the gain of a LayerNormalization is neither uint8 nor int16",
        "use uint8 or int16";
    DECOMPOSED_NORM "decomposed-norm" Imprecise "a mean of rounded numbers: their squares need too wide a range",
        "use SimplifiedLayerNormalization";
    SIGMOID_GRID "sigmoid-grid" Wrong "the result of a Sigmoid is rounded to another grid than the HTP's own",
        "use scale 1/65536 for uint16, 1/256 for uint8, zero point 0";
    SOFTMAX_GRID "softmax-grid" Wrong "the result of a Softmax is rounded to a grid that ends below 1 or, with 8 bits, starts elsewhere than at 0",
        "use scale 1/65536 for uint16, 1/256 for uint8, zero point 0";
    SOFTMAX_AXIS "softmax-axis" Untried "a Softmax is not over the last axis", "transpose around it";
    FLOAT_ONLY "float-only" Untried "an op that was tried with floats only works on rounded numbers",
        "write it by MatMul, Add, Mul, Softmax, Slice, Neg and Concat";
    BOOLEAN_MASK "boolean-mask" Cpu "a mask is boolean", "add a mask of 0 and about -50";
    MASK_GRID "mask-grid" Imprecise "what is added to scores before a Softmax reaches below -1000, with 8 bits -200: steps are too wide",
        "let the mask be about -50 where keys are hidden";
    TABLE_SCALES "table-scales" Cpu "a table that a Gather reads has several scales", "use one scale";
    TABLE_TYPE "table-type" Untried "a table that a Gather reads has an untried type, or its indices have",
        "use float, uint16, uint8, int16 or int8, indices of int32 or int64";
    NBITS "nbits" Untried "a MatMulNBits of a form that was not tried",
        "use 4 bits in blocks of 16, 32, 64 or 128, or 8 bits in blocks of 32 or 64, without zero points, on floats";
    UNREADABLE_NUMBERS "unreadable-numbers" Untried "scales or zero points that a rule needs cannot be read",
        "store as many numbers as the dimensions say";
}
