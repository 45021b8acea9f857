#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""timed.py REPORT SECONDS TIMES COMMAND...: runs COMMAND so many times and writes what the last run took,
{"status", "started" (monotonic clock), "seconds", "peak_memory" (bytes)}, to REPORT; ends it after
SECONDS. It stands behind --prefix, so that neither waiting nor memory of the prefix counts."""
import json
import os
import signal
import subprocess
import sys
import time


def run(limit, command):
    started = time.monotonic()
    process = subprocess.Popen(command)
    signal.signal(signal.SIGALRM, lambda *_: process.kill())
    signal.setitimer(signal.ITIMER_REAL, limit)
    _, status, usage = os.wait4(process.pid, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return {"status": os.waitstatus_to_exitcode(status), "started": started,
            "seconds": time.monotonic() - started, "peak_memory": usage.ru_maxrss * 1024}


def main(report, limit, times, *command):
    for _ in range(int(times)):
        last = run(float(limit), command)
        if last["status"]:
            break
    with open(report, "w") as file:
        json.dump(last, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
