#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures how Rill scales over the cores of one machine, as threads of one process and as ranks, and
writes docs/scaling-cores.md. Needs an otherwise idle machine, Open MPI or MPICH, and matplotlib to draw.

  bench/scaling/cores.py measure                 # appends to docs/scaling-cores.csv what it lacks
  bench/scaling/cores.py measure --cores 16 --seconds 300
  bench/scaling/cores.py report                  # writes the page and its plot from the lines

A measurement whose line is in the file is not made again, so a run that was cut short goes on where it
ended; delete lines to have them measured anew. Lines of two machines do not go into one file.
"""
import argparse
import csv
import datetime
import io
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHAPE = ["--shape", "qwen3-0.6b"]
OPERATOR = ["--tokens", "65536", "--head-dim", "128", "--queries", "1", "--heads", "1", "--isa", "auto"]
COLUMNS = ["machine", "cores", "date", "commit", "weights", "test", "threads", "tp", "sp", "tokens_per_second",
           "percent_of_ceiling", "ceiling", "peak_fma", "bandwidth"]
# What `rill bench` is told in one run, and how its rows are called here.
SHORT = ["pp512", "tg32"], ["-p", "512", "-n", "32"]
LONG = ["pp4096"], ["-p", "4096", "-n", "0"]
DEEP = ["tg16 @ d4096"], ["-p", "0", "-n", "16", "-d", "4096", "--fill"]


def weak(cores):
    """The work of a core stays: so many tokens of the prompt, or of the KV cache, for each."""
    yield ["pp512 a core"], ["-p", str(512 * cores), "-n", "0", "--chunk", str(512 * cores)]
    yield ["tg16 @ d4096 a core"], ["-p", "0", "-n", "16", "-d", str(4096 * cores), "--fill"]


def run(command):
    return subprocess.run(command, capture_output=True, text=True, check=False)


def mpirun(count, threads):
    open_mpi = "Open MPI" in run(["mpirun", "--version"]).stdout
    words = ["mpirun", "-n", str(count)]
    if open_mpi:
        words += ["--map-by", f"slot:PE={threads}", "--bind-to", "core"]
        if threads_of_a_core() > 1:
            words.append("--use-hwthread-cpus")
        if os.geteuid() == 0:
            words.append("--allow-run-as-root")
    else:
        words += ["-bind-to", f"core:{threads}"]
    return words


def threads_of_a_core():
    path = pathlib.Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
    return len(path.read_text(encoding="utf-8").replace("-", ",").split(",")) if path.exists() else 1


def powers(cores):
    return [2 ** k for k in range(cores.bit_length())]


def shapes(cores):
    """(threads of a rank, tp, sp), the most telling first."""
    one = [(n, 1, 1) for n in reversed(powers(cores))]
    tp = [(1, n, 1) if n <= 8 else (1, 8, n // 8) for n in reversed(powers(cores)) if n > 1]
    sp = [(1, 1, n) for n in reversed(powers(cores)) if n > 1]
    hybrid = [(cores // n, n, 1) for n in (2, 4) if n < cores]
    return one, tp, sp, hybrid


def operators(cores):
    """One query over 65,536 keys of one head, as in the study that cluster/ redoes."""
    one, _, sp, _ = shapes(cores)
    for attention in ("streaming", "standard"):
        for shape in one + sp:
            yield "", ([f"{attention}, one query"], [*OPERATOR, "--attention", attention]), shape


def plan(cores):
    """What is measured, in the order in which it is: (weights, (tests, arguments), shape)."""
    one, tp, sp, hybrid = shapes(cores)
    for shape in one + tp + sp + hybrid:
        yield "bf16", SHORT, shape
    yield from operators(cores)
    for tests in (DEEP, LONG):
        for shape in one + tp + sp:
            yield "bf16", tests, shape
    for shape in one + tp:
        yield "int8", SHORT, shape
    for shape in one + sp:
        for tests in weak(shape[0] * shape[1] * shape[2]):
            yield "bf16", tests, shape


def machine_name():
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        return next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "unknown")


def measure_one(rill, weights, tests, arguments, shape):
    """A row of `rill bench` (or of bench-attention) for each test."""
    threads, tp, sp = shape
    command = [str(rill), "bench" if weights else "bench-attention", *arguments, "-o", "csv", "-t", str(threads)]
    command += [*SHAPE, "--weights", weights, "-r", "2"] if weights else ["--ranks", str(sp)]
    if tp * sp > 1:
        command = mpirun(tp * sp, threads) + command
        if weights:
            command += ["--tp", str(tp), "--sp", str(sp)]
    done = run(command)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    if len(rows) != len(tests):
        raise RuntimeError(f"{' '.join(command)}\nended with status {done.returncode}:\n{done.stderr.strip()}")
    return rows


def read(path):
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def key_of(row):
    return row["weights"], row["test"], int(row["threads"]), int(row["tp"]), int(row["sp"])


def measure(options):
    end = time.monotonic() + options.seconds
    rows = read(options.csv)
    name = machine_name()
    if rows and (rows[0]["machine"], int(rows[0]["cores"])) != (name, options.cores):
        sys.exit(f"{options.csv} holds lines of {rows[0]['cores']} cores of {rows[0]['machine']}; this is {options.cores} of {name}: name another file with --csv")
    known = {key_of(row) for row in rows}
    new = not rows
    with open(options.csv, "a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for weights, (tests, arguments), shape in plan(options.cores):
            if all((weights, test, *shape) in known for test in tests):
                continue
            if time.monotonic() > end:
                print("the time is over; call again to go on", flush=True)
                return
            try:
                found = measure_one(options.rill, weights, tests, arguments, shape)
            except RuntimeError as error:
                print(error, file=sys.stderr, flush=True)
                continue
            for test, row in zip(tests, found):
                writer.writerow({
                    "machine": name, "cores": options.cores, "date": datetime.date.today(), "commit": row["build_commit"],
                    "weights": weights, "test": test, "threads": shape[0], "tp": shape[1], "sp": shape[2],
                    "tokens_per_second": f"{float(row['avg_ts']):.2f}", "percent_of_ceiling": f"{float(row['pct_of_ceiling']):.1f}",
                    "ceiling": row["ceiling"],
                    "peak_fma": f"{float(row['peak_fma']):.0f}", "bandwidth": f"{float(row['peak_bandwidth']):.1f}"})
                print(f"{time.monotonic() - end + options.seconds:5.0f} s: {weights} {test} {name_of(shape)}: {float(row['avg_ts']):.1f} tokens/s, {float(row['pct_of_ceiling']):.1f} % of {row['ceiling']}", flush=True)
            file.flush()


def name_of(shape):
    threads, tp, sp = shape
    if tp * sp == 1:
        return f"{threads} thread" + ("s" if threads > 1 else "")
    return f"tp {tp} × sp {sp}" + (f" × {threads} threads" if threads > 1 else "")


PAGE = """# Scaling over the cores of one machine

