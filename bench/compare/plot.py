#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws bars of tokens per second (report.py's JSON on standard input) into an SVG file."""
import json
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "rill", "font.size": 8})
from matplotlib import pyplot  # noqa: E402


def draw(axes, bars, engines):
    columns = list(dict.fromkeys(bar["column"] for bar in bars))
    width = 0.8 / len(engines)
    for place, engine in enumerate(engines):
        own = [bar for bar in bars if bar["engine"] == engine]
        low, median, high = zip(*(bar["spread"] for bar in own)) if own else ((), (), ())
        errors = [[m - l for m, l in zip(median, low)], [h - m for m, h in zip(median, high)]]
        axes.bar([columns.index(bar["column"]) + (place - (len(engines) - 1) / 2) * width
                  for bar in own], median, width, yerr=errors, label=engine,
                 color=pyplot.get_cmap("tab10")(place), error_kw={"linewidth": 0.7})
    axes.set_xticks(range(len(columns)), columns)
    axes.spines[["top", "right"]].set_visible(False)


def main(path):
    bars = json.load(sys.stdin)
    engines = list(dict.fromkeys(bar["engine"] for bar in bars))
    weights = list(dict.fromkeys(bar["weights"] for bar in bars))
    figure, grid = pyplot.subplots(len(weights), 2, figsize=(11, 2.4 * len(weights)), squeeze=False,
                                   width_ratios=(2, 3), layout="constrained")
    for line, kind in zip(grid, weights):
        for axes, phase in zip(line, ("prefill", "decode")):
            draw(axes, [bar for bar in bars if bar["weights"] == kind and
                        bar["column"].startswith(phase)], engines)
            axes.set_title(f"{kind}, tokens/s", loc="left")
    grid[0][0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main(sys.argv[1])
