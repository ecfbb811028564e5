"""Step times of ExecuTorch files with the stock Python runtime, all files in one process, interleaved A B C, B C A, C A B ...

steps.py A.pte B.pte ... [--block 32] [--cache 512] [--full 128] [--runs 15] [--warmup 2] [--threads 2] [--no-rss] [--method NAME]
Every file: one method with inputs ids i64[1,T], positions i64[1,T], mask f32[1,1,T,C+T], k0, v0, k1, ... f32[1,KV,C,D]; output 0 = logits.
(a) block: T = --block against C = --cache rows, all visible; (b) full: T = --full, C = 1, that row hidden by the mask (-1e4), no causality.
"""
import argparse, json, os, resource, statistics, subprocess, sys, time


def rss():
    d = dict(l.split(":", 1) for l in open("/proc/self/status"))
    return {k: int(d[k].split()[0]) / 1024 for k in ("VmHWM", "VmRSS", "RssAnon", "RssFile")}


def waited():
    """Seconds the threads of this process have spent runnable but not running (another program had the core)."""
    s = 0
    for t in os.listdir("/proc/self/task"):
        try:
            s += int(open(f"/proc/self/task/{t}/schedstat").read().split()[1])
        except OSError:
            pass
    return s / 1e9


def quiet(limit):
    """Wait until the cores are idle for 0.3 s, `limit` seconds at most."""
    def idle():
        return int(open("/proc/stat").readline().split()[4])
    end = time.time() + limit
    while time.time() < end:
        a = idle()
        time.sleep(0.3)
        if idle() - a > 0.27 * 100 * os.cpu_count():
            return
    return


def load(path, method):
    import executorch.kernels.quantized  # noqa: registers quantized embeddings
    from executorch.extension.pybindings import portable_lib as p
    m = p._load_for_executorch(path)
    names = m.method_names()
    n = method or ("forward" if "forward" in names else names[0])
    return m, n


def inputs(m, n, T, C, hide):
    import torch
    meta = m.method_meta(n)
    g = torch.Generator().manual_seed(1)
    num = meta.num_inputs()
    kv, d = meta.input_tensor_meta(3).sizes()[1], meta.input_tensor_meta(3).sizes()[3]
    mask = torch.zeros(1, 1, T, C + T)
    if hide:
        mask[..., :C] = -1e4
    start = 0 if hide else C
    return [torch.randint(0, 150000, (1, T), generator=g), torch.arange(start, start + T)[None], mask,
            *[torch.randn(1, kv, C, d, generator=g) for _ in range(num - 3)]]


