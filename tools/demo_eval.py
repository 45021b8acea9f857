# SPDX-License-Identifier: Apache-2.0
"""Held-out questions for rill-demo, and their score with Transformers."""

import json
import lzma
import random

import demo_stories

# Largest prompt in tokens -> questions; four share a story, each is asked in both modes.
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


def items(tokenizer, seed, counts):
    """Yields the objects of the file. `tokenizer` has the chat template; lengths are in its tokens
    and include the template."""
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
                for thinking in (True, False):
                    yield {"messages": messages, "answer": answer, "enable_thinking": thinking,
                           "kind": kind, "length_bucket": bucket}


def write(path, model, seed, counts):
    """Writes the file, compressed if its name ends in .xz."""
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(model)
    opener = lzma.open if str(path).endswith(".xz") else open
    with opener(path, "wt", encoding="utf-8") as out:
        for item in items(tokenizer, seed, counts):
            out.write(json.dumps(item) + "\n")


def read(path):
    opener = lzma.open if str(path).endswith(".xz") else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def answers(model, questions, threads, batch=8):
    """Greedy answers in bfloat16, thinking included, in the order of the questions."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.padding_side = "left"
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    for first in range(0, len(questions), batch):
        prompts = [tokenizer.apply_chat_template(
            q["messages"], add_generation_prompt=True, tokenize=False,
            enable_thinking=q["enable_thinking"]) for q in questions[first:first + batch]]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            out = network.generate(**inputs, max_new_tokens=160, do_sample=False)
        for ids in out[:, inputs["input_ids"].shape[1]:]:
            yield tokenizer.decode(ids, skip_special_tokens=True)


def evaluate(path, model, threads, show):
    """Prints the scores by length and by kind, with and without thinking, and `show` mistakes."""
    questions = read(path)
    questions.sort(key=lambda q: (not q["enable_thinking"], q["length_bucket"]))
    score, wrong = {}, []
    for question, text in zip(questions, answers(model, questions, threads)):
        right = text.split("</think>")[-1].strip() == question["answer"]
        if not right:
            wrong.append((question["length_bucket"], question["kind"], question["answer"], text))
        groups = [question["length_bucket"], question["kind"]]
        if question["length_bucket"] <= 512:
            groups.append("up to 512")
        for group in groups:
            entry = score.setdefault(group, [[0, 0], [0, 0]])[not question["enable_thinking"]]
            entry[0] += right
            entry[1] += 1
    print(f"{'':>12}  {'thinking':>20}  {'without':>20}")
    for group in sorted(score, key=lambda g: (isinstance(g, str), g)):
        cells = [f"{r:4}/{n:<4} {100 * r / max(n, 1):5.1f} %" for r, n in score[group]]
        print(f"{group!s:>12}  {cells[0]:>20}  {cells[1]:>20}")
    for entry in wrong[:show]:
        print("wrong:", *(str(x).replace("\n", " ") for x in entry), sep=" | ")
