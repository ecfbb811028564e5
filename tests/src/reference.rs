//! An independent judge: the families' forward pass in nested loops, `f32` storage and `f64` sums, from the formulas
//! alone.
//!
//! It shares no code with the product but the [`Engine`] interface, reads `config.json` and the safetensors files by
//! itself, and is slow. Tests that need an engine, whatever it computes with, can run on it.
#![allow(clippy::disallowed_methods, reason = "judged within a tolerance, so the platform's functions will do")]

use diffulex_runtime::engine::{Engine, EngineError, EngineShape, LayerRows, StepInput, StepOutput};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

/// A file of `tests/fixtures`.
#[must_use]
pub fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A JSON file of `tests/fixtures`.
///
/// # Panics
/// When it is not there or no JSON.
#[must_use]
pub fn json(name: &str) -> Value {
    let text = std::fs::read(fixture(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The numbers of a safetensors file, all as `f64`.
pub struct Tensors(HashMap<String, (Vec<usize>, Vec<f64>)>);

impl Tensors {
    /// Reads a file of f32, bf16 and i64 tensors.
    ///
    /// # Panics
    /// On anything else: test data is trusted.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let head = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
        let header: HashMap<String, Value> = serde_json::from_slice(&bytes[8..8 + head]).expect("a JSON header");
        let read = |(name, info): (String, Value)| {
            let number = |v: &Value| v.as_u64().expect("a number") as usize;
            let at = |i: usize| 8 + head + number(&info["data_offsets"][i]);
            let data = &bytes[at(0)..at(1)];
            let values = match info["dtype"].as_str().expect("a type") {
                "F32" => data.as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
                "I64" => data.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as f64).collect(),
                "BF16" => {
                    let wide = |&b: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16);
                    data.as_chunks().0.iter().map(|b| f64::from(wide(b))).collect()
                }
                other => panic!("{name} is {other}"),
            };
            (name, (info["shape"].as_array().expect("a shape").iter().map(number).collect(), values))
        };
        Self(header.into_iter().filter(|(name, _)| name != "__metadata__").map(read).collect())
    }

    /// Reads all the safetensors files of a folder.
    ///
    /// # Panics
    /// As [`Tensors::open`].
    #[must_use]
    pub fn open_folder(folder: &Path) -> Self {
        let files = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let files =
            files.map(|f| f.expect("an entry").path()).filter(|f| f.extension().is_some_and(|e| e == "safetensors"));
        Self(files.flat_map(|file| Self::open(&file).0).collect())
    }

    /// Whether there is such a tensor.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The values of a tensor.
    ///
    /// # Panics
    /// When there is no such tensor.
    #[must_use]
    pub fn values(&self, name: &str) -> &[f64] {
        &self.0.get(name).unwrap_or_else(|| panic!("no tensor {name}")).1
    }

    /// A tensor of ids.
    #[must_use]
    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.values(name).iter().map(|&id| id as u32).collect()
    }

    /// The length of a tensor's last axis.
    ///
    /// # Panics
    /// When there is no such tensor.
    #[must_use]
    pub fn width(&self, name: &str) -> usize {
        *self.0[name].0.last().expect("an axis")
    }
}

/// A checkpoint of any family, ready to run.
pub struct Reference {
    weights: Tensors,
    shape: EngineShape,
    hidden: usize,
    heads: usize,
    theta: f64,
    eps: f64,
}

/// LLaDA's names for the parts of a layer and of the whole.
const LLADA: [(&str, &str); 12] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "q_proj"),
    ("self_attn.k_proj", "k_proj"),
    ("self_attn.v_proj", "v_proj"),
    ("self_attn.o_proj", "attn_out"),
    ("post_attention_layernorm", "ff_norm"),
    ("mlp.gate_proj", "ff_proj"),
    ("mlp.up_proj", "up_proj"),
    ("mlp.down_proj", "ff_out"),
    ("model.embed_tokens", "model.transformer.wte"),
    ("model.norm", "model.transformer.ln_f"),
    ("lm_head", "model.transformer.ff_out"),
];

