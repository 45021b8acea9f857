#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares how Rill and Q4_0 round weights to four bits, at the same 4.5 bits a weight (needs numpy).

Each rule rounds the linear layers of a model to blocks of 32 codes and a half-precision scale; what
comes out is written back as fp32 and run by Rill in fp32, so that nothing but the rule differs. The
embedding, which is the head too, is int8 in all of them, as `--weights int4` has it. Then `--weights
int4` itself, which also quantises activations. Error: the rms difference of logits from the unrounded
model's, over the rms of those (their mean over the vocabulary taken off, since softmax does not see it);
accuracy: `rill accuracy` on the held-out questions.

  bench/compare/q4_quality.py                          # models/rill-demo
  bench/compare/q4_quality.py --model FOLDER           # another one: error of logits only
"""
import argparse
import json
import lzma
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
BLOCK = 32


# ---- safetensors -------------------------------------------------------------------------------

def read_tensors(folder):
    """{name: fp32 array} of all files."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        for name, entry in json.loads(data[8 : 8 + size]).items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            raw = data[8 + size + begin : 8 + size + end]
            if entry["dtype"] == "BF16":
                array = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
            else:
                kind = {"F16": np.float16, "F32": np.float32}[entry["dtype"]]
                array = np.frombuffer(raw, kind).astype(np.float32)
            tensors[name] = array.reshape(entry["shape"])
    return tensors


def write_tensors(path, tensors):
    header, begin = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": array.shape,
                        "data_offsets": [begin, begin + array.nbytes]}
        begin += array.nbytes
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(array.astype("<f4").tobytes())


# ---- rules: [blocks, 32] -> the same, rounded --------------------------------------------------

def extreme_of(blocks):
    """The signed element of largest magnitude, the first of equals. [blocks, 1]"""
    place = np.abs(blocks).argmax(axis=1, keepdims=True)
    return np.take_along_axis(blocks, place, axis=1)


def to_half(values):
    return values.astype(np.float16).astype(np.float32)


def inverse_of(values):
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / values
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def q4_0(blocks):
    """ggml's quantize_row_q4_0_ref."""
    scale = extreme_of(blocks) / np.float32(-8)
    codes = np.minimum(15, np.floor(blocks * inverse_of(scale) + np.float32(8.5)))
    return (codes - 8) * to_half(scale)


def rill_int4(blocks):
    """docs/arithmetic.md §7: the best of five scales, each refined by least squares."""
    def codes_of(scale):
        return np.rint(np.clip(blocks * inverse_of(scale), -8, 7))
    extreme = extreme_of(blocks)
    best = np.zeros_like(blocks)
    least = np.full((len(blocks), 1), np.inf)
    for divisor in (8.8, 8.2, 7.6, 7.0, 6.4):
        codes = codes_of(-(extreme / np.float32(divisor)))
        squares = (codes * codes).sum(axis=1, keepdims=True)
        products = (blocks * codes).sum(axis=1, keepdims=True)
        scale = to_half(np.divide(products, squares, out=np.zeros_like(squares), where=squares > 0))
        rounded = scale * codes_of(scale)
        error = ((blocks - rounded) ** 2).sum(axis=1, keepdims=True)
        better = (error < least) & (scale != 0)
        best, least = np.where(better, rounded, best), np.where(better, error, least)
    return best


def dense_search(blocks):
    """The best of 400 scales of either sign: what no rule of this form can beat by much."""
    extreme = np.abs(extreme_of(blocks))
    best = np.zeros_like(blocks)
    least = (blocks ** 2).sum(axis=1, keepdims=True)
    for divisor in np.linspace(5, 9.5, 200, dtype=np.float32):
        for sign in (1, -1):
            scale = to_half(sign * extreme / divisor)
            rounded = scale * np.rint(np.clip(blocks * inverse_of(scale), -8, 7))
            error = ((blocks - rounded) ** 2).sum(axis=1, keepdims=True)
            best, least = np.where(error < least, rounded, best), np.minimum(error, least)
    return best


def int8(blocks):
    scale = to_half(np.abs(extreme_of(blocks)) / np.float32(127))
    return scale * np.clip(np.rint(blocks * inverse_of(scale)), -127, 127)


RULES = {"Q4_0": q4_0, "Rill int4": rill_int4, "best of 400 scales": dense_search,
         "none, head int8": None}


def rounded(array, rule):
    """Rows in blocks of 32, the last one filled with zeros."""
    rows, columns = array.shape
    padded = np.pad(array, ((0, 0), (0, -columns % BLOCK)))
    return rule(padded.reshape(-1, BLOCK)).reshape(rows, -1)[:, :columns]


def is_linear(name):
    return name.endswith("_proj.weight")


def round_model(tensors, rule):
    """Linear layers by `rule` (None: as they are), embedding and head as int8."""
    result = {}
    for name, array in tensors.items():
        if is_linear(name):
            result[name] = array if rule is None else rounded(array, rule)
        elif array.ndim == 2:
            result[name] = rounded(array, int8)
        else:
            result[name] = array
    return result


