# SPDX-License-Identifier: Apache-2.0
"""Held-out questions for rill-demo, and their score with Transformers."""

import json
import lzma
import random
from pathlib import Path

import demo_stories

# Largest prompt in tokens -> questions in the fixed file; four share a story.
COUNTS = {128: 64, 256: 64, 512: 72, 1024: 40, 2048: 40, 4096: 40}


def conversation(rng, world):
    """(kind, messages, answer): a story with a question, at times after an earlier question."""
    story = demo_stories.plain(" ".join(world.sentences))
    kind, question, _, answer = demo_stories.ask(rng, world)
    answer = demo_stories.plain(answer)
    gap = rng.choice([" ", "\n\n"])
    if rng.random() < 0.15:
        _, earlier, _, told = demo_stories.ask(rng, world)
        return kind, [{"role": "user", "content": story + gap + earlier},
                      {"role": "assistant", "content": demo_stories.plain(told)},
                      {"role": "user", "content": question}], answer
    return kind, [{"role": "user", "content": story + gap + question}], answer


def items(tokenizer, seed, counts, thinking=True):
    """Yields the objects of the evaluation file. `tokenizer` has the chat template."""
    for bucket, count in counts.items():
        made, number = 0, 0
        while made < count:
            rng = random.Random(f"eval/{seed}/{bucket}/{number}")
            number += 1
            low = {128: 56}.get(bucket, bucket // 2)
            world = demo_stories.make_story(rng, rng.randint(low, bucket - 45), held_out=True)
            group = [conversation(rng, world) for _ in range(min(4, count - made))]
            prompts = [tokenizer.apply_chat_template(m, add_generation_prompt=True, tokenize=True,
                                                     return_dict=False) for _, m, _ in group]
            if not all(bucket // 2 < len(p) <= bucket for p in prompts):
                continue
            made += len(group)
            for kind, messages, answer in group:
                yield {"messages": messages, "answer": answer, "enable_thinking": thinking,
                       "kind": kind, "length_bucket": bucket}


def write(path, model, seed, counts, thinking):
    """Writes the file, compressed if its name ends in .xz."""
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(model)
    opener = lzma.open if str(path).endswith(".xz") else open
    with opener(path, "wt", encoding="utf-8") as out:
        for item in items(tokenizer, seed, counts, thinking):
            out.write(json.dumps(item) + "\n")


def evaluate(path, model, threads, thinking=None, batch=8):
    """Greedy answers in bfloat16; prints the score by length and by kind."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.padding_side = "left"
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    opener = lzma.open if str(path).endswith(".xz") else open
    with opener(path, "rt", encoding="utf-8") as lines:
        questions = [json.loads(line) for line in lines]
    score, wrong = {}, []
    for first in range(0, len(questions), batch):
        group = questions[first:first + batch]
        prompts = [tokenizer.apply_chat_template(
            q["messages"], add_generation_prompt=True, tokenize=False,
            enable_thinking=q["enable_thinking"] if thinking is None else thinking) for q in group]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            out = network.generate(**inputs, max_new_tokens=160, do_sample=False)
        for question, ids in zip(group, out[:, inputs["input_ids"].shape[1]:]):
            text = tokenizer.decode(ids, skip_special_tokens=True)
            right = text.split("</think>")[-1].strip() == question["answer"]
            if not right:
                wrong.append((question["length_bucket"], question["kind"], question["answer"], text))
            for key in (question["length_bucket"], question["kind"]):
                entry = score.setdefault(key, [0, 0])
                entry[0] += right
                entry[1] += 1
    for key, (right, asked) in sorted(score.items(), key=str):
        print(f"{key!s:>12}  {right:4} of {asked:4}  {100 * right / asked:5.1f} %")
    short = [score[b] for b in (128, 256, 512) if b in score]
    if short:
        right, asked = (sum(x) for x in zip(*short))
        print(f"{'up to 512':>12}  {right:4} of {asked:4}  {100 * right / asked:5.1f} %")
    for entry in wrong[:30]:
        print("wrong:", *entry, sep=" | ")
    return score
