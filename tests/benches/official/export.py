"""Reference export of a Qwen2-like decoder step graph through the official PyTorch -> ExecuTorch XNNPACK path.

export.py --ckpt DIR --dtype fp32|8da8w|8da4w --out FILE [--attn sdpa|eager] [--partitioners one|two]
One method `forward`: ids i64[1,T], positions i64[1,T], mask f32[1,1,T,C+T], k0, v0, ... f32[1,KV,C,D] -> logits, new_k0, new_v0, ...
"""
import argparse, json, os, resource, time
t_start = time.time()
import torch
from torch import nn
import torch.nn.functional as F
from safetensors import safe_open


def say(what):
    r = resource.getrusage(resource.RUSAGE_SELF)
    print(f"{what:34s} wall {time.time()-t_start:7.1f} s  cpu {r.ru_utime+r.ru_stime:7.1f} s  peak RSS {r.ru_maxrss/1e6:6.2f} GB", flush=True)


class RMSNorm(nn.Module):
    def __init__(self, n, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.empty(n)), eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def rotate_half(x):
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)


class Attention(nn.Module):
    def __init__(self, c, mode):
        super().__init__()
        self.h, self.kv, self.mode = c["num_attention_heads"], c["num_key_value_heads"], mode
        H = c["hidden_size"]
        self.d = H // self.h
        self.q_proj = nn.Linear(H, self.h * self.d)
        self.k_proj = nn.Linear(H, self.kv * self.d)
        self.v_proj = nn.Linear(H, self.kv * self.d)
        self.o_proj = nn.Linear(self.h * self.d, H, bias=False)

    def forward(self, x, cos, sin, mask, kc, vc):
        T = x.shape[1]
        q = self.q_proj(x).view(1, T, self.h, self.d).transpose(1, 2)
        k = self.k_proj(x).view(1, T, self.kv, self.d).transpose(1, 2)
        v = self.v_proj(x).view(1, T, self.kv, self.d).transpose(1, 2)
        q = q * cos + rotate_half(q) * sin
        k = k * cos + rotate_half(k) * sin
        K, V = torch.cat((kc, k), 2), torch.cat((vc, v), 2)
        if self.mode == "sdpa":
            o = F.scaled_dot_product_attention(q, K, V, attn_mask=mask, enable_gqa=True)
        elif self.mode == "group":   # heads of one KV head as rows of one matrix: no expand
            g = self.h // self.kv
            S = K.shape[2]
            s = (q.reshape(1, self.kv, g * T, self.d) * self.d ** -0.5) @ K.transpose(2, 3)
            s = torch.softmax(s.view(self.kv, g, T, S) + mask, -1)
            o = (s.view(1, self.kv, g * T, S) @ V).view(1, self.h, T, self.d)
        else:
            g = self.h // self.kv
            S = K.shape[2]
            K = K[:, :, None].expand(1, self.kv, g, S, self.d).reshape(1, self.h, S, self.d)
            V = V[:, :, None].expand(1, self.kv, g, S, self.d).reshape(1, self.h, S, self.d)
            s = q @ K.transpose(2, 3) * self.d ** -0.5 + mask
            o = torch.softmax(s, -1) @ V
        return self.o_proj(o.transpose(1, 2).reshape(1, T, self.h * self.d)), k, v


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        H, I = c["hidden_size"], c["intermediate_size"]
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(H, I, bias=False), nn.Linear(H, I, bias=False), nn.Linear(I, H, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c, mode):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = (RMSNorm(c["hidden_size"], c["rms_norm_eps"]) for _ in range(2))
        self.self_attn, self.mlp = Attention(c, mode), MLP(c)

    def forward(self, x, cos, sin, mask, kc, vc):
        a, k, v = self.self_attn(self.input_layernorm(x), cos, sin, mask, kc, vc)
        x = x + a
        return x + self.mlp(self.post_attention_layernorm(x)), k, v


class Inner(nn.Module):
    def __init__(self, c, mode):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c, mode) for _ in range(c["num_hidden_layers"]))
        self.norm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])


class Decoder(nn.Module):
    def __init__(self, c, mode):
        super().__init__()
        self.model = Inner(c, mode)
        self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        self.d, self.theta = c["hidden_size"] // c["num_attention_heads"], c["rope_theta"]

    def forward(self, ids, positions, mask, *kv):
        m = self.model
        f = positions[0].float()[:, None] * self.inv_freq
        f = torch.cat((f, f), -1)[None, None]
        cos, sin = f.cos(), f.sin()
        x = m.embed_tokens(ids)
        out = []
        for i, l in enumerate(m.layers):
            x, k, v = l(x, cos, sin, mask, kv[2 * i], kv[2 * i + 1])
            out += [k, v]
        return (self.lm_head(m.norm(x)), *out)


