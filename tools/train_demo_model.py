# SPDX-License-Identifier: Apache-2.0
"""Trains rill-demo, the small Qwen3 checkpoint that ships with Rill, and writes its test set.

    python3 tools/train_demo_model.py --make-tokenizer
    python3 tools/train_demo_model.py --work /somewhere/with/space
    python3 tools/train_demo_model.py --write-eval eval.jsonl --seed 2026
    python3 tools/train_demo_model.py --evaluate eval.jsonl
    python3 tools/train_demo_model.py --check

The first writes the tokenizer into models/rill-demo; the second trains (about an hour on two
cores; a run that was stopped goes on from its last checkpoint) and writes the model there; the
third writes held-out questions; the fourth answers them with Transformers and prints the score;
the last compares what training computes with Transformers.
"""

import argparse
import json
import os
import random
import time
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import demo_eval  # noqa: E402
import demo_model  # noqa: E402
from demo_trees import TreeMaker  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from torch import nn  # noqa: E402

MODEL = Path(__file__).resolve().parent.parent / "models" / "rill-demo"

# The curriculum: up to this step, these shapes with these weights.
STAGES = [(300, {"still": 1}), (500, {"still": 1, "96": 1}), (800, {"96": 1, "160": 2}),
          (1200, {"96": 1, "160": 1, "288": 2}), (1700, {"96": 1, "160": 1, "288": 2, "544": 2}),
          (10**9, {"96": 1, "160": 1, "288": 2, "544": 3, "1056": 1, "2080": 1})]
# The learning rates' factor at some steps; linear between them.
RATES = [(-1, 0), (49, 1), (1700, 1), (2500, 0.4667), (2750, 0.4667), (3250, 0)]
# From these steps on:
COMPARE_FROM = 1100   # thinking also says ", yes", and comparing with the question is shown
LISTS_FROM = 1400     # going through a list is shown
HELD_FROM = 1600      # where to see whether a thing is held is shown
ANSWER_FROM = 2200    # the token that told a fact is asked for the answer
TELLINGS_FROM = 2500  # every token that tells a fact is asked for it, needed or not
HINT_WEIGHT = 0.3  # of the auxiliary losses
SCALE = demo_model.CONFIG["head_dim"] ** -0.5
MUON_RATE, ADAM_RATE, NORM_RATE = 0.012, 2e-3, 2e-2


def stage_shape(rng, step_index):
    shapes = next(shapes for last, shapes in STAGES if step_index < last)
    return rng.choices(list(shapes), list(shapes.values()))[0]


def rate_at(step_index):
    """The factor of the learning rates, linear between the knots of RATES."""
    for (first, low), (last, high) in zip(RATES, RATES[1:]):
        if step_index < last:
            return low + (high - low) * (step_index - first) / (last - first)
    return RATES[-1][1]


