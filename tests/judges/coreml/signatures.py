"""The operations of ML Programs: their signatures for each specification version, and which types fit together."""

from typing import NamedTuple

from dtypes import bits_of, require

# One line an operation and the specification version that brought this form of it:
#   names | since | parameters | results
# A parameter is `name[marks]:type[rank]`. Marks: `!` compile-time constant, `?` may be left out, `*` a list.
# A type is a dtype or a letter of DOMAINS; within one operation a letter stands for one dtype.
# Rank: `()` scalar, `[]` vector, nothing: any. A result is a letter, a dtype, or `=p`: the dtype named by parameter p.
SIGNATURES = """
add sub mul real_div pow        | 6 | x:N y:N | N
maximum minimum                 | 6 | x:N y:N | N
equal not_equal                 | 6 | x:N y:N | bool
less less_equal                 | 6 | x:N y:N | bool
greater greater_equal           | 6 | x:N y:N | bool
logical_and logical_or          | 6 | x:bool y:bool | bool
logical_not                     | 6 | x:bool | bool
sqrt exp tanh sin cos erf       | 6 | x:F | F
sigmoid silu relu               | 6 | x:F | F
square abs                      | 6 | x:N | N
rsqrt                           | 6 | x:F epsilon!:F() | F
rsqrt                           | 8 | x:F epsilon!:G() | F
gelu                            | 6 | x:F mode!:string() | F
clip                            | 6 | x:F alpha!:F() beta!:F() | F
cast                            | 6 | x:A dtype!:string() | =dtype
cast                            | 8 | x:W dtype!:string() | =dtype
identity                        | 6 | x:W | W
softmax                         | 6 | x:F axis!:int32() | F
reduce_mean reduce_sum          | 6 | x:N axes!:int32[] keep_dims!:bool() | N
reduce_max reduce_min           | 6 | x:N axes!:int32[] keep_dims!:bool() | N
reduce_argmax                   | 6 | x:N axis!:int32() keep_dims!:bool() | int32
reduce_argmax                   | 8 | x:N axis!:int32() keep_dims!:bool() output_dtype!:string() | =output_dtype
topk                            | 6 | x:N k!:int32() axis!:int32() ascending!:bool() | N int32
topk                            | 7 | x:N k!:int32() axis!:int32() ascending!:bool() sort!:bool() return_indices!:bool() | N int32
topk                            | 8 | x:N k!:int32() axis!:int32() ascending!:bool() sort!:bool() return_indices!:bool() output_indices_dtype!:string() | N =output_indices_dtype
layer_norm                      | 6 | x:F axes!:int32[] gamma!?:F beta!?:F epsilon!:F() | F
layer_norm                      | 8 | x:F axes!:int32[] gamma!?:G beta!?:G epsilon!:G() | F
linear                          | 6 | x:N weight!:N bias!:N[] | N
linear                          | 8 | x:N weight!:M bias!:M[] | N
matmul                          | 6 | x:N y:N transpose_x!:bool() transpose_y!:bool() | N
matmul                          | 8 | x:N y:M transpose_x!:bool() transpose_y!:bool() | N
conv                            | 6 | x:F weight:F bias!?:F[] strides!:int32[] pad_type!:string() pad!:int32[] dilations!:int32[] groups!:int32() | F
conv                            | 8 | x:F weight:G bias?:G[] strides!:int32[] pad_type!:string() pad!:int32[] dilations!:int32[] groups!:int32() | F
scaled_dot_product_attention    | 9 | query:F key:F value:F attn_mask?:P | F
select                          | 6 | cond:bool a:A b:A | A
gather                          | 6 | x:N indices:int32 axis!:int32() | N
gather                          | 7 | x:N indices:I axis!:int32() batch_dims!:int32() | N
gather                          | 8 | x:V indices:J axis!:int32() batch_dims!:int32() validate_indices!:bool() | V
scatter                         | 6 | data:N indices:int32[] updates:N axis!:int32() mode!:string() | N
scatter                         | 8 | data:N indices:int32[] updates:N axis!:int32() mode!:string() validate_indices!:bool() | N
reshape                         | 6 | x:A shape:int32[] | A
reshape                         | 8 | x:W shape:U[] | W
shape                           | 6 | x:A | int32
transpose                       | 6 | x:A perm!:int32[] | A
transpose                       | 8 | x:W perm!:int32[] | W
expand_dims squeeze             | 6 | x:A axes!:int32[] | A
expand_dims squeeze             | 8 | x:W axes!:int32[] | W
tile                            | 6 | x:A reps:int32[] | A
concat                          | 6 | values*:A axis!:int32() interleave!:bool() | A
stack                           | 6 | values*:A axis!:int32() | A
split                           | 6 | x:A num_splits!?:int32() split_sizes!?:int32[] axis!:int32() | A...
slice_by_size                   | 6 | x:A begin:int32[] size:int32[] | A
slice_by_size                   | 8 | x:W begin:U[] size:U[] | W
slice_by_index                  | 6 | x:A begin:int32[] end:int32[] stride!?:int32[] begin_mask!?:bool[] end_mask!?:bool[] squeeze_mask!?:bool[] | A
slice_by_index                  | 8 | x:W begin:U[] end:U[] stride!?:U[] begin_mask!?:bool[] end_mask!?:bool[] squeeze_mask!?:bool[] | W
slice_update                    | 9 | x:W update:W begin:U[] end:U[] stride!?:U[] begin_mask!?:bool[] end_mask!?:bool[] squeeze_mask!?:bool[] | W
quantize                        | 8 | input:F zero_point!?:Q scale!:F axis!?:int32() output_dtype!:string() | =output_dtype
dequantize                      | 8 | input:Q zero_point!?:Q scale!:F axis!?:int32() | F
constexpr_affine_dequantize     | 7 | quantized_data!:Q zero_point!:Z scale!:F axis!:int32() | F
constexpr_cast                  | 7 | source_val!:fp16 output_dtype!:string() | =output_dtype
constexpr_lut_to_dense          | 7 | indices!:uint8[] lut!:L[] shape!:uint32[] | L
constexpr_lut_to_dense          | 9 | indices!:K lut!:L vector_axis!?:int32() | L
constexpr_blockwise_shift_scale | 9 | data!:S scale!:F offset!?:O | F
"""

