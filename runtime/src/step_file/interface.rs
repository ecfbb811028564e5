//! What a file must offer, checked before anything runs: names, types and shapes of its inputs and outputs.
//!
//! ```text
//! input_ids [1,S] i32   cos, sin [1,1,S,D]   attn_mask [1,1,S,P+S]   past_k_i [1,KV,D,P]   past_v_i [1,KV,P,D]
//! logits [1,S,V]        new_k_i [1,KV,D,S]   new_v_i [1,KV,S,D]
//! ```
//!
//! The order does not matter: tools that rewrite a file keep the names alone. Where a dimension is dynamic, the file
//! takes any number there.

use super::tensor::Element;
use crate::engine::EngineShape;

/// One input or output of a session.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) name: String,
    /// Nothing for a type that no interface of ours has.
    pub(crate) element: Option<Element>,
    /// -1 where dynamic.
    pub(crate) dims: Vec<i64>,
}

/// What the interface leaves to the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Interface {
    /// Cached positions (P), unless dynamic.
    pub(crate) cached: Option<usize>,
    /// Type of `cos`, `sin`, `attn_mask` and `logits`.
    pub(crate) float: Element,
    /// Types of the keys and the values of each layer.
    pub(crate) caches: Vec<[Element; 2]>,
}

impl Interface {
    /// Checks a session for `tokens` tokens (dynamic if nothing) of a model of the given shape.
    ///
    /// # Errors
    /// Says what of which input or output is wrong.
    pub(crate) fn check(
        inputs: &[Port],
        outputs: &[Port],
        shape: &EngineShape,
        tokens: Option<usize>,
    ) -> Result<Self, String> {
        let mask = find(inputs, "input", "attn_mask")?;
        let &[_, _, rows, columns] = mask.dims.as_slice() else {
            return Err(format!("`attn_mask` has {} dimensions, not 4", mask.dims.len()));
        };
        // A dynamic number of tokens makes these columns dynamic, whatever the cache is.
        let past = match inputs.iter().find(|port| port.name == "past_v_0") {
            Some(port) => port.dims.get(2).copied(),
            None => (rows >= 0 && columns >= 0).then(|| columns - rows),
        };
        let cached = past.and_then(|p| usize::try_from(p).ok());
        if let Some(cached) = cached.filter(|&cached| cached != shape.max_cache) {
            return Err(format!("it holds {cached} cached positions, not {}", shape.max_cache));
        }
        let both = tokens.zip(cached).map(|(s, p)| s.saturating_add(p));
        let (one, heads, width) = (Some(1), Some(shape.kv_heads), Some(shape.head_dim));

        let float = float(mask)?;
        let same = |port: &Port, element| match port.element {
            Some(found) if found == element => Ok(()),
            found => Err(format!("`{}` is {}, not {element:?}", port.name, named(found))),
        };
        let input = |name: &str, dims: &[Option<usize>]| shaped(find(inputs, "input", name)?, dims);
        let output = |name: &str, dims: &[Option<usize>]| shaped(find(outputs, "output", name)?, dims);
        input("attn_mask", &[one, one, tokens, both])?;
        same(input("input_ids", &[one, tokens])?, Element::I32)?;
        same(input("cos", &[one, one, tokens, width])?, float)?;
        same(input("sin", &[one, one, tokens, width])?, float)?;
        same(output("logits", &[one, tokens, Some(shape.vocab)])?, float)?;

        let mut caches = Vec::new();
        for i in 0..shape.layers {
            let past_k = input(&format!("past_k_{i}"), &[one, heads, width, cached])?;
            let past_v = input(&format!("past_v_{i}"), &[one, heads, cached, width])?;
            let (k, v) = (cache(past_k)?, cache(past_v)?);
            same(output(&format!("new_k_{i}"), &[one, heads, width, tokens])?, k)?;
            same(output(&format!("new_v_{i}"), &[one, heads, tokens, width])?, v)?;
            caches.push([k, v]);
        }
        // All that is wanted is there; whatever else there is, nobody would feed.
        match inputs.len() == 4 + 2 * shape.layers && outputs.len() == 1 + 2 * shape.layers {
            true => Ok(Self { cached, float, caches }),
            false => Err(format!(
                "it has {} inputs and {} outputs, which is not what {} layers have",
                inputs.len(),
                outputs.len(),
                shape.layers
            )),
        }
    }
}

fn find<'a>(ports: &'a [Port], kind: &str, name: &str) -> Result<&'a Port, String> {
    ports.iter().find(|port| port.name == name).ok_or_else(|| format!("it has no {kind} `{name}`"))
}

/// The port, if its dimensions are the wanted ones.
fn shaped<'a>(port: &'a Port, wanted: &[Option<usize>]) -> Result<&'a Port, String> {
    let text = |dims: &[i64]| {
        let dims: Vec<_> = dims.iter().map(|&d| if d < 0 { "dynamic".to_string() } else { d.to_string() }).collect();
        format!("[{}]", dims.join(", "))
    };
    let wanted: Vec<i64> = wanted.iter().map(|d| d.map_or(-1, |d| i64::try_from(d).unwrap_or(i64::MAX))).collect();
    if port.dims == wanted {
        return Ok(port);
    }
    Err(format!("`{}` is {}, not {}", port.name, text(&port.dims), text(&wanted)))
}