class Trainer:
    """Model, optimisers and the step counter; saved and restored together."""

    def __init__(self, args):
        self.args, self.step_index = args, 0
        torch.manual_seed(args.seed)
        self.model = demo_model.Model()
        layers = list(self.model.layers.parameters())
        self.muon = demo_model.Muon([p for p in layers if p.dim() == 2])
        norms = [p for p in layers if p.dim() == 1] + [self.model.norm]
        hidden = demo_model.CONFIG["hidden_size"]
        self.probes = [nn.Parameter(torch.eye(hidden)) for _ in range(2)]
        self.answer_probe = nn.Parameter(torch.eye(hidden))
        self.answer_adam = torch.optim.AdamW([self.answer_probe], betas=(0.9, 0.95),
                                             weight_decay=0.0)
        self.adam = torch.optim.AdamW([{"params": [self.model.embed], "base": ADAM_RATE},
                                       {"params": self.probes, "base": ADAM_RATE},
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
        for probe, saved in zip([*self.probes, self.answer_probe], state["probes"]):
            probe.data.copy_(saved)
        if "answer_adam" in state:
            self.answer_adam.load_state_dict(state["answer_adam"])
        self.adam.load_state_dict(state["adam"])
        for shape, buffer in state["muon"].items():
            self.muon.buffers[shape].copy_(buffer)
        self.step_index = state["step"]

    def save(self):
        part = self.path.with_suffix(".part")
        torch.save({"model": self.model.state_dict(), "adam": self.adam.state_dict(),
                    "muon": self.muon.buffers, "step": self.step_index,
                    "answer_adam": self.answer_adam.state_dict(),
                    "probes": [p.detach() for p in [*self.probes, self.answer_probe]]}, part)
        part.replace(self.path)

    def hint_loss(self, batch, stream, queries, keys):
        """The auxiliary loss of looking facts up, and the share of hints where the head is right.

        Left to itself a small model finds out late that it must bind a place to a person and look
        that pair up. So head 0 is shown which token to look at, and the stream before it is
        asked, at both ends of the look, whose fact it is. Nothing of this is in the checkpoint.
        """
        if not batch.hints:
            return torch.zeros(()), 1.0
        rows, at, told, whose = torch.tensor(batch.hints).unbind(1)
        story = batch.layout.story
        scores = (queries[:, :, 0] @ keys[:, :story, 0].mT)[rows, at].float() * SCALE
        seen = torch.arange(story) < torch.minimum(batch.length[rows], at + 1)[:, None]
        scores = scores.masked_fill(~seen, -torch.inf)
        loss = F.cross_entropy(scores, told)
        for probe, where in zip(self.probes, (at, told)):
            x = stream[rows, where].float()
            x = F.rms_norm(x, (x.shape[-1],)) @ probe
            loss = loss + 0.5 * F.cross_entropy(x @ self.model.embed.T, whose)
        if self.step_index >= ANSWER_FROM:
            # The token that is looked at is asked for the answer too: who took it, or where it is.
            answer = batch.ids[rows, at + 1]
            known = torch.isin(answer, self.maker.entity_ids)
            loss = loss + self.answer_loss(stream, rows[known], told[known], answer[known]).mean()
        if self.step_index >= TELLINGS_FROM:
            row, at, value = torch.tensor(batch.tellings).unbind(1)
            losses = self.answer_loss(stream, row, at, value)
            named = torch.isin(value, self.maker.name_ids)
            for group in (losses[named], losses[~named]):
                loss = loss + (2 * group.mean() if len(group) else 0)
        return loss, (scores.argmax(-1) == told).float().mean().item()

    def answer_loss(self, stream, rows, told, value):
        """Whether the stream before the look has, at the token that told it, the fact itself."""
        x = stream[rows, told].float()
        x = F.rms_norm(x, (x.shape[-1],)) @ self.answer_probe
        return F.cross_entropy(x @ self.model.embed.T, value, reduction="none")

    def list_loss(self, batch, queries, keys):
        """The auxiliary loss of head 1, which looks at the next item of a list."""
        if not batch.lists:
            return torch.zeros(()), 1.0
        rows, at, told = torch.tensor(batch.lists).unbind(1)
        story = batch.layout.story
        scores = (queries[:, :, 1] @ keys[:, :story, 0].mT)[rows, at].float() * SCALE
        scores = scores.masked_fill(torch.arange(story) >= batch.length[rows, None], -torch.inf)
        return F.cross_entropy(scores, told), (scores.argmax(-1) == told).float().mean().item()

    def match_loss(self, batch, queries, keys):
        """The auxiliary loss of the last head, which compares a word of the thinking with the
        question: it is to look at the same word there, or else at the first token of all."""
        if not batch.matches:
            return torch.zeros(()), 1.0
        b, at, named = torch.tensor(batch.matches).unbind(1)
        layout = batch.layout
        row, column = (at - layout.story) // layout.width, (at - layout.story) % layout.width
        begin = layout.story + row * layout.width
        own = begin[:, None] + torch.arange(layout.width)
        seen = torch.cat([torch.arange(layout.story).expand(len(b), -1), own], 1)
        scores = (keys[:, :, -1][b[:, None], seen] @ queries[b, at, -1].unsqueeze(-1)).squeeze(-1)
        scores = scores.float() * SCALE + layout.mask[b, 0, row, 0, column].float()
        wanted = torch.where(named > 0, named - begin + layout.story, 0)
        return F.cross_entropy(scores, wanted), (scores.argmax(-1) == wanted).float().mean().item()

    def step(self):
        """One optimiser step; returns (loss, {branch key: [right, asked]}, hints found, tokens)."""
        rng = random.Random(f"{self.args.seed}/{self.step_index}")
        self.maker.compare = self.step_index >= COMPARE_FROM
        self.maker.lists = self.step_index >= LISTS_FROM
        self.maker.held = self.step_index >= HELD_FROM
        batch = self.maker.batch(rng, stage_shape(rng, self.step_index))
        hidden, *inner = self.forward(batch.ids, batch.positions, batch.layout)
        # The logits at t - 1 predict the token at t; a branch's first target follows its context.
        where = batch.weights[:, 1:].nonzero(as_tuple=True)
        wanted = batch.ids[:, 1:][where]
        logits = self.model.logits(hidden[:, :-1][where])
        losses = F.cross_entropy(logits, wanted, reduction="none")
        scale = batch.weights[:, 1:][where]
        loss = (losses * scale).sum() / scale.sum()
        hint_loss, found = self.hint_loss(batch, *inner)
        match_loss, matched = self.match_loss(batch, *inner[1:])
        list_loss, listed = self.list_loss(batch, *inner[1:])
        (loss + HINT_WEIGHT * (hint_loss + match_loss + list_loss)).backward()
        rate = rate_at(self.step_index)
        for group in self.adam.param_groups:
            group["lr"] = group["base"] * rate
        self.adam.step()
        self.adam.zero_grad()
        self.answer_adam.param_groups[0]["lr"] = ADAM_RATE * rate
        self.answer_adam.step()
        self.answer_adam.zero_grad()
        self.muon.step(MUON_RATE * rate)
        self.model.zero_grad()
        self.step_index += 1
        right = torch.ones(batch.ids.shape, dtype=torch.bool)
        right[:, 1:][where] = logits.argmax(-1) == wanted
        score = {}
        for key, b, first, last in batch.spans:
            entry = score.setdefault(key, [0, 0])
            entry[0] += bool(right[b, first:last].all())
            entry[1] += 1
        return loss.item(), score, (found, matched, listed), batch.ids.numel()


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
    total, losses, founds, tokens, start = {}, [], [], 0, time.time()
    threads = Threads(args.threads)
    while trainer.step_index < args.steps:
        threads.settle()
        loss, score, found, count = trainer.step()
        losses.append(loss)
        founds.append(found)
        tokens += count
        for key, (right, asked) in score.items():
            entry = total.setdefault(key, [0, 0])
            entry[0] += right
            entry[1] += asked
        if trainer.step_index % 25 == 0:
            kinds = " ".join(f"{kind}{'+' if think else '-'}{100 * right // asked}"
                             for (kind, think), (right, asked) in sorted(total.items()))
            now = time.strftime("%H:%M:%S")
            means = " ".join(f"{sum(x) / len(x):.2f}" for x in zip(*founds))
            speed = f"{tokens / (time.time() - start):.0f} tok/s {torch.get_num_threads()}t"
            log.write(f"{now} step {trainer.step_index} loss {sum(losses) / len(losses):.4f} "
                      f"found/matched/listed {means} "
                      f"{speed} {kinds}\n")
            total, losses, founds, tokens, start = {}, [], [], 0, time.time()
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


def check(folder):
    """Prints the largest difference of the logits between training's forward pass, branch by
    branch of two trees, and Transformers on the same texts one at a time, in float32."""
    from transformers import AutoModelForCausalLM
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = demo_model.Model()
    model.load_tensors(network.state_dict())
    maker = TreeMaker(Tokenizer.from_file(str(Path(folder) / "tokenizer.json")))
    batch = maker.batch(random.Random("check"), "160")
    batch.layout.mask = batch.layout.mask.float()
    worst = 0.0
    with torch.no_grad():
        hidden, *_ = model(batch.ids, batch.positions, batch.layout, dtype=torch.float32)
        ours = model.logits(hidden)
        for _, b, first, last in batch.spans:
            length = int(batch.length[b])
            while batch.positions[b, first] != length:
                first -= 1  # back to the branch's first token
            ids = torch.cat([batch.ids[b, :length], batch.ids[b, first:last]])
            theirs = network(ids[None]).logits[0]
            tree = torch.cat([ours[b, :length], ours[b, first:last]])
            worst = max(worst, (tree - theirs).abs().max().item())
    print(f"{len(batch.spans)} branches, {len(batch.ids)} stories: largest difference {worst:.2g}")


def make_tokenizer(args):
    """Trains the byte-level BPE and writes tokenizer.json in the form of Qwen3's."""
    import demo_tokenizer
    demo_tokenizer.write(MODEL, args.seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make-tokenizer", action="store_true")
    parser.add_argument("--export", action="store_true", help="write the last checkpoint")
    parser.add_argument("--work", default="demo-training", help="folder of checkpoints and log")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=RATES[-1][0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--write-eval", metavar="FILE", help="held-out questions, one JSON a line")
    parser.add_argument("--count", type=int, help="questions per length (default: a fixed mix)")
    parser.add_argument("--evaluate", metavar="FILE", help="answer such a file with Transformers")
    parser.add_argument("--model", default=str(MODEL), help="the folder that --evaluate tests")
    parser.add_argument("--check", action="store_true", help="compare training with Transformers")
    parser.add_argument("--show", type=int, default=0, help="print so many wrong answers")
    args = parser.parse_args()
    if args.make_tokenizer:
        make_tokenizer(args)
    elif args.export:
        export(Trainer(args).model)
    elif args.write_eval:
        counts = {b: args.count or n for b, n in demo_eval.COUNTS.items()}
        demo_eval.write(args.write_eval, MODEL, args.seed, counts)
    elif args.evaluate:
        demo_eval.evaluate(args.evaluate, args.model, args.threads, args.show)
    elif args.check:
        check(args.model)
    else:
        train(args)


if __name__ == "__main__":
    main()
