//! The meaning of each op, against numbers worked out by hand or a formula that is plainly right.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod small;

use std::collections::HashMap;

use diffulex_compiler::checkpoint::Checkpoint;
use diffulex_compiler::ir::interpret::{Array, Inputs, InterpretError};
use diffulex_compiler::ir::types::{DType, Dim, Encoding, Sizes};
use diffulex_compiler::ir::{
    self, Builder, CacheId, CacheKind, CacheShape, Module, Op, Stage, WeightError, WeightExpr, WeightType, interpret,
};
use diffulex_compiler::passes;
use diffulex_compiler::quant::{Grid, GridType, Scheme};
use small::{Choices, Random, Tensors, fixed, fixture, ids};

fn array(shape: &[usize], data: &[f32]) -> Array {
    assert_eq!(data.len(), shape.iter().product::<usize>());
    Array { shape: shape.to_vec(), data: data.to_vec() }
}

/// What `op` makes of these arrays.
fn run(op: Op, args: &[Array]) -> Result<Array, InterpretError> {
    let cache = CacheShape { layers: 0, kv_heads: 0, head_dim: 0 };
    let mut b = Builder::new(Module::new("m", Stage::Fused, Sizes { t: 1, c: 1, r: 0 }, cache));
    let mut values = HashMap::from([("tokens".to_string(), array(&[1, 1], &[0.0]))]);
    let mut operands = Vec::new();
    for (i, arg) in args.iter().enumerate() {
        let counts = matches!(op, Op::Embed | Op::RopeCos { .. } | Op::RopeSin { .. }) && i == 0
            || matches!(op, Op::GatherRows) && i == 1;
        let name = format!("in{i}");
        operands.push(b.input(&name, fixed(if counts { DType::I32 } else { DType::F32 }, &arg.shape)).into());
        values.insert(name, arg.clone());
    }
    let out = b.node("out", op, operands).unwrap();
    let outputs = interpret(&b.finish([out]), &Tensors::default(), &Inputs { values, caches: HashMap::new() })?;
    Ok(outputs.values[0].clone())
}

fn check(op: Op, args: &[Array], expected: &Array) {
    let got = run(op.clone(), args).unwrap();
    assert_eq!(got.shape, expected.shape, "{op:?}");
    for (i, (got, want)) in got.data.iter().zip(&expected.data).enumerate() {
        let close = (got - want).abs() <= 1e-6 * want.abs().max(1.0) || got.to_bits() == want.to_bits();
        assert!(close, "{op:?}: number {i} is {got}, not {want}");
    }
}

#[test]
fn one_number_at_a_time() {
    let x = array(&[2, 2], &[-2.0, 0.0, 0.5, 3.0]);
    let y = array(&[2], &[4.0, -0.5]);
    for (op, expected) in [
        (Op::Neg, [2.0, -0.0, -0.5, -3.0]),
        (Op::Square, [4.0, 0.0, 0.25, 9.0]),
        (Op::Sigmoid, [0.119_202_92, 0.5, 0.622_459_35, 0.952_574_13]),
        (Op::Silu, [-0.238_405_84, 0.0, 0.311_229_67, 2.857_722_4]),
    ] {
        check(op, std::slice::from_ref(&x), &array(&[2, 2], &expected));
    }
    check(Op::Rsqrt, &[array(&[3], &[4.0, 0.25, 1.0])], &array(&[3], &[0.5, 2.0, 1.0]));
    for (op, expected) in [
        (Op::Add, [2.0, -0.5, 4.5, 2.5]),
        (Op::Sub, [-6.0, 0.5, -3.5, 3.5]),
        (Op::Mul, [-8.0, -0.0, 2.0, -1.5]),
        (Op::Div, [-0.5, -0.0, 0.125, -6.0]),
    ] {
        check(op, &[x.clone(), y.clone()], &array(&[2, 2], &expected));
    }
    // From -1 to 4 there are 255 steps of 1/51; 0 is level -77. A row without a range stays what it is.
    let x = array(&[2, 4], &[-1.0, 0.0, 0.49 / 51.0, 4.0, 0.0, 0.0, 0.0, 0.0]);
    check(Op::Int8Token, &[x], &array(&[2, 4], &[-1.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0]));
    // 255 steps of 1/25.5 from 0; ties go to the even level.
    let x = array(&[1, 4], &[10.0, 0.5 / 25.5, 1.5 / 25.5, 2.0]);
    check(Op::Int8Token, &[x], &array(&[1, 4], &[10.0, 0.0, 2.0 / 25.5, 2.0]));
    // Ties go to the even number; what lies outside becomes an end.
    let grid = Grid { ty: GridType::U8, scale: 0.5, zero: 4 };
    let x = array(&[5], &[0.25, 0.75, -1e30, 1e30, -0.6]);
    check(Op::FakeQuantize(grid), &[x], &array(&[5], &[0.0, 1.0, -2.0, 125.5, -0.5]));
    // A large number must not overflow on the way.
    check(Op::Silu, &[array(&[2], &[200.0, -200.0])], &array(&[2], &[200.0, -0.0]));
}