fn float(port: &Port) -> Result<Element, String> {
    let wrong = || format!("`{}` is {}, not F32 or F16", port.name, named(port.element));
    port.element.filter(|element| element.is_float()).ok_or_else(wrong)
}

fn cache(port: &Port) -> Result<Element, String> {
    let wrong = || format!("`{}` is {}, which no cache is", port.name, named(port.element));
    port.element.filter(|element| element.is_float() || element.integers().is_some()).ok_or_else(wrong)
}

fn named(element: Option<Element>) -> String {
    element.map_or_else(|| "of an unknown type".to_string(), |element| format!("{element:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: EngineShape =
        EngineShape { max_tokens: 4, max_cache: 8, layers: 1, kv_heads: 2, head_dim: 6, vocab: 9 };

    fn port(name: &str, element: Element, dims: &[i64]) -> Port {
        Port { name: name.to_string(), element: Some(element), dims: dims.to_vec() }
    }

    fn ports(s: i64, p: i64, both: i64, cache: Element) -> (Vec<Port>, Vec<Port>) {
        let f = Element::F32;
        let inputs = vec![
            port("input_ids", Element::I32, &[1, s]),
            port("cos", f, &[1, 1, s, 6]),
            port("sin", f, &[1, 1, s, 6]),
            port("attn_mask", f, &[1, 1, s, both]),
            port("past_k_0", cache, &[1, 2, 6, p]),
            port("past_v_0", cache, &[1, 2, p, 6]),
        ];
        let outputs = vec![
            port("new_v_0", cache, &[1, 2, s, 6]),
            port("logits", f, &[1, s, 9]),
            port("new_k_0", cache, &[1, 2, 6, s]),
        ];
        (inputs, outputs)
    }

    #[test]
    fn static_and_dynamic_files_pass() {
        let (inputs, outputs) = ports(4, 8, 12, Element::U8);
        let found = Interface::check(&inputs, &outputs, &SHAPE, Some(4)).unwrap();
        assert_eq!(found, Interface { cached: Some(8), float: Element::F32, caches: vec![[Element::U8; 2]] });
        let (inputs, outputs) = ports(-1, -1, -1, Element::F32);
        assert_eq!(Interface::check(&inputs, &outputs, &SHAPE, None).unwrap().cached, None);
        let (inputs, outputs) = ports(-1, 8, -1, Element::F32);
        assert_eq!(Interface::check(&inputs, &outputs, &SHAPE, None).unwrap().cached, Some(8));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |tokens, change: fn(&mut Vec<Port>, &mut Vec<Port>)| {
            let (mut inputs, mut outputs) = ports(4, 8, 12, Element::U8);
            change(&mut inputs, &mut outputs);
            Interface::check(&inputs, &outputs, &SHAPE, tokens).unwrap_err()
        };
        let s = Some(4);
        assert_eq!(error(s, |i, _| i[0].name.clear()), "it has no input `input_ids`");
        assert_eq!(error(s, |_, o| drop(o.remove(1))), "it has no output `logits`");
        assert_eq!(error(s, |i, _| i[0].element = None), "`input_ids` is of an unknown type, not I32");
        assert_eq!(error(s, |i, _| i[2].element = Some(Element::F16)), "`sin` is F16, not F32");
        assert_eq!(error(s, |i, _| i[3].element = Some(Element::U16)), "`attn_mask` is U16, not F32 or F16");
        assert_eq!(error(s, |i, _| i[3].dims.clear()), "`attn_mask` has 0 dimensions, not 4");
        assert_eq!(error(s, |i, _| i[4].element = Some(Element::I32)), "`past_k_0` is I32, which no cache is");
        assert_eq!(error(s, |i, _| i[5].dims[2] = 9), "it holds 9 cached positions, not 8");
        assert_eq!(error(s, |i, _| i[5].dims[2] = i64::MAX), "it holds 9223372036854775807 cached positions, not 8");
        assert_eq!(error(s, |_, o| o[2].dims.swap(2, 3)), "`new_k_0` is [1, 2, 4, 6], not [1, 2, 6, 4]");
        assert_eq!(error(s, |_, o| o[0].element = Some(Element::I8)), "`new_v_0` is I8, not U8");
        assert_eq!(error(Some(2), |_, _| ()), "`attn_mask` is [1, 1, 4, 12], not [1, 1, 2, 10]");
        assert_eq!(error(None, |_, _| ()), "`attn_mask` is [1, 1, 4, 12], not [1, 1, dynamic, dynamic]");
        let extra = |i: &mut Vec<Port>, _: &mut Vec<Port>| i.push(port("positions", Element::I32, &[1, 4]));
        assert_eq!(error(s, extra), "it has 7 inputs and 3 outputs, which is not what 1 layers have");
    }
}