def main():
    a = argparse.ArgumentParser()
    a.add_argument("files", nargs="+")
    for k, v in dict(block=32, cache=512, full=128, runs=15, warmup=2, threads=2).items():
        a.add_argument("--" + k, type=int, default=v)
    a.add_argument("--method", default=None)
    a.add_argument("--stretch", type=int, default=1, help="go on for up to this many times --runs rounds until every file has --runs undisturbed ones")
    a.add_argument("--only", choices=["block", "full"])
    a.add_argument("--patience", type=float, default=0, help="seconds to wait before each round for idle cores")
    a.add_argument("--no-rss", action="store_true")
    a.add_argument("--load-only", action="store_true", help="internal: load one file, run one block, print memory as JSON")
    a = a.parse_args()
    import torch
    torch.set_num_threads(1)
    from executorch.extension.pybindings import portable_lib as p
    import executorch.kernels.quantized  # noqa
    base = rss()
    if a.threads != os.cpu_count() and hasattr(p, "_unsafe_reset_threadpool"):
        p._unsafe_reset_threadpool(a.threads)
    if a.load_only:
        t = time.perf_counter()
        m, n = load(a.files[0], a.method)
        m.load_method(n) if hasattr(m, "load_method") else None
        meta = m.method_meta(n)
        lt = time.perf_counter() - t
        l = rss()
        x = inputs(m, n, a.block, a.cache, False)
        m.run_method(n, x, clone_outputs=False)
        r = rss()
        print(json.dumps(dict(base=base, loaded=l, ran=r, load_s=lt)))
        return
    print("load", os.getloadavg(), "threads", a.threads, "cpus", os.cpu_count())
    if not a.no_rss:
        print(f"memory of each file alone, MiB (imports alone: peak {base['VmHWM']:.0f}, anon {base['RssAnon']:.0f})")
        for f in a.files:
            o = subprocess.run([sys.executable, __file__, f, "--load-only", "--block", str(a.block), "--cache", str(a.cache), "--threads", str(a.threads)]
                               + (["--method", a.method] if a.method else []), capture_output=True, text=True)
            if o.returncode:
                print(f"  {f}: failed {o.returncode} {o.stderr[-300:]}")
                continue
            j = json.loads(o.stdout.strip().splitlines()[-1])
            print(f"  {f}: {os.path.getsize(f)} bytes; load {j['load_s']:.2f} s; after load peak {j['loaded']['VmHWM']:.0f} anon {j['loaded']['RssAnon']:.0f} file {j['loaded']['RssFile']:.0f}; after one block peak {j['ran']['VmHWM']:.0f} anon {j['ran']['RssAnon']:.0f} file {j['ran']['RssFile']:.0f}")
    ms = [load(f, a.method) for f in a.files]
    for label, T, C, hide in (("block", a.block, a.cache, False), ("full", a.full, 1, True)):
        if a.only and a.only != label:
            continue
        ts, ws, ref, errs = [[] for _ in ms], [[] for _ in ms], None, []
        xs = [inputs(m, n, T, C, hide) for m, n in ms]
        for r in range(a.warmup + a.runs * a.stretch):
            if r >= a.warmup + a.runs and all(sum(w < 0.08 for w in x) >= a.runs for x in ws):
                break
            if a.patience:
                quiet(a.patience)
                ms[0][0].run_method(ms[0][1], xs[0], clone_outputs=False)  # the first step after a sleep is slower: not timed
            for i in [(j + r) % len(ms) for j in range(len(ms))]:
                m, n = ms[i]
                w = waited()
                t = time.perf_counter()
                o = m.run_method(n, xs[i], clone_outputs=False)
                dt = (time.perf_counter() - t) * 1e3
                if r >= a.warmup:
                    ts[i].append(dt)
                    ws[i].append((waited() - w) * 1e3 / dt)
                if r == 0:
                    o = o[0].clone()
                    ref = o if ref is None else ref
                    same = (o[0, :, :].argmax(-1) == ref[0].argmax(-1)).float().mean().item() if o.shape == ref.shape else float("nan")
                    errs.append(((o - ref).abs().max().item() / ref.abs().max().item() if o.shape == ref.shape else float("nan"), same))
        print(f"{label}: T={T} C={C}{' hidden' if hide else ''}, {len(ts[0])} runs, ms; load {os.getloadavg()}")
        m0 = statistics.median(ts[0])
        clean = [[t for t, w in zip(tt, ww) if w < 0.08] for tt, ww in zip(ts, ws)]
        c0 = statistics.median(clean[0]) if clean[0] else float("nan")
        for f, t, e, cl in zip(a.files, ts, errs, clean):
            md = statistics.median(t)
            q = statistics.quantiles(t, n=4)
            print(f"  {f}: median {md:.1f} min {min(t):.1f} max {max(t):.1f} (iqr {q[2]-q[0]:.1f}) ratio {md/m0:.3f} | undisturbed {len(cl)}: "
                  + (f"median {statistics.median(cl):.1f} max {max(cl):.1f} ratio {statistics.median(cl)/c0:.3f}" if cl else "none")
                  + f" | logits vs first: max diff {e[0]:.1e} of max, argmax equal {e[1]:.3f}")


main()
