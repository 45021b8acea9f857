#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times OpenVINO GenAI's LLMPipeline on a GGUF file (packages openvino and openvino-genai).

One JSON object on standard output: for every test PROMPT,GENERATED the tokens/s of the prompt (up
to the first token) and of the tokens behind it, one sample a repetition, and the time of the first
token of all on the monotonic clock, which a parent process can subtract its own reading from.
"""
import argparse
import json
import sys
import time

import numpy
import openvino
import openvino_genai


def run_test(pipeline, random, prompt, generated):
    """(prompt tokens/s, generated tokens/s or None).

    The ids differ each time, so that no part of the prompt is found in the pipeline's prefix cache.
    """
    ids = random.integers(0, 150000, (1, prompt)).astype(numpy.int64)
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = generated + 1
    config.ignore_eos = True
    metrics = pipeline.generate(openvino.Tensor(ids), config).perf_metrics
    decode = 1000 / metrics.get_tpot().mean if generated else None
    return 1000 * prompt / metrics.get_ttft().mean, decode


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="GGUF file: F16, Q8_0 or Q4_0")
    parser.add_argument("tests", nargs="+", metavar="PROMPT,GENERATED")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--precision", default="bf16", help="INFERENCE_PRECISION_HINT")
    parser.add_argument("--backend", default="PA", choices=["PA", "SDPA"], help="ATTENTION_BACKEND")
    parser.add_argument("--no-warmup", action="store_true", help="the first run counts too")
    options = parser.parse_args()

    pipeline = openvino_genai.LLMPipeline(
        options.model, "CPU", INFERENCE_PRECISION_HINT=options.precision,
        INFERENCE_NUM_THREADS=options.threads, ATTENTION_BACKEND=options.backend)
    random = numpy.random.default_rng(1)
    run_test(pipeline, random, 8, 0)
    report = {"first_token_at": time.monotonic(), "openvino": openvino.__version__, "tests": []}
    for test in options.tests:
        prompt, generated = (int(number) for number in test.split(","))
        if not options.no_warmup:
            run_test(pipeline, random, min(prompt, 512), min(generated, 1))
        samples = [run_test(pipeline, random, prompt, generated) for _ in range(options.repetitions)]
        report["tests"].append({"prompt": prompt, "generated": generated,
                                "prompt_ts": [sample[0] for sample in samples],
                                "generated_ts": [sample[1] for sample in samples]})
    json.dump(report, sys.stdout)
    print()


if __name__ == "__main__":
    main()
