"""Train the demo model from nothing and export it as an ordinary model folder.

    python train.py --minutes 80 --seed 7            # exports to model/, state in train-state/
    python train.py --minutes 80 --resume            # continue after an interruption

The learning rate follows the clock, not a step count: it warms up, then falls along a cosine that ends when the minutes are used up, so a slow
machine takes fewer steps but still ends well. Exported are the averaged weights (EMA) in bfloat16.
"""
import argparse
import json
import math
import os
import random
import signal
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer

import corpus
import tokenizer as T
from batches import Packer
from model import SDAR, SHAPE
from muon import Muon

HERE = Path(__file__).parent


def configs():
    config = dict(
        architectures=["SDARForCausalLM"],
        auto_map={"AutoConfig": "configuration_sdar.SDARConfig", "AutoModel": "modeling_sdar.SDARModel", "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM"},
        attention_bias=False, attention_dropout=0.0, bos_token_id=T.END_OF_TEXT, eos_token_id=T.END_OF_TEXT, hidden_act="silu", initializer_range=0.02,
        mask_token_id=T.MASK, max_window_layers=SHAPE["num_hidden_layers"], model_type="sdar", rope_scaling=None, sliding_window=None,
        tie_word_embeddings=False, torch_dtype="bfloat16", transformers_version="4.52.4", use_cache=False, use_sliding_window=False, **SHAPE)
    generation = dict(bos_token_id=T.END_OF_TEXT, do_sample=True, eos_token_id=[T.END_OF_TURN, T.END_OF_TEXT], pad_token_id=T.END_OF_TEXT, temperature=0.6,
                      top_k=20, top_p=0.95, transformers_version="4.51.0")
    return {"config.json": json.dumps(config, indent=2, sort_keys=True) + "\n", "generation_config.json": json.dumps(generation, indent=2) + "\n"}


def export(weights, tok, folder):
    """Write the model folder; every file appears whole (written beside, then renamed)."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(folder.name + ".tmp")
    temporary.mkdir(exist_ok=True)
    save_file({k: v.to(torch.bfloat16).contiguous() for k, v in weights.items()}, temporary / "model.safetensors", metadata={"format": "pt"})
    tok.save(str(temporary / "tokenizer.json"))
    for name, text in {**configs(), **T.companions()}.items():
        (temporary / name).write_text(text)
    for path in sorted(temporary.iterdir()):
        path.chmod(0o644)
        os.replace(path, folder / path.name)
    temporary.rmdir()


def make_tokenizer(seed):
    """The tokenizer sees the same kinds of text as the model, with few sums: digits never merge anyway."""
    rng = random.Random(seed)
    mix = {"question": 0.45, "story": 0.35, "talk": 0.1, "arithmetic": 0.1}
    samples = (corpus.sample(rng, mix)[1] for _ in range(20000))
    return T.train(part for turns in samples for user, assistant in turns for part in ("user\n", user, "assistant\n", assistant))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--minutes", type=float, default=80)
    p.add_argument("--seed", type=int, default=7)
    p.add_argument("--lr", type=float, default=2.5e-3, help="peak learning rate")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--out", type=Path, default=HERE / "model")
    p.add_argument("--state", type=Path, default=HERE / "train-state")
    p.add_argument("--export-every", type=float, default=10, help="minutes between exports")
    p.add_argument("--resume", action="store_true")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    a.state.mkdir(parents=True, exist_ok=True)
    saved = a.state / "state.pt"

    tok = Tokenizer.from_file(str(a.state / "tokenizer.json")) if a.resume else make_tokenizer(a.seed)
    tok.save(str(a.state / "tokenizer.json"))
    model = SDAR(SHAPE)
    packer = Packer(tok, a.seed)
    inside = [q for n, q in model.named_parameters() if q.dim() == 2 and "layers" in n]
    tables = [q for n, q in model.named_parameters() if q.dim() == 2 and "layers" not in n]
    norms = [q for q in model.parameters() if q.dim() == 1]
    optimizers = [Muon(inside, lr=a.lr), torch.optim.AdamW([dict(params=tables, weight_decay=0.1), dict(params=norms, weight_decay=0.0)], lr=a.lr, betas=(0.9, 0.98))]
    average = {k: v.clone() for k, v in model.state_dict().items()}
    step, used, tokens = 0, 0.0, 0
    if a.resume:
        s = torch.load(saved, weights_only=False)
        model.load_state_dict(s["model"])
        for optimizer, state in zip(optimizers, s["optimizers"]):
            optimizer.load_state_dict(state)
        packer.load(s["packer"])
        average, step, used, tokens = s["average"], s["step"], s["used"], s["tokens"]
    hidden = torch.compile(model.hidden)
    print(f"{sum(q.numel() for q in model.parameters()):,} parameters, {a.minutes:g} minutes, seed {a.seed}", flush=True)

    def save():
        state = dict(model=model.state_dict(), optimizers=[o.state_dict() for o in optimizers], packer=packer.state(), average=average, step=step, used=used, tokens=tokens)
        torch.save(state, a.state / "state.tmp")
        os.replace(a.state / "state.tmp", saved)
        export(average, tok, a.out)

    budget, last, exported, fresh = a.minutes * 60, time.time(), used, 3
    losses = {"short": [], "long": []}
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))  # an interrupted run saves before it ends
    while used < budget and not stop:
        lr = a.lr * min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * used / budget))
        for group in (g for o in optimizers for g in o.param_groups):
            group["lr"] = lr
        packer.mix = corpus.MIX if used < corpus.FIRST_PHASE * budget else corpus.MIX_LATER
        batches = packer.step()
        total = sum(len(b["targets"]) for _, b in batches)
        for name, b in batches:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                rows = hidden(b["ids"], b["positions"], b["mask"]).flatten(0, 1)[b["where"]]
                logits = model.lm_head(rows)
            loss = F.cross_entropy(logits.float(), b["targets"], reduction="sum") / total
            loss.backward()
            losses[name].append((loss.item() * total, len(b["targets"])))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        tokens += total
        keep = min(0.995, 1 - 1 / (step / 10 + 1))
        torch._foreach_lerp_(list(average.values()), [q.detach() for q in model.state_dict().values()], 1 - keep)
        now = time.time()
        # the first steps compile the model: they do not count against the schedule
        used, last, fresh = used + (min(now - last, 1.0) if fresh > 0 else now - last), now, fresh - 1
        if step % 50 == 0:
            means = ", ".join(f"{name} {sum(l for l, _ in ls) / max(1, sum(n for _, n in ls)):.4f}" for name, ls in losses.items())
            print(f"step {step} used {used / 60:.1f} min lr {lr:.2e} loss {means} targets {tokens:,}", flush=True)
            losses = {"short": [], "long": []}
        if used - exported > a.export_every * 60:
            save()
            exported = used
    save()
    print(f"done: {step} steps, {tokens:,} masked tokens learnt from, {used / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
