#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times PyTorch's scaled_dot_product_attention, causal, one sequence (package torch).

One JSON object on standard output. GFLOP/s count what causality needs: 4 * head_dim FLOPs for each
query head and each key that a query sees, T (T + 1) / 2 of them.
"""
import argparse
import json
import sys
import time

import torch
from torch.nn.functional import scaled_dot_product_attention

ENOUGH = 5  # seconds; a run that took longer is not repeated


def seconds_of(options, tokens, dtype):
    """The best of some runs; keys and values are repeated for their group of heads in advance, if
    that is faster than letting PyTorch do it."""
    generator = torch.Generator().manual_seed(tokens)
    q, k, v = (torch.randn(1, heads, tokens, options.head_dim, generator=generator).to(dtype)
               for heads in (options.heads, options.kv_heads, options.kv_heads))
    repeated = [x.repeat_interleave(options.heads // options.kv_heads, 1) for x in (k, v)]
    ways = [lambda: scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
            lambda: scaled_dot_product_attention(q, *repeated, is_causal=True)]
    best = float("inf")
    for way in ways:
        for _ in range(options.repetitions):
            begin = time.perf_counter()
            way()
            seconds = time.perf_counter() - begin
            best = min(best, seconds)
            if seconds > ENOUGH:
                break
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tokens", type=int, nargs="+")
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--compute", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=2)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[options.compute]
    rows = []
    for tokens in options.tokens:
        flops = 4 * options.head_dim * options.heads * tokens * (tokens + 1) / 2
        rows.append({"tokens": tokens, "gflops": flops / seconds_of(options, tokens, dtype) / 1e9})
    json.dump({"torch": torch.__version__, "rows": rows}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
