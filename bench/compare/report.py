# SPDX-License-Identifier: Apache-2.0
"""Writes the report: Markdown, CSV and a plot, from the file of results and one of causes."""
import csv
import datetime
import json
import re
import subprocess
from pathlib import Path

from engines import HERE
from setup_peers import python_with_matplotlib
from targets import KINDS, RATIOS, ROWS, Spread, Table, kind_of, may_be_void

ENGINES = ("Rill", "llama.cpp", "ik_llama.cpp", "OpenVINO GenAI")
WEIGHTS = {"16": "16-bit", "8": "int8 / Q8_0", "4": "int4 / Q4_0"}
COLUMNS = {"pp512": "prefill 512", "pp4096": "prefill 4096", "tg@0": "decode, empty cache",
           "tg@4096": "decode at 4,096", "tg@16384": "decode at 16,384",
           "tg@32768": "decode at 32,768"}
LONGEST_WORD = 120  # of a command, as it is shown
APART = 600  # seconds between the measurements of an engine and of Rill in its turn
STALE = 0.03  # a cause that was written at a figure this far from today's is to be looked at again


def digits(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def show(spread):
    """"71.3 (70.9 to 72.0)" """
    if spread is None:
        return "not measured"
    if spread.runs == 1:
        return digits(spread.median)
    return f"{digits(spread.median)} ({digits(spread.low)} to {digits(spread.high)})"


def markdown(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


# ---- causes ------------------------------------------------------------------------------------

def read_causes(path):
    """{key: (figure at which it was written, text)} of "## key (at 71.3)" and what follows."""
    causes = {}
    if not path.exists():
        raise SystemExit(f"--causes {path}: there is no such file")
    for part in re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.M)[1:]:
        heading, _, text = part.partition("\n")
        found = re.fullmatch(r"(\S+) \(at ([\d.]+)\)", heading.strip())
        if not found:
            raise SystemExit(f'{path}: "## {heading}" is no heading of a cause; '
                             'write "## KEY (at FIGURE)"')
        causes[found[1]] = (float(found[2]), text.strip())
    return causes


def cause_of(key, spread, causes):
    if key not in causes:
        return "no cause has been measured yet"
    figure, text = causes[key]
    if abs(spread.median - figure) > STALE * figure:
        text += f" (Written at {digits(figure)}: to be looked at again.)"
    return text


# ---- the two tables of targets -----------------------------------------------------------------

def state_of_rows(table, kind):
    """{key: (Row, Spread or None, "reached", "short" or "not measured")}"""
    states = {}
    for row in ROWS:
        if row.targets[kind] is None:
            continue
        spread = row.value(table, kind)
        state = ("not measured" if spread is None else
                 "reached" if row.reached(spread, kind) else "short")
        states[row.key] = (row, spread, state)
    return states


def rows_table(states, kind):
    lines = []
    for row, spread, state in states.values():
        sign = "≥" if row.at_least else "≤"
        lines.append([row.title, f"{sign} {row.targets[kind]} {row.units[kind]}", show(spread),
                      f"**{state}**" if state == "short" else state])
    return markdown(["", "target", "median (least to greatest)", ""], lines)


def ratio_to_best(table, weights, column):
    """(Spread of Rill over the best peer, that peer), or None."""
    own = table.best("Rill", weights, column)
    peers = [(engine, *table.best(engine, weights, column)) for engine in ENGINES[1:]
             if table.best(engine, weights, column)]
    if not own or not peers:
        return None
    name, _, best = max(peers, key=lambda peer: peer[2].median)
    own = own[1]
    return Spread(own.low / best.high, own.median / best.median, own.high / best.low, own.runs), name


def state_of_ratio(spread, target, row_key, states):
    if spread.median >= target:
        return "reached"
    if row_key and states[row_key][2] == "reached":
        return "void: the row above is reached"
    return "short"


def ratio_lines(table, states, kind):
    """Yields (weights, column, Spread, target, state)."""
    for (weights, column), (target, row_key) in RATIOS.items():
        found = ratio_to_best(table, weights, column)
        if not may_be_void(column, kind):
            row_key = None
        if found:
            yield weights, column, found[0], target, state_of_ratio(found[0], target, row_key, states)


def peers_table(table, states, kind):
    asked = {line[:2]: line[2:] for line in ratio_lines(table, states, kind)}
    lines = []
    for weights, name in WEIGHTS.items():
        for column, title in COLUMNS.items():
            best = [table.best(engine, weights, column) for engine in ENGINES]
            if not any(best):
                continue
            cells = [f"{show(entry[1])}{f' {entry[0]}' if entry[0] else ''}" if entry else "–"
                     for entry in best]
            found = ratio_to_best(table, weights, column)
            ratio, state = f"{found[0].median:.2f}" if found else "–", ""
            if (weights, column) in asked:
                _, target, state = asked[weights, column]
                state = f"≥ {target}: " + (f"**{state}**" if state == "short" else state)
            lines.append([f"{name}, {title}", *cells, ratio, state])
    return markdown(["tokens/s", *ENGINES, "Rill / best", "asked"], lines)


# ---- further tables ----------------------------------------------------------------------------

def attention_table(table):
    lines = []
    columns = {(key[2], key[3]) for key in table.rows if key[3].startswith("attention-")}
    for compute, column in sorted(columns, key=lambda c: (c[0], int(c[1].split("@")[1]))):
        own, torch = (table.best(engine, compute, column) for engine in ("Rill", "PyTorch"))
        percent = table.rill(compute, column, lambda row: row["detail"]["pct_of_ceiling"])
        lines.append([f"{compute}, {int(column.split('@')[1]):,} tokens",
                      show(own and own[1]), digits(percent.median) if percent else "–",
                      show(torch and torch[1]),
                      digits(own[1].median / torch[1].median) if own and torch else "–"])
    return markdown(["GFLOP/s", "Rill", "% of its ceiling", "PyTorch", "Rill / PyTorch"], lines)


def first_token_table(table):
    lines = []
    for weights, name in WEIGHTS.items():
        best = [table.best(engine, weights, "first-token", least=True) for engine in ENGINES]
        lines.append([name, *(show(entry and entry[1]) for entry in best)])
    return markdown(["seconds", *ENGINES], lines)


def causes_text(table, states, kind, path):
    causes = read_causes(path)
    lines, used = [], set()
    short = [(key, row.title, spread) for key, (row, spread, state) in states.items()
             if state == "short"]
    short += [(f"ratio-{weights}-{column}", f"{WEIGHTS[weights]}, {COLUMNS[column]}, against the best",
               spread) for weights, column, spread, _, state in ratio_lines(table, states, kind)
              if state == "short"]
    for key, title, spread in short:
        used.add(key)
        lines.append(f"- **{title}** (`{key}`): {cause_of(key, spread, causes)}")
    for key in sorted(set(causes) - used):
        print(f"{path}: {key} does not fall short (any more)")
    return "\n".join(lines) + "\n" if lines else "Nothing falls short.\n"


def failures_text(table):
    counts = {}
    for row in table.failed:
        key = (row["engine"], row["variant"], row["weights"], row["column"], row["error"])
        counts[key] = counts.get(key, 0) + 1
    return "".join(f"- {' '.join(key[:4])}: {key[4]} ({count}x)\n" for key, count in counts.items())


def apart_text(rows):
    """Columns at which an engine was not measured beside Rill: the machine may have changed."""
    turns = {}
    for row in rows:
        if row["value"] is not None:
            time = datetime.datetime.fromisoformat(row["time"])
            turn = turns.setdefault((row["round"], row["weights"], row["column"]), {})
            turn.setdefault(row["engine"], []).append(time)
    found = {}
    for (_, weights, column), turn in turns.items():
        ours = turn.pop("Rill", [])
        for engine, times in turn.items():
            gap = min((abs((a - b).total_seconds()) for a in times for b in ours), default=0)
            if gap > APART:
                found.setdefault(engine, {})[f"{column} ({weights})"] = None
    parts = [f"{engine} at {', '.join(columns)}" for engine, columns in found.items()]
    return f"Measured apart from Rill's turn: {'; '.join(parts)}.\n" if parts else ""


def shorten(command, options):
    """Folders of this machine are replaced by their names."""
    known = [(str(options.rill.parent), "build/bin"), (str(options.work), "build-compare"),
             (str(HERE), "bench/compare")]
    words = []
    for word in command:
        for path, name in known:
            word = word.replace(path, name)
        if len(word) > LONGEST_WORD:
            word = f"{word[:12]}... ({len(word)} characters)"
        words.append(f"'{word}'" if " " in word else re.sub(r"^/\S*/", "", word))
    return " ".join(words)


def commands_text(rows, options):
    return "".join(f"{line}\n" for line in dict.fromkeys(shorten(row["command"], options)
                                                         for row in rows))


def versions(table):
    """{engine: version}"""
    found = {}
    for (engine, *_), rows in table.rows.items():
        for row in rows:
            detail = row.get("detail", {})
            version = detail.get("build_commit") or detail.get("version")
            if version:
                found[engine] = version
    return found


# ---- the files ---------------------------------------------------------------------------------

def summary(table):
    """One entry for each variant and column, as in the CSV file."""
    for (engine, variant, weights, column), rows in sorted(table.rows.items()):
        spread = Spread.of(row["value"] for row in rows)
        unit = ("GFLOP/s" if column.startswith("attention") else
                {"first-token": "s", "memory": "bytes"}.get(column, "tokens/s"))
        yield {"engine": engine, "options": variant, "weights": weights, "column": column,
               "unit": unit, "runs": spread.runs, "min": round(spread.low, 4),
               "median": round(spread.median, 4), "max": round(spread.high, 4)}


def write_csv(path, table):
    with open(path, "w", newline="", encoding="utf-8") as file:
        lines = list(summary(table))
        writer = csv.DictWriter(file, lines[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def write_plot(path, table, work):
    python = python_with_matplotlib(work)
    if not python:
        print("no plot: neither this Python nor the work folder's has matplotlib")
        return False
    bars = [{"weights": WEIGHTS[weights], "column": title, "engine": engine,
             "spread": [best.low, best.median, best.high]}
            for weights in WEIGHTS for column, title in COLUMNS.items() for engine in ENGINES
            for _, best in [table.best(engine, weights, column) or (None, None)] if best]
    subprocess.run([python, HERE / "plot.py", path], input=json.dumps(bars), text=True, check=True)
    return True


def machine_text(machine, table):
    peaks = {name: table.rill("16", "pp512", lambda row: row["detail"][f"peak_{name}"])
             for name in ("fma", "vdpbf16ps", "vnni", "maddubs", "amx_bf16", "amx_int8")}
    read = table.rill("16", "tg@0", lambda row: row["detail"]["peak_bandwidth"])
    ceilings = [f"{name} {show(spread)} GFLOP/s" for name, spread in peaks.items()
                if spread and spread.median > 0]
    ceilings.append(f"read bandwidth {show(read)} GB/s")
    return (f"{machine['cpu']}, {machine['cores']} cores ({machine['caches']}), "
            f"{machine['memory']} of memory, Linux {machine['kernel']}, {machine['compiler']}. "
            f"It is measured against the column \"{KINDS[kind_of(machine['flags'])]}\". "
            f"Ceilings on {machine['threads']} threads: {', '.join(ceilings)}.")


def compose(rows, machine, options, has_plot):
    """The Markdown text."""
    quality = options.work / "quality.md"
    table = Table(rows)
    kind = kind_of(machine["flags"])
    states = state_of_rows(table, kind)
    dates = sorted(row["time"] for row in rows)
    parts = (HERE / "performance.md.in").read_text(encoding="utf-8")
    failures = failures_text(table)
    values = {
        "machine": machine_text(machine, table),
        "dates": f"{dates[0]} to {dates[-1]}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions(table).items()),
        "rows": rows_table(states, kind),
        "peers": peers_table(table, states, kind),
        "causes": causes_text(table, states, kind, options.causes),
        "apart": apart_text(rows),
        "attention": attention_table(table),
        "first_token": first_token_table(table),
        "quality": (quality.read_text(encoding="utf-8") if quality.exists() else
                    "Not measured: `bench/compare/run.py quality`.\n"),
        "plot": f"![tokens per second]({options.out.name}.svg)\n" if has_plot else "",
        "csv": f"{options.out.name}.csv",
        "causes_file": options.causes.name,
        "failures": f"These runs failed and count nowhere:\n\n{failures}" if failures else "",
        "commands": commands_text(rows, options),
    }
    text = re.sub(r"@(\w+)@", lambda found: values[found[1]], parts)
    return re.sub(r"\n{3,}", "\n\n", text)


def write(rows, options):
    if not any(row["value"] is not None for row in rows):
        raise SystemExit(f"{options.work}/results.jsonl has no results; run the step measure first")
    machine = json.loads((options.work / "machine.json").read_text())
    out = Path(options.out)
    table = Table(rows)
    write_csv(out.with_suffix(".csv"), table)
    has_plot = write_plot(out.with_suffix(".svg"), table, options.work)
    out.with_suffix(".md").write_text(compose(rows, machine, options, has_plot), encoding="utf-8")
    print(f"wrote {out}.md")