DOMAINS = {
    letter: names.split()
    for letter, names in {
        "F": "fp16 fp32",
        "G": "fp16 fp32",
        "N": "fp16 fp32 int32",
        "M": "fp16 fp32 int32",
        "A": "fp16 fp32 int32 bool",
        "W": "fp16 fp32 int8 uint8 int16 uint16 int32 bool",
        "V": "fp16 fp32 int8 uint8 int16 uint16 int32",
        "I": "int32 int16 uint16",
        "J": "int32 int16 uint16 int8 uint8",
        "U": "int8 int16 int32",
        "P": "bool fp16 fp32",
        "Q": "int8 uint8",
        "Z": "int8 uint8 fp32",
        "L": "int8 uint8 fp16 fp32",
        "K": "uint1 uint2 uint3 uint4 uint6 uint8",
        "S": "int4 uint4 int8 uint8 fp16 fp32",
        "O": "int4 uint4 int8 uint8 fp16 fp32",
    }.items()
}

# What a parameter that names a dtype may say.
DTYPE_NAMES = {
    "cast": {6: "fp16 fp32 int32 bool", 8: "fp16 fp32 int8 uint8 int16 uint16 int32 bool"},
    "reduce_argmax": {8: "int32 uint16"},
    "topk": {8: "int32 uint16"},
    "quantize": {8: "int8 uint8"},
    "constexpr_cast": {7: "fp32"},
}