`bench/scaling/cores.py` measured this and wrote it. Machine: {cores} cores of {machine}. Date: {date}. Commit: {commit}.
{lines} measurements, in [scaling-cores.csv](scaling-cores.csv); delete lines there, and `cores.py measure` makes them anew.

Qwen3-0.6B shape, random weights; the operator is one query over 65,536 keys of one head of 128. One process of t threads, which the
system moves between cores as it likes (`OMP_PROC_BIND=true OMP_PLACES=cores` binds them); or ranks of one thread each, tp × sp of them,
which `mpirun` binds to cores. *Speed-up* is over one thread, *efficiency* that over the cores in use. *Of the ceiling* is the share of the FMA peak or of the
read bandwidth that the same run measured on the same cores, and *ceilings* how far these themselves scaled: their sum over the cores in
use, over that of one thread. A virtual machine on a shared host gets now more, now less of it: the last two columns say how much of a
missing speed-up is the machine's, and above 100 % of a ceiling is what got more during the test than while the ceiling was measured.

![speed-up over cores](scaling-cores.svg)
"""


def table(rows):
    """The lines of one test: first threads, then ranks, by cores in use."""
    alone = next((row for row in rows if key_of(row)[2:] == (1, 1, 1)), None)
    if alone is None:
        return "One thread was not measured."
    lines = ["| run | cores | tokens/s | speed-up | efficiency | of the ceiling | ceilings |", "|---|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        shape = key_of(row)[2:]
        cores = shape[0] * shape[1] * shape[2]
        gain = float(row["tokens_per_second"]) / float(alone["tokens_per_second"])
        which = "peak_fma" if row["ceiling"] == "fma" else "bandwidth"
        lines.append(f"| {name_of(shape)} | {cores} | {float(row['tokens_per_second']):.1f} | {gain:.2f} | {100 * gain / cores:.0f} % | "
                     f"{float(row['percent_of_ceiling']):.0f} % of {row['ceiling']} | {float(row[which]) / float(alone[which]):.1f} |")
    return "\n".join(lines)


def series(rows):
    """Of a test: the names of the ways to use cores, and for each the cores and the rows."""
    kinds = {"threads": [], "tp": [], "sp": []}
    for row in rows:
        threads, tp, sp = key_of(row)[2:]
        if tp * sp == 1:
            kinds["threads"].append(row)
        if threads == 1 and (sp == 1 or tp == 8):
            kinds["tp"].append(row)
        if threads == 1 and tp == 1:
            kinds["sp"].append(row)
    return {kind: found for kind, found in kinds.items() if len(found) > 1}


def draw(tests, path):
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "rill", "font.size": 8})
    from matplotlib import pyplot
    names = [name for name, rows in tests.items() if series(rows)]
    figure, grid = pyplot.subplots(1, len(names), figsize=(3.2 * len(names), 3), squeeze=False, layout="constrained")
    for axes, name in zip(grid[0], names):
        for kind, rows in series(tests[name]).items():
            cores = [int(row["threads"]) * int(row["tp"]) * int(row["sp"]) for row in rows]
            speeds = [float(row["tokens_per_second"]) for row in rows]
            axes.plot(cores, [speed / speeds[0] for speed in speeds], marker="o", markersize=3, label=kind)
        most = max(int(row["threads"]) * int(row["tp"]) * int(row["sp"]) for row in tests[name])
        axes.plot([1, most], [1, most], color="grey", linewidth=0.6, linestyle="dashed", label="linear")
        axes.set_title(name, loc="left")
        axes.set_xlabel("cores")
        axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("speed-up")
    grid[0][0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def report(options):
    rows = read(options.csv)
    if not rows:
        sys.exit(f"{options.csv} has no measurements; make some with `cores.py measure`")
    rows.sort(key=lambda row: (key_of(row)[3] * key_of(row)[4] > 1, key_of(row)[4] > 1 and key_of(row)[3] == 1,
                               key_of(row)[2] > 1 and key_of(row)[3] > 1, key_of(row)[2] * key_of(row)[3] * key_of(row)[4]))
    tests = {}
    for row in rows:
        tests.setdefault(f"{row['weights']} {row['test']}".strip(), []).append(row)
    several = lambda name: ", ".join(sorted({row[name] for row in rows}))
    parts = [PAGE.format(cores=rows[0]["cores"], machine=rows[0]["machine"], date=several("date"), commit=several("commit"), lines=len(rows))]
    parts += [f"## {name}\n\n{table(found)}\n" for name, found in tests.items()]
    options.csv.with_suffix(".md").write_text("\n".join(parts), encoding="utf-8")
    draw(tests, options.csv.with_suffix(".svg"))
    print(f"wrote {options.csv.with_suffix('.md')} and its plot")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "report"])
    parser.add_argument("--rill", type=pathlib.Path, default=ROOT / "build/bin/rill")
    parser.add_argument("--csv", type=pathlib.Path, default=ROOT / "docs/scaling-cores.csv", help="the measurements; the page and the plot stand beside it")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="most cores to use (all)")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no measurement after this time")
    options = parser.parse_args()
    if options.what == "report":
        report(options)
    elif options.rill.exists():
        measure(options)
    else:
        sys.exit(f"there is no program {options.rill}; build Rill (make), or name it with --rill")


if __name__ == "__main__":
    main()
