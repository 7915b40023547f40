"""PyTorch's device times for the ops that `gatun gpu-check` times, under the same names.

    python3 bench/peers/pytorch_gpu.py [--device cuda|cpu] [--cache BYTES]

Reads a name of Workload (bench/src/main/java/dev/gatun/bench/check/Workload.java) a line, takes one
sample of that op and answers with one JSON line, {"name": ..., "micros": ...}, or {"name": ...,
"missing": why}: who asks alternates with samples of its own. The operands of a name are kept until
another comes. Times by events on random data, operands rotated over twice the cache. PyTorch from
2.1 on, for grouped queries from 2.5 on.
"""

import argparse
import json
import math
import os
import re
import sys
import time

import torch
from torch.nn import functional as F

SAMPLE_MILLIS = 20
DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


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


def sampler(args, size, make, work):
    """A function that takes a sample; make() gives a set of operands of that size, work(set) is the op."""
    sets = [make() for _ in range(max(1, min(64, math.ceil(2 * args.cache / size))))]
    one = lambda i: work(sets[i % len(sets)])
    for _ in range(3):  # the last is warm
        estimate = millis(args.device, one, 1)
    calls = max(1, min(1000, int(SAMPLE_MILLIS / max(1e-3, estimate))))
    return lambda: millis(args.device, one, calls) * 1e3


def normal(args, dtype, *shape):
    return torch.randn(*shape, device=args.device, dtype=torch.float32).to(dtype)


def layer_norm(args, backward, dtype, r, c):
    def make():
        x, w, b, dy = (normal(args, dtype, *shape) for shape in ((r, c), (c,), (c,), (r, c)))
        return [x, w, b, dy, *torch.native_layer_norm(x, (c,), w, b, 1e-5)[1:]]

    size = r * c * dtype.itemsize
    if backward:
        return sampler(args, 3 * size, make, lambda o: torch.ops.aten.native_layer_norm_backward(
            o[3], o[0], [c], o[4], o[5], o[1], o[2], [True, True, True]))
    return sampler(args, 2 * size, make, lambda o: F.layer_norm(o[0], (c,), o[1], o[2], 1e-5))


def product(args, dtype, m, n, k):
    return sampler(args, (m * k + k * n + m * n) * dtype.itemsize,
                   lambda: [normal(args, dtype, m, k), normal(args, dtype, k, n)], lambda o: o[0] @ o[1])


def attention(args, backward, b, h, t, d):
    def make():
        o = [normal(args, torch.bfloat16, b, h, t, d).requires_grad_(i < 3) for i in range(4)]
        return o + [F.scaled_dot_product_attention(*o[:3], is_causal=True)] if backward else o

    def forward(o):
        with torch.no_grad():
            return F.scaled_dot_product_attention(*o[:3], is_causal=True)

    size = b * h * t * d * 2
    if backward:
        return sampler(args, 8 * size, make, lambda o: torch.autograd.grad(o[4], o[:3], o[3], retain_graph=True))
    return sampler(args, 4 * size, make, forward)


def loss(args, dtype, rows, vocabulary):
    return sampler(args, rows * vocabulary * dtype.itemsize,
                   lambda: [normal(args, dtype, rows, vocabulary),
                            torch.randint(vocabulary, (rows,), device=args.device)],
                   lambda o: F.cross_entropy(o[0], o[1], reduction="sum"))


def decode(args, b, h, kv, t, d):
    """One query a text over t keys; they lie in one piece here, in pages of 128 there."""
    def make():
        return [normal(args, torch.bfloat16, *shape) for shape in ((b, h, 1, d), (b, kv, t, d), (b, kv, t, d))]

    def forward(o):
        with torch.no_grad():
            return F.scaled_dot_product_attention(*o, enable_gqa=h != kv)

    return sampler(args, 2 * b * kv * t * d * 2, make, forward)


def adamw(args, n):
    def make():
        weight = normal(args, torch.float32, n)
        weight.grad = normal(args, torch.float32, n)
        optimizer = torch.optim.AdamW([weight], lr=1e-4, weight_decay=0.1, fused=True)
        optimizer.step()  # makes m and v
        return optimizer

    return sampler(args, 16 * n, make, lambda optimizer: optimizer.step())


def training(args, batch, length):
    """GPT-2 124M's step in f32, as the report's 'speed' part does it."""
    from pytorch_gpt2 import Gpt2, optimizer_of, train_step
    with torch.device(args.device):
        model = Gpt2(50257, 1024, 768, 12, 12)
        ids = torch.randint(50257, (batch, length + 1))
    optimizer = optimizer_of(model, 3e-4, 0.1, (0.9, 0.95))

    def sample():
        start = time.perf_counter()
        with torch.device(args.device):  # the model makes its positions anew
            train_step(model, optimizer, ids[:, :-1], ids[:, 1:]).item()
        return (time.perf_counter() - start) * 1e6

    sample(), sample()
    return sample


def of(args, name):
    """The sampler of a workload, by its name."""
    number = [int(n) for n in re.findall(r"\d+", re.sub(r"^\S+|\b(bf16|f32)\b", "", name))]
    dtype = next((DTYPES[word] for word in name.split() if word in DTYPES), None)
    op = name.split()[0]
    if op.startswith("layer_norm_"):
        return layer_norm(args, op.endswith("backward"), dtype, *number)
    if op == "matmul":
        return product(args, dtype, *number)
    if op in ("attention_forward", "attention_backward"):  # there is one backward pass here
        return attention(args, op.endswith("backward"), *number)
    if op == "cross_entropy":
        return loss(args, dtype, *number)
    if op == "attention_decode":
        return decode(args, *number)
    if op == "adamw":
        return adamw(args, *number)
    if name.startswith("gpt2-124m training f32 "):
        return training(args, *number)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cache", type=float, default=64e6, help="bytes of the last cache")
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(1)
    kept, sample = None, None
    for line in sys.stdin:
        name = line.strip()
        answer = {"name": name}
        try:
            if name != kept:
                kept, sample = None, None  # what the last one held is free before the next takes
                kept, sample = name, of(args, name)
            answer.update({"missing": "no such op here"} if sample is None else {"micros": sample()})
        except Exception as e:  # out of memory, or no such function in this version
            kept, sample = None, None
            answer["missing"] = f"{type(e).__name__}: {e}".splitlines()[0]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
