"""From samples to training rows: the block-diffusion objective.

A sample gives clean rows (all complete blocks that a later block may look at) and, once or twice, noised rows (the blocks that hold an
answer). Both carry the same positions. A clean block sees the clean blocks up to itself; a noised block sees itself and the clean
blocks before it: exactly what it sees while generating. Rows come in whole blocks of four, so visibility is computed block by block.
Several samples are packed into one row sequence of fixed length, which keeps the compiled model at two shapes.
"""
import random

import numpy as np
import torch

import corpus
from tokenizer import END_OF_TEXT, MASK

BLOCK = 4
FULL = 0.35  # share of noised blocks that are masked entirely, as every block is when its generation starts


def encode(tok, kind, content):
    """Token ids and the spans [start, end) that the model has to write, the end token included."""
    if kind == "text":
        ids = tok.encode(content).ids + [END_OF_TEXT]
        return ids, [(0, len(ids))]
    ids, spans = [], []
    for i, (user, assistant) in enumerate(content):
        ids += tok.encode(("\n" if i else "") + f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n").ids
        start = len(ids)
        ids += tok.encode(assistant + "<|im_end|>").ids
        spans.append((start, len(ids)))
    return ids, spans


def groups(ids, spans, copies):
    """Blocks of rows of one sample: tokens [n, 4], maskable [n, 4], view [n] (0 clean, 1.. noised copy), block number [n]."""
    last = (spans[-1][1] - 1) // BLOCK
    tokens = [ids[b * BLOCK:(b + 1) * BLOCK] for b in range(last)]
    maskable = [[False] * BLOCK] * last
    view, block = [0] * last, list(range(last))
    for copy in range(1, copies + 1):
        for start, end in spans:
            for b in range(start // BLOCK, (end - 1) // BLOCK + 1):
                at = range(b * BLOCK, (b + 1) * BLOCK)
                # after the end of an answer the rest of its block is end-of-text, whatever follows in the conversation
                tokens.append([ids[p] if p < end else END_OF_TEXT for p in at])
                maskable.append([p >= start for p in at])
                view.append(copy)
                block.append(b)
    return tokens, maskable, view, block


class Packer:
    """An endless stream of packed batches, from a seeded generator. `state`/`load` make it resumable."""

    SHAPES = {"short": (20, 192), "long": (12, 256)}  # sequences, rows of each

    def __init__(self, tok, seed):
        self.tok, self.mix, self.rng = tok, corpus.MIX, random.Random(seed)
        self.noise = np.random.default_rng(seed)
        self.waiting = {name: [] for name in self.SHAPES}

    def draw(self):
        """Draw one sample into its queue; returns the queue's name."""
        while True:
            kind, content = corpus.sample(self.rng, self.mix)
            ids, spans = encode(self.tok, kind, content)
            for copies in (2, 1):
                item = groups(ids, spans, copies)
                rows = len(item[0]) * BLOCK
                if rows <= 96:
                    self.waiting["short"].append(item)
                    return "short"
                if copies == 1 and rows <= self.SHAPES["long"][1]:
                    self.waiting["long"].append(item)
                    return "long"

    def pack(self, name):
        """Take as many waiting samples as fit (first fit) and return a batch of tensors."""
        count, rows = self.SHAPES[name]
        per = rows // BLOCK
        bins, left = [[] for _ in range(count)], []
        used = [0] * count
        for item in sorted(self.waiting[name], key=lambda i: -len(i[0])):
            size = len(item[0])
            at = next((i for i in range(count) if used[i] + size <= per), None)
            if at is None:
                left.append(item)
            else:
                bins[at].append(item)
                used[at] += size
        self.waiting[name] = left
        tokens = np.full((count, per, BLOCK), END_OF_TEXT)
        maskable = np.zeros((count, per, BLOCK), bool)
        view, block, owner = (np.full((count, per), v) for v in (0, 0, -1))
        for i, items in enumerate(bins):
            at = 0
            for n, (t, m, v, b) in enumerate(items):
                end = at + len(t)
                tokens[i, at:end], maskable[i, at:end], view[i, at:end], block[i, at:end], owner[i, at:end] = t, m, v, b, n
                at = end
        return self.finish(tokens, maskable, view, block, owner)

    def finish(self, tokens, maskable, view, block, owner):
        """Draw the noise and compute who sees whom."""
        count, per = view.shape
        level = np.where(self.noise.random((count, per, 1)) < FULL, 1.0, self.noise.random((count, per, 1)))
        dice = self.noise.random(tokens.shape)
        hidden = maskable & (dice < level)
        # a noised block without any mask teaches nothing: hide its luckiest token
        dice = np.where(maskable, dice, 2.0)
        empty = maskable.any(-1) & ~hidden.any(-1)
        hidden |= empty[..., None] & (dice == dice.min(-1, keepdims=True))
        q, k = (lambda x: x[:, :, None]), (lambda x: x[:, None, :])
        sees = (q(owner) == k(owner)) & (((k(view) == 0) & (k(block) < q(block))) | ((k(view) == q(view)) & (k(block) == q(block))))
        rows = per * BLOCK
        positions = (block[..., None] * BLOCK + np.arange(BLOCK)).reshape(count, rows)
        mask = torch.from_numpy(sees).repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)[:, None]
        where = np.flatnonzero(hidden.reshape(-1))
        return dict(ids=torch.from_numpy(np.where(hidden, MASK, tokens).reshape(count, rows)), positions=torch.from_numpy(positions), mask=mask,
                    where=torch.from_numpy(where), targets=torch.from_numpy(tokens.reshape(-1)[where]))

    def step(self):
        """The batches of one optimizer step, as (name, batch): one of short samples, and those of long ones for which enough of them wait."""
        size = lambda name: sum(len(i[0]) for i in self.waiting[name]) * BLOCK
        need = {name: int(count * rows * 1.05) for name, (count, rows) in self.SHAPES.items()}
        have = {name: size(name) for name in need}
        while have["short"] < need["short"]:
            name = self.draw()
            have[name] += len(self.waiting[name][-1][0]) * BLOCK
        out = [("short", self.pack("short"))]
        while size("long") >= need["long"]:
            out.append(("long", self.pack("long")))
        return out

    def state(self):
        return dict(rng=self.rng.getstate(), noise=self.noise.bit_generator.state, waiting=self.waiting)

    def load(self, state):
        self.rng.setstate(state["rng"])
        self.noise.bit_generator.state = state["noise"]
        self.waiting = state["waiting"]