class Parameter(NamedTuple):
    name: str
    constant: bool
    optional: bool
    many: bool
    type: str
    rank: int | None

    @staticmethod
    def parse(text):
        name, kind = text.split(":")
        rank = 0 if kind.endswith("()") else 1 if kind.endswith("[]") else None
        return Parameter(name.rstrip("!?*"), "!" in name, "?" in name, "*" in name, kind.rstrip("()[]"), rank)

    def allowed(self):
        return DOMAINS.get(self.type, [self.type])


class Signature(NamedTuple):
    since: int
    parameters: dict
    results: list


def parse_signatures(text):
    table = {}
    for line in text.strip().splitlines():
        names, since, parameters, results = (part.strip() for part in line.split("|"))
        parsed = {p.name: p for p in map(Parameter.parse, parameters.split())}
        for name in names.split():
            table.setdefault(name, []).append(Signature(int(since), parsed, results.split()))
    return table


TABLE = parse_signatures(SIGNATURES)


def signature(name, version):
    """The form of operation `name` that a program of this specification version must use."""
    require(name in TABLE, "unknown operation")
    forms = [form for form in TABLE[name] if form.since <= version]
    require(forms, f"needs specification version {TABLE[name][0].since}, the model says {version}")
    return forms[-1]


def result_dtypes(name, form, given, texts, constant, count):
    """Checks the operands' types and returns the dtypes of the results.

    `given`: parameter -> types of its operands; `texts`: parameter -> its string; `constant`: those bound to constants.
    """
    letters = {}
    for parameter, types in given.items():
        spec = form.parameters[parameter]
        for dtype, shape in types:
            require(dtype in spec.allowed(), f"{parameter} is {dtype}, allowed: {' '.join(spec.allowed())}")
            require(spec.rank in (None, len(shape)), f"{parameter} has rank {len(shape)}, expected {spec.rank}")
            if spec.type in DOMAINS:
                first = letters.setdefault(spec.type, (parameter, dtype))
                require(first[1] == dtype, f"{first[0]} is {first[1]} but {parameter} is {dtype}")
    dtypes = {letter: dtype for letter, (_, dtype) in letters.items()}
    check_special(name, given, dtypes, constant)
    results = []
    for result in form.results:
        if result.startswith("="):
            allowed = DTYPE_NAMES[name][max(v for v in DTYPE_NAMES[name] if v <= form.since)]
            require(texts[result[1:]] in allowed.split(), f"{result[1:]} is {texts[result[1:]]!r}, allowed: {allowed}")
            results.append(texts[result[1:]])
        elif result.endswith("..."):
            results += [dtypes[result[0]]] * count
        else:
            results.append(dtypes.get(result, result))
    return results


def check_special(name, given, dtypes, constant):
    """What the table cannot say."""
    if name == "matmul" and dtypes.get("M", dtypes["N"]) != dtypes["N"]:
        one_constant = len({"x", "y"} & constant) == 1
        require(one_constant, f"x is {dtypes['N']} but y is {dtypes['M']}, and not exactly one is constant")
        dtypes["N"] = dtypes["M"] if "x" in constant else dtypes["N"]
    if name == "scaled_dot_product_attention" and dtypes.get("P", "bool") != "bool":
        require(dtypes["P"] == dtypes["F"], f"query is {dtypes['F']} but attn_mask is {dtypes['P']}")
    if name == "constexpr_blockwise_shift_scale" and not dtypes.get("O", "fp").startswith("fp"):
        require(dtypes["O"] == dtypes["S"], f"data is {dtypes['S']} but offset is {dtypes['O']}")
    if name == "constexpr_affine_dequantize" and not dtypes["Z"].startswith("fp"):
        require(dtypes["Z"] == dtypes["Q"], f"quantized_data is {dtypes['Q']} but zero_point is {dtypes['Z']}")
    if name == "constexpr_lut_to_dense" and "K" in dtypes:
        entries, bits = given["lut"][0].shape[-2:-1], bits_of(dtypes["K"])
        require(entries == (2**bits,), f"lut has {entries} entries for {dtypes['K']} indices")
    if name in ("real_div", "pow"):
        require(dtypes["N"] != "int32", "the documents do not define it for int32")