#[test]
fn broadcasting_stretches_axes_of_one() {
    let (column, row) = (array(&[2, 1], &[10.0, 20.0]), array(&[1, 3], &[1.0, 2.0, 3.0]));
    check(Op::Add, &[column.clone(), row.clone()], &array(&[2, 3], &[11.0, 12.0, 13.0, 21.0, 22.0, 23.0]));
    check(Op::Sub, &[row, column], &array(&[2, 3], &[-9.0, -8.0, -7.0, -19.0, -18.0, -17.0]));
    let (number, cube) = (array(&[], &[2.0]), array(&[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]));
    check(Op::Mul, &[cube.clone(), number], &array(&[2, 1, 2], &[2.0, 4.0, 6.0, 8.0]));
    let middle = array(&[2, 1], &[1.0, 100.0]);
    check(Op::Mul, &[cube, middle], &array(&[2, 2, 2], &[1.0, 2.0, 100.0, 200.0, 3.0, 4.0, 300.0, 400.0]));
}

#[test]
fn a_row_at_a_time() {
    let x = array(&[2, 2], &[3.0, 4.0, 0.0, -2.0]);
    let gain = array(&[2], &[1.0, 10.0]);
    // sqrt((9 + 16) / 2) = 3.5355339; with eps the second row is divided by sqrt(2 + 2).
    check(
        Op::RmsNorm { eps: 0.0 },
        &[x.clone(), gain.clone()],
        &array(&[2, 2], &[0.848_528_1, 11.313_708, 0.0, -14.142_136]),
    );
    check(Op::RmsNorm { eps: 2.0 }, &[array(&[2], &[0.0, -2.0]), gain], &array(&[2], &[0.0, -10.0]));
    check(Op::Mean, std::slice::from_ref(&x), &array(&[2, 1], &[3.5, -1.0]));
    let even = array(&[2, 2], &[0.268_941_43, 0.731_058_6, 0.880_797, 0.119_202_92]);
    check(Op::Softmax, &[x], &even);
    let inf = f32::NEG_INFINITY;
    check(Op::Softmax, &[array(&[3], &[1000.0, inf, 1000.0])], &array(&[3], &[0.5, 0.0, 0.5]));
    let (a, b) = ([1.0, -1.0], [3.0, 10.0]);
    let swiglu = array(&[1, 2], &[0.731_058_6 * 3.0, -0.268_941_43 * 10.0]);
    check(Op::Swiglu, &[array(&[1, 4], &[a[0], a[1], b[0], b[1]])], &swiglu);
}

