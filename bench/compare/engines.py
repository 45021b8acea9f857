# SPDX-License-Identifier: Apache-2.0
"""What is measured: for every engine the commands, and how to read what they print.

A job is one command. It yields values for one or more columns:
  pp512, pp4096       prompts, tokens/s
  tg@0, tg@4096, ...  tokens generated one by one behind that many tokens of context, tokens/s
  first-token         seconds from exec
  attention-<type>@N  causal self-attention alone over N tokens, GFLOP/s of the useful half
and, for Rill alone, pp512-f32, pp512-1t, pp512-2t, tg@0-1t, tg@0-2t, tg@0-x8, and memory, the peak
resident bytes with a full cache.
"""
import json
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

HERE = Path(__file__).resolve().parent
HEADS, KV_HEADS, HEAD_DIM = 16, 8, 128  # of Qwen3-0.6B
MEMORY_CONTEXT = 4096  # tokens of the KV cache in memory
SHORT_PROMPT = 8  # tokens of the prompt in first-token
# The second start finds its files in the page cache, and in a virtual machine memory that the host
# has already given.
STARTS = 2


@dataclass
class Paths:
    """Where everything is; an engine whose program is missing is left out."""
    rill: Path
    models: Path  # rill/ (Hugging Face form), bf16.gguf, f16.gguf, q8_0.gguf, q4_0.gguf
    llama_bench: Path | None
    ik_bench: Path | None
    openvino_python: Path | None
    torch_python: Path | None


@dataclass
class Job:
    engine: str
    variant: str
    weights: str  # 16, 8 or 4 bits
    columns: list
    command: list
    parse: Callable  # (stdout, timed.py's report) -> {column: {"value", "samples", "detail"}}
    rounds: int | None = None  # run in so many rounds only
    starts: int = 1  # run so many times, one behind the other; the last counts


def parse_whole_process(_, run):
    """The process ends right behind its first token, so its whole life is an upper bound."""
    return {"first-token": {"value": run["seconds"]}}


# ---- Rill --------------------------------------------------------------------------------------

RILL_WEIGHTS = {"16": "bf16", "8": "int8", "4": "int4"}
# Arithmetics of Rill that compete with each other: the one that auto takes, on processors with AMX
# the one that AMX computes in, and behind a context the small KV cache.
RILL_COMPUTE = {False: [""], True: ["", "bf16x32"]}
RILL_SMALL_KV = "kv int8"
RILL_OPTIONS = {"": [], "bf16x32": ["--compute", "bf16x32"], RILL_SMALL_KV: ["--kv", "int8"]}
# The fields of `rill bench -o json` that the report needs.
RILL_FIELDS = ("pct_of_ceiling", "ceiling", "gflops", "gbps", "isa", "build_commit", "model_size",
               "peak_fma", "peak_vdpbf16ps", "peak_vnni", "peak_maddubs", "peak_amx_bf16",
               "peak_amx_int8", "peak_bandwidth")


def parse_rill_bench(column):
    def parse(out, _):
        (row,) = json.loads(out)
        return {column: {"value": statistics.median(row["samples_ts"]), "samples": row["samples_ts"],
                         "detail": {field: row[field] for field in RILL_FIELDS}}}
    return parse


def rill_bench(paths, weights, column, arguments, threads, variant=""):
    command = [paths.rill, "bench", paths.models / "rill", "--weights", RILL_WEIGHTS[weights],
               *RILL_OPTIONS[variant], "-t", threads, *arguments, "-o", "json"]
    return Job("Rill", variant, weights, [column], command, parse_rill_bench(column))


def rill_first_token(paths, weights, threads):
    command = [paths.rill, "run", paths.models / "rill", "Who are you?", "--weights",
               RILL_WEIGHTS[weights], "--ctx", 4096, "--max-tokens", 1, "--threads", threads]
    return Job("Rill", "", weights, ["first-token"], command, parse_whole_process,
               starts=STARTS)


def rill_memory(paths, threads):
    """A prompt that fills nearly all of a context of 4096, so that the KV cache is resident."""
    def parse(_, run):
        return {"memory": {"value": run["peak_memory"]}}
    command = [paths.rill, "run", paths.models / "rill", "--raw", "one " * 4000, "--weights", "bf16",
               "--ctx", MEMORY_CONTEXT, "--max-tokens", 1, "--threads", threads]
    return Job("Rill", "", "16", ["memory"], command, parse)


def parse_rill_attention(compute):
    def parse(out, _):
        return {f"attention-{compute}@{row['n_tokens']}":
                {"value": row["gflops"], "detail": {"pct_of_ceiling": row["pct_of_ceiling"]}}
                for row in json.loads(out)}
    return parse


def rill_attention(paths, compute, tokens, threads):
    """One process for all lengths."""
    command = [paths.rill, "bench-attention", "--tokens", ",".join(map(str, tokens)), "--heads",
               HEADS, "--kv-heads", KV_HEADS, "--head-dim", HEAD_DIM, "--compute", compute,
               "--attention", "streaming", "--isa", "auto", "-t", threads, "-o", "json"]
    return Job("Rill", "", compute, [f"attention-{compute}@{n}" for n in tokens], command,
               parse_rill_attention(compute))


