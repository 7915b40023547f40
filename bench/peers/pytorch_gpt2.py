"""PyTorch's figures for what `gatun demo` and the GPT-2 training step do: same model, recipe and data.

    python3 -m venv /tmp/peer && /tmp/peer/bin/pip install torch==2.13.0
    /tmp/peer/bin/python bench/peers/pytorch_gpt2.py step                 # GPT-2 124M's shape, B=2 T=256
    /tmp/peer/bin/python bench/peers/pytorch_gpt2.py demo DIR --minutes 3 # DIR: ids of `gatun demo --dump-tokens DIR`

`demo` reads train.u16 and validation.u16 (little-endian ids, one stream) and validation.bytes (the
UTF-8 bytes that the validation targets decode to), so both sides see the very same tokens.
Prints one JSON line per figure.
"""

import argparse
import json
import math
import os
import resource
import statistics
import time

import numpy
import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.attn(self.ln_1(x)).view(B, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(a.transpose(1, 2).reshape(B, T, C))
        return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self, vocabulary, context, width, layers, heads):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                scale = 0.02 / math.sqrt(2 * layers) if name.endswith(("proj.weight", "down.weight")) else 0.02
                nn.init.normal_(p, std=scale)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def loss(self, ids, targets, reduction="mean"):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = self.ln_f(x) @ self.wte.weight.T
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1), reduction=reduction)


def optimizer_of(model, rate, decay, betas):
    decayed = [p for p in model.parameters() if p.dim() == 2]
    rest = [p for p in model.parameters() if p.dim() != 2]
    groups = [{"params": decayed, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True)


def train_step(model, optimizer, ids, targets):
    optimizer.zero_grad(set_to_none=True)
    loss = model.loss(ids, targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss


def step(args):
    torch.manual_seed(1)
    model = Gpt2(50257, 1024, 768, 12, 12)
    optimizer = optimizer_of(model, 3e-4, 0.1, (0.9, 0.95))
    ids = torch.randint(50257, (args.batch, args.time + 1))
    seconds = []
    for i in range(args.steps + 2):
        start = time.perf_counter()
        train_step(model, optimizer, ids[:, :-1], ids[:, 1:]).item()
        if i >= 2:
            seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"figure": "gpt2-124m training step, f32", "peer": "pytorch " + torch.__version__,
                      "batch": args.batch, "time": args.time, "threads": torch.get_num_threads(),
                      "median_ms": round(statistics.median(seconds) * 1e3, 1),
                      "tokens_per_second": round(args.batch * args.time / statistics.median(seconds), 1),
                      "peak_rss_bytes": peak}))


def demo(args):
    torch.manual_seed(args.seed)
    ids = torch.from_numpy(numpy.fromfile(os.path.join(args.dir, "train.u16"), "<u2").astype("int64"))
    held = torch.from_numpy(numpy.fromfile(os.path.join(args.dir, "validation.u16"), "<u2").astype("int64"))
    with open(os.path.join(args.dir, "validation.bytes")) as f:
        held_bytes = int(f.read())
    model = Gpt2(args.vocabulary, args.context, args.width, args.layers, args.heads)
    optimizer = optimizer_of(model, args.rate, args.decay, (0.9, 0.95))
    start, steps, total = time.perf_counter(), 0, None
    windows = (len(ids) - 1) // args.context
    order = torch.randperm(windows)
    at = 0
    while True:
        elapsed = time.perf_counter() - start
        if steps == 20:
            total = max(21, int(20 * args.minutes * 60 / elapsed))
        if total is not None and steps >= total or elapsed > args.minutes * 60:
            break
        progress = 0.0 if total is None else max(0.0, (steps - args.warmup) / max(1, total - args.warmup))
        rate = args.rate * min(1.0, (steps + 1) / args.warmup) if steps < args.warmup else \
            args.rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
        for group in optimizer.param_groups:
            group["lr"] = rate
        if at + args.batch > windows:
            order, at = torch.randperm(windows), 0
        rows = torch.stack([ids[w * args.context: w * args.context + args.context + 1]
                            for w in order[at:at + args.batch].tolist()])
        at += args.batch
        train_step(model, optimizer, rows[:, :-1], rows[:, 1:])
        steps += 1
    seconds = time.perf_counter() - start
    nats = 0.0
    with torch.no_grad():
        for i in range(0, len(held) - 1, args.context):
            end = min(i + args.context, len(held) - 1)
            nats += model.loss(held[i:end][None], held[i + 1:end + 1][None], "sum").item()
    print(json.dumps({"figure": "demo", "peer": "pytorch " + torch.__version__, "minutes": args.minutes,
                      "layers": args.layers, "width": args.width, "steps": steps,
                      "tokens_per_second": round(steps * args.batch * args.context / seconds),
                      "bits_per_byte": round(nats / math.log(2) / held_bytes, 4)}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("step")
    one.add_argument("--batch", type=int, default=2)
    one.add_argument("--time", type=int, default=256)
    one.add_argument("--steps", type=int, default=8)
    one.set_defaults(run=step)
    two = verbs.add_parser("demo")
    two.add_argument("dir")
    for name, value in dict(minutes=3.0, rate=2e-3, decay=0.1).items():
        two.add_argument("--" + name, type=float, default=value)
    for name, value in dict(vocabulary=2048, context=256, width=192, layers=3, heads=6, batch=4, warmup=50,
                            seed=1).items():
        two.add_argument("--" + name, type=int, default=value)
    two.set_defaults(run=demo)
    args = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    args.run(args)


if __name__ == "__main__":
    main()
