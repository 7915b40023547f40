"""PyTorch's device times for the ops that `gatun gpu-check` times, under the same names.

    python3 bench/peers/pytorch_gpu.py [--only OP] [--device cuda|cpu]

Times by events on random data, operands rotated over twice the second-level cache; prints one JSON
line per figure as it has it: {"name": ..., "micros": ...}. Any PyTorch from 2.1 on.
"""

import argparse
import json
import math
import statistics
import time

import torch
from torch.nn import functional as F

SAMPLES = 7


def sizes(device):
    """The sizes of Workload.all (bench/src/main/java/dev/gatun/bench/check/Workload.java)."""
    gpu = device == "cuda"
    rows = [(32768, 768), (32768, 1024), (16384, 4096), (8192, 8192)] if gpu else [(1024, 768)]
    times = [2048, 4096, 8192] if gpu else [512]
    return rows, [4096, 8192] if gpu else [1024], [(16384 // t if gpu else 1, 16 if gpu else 2, t) for t in times]


def millis(device, work, calls):
    """Milliseconds a call of work(i), by the device's own clock where it has one."""
    if device == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for i in range(calls):
            work(i)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / calls
    start = time.perf_counter()
    for i in range(calls):
        work(i)
    return (time.perf_counter() - start) * 1e3 / calls


def measure(device, name, size, make, work):
    """make() one set of operands, work(operands) the op; the median of several samples."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size if device == "cuda" else 1
    sets = [make() for _ in range(max(1, min(64, math.ceil(2 * cache / size))))]
    one = lambda i: work(sets[i % len(sets)])
    for _ in range(2):
        estimate = millis(device, one, 1)
    estimate = millis(device, one, 3)
    calls = max(1, min(1000, int(20 / max(1e-3, estimate))))
    median = statistics.median(millis(device, one, calls) for _ in range(SAMPLES))
    print(json.dumps({"name": name, "micros": median * 1e3}), flush=True)


def normal(device, dtype, *shape):
    return torch.randn(*shape, device=device, dtype=torch.float32).to(dtype)


def layer_norms(device, rows):
    for label, dtype in (("bf16", torch.bfloat16), ("f32", torch.float32)):
        for r, c in rows:
            bytes_ = r * c * dtype.itemsize

            def make():
                return [normal(device, dtype, r, c), normal(device, dtype, c), normal(device, dtype, c),
                        normal(device, dtype, r, c)]

            measure(device, f"layer_norm_forward {label} {r}x{c}", 2 * bytes_, make,
                    lambda o: F.layer_norm(o[0], (c,), o[1], o[2], 1e-5))

            def backward(o):
                x, w, b, dy = o
                _, mean, rstd = torch.native_layer_norm(x, (c,), w, b, 1e-5)
                return mean, rstd

            def make_backward():
                o = make()
                return o + list(backward(o))

            measure(device, f"layer_norm_backward {label} {r}x{c}", 3 * bytes_, make_backward,
                    lambda o: torch.ops.aten.native_layer_norm_backward(o[3], o[0], [c], o[4], o[5], o[1], o[2],
                                                                        [True, True, True]))


def products(device, sides):
    for label, dtype, chosen in (("bf16", torch.bfloat16, sides), ("f32", torch.float32, sides[:1])):
        for n in chosen:
            measure(device, f"matmul {label} {n}x{n}x{n}", 3 * n * n * dtype.itemsize,
                    lambda: [normal(device, dtype, n, n), normal(device, dtype, n, n)], lambda o: o[0] @ o[1])


def attentions(device, shapes):
    for b, h, t in shapes:
        d = 128
        what = f"bf16 causal B={b} H={h} T={t} D={d}"

        def make():
            return [normal(device, torch.bfloat16, b, h, t, d).requires_grad_() for _ in range(3)] + \
                [normal(device, torch.bfloat16, b, h, t, d)]

        size = b * h * t * d * 2

        def forward(o):
            with torch.no_grad():
                return F.scaled_dot_product_attention(o[0], o[1], o[2], is_causal=True)

        measure(device, "attention_forward " + what, 4 * size, make, forward)

        def make_backward():
            o = make()
            return o + [F.scaled_dot_product_attention(o[0], o[1], o[2], is_causal=True)]

        for name in ("attention_backward ", "attention_backward dq_atomic "):  # here there is one of them
            measure(device, name + what, 8 * size, make_backward,
                    lambda o: torch.autograd.grad(o[4], o[:3], o[3], retain_graph=True))


def losses(device):
    rows, vocabulary = (8192, 50257) if device == "cuda" else (64, 50257)
    measure(device, f"cross_entropy bf16 {rows}x{vocabulary}", rows * vocabulary * 2,
            lambda: [normal(device, torch.bfloat16, rows, vocabulary),
                     torch.randint(vocabulary, (rows,), device=device)],
            lambda o: F.cross_entropy(o[0], o[1], reduction="sum"))


def training(device):
    """GPT-2 124M's step in f32, as the report's 'speed' part does it."""
    from pytorch_gpt2 import Gpt2, optimizer_of
    batch, length, steps = (8, 1024, 10) if device == "cuda" else (2, 64, 2)
    torch.manual_seed(1)
    with torch.device(device):
        model = Gpt2(50257, 1024, 768, 12, 12)
        optimizer = optimizer_of(model, 3e-4, 0.1, (0.9, 0.95))
        ids = torch.randint(50257, (batch, length + 1))
        seconds = []
        for i in range(steps + 2):
            start = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            loss = model.loss(ids[:, :-1], ids[:, 1:])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            loss.item()
            if i >= 2:
                seconds.append(time.perf_counter() - start)
    print(json.dumps({"name": f"gpt2-124m training f32 B={batch} T={length}",
                      "micros": statistics.median(seconds) * 1e6}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    torch.manual_seed(1)
    rows, sides, attention = sizes(args.device)
    parts = {"attention": lambda: attentions(args.device, attention), "matmul": lambda: products(args.device, sides),
             "layer_norm": lambda: layer_norms(args.device, rows), "cross_entropy": lambda: losses(args.device),
             "gpt2": lambda: training(args.device)}
    for name, run in parts.items():
        if name.startswith(args.only) or args.only.startswith(name):
            run()


if __name__ == "__main__":
    main()
