#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""timed.py REPORT SECONDS COMMAND...: runs COMMAND and writes {"status", "started" (monotonic clock),
"seconds", "peak_memory" (bytes)} to REPORT; ends it after SECONDS. It stands behind --prefix, so that
neither waiting nor memory of the prefix counts."""
import json
import os
import signal
import subprocess
import sys
import time


def main(report, limit, *command):
    signal.signal(signal.SIGALRM, lambda *_: process.kill())
    started = time.monotonic()
    process = subprocess.Popen(command)
    signal.setitimer(signal.ITIMER_REAL, float(limit))
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    with open(report, "w") as file:
        json.dump({"status": os.waitstatus_to_exitcode(status), "started": started,
                   "seconds": seconds, "peak_memory": usage.ru_maxrss * 1024}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
