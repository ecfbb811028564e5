"""Block-diffusion generation, written to be read: no cache, float32, greedy. A few prompts run side by side."""
import torch

from model import block_causal_mask


@torch.no_grad()
def generate(model, prompts, stop, gen_length=160, strategy="low_confidence_dynamic", threshold=0.9, steps=4):
    """Complete prompts (lists of token ids) in blocks. Returns one (new ids up to the first stop id, whether it was found, denoising passes) per prompt.

    Blocks are aligned to absolute positions, so the tail of a prompt shares its block with the first new tokens. Rows behind the block in work
    are not there yet for any earlier row (block-causal mask), so prompts of different lengths can share a pass.
    """
    block, mask_id = model.config["block_size"], model.config["mask_token_id"]
    totals = [-(-(len(p) + gen_length) // block) * block for p in prompts]
    x = torch.full((len(prompts), max(totals)), mask_id)
    for i, p in enumerate(prompts):
        x[i, :len(p)] = torch.tensor(p)
    start = [len(p) // block * block for p in prompts]   # the block in work, for each prompt
    step, passes = [0] * len(prompts), [0] * len(prompts)
    quota = [block // steps + (s < block % steps) for s in range(steps)]
    alive = list(range(len(prompts)))
    while alive:
        rows = max(start[i] for i in alive) + block
        logits = model(x[alive, :rows], torch.arange(rows).expand(len(alive), rows), block_causal_mask(rows, block))
        logits[..., mask_id] = -torch.inf                # the mask itself is never an answer
        for n, i in enumerate(list(alive)):
            at = slice(start[i], start[i] + block)
            masked = x[i, at] == mask_id
            confidence, token = torch.softmax(logits[n, at], dim=-1).max(dim=-1)
            confidence = torch.where(masked, confidence, -torch.inf)
            want = min(quota[min(step[i], steps - 1)], int(masked.sum()))
            accept = confidence > threshold
            if strategy == "low_confidence_static" or int(accept.sum()) < want:
                accept = torch.zeros_like(masked)
                accept[confidence.topk(want).indices] = True
            x[i, at] = torch.where(accept, token, x[i, at])
            step[i] += 1
            passes[i] += 1
            if not (x[i, at] == mask_id).any():
                start[i], step[i] = start[i] + block, 0
                ended = any(int(t) in stop for t in x[i, len(prompts[i]):start[i]])
                if ended or start[i] >= totals[i]:
                    alive.remove(i)
    results = []
    for i, p in enumerate(prompts):
        new = x[i, len(p):start[i]].tolist()
        end = next((n for n, t in enumerate(new) if t in stop), None)
        results.append((new[:end], end is not None, passes[i]))
    return results
