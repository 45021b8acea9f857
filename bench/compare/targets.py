# SPDX-License-Identifier: Apache-2.0
"""The figures that Rill is to reach, by kind of machine, and how each is taken from results."""
import statistics
from dataclasses import dataclass
from typing import Callable

from engines import HEAD_DIM, KV_HEADS, MEMORY_CONTEXT

KINDS = ("AVX2 only", "AVX-512 with VNNI and bf16", "AVX-512 with VNNI, bf16 and AMX")
AMX = 2
MIB = 1 << 20


def kind_of(flags):
    """Index into KINDS, from the flags of /proc/cpuinfo."""
    if not {"avx512f", "avx512_vnni", "avx512_bf16"} <= set(flags):
        return 0
    return AMX if {"amx_bf16", "amx_int8"} <= set(flags) else 1


@dataclass
class Spread:
    """What several runs gave: least, median and greatest value."""
    low: float
    median: float
    high: float
    runs: int

    @staticmethod
    def of(values):
        values = [value for value in values if value is not None]
        if not values:
            return None
        return Spread(min(values), statistics.median(values), max(values), len(values))


@dataclass
class Row:
    """A line of the table of targets. `value(table, kind)` gives a Spread or None; `at_least` says
    on which side of the target it has to be."""
    key: str
    title: str
    units: tuple  # for each kind
    targets: tuple  # None: the line is not for this kind
    value: Callable
    at_least: bool = True

    def reached(self, spread, kind):
        target = self.targets[kind]
        return spread.median >= target if self.at_least else spread.median <= target


class Table:
    """Results by (engine, variant, weights, column)."""

    def __init__(self, rows):
        self.rows = {}
        self.failed = []
        for row in rows:
            if row["value"] is None:
                self.failed.append(row)
                continue
            key = (row["engine"], row["variant"], row["weights"], row["column"])
            self.rows.setdefault(key, []).append(row)

    def find(self, engine, weights, column):
        """{variant: rows}"""
        return {key[1]: rows for key, rows in self.rows.items()
                if (key[0], key[2], key[3]) == (engine, weights, column)}

    def best(self, engine, weights, column, least=False):
        """(variant, Spread) of an engine's best options, or None."""
        found = [(variant, Spread.of(row["value"] for row in rows))
                 for variant, rows in self.find(engine, weights, column).items()]
        pick = min if least else max
        return pick(found, key=lambda entry: entry[1].median) if found else None

    def rill(self, weights, column, take, compute=""):
        """Spread of take(row) over Rill's rows of one --compute ("": auto)."""
        return Spread.of(map(take, self.find("Rill", weights, column).get(compute, [])))


def percent(weights, column, compute=""):
    def value(table, _):
        return table.rill(weights, column, lambda row: row["detail"]["pct_of_ceiling"], compute)
    return value


def percent_of_integers(weights):
    """int8 and int4 are held to the peak of VNNI, with AMX too; without VNNI to that of fp32."""
    def value(table, kind):
        def take(row):
            detail = row["detail"]
            peak = {0: "peak_fma", AMX: "peak_vnni"}.get(kind)
            return 100 * detail["gflops"] / detail[peak] if peak else detail["pct_of_ceiling"]
        return table.rill(weights, "pp512", take)
    return value


def worst_attention(compute):
    """The length at which the operator is slowest counts."""
    def value(table, _):
        columns = {key[3] for key in table.rows if key[0] == "Rill" and key[2] == compute and
                   key[3].startswith(f"attention-{compute}@")}
        spreads = [percent(compute, column)(table, 0) for column in columns]
        return min(spreads, key=lambda spread: spread.median) if spreads else None
    return value


def ratio(over, under):
    """Two columns of bf16 against each other, round by round."""
    def value(table, _):
        pairs = rounds_of(table, over, under)
        return Spread.of(one["value"] / other["value"] for one, other in pairs)
    return value


def rounds_of(table, *columns):
    """Rill's rows of these columns (16-bit weights) that are of the same round."""
    by_round = [{row["round"]: row for row in table.find("Rill", "16", column).get("", [])}
                for column in columns]
    common = sorted(set.intersection(*(set(rows) for rows in by_round)))
    return [tuple(rows[number] for rows in by_round) for number in common]


def ratio_over_bandwidth(over, under):
    """The same over what the read bandwidth, measured beside each, gained: a shared host's moves."""
    def value(table, _):
        pairs = rounds_of(table, over, under)
        return Spread.of(one["value"] / other["value"] /
                         (one["detail"]["peak_bandwidth"] / other["detail"]["peak_bandwidth"])
                         for one, other in pairs)
    return value


def memory_excess(table, _):
    """MiB of peak memory above 105 % of packed weights and KV."""
    packed = table.rill("16", "tg@0", lambda row: row["detail"]["model_size"])
    if not packed:
        return None
    kv = MEMORY_CONTEXT * 2 * 28 * KV_HEADS * HEAD_DIM * 2  # K and V of 28 layers, bf16
    return table.rill("16", "memory",
                      lambda row: (row["value"] - 1.05 * (packed.median + kv)) / MIB)


