#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Have the kernels become longer? Counts instructions, which no other load of the machine disturbs,
and compares them with what instruction_counts.txt has on record.

  instruction_counts.py BUILD            exit status 1: something changed by more than the allowance
  instruction_counts.py BUILD --record   writes the record anew
  instruction_counts.py BUILD --show     prints what is counted

- scalar and AVX2 kernels: instructions that run, counted by valgrind's callgrind.
- AVX-512 and beyond, which valgrind does not run: the instructions of the innermost loop of each
  product and, of these, the ones that multiply. What a target takes from another one (shared.h) is
  counted where it stands.

Another compiler gives other counts: then the exit status is 77 (cannot be compared here).
"""
import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

RECORD = Path(__file__).with_name("instruction_counts.txt")
OBJECTS = "src/kernels/CMakeFiles/rill_kernels.dir/target_{}.cc.o"
COUNTED = ("scalar", "avx2")
DISASSEMBLED = ("avx512", "avx512vnni", "avx512bf16", "amx")
# A patch release of a compiler, or of the library whose memset is called, moves a count by less.
ALLOWANCE = 0.02
MULTIPLIES = re.compile(r"^(vfmadd|vdpbf16ps|vpdpbusd|vpmaddwd|tdp)")
PRODUCTS = re.compile(r"(product|block_tile|(score|value)_rows|(scores|values)_together|multiply_runs|add_blocks|\w+_on_tiles)$")
# Loops with fewer than this many multiplications are not the products'.
LEAST_MULTIPLIES = 4


def output_of(*command):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True,
                          text=True).stdout


def compiler_of(build):
    """Name and major and minor version of what compiled the kernels."""
    comment = output_of("readelf", "-p", ".comment", build / OBJECTS.format("avx2"))
    found = re.search(r"(GCC|clang)\D.*?(\d+\.\d+)\.\d+\s*$", comment, re.M)
    return " ".join(found.groups()) if found else "unknown"


# ---- What runs ----------------------------------------------------------------------------------

def counted(program, isa):
    """{"scalar: linear f32, rows 1": instructions}"""
    with tempfile.TemporaryDirectory() as folder:
        names = output_of("valgrind", "--tool=callgrind", "--collect-atstart=no",
                          "--toggle-collect=counted_call", "--dump-after=counted_call",
                          f"--callgrind-out-file={folder}/out", program, isa).splitlines()
        counts = {}
        for number, name in enumerate(names, start=1):
            dump = Path(f"{folder}/out.{number}").read_text()
            counts[f"{isa}: {name}"] = int(re.search(r"^(?:summary|totals): (\d+)", dump, re.M)[1])
        return counts


# ---- What is written ----------------------------------------------------------------------------

def functions(listing):
    """(name, [(address, instruction, target of a jump or None)]) of each function of objdump."""
    name, code = None, []
    for line in listing.splitlines():
        head = re.match(r"^[0-9a-f]+ <(.*)>:$", line)
        if head:
            if name:
                yield name, code
            name, code = head[1], []
            continue
        found = re.match(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*)$", line)
        if found:
            jump = re.match(r"^([0-9a-f]+) <", found[3]) if found[2].startswith("j") else None
            code.append((int(found[1], 16), found[2], int(jump[1], 16) if jump else None))
    if name:
        yield name, code


def innermost_loops(code):
    """Instructions of each stretch that a jump back closes and that holds no other one."""
    loops = [(target, address) for address, _, target in code
             if target is not None and target <= address and target >= code[0][0]]
    for begin, end in loops:
        if not any((b, e) != (begin, end) and begin <= b and e <= end for b, e in loops):
            yield [word for address, word, _ in code if begin <= address <= end]


def short(name):
    """"product<PairProduct<true>, 12>" of a whole signature; None: not one of the products."""
    name = name.replace("rill::(anonymous namespace)::", "").replace("rill::", "")
    name = re.sub(r"\(Format\)(\d)", r"Format \1", name)
    found = re.match(r"^(?:void )?((?:\w+(?:<[^(:]*>)?::)?)(\w+)(<.*>)?\(", name)
    return found[1] + found[2] + (found[3] or "") if found and PRODUCTS.match(found[2]) else None


def of_interest(counts):
    """Of each product's functions for 1, 2, ... rows those for 1, 2 and the most."""
    def kind_and_rows(key):
        found = re.match(r"(.*(?:<|, ))(\d+)>$", key)
        return (found[1], int(found[2])) if found else (key, 1)
    most = {}
    for key in counts:
        kind, rows = kind_and_rows(key)
        most[kind] = max(rows, most.get(kind, 0))
    return {key: count for key, count in counts.items()
            for kind, rows in [kind_and_rows(key)] if rows in (1, 2, most[kind])}