def weight_error(tensors, candidate):
    """rms error of the linear layers over their rms."""
    pairs = [(array, candidate[name]) for name, array in tensors.items() if is_linear(name)]
    error = sum(((a - b).astype(np.float64) ** 2).sum() for a, b in pairs)
    return (error / sum((a.astype(np.float64) ** 2).sum() for a, _ in pairs)) ** 0.5


# ---- through Rill ------------------------------------------------------------------------------

class Rill:
    def __init__(self, program, work):
        self.program, self.work = program, work

    def output_of(self, *arguments, text=None):
        done = subprocess.run([str(self.program), *map(str, arguments)], input=text, text=True,
                              capture_output=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr.strip())
        return done.stdout

    def logits(self, model, prompts, options):
        """Rows of all prompts, [tokens, vocabulary], without their mean."""
        parts = []
        for ids in prompts:
            out = self.work / "logits.safetensors"
            self.output_of("logits", model, "--ids", ",".join(map(str, ids)), "--out", out, *options)
            data = out.read_bytes()
            (size,) = struct.unpack("<Q", data[:8])
            entry = json.loads(data[8 : 8 + size])["logits"]
            part = np.frombuffer(data, np.float32, offset=8 + size, count=int(np.prod(entry["shape"])))
            parts.append(part.reshape(entry["shape"]).astype(np.float64))
        rows = np.concatenate(parts)
        return rows - rows.mean(axis=1, keepdims=True)

    def accuracy(self, model, questions, options):
        """"right/all" over all questions."""
        table = self.output_of("accuracy", model, "--questions", questions, *options)
        (last,) = re.findall(r"^\| all \|(.*)$", table, re.M)
        counts = [tuple(map(int, pair)) for pair in re.findall(r"\((\d+)/(\d+)\)", last)]
        return "/".join(str(sum(column)) for column in zip(*counts))


def held_out(model, work):
    """Path of the unpacked questions of a model folder, or None."""
    packed = model / "held-out.jsonl.xz"
    if not packed.exists():
        return None
    path = work / "questions.jsonl"
    path.write_bytes(lzma.open(packed).read())
    return path


def prompts_of(rill, model, questions, vocab_size, count):
    """Token ids: stories of the questions, or arbitrary ones."""
    if questions is None:
        return [np.random.default_rng(1).integers(0, vocab_size, 256).tolist()]
    lines = [json.loads(line) for line in questions.read_text().splitlines()]
    texts = list(dict.fromkeys(line["messages"][-1]["content"] for line in lines))
    step = max(1, len(texts) // count)
    return [[int(word) for word in re.findall(r"\d+", rill.output_of("tokenize", model, text))]
            for text in texts[::step][:count]]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rill", type=Path, default=ROOT / "build/bin/rill")
    parser.add_argument("--model", type=Path, default=ROOT / "models/rill-demo")
    parser.add_argument("--prompts", type=int, default=16, help="stories whose logits are compared")
    parser.add_argument("--out", type=Path, help="file for the table (standard output)")
    parser.add_argument("--limit", type=int, help="only the first N questions")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        rill = Rill(options.rill, work)
        text = table(rill, options, work)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


def table(rill, options, work):
    """The comparison as Markdown."""
    config = json.loads((options.model / "config.json").read_text())
    questions = held_out(options.model, work)
    prompts = prompts_of(rill, options.model, questions, config["vocab_size"], options.prompts)
    exact = ["--weights", "f32", "--compute", "f32"]
    limit = ["--limit", options.limit] if options.limit else []
    reference = rill.logits(options.model, prompts, exact)
    tensors = read_tensors(options.model)
    lines = ["| rounding of the linear layers | error of weights | error of logits | right answers |",
             "|---|---|---|---|"]

    def add(name, weights, model, arguments):
        logits = rill.logits(model, prompts, arguments)
        error = ((logits - reference) ** 2).mean() ** 0.5 / (reference ** 2).mean() ** 0.5
        right = questions and rill.accuracy(model, questions, [*arguments, *limit])
        lines.append(f"| {name} | {weights} | {100 * error:.2f} % | {right or '–'} |")

    add("none", "–", options.model, exact)
    for name, rule in RULES.items():
        candidate = round_model(tensors, rule)
        copy = work / "model"
        shutil.copytree(options.model, copy, ignore=shutil.ignore_patterns("*.safetensors*", "*.xz"))
        write_tensors(copy / "model.safetensors", candidate)
        add(name, f"{100 * weight_error(tensors, candidate):.2f} %", copy, exact)
        shutil.rmtree(copy)
    add("`--weights int4`, activations int8", "–", options.model, ["--weights", "int4"])
    return "\n".join(lines) + f"\n\nLogits of {sum(map(len, prompts))} tokens of {len(prompts)} prompts.\n"


if __name__ == "__main__":
    main()