def seconds(table, _):
    return table.rill("16", "first-token", lambda row: row["value"])


FMA, BF16, VNNI, TILE, READ = ("% of FMA peak", "% of VDPBF16PS peak", "% of VNNI peak",
                               "% of AMX's bf16 peak", "% of read bandwidth")
# What bf16 compute is held to: the faster one of the instructions that compute it. On processors
# with AMX that is FMA.
BF16_UNITS = (FMA, BF16, FMA)
INT_UNITS = (FMA, VNNI, VNNI)
# Of bf16x32 nothing was asked: 50 and 40 % of AMX's peak are an aim of ours.
ROWS = [
    Row("prefill-512-bf16", "prefill 512, bf16 compute", BF16_UNITS, (82, 85, 85),
        percent("16", "pp512")),
    Row("prefill-512-bf16x32", "prefill 512, bf16x32 compute", (TILE,) * 3, (None, None, 50),
        percent("16", "pp512", "bf16x32")),
    Row("prefill-512-f32", "prefill 512, f32 compute", (FMA,) * 3, (82, 84, 84),
        percent("16", "pp512-f32")),
    Row("prefill-512-int8", "prefill 512, int8", INT_UNITS, (135, 58, 58),
        percent_of_integers("8")),
    Row("prefill-512-int4", "prefill 512, int4", INT_UNITS, (170, 52, 52),
        percent_of_integers("4")),
    Row("prefill-4096-bf16", "prefill 4096, bf16 compute", BF16_UNITS, (78, 82, 82),
        percent("16", "pp4096")),
    Row("prefill-4096-bf16x32", "prefill 4096, bf16x32 compute", (TILE,) * 3, (None, None, 40),
        percent("16", "pp4096", "bf16x32")),
    Row("attention-f32", "attention alone, f32, worst length", (FMA,) * 3, (72, 78, 78),
        worst_attention("f32")),
    Row("attention-bf16", "attention alone, bf16, worst length", BF16_UNITS, (72, 80, 80),
        worst_attention("bf16")),
    Row("decode-bf16", "decode, empty cache, bf16", (READ,) * 3, (95,) * 3, percent("16", "tg@0")),
    Row("decode-int8", "decode, empty cache, int8", (READ,) * 3, (94,) * 3, percent("8", "tg@0")),
    Row("decode-int4", "decode, empty cache, int4", (READ,) * 3, (88,) * 3, percent("4", "tg@0")),
    Row("decode-4k", "decode at 4,096, bf16", (READ,) * 3, (88,) * 3, percent("16", "tg@4096")),
    Row("decode-16k", "decode at 16,384, bf16", (READ,) * 3, (88,) * 3, percent("16", "tg@16384")),
    Row("decode-32k", "decode at 32,768, bf16", (READ,) * 3, (88,) * 3, percent("16", "tg@32768")),
    Row("batch-8", "decode of 8 sequences against one, bf16, over the bandwidth's gain", ("x",) * 3,
        (5.8, 7, 7), ratio_over_bandwidth("tg@0-x8", "tg@0")),
    Row("threads-prefill", "prefill 512, 2 threads against 1", ("x",) * 3, (1.93,) * 3,
        ratio("pp512-2t", "pp512-1t")),
    Row("threads-decode", "decode, 2 threads against 1, over the bandwidth's gain", ("x",) * 3,
        (0.95,) * 3, ratio_over_bandwidth("tg@0-2t", "tg@0-1t")),
    Row("first-token", "exec to the end of the first token", ("s",) * 3, (1,) * 3, seconds,
        at_least=False),
    Row("memory", "peak memory above 1.05 x (weights + KV)", ("MiB",) * 3, (61,) * 3,
        memory_excess, at_least=False),
]

# Against the best peer: (weights, column) -> (least ratio, key of the row whose percentage, where it
# is reached, makes the ratio void). With AMX no ratio of prefill is void: peers may use it as well.
RATIOS = {
    ("16", "pp512"): (1.05, "prefill-512-bf16"),
    ("16", "pp4096"): (1.05, "prefill-4096-bf16"),
    ("16", "tg@0"): (1.0, "decode-bf16"),
    ("16", "tg@4096"): (1.2, "decode-4k"),
    ("16", "tg@16384"): (1.8, "decode-16k"),
    ("8", "pp512"): (1.15, "prefill-512-int8"),
    ("8", "pp4096"): (1.1, None),
    ("8", "tg@0"): (1.0, "decode-int8"),
    ("8", "tg@4096"): (1.35, None),
    ("4", "pp512"): (1.15, "prefill-512-int4"),
    ("4", "pp4096"): (1.1, None),
    ("4", "tg@0"): (1.0, "decode-int4"),
    ("4", "tg@4096"): (1.35, None),
}


def may_be_void(column, kind):
    return not (kind == AMX and column.startswith("pp"))
