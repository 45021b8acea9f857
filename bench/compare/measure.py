# SPDX-License-Identifier: Apache-2.0
"""Runs jobs and keeps what they yield: one JSON object a line, so that a run can be cut off and
resumed, and its report written again."""
import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent

# A variant of an engine (flash attention or not, F16 or BF16) that stays this far behind the
# engine's best in the first round is not run again.
HOPELESS = 0.85
ATTEMPTS = 2  # rill bench refuses its own figures when a ceiling was disturbed


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def run_command(command, prefix, limit, times=1):
    """(what timed.py tells of the last of so many runs, standard output, last line of standard error)."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        timed = [sys.executable, str(HERE / "timed.py"), str(report), str(limit), str(times)]
        done = subprocess.run([*prefix, *timed, *command], capture_output=True, text=True,
                              errors="replace", check=False)
        error = "".join(done.stderr.strip().splitlines()[-1:])
        if not report.exists():
            return {"status": done.returncode or 1}, done.stdout, error
        return json.loads(report.read_text()), done.stdout, error


class Results:
    """The file of results, appended to."""

    def __init__(self, path):
        self.path = path
        self.rows = []
        if path.exists():
            self.rows = [json.loads(line) for line in path.read_text().splitlines()]

    def add(self, row):
        self.rows.append(row)
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")

    def has(self, job, round_number):
        return any(row["round"] == round_number and
                   (row["engine"], row["variant"], row["weights"]) ==
                   (job.engine, job.variant, job.weights) and row["column"] in job.columns
                   for row in self.rows)

    def hopeless(self, job):
        """Was this variant far behind another one of its engine, in all its columns, at first?"""
        def first(column, variant):
            return [row["value"] for row in self.rows if row["value"] is not None and
                    (row["round"], row["engine"], row["weights"], row["column"]) ==
                    (0, job.engine, job.weights, column) and variant in (None, row["variant"])]
        behind = []
        for column in job.columns:
            own, all_variants = first(column, job.variant), first(column, None)
            if column == "first-token" or not all_variants:
                return False
            behind.append(not own or max(own) < HOPELESS * max(all_variants))
        return all(behind)


def run_job(job, round_number, prefix, limit, results):
    """Has it given all its columns?"""
    command = [str(word) for word in job.command]
    run, out, error = run_command(command, prefix, limit, job.starts)
    common = {"time": now(), "round": round_number, "engine": job.engine, "variant": job.variant,
              "weights": job.weights, "command": command}
    label = " ".join(filter(None, [job.engine, job.variant, job.weights]))
    found = {}
    if run["status"] == 0:
        try:
            found = job.parse(out, run)
        except (ValueError, KeyError, IndexError) as failure:
            error = f"its output was not understood: {failure!r}"
    for column, entry in found.items():
        results.add({**common, "column": column, "peak_memory": run["peak_memory"], **entry})
        print(f"  {label} {column}: {entry['value']:.4g}", flush=True)
    for column in set(job.columns) - set(found):
        error = error or f"exit status {run['status']}"
        results.add({**common, "column": column, "value": None, "error": error})
        print(f"  {label} {column}: {error}", flush=True)
    return set(job.columns) <= set(found)


def run_rounds(plan, rounds, prefix, limit, results):
    """Engines take turns at every column; the next round begins with another one."""
    for number in range(rounds):
        for jobs in plan:
            turn = number % len(jobs)
            for job in jobs[turn:] + jobs[:turn]:
                enough = job.rounds is not None and number >= job.rounds
                if enough or results.has(job, number) or (number > 0 and results.hopeless(job)):
                    continue
                for _ in range(ATTEMPTS):
                    if run_job(job, number, prefix, limit, results):
                        break
