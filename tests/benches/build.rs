//! What a build takes: processor seconds and memory of the program, watched from outside, on checkpoints of random
//! numbers.
//!
//! ```sh
//! cargo build --release
//! cargo bench -p diffulex-tests --bench build                       # 0.5B to 8da4w
//! cargo bench -p diffulex-tests --bench build -- 4b 8da4w f16       # 4.4B, two schemes
//! ```
//!
//! The checkpoint is written once, to `target/bench/`, in bf16: 1 GB for 0.5B, 9 GB for 4B. Memory is read from `/proc` every
//! five milliseconds: `anonymous` is what only the program can hold (heap and stacks), `resident` also counts mapped
//! pages of the checkpoint, which the system takes back when it likes.

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::json;

/// Runs of each build that count.
const RUNS: usize = 3;
/// Time between two looks at the program.
const PAUSE: Duration = Duration::from_millis(5);

/// Sizes of a Fast-dLLM v2 network.
#[derive(Clone, Copy)]
struct Sizes {
    name: &'static str,
    hidden: u64,
    layers: u64,
    heads: u64,
    kv_heads: u64,
    head_dim: u64,
    inner: u64,
    vocab: u64,
    /// The head is the token table.
    tied: bool,
}

const HALF: Sizes = Sizes {
    name: "0.5b",
    hidden: 896,
    layers: 24,
    heads: 14,
    kv_heads: 2,
    head_dim: 64,
    inner: 4864,
    vocab: 151_936,
    tied: true,
};

const SIZES: [Sizes; 4] = [
    HALF,
    // Those that the official exporter was measured with.
    Sizes { name: "0.5b-untied", tied: false, ..HALF },
    Sizes { name: "0.5b-untied-6-layers", layers: 6, tied: false, ..HALF },
    Sizes { name: "4b", hidden: 2560, layers: 36, heads: 32, kv_heads: 8, head_dim: 128, inner: 9728, ..HALF },
];

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    // The first word names the sizes, those after it the schemes.
    let sizes = words.first().map_or(Some(&HALF), |word| SIZES.iter().find(|sizes| sizes.name == word));
    let names: Vec<&str> = SIZES.iter().map(|sizes| sizes.name).collect();
    let sizes = sizes.ok_or_else(|| format!("no such sizes; there are {}", names.join(", ")))?;
    let mut schemes: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    if schemes.is_empty() {
        schemes.push("8da4w");
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let program = target.join("release/diffulex-edge");
    let folder = target.join("bench").join(sizes.name);
    if !folder.join("config.json").exists() {
        println!("writing a checkpoint of {} to {}", sizes.name, folder.display());
        checkpoint(sizes, &folder)?;
    }
    println!("{}: {RUNS} runs each, load {}", sizes.name, fs::read_to_string("/proc/loadavg")?.trim());
    for scheme in schemes {
        for _ in 0..RUNS {
            let out = target.join("bench/out.pte");
            let mut command = Command::new(&program);
            command.arg("export").arg("--hf-model-path").arg(&folder).arg("--output-path").arg(&out);
            command.args(["--dtype", scheme]).stdout(std::process::Stdio::null());
            let Usage { cpu, wall, anonymous, resident } = watch(command.spawn()?)?;
            let bytes = fs::metadata(&out)?.len();
            println!(
                "{scheme:8}  {cpu:6.2} CPU s  {wall:6.2} s  anonymous {:4} MB  resident {:5} MB  {bytes} bytes",
                anonymous >> 20,
                resident >> 20
            );
            fs::remove_file(out)?;
        }
    }
    Ok(())
}

/// What a program took.
struct Usage {
    cpu: f64,
    wall: f64,
    anonymous: u64,
    resident: u64,
}

