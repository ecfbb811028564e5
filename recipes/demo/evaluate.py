"""Measure the exported demo model on the held-out items of evaluation.jsonl.

    python evaluate.py                                   # generate with the plain implementation and score, two strategies
    python evaluate.py --write answers.jsonl             # also keep the answers
    python evaluate.py --answers answers.jsonl           # score answers of another program: lines {"prompt": ..., "answer": ...}
    python evaluate.py --items                           # write evaluation.jsonl again from the corpus generator

Sums, differences and questions count when the answer is equal to the expected one, character for character (outer white space aside).
A story counts when it mentions the asked character and object, ends by itself, and the grammar can parse it: every sentence is one that the
corpus could hold, none is repeated, and hero, friend, names and object stay the same to the end.
"""
import argparse
import json
import time
from pathlib import Path

import corpus
import stories

HERE = Path(__file__).parent
KINDS = ["sum", "difference", "question", "story"]


def read(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]


def answers_of_model(folder, items, strategy, threshold, batch=25):
    """Answers by the plain implementation: {prompt: {"answer", "ended", "tokens", "passes"}}."""
    import torch
    from tokenizers import Tokenizer

    from generate import generate
    from model import load
    from tokenizer import prompt_text

    torch.set_num_threads(2)
    model = load(folder)
    tok = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    stop = set(json.loads((Path(folder) / "generation_config.json").read_text())["eos_token_id"])
    prompts = {item["prompt"]: tok.encode(prompt_text([(item["prompt"], None)])).ids for item in items}
    order = sorted(prompts, key=lambda p: (p.lower().find("story") >= 0, len(prompts[p])))
    out = {}
    for i in range(0, len(order), batch):
        part = order[i:i + batch]
        for p, (ids, ended, passes) in zip(part, generate(model, [prompts[p] for p in part], stop, strategy=strategy, threshold=threshold)):
            out[p] = dict(answer=tok.decode(ids), ended=ended, tokens=len(ids) + ended, passes=passes)
    return out


def judge(item, got):
    """Faults of one answer, an empty list when it is right."""
    answer = got["answer"].strip()
    if item["kind"] != "story":
        return [] if answer == item["answer"] else [f"expected {item['answer']}"]
    faults = stories.check(answer, *item["words"])
    return faults if got.get("ended", True) else faults + ["does not end"]


def score(items, answers, title, show=0):
    """Print the table, and the first `show` failures. Returns {kind: (right, count)}."""
    result, failures = {k: [0, 0] for k in KINDS}, []
    about = {}
    for item in items:
        got = answers.get(item["prompt"])
        faults = judge(item, got) if got else ["no answer"]
        for cell in (result[item["kind"]],) + ((about.setdefault(item["about"], [0, 0]),) if "about" in item else ()):
            cell[0] += not faults
            cell[1] += 1
        if faults:
            failures.append((item["prompt"], got and got["answer"], "; ".join(faults)))
    print(f"\n{title}")
    for kind in KINDS:
        right, count = result[kind]
        if count:
            print(f"  {kind:<12}{right:>4} of {count:<4}{100 * right / count:6.1f} %")
    if about:
        print("  questions by kind: " + ", ".join(f"{k} {r}/{n}" for k, (r, n) in about.items()))
    with_passes = [g for g in answers.values() if g.get("passes")]
    if with_passes:
        tokens, passes = (sum(g[k] for g in with_passes) for k in ("tokens", "passes"))
        print(f"  {tokens} tokens in {passes} denoising passes: {tokens / passes:.2f} tokens a pass")
    for prompt, answer, why in failures[:show]:
        print(f"  - {prompt!r} -> {answer!r} ({why})")
    return result


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--model", type=Path, default=HERE / "model")
    p.add_argument("--evaluation", type=Path, default=HERE / "evaluation.jsonl")
    p.add_argument("--items", action="store_true", help="write the evaluation file and stop")
    p.add_argument("--answers", type=Path, help="score this file instead of generating")
    p.add_argument("--write", type=Path, help="write the answers (of the first strategy) here")
    p.add_argument("--strategy", default="dynamic,static", help="dynamic, static or both")
    p.add_argument("--threshold", type=float, default=0.9)
    p.add_argument("--only", help="only these kinds, with commas between")
    p.add_argument("--limit", type=int, help="only the first items of each kind")
    p.add_argument("--show", type=int, default=10, help="failures to print")
    a = p.parse_args()
    if a.items:
        a.evaluation.write_text("".join(json.dumps(item) + "\n" for item in corpus.evaluation()))
        return
    items = read(a.evaluation)
    items = [i for k in KINDS if not a.only or k in a.only.split(",") for i in [i for i in items if i["kind"] == k][:a.limit]]
    if a.answers:
        score(items, {line["prompt"]: line for line in read(a.answers)}, f"answers of {a.answers}", a.show)
        return
    for n, strategy in enumerate(a.strategy.split(",")):
        begin = time.time()
        answers = answers_of_model(a.model, items, "low_confidence_" + strategy, a.threshold)
        how = f", threshold {a.threshold}" if strategy == "dynamic" else ""
        score(items, answers, f"low_confidence_{strategy}{how}, block 4, 4 steps, greedy ({time.time() - begin:.0f} s)", a.show)
        if a.write and n == 0:
            a.write.write_text("".join(json.dumps({"prompt": k, **v}) + "\n" for k, v in answers.items()))


if __name__ == "__main__":
    main()
