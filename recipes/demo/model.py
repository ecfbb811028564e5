"""The demo model: the SDAR architecture (Qwen3 lineage) in plain PyTorch.

Only what the demo needs: a decoder with RMSNorm, rotary positions, grouped key/value heads with a norm on every
query and key head, SwiGLU, and a separate output head. There is no cache. The caller passes the attention mask, so the same
code serves training (noised and clean rows side by side) and evaluation (block-causal). Parameter names are those of
the published checkpoints, so saving a state dict gives a folder that any SDAR loader reads.
"""
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

# The shape of the demo model. heads * head_dim differs from hidden on purpose, as in SDAR-4B.
SHAPE = dict(hidden_size=256, num_hidden_layers=5, num_attention_heads=6, num_key_value_heads=2, head_dim=32,
             intermediate_size=512, vocab_size=1024, rope_theta=1000000, rms_norm_eps=1e-6,
             max_position_embeddings=1024, block_size=4)


def rms_norm(x, weight, eps):
    """x / sqrt(mean(x^2) + eps) * weight, with the statistics in float32."""
    y = x.float()
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps)
    return (y * weight.float()).to(x.dtype)


class Norm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return rms_norm(x, self.weight, self.eps)


def rotate(x, cos, sin):
    """Rotary positions on [batch, heads, rows, head_dim]; dimension j pairs with j + head_dim/2."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv, self.dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        hidden = c["hidden_size"]
        self.q_proj = nn.Linear(hidden, self.heads * self.dim, bias=False)
        self.k_proj = nn.Linear(hidden, self.kv * self.dim, bias=False)
        self.v_proj = nn.Linear(hidden, self.kv * self.dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.dim, hidden, bias=False)
        self.q_norm = Norm(self.dim, c["rms_norm_eps"])
        self.k_norm = Norm(self.dim, c["rms_norm_eps"])

    def forward(self, x, cos, sin, mask):
        n, rows, _ = x.shape
        split = lambda y, heads: y.view(n, rows, heads, self.dim).transpose(1, 2)
        q = rotate(self.q_norm(split(self.q_proj(x), self.heads)), cos, sin)
        k = rotate(self.k_norm(split(self.k_proj(x), self.kv)), cos, sin)
        v = split(self.v_proj(x), self.kv)
        k = k.repeat_interleave(self.heads // self.kv, dim=1)
        v = v.repeat_interleave(self.heads // self.kv, dim=1)
        # Written out: compiled for a CPU, this is twice as fast to train as the library's fused attention.
        scores = (q @ k.transpose(-1, -2)) * self.dim ** -0.5
        y = torch.softmax(scores.masked_fill(~mask, -1e4), dim=-1).to(v.dtype) @ v
        return self.o_proj(y.transpose(1, 2).reshape(n, rows, self.heads * self.dim))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.up_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.down_proj = nn.Linear(c["intermediate_size"], c["hidden_size"], bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = Norm(c["hidden_size"], c["rms_norm_eps"])
        self.self_attn = Attention(c)
        self.post_attention_layernorm = Norm(c["hidden_size"], c["rms_norm_eps"])
        self.mlp = MLP(c)

    def forward(self, x, cos, sin, mask):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = Norm(c["hidden_size"], c["rms_norm_eps"])


class SDAR(nn.Module):
    """ids, positions: [batch, rows]; mask: bool [batch, 1, rows, rows] (True = may see)."""

    def __init__(self, config):
        super().__init__()
        self.config = dict(config)
        self.model = Body(config)
        self.lm_head = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)
        half = config["head_dim"] // 2
        frequencies = config["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.arange(config["max_position_embeddings"], dtype=torch.float64)[:, None] * frequencies
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                scale = 0.02 if "embed" in name else p.shape[1] ** -0.5
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    scale /= (2 * config["num_hidden_layers"]) ** 0.5
                nn.init.normal_(p, std=scale)

    def hidden(self, ids, positions, mask):
        x = self.model.embed_tokens(ids)
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        if torch.is_autocast_enabled("cpu"):
            cos, sin, x = cos.bfloat16(), sin.bfloat16(), x.bfloat16()
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        return self.model.norm(x)

    def forward(self, ids, positions, mask):
        return self.lm_head(self.hidden(ids, positions, mask))


def block_causal_mask(rows, block):
    """A position sees every position whose block is not later than its own."""
    b = torch.arange(rows) // block
    return (b[None, :] <= b[:, None])[None, None]


def load(folder):
    """Read an exported folder (bfloat16 safetensors) for float32 arithmetic."""
    from safetensors.torch import load_file

    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text())
    model = SDAR(config)
    model.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
    return model.eval()