impl Reference {
    /// Reads a folder; a step takes up to `max_tokens`, the cache holds `max_cache`.
    ///
    /// # Panics
    /// When the folder is not a checkpoint.
    #[must_use]
    pub fn open(folder: &Path, max_tokens: usize, max_cache: usize) -> Self {
        let config = std::fs::read(folder.join("config.json")).expect("config.json");
        let config: Value = serde_json::from_slice(&config).expect("JSON");
        let number = |names: [&str; 2]| {
            let found = names.iter().find_map(|name| config[name].as_u64());
            found.unwrap_or_else(|| panic!("no {names:?}")) as usize
        };
        let (hidden, heads) = (number(["hidden_size", "d_model"]), number(["num_attention_heads", "n_heads"]));
        let shape = EngineShape {
            max_tokens,
            max_cache,
            layers: number(["num_hidden_layers", "n_layers"]),
            kv_heads: number(["num_key_value_heads", "n_kv_heads"]),
            head_dim: config["head_dim"].as_u64().map_or(hidden / heads, |dim| dim as usize),
            vocab: number(["embedding_size", "vocab_size"]),
        };
        Self {
            weights: Tensors::open_folder(folder),
            shape,
            hidden,
            heads,
            theta: config["rope_theta"].as_f64().expect("rope_theta"),
            eps: config["rms_norm_eps"].as_f64().expect("rms_norm_eps"),
        }
    }

    /// The name that this checkpoint has for a tensor.
    fn stored(&self, layer: Option<usize>, part: &str) -> String {
        let llada = self.weights.has("model.transformer.wte.weight");
        let theirs = LLADA.iter().find(|(ours, _)| llada && *ours == part).map_or(part, |(_, theirs)| theirs);
        match layer {
            Some(layer) if llada => format!("model.transformer.blocks.{layer}.{theirs}.weight"),
            Some(layer) => format!("model.layers.{layer}.{theirs}.weight"),
            None => format!("{theirs}.weight"),
        }
    }

    /// `x W^T + b` for rows `x`; the bias where there is one.
    fn linear(&self, x: &[f64], name: &str) -> Vec<f64> {
        let (w, width) = (self.weights.values(name), self.weights.width(name));
        let bias_name = name.replace(".weight", ".bias");
        let bias = self.weights.has(&bias_name).then(|| self.weights.values(&bias_name));
        let dot = |row: &[f64], w: &[f64]| row.iter().zip(w).map(|(a, b)| a * b).sum::<f64>();
        let out = |row: &[f64], i: usize| dot(row, &w[i * width..(i + 1) * width]) + bias.map_or(0.0, |b| b[i]);
        x.chunks(width).flat_map(|row| (0..w.len() / width).map(|i| out(row, i)).collect::<Vec<_>>()).collect()
    }

    /// Each run of the weight's length divided by its root mean square, times the weight.
    fn norm(&self, x: &[f64], name: &str) -> Vec<f64> {
        let w = self.weights.values(name);
        let scale = |row: &[f64]| 1.0 / (row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64 + self.eps).sqrt();
        x.chunks(w.len()).flat_map(|row| row.iter().zip(w).map(move |(v, w)| v * scale(row) * w)).collect()
    }

    /// Rotates `[T, heads, D]` by the positions; dimension `j` pairs with `j + D/2`.
    fn rotate(&self, x: &mut [f64], positions: &[u32], heads: usize) {
        let d = self.shape.head_dim;
        for (i, head) in x.chunks_mut(d).enumerate() {
            for j in 0..d / 2 {
                let angle = f64::from(positions[i / heads]) * self.theta.powf(-2.0 * j as f64 / d as f64);
                let (sin, cos) = angle.sin_cos();
                let (a, b) = (head[j], head[j + d / 2]);
                (head[j], head[j + d / 2]) = (a * cos - b * sin, b * cos + a * sin);
            }
        }
    }
}