# ---- llama.cpp and ik_llama.cpp ----------------------------------------------------------------

def parse_llama_bench(column):
    def parse(out, _):
        (row,) = json.loads(out)
        return {column: {"value": statistics.median(row["samples_ts"]), "samples": row["samples_ts"],
                         "detail": {"build_commit": row["build_commit"]}}}
    return parse


def llama_test(column, deep):
    """llama-bench's options for a column; `deep(depth, tokens)` are those of a depth."""
    kind, _, number = column.partition("@")
    if kind.startswith("pp"):
        tokens = int(kind[2:])
        return ["-p", tokens, "-n", 0, "-r", 3 if tokens <= 512 else 1]
    if number == "0":
        return ["-p", 0, "-n", 64, "-r", 2]
    return deep(int(number), 32)


def llama_files(weights):
    return {"16": ["bf16", "f16"], "8": ["q8_0"], "4": ["q4_0"]}[weights]


def llama_jobs(paths, weights, column, threads):
    """llama.cpp, mapping off, with and without flash attention."""
    def deep(depth, tokens):
        return ["-p", 0, "-n", tokens, "-d", depth, "-r", 1]
    for file in llama_files(weights):
        common = [paths.llama_bench, "-m", paths.models / f"{file}.gguf", "-t", threads, "-o", "json"]
        if column == "first-token":  # here mapping is the faster way
            yield Job("llama.cpp", file, weights, [column],
                      [*common, "-lm", "mmap", "-p", 0, "-n", 0, "-pg", f"{SHORT_PROMPT},1", "-r", 1,
                       "--no-warmup"], parse_whole_process, starts=STARTS)
            continue
        for flash in (0, 1):
            yield Job("llama.cpp", f"{file} fa{flash}", weights, [column],
                      [*common, "-lm", "none", "-fa", flash, *llama_test(column, deep)],
                      parse_llama_bench(column))


def ik_jobs(paths, weights, column, threads):
    """ik_llama.cpp, weights repacked at run time, with and without flash attention."""
    def deep(depth, tokens):
        return ["-p", 0, "-n", 0, "-gp", f"{depth},{tokens}", "-r", 1]
    for file in llama_files(weights):
        common = [paths.ik_bench, "-m", paths.models / f"{file}.gguf", "-t", threads, "-o", "json"]
        if column == "first-token":
            yield Job("ik_llama.cpp", file, weights, [column],
                      [*common, "-p", 0, "-n", 0, "-pg", f"{SHORT_PROMPT},1", "-r", 1, "-w", 0],
                      parse_whole_process, starts=STARTS)
            continue
        for flash in (0, 1):
            yield Job("ik_llama.cpp", f"{file} fa{flash}", weights, [column],
                      [*common, "-mmp", 0, "-rtr", 1, "-fa", flash, *llama_test(column, deep)],
                      parse_llama_bench(column))


# ---- OpenVINO GenAI ----------------------------------------------------------------------------

OPENVINO_FILES = {"16": "f16", "8": "q8_0", "4": "q4_0"}  # it does not read BF16
# One generation can yield two columns: (prompt, generated) -> column of each.
OPENVINO_TESTS = {
    "pp512": (512, 1, "pp512", None),
    "tg@0": (1, 64, None, "tg@0"),
    "pp4096": (4096, 32, "pp4096", "tg@4096"),
    "tg@16384": (16384, 32, "pp16384", "tg@16384"),
}


def parse_openvino(columns):
    def parse(out, run):
        report = json.loads(out.splitlines()[-1])
        if columns == ["first-token"]:
            return {"first-token": {"value": report["first_token_at"] - run["started"]}}
        found = {}
        for test, column in zip(report["tests"], columns):
            _, _, prompt, generated = OPENVINO_TESTS[column]
            for name, samples in ((prompt, test["prompt_ts"]), (generated, test["generated_ts"])):
                if name:
                    found[name] = {"value": statistics.median(samples), "samples": samples,
                                   "detail": {"version": report["openvino"]}}
        return found
    return parse


def openvino_jobs(paths, weights, column, threads):
    """Prompts of 512 and an empty cache share a process (it takes long to start), as do pp4096
    and tg@4096; each pair is asked for by its first column."""
    columns = {"pp512": ["pp512", "tg@0"], "pp4096": ["pp4096"], "tg@16384": ["tg@16384"],
               "first-token": ["first-token"]}.get(column)
    if not columns:
        return
    tests = ["{0},{1}".format(*OPENVINO_TESTS[name]) for name in columns if name in OPENVINO_TESTS]
    for backend in ("PA", "SDPA"):
        if backend == "SDPA" and column in ("first-token", "tg@16384"):
            continue  # like PA at best, and minutes of waiting
        yield Job("OpenVINO GenAI", backend, weights, columns,
                  [paths.openvino_python, HERE / "openvino_bench.py",
                   paths.models / f"{OPENVINO_FILES[weights]}.gguf", *(tests or ["8,0"]),
                   "--threads", threads, "--backend", backend, "--repetitions",
                   3 if column == "pp512" else 1], parse_openvino(columns),
                  starts=STARTS if column == "first-token" else 1)