#[test]
fn products() {
    // A weight is stored [outputs, inputs].
    let (x, w) = (array(&[1, 2, 2], &[1.0, 2.0, 3.0, 4.0]), array(&[3, 2], &[1.0, 0.0, 0.0, 1.0, 10.0, -1.0]));
    let product = array(&[1, 2, 3], &[1.0, 2.0, 8.0, 3.0, 4.0, 26.0]);
    check(Op::Linear, &[x.clone(), w.clone()], &product);
    let bias = array(&[3], &[100.0, 200.0, 300.0]);
    check(Op::Linear, &[x.clone(), w, bias], &array(&[1, 2, 3], &[101.0, 202.0, 308.0, 103.0, 204.0, 326.0]));

    let (a, b) = (array(&[2, 2], &[1.0, 2.0, 3.0, 4.0]), array(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    check(Op::Matmul { transpose: false }, &[a.clone(), b], &array(&[2, 3], &[9.0, 12.0, 15.0, 19.0, 26.0, 33.0]));
    let b = array(&[3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    check(Op::Matmul { transpose: true }, &[a.clone(), b], &array(&[2, 3], &[9.0, 12.0, 15.0, 19.0, 26.0, 33.0]));
    // The leading axes broadcast: the same matrix twice.
    let two = array(&[2, 2, 1], &[1.0, 1.0, 1.0, -1.0]);
    check(Op::Matmul { transpose: false }, &[a, two], &array(&[2, 2, 1], &[3.0, 7.0, -1.0, -1.0]));
}

#[test]
fn choosing_and_moving() {
    let table = array(&[3, 2], &[0.0, 1.0, 10.0, 11.0, 20.0, 21.0]);
    let rows =
        |picked: &[usize]| picked.iter().flat_map(|i| [i * 10, i * 10 + 1]).map(|x| x as f32).collect::<Vec<_>>();
    check(Op::Embed, &[ids([2, 0], &[1, 2]), table.clone()], &array(&[1, 2, 2], &rows(&[2, 0])));
    let batch = Array { shape: vec![1, 3, 2], ..table.clone() };
    check(Op::GatherRows, &[batch.clone(), ids([1, 1, 2], &[3])], &array(&[1, 3, 2], &rows(&[1, 1, 2])));
    check(Op::GatherRows, &[batch, ids([], &[0])], &array(&[1, 0, 2], &[]));

    let x = array(&[1, 2, 4], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    let heads = array(&[1, 2, 2, 2], &[0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]);
    check(Op::Heads { n: 2 }, std::slice::from_ref(&x), &heads);
    check(Op::MergeHeads, &[heads], &x);
    let turned = array(&[4, 1, 2], &[0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]);
    check(Op::Transpose { perm: vec![2, 0, 1] }, std::slice::from_ref(&x), &turned);
    let shape = vec![Dim::fixed(4), Dim::fixed(2)];
    check(Op::Reshape { shape }, std::slice::from_ref(&x), &Array { shape: vec![4, 2], ..x.clone() });
    let slice = |axis, start, end| Op::Slice { axis, start, end };
    check(slice(2, 1, 3), std::slice::from_ref(&x), &array(&[1, 2, 2], &[1.0, 2.0, 5.0, 6.0]));
    check(slice(1, 1, 2), std::slice::from_ref(&x), &array(&[1, 1, 4], &[4.0, 5.0, 6.0, 7.0]));
    check(slice(0, 0, 1), &[array(&[2, 0], &[])], &array(&[1, 0], &[]));
    let (a, b) = (array(&[2, 1], &[1.0, 2.0]), array(&[2, 2], &[3.0, 4.0, 5.0, 6.0]));
    check(Op::Concat { axis: 1 }, &[a.clone(), b], &array(&[2, 3], &[1.0, 3.0, 4.0, 2.0, 5.0, 6.0]));
    check(Op::Concat { axis: 0 }, &[a.clone(), a.clone(), a], &array(&[6, 1], &[1.0, 2.0, 1.0, 2.0, 1.0, 2.0]));
    let inf = f32::INFINITY;
    for (to, expected) in [
        (DType::F32, [1.0009, -2.7, 65520.0, -1e-8]),
        (DType::F16, [1.000_976_6, -2.699_218_8, inf, -0.0]),
        (DType::BF16, [1.0, -2.703_125, 65536.0, -1e-8]),
        (DType::I32, [1.0, -2.0, 65520.0, -0.0]),
        (DType::I64, [1.0, -2.0, 65520.0, -0.0]),
    ] {
        check(Op::Cast { to }, &[array(&[4], &[1.0009, -2.7, 65520.0, -1e-8])], &array(&[4], &expected));
    }
}

#[test]
fn rotation() {
    // Frequencies 1 and 1/100: theta^(-2j/4) for theta 1e4.
    let angles = [0.0f64, 3.0].map(|p| [p, p / 100.0, p, p / 100.0]).concat();
    let table = |f: fn(f64) -> f64| array(&[1, 1, 2, 4], &angles.iter().map(|a| f(*a) as f32).collect::<Vec<_>>());
    let (cos, sin) = (table(libm_cos), table(libm_sin));
    let positions = ids([0, 3], &[1, 2]);
    check(Op::RopeCos { dim: 4, theta: 1e4 }, std::slice::from_ref(&positions), &cos);
    check(Op::RopeSin { dim: 4, theta: 1e4 }, &[positions], &sin);

    // Dimension j pairs with j + 2: (1, 30) and (20, 4) at position 3.
    let x = array(&[1, 1, 2, 4], &[5.0, 6.0, 7.0, 8.0, 1.0, 20.0, 30.0, 4.0]);
    let (c, s) = (&cos.data[4..], &sin.data[4..]);
    let turned = [c[0] - 30.0 * s[0], 20.0 * c[1] - 4.0 * s[1], 30.0 * c[0] + s[0], 4.0 * c[1] + 20.0 * s[1]];
    let expected = [&[5.0, 6.0, 7.0, 8.0], &turned[..]].concat();
    check(Op::Rope, &[x, cos, sin], &array(&[1, 1, 2, 4], &expected));
}

fn libm_cos(x: f64) -> f64 {
    diffulex_compiler::math::cos(x)
}

fn libm_sin(x: f64) -> f64 {
    diffulex_compiler::math::sin(x)
}

#[test]
fn attention_by_hand() {
    // Two query heads share one key/value head; the second key is hidden from the second row.
    let q = array(&[1, 2, 2, 1], &[1.0, 1.0, 0.0, 2.0]);
    let k = array(&[1, 1, 2, 1], &[2.0, 4.0]);
    let v = array(&[1, 1, 2, 1], &[10.0, 20.0]);
    let mask = array(&[1, 1, 2, 2], &[0.0, 0.0, 0.0, f32::NEG_INFINITY]);
    // Scores at half scale: head 0 row 0 (1, 2), head 1 row 0 (0, 0).
    let expected = array(&[1, 2, 2, 1], &[10.0 * 0.268_941_43 + 20.0 * 0.731_058_6, 10.0, 15.0, 10.0]);
    check(Op::Attention { scale: 0.5 }, &[q, k, v, mask], &expected);
}

/// Attention is what its parts say, head by head: scores, scale, mask, softmax, mix.
#[test]
fn attention_is_its_parts() {
    let mut random = Random(7);
    for [h, kv, t, s, d] in [[1, 1, 1, 1, 2], [3, 3, 2, 4, 2], [4, 2, 3, 5, 4], [6, 2, 1, 3, 6], [6, 1, 2, 2, 2]] {
        let (q, k) = (random.array(&[1, h, t, d]), random.array(&[1, kv, s, d]));
        let (v, mask) = (random.array(&[1, kv, s, d]), random.array(&[1, 1, t, s]));
        let parts = |x: &Array, head: usize, rows: usize| Array {
            shape: vec![1, 1, rows, d],
            data: x.data[head * rows * d..][..rows * d].to_vec(),
        };
        let mut expected = Array { shape: q.shape.clone(), data: vec![] };
        for head in 0..h {
            let own = head / (h / kv);
            let (q, k, v) = (parts(&q, head, t), parts(&k, own, s), parts(&v, own, s));
            let scores = run(Op::Matmul { transpose: true }, &[q, k]).unwrap();
            let scaled = run(Op::Mul, &[scores, array(&[], &[0.3])]).unwrap();
            let masked = run(Op::Add, &[scaled, mask.clone()]).unwrap();
            let weights = run(Op::Softmax, &[masked]).unwrap();
            expected.data.extend(run(Op::Matmul { transpose: false }, &[weights, v]).unwrap().data);
        }
        check(Op::Attention { scale: 0.3 }, &[q, k, v, mask], &expected);
    }
}

/// A module of one layer that only caches: the new rows, and what is read after the committed ones.
#[test]
fn caches_hold_committed_rows_first() {
    let cache = CacheShape { layers: 1, kv_heads: 2, head_dim: 1 };
    let mut b = Builder::new(Module::new("m", Stage::Fused, Sizes { t: 4, c: 4, r: 0 }, cache));
    let one = Dim::fixed(1);
    b.input("tokens", ir::ValueType::new(DType::I32, [one, Dim::T]));
    let rows = b.input("new", ir::ValueType::f32([one, Dim::fixed(2), Dim::T, one]));
    b.layer = Some(0);
    let v = b.node("v", Op::Cached, [CacheId::v(0), rows.into()]).unwrap();
    let k = b.node("k", Op::Cached, [CacheId::k(0), rows.into()]).unwrap();
    let module = b.finish([k]);
    ir::verify(&module).unwrap();

    let (k_id, v_id) = (CacheId { layer: 0, kind: CacheKind::K }, CacheId { layer: 0, kind: CacheKind::V });
    let new = array(&[1, 2, 1, 1], &[7.0, 8.0]);
    let values = HashMap::from([("tokens".into(), ids([0], &[1, 1])), ("new".into(), new.clone())]);
    let committed = array(&[1, 2, 2, 1], &[1.0, 2.0, 3.0, 4.0]);
    let caches = HashMap::from([(k_id, committed.clone()), (v_id, array(&[1, 2, 2, 1], &[0.0; 4]))]);
    let inputs = Inputs { values, caches };
    let outputs = interpret(&module, &Tensors::default(), &inputs).unwrap();
    assert_eq!(outputs.values, [array(&[1, 2, 3, 1], &[1.0, 2.0, 7.0, 3.0, 4.0, 8.0])]);
    assert_eq!(outputs.nodes[v.0 as usize].data, [0.0, 0.0, 7.0, 0.0, 0.0, 8.0]);
    assert_eq!(outputs.nodes[k.0 as usize], outputs.values[0]);
    assert_eq!(outputs.new_rows, HashMap::from([(k_id, new.clone()), (v_id, new)]));

    // Caches that do not fit are an error, whatever is wrong with them.
    for (id, wrong) in [
        (k_id, array(&[1, 1, 2, 1], &[0.0; 2])),
        (k_id, array(&[1, 2, 2, 2], &[0.0; 8])),
        (k_id, array(&[1, 2, 3, 1], &[0.0; 6])),
        (v_id, array(&[1, 2, 1, 1], &[0.0; 2])),
        (v_id, array(&[4], &[0.0; 4])),
        (v_id, Array { shape: vec![1, 2, 2, 1], data: vec![0.0; 3] }),
    ] {
        let mut inputs = inputs.clone();
        inputs.caches.insert(id, wrong.clone());
        assert!(matches!(interpret(&module, &Tensors::default(), &inputs), Err(InterpretError::Input(_))), "{wrong:?}");
    }
    let mut inputs = inputs;
    inputs.caches.remove(&v_id);
    assert_eq!(
        interpret(&module, &Tensors::default(), &inputs).unwrap_err().to_string(),
        "input `$v.0` is absent or misshapen"
    );
}

#[test]
fn indices_outside_their_table_are_named() {
    let table = array(&[3, 2], &[0.0; 6]);
    for bad in [3.0, 1e30, -1.0, f32::NAN, f32::INFINITY] {
        let error = run(Op::Embed, &[array(&[1, 2], &[0.0, bad]), table.clone()]).unwrap_err();
        assert!(matches!(error, InterpretError::Index { rows: 3, .. }), "{bad}: {error}");
        assert!(error.to_string().starts_with("%out: "), "{error}");
    }
}

/// The numbers of one weight, as a module reads them.
fn weight(source: &Tensors, ty: WeightType, expr: WeightExpr) -> Result<Vec<f32>, InterpretError> {
    let cache = CacheShape { layers: 0, kv_heads: 0, head_dim: 0 };
    let mut b = Builder::new(Module::new("m", Stage::Fused, Sizes { t: 1, c: 1, r: 0 }, cache));
    b.input("tokens", fixed(DType::I32, &[1, 1]));
    let weight = b.weight("w", ty, expr).unwrap();
    let zero = b.weight("zero", WeightType::new(Encoding::F32, [1]), WeightExpr::Fill(0.0)).unwrap();
    let out = b.node("out", Op::Add, [weight.into(), zero.into()]).unwrap();
    let values = HashMap::from([("tokens".to_string(), ids([0], &[1, 1]))]);
    let outputs = interpret(&b.finish([out]), source, &Inputs { values, caches: HashMap::new() })?;
    Ok(outputs.values[0].data.clone())
}

#[test]
fn weights_are_what_their_expressions_say() {
    let mut source = Tensors::default();
    source.add("a", WeightType::new(Encoding::F32, [2, 2]), &[1.0, 2.0, 3.0, 4.1]);
    source.add("b", WeightType::new(Encoding::BF16, [1, 2]), &[5.0, 6.0]);
    source.add("v", WeightType::new(Encoding::F16, [2]), &[7.0, 65504.0]);
    let (a, b, v) = ["a", "b", "v"].map(|name| WeightExpr::Stored(name.into())).into();
    let rows = |parts: &[&WeightExpr]| WeightExpr::Rows(parts.iter().map(|&p| p.clone()).collect());
    let scale = |inner: &WeightExpr, by| WeightExpr::Scale(Box::new(inner.clone()), by);
    let (f32, f16, bf16) = (Encoding::F32, Encoding::F16, Encoding::BF16);
    let cos = diffulex_compiler::math::cos(0.01) as f32;
    for (encoding, shape, expr, expected) in [
        (f32, vec![2, 2], a.clone(), vec![1.0, 2.0, 3.0, 4.1]),
        (bf16, vec![2, 2], a.clone(), vec![1.0, 2.0, 3.0, 4.09375]),
        (f16, vec![2, 2], a.clone(), vec![1.0, 2.0, 3.0, 4.101_562_5]),
        (f32, vec![3, 2], rows(&[&b, &a]), vec![5.0, 6.0, 1.0, 2.0, 3.0, 4.1]),
        (
            f32,
            vec![4, 2],
            rows(&[&rows(&[&b]), &WeightExpr::Fill(9.0), &scale(&rows(&[&b, &b]), 2.0)]),
            vec![5.0, 6.0, 9.0, 9.0, 10.0, 12.0, 10.0, 12.0],
        ),
        (f32, vec![4], rows(&[&v, &v]), vec![7.0, 65504.0, 7.0, 65504.0]),
        (f32, vec![2], WeightExpr::Fill(-0.5), vec![-0.5, -0.5]),
        (f32, vec![2, 2], WeightExpr::RopeSin(100.0), vec![0.0, 0.0, 0.841_470_96, 0.841_470_96]),
        (f32, vec![1, 4], scale(&WeightExpr::RopeCos(100.0), 2.0), vec![2.0; 4]),
    ] {
        let got = weight(&source, WeightType::new(encoding, shape), expr.clone()).unwrap();
        assert_eq!(got, expected, "{expr:?} as {encoding}");
    }
    let table = weight(&source, WeightType::new(f32, [2, 4]), WeightExpr::RopeCos(1e4)).unwrap();
    assert_eq!([table[5], table[7]], [cos, cos]);

    for (encoding, shape, expr, message) in [
        (f32, vec![2, 2], WeightExpr::Stored("c".into()), "there is no tensor `c`"),
        (f32, vec![2, 3], a.clone(), "tensor `a`: is f32[2, 2], not 3 wide"),
        (f32, vec![3, 2], a.clone(), "tensor `a`: has 2 rows, not 3"),
        (f32, vec![5, 2], rows(&[&a, &a]), "tensor `a`: makes 4 rows with those joined to it, not 5"),
        (f32, vec![3, 2], scale(&rows(&[&a]), 2.0), "tensor `a`: makes 2 rows with those joined to it, not 3"),
        (f32, vec![3, 2], rows(&[&b, &v]), "tensor `v`: is f16[2], not 2 wide"),
        (f16, vec![2], scale(&v, 2.0), "tensor `v`, row 1, column 0: 131008 cannot be stored as f16 in `w`"),
        (f32, vec![1, 2], scale(&b, f32::MAX), "tensor `b`, row 0, column 0: inf cannot be stored as f32 in `w`"),
        (f32, vec![1, 3], WeightExpr::RopeCos(10.0), "tensor `w`: makes 2 numbers, not f32[1, 3]"),
    ] {
        match weight(&source, WeightType::new(encoding, shape), expr.clone()) {
            Err(InterpretError::Weight(error)) => assert_eq!(error.to_string(), message),
            other => panic!("{expr:?}: {other:?}"),
        }
    }
    assert_eq!(scale(&rows(&[&a, &WeightExpr::Fill(1.0), &b]), 2.0).stored(), ["a", "b"]);
}

/// Rows computed in parts are the rows computed at once.
#[test]
fn weights_come_in_any_parts() {
    let mut source = Tensors::default();
    let mut random = Random(3);
    let mut add = |name: &str, rows: u32, encoding| {
        let numbers = random.array(&[rows as usize, 3]).data;
        source.add(name, WeightType::new(encoding, [rows, 3]), &numbers);
    };
    add("a", 4, Encoding::F32);
    add("b", 1, Encoding::F16);
    add("c", 5, Encoding::BF16);
    let stored = |name: &str| WeightExpr::Stored(name.into());
    let inner = WeightExpr::Scale(Box::new(WeightExpr::Rows(vec![stored("b"), stored("c")])), 0.25);
    let expr = WeightExpr::Rows(vec![stored("a"), WeightExpr::Fill(1.0), inner, stored("b")]);
    let rows = |range| {
        let mut out = Vec::new();
        expr.rows(&source, 3, range, &mut out).map(|()| out)
    };
    let all = rows(0..12).unwrap();
    assert_eq!(all.len(), 36);
    for from in 0..=12 {
        for to in from..=12 {
            assert_eq!(rows(from..to).unwrap(), all[from * 3..to * 3], "{from}..{to}");
        }
    }
    assert!(matches!(rows(0..13), Err(WeightError::Unfit { .. })));
}

#[test]
fn dims_count_and_print() {
    let dim = |c, t, r, n| Dim { c, t, r, n };
    for (dim, text, at) in [
        (Dim::fixed(0), "0", Some(0)),
        (Dim::fixed(7), "7", Some(7)),
        (Dim::C, "C", Some(100)),
        (dim(1, 1, 0, 0), "C+T", Some(110)),
        (dim(2, 0, 3, 4), "2*C+3*R+4", Some(207)),
        (dim(0, u32::MAX, 0, 1), "4294967295*T+1", Some(42_949_672_951)),
    ] {
        assert_eq!(dim.to_string(), text);
        assert_eq!(dim.at(Sizes { t: 10, c: 100, r: 1 }), at, "{text}");
        assert_eq!(dim.known().is_some(), text.parse::<u32>().is_ok(), "{text}");
    }
    assert_eq!(dim(u32::MAX, 0, 0, 0).at(Sizes { t: 1, c: usize::MAX, r: 1 }), None);
    assert_eq!(dim(1, 0, 0, 1).at(Sizes { t: 1, c: usize::MAX, r: 1 }), None);
    assert_eq!(dim(1, 2, 3, 4).plus(dim(10, 20, 30, 40)), Some(dim(11, 22, 33, 44)));
    assert_eq!(dim(1, 2, 3, 4).times(3), Some(dim(3, 6, 9, 12)));
    assert_eq!(dim(0, 0, 0, u32::MAX).plus(Dim::fixed(1)), None);
    assert_eq!(dim(0, 1 << 31, 0, 0).times(2), None);
}

#[test]
fn a_missing_input_is_named() {
    let mut bytes = Choices(&[1; 16]);
    let decoder = small::decoder(&mut bytes);
    let tensors = Tensors::random(&decoder, 1, &|_| Encoding::F32);
    let module = small::import(&decoder, &tensors);
    let inputs = small::inputs(&module, decoder.vocab, 3, 2, 5);
    for name in ["tokens", "positions", "mask"] {
        let mut short = inputs.clone();
        short.values.remove(name);
        assert_eq!(interpret(&module, &tensors, &short).unwrap_err(), InterpretError::Input(name.into()));
        let mut misshapen = inputs.clone();
        misshapen.values.get_mut(name).unwrap().data.pop();
        assert_eq!(interpret(&module, &tensors, &misshapen).unwrap_err(), InterpretError::Input(name.into()));
    }
    let mut weights = tensors.clone();
    weights.0.remove("norm");
    assert_eq!(interpret(&module, &weights, &inputs).unwrap_err().to_string(), "there is no tensor `norm`");
}

/// The original's logits and hidden states, with a mask that hides later blocks, before and after all fusions.
fn check_reference(checkpoint: &str, file: &str, block: usize, cases: &[&str]) {
    let checkpoint = Checkpoint::open(&fixture(checkpoint)).unwrap();
    let decoder = &checkpoint.config().decoder;
    let bounds = Sizes { t: 64, c: 64, r: 0 };
    let imported = decoder.import("tiny", bounds, &|name| checkpoint.tensor_type(name)).unwrap();
    let fusions = ["fold-scale", "fuse-qkv", "fuse-gate-up", "fuse-swiglu", "drop-dead"];
    let scheme = Scheme::F32;
    let fused = passes::run(imported.clone(), &fusions, &scheme, &mut |_| ()).unwrap();
    let wanted = small::references(file);
    let near = |got: &[f32], name: String, limit: f64| {
        let (_, want) = &wanted[&name];
        assert_eq!(got.len(), want.len(), "{file}: {name}");
        let worst = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max);
        assert!(worst < limit, "{file}: {name} is {worst} away");
    };
    for case in cases {
        let tokens: Vec<usize> = wanted[&format!("{case}.ids")].1.iter().map(|&id| id as usize).collect();
        let t = tokens.len();
        for module in [&imported, &fused] {
            let mut inputs = small::inputs(module, decoder.vocab, t, 1, 3);
            inputs.values.insert("tokens".into(), ids(tokens.iter().copied(), &[1, t]));
            inputs.values.insert("positions".into(), ids(0..t, &[1, t]));
            let sees = |row: usize, column: usize| column > 0 && (column - 1) / block <= row / block;
            let mask = (0..t).flat_map(|row| (0..=t).map(move |column| if sees(row, column) { 0.0 } else { -1e30 }));
            inputs.values.insert("mask".into(), Array { shape: vec![1, 1, t, t + 1], data: mask.collect() });
            let outputs = small::step(module, &checkpoint, &inputs);
            near(&outputs.values[0].data, format!("{case}.logits"), 2e-4);
            if wanted.contains_key(&format!("{case}.hidden.layer0")) {
                for layer in 0..decoder.layers {
                    let hidden = small::value(module, &outputs, Some(layer), "x");
                    near(&hidden.data, format!("{case}.hidden.layer{layer}"), 1e-4);
                }
                near(&small::value(module, &outputs, Some(0), "attn").data, format!("{case}.layer0.attn_out"), 1e-4);
                near(&small::value(module, &outputs, Some(0), "down").data, format!("{case}.layer0.mlp_out"), 1e-4);
            }
        }
    }
}

#[test]
fn the_fixture_gives_the_numbers_of_the_original() {
    check_reference(
        "sdar/tiny",
        "sdar/logits_block4.safetensors",
        4,
        &["len1", "len1_mask", "len7", "len7_mask", "len33_mask"],
    );
    check_reference("sdar/tiny", "sdar/logits_block8.safetensors", 8, &["len33"]);
    check_reference("sdar/tiny-sharded-bf16", "sdar/logits_bf16_weights_block4.safetensors", 4, &["len33_mask"]);
}
