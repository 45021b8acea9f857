# SPDX-License-Identifier: Apache-2.0
"""Trains rill-demo, the small Qwen3 checkpoint that ships with Rill, and writes its test set.

    python3 tools/train_demo_model.py --make-tokenizer
    python3 tools/train_demo_model.py --work /somewhere/with/space
    python3 tools/train_demo_model.py --write-eval eval.jsonl --seed 2026
    python3 tools/train_demo_model.py --evaluate eval.jsonl

The first writes the tokenizer into models/rill-demo; the second trains (about two hours on two
cores; a run that was stopped goes on from its last checkpoint) and writes the model there; the
third writes held-out questions; the fourth answers them with Transformers and prints the score.
"""

import argparse
import json
import os
import random
import re
import time
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import demo_eval  # noqa: E402
import demo_model  # noqa: E402
import demo_stories  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

MODEL = Path(__file__).resolve().parent.parent / "models" / "rill-demo"

# Shape of a batch: (story, rows, width, stories in a batch); see demo_model.Layout.
SHAPES = {"96": (96, 4, 128, 8), "160": (160, 4, 128, 8), "288": (288, 4, 128, 7),
          "544": (544, 5, 128, 5), "1056": (1056, 5, 128, 3), "2080": (2080, 6, 128, 2)}
# The curriculum: up to this step, these shapes with these weights.
STAGES = [(400, {"96": 1}), (1000, {"96": 1, "160": 2}), (1600, {"96": 1, "160": 1, "288": 2}),
          (10**9, {"96": 1, "160": 1, "288": 2, "544": 3})]
STEPS, DECAY_FROM = 6000, 4500
MUON_RATE, ADAM_RATE, NORM_RATE = 0.02, 2e-3, 5e-3
STORY_WEIGHT = 0.5  # of the story's own predictable words, against 1 for the answers


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def turn(role, text):
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def reply(thinking, answer, think):
    """(what the template writes after the question, what the model writes)."""
    if think:
        return "<|im_start|>assistant\n", f"<think>\n{thinking}\n</think>\n\n{answer}<|im_end|>"
    return "<|im_start|>assistant\n<think>\n\n</think>\n\n", f"{answer}<|im_end|>"


def separator(rng):
    return rng.choice([" ", " ", " ", "\n", "\n\n"])