# ---- PyTorch -----------------------------------------------------------------------------------

def torch_attention(paths, compute, tokens, threads):
    def parse(out, _):
        report = json.loads(out)
        return {f"attention-{compute}@{row['tokens']}":
                {"value": row["gflops"], "detail": {"version": report["torch"]}}
                for row in report["rows"]}
    return Job("PyTorch", "", compute, [f"attention-{compute}@{n}" for n in tokens],
               [paths.torch_python, HERE / "torch_attention.py", *tokens, "--heads", HEADS,
                "--kv-heads", KV_HEADS, "--head-dim", HEAD_DIM, "--compute", compute, "--threads",
                threads], parse)


# ---- the plan ----------------------------------------------------------------------------------

PEERS = {"llama.cpp": llama_jobs, "ik_llama.cpp": ik_jobs, "OpenVINO GenAI": openvino_jobs}
RILL_TESTS = {
    "pp512": ["-p", 512, "-n", 0, "-r", 3],
    "pp4096": ["-p", 4096, "-n", 0, "-r", 1],
    "tg@0": ["-p", 0, "-n", 64, "-r", 2],
}


def rill_test(column, fill):
    if column in RILL_TESTS:
        return RILL_TESTS[column]
    return ["-p", 0, "-n", 32, "-r", 2, "-d", column.partition("@")[2], *fill]


@dataclass
class Scope:
    """What to run. `fill`: options that let Rill fill its cache without computing it."""
    threads: int
    depths: list  # of decode: 0 is always among them
    deep_weights: list  # weights whose peers run behind more than 4096 tokens: it takes minutes
    attention: list  # lengths
    peers: list
    fill: list
    long_rounds: int | None = None  # rounds of what takes a peer minutes
    matrix: bool = False  # has the processor AMX?


def columns_of(scope):
    return ["first-token", "pp512", "tg@0", "pp4096", *(f"tg@{d}" for d in scope.depths if d)]


def limited(jobs, scope):
    return [replace(job, rounds=scope.long_rounds) for job in jobs]


def stations(paths, scope):
    """Lists of jobs that belong side by side: all engines at one column and type of weights."""
    programs = {"llama.cpp": paths.llama_bench, "ik_llama.cpp": paths.ik_bench,
                "OpenVINO GenAI": paths.openvino_python}
    for column in columns_of(scope):
        for weights in RILL_WEIGHTS:
            depth = int(column.partition("@")[2] or 0)
            with_peers = depth <= 4096 or (depth <= 16384 and weights in scope.deep_weights)
            if column == "first-token":
                jobs = [rill_first_token(paths, weights, scope.threads)]
            else:
                variants = RILL_COMPUTE[scope.matrix] + [RILL_SMALL_KV] * (depth > 0)
                jobs = [rill_bench(paths, weights, column, rill_test(column, scope.fill),
                                   scope.threads, variant) for variant in variants]
            for name in scope.peers:
                if with_peers and programs[name]:
                    own = PEERS[name](paths, weights, column, scope.threads)
                    jobs += own if depth <= 4096 else limited(own, scope)
            yield jobs
    yield rill_only(paths, scope)
    for compute in ("bf16", "f32", *RILL_COMPUTE[scope.matrix][1:]):
        jobs = [rill_attention(paths, compute, scope.attention, scope.threads)]
        if paths.torch_python and compute in ("bf16", "f32"):
            jobs += limited([torch_attention(paths, compute, scope.attention, scope.threads)], scope)
        yield jobs


def only(plan, columns):
    """Of a plan the jobs that yield one of `columns`; a name that none yields is a mistake."""
    known = {column for jobs in plan for job in jobs for column in job.columns}
    if unknown := [column for column in columns if column not in known]:
        raise SystemExit(f"--columns: no engine here yields {', '.join(unknown)}; "
                         f"there are {', '.join(sorted(known))}")
    picked = [[job for job in jobs if set(columns) & set(job.columns)] for jobs in plan]
    return [jobs for jobs in picked if jobs]


def rill_only(paths, scope):
    f32 = [*RILL_TESTS["pp512"], "--compute", "f32"]
    return [
        rill_memory(paths, scope.threads),
        rill_bench(paths, "16", "pp512-f32", f32, scope.threads),
        rill_bench(paths, "16", "tg@0-x8", [*RILL_TESTS["tg@0"], "-b", 8], scope.threads),
        rill_bench(paths, "16", "pp512-1t", RILL_TESTS["pp512"], 1),
        rill_bench(paths, "16", "pp512-2t", RILL_TESTS["pp512"], 2),
        rill_bench(paths, "16", "tg@0-1t", RILL_TESTS["tg@0"], 1),
        rill_bench(paths, "16", "tg@0-2t", RILL_TESTS["tg@0"], 2),
    ]