impl Engine for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn shape(&self) -> &EngineShape {
        &self.shape
    }

    fn step(&mut self, input: &StepInput<'_>, out: &mut StepOutput) -> Result<(), EngineError> {
        input.check(&self.shape)?;
        let (heads, kv, d) = (self.heads, self.shape.kv_heads, self.shape.head_dim);
        let (fed, cached) = (input.tokens.len(), input.cached);
        let table = self.stored(None, "model.embed_tokens");
        let embed = self.weights.values(&table).chunks(self.hidden);
        let rows: Vec<&[f64]> = embed.collect();
        let mut x: Vec<f64> = input.tokens.iter().flat_map(|&id| rows[id as usize].to_vec()).collect();
        out.new.clear();
        for (layer, cache) in input.cache.iter().enumerate() {
            let name = |part: &str| self.stored(Some(layer), part);
            let h = self.norm(&x, &name("input_layernorm"));
            let headwise = |x: Vec<f64>, norm: &str| {
                if self.weights.has(&name(norm)) { self.norm(&x, &name(norm)) } else { x }
            };
            let mut q = headwise(self.linear(&h, &name("self_attn.q_proj")), "self_attn.q_norm");
            let mut k = headwise(self.linear(&h, &name("self_attn.k_proj")), "self_attn.k_norm");
            let v = self.linear(&h, &name("self_attn.v_proj"));
            self.rotate(&mut q, input.positions, heads);
            self.rotate(&mut k, input.positions, kv);

            // Keys and values of the step, [T, KV, D] above, as [KV, T, D] in f32; those of the cache come first.
            let by_head = |x: &[f64]| -> Vec<f32> {
                let at = |head: usize, i: usize| x[(i * kv + head) * d..][..d].iter().map(|&v| v as f32);
                (0..kv).flat_map(|head| (0..fed).flat_map(move |i| at(head, i))).collect()
            };
            let new = LayerRows { k: by_head(&k), v: by_head(&v) };
            let mut a = vec![0.0; fed * heads * d];
            for i in 0..fed {
                for head in 0..heads {
                    let of = head / (heads / kv);
                    let row = |side: fn(&LayerRows) -> &Vec<f32>, j: usize| -> Vec<f64> {
                        let at = if j < cached { of * cached + j } else { of * fed + j - cached };
                        let from = if j < cached { side(cache) } else { side(&new) };
                        from[at * d..(at + 1) * d].iter().map(|&v| f64::from(v)).collect()
                    };
                    let q = &q[(i * heads + head) * d..][..d];
                    let score = |j: usize| {
                        let dot: f64 = q.iter().zip(row(|l| &l.k, j)).map(|(a, b)| a * b).sum();
                        dot / (d as f64).sqrt() + f64::from(input.mask[i * (cached + fed) + j])
                    };
                    let scores: Vec<f64> = (0..cached + fed).map(score).collect();
                    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
                    for (j, s) in scores.iter().enumerate() {
                        let share = (s - largest).exp() / total;
                        let sum = &mut a[(i * heads + head) * d..][..d];
                        sum.iter_mut().zip(row(|l| &l.v, j)).for_each(|(sum, v)| *sum += share * v);
                    }
                }
            }
            out.new.push(new);
            add(&mut x, &self.linear(&a, &name("self_attn.o_proj")));
            let h = self.norm(&x, &name("post_attention_layernorm"));
            let mut gate = self.linear(&h, &name("mlp.gate_proj"));
            let up = self.linear(&h, &name("mlp.up_proj"));
            gate.iter_mut().zip(up).for_each(|(g, u)| *g = *g / (1.0 + (-*g).exp()) * u);
            add(&mut x, &self.linear(&gate, &name("mlp.down_proj")));
        }
        let asked: Vec<f64> =
            input.rows.iter().flat_map(|&r| x[r as usize * self.hidden..][..self.hidden].to_vec()).collect();
        let head = self.stored(None, "lm_head");
        let head = if self.weights.has(&head) { head } else { table };
        let logits = self.linear(&self.norm(&asked, &self.stored(None, "model.norm")), &head);
        out.logits = logits.iter().map(|&l| l as f32).collect();
        Ok(())
    }
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
