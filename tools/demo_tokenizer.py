# SPDX-License-Identifier: Apache-2.0
"""rill-demo's tokenizer: a small byte-level BPE in exactly the form of Qwen3's tokenizer.json."""

import json
import random

import demo_stories
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
              "use_regex": False}
TOKENS = 1474  # without the 26 added ones


def corpus(seed):
    """Lines of stories, questions and answers, and every listed word in the forms it comes in."""
    rng = random.Random(f"tokenizer/{seed}")
    for _ in range(4000):
        world = demo_stories.make_story(rng, 150)
        yield demo_stories.plain(" ".join(world.sentences)) + "\n"
        for _ in range(4):
            _, question, thinking, answer = demo_stories.ask(rng, world)
            yield f"{question}\n\n{demo_stories.plain(thinking)}\n"
            yield demo_stories.plain(answer)
    for word in demo_stories.NAMES:
        yield from [word, " " + word] * 300
    for word in demo_stories.PLACES + demo_stories.THINGS:
        yield from [" " + word] * 600
    for text in demo_stories.SYSTEMS + demo_stories.OFF_TOPIC:
        yield from [text] * 20
    for answer, messages in demo_stories.CHAT:
        yield from messages * 20 + [answer] * 60
    yield from [demo_stories.OTHER] * 60
    yield from ["system", "user", "assistant", "\n\n"] * 100


def write(folder, seed):
    """Writes tokenizer.json; tokenizer_config.json (which holds Qwen3's template) is kept."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    bpe.train_from_iterator(corpus(seed), trainers.BpeTrainer(
        vocab_size=TOKENS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    trained = json.loads(bpe.to_str())["model"]
    config = json.loads((folder / "tokenizer_config.json").read_text())
    # The added tokens keep Qwen3's order and flags, and follow this vocabulary.
    added = [{"id": len(trained["vocab"]) + i} | token for i, token in
             enumerate(config["added_tokens_decoder"].values())]
    config["added_tokens_decoder"] = {
        str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added}
    config["model_max_length"] = 8192
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    data = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False},
            BYTE_LEVEL]},
        "post_processor": BYTE_LEVEL, "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False,
                  "byte_fallback": False, "ignore_merges": False, "vocab": trained["vocab"],
                  "merges": trained["merges"]}}
    (folder / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n")