def load(ckpt, mode):
    c = json.load(open(ckpt + "/config.json"))
    with torch.device("meta"):
        model = Decoder(c, mode)
    sd = {}
    for name in sorted(n for n in os.listdir(ckpt) if n.endswith(".safetensors")):
        with safe_open(f"{ckpt}/{name}", "pt") as f:
            for k in f.keys():
                sd[k] = f.get_tensor(k).float()
    model.load_state_dict(sd, assign=True, strict=True)
    model.register_buffer("inv_freq", c["rope_theta"] ** (-torch.arange(0, model.d, 2, dtype=torch.float32) / model.d), persistent=False)
    model.requires_grad_(False)
    return c, model.eval()


def sample(c, T, C):
    kv, d = c["num_key_value_heads"], c["hidden_size"] // c["num_attention_heads"]
    g = torch.Generator().manual_seed(0)
    return (torch.randint(0, c["vocab_size"], (1, T), generator=g), torch.arange(C, C + T)[None], torch.zeros(1, 1, T, C + T),
            *[torch.randn(1, kv, C, d, generator=g) for _ in range(2 * c["num_hidden_layers"])])


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--ckpt", required=True)
    p.add_argument("--dtype", default="fp32", choices=["fp32", "8da8w", "8da4w"])
    p.add_argument("--out", required=True)
    p.add_argument("--attn", default="sdpa", choices=["sdpa", "eager", "group"])
    p.add_argument("--partitioners", default="one", choices=["one", "two"])
    p.add_argument("--embedding", default="fp32", choices=["fp32", "int8"])
    p.add_argument("--static", help="T,C: fixed shapes instead of dynamic bounds 128 and 512")
    p.add_argument("--check", action="store_true", help="save eager outputs beside the file")
    a = p.parse_args()
    from executorch.exir import to_edge_transform_and_lower, EdgeCompileConfig, ExecutorchBackendConfig
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner, XnnpackDynamicallyQuantizedPartitioner
    from executorch.backends.xnnpack.utils.configs import get_transform_passes
    say("imports")
    c, model = load(a.ckpt, a.attn)
    say("checkpoint loaded as fp32")
    if a.dtype != "fp32":
        from torchao.quantization.granularity import PerGroup, PerAxis
        from torchao.quantization.quant_api import Int8DynamicActivationIntxWeightConfig, IntxWeightOnlyConfig, quantize_
        w, gran = (torch.int4, PerGroup(32)) if a.dtype == "8da4w" else (torch.int8, PerAxis(0))
        quantize_(model, Int8DynamicActivationIntxWeightConfig(weight_dtype=w, weight_granularity=gran))
        if a.embedding == "int8":
            quantize_(model, IntxWeightOnlyConfig(weight_dtype=torch.int8, granularity=PerAxis(0)), lambda m, fqn: isinstance(m, nn.Embedding))
        say("quantize_")
    args = sample(c, *map(int, a.static.split(","))) if a.static else sample(c, 32, 64)
    if a.check:
        with torch.no_grad():
            torch.save((args, model(*args)), a.out + ".check")
        say("eager reference saved")
    T, C = torch.export.Dim("T", min=1, max=128), torch.export.Dim("C", min=1, max=512)
    shapes = ({1: T}, {1: T}, {2: T, 3: torch.export.Dim.AUTO}, tuple({2: C} for _ in range(2 * c["num_hidden_layers"])))
    with torch.no_grad():
        ep = torch.export.export(model, args, dynamic_shapes=None if a.static else shapes, strict=False)
    say("torch.export.export")
    parts = [XnnpackPartitioner()] if a.partitioners == "one" else [XnnpackDynamicallyQuantizedPartitioner(), XnnpackPartitioner()]
    edge = to_edge_transform_and_lower(ep, partitioner=parts, transform_passes=get_transform_passes(),
                                       compile_config=EdgeCompileConfig(_check_ir_validity=False))
    del model, ep
    say("to_edge_transform_and_lower")
    et = edge.to_executorch(ExecutorchBackendConfig(extract_delegate_segments=True))
    say("to_executorch")
    with open(a.out, "wb") as f:
        et.write_to_file(f)
    say("written")
    plan = et.executorch_program.execution_plan[0]
    ins = [type(i.instr_args).__name__ for ch in plan.chains for i in ch.instructions]
    from collections import Counter
    ops = Counter(plan.operators[i.instr_args.op_index].name for ch in plan.chains for i in ch.instructions if type(i.instr_args).__name__ == "KernelCall")
    print("bytes", os.path.getsize(a.out), "delegates", len(plan.delegates), dict(Counter(ins)), dict(ops))


main()