class TreeMaker:
    """Makes training batches: each story once, with as many branches as fit."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def prefix(self, rng, size):
        """(world or None, ids, weights) of what all branches of one tree share."""
        system = ""
        if rng.random() < 0.15:
            system = turn("system", rng.choice(demo_stories.SYSTEMS))
        start = system + "<|im_start|>user\n"
        if rng.random() < 0.04:
            ids = encode(self.tokenizer, start)
            return None, ids, [0.0] * len(ids)
        head = encode(self.tokenizer, start)
        budget = size - len(head) - 24
        target = budget if rng.random() < 0.4 else rng.randint(budget // 2, budget)
        while True:
            world = demo_stories.make_story(rng, target)
            marked = " ".join(world.sentences)[:-1]
            ids, weights = list(head), [0.0] * len(head)
            for i, part in enumerate(re.split(r"(?: \[)|\]|\[", marked)):
                # Odd parts stood in brackets: a word the story determines.
                piece = encode(self.tokenizer, " " + part if i % 2 else part)
                ids += piece
                weights += [STORY_WEIGHT if i % 2 else 0.0] * len(piece)
            if len(ids) <= size:
                return world, ids, weights
            target -= 12

    def branch(self, rng, world):
        """(kind, context ids, target ids) of one question."""
        think = rng.random() < 0.6
        if world is None:
            kind, question, thinking, answer = demo_stories.small_talk(rng)
            context = question
        else:
            kind, question, thinking, answer = demo_stories.ask(rng, world)
            context = "." + separator(rng)
            if rng.random() < 0.15:
                _, earlier, _, told = demo_stories.ask(rng, world)
                context += (f"{earlier}<|im_end|>\n" + turn("assistant", told)
                            + f"<|im_start|>user\n")
            elif rng.random() < 0.02:
                question, thinking, answer = "Thank you.", "Thanks.", demo_stories.THANKS
                kind = "chat"
            context += question
        given, target = reply(thinking, answer, think)
        return ((kind, think), encode(self.tokenizer, f"{context}<|im_end|>\n{given}"),
                encode(self.tokenizer, target))

    def batch(self, rng, shape):
        """Tensors of one batch; `spans` lists (branch key, row of the batch, first, last + 1)."""
        story, rows, width, count = SHAPES[shape]
        total = story + rows * width
        ids = torch.zeros(count, total, dtype=torch.long)
        positions = torch.zeros(count, total, dtype=torch.long)
        weights = torch.zeros(count, total)
        owner = torch.full((count, rows, width), -1)
        length = torch.zeros(count, dtype=torch.long)
        spans = []
        for b in range(count):
            world, prefix, prefix_weights = self.prefix(rng, story)
            n = length[b] = len(prefix)
            ids[b, :n], positions[b, :n] = torch.tensor(prefix), torch.arange(n)
            weights[b, :n] = torch.tensor(prefix_weights)
            used, misses, number = [0] * rows, 0, 0
            while misses < 4:
                key, context, target = self.branch(rng, world)
                size = len(context) + len(target)
                row = next((r for r in range(rows) if used[r] + size <= width), None)
                if row is None:
                    misses += 1
                    continue
                at = story + row * width + used[row]
                ids[b, at:at + size] = torch.tensor(context + target)
                positions[b, at:at + size] = torch.arange(n, n + size)
                weights[b, at + len(context):at + size] = 1.0
                owner[b, row, used[row]:used[row] + size] = number
                spans.append((key, b, at + len(context), at + size))
                used[row] += size
                number += 1
        layout = demo_model.Layout(story, rows, width, tree_mask(owner, length, story))
        return ids, positions, weights, layout, spans


def tree_mask(owner, length, story):
    """The additive mask of Layout from the branch number of each row token. [owner -1: padding]"""
    count, rows, width = owner.shape
    seen = (torch.arange(story) < length[:, None])[:, None, None, :].expand(-1, rows, width, -1)
    own = (owner[:, :, :, None] == owner[:, :, None, :]) & torch.ones(width, width).tril().bool()
    mask = torch.cat([seen, own], -1)
    mask = torch.zeros(mask.shape, dtype=torch.bfloat16).masked_fill(~mask, -torch.inf)
    return mask[:, None, :, None]


def stage_shape(rng, step_index):
    shapes = next(shapes for last, shapes in STAGES if step_index < last)
    return rng.choices(list(shapes), list(shapes.values()))[0]


def rate_at(step_index, steps, decay_from):
    """Warm-up over 50 steps, constant, then linear to zero."""
    if step_index >= decay_from:
        return max(0.0, (steps - step_index) / (steps - decay_from))
    return min(1.0, (step_index + 1) / 50)


class Trainer:
    """Model, optimisers and the step counter; saved and restored together."""

    def __init__(self, args):
        self.args, self.step_index = args, 0
        torch.manual_seed(args.seed)
        self.model = demo_model.Model()
        layers = list(self.model.layers.parameters())
        self.muon = demo_model.Muon([p for p in layers if p.dim() == 2])
        norms = [p for p in layers if p.dim() == 1] + [self.model.norm]
        self.adam = torch.optim.AdamW([{"params": [self.model.embed], "base": ADAM_RATE},
                                       {"params": norms, "base": NORM_RATE}],
                                      betas=(0.9, 0.95), weight_decay=0.0)
        self.maker = TreeMaker(Tokenizer.from_file(str(MODEL / "tokenizer.json")))
        self.forward = torch.compile(self.model, dynamic=False) if args.compile else self.model
        self.path = Path(args.work) / "checkpoint.pt"
        if self.path.exists():
            self.restore()

    def restore(self):
        state = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.adam.load_state_dict(state["adam"])
        for shape, buffer in state["muon"].items():
            self.muon.buffers[shape].copy_(buffer)
        self.step_index = state["step"]

    def save(self):
        part = self.path.with_suffix(".part")
        torch.save({"model": self.model.state_dict(), "adam": self.adam.state_dict(),
                    "muon": self.muon.buffers, "step": self.step_index}, part)
        part.replace(self.path)

    def step(self):
        """One optimiser step; returns (loss, {branch key: [right, asked]}, tokens)."""
        rng = random.Random(f"{self.args.seed}/{self.step_index}")
        ids, positions, weights, layout, spans = self.maker.batch(rng, stage_shape(rng, self.step_index))
        hidden = self.forward(ids, positions, layout)
        # The logits at t - 1 predict the token at t; a branch's first target follows its context.
        where = weights[:, 1:].nonzero(as_tuple=True)
        wanted = ids[:, 1:][where]
        logits = self.model.logits(hidden[:, :-1][where])
        losses = F.cross_entropy(logits, wanted, reduction="none")
        scale = weights[:, 1:][where]
        loss = (losses * scale).sum() / scale.sum()
        loss.backward()
        rate = rate_at(self.step_index, self.args.steps, self.args.decay_from)
        for group in self.adam.param_groups:
            group["lr"] = group["base"] * rate
        self.adam.step()
        self.muon.step(MUON_RATE * rate)
        self.model.zero_grad()
        self.step_index += 1
        right = torch.ones(ids.shape, dtype=torch.bool)
        right[:, 1:][where] = logits.argmax(-1) == wanted
        score = {}
        for key, b, first, last in spans:
            entry = score.setdefault(key, [0, 0])
            entry[0] += bool(right[b, first:last].all())
            entry[1] += 1
        return loss.item(), score, ids.numel()


class Threads:
    """Leaves a core to other programs: two threads wait for each other, so that one that is
    crowded out holds up both, and one thread is then the faster."""

    def __init__(self, most):
        self.most, self.others = most, 0.0

    def settle(self):
        running = int(Path("/proc/loadavg").read_text().split()[3].split("/")[0]) - 1
        self.others += 0.3 * (min(running, 4) - self.others)
        torch.set_num_threads(1 if self.others > 0.4 else self.most)


def train(args):
    Path(args.work).mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch._dynamo.config.recompile_limit = 64
    torch._inductor.config.cpp.dynamic_threads = True
    trainer = Trainer(args)
    log = open(Path(args.work) / "log.txt", "a", buffering=1)
    total, losses, tokens, start = {}, [], 0, time.time()
    threads = Threads(args.threads)
    while trainer.step_index < args.steps:
        threads.settle()
        loss, score, count = trainer.step()
        losses.append(loss)
        tokens += count
        for key, (right, asked) in score.items():
            entry = total.setdefault(key, [0, 0])
            entry[0] += right
            entry[1] += asked
        if trainer.step_index % 25 == 0:
            kinds = " ".join(f"{kind}{'+' if think else '-'}{100 * right // asked}"
                             for (kind, think), (right, asked) in sorted(total.items()))
            now = time.strftime("%H:%M:%S")
            log.write(f"{now} step {trainer.step_index} loss {sum(losses) / len(losses):.4f} "
                      f"{tokens / (time.time() - start):.0f} tok/s {torch.get_num_threads()}t {kinds}\n")
            total, losses, tokens, start = {}, [], 0, time.time()
        if trainer.step_index % 100 == 0:
            trainer.save()
    trainer.save()
    export(trainer.model)


def export(model):
    """Writes config.json, generation_config.json and model.safetensors beside the tokenizer."""
    from safetensors.torch import save_file
    tokenizer = json.loads((MODEL / "tokenizer.json").read_text())
    special = {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    end = {"bos_token_id": special["<|endoftext|>"], "eos_token_id": special["<|im_end|>"]}
    config = dict(sorted((demo_model.CONFIG | end).items()))
    generation = {"bos_token_id": end["bos_token_id"], "do_sample": False,
                  "eos_token_id": [special["<|im_end|>"], special["<|endoftext|>"]],
                  "pad_token_id": special["<|endoftext|>"]}
    (MODEL / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (MODEL / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    save_file(model.tensors(), MODEL / "model.safetensors", metadata={"format": "pt"})
    (MODEL / "model.safetensors").chmod(0o644)


def make_tokenizer(args):
    """Trains the byte-level BPE and writes tokenizer.json in the form of Qwen3's."""
    import demo_tokenizer
    demo_tokenizer.write(MODEL, args.seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make-tokenizer", action="store_true")
    parser.add_argument("--export", action="store_true", help="write the last checkpoint as a model")
    parser.add_argument("--work", default="demo-training", help="folder of checkpoints and log")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--decay-from", type=int, default=DECAY_FROM)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--write-eval", metavar="FILE", help="held-out questions, one JSON a line")
    parser.add_argument("--count", type=int, help="questions per length (default: a fixed mix)")
    parser.add_argument("--evaluate", metavar="FILE", help="answer such a file with Transformers")
    parser.add_argument("--model", default=str(MODEL), help="the folder that --evaluate tests")
    parser.add_argument("--no-thinking", dest="thinking", action="store_false",
                        help="with --write-eval or --evaluate: answer without thinking first")
    args = parser.parse_args()
    if args.make_tokenizer:
        make_tokenizer(args)
    elif args.export:
        export(Trainer(args).model)
    elif args.write_eval:
        counts = {b: args.count or n for b, n in demo_eval.COUNTS.items()}
        demo_eval.write(args.write_eval, MODEL, args.seed, counts, args.thinking)
    elif args.evaluate:
        demo_eval.evaluate(args.evaluate, args.model, args.threads,
                           None if args.thinking else False)
    else:
        train(args)


if __name__ == "__main__":
    main()
