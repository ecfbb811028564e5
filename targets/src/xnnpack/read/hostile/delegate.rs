//! Wrong values, constants and nodes of the delegate.

use super::*;

#[test]
fn values() {
    refused("value 1: the id 1 occurs twice", |p| p.value(0).id_out = 1);
    refused("datatype 3", |p| p.value(5).datatype = 3);
    refused("value 6: has no `quant_params`", |p| {
        let tensor = p.value(6).clone();
        let value = QuantizedTensorValue { tensor_value: Some(Box::new(tensor)), quant_params: None };
        p.graph.xvalues.as_mut().unwrap()[6].xvalue_union = Some(ValueUnion::QuantizedTensorValue(Box::new(value)));
    });
    refused("`num_dims` is 2", |p| p.value(5).num_dims = 2);
    refused("an axis of 0", |p| p.value(5).dims = Some(vec![1, 0, 4]));
    refused("beyond 9223372036854775807", |p| p.value(5).dims = Some(vec![u32::MAX; 3]));
    refused("flags 4", |p| p.value(0).flags = 4);
    refused("flags 3", |p| p.value(0).flags = 3);
    refused("external id 77 is not below", |p| p.value(0).external_id = 77);
    refused("external id 1 occurs twice", |p| p.value(0).external_id = 1);
    refused("an external id has no value", |p| p.graph.num_externs += 1);
    refused("`num_externs` is 9999, beyond 4096", |p| p.graph.num_externs = 9999);
    refused("`input_ids` is", |p| p.graph.input_ids.as_mut().unwrap()[0] = 9);
    refused("value 0: `dims` is [1, 2, 5], not [1, 2, 4] of its tensor", |p| p.value(0).dims = Some(vec![1, 2, 5]));
}

#[test]
fn constants() {
    refused("there is no constant 99", |p| p.value(4).constant_buffer_idx = 99);
    refused("constant 1: `size` is 3, not 16", |p| p.constant(1).size = 3);
    refused("has both an offset and a key", |p| p.constant(1).offset = 0);
    refused("no named data has the key \"nothing\"", |p| p.constant(1).named_key = Some("nothing".into()));
    refused("`offset` is 18446744073709551615", |p| p.constant(1).named_key = None);
    refused("inline constant", |p| {
        p.inline = vec![0; 16];
        *p.constant(1) = ConstantDataOffset { offset: 0, size: 16, named_key: None };
    });
    refused("`size` is 16, beyond 15", |p| {
        p.inline = vec![0; 31];
        *p.constant(1) = ConstantDataOffset { offset: 16, size: 16, named_key: None };
    });
}

#[test]
fn nodes() {
    refused("does not know `Abs`", |p| p.nodes()[0].xnode_union = Some(NodeUnion::Abs(Box::new(Unknown {}))));
    refused("node 0: has no `xnode_union`", |p| p.nodes()[0].xnode_union = None);
    refused("a clamp to 0..inf", |p| {
        p.nodes()[0].output_min_max = Some(Box::new(OutputMinMax { output_min: 0.0, output_max: f32::INFINITY }));
    });
    refused("flags 8", |p| p.node(pick!(Multiply)).flags = 8);
    refused("flags 2", |p| p.node(pick!(BatchMatrixMultiply)).flags = 2);
    refused("flags 1", |p| p.node(pick!(FullyConnected)).flags = 1);
    refused("there is no value 999", |p| p.node(pick!(Negate)).input_id = 999);
    refused("which nothing made before", |p| p.nodes().reverse());
    refused("which is there already", |p| {
        let twice = p.nodes()[0].clone();
        p.nodes().insert(1, twice);
    });
    refused("an output that nothing makes", |p| drop(p.nodes().pop()));
    refused("a filter or bias that is not constant", |p| {
        let fc = p.node(pick!(FullyConnected));
        fc.filter_id = fc.input1_id;
    });
    refused("a constant as operand 0", |p| {
        let filter = p.node(pick!(FullyConnected)).filter_id;
        p.node(pick!(Softmax)).input_id = filter;
    });
    refused("two inferred axes", |p| p.node(pick!(StaticReshape)).new_shape = Some(vec![1, 0, 0, 2]));
    refused("cannot become", |p| p.node(pick!(StaticReshape)).new_shape = Some(vec![1, 0, 3, 1]));
    refused("cannot become", |p| p.node(pick!(StaticReshape)).new_shape = Some(vec![1, 2, 1, 2]));
    refused("too many numbers", |p| p.node(pick!(StaticReshape)).new_shape = Some(vec![u32::MAX, 0, u32::MAX, 9]));
    refused("no order of the axes", |p| p.node(pick!(StaticTranspose)).perm = Some(vec![0, 2, 2, 3]));
    refused("no order of the axes", |p| p.node(pick!(StaticTranspose)).perm = Some(vec![0, 2, 1, 9]));
    refused("`num_dims` is 4", |p| p.node(pick!(StaticTranspose)).perm = Some(vec![0, 1]));
    refused("a cache that is used otherwise", |p| p.node(pick!(Concatenate2)).axis = 3);
    refused("a cache that is used otherwise", |p| {
        let cache = p.node(pick!(Concatenate2)).input1_id;
        p.node(pick!(Negate)).input_id = cache;
    });
    refused("is not what cache v.0 is joined with", |p| {
        let args = p.call().args.as_mut().unwrap();
        let last = args.len() - 1;
        args.swap(last, last - 1);
    });
    refused("delegate, value", |p| {
        let output = p.node(pick!(Softmax)).output_id as usize;
        p.value(output).dims = Some(vec![1, 1, 2, 6]);
    });
}

/// As many nodes as a file may have, one after another: the time to read them grows with their number only.
#[test]
fn a_long_chain_is_read_soon() {
    let started = std::time::Instant::now();
    let read = read(|p| {
        let id = p.graph.xvalues.as_ref().unwrap().len() as u32;
        let from = p.node(pick!(Softmax)).output_id;
        let like = p.graph.xvalues.as_ref().unwrap()[from as usize].clone();
        let at = p.nodes().iter().position(|n| matches!(n.xnode_union, Some(NodeUnion::Softmax(_)))).unwrap() + 1;
        let count = (1 << 15) - p.nodes().len() as u32;
        let mut chain = Vec::new();
        for i in 0..count {
            let mut value = like.clone();
            let Some(ValueUnion::TensorValue(tensor)) = &mut value.xvalue_union else { unreachable!() };
            tensor.id_out = id + i;
            p.graph.xvalues.as_mut().unwrap().push(value);
            let input_id = if i == 0 { from } else { id + i - 1 };
            let node = NodeUnion::Negate(Box::new(OneInput { input_id, output_id: id + i, flags: 0 }));
            chain.push(Node { xnode_union: Some(node), debug_handle: 0, output_min_max: None });
        }
        p.nodes().splice(at..at, chain);
    });
    let read = read.unwrap();
    assert_eq!(read.module.nodes.iter().filter(|n| n.op.name() == "neg").count(), (1 << 15) - 14);
    raise(&read.module, read.source.as_ref()).unwrap();
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}