/// Looks at a child until it ends. Its times are read when it has ended and nobody has asked for its status yet.
fn watch(mut child: Child) -> Result<Usage, Box<dyn Error>> {
    let folder = PathBuf::from(format!("/proc/{}", child.id()));
    let started = Instant::now();
    let (mut anonymous, mut resident) = (0, 0);
    let (ticks, wall) = loop {
        let stat = fs::read_to_string(folder.join("stat"))?;
        // The name, in brackets, may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        if fields.first() == Some(&"Z") {
            let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
            break (ticks, started.elapsed());
        }
        let status = fs::read_to_string(folder.join("status"))?;
        let kilobytes = |key: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("0");
            line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        anonymous = anonymous.max(kilobytes("RssAnon:") << 10);
        resident = resident.max(kilobytes("VmHWM:") << 10);
        std::thread::sleep(PAUSE);
    };
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("the build ended with {status}").into());
    }
    // Linux counts in hundredths of a second.
    Ok(Usage { cpu: ticks as f64 / 100.0, wall: wall.as_secs_f64(), anonymous, resident })
}

/// Writes `config.json` and one safetensors file of random bf16 numbers.
fn checkpoint(sizes: &Sizes, folder: &Path) -> Result<(), Box<dyn Error>> {
    let Sizes { hidden, layers, heads, kv_heads, head_dim, inner, vocab, .. } = *sizes;
    let mut tensors: Vec<(String, Vec<u64>)> = vec![("model.embed_tokens.weight".into(), vec![vocab, hidden])];
    for i in 0..layers {
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        let mut add = |name: &str, shape: &[u64]| tensors.push((format!("model.layers.{i}.{name}"), shape.to_vec()));
        add("input_layernorm.weight", &[hidden]);
        for (name, rows) in [("q", q), ("k", kv), ("v", kv)] {
            add(&format!("self_attn.{name}_proj.weight"), &[rows, hidden]);
            add(&format!("self_attn.{name}_proj.bias"), &[rows]);
        }
        add("self_attn.o_proj.weight", &[hidden, q]);
        add("post_attention_layernorm.weight", &[hidden]);
        add("mlp.gate_proj.weight", &[inner, hidden]);
        add("mlp.up_proj.weight", &[inner, hidden]);
        add("mlp.down_proj.weight", &[hidden, inner]);
    }
    tensors.push(("model.norm.weight".into(), vec![hidden]));
    if !sizes.tied {
        tensors.push(("lm_head.weight".into(), vec![vocab, hidden]));
    }

    fs::create_dir_all(folder)?;
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in &tensors {
        let bytes = 2 * shape.iter().product::<u64>();
        let entry = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [end, end + bytes] });
        header.insert(name.clone(), entry);
        end += bytes;
    }
    let header = serde_json::to_string(&header)?;
    let mut out = BufWriter::with_capacity(1 << 20, File::create(folder.join("model.safetensors"))?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut numbers = Vec::new();
    for (_, shape) in &tensors {
        let gain = shape.len() == 1;
        let mut left = shape.iter().product::<u64>();
        while left > 0 {
            let count = left.min(1 << 18);
            numbers.clear();
            for _ in 0..count {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // The sum of four bytes is nearly normal: a matrix has a deviation of 0.03, a gain is near 1.
                let sum: i32 = state.to_le_bytes()[..4].iter().map(|&byte| i32::from(byte)).sum();
                let number = (sum - 510) as f32 * 0.0002 + if gain { 1.0 } else { 0.0 };
                numbers.extend_from_slice(&number.to_le_bytes()[2..]);
            }
            out.write_all(&numbers)?;
            left -= count;
        }
    }
    out.flush()?;
    let config = json!({
        "architectures": ["Fast_dLLM_QwenForCausalLM"], "model_type": "Fast_dLLM_Qwen", "bd_size": 32,
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "vocab_size": vocab,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim, "hidden_act": "silu",
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 32768, "tie_word_embeddings": sizes.tied,
        "mask_token_id": 151_665, "eos_token_id": 151_645, "use_sliding_window": false, "torch_dtype": "bfloat16",
    });
    // Written last: it says that the checkpoint is whole.
    fs::write(folder.join("config.json"), config.to_string())?;
    Ok(())
}
