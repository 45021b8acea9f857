#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares Rill with llama.cpp, ik_llama.cpp, OpenVINO GenAI and PyTorch on this machine.

Builds and installs them in a work folder (needs the network, a compiler, CMake), makes one model
with random weights in every engine's form, lets all of them take turns, and writes
docs/performance.md, .csv and .svg. Examples:

  bench/compare/run.py                                  # everything, three rounds
  bench/compare/run.py --ik ~/ik_llama.cpp              # ik_llama.cpp too
  bench/compare/run.py measure --prefix 'taskset -c 0,1' --rounds 1
  bench/compare/run.py report                           # from the results that are there
"""
import argparse
import os
import shlex
import sys
from pathlib import Path

import engines
import machine
import measure
import report
import setup_peers

STEPS = ("setup", "measure", "quality", "report")
DEFAULT_DEPTHS = "4096,16384,32768"


def numbers(text):
    return [int(word) for word in text.split(",") if word]


def parse_arguments(arguments):
    root = setup_peers.ROOT
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP",
                        help="setup, measure, quality, report; default: all of them")
    parser.add_argument("--work", type=Path, default=root / "build-compare", metavar="DIR",
                        help="folder of everything that is built and measured (build-compare/)")
    parser.add_argument("--rill", type=Path, default=root / "build/bin/rill",
                        help="the program; rill-make-model stands beside it")
    parser.add_argument("--ik", type=Path, metavar="DIR", help="a checkout of ik_llama.cpp")
    parser.add_argument("--torch", type=Path, metavar="PYTHON",
                        help="a Python that has PyTorch (else one is installed)")
    parser.add_argument("--peers", default="llama.cpp,ik_llama.cpp,OpenVINO GenAI,PyTorch",
                        help="names with commas between; default: all that are there")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--long-rounds", type=int, metavar="ROUNDS",
                        help="rounds of what takes a peer minutes: decode behind more than 4096 "
                        "tokens, PyTorch (as --rounds)")
    parser.add_argument("-t", "--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--columns", metavar="NAMES",
                        help="only jobs that yield one of these: pp512, pp4096, tg@4096, ..., as "
                        "engines.py lists them (default: all)")
    parser.add_argument("--depths", default=DEFAULT_DEPTHS,
                        help=f"contexts behind which tokens are generated ({DEFAULT_DEPTHS}); peers "
                        "go to 16384 at most")
    parser.add_argument("--deep-weights", default="16", metavar="BITS",
                        help="weights at which peers run behind more than 4096 tokens (16; 16,8,4)")
    parser.add_argument("--attention", default="4096,8192,16384,32768", metavar="LENGTHS",
                        help="tokens of the operator alone")
    parser.add_argument("--prefix", default="", metavar="COMMAND",
                        help="runs every measurement through this: 'taskset -c 0,1', 'numactl ...'")
    parser.add_argument("--limit", type=float, default=1200, help="seconds a command may take")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="of the builds")
    parser.add_argument("--out", type=Path, default=root / "docs/performance",
                        help="the report, without its ending (docs/performance)")
    parser.add_argument("--causes", type=Path, default=engines.HERE / "causes.md", metavar="FILE",
                        help="prose on what falls short on this machine (bench/compare/causes.md)")
    options = parser.parse_args(arguments)
    options.steps = options.steps or list(STEPS)
    if set(options.steps) - set(STEPS):
        parser.error(f"a step is none of {', '.join(STEPS)}: {' '.join(options.steps)}")
    options.work, options.rill = options.work.absolute(), options.rill.absolute()
    options.peers = options.peers.split(",")
    return options


def scope_of(options):
    peers = [name for name in engines.PEERS if name in options.peers]
    return engines.Scope(threads=options.threads, depths=[0, *numbers(options.depths)],
                         deep_weights=options.deep_weights.split(","),
                         attention=numbers(options.attention), peers=peers,
                         long_rounds=options.long_rounds,
                         fill=setup_peers.fill_option(options.rill),
                         matrix=machine.has_matrix_instructions())


def main(arguments):
    options = parse_arguments(arguments)
    if "setup" in options.steps:
        setup_peers.set_up(options)
    results = measure.Results(options.work / "results.jsonl")
    if "measure" in options.steps:
        machine.save(options.work / "machine.json", options.threads)
        paths = setup_peers.find(options)
        if "PyTorch" not in options.peers:
            paths.torch_python = None
        plan = list(engines.stations(paths, scope_of(options)))
        if options.columns:
            plan = engines.only(plan, options.columns.split(","))
        measure.run_rounds(plan, options.rounds, shlex.split(options.prefix), options.limit, results)
    if "quality" in options.steps:
        setup_peers.shell(setup_peers.python_of(options.work), engines.HERE / "q4_quality.py", "--rill",
                          options.rill, "--out", options.work / "quality.md")
    if "report" in options.steps:
        report.write(results.rows, options)


if __name__ == "__main__":
    main(sys.argv[1:])
