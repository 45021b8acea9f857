# SPDX-License-Identifier: Apache-2.0
"""What this machine is, for the report."""
import json
import os
import platform
import re
import subprocess


def output_of(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False,
                          env={**os.environ, "LC_ALL": "C"})
    return done.stdout


def processor():
    with open("/proc/cpuinfo") as file:
        return file.read()


def flags_of(cpu):
    return re.search(r"^flags\s*:\s*(.*)$", cpu, re.M)[1].split()


def has_matrix_instructions():
    return {"amx_bf16", "amx_int8"} <= set(flags_of(processor()))


def describe(threads):
    cpu = processor()
    lscpu = dict(re.findall(r"^([^:\n]+):\s*(.*)$", output_of("lscpu"), re.M))
    caches = [f"{name} {lscpu[key].split(' (')[0]}" for name, key in
              (("L1d", "L1d cache"), ("L2", "L2 cache"), ("L3", "L3 cache")) if key in lscpu]
    family = f"family {lscpu.get('CPU family', '?')} model {lscpu.get('Model', '?')}"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    compiler = output_of(os.environ.get("CXX", "c++"), "--version").splitlines()
    return {
        "cpu": f"{lscpu.get('Model name', platform.machine())} ({family})",
        "cores": len(os.sched_getaffinity(0)),
        "flags": flags_of(cpu),
        "caches": ", ".join(caches) + " in all",
        "memory": f"{memory:.0f} GiB",
        "kernel": re.match(r"[\d.]*", platform.release())[0],
        "compiler": compiler[0] if compiler else "unknown compiler",
        "threads": threads,
    }


def save(path, threads):
    path.write_text(json.dumps(describe(threads)))
