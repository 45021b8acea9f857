# SPDX-License-Identifier: Apache-2.0
"""Batches of story trees for training rill-demo: each story once, with many questions on it."""

from dataclasses import dataclass, field

import torch

import demo_model
import demo_stories

# Shape of a batch: (story, rows, width, stories in a batch); see demo_model.Layout.
SHAPES = {"still": (112, 4, 128, 8), "96": (96, 4, 128, 8), "160": (160, 4, 128, 8),
          "288": (288, 4, 128, 7), "544": (544, 5, 128, 5), "1056": (1056, 5, 128, 3),
          "2080": (2080, 6, 128, 2)}
STORY_WEIGHT = 0.5  # of the story's own predictable words, against 1 for the answers
MATCH_WEIGHT = 3.0  # of the mark after a word that was, or was not, the one asked about


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def last_index(items, item):
    return len(items) - 1 - items[::-1].index(item)


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
        words = demo_stories.NAMES + demo_stories.PLACES + demo_stories.THINGS
        self.word_ids = {word: tokenizer.token_to_id("Ġ" + word) for word in words}
        self.entities = set(self.word_ids.values())
        self.name_ids = torch.tensor([self.word_ids[name] for name in demo_stories.NAMES])
        self.entity_ids = torch.tensor(sorted(self.entities))
        self.compare = self.lists = self.held = True
        self.with_or_in = {tokenizer.token_to_id("Ġwith"), tokenizer.token_to_id("Ġin")}
        self.comma = tokenizer.token_to_id(",")

    def encode(self, text):
        return encode(self.tokenizer, text)

    def encode_marked(self, text):
        """(ids, [(index of a marked word, whose fact it is or "")])."""
        ids, marks, at = [], [], 0
        for mark in demo_stories.MARK.finditer(text):
            ids += self.encode(text[at:mark.start()])
            marks.append((len(ids), mark[3]))
            ids += self.encode(mark[1] + mark[2])
            at = mark.end()
        return ids + self.encode(text[at:]), marks

    def hinted(self, token):
        return self.held or token not in self.with_or_in

    def story(self, world, start):
        """(ids, weights, hints, facts, tellings) of a story from token `start`, its last mark cut.

        A hint is (index of a word to predict, index of the token that told the fact, whose fact);
        `facts` maps each person and thing to the token that told its last fact: the last name,
        place or thing of the sentence, where all of it is known. `tellings` lists all such
        tokens, each with the id of its fact.
        """
        ids, weights, hints, facts, tellings = [], [], [], {}, []
        for i, (sentence, key) in enumerate(zip(world.sentences, world.keys)):
            text = " " * (i > 0) + sentence
            piece, marks = self.encode_marked(text[:-1] if i + 1 == len(world.sentences) else text)
            piece_weights = [0.0] * len(piece)
            for index, whose in marks:
                piece_weights[index] = STORY_WEIGHT
                if whose in facts and self.hinted(piece[index]):
                    hints.append((start + len(ids) + index, facts[whose], whose))
            if key:
                last = max(j for j, token in enumerate(piece) if token in self.entities)
                facts[key] = start + len(ids) + last
                tellings.append((facts[key], self.word_ids[world.values[i]]))
            ids += piece
            weights += piece_weights
        return ids, weights, hints, facts, tellings

    def prefix(self, rng, size, still):
        """(world or None, ids, weights, hints, facts, tellings) of what a tree's branches share."""
        system = ""
        if rng.random() < 0.15:
            system = turn("system", rng.choice(demo_stories.SYSTEMS))
        head = self.encode(system + "<|im_start|>user\n")
        if rng.random() < 0.04:
            return None, head, [0.0] * len(head), [], {}, []
        budget = size - len(head) - 24
        target = budget if rng.random() < 0.4 else rng.randint(budget // 2, budget)
        recap_rate = rng.choice([0.0, 0.2, 0.4])
        while True:
            world = (demo_stories.make_still(rng) if still else
                     demo_stories.make_story(rng, target, recap_rate=recap_rate))
            ids, weights, *rest = self.story(world, len(head))
            if len(head) + len(ids) <= size:
                return world, head + ids, [0.0] * len(head) + weights, *rest
            target -= 12

    def branch(self, rng, world):
        """(kind, context ids, target ids, marks in the target) of one question."""
        think = rng.random() < 0.6
        if world is None:
            kind, question, thinking, answer = demo_stories.small_talk(rng)
            context = question
        else:
            kind, question, thinking, answer = demo_stories.ask(rng, world)
            context = "." + separator(rng)
            if rng.random() < 0.15:
                _, earlier, _, told = demo_stories.ask(rng, world)
                context += (f"{earlier}<|im_end|>\n" + turn("assistant", demo_stories.plain(told))
                            + "<|im_start|>user\n")
            elif rng.random() < 0.02:
                question, thinking, answer = "Thank you.", "Thanks.", demo_stories.THANKS
                kind = "chat"
            context += question
        if not self.compare:
            thinking = thinking.replace(", yes", "")
        given, target = reply(thinking, demo_stories.plain(answer) if think else answer, think)
        return ((kind, think), self.encode(f"{context}<|im_end|>\n{given}"),
                *self.encode_marked(target))

    def batch(self, rng, shape):
        """A Batch; deterministic in `rng`."""
        story, rows, width, count = SHAPES[shape]
        total = story + rows * width
        batch = Batch(torch.zeros(count, total, dtype=torch.long),
                      torch.zeros(count, total, dtype=torch.long), torch.zeros(count, total))
        owner = torch.full((count, rows, width), -1)
        length = torch.zeros(count, dtype=torch.long)
        for b in range(count):
            world, prefix, weights, hints, facts, tellings = self.prefix(
                rng, story, shape == "still")
            batch.tellings += [(b, at, value) for at, value in tellings]
            n = length[b] = len(prefix)
            batch.ids[b, :n], batch.positions[b, :n] = torch.tensor(prefix), torch.arange(n)
            batch.weights[b, :n] = torch.tensor(weights)
            hints = list(hints)
            used, misses, number = [0] * rows, 0, 0
            while misses < 4:
                key, context, target, marks = self.branch(rng, world)
                size = len(context) + len(target)
                row = next((r for r in range(rows) if used[r] + size <= width), None)
                if row is None:
                    misses += 1
                    continue
                at = story + row * width + used[row]
                first = at + len(context)
                batch.ids[b, at:at + size] = torch.tensor(context + target)
                batch.positions[b, at:at + size] = torch.arange(n, n + size)
                batch.weights[b, first:at + size] = 1.0
                owner[b, row, used[row]:used[row] + size] = number
                batch.spans.append((key, b, first, at + size))
                for i, mark in marks:
                    mark, listed, after = mark.partition(">")
                    whose, compared, asked = mark.partition("=")
                    if listed and self.lists:
                        # Two tokens ask for it: the one that ends the line or not, and the one
                        # before the next item: the full stop of a line, or "The" for a thing.
                        told = prefix.index(self.word_ids[after]) if after else 0
                        counted = 2 * (target[i + 1] == self.comma)
                        batch.lists.append((b, first + i + counted, told))
                        if after:
                            more = counted + 1 + (after in world.things)
                            batch.lists.append((b, first + i + more, told))
                    if whose in facts and self.hinted(target[i]):
                        hints.append((first + i, facts[whose], whose))
                    if compared and self.compare:
                        batch.weights[b, first + i + 1] = MATCH_WEIGHT
                        named = (at + last_index(context, self.word_ids[asked])) if asked else 0
                        batch.matches.append((b, first + i, named))
                used[row] += size
                number += 1
            batch.hints += [(b, at - 1, told, self.word_ids[whose]) for at, told, whose in hints]
        batch.length = length
        batch.layout = demo_model.Layout(story, rows, width, tree_mask(owner, length, story))
        return batch


@dataclass
class Batch:
    """`spans`: (branch key, row, first, last + 1) of each answer; `hints`: (row, token from which
    a word is predicted, token that told it, id of the name or thing whose fact it is);
    `matches`: (row, token of a word in the thinking, the same word's token in the question, or 0
    if the question named another); `lists`: (row, token after which a list goes on or ends, the
    next item's first token in the story, or 0 at the end); `tellings`: (row, token that told a
    fact, id of the fact)."""

    ids: torch.Tensor
    positions: torch.Tensor
    weights: torch.Tensor
    spans: list = field(default_factory=list)
    hints: list = field(default_factory=list)
    matches: list = field(default_factory=list)
    lists: list = field(default_factory=list)
    tellings: list = field(default_factory=list)
    length: torch.Tensor = None
    layout: demo_model.Layout = None


def tree_mask(owner, length, story):
    """The additive mask of Layout from the branch number of each row token. [owner -1: padding]"""
    count, rows, width = owner.shape
    seen = (torch.arange(story) < length[:, None])[:, None, None, :].expand(-1, rows, width, -1)
    own = (owner[:, :, :, None] == owner[:, :, None, :]) & torch.ones(width, width).tril().bool()
    mask = torch.cat([seen, own], -1)
    mask = torch.zeros(mask.shape, dtype=torch.bfloat16).masked_fill(~mask, -torch.inf)
    return mask[:, None, :, None]
