#!/usr/bin/env python3
"""Judges a `.pte`: the ExecuTorch runtime against a forward pass in float64 numpy that shares no code with the product.

    python3 tests/judges/pte_judge.py CHECKPOINT_DIR ARTIFACT.pte [--limit 1e-4] [--seed 0] [--library FILE]

Random tokens are run once whole, once in blocks over a committed cache (as long as needed, then as long as the file
allows). Prints the largest difference of logits and of new keys and values, relative to the largest reference value, and
fails above the limit. Quantized files depart from their checkpoint by design: give them a limit of their own.
Needs numpy and `tests/engines/setup.sh executorch`. Reads SDAR, Fast-dLLM v2, Dream and LLaDA folders.
"""
import argparse
import ctypes
import json
import os
import pathlib
import sys

import numpy as np

HIDDEN = -1e30


# --- the checkpoint ---------------------------------------------------------------------------------------------------

def tensors(folder):
    """Every tensor of the (sharded) safetensors files, float64."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        size = int.from_bytes(path.open("rb").read(8), "little")
        data = np.memmap(path, np.uint8, "r")
        header = json.loads(bytes(data[8 : 8 + size]))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = (8 + size + at for at in entry["data_offsets"])
            raw = bytes(data[begin:end])
            if entry["dtype"] == "BF16":
                values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                values = np.frombuffer(raw, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[entry["dtype"]])
            found[name] = values.astype(np.float64).reshape(entry["shape"])
    return found


LLADA = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ff_norm",
    "self_attn.q_proj": "q_proj", "self_attn.k_proj": "k_proj", "self_attn.v_proj": "v_proj", "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ff_proj", "mlp.up_proj": "up_proj", "mlp.down_proj": "ff_out",
}


class Reference:
    """The forward pass of all four families; what a checkpoint lacks (q/k norm, biases, its own head) is left out."""

    def __init__(self, folder):
        config = json.loads((folder / "config.json").read_text())
        self.all = tensors(folder)
        self.llada = config["model_type"] == "llada"
        key = (lambda ours, llada: config[llada if self.llada else ours])
        self.heads = key("num_attention_heads", "n_heads")
        self.kv = key("num_key_value_heads", "n_kv_heads") or self.heads
        self.layers = key("num_hidden_layers", "n_layers")
        self.dim = config.get("head_dim") or key("hidden_size", "d_model") // self.heads
        self.eps = config["rms_norm_eps"]
        self.theta = float(config.get("rope_theta") or config["rope_parameters"]["rope_theta"])
        if self.llada:
            names = ("transformer.wte", "transformer.ln_f", "transformer.ff_out")
        else:
            names = ("embed_tokens", "norm", None)
        self.embed = self.all[f"model.{names[0]}.weight"]
        self.final = self.all[f"model.{names[1]}.weight"]
        head = "lm_head.weight" if names[2] is None else f"model.{names[2]}.weight"
        self.head = self.all.get(head, self.embed)
        if config.get("tie_word_embeddings") or config.get("weight_tying"):
            self.head = self.embed

    def weight(self, layer, name, kind="weight"):
        if self.llada:
            return self.all.get(f"model.transformer.blocks.{layer}.{LLADA.get(name, name)}.{kind}")
        return self.all.get(f"model.layers.{layer}.{name}.{kind}")

    def norm(self, x, weight):
        return x if weight is None else x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * weight

    def rotate(self, x, positions):
        half = self.dim // 2
        angle = positions[None, :, None] * self.theta ** (-2.0 * np.arange(half) / self.dim)
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)

    def step(self, tokens, positions, mask):
        """Logits [T, V], and keys and values [KV, T, D] a layer, of a sequence without cache."""
        x, rows, count = self.embed[tokens], [], len(tokens)
        for layer in range(self.layers):
            def linear(name, h):
                bias = self.weight(layer, name, "bias")
                return h @ self.weight(layer, name).T + (0.0 if bias is None else bias)

            def heads(name, h):
                return linear(name, h).reshape(count, -1, self.dim).transpose(1, 0, 2)

            h = self.norm(x, self.weight(layer, "input_layernorm"))
            q, k, v = (heads(f"self_attn.{n}_proj", h) for n in "qkv")
            q = self.rotate(self.norm(q, self.weight(layer, "self_attn.q_norm")), positions)
            k = self.rotate(self.norm(k, self.weight(layer, "self_attn.k_norm")), positions)
            rows += [k, v]
            k, v = (np.repeat(t, self.heads // self.kv, 0) for t in (k, v))
            scores = q @ k.transpose(0, 2, 1) / np.sqrt(self.dim) + mask
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            attended = (scores / scores.sum(-1, keepdims=True)) @ v
            x = x + linear("self_attn.o_proj", attended.transpose(1, 0, 2).reshape(count, -1))
            h = self.norm(x, self.weight(layer, "post_attention_layernorm"))
            gate = linear("mlp.gate_proj", h)
            x = x + linear("mlp.down_proj", gate / (1.0 + np.exp(-gate)) * linear("mlp.up_proj", h))
        return self.norm(x, self.final) @ self.head.T, rows


# --- the runtime ------------------------------------------------------------------------------------------------------

class Shape(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint64) for n in ("max_tokens", "max_cache", "layers", "kv_heads", "head_dim", "vocab")]


class Step(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint64 if n in ("tokens_len", "cached", "rows_len") else ctypes.c_void_p)
                for n in ("tokens_len", "cached", "tokens", "positions", "mask", "cache", "rows", "rows_len", "logits", "fresh")]


class Artifact:
    """Method `forward` of a file, through the shim's C interface (runtime/shim/executorch_shim.cpp)."""

    ABI = 1

    def __init__(self, path, library):
        lib = ctypes.CDLL(str(library))
        self.call = lambda name: getattr(lib, "diffulex_executorch_" + name)
        if self.call("abi")() != self.ABI:
            sys.exit(f"{library} speaks another version of the interface: run tests/engines/setup.sh again")
        self.call("error").restype = ctypes.c_char_p
        self.call("open").restype = ctypes.c_void_p
        self.shape = Shape()
        self.model = self.call("open")(os.fsencode(path), ctypes.byref(self.shape))
        if not self.model:
            sys.exit(f"{path}: {self.error()}")

    def error(self):
        return self.call("error")().decode()

    def step(self, tokens, positions, mask, cache):
        """`cache`: keys and values in turn, [KV, C, D] float32. Returns logits and new rows like `Reference.step`."""
        shape, count, cached = self.shape, len(tokens), cache[0].shape[1]
        tokens, positions = (np.ascontiguousarray(a, np.int64) for a in (tokens, positions))
        mask = np.ascontiguousarray(mask, np.float32)
        assert mask.shape == (count, cached + count)
        rows = np.arange(count, dtype=np.uint32)
        logits = np.empty((count, shape.vocab), np.float32)
        fresh = [np.empty((shape.kv_heads, count, shape.head_dim), np.float32) for _ in cache]
        pointers = lambda arrays: (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
        into, out = pointers(cache), pointers(fresh)
        step = Step(count, cached, tokens.ctypes.data, positions.ctypes.data, mask.ctypes.data, ctypes.addressof(into),
                    rows.ctypes.data, count, logits.ctypes.data, ctypes.addressof(out))
        if self.call("step")(ctypes.c_void_p(self.model), ctypes.byref(step)) != 0:
            sys.exit(self.error())
        return logits, fresh


# --- the comparison ---------------------------------------------------------------------------------------------------

def block_causal(length, block):
    at = np.arange(length) // block
    return np.where(at[None, :] <= at[:, None], 0.0, HIDDEN)


def relative(found, wanted):
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def whole(artifact, reference, tokens, block):
    """All tokens in one step over a cache of one hidden row."""
    count, shape = len(tokens), artifact.shape
    mask = block_causal(count, block)
    wanted = reference.step(tokens, np.arange(count), mask)
    cache = [np.zeros((shape.kv_heads, 1, shape.head_dim), np.float32)] * (2 * shape.layers)
    found = artifact.step(tokens, np.arange(count), np.hstack([np.full((count, 1), HIDDEN), mask]), cache)
    return relative(found[0], wanted[0]), max(map(relative, found[1], wanted[1]))


def blocks(artifact, reference, tokens, block, full_cache):
    """The same tokens block by block, each over the committed rows of the earlier ones."""
    count, shape, worst = len(tokens), artifact.shape, [0.0, 0.0]
    wanted = reference.step(tokens, np.arange(count), block_causal(count, block))
    committed = [np.zeros((shape.kv_heads, 0, shape.head_dim), np.float32)] * (2 * shape.layers)
    for begin in range(0, count, block):
        part = slice(begin, min(begin + block, count))
        rows = part.stop - begin
        cached = shape.max_cache if full_cache else max(begin, 1)
        cache = [np.ascontiguousarray(np.pad(c, ((0, 0), (0, cached - begin), (0, 0)))) for c in committed]
        mask = np.zeros((rows, cached + rows))
        mask[:, begin:cached] = HIDDEN
        logits, fresh = artifact.step(tokens[part], np.arange(part.start, part.stop), mask, cache)
        worst[0] = max(worst[0], relative(logits, wanted[0][part]))
        worst[1] = max([worst[1]] + [relative(f, w[:, part]) for f, w in zip(fresh, wanted[1])])
        committed = [np.concatenate([c, f], 1) for c, f in zip(committed, fresh)]
    return worst


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("artifact", type=pathlib.Path)
    parser.add_argument("--library", type=pathlib.Path, default=target / "engines" / "libdiffulex_executorch.so")
    parser.add_argument("--limit", type=float, default=1e-4, help="largest relative difference that passes (default 1e-4)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not args.library.exists():
        sys.exit(f"there is no {args.library}; `tests/engines/setup.sh executorch` builds it")

    artifact, reference = Artifact(args.artifact, args.library), Reference(args.checkpoint)
    shape = artifact.shape
    ours = (reference.layers, reference.kv, reference.dim, len(reference.head))
    theirs = (shape.layers, shape.kv_heads, shape.head_dim, shape.vocab)
    if ours != theirs:
        sys.exit(f"layers, kv heads, head dim and vocabulary are {theirs} in the artifact, {ours} in the checkpoint")

    random, worst = np.random.default_rng(args.seed), 0.0
    draw = lambda count: random.integers(0, shape.vocab, count)

    def report(name, result):
        nonlocal worst
        worst = max(worst, *result) if np.isfinite(result).all() else float("inf")
        print(f"{name:44} logits {result[0]:.2e}   keys and values {result[1]:.2e}")

    top = min(shape.max_tokens, 128)
    for count in sorted({1, min(5, top), top}):
        report(f"{count} tokens at once", whole(artifact, reference, draw(count), 4))
    for block in sorted({min(4, top), min(32, top)}):
        for full_cache in (False, True):
            count = min(3 * block + 1, shape.max_cache, 128)
            name = f"{count} tokens in blocks of {block}, cache " + ("at its bound" if full_cache else "as long as needed")
            report(name, blocks(artifact, reference, draw(count), block, full_cache))
    verdict = "ok" if worst <= args.limit else "FAILED"
    print(f"{verdict}: largest relative difference {worst:.2e}, limit {args.limit:.0e}")
    return worst > args.limit


if __name__ == "__main__":
    sys.exit(main())
