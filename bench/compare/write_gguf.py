#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a Qwen3 checkpoint as published on Hugging Face (and as rill-make-model writes it) as GGUF.

llama.cpp's convert_hf_to_gguf.py does the same, but wants PyTorch and transformers; this needs the
packages numpy and gguf only. Names of tensors and keys: docs/gguf.md of the ggml project and
gguf.constants.MODEL_TENSORS[MODEL_ARCH.QWEN3].
"""
import argparse
import json
import lzma
import mmap
import struct
from pathlib import Path

import gguf
import numpy as np

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OTHER_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def gguf_name(name):
    """model.layers.3.mlp.up_proj.weight -> blk.3.ffn_up.weight"""
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{LAYER_NAMES[part]}.{kind}"


def read_safetensors(path):
    """Yields (name, array); BF16 comes as uint16."""
    types = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    (size,) = struct.unpack("<Q", data[:8])
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        dtype = np.dtype(types[entry["dtype"]])
        array = np.frombuffer(data, dtype, (end - begin) // dtype.itemsize, 8 + size + begin)
        yield name, array.reshape(entry["shape"])


def to_float(array):
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def add_tensors(writer, folder, to_type, tied):
    for path in sorted(folder.glob("*.safetensors")):
        for name, array in read_safetensors(path):
            if tied and name == "lm_head.weight":
                continue
            if array.ndim == 1:  # norms are fp32 in every GGUF file
                writer.add_tensor(gguf_name(name), to_float(array))
            elif to_type == "f16":
                writer.add_tensor(gguf_name(name), to_float(array).astype(np.float16))
            elif array.dtype == np.uint16:
                writer.add_tensor(gguf_name(name), array.view(np.uint8),
                                  raw_dtype=gguf.GGMLQuantizationType.BF16)
            else:
                raise SystemExit(f"{name} is {array.dtype}, expected BF16; write f16 instead")


def add_settings(writer, config):
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(float(config["rope_theta"]))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def read_tokenizer(folder):
    path = folder / "tokenizer.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    with lzma.open(folder / "tokenizer.json.xz", "rt", encoding="utf-8") as file:
        return json.load(file)


def add_tokenizer(writer, folder, vocab_size):
    tokenizer = read_tokenizer(folder)
    tokens = [f"[PAD{i}]" for i in range(vocab_size)]
    types = [gguf.TokenType.UNUSED] * vocab_size
    for text, index in tokenizer["model"]["vocab"].items():
        tokens[index], types[index] = text, gguf.TokenType.NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = (gguf.TokenType.CONTROL if added["special"]
                              else gguf.TokenType.USER_DEFINED)
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    template = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    writer.add_chat_template(template["chat_template"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="folder with config.json, *.safetensors, tokenizer")
    parser.add_argument("out", type=Path, help="the GGUF file to write")
    parser.add_argument("--type", choices=["f16", "bf16"], default="bf16", help="of the matrices")
    options = parser.parse_args()
    config = json.loads((options.model / "config.json").read_text(encoding="utf-8"))

    writer = gguf.GGUFWriter(options.out, "qwen3")
    writer.add_name(options.model.name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if options.type == "f16"
                         else gguf.LlamaFileType.MOSTLY_BF16)
    add_settings(writer, config)
    add_tokenizer(writer, options.model, config["vocab_size"])
    add_tensors(writer, options.model, options.type, config["tie_word_embeddings"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