def disassembled(build, isa):
    """{"avx512: product<...>, instructions for 48 multiplications": 60} of the innermost loop with
    the most multiplications."""
    path = build / OBJECTS.format(isa)
    if not path.exists():
        return {}
    counts = {}
    for name, code in functions(output_of("objdump", "-d", "-C", "--no-show-raw-insn", path)):
        key = short(name)
        if not key:
            continue
        loops = [(sum(bool(MULTIPLIES.match(word)) for word in loop), len(loop))
                 for loop in innermost_loops(code)]
        if loops and max(loops)[0] >= LEAST_MULTIPLIES:
            multiplies, instructions = max(loops, key=lambda loop: (loop[0], -loop[1]))
            counts[key] = multiplies, instructions
    return {f"{isa}: {key}, instructions for {multiplies} multiplications": instructions
            for key, (multiplies, instructions) in sorted(of_interest(counts).items())}


# ---- The record ---------------------------------------------------------------------------------

def count_all(build):
    counts = {}
    for isa in COUNTED:
        counts.update(counted(build / "bin/instruction_counts", isa))
    for isa in DISASSEMBLED:
        counts.update(disassembled(build, isa))
    return counts


def read_record():
    lines = RECORD.read_text().splitlines()
    compiler = lines[0].partition("compiler: ")[2]
    entries = (line.partition(" ") for line in lines[1:] if line)
    return compiler, {name.strip(): int(number) for number, _, name in entries}


def write_record(compiler, counts):
    lines = [f"# instruction_counts.py BUILD --record wrote this; compiler: {compiler}"]
    lines += [f"{number:<9} {name}" for name, number in counts.items()]
    RECORD.write_text("\n".join(lines) + "\n")


def differences(recorded, found):
    for name, before in recorded.items():
        now = found.get(name)
        if now is None:
            yield f"{name}: {before} on record, not there any more"
        elif now > before * (1 + ALLOWANCE):
            yield f"{name}: {now}, {now / before - 1:+.1%} (on record: {before})"
    for name in found.keys() - recorded.keys():
        yield f"{name}: {found[name]}, not on record"


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args(arguments)
    missing = [tool for tool in ("valgrind", "objdump", "readelf") if not shutil.which(tool)]
    if missing:
        print(f"cannot count here: {', '.join(missing)} not installed; tools/install-deps.sh tools")
        return 77
    compiler = compiler_of(options.build)
    if not (options.record or options.show) and compiler != read_record()[0]:
        print(f"cannot be compared: compiled by {compiler}, on record is {read_record()[0]}")
        return 77
    found = count_all(options.build)
    if options.show:
        print("\n".join(f"{number:<9} {name}" for name, number in found.items()))
    if options.record:
        write_record(compiler, found)
    if options.show or options.record:
        return 0
    changed = sorted(differences(read_record()[1], found))
    print("\n".join(changed) or f"{len(found)} counts are as on record, or lower")
    if changed:
        print("If this is meant, write the record anew: "
              f"tests/kernels/instruction_counts.py {options.build} --record")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
