#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures one process against ranks of this machine, asks `rill plan` for its predictions, and
writes docs/scaling.md. Needs an otherwise idle machine of two cores or more and Open MPI or MPICH.

  bench/scaling/run.py                     # three turns, about ten minutes
  bench/scaling/run.py --rounds 1
  bench/scaling/run.py --rounds 0          # the predictions anew; what was measured stays
"""
import argparse
import csv
import datetime
import io
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHAPE = ["--shape", "qwen3-0.6b"]
WEIGHTS = ["bf16", "int8"]
SPLITS = [(1, 1), (2, 1), (1, 2)]
# What `rill bench` is told, how its rows are called, and how `rill plan` calls the same.
TESTS = [
    (["-p", "512", "-n", "0"], "pp512", ["-p", "512", "-d", "0"], "prompt of 512"),
    (["-p", "4096", "-n", "0"], "pp4096", ["-p", "4096", "-d", "0"], "prompt of 4096"),
    (["-p", "0", "-n", "32"], "tg32", ["-p", "512", "-d", "0"], "a token"),
    (["-p", "0", "-n", "16", "-d", "4096", "--fill"], "tg16 @ d4096", ["-p", "512", "-d", "4096"],
     "a token at 4096"),
]
PROJECTIONS = [
    ["--shape", "qwen3-0.6b", "--ranks", "2", "--nodes", "1"],
    ["--shape", "qwen3-0.6b", "--ranks", "16", "--nodes", "8"],
    ["--shape", "qwen3-0.6b", "--ranks", "64", "--nodes", "32"],
    ["--shape", "qwen3-8b", "--ranks", "2", "--nodes", "1"],
    ["--shape", "qwen3-8b", "--ranks", "16", "--nodes", "8"],
    ["--shape", "qwen3-8b", "--ranks", "64", "--nodes", "32"],
    ["--shape", "qwen3-8b", "--weights", "int8", "--ranks", "16", "--nodes", "8"],
]


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # A test above its ceiling still printed its row, whose percentage is not used here.
    if done.returncode and "of the bandwidth ceiling" not in done.stderr:
        sys.exit(f"{' '.join(command)}\nended with status {done.returncode}:\n{done.stderr}")
    return done


def mpirun(count):
    open_mpi = "Open MPI" in subprocess.run(["mpirun", "--version"], capture_output=True,
                                            text=True, check=False).stdout
    words = ["mpirun", "-n", str(count)] + (["--bind-to", "core"] if open_mpi else ["-bind-to", "core"])
    if open_mpi and os.geteuid() == 0:
        words.append("--allow-run-as-root")
    return words


def measure(rill, weights, split, arguments):
    """Tokens per second, and the share of the steps spent in communication by the slower rank."""
    ranks = split[0] * split[1]
    command = [str(rill), "bench", *SHAPE, "--weights", weights, *arguments, "-r", "1", "-o", "csv"]
    if ranks == 1:
        command += ["-t", "2"]
    else:
        command = mpirun(ranks) + command + [
            "-t", "1", "--tp", str(split[0]), "--sp", str(split[1]), "--profile-comm"]
    done = run(command)
    speed = float(next(csv.DictReader(io.StringIO(done.stdout)))["avg_ts"])
    shares = [float(line.split()[-2]) for line in done.stderr.splitlines()
              if line.endswith("%") and line.split()[0].isdigit()]
    return speed, max(shares, default=0.0)


def predict(rill, constants, weights, split, words, task):
    command = [str(rill), "plan", *SHAPE, "--weights", weights, "--tp", str(split[0]), "--sp",
               str(split[1]), "--nodes", "1", "--ranks-per-node", "2", "--constants", constants, *words]
    for line in run(command).stdout.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == task:
            return float(cells[1])
    sys.exit(f"{' '.join(command)}\ndid not predict '{task}'")


def spread(values):
    middle = statistics.median(values)
    if len(values) == 1:
        return f"{middle:.1f}"
    return f"{middle:.1f} [{min(values):.1f}, {max(values):.1f}]"


def name_of(split):
    return "1 process" if split == (1, 1) else f"tp {split[0]} × sp {split[1]}"


def measured_table(rill, rounds, constants):
    speeds, shares = {}, {}
    for turn in range(rounds):
        for weights in WEIGHTS:
            for arguments, test, _, _ in TESTS:
                for split in SPLITS[turn % 3:] + SPLITS[:turn % 3]:
                    key = weights, test, split
                    speed, share = measure(rill, weights, split, arguments)
                    speeds.setdefault(key, []).append(speed)
                    shares.setdefault(key, []).append(share)
                    print(f"turn {turn}: {weights} {test} {name_of(split)}: {speed:.1f} tokens/s", flush=True)
    lines = ["| weights | test | ranks | tokens/s | of one process | talking | predicted | off |",
             "|---|---|---|---:|---:|---:|---:|---:|"]
    for weights in WEIGHTS:
        for _, test, words, task in TESTS:
            alone = statistics.median(speeds[weights, test, (1, 1)])
            for split in SPLITS:
                key = weights, test, split
                middle = statistics.median(speeds[key])
                cells = [weights, test, name_of(split), spread(speeds[key])]
                if split == (1, 1):
                    cells += ["", "", "", ""]
                else:
                    predicted = predict(rill, constants, weights, split, words, task)
                    cells += [f"{middle / alone:.2f}", f"{statistics.median(shares[key]):.1f} %",
                              f"{predicted:.1f}", f"{middle / predicted:.2f}"]
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def projections(rill):
    parts = []
    for words in PROJECTIONS:
        words = [*words, "--tp", "auto", "-p", "512,4096", "-d", "0,4096,32768", "--node-memory", "180"]
        parts.append("```\n$ rill plan " + " ".join(words) + "\n" +
                     run([str(rill), "plan", *words]).stdout.strip() + "\n```")
    return "\n\n".join(parts)


def machine(rill):
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo", encoding="utf-8")
                  if line.startswith("model name")), platform.processor())
    version = run([str(rill), "--version"]).stdout.strip()
    mpi = run(["mpirun", "--version"]).stdout.splitlines()[0]
    return (f"Machine: {os.cpu_count()} cores of {model}. Date: {datetime.date.today()}. {version}; {mpi}.")


def measure_all(rill, rounds):
    if (os.cpu_count() or 1) < 2:
        sys.exit("this machine has one core; two ranks beside two threads need two")
    with tempfile.TemporaryDirectory() as folder:
        constants = os.path.join(folder, "constants.json")
        comm = mpirun(2) + [str(rill), "bench", "--comm", "-t", "1"]
        pathlib.Path(constants).write_text(run(comm + ["-o", "json"]).stdout, encoding="utf-8")
        return {
            "machine": machine(rill),
            "comm": run(comm).stdout.strip(),
            "rounds": str(rounds),
            "measured": measured_table(rill, rounds, constants),
        }


def kept(template, path):
    """What stands in the document at `path` where the template has names."""
    names = "|".join(re.findall(r"@(\w+)@", template))
    pattern = re.sub(f"@({names})@", r"(?P<\1>.*)", re.escape(template))
    found = re.fullmatch(pattern, path.read_text(encoding="utf-8"), flags=re.S) if path.exists() else None
    if not found:
        sys.exit(f"{path} is not a document of today's template; measure anew with --rounds 1 or more")
    return found.groupdict()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=pathlib.Path, default=ROOT / "build/bin", help="folder of rill")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every measurement (3); 0 keeps what the document has of them")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs/scaling.md")
    options = parser.parse_args()
    if options.rounds < 0:
        parser.error(f"--rounds is {options.rounds}; give 0 or more")
    rill = options.programs / "rill"
    if not rill.exists():
        sys.exit(f"there is no program {rill}; build Rill (make), or name its folder with --programs")
    template = (ROOT / "bench/scaling/scaling.md.in").read_text(encoding="utf-8")
    values = measure_all(rill, options.rounds) if options.rounds else kept(template, options.out)
    values["projection"] = projections(rill)
    text = template
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    options.out.write_text(text, encoding="utf-8")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
